//! VFs of our card in guests with stock igbvf: our PF driver and our mediator in charge.

mod address;
mod away;
mod diagnosis;
mod filters;
mod guest;
mod life;
mod link;
mod rate;
pub(in crate::vm) mod soak;
mod spoof;
mod traffic;
mod vlan;
mod world;

use std::time::Instant;

use anyhow::Result;

use self::world::{Plan, World};
use super::unknown::known_registers;
use crate::report::Report;
use crate::vm::scenario::Stage;

/// What a step does; an error is a step that could not be carried through.
type Step = fn(&mut World<'_>, &mut Report) -> Result<()>;

/// What the guests' kernels may say during a step.
type Expected = &'static [&'static str];

const SMOKE: &[(&str, Step, Expected)] = &[
    ("address", address::at_probe, &[]),
    ("address refused", address::refused, &[]),
    ("ping", traffic::pings, &[]),
    ("spoof", spoof::source, &[]),
    ("link state", link::state, &[]),
    ("ethtool", diagnosis::ethtool, &[]),
];

const ALL: &[(&str, Step, Expected)] = &[
    ("address", address::at_probe, &[]),
    ("address chosen", address::chosen_stays, &[]),
    ("address refused", address::refused, &[]),
    ("address trusted", address::trusted, &[]),
    (
        "address changed",
        address::changed_by_the_administrator,
        &[],
    ),
    ("ping", traffic::pings, &[]),
    ("iperf3", traffic::iperf, &[]),
    ("vlan", vlan::tagged, &[]),
    ("port vlan", vlan::port, &[]),
    ("multicast", filters::multicast, &[]),
    ("promiscuous", filters::promiscuous, &[]),
    ("jumbo", filters::jumbo, &[]),
    ("longest", filters::longest, &[]),
    ("link state", link::state, &[]),
    ("cable", link::cable, &[]),
    ("ethtool", diagnosis::ethtool, &[]),
    ("rate", rate::limit, &[]),
    ("spoof", spoof::source, &[]),
    ("spoofed vlan", spoof::vlan, &[]),
    ("by hand", life::by_hand, &[]),
    ("reload", life::reloads, &[]),
    ("reboot", life::reboot, &[]),
    ("kill", life::killed, &[]),
    ("PF driver back in time", away::back_in_time, &[]),
    ("eject", away::ejected, away::GONE),
    ("PF driver too late", away::too_late, away::GONE),
];

/// The short run.
pub(in crate::vm) fn smoke(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let plan = Plan {
        hosts: false,
        grace: "10",
        traced: true,
    };
    let outcome = run(stage, report, plan, SMOKE);
    // The same bodies as in the long run, under the name of this one.
    let renamed = |name: &mut String| *name = name.replacen("vm/vf/", "vm/vf-smoke/", 1);
    for check in &mut report.checks {
        renamed(&mut check.name);
    }
    for left_out in &mut report.not_applicable {
        renamed(&mut left_out.name);
    }
    outcome
}

/// Everything.
pub(in crate::vm) fn full(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let plan = Plan {
        hosts: true,
        grace: "10",
        traced: false,
    };
    run(stage, report, plan, ALL)
}

fn run(
    stage: &Stage<'_>,
    report: &mut Report,
    plan: Plan,
    steps: &[(&str, Step, Expected)],
) -> Result<()> {
    let begin = Instant::now();
    let mut world = World::start(stage, plan)?;
    let started = world.set_up();
    if started.is_err() {
        world.quote();
    }
    started?;
    println!("   vf: everything runs: {:.1?}", begin.elapsed());
    for (name, step, expected) in steps {
        let begin = Instant::now();
        let failed = report.failures().count();
        if let Err(error) = step(&mut world, report) {
            report.check(format!("vm/vf/{name}"), false, format!("{error:#}"));
        }
        world.judge_kernels(report, &format!("vm/vf/{name}"), expected)?;
        println!("   vf: {name}: {:.1?}", begin.elapsed());
        if report.failures().count() > failed {
            world.quote();
        }
    }
    if !plan.traced {
        return world.stop();
    }
    let name = "vm/vf/igbvf touches no register that the card does not know";
    report.outcome(name, known_registers(&world.stop_traced()?, "vf0"));
    Ok(())
}
