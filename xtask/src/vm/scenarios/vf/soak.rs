//! Minutes of traffic while an administrator changes his mind and guests reset their VFs, at random
//! from a printed seed; and what our programs hold before and after.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::guest::{Guest, LINK_LIMIT, Throughput};
use super::world::{LEFT, LEFT_MAC, Plan, RIGHT, RIGHT_MAC, World};
use crate::report::Report;
use crate::rig::{PF_ADDRESS, vf_address};
use crate::usage::{Tolerance, Usage};
use crate::vm::scenario::Stage;

/// Overrides how long it runs, in seconds.
const SECONDS_VARIABLE: &str = "TANDEM_SOAK_SECONDS";
/// Repeats a run: the seed that it printed.
const SEED_VARIABLE: &str = "TANDEM_SOAK_SEED";
const SECONDS: u64 = 600;
/// Before the first look at what programs hold: one part in so many of the whole.
const WARM_UP: u32 = 5;
/// Seconds of one run of iperf3; another follows.
const RUN: u64 = 5;
/// Changes between two moments in which everything must work.
const CHANGES: u32 = 8;
/// Between two changes.
const PAUSE: (u64, u64) = (200, 2000);
/// Each connection and worker of a moment costs something, and an allocator keeps what it once had.
const TOLERANCE: Tolerance = Tolerance {
    fds: 4,
    maps: 24,
    threads: 3,
    pss_kib: 8 * 1024,
};
const PORTS: [&str; 3] = ["5301", "5302", "5303"];

/// What is thrown for each change; a seed repeats it.
struct Dice(StdRng);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0.random_range(0..most)
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.0.random_range(0..words.len())]
    }
}

fn number(variable: &str) -> Result<Option<u64>> {
    std::env::var(variable)
        .ok()
        .map(|text| {
            text.parse()
                .with_context(|| format!("{variable} is {text:?}, not a number"))
        })
        .transpose()
}

/// The scenario.
pub(in crate::vm) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let seconds = number(SECONDS_VARIABLE)?.unwrap_or(SECONDS);
    let seed = match number(SEED_VARIABLE)? {
        Some(seed) => seed,
        None => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)?
            .as_secs(),
    };
    println!("   soak: {seconds} s, seed {seed} ({SEED_VARIABLE}={seed} repeats it)");
    let plan = Plan {
        hosts: true,
        grace: "10",
        traced: false,
    };
    let mut world = World::start(stage, plan)?;
    world.set_up()?;
    let outcome = soak(&mut world, report, Duration::from_secs(seconds), seed);
    if outcome.is_err() || report.failures().next().is_some() {
        world.quote();
        println!("   soak: {SEED_VARIABLE}={seed} repeats these changes");
    }
    outcome?;
    world.stop()
}

/// What the traffic came to.
#[derive(Default)]
struct Tally {
    runs: AtomicU32,
    broken: AtomicU32,
}

fn soak(world: &mut World<'_>, report: &mut Report, time: Duration, seed: u64) -> Result<()> {
    for guest in [world.left()?, world.right()?] {
        serve(guest)?;
    }
    if let Ok(pf) = &mut world.pf {
        pf.serve(world.stage, &PORTS)?;
    }
    let over = AtomicBool::new(false);
    let tally = Tally::default();
    let mut warm = None;
    let mut dice = Dice::new(seed);
    let mut changes = 0;
    let begin = Instant::now();
    let mut left = world.left.take().context("the left guest is not running")?;
    let mut right = world
        .right
        .take()
        .context("the right guest is not running")?;
    let agents = (left.vm.agent().clone(), right.vm.agent().clone());
    let programs = world.rig.usage()?;
    println!("   soak: at the start: {}", told(&programs));
    let outcome = std::thread::scope(|scope| -> Result<()> {
        let flow = |agent, address: String, port, more: &'static [&'static str]| {
            let (over, tally) = (&over, &tally);
            scope.spawn(move || flow(agent, &address, port, more, over, tally));
        };
        flow(&agents.0, vf_address(RIGHT), PORTS[0], &["--bidir"]);
        if world.pf.is_ok() {
            flow(&agents.0, PF_ADDRESS.into(), PORTS[1], &["--bidir"]);
            flow(
                &agents.1,
                PF_ADDRESS.into(),
                PORTS[2],
                &["--bidir", "-u", "-b", "5M", "-l", "1400"],
            );
        }
        let mut one_after_the_other = || -> Result<()> {
            while begin.elapsed() < time {
                for _ in 0..CHANGES {
                    let what = change(world, &mut dice, &mut left, &mut right)?;
                    changes += 1;
                    log_change(begin, &what);
                    let pause = PAUSE.0 + dice.below(PAUSE.1 - PAUSE.0);
                    std::thread::sleep(Duration::from_millis(pause));
                    if begin.elapsed() >= time {
                        break;
                    }
                }
                settle(world, &left, &right)
                    .with_context(|| format!("after {changes} changes, {:.0?}", begin.elapsed()))?;
                if warm.is_none() && begin.elapsed() >= time / WARM_UP {
                    let held = world.rig.usage()?;
                    println!("   soak: warm: {}", told(&held));
                    warm = Some(held);
                }
            }
            Ok(())
        };
        let outcome = one_after_the_other();
        over.store(true, Ordering::SeqCst);
        outcome
    });
    (world.left, world.right) = (Some(left), Some(right));
    report.outcome(
        "vm/soak/no guest hangs",
        outcome.map(|()| format!("{changes} changes in {:.0?}, seed {seed}", begin.elapsed())),
    );
    let (runs, broken) = (
        tally.runs.load(Ordering::SeqCst),
        tally.broken.load(Ordering::SeqCst),
    );
    report.check(
        "vm/soak/traffic went on",
        runs > broken,
        format!("{runs} runs of iperf3, {broken} of them cut by a change"),
    );
    world.judge_kernels(report, "vm/soak", &[])?;
    let held = world.rig.usage()?;
    println!("   soak: at the end: {}", told(&held));
    let warm = warm.context("the run was too short for a warm-up")?;
    for ((name, before), (_, after)) in warm.iter().zip(&held) {
        let growth = after.growth(before, &TOLERANCE);
        report.check(
            format!("vm/soak/no leak in {name}"),
            growth.is_empty(),
            format!("warm: {before}; at the end: {after} {}", growth.join("; ")),
        );
    }
    Ok(())
}

fn told(usage: &[(String, Usage)]) -> String {
    let words: Vec<_> = usage
        .iter()
        .map(|(name, usage)| format!("{name}: {usage}"))
        .collect();
    words.join("; ")
}

fn log_change(begin: Instant, what: &str) {
    println!("   soak: {:6.1} s {what}", begin.elapsed().as_secs_f32());
}

/// Servers for the flows: each serves one client at a time, and gives one up that fell silent.
fn serve(guest: &Guest) -> Result<()> {
    for port in PORTS {
        let words = ["iperf3", "-s", "-p", port, "--rcv-timeout", "5000"];
        guest.vm.agent().spawn(&words)?;
    }
    Ok(())
}

/// One run of iperf3 after the other. A run that a change cuts is counted; what must not be is one
/// that never ends.
fn flow(
    agent: &crate::vm::Agent,
    address: &str,
    port: &str,
    more: &[&str],
    over: &AtomicBool,
    tally: &Tally,
) {
    let time = RUN.to_string();
    let mut words = vec!["iperf3", "-J", "-c", address, "-p", port, "-t", &time];
    words.extend(["--connect-timeout", "3000", "--rcv-timeout", "5000"]);
    words.extend(more);
    while !over.load(Ordering::SeqCst) {
        let begin = Instant::now();
        let done = agent.exec(&words, Duration::from_secs(RUN + 20));
        let got: Result<Throughput> = done.and_then(|done| super::guest::throughput(&done.stdout));
        tally.runs.fetch_add(1, Ordering::SeqCst);
        if got.is_err() {
            tally.broken.fetch_add(1, Ordering::SeqCst);
            // Refused at once: the server has not given the last client up.
            let rest = Duration::from_secs(1).saturating_sub(begin.elapsed());
            std::thread::sleep(rest);
        }
    }
}

/// Makes one change; what it was.
fn change(
    world: &World<'_>,
    dice: &mut Dice,
    left: &mut Guest,
    right: &mut Guest,
) -> Result<String> {
    let (vf, guest) = if dice.below(2) == 0 {
        (LEFT, left)
    } else {
        (RIGHT, right)
    };
    let set = |what: &str, value: &str| -> Result<String> {
        world.set(vf, what, value)?;
        Ok(format!("vf {vf} {what} {value}"))
    };
    let done = Cell::new(String::new());
    let reset = |words: &str| done.set(format!("vf {vf} {words}"));
    match dice.below(11) {
        0 => {
            let last = dice.below(4);
            return set("mac", &format!("02:82:57:60:{:02x}:{last:02x}", 0x20 + vf));
        }
        1 => return set("vlan", dice.of(&["0", "77", "78"])),
        2 => return set("rate", dice.of(&["0", "20", "100", "1000"])),
        3 => return set("spoofchk", dice.of(&["on", "off"])),
        4 => return set("trust", dice.of(&["on", "off"])),
        5 | 6 => return set("state", dice.of(&["auto", "enable", "disable"])),
        7 | 8 => {
            guest.bounce(0)?;
            reset("igbvf down and up");
        }
        9 => {
            flr(guest)?;
            reset("FLR");
        }
        _ => {
            guest.unload()?;
            guest.load()?;
            configure(guest, vf)?;
            reset("igbvf reloaded");
        }
    }
    Ok(done.take())
}

/// Function level reset, as the kernel does it for anybody who asks sysfs.
fn flr(guest: &Guest) -> Result<()> {
    let device = guest.link(0)?.device.context("no device behind igbvf")?;
    let path = format!("/sys/bus/pci/devices/{device}/reset");
    guest.vm.agent().write_file(&path, b"1", 0o200)
}

fn configure(guest: &Guest, vf: u16) -> Result<()> {
    let (interface, address) = (guest.interface(0)?, vf_address(vf));
    guest.ip(&format!("address replace {address}/24 dev {interface}"))?;
    guest.ip(&format!("link set dev {interface} up"))?;
    Ok(())
}

/// Everything as at the start; then everything must work.
fn settle(world: &World<'_>, left: &Guest, right: &Guest) -> Result<()> {
    for (vf, guest, mac) in [(LEFT, left, LEFT_MAC), (RIGHT, right, RIGHT_MAC)] {
        for (what, value) in [
            ("vlan", "0"),
            ("rate", "0"),
            ("spoofchk", "on"),
            ("trust", "off"),
            ("state", "auto"),
            ("mac", mac),
        ] {
            world.set(vf, what, value)?;
        }
        guest.bounce(0)?;
        configure(guest, vf)?;
        guest.carrier(0, true)?;
        let has = guest.link(0)?.mac;
        ensure!(has == mac, "VF {vf}: the guest has {has}, not {mac}");
    }
    left.ip("neigh flush all")?;
    right.ip("neigh flush all")?;
    left.reaches(&vf_address(RIGHT), LINK_LIMIT)?;
    left.reaches(PF_ADDRESS, LINK_LIMIT)?;
    right.reaches(PF_ADDRESS, LINK_LIMIT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_changes() {
        let throw = |seed| {
            let mut dice = Dice::new(seed);
            (0..100).map(|_| dice.below(11)).collect::<Vec<_>>()
        };
        assert_eq!(throw(7), throw(7));
        assert_ne!(throw(7), throw(8));
        // Every kind of change comes.
        let mut kinds = throw(7);
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 11);
    }
}
