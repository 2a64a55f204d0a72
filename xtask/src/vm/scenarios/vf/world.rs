//! The world of the VF scenarios: our card, mediator and PF driver as processes, two guests with
//! stock igbvf on the VFs, and the kernel's own stack behind the PF and behind the uplink where this
//! system lets us make TAPs.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::guest::{self, Guest, IPERF_PORT, Throughput};
use crate::netns::Namespace;
use crate::report::Report;
use crate::rig::{CALL_LIMIT, PF_ADDRESS, Rig, RigOptions, vf_address};
use crate::vm::scenario::Stage;

/// The VFs: the left guest has the first two, the right guest the third.
pub(super) const LEFT: u16 = 0;
/// A VF to which nobody gives an address.
pub(super) const NAMELESS: u16 = 1;
pub(super) const RIGHT: u16 = 2;
const VFS: u16 = 3;
/// The addresses that the administrator gives.
pub(super) const LEFT_MAC: &str = "02:82:57:60:0a:00";
pub(super) const RIGHT_MAC: &str = "02:82:57:60:0a:02";
/// The host behind the card's port.
pub(super) const WIRE_ADDRESS: &str = "10.82.0.100";
/// VLANs that the guests may join.
pub(super) const ALLOWED_VLANS: [u16; 3] = [100, 200, 201];
/// How long something that a program does by itself may take to show.
pub(super) const SETTLE: Duration = Duration::from_secs(20);
/// How many of a kernel's last words on igbvf a failure shows.
const KERNEL_LINES: usize = 6;
/// How many requests that were not granted it shows.
const AUDIT_LINES: usize = 8;
/// How long a capture waits for frames that must come, and for those that must not.
const ALL: Duration = Duration::from_secs(20);
const SOME: Duration = Duration::from_secs(5);
/// Between two looks at something that nothing announces.
const LOOK: Duration = Duration::from_millis(50);

/// The kernel's stack on the other side of a TAP of the card or of the PF driver.
pub(super) struct Host {
    pub(super) namespace: Arc<Namespace>,
    pub(super) interface: &'static str,
    pub(super) address: &'static str,
    servers: Vec<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // `timeout` hands it on to what it runs; SIGKILL would not.
            let pid = Pid::from_raw(i32::try_from(server.id()).unwrap_or(0));
            if pid.as_raw() > 0 {
                let _ = kill(pid, Signal::SIGTERM);
            }
            let _ = server.wait();
        }
    }
}

impl Host {
    fn new(interface: &'static str, address: &'static str) -> Result<Self, String> {
        if let Some(reason) = Namespace::tap_reason() {
            return Err(reason);
        }
        let namespace = Namespace::new().map_err(|forbidden| forbidden.to_string())?;
        Ok(Self {
            namespace: Arc::new(namespace),
            interface,
            address,
            servers: Vec::new(),
        })
    }

    /// Sets the interface up, which its program has made.
    fn set_up(&self) -> Result<()> {
        let Self {
            interface, address, ..
        } = self;
        let address = format!("{address}/24");
        let lines = [
            format!("link set dev {interface} addrgenmode none mtu 9000"),
            format!("address replace {address} dev {interface}"),
            format!("link set dev {interface} up"),
        ];
        for line in lines {
            let words: Vec<_> = line.split_whitespace().collect();
            self.namespace.ip(&words)?;
        }
        Ok(())
    }

    /// iperf3 inside the namespace, ended after `limit` seconds, and with this process: one left
    /// behind would hold the namespace and whatever it inherited.
    fn iperf3(&self, stage: &Stage<'_>, limit: &str, words: &[&str]) -> Result<Command> {
        let tool = stage.host_tool("iperf3")?;
        let mut command = self.namespace.command("setpriv");
        command.args(["--pdeathsig", "TERM", "timeout", "--kill-after=2", limit]);
        command.arg(tool.get_program()).args(tool.get_args());
        let given =
            |(name, value): (&OsStr, Option<&OsStr>)| Some((name.to_owned(), value?.to_owned()));
        command.args(words).envs(tool.get_envs().filter_map(given));
        Ok(command)
    }

    /// Starts servers of iperf3; returns when they listen.
    pub(super) fn serve(&mut self, stage: &Stage<'_>, ports: &[&str]) -> Result<()> {
        for port in ports {
            let mut command =
                self.iperf3(stage, "7200", &["-s", "-p", port, "--rcv-timeout", "5000"])?;
            let quiet = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            self.servers.push(quiet.spawn().context("starting iperf3")?);
            let socket = format!(":{port} ");
            until("the server of iperf3 listens", SETTLE, || {
                Ok(self.namespace.run("ss", &["-Hltn"])?.contains(&socket))
            })?;
        }
        Ok(())
    }

    /// The program that made the interface was started anew: so is the interface. The server, bound
    /// to no interface, goes on.
    pub(super) fn again(&self) -> Result<()> {
        self.set_up()
    }

    /// Runs iperf3 from here against a guest.
    pub(super) fn iperf(
        &self,
        stage: &Stage<'_>,
        address: &str,
        seconds: u64,
        more: &[&str],
    ) -> Result<Throughput> {
        let time = seconds.to_string();
        let mut words = vec!["-J", "-c", address, "-p", IPERF_PORT, "-t", &time];
        words.extend(["--connect-timeout", "10000"]);
        words.extend(more);
        let limit = (seconds + 60).to_string();
        let mut command = self.iperf3(stage, &limit, &words)?;
        guest::once_it_listens(|| {
            let output = command.output().context("running iperf3")?;
            guest::throughput(&String::from_utf8_lossy(&output.stdout)).with_context(|| {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                format!("iperf3 {}: {said}", words.join(" "))
            })
        })
    }
}

/// Everything that runs.
pub(in crate::vm::scenarios) struct World<'a> {
    pub(super) stage: &'a Stage<'a>,
    // Guests end before what serves their devices.
    pub(super) left: Option<Guest>,
    pub(super) right: Option<Guest>,
    pub(super) rig: Rig,
    /// Behind the card's port; the reason, if nothing can be there.
    pub(super) wire: Result<Host, String>,
    /// The PF as the kernel's interface; the reason why it is a stack of the driver's own instead.
    pub(super) pf: Result<Host, String>,
}

/// What a world is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Whether the kernel's stack stands behind the PF and behind the uplink.
    pub(super) hosts: bool,
    /// Seconds for which the card keeps VFs without a PF driver.
    pub(super) grace: &'static str,
    /// Whether the card traces every access.
    pub(super) traced: bool,
}

impl<'a> World<'a> {
    /// Starts everything; the guests boot together and load igbvf.
    pub(super) fn start(stage: &'a Stage<'a>, plan: Plan) -> Result<Self> {
        let host = |interface, address| {
            if plan.hosts {
                Host::new(interface, address)
            } else {
                Err("left out of the short run".to_owned())
            }
        };
        let wire = host("wire0", WIRE_ADDRESS);
        let pf = host("pf0", PF_ADDRESS);
        let mut card_arguments: Vec<String> = vec!["--pf-grace".into(), plan.grace.into()];
        if let Ok(wire) = &wire {
            card_arguments.extend(["--uplink".into(), format!("tap:{}", wire.interface)]);
        }
        let mut rig = Rig::new(RigOptions {
            programs: stage.programs.into(),
            vfs: VFS,
            policy: json!({
                "vfs": {
                    "0": {"mac": LEFT_MAC, "allowed_vlans": ALLOWED_VLANS},
                    "1": {"assign_mac": false, "max_mtu": 1500},
                    "2": {"mac": RIGHT_MAC, "allowed_vlans": ALLOWED_VLANS},
                }
            }),
            capture: false,
            card_arguments,
        })?;
        rig.set_pf_arguments(&["--mtu", "9000"]);
        if let Ok(wire) = &wire {
            rig.run_inside("card", Arc::clone(&wire.namespace));
        }
        if let Ok(pf) = &pf {
            rig.run_inside("pf", Arc::clone(&pf.namespace));
            rig.set_pf_netdev(&format!("tap:{}", pf.interface));
        }
        let mut world = Self {
            stage,
            left: None,
            right: None,
            rig,
            wire,
            pf,
        };
        if plan.traced {
            world.rig.trace_card();
        }
        world.rig.start_card()?;
        world.rig.start_mediator()?;
        world.rig.start_pf()?;
        if let Ok(wire) = &mut world.wire {
            wire.set_up()?;
            wire.serve(stage, &[IPERF_PORT])?;
        }
        if let Ok(pf) = &mut world.pf {
            pf.set_up()?;
            pf.serve(stage, &[IPERF_PORT])?;
        }
        world.boot_both()?;
        Ok(world)
    }

    fn boot_both(&mut self) -> Result<()> {
        let (left, right) = (self.left_sockets(), vec![self.rig.vf_socket(RIGHT)]);
        let stage = self.stage;
        let boot = |name, sockets: Vec<PathBuf>| -> Result<Guest> {
            let mut guest = Guest::boot(stage, name, &sockets)?;
            guest.load()?;
            Ok(guest)
        };
        let (left, right) = std::thread::scope(|scope| {
            let left = scope.spawn(|| boot("left", left));
            let right = boot("right", right);
            let left = left
                .join()
                .unwrap_or_else(|_| bail!("booting a guest panicked"));
            (left, right)
        });
        self.left = Some(left?);
        self.right = Some(right?);
        Ok(())
    }

    /// The sockets of the left guest's VFs.
    pub(super) fn left_sockets(&self) -> Vec<PathBuf> {
        [LEFT, NAMELESS].map(|vf| self.rig.vf_socket(vf)).into()
    }

    /// Gives both guests their addresses and waits for links; servers for iperf3 run.
    pub(super) fn set_up(&self) -> Result<()> {
        for (guest, vf) in [(self.left()?, LEFT), (self.right()?, RIGHT)] {
            guest.set_up(0, &vf_address(vf))?;
            guest.serve_iperf()?;
        }
        Ok(())
    }

    /// The left guest.
    pub(super) fn left(&self) -> Result<&Guest> {
        self.left.as_ref().context("the left guest is not running")
    }

    /// The right guest.
    pub(super) fn right(&self) -> Result<&Guest> {
        self.right
            .as_ref()
            .context("the right guest is not running")
    }

    /// `pf-driver ctl vf VF WHAT VALUE`.
    pub(super) fn set(&self, vf: u16, what: &str, value: &str) -> Result<Value> {
        self.rig.pf_ctl(&["vf", &vf.to_string(), what, value])
    }

    /// What `pf-driver ctl show` has of a VF.
    pub(super) fn config(&self, vf: u16) -> Result<Value> {
        let shown = self.rig.pf_ctl(&["show"])?;
        let vfs = shown["vfs"].as_array().context("no VFs are shown")?;
        let found = vfs.iter().find(|config| config["vf"] == vf);
        found
            .cloned()
            .with_context(|| format!("VF {vf} is not shown"))
    }

    /// `pf-driver ctl vf-stats VF`.
    pub(super) fn vf_stats(&self, vf: u16) -> Result<Value> {
        self.rig.pf_ctl(&["vf-stats", &vf.to_string()])
    }

    /// Requests of a VF that the PF driver refused for `reason`.
    pub(super) fn refusals(&self, vf: u16, reason: &str) -> Result<u64> {
        Ok(self.vf_stats(vf)?["refused"][reason].as_u64().unwrap_or(0))
    }

    /// Frames of the card's port `function` (`vf0`, `uplink`) that were dropped for `reason`.
    pub(super) fn drops(&self, function: &str, reason: &str) -> Result<u64> {
        let port = self.port(function)?;
        Ok(port["drops"][reason].as_u64().unwrap_or(0))
    }

    /// What the card counted at a port.
    pub(super) fn port(&self, function: &str) -> Result<Value> {
        let stats = self
            .rig
            .card_control()
            .call(&json!({"op": "stats"}), CALL_LIMIT)?;
        if function == "uplink" {
            return Ok(stats["uplink"].clone());
        }
        let functions = stats["functions"]
            .as_array()
            .context("the card names no functions")?;
        Ok(functions
            .iter()
            .find(|port| port["function"] == function)
            .cloned()
            .unwrap_or_default())
    }

    /// Plugs the card's cable in, or out.
    pub(super) fn plug(&self, up: bool) -> Result<()> {
        let request = json!({"op": "link", "up": up});
        self.rig.card_control().call(&request, CALL_LIMIT).map(drop)
    }

    /// Sends `frames` from the left guest and gives what the right guest receives of them. A last
    /// frame, sent as it should be and broadcast, must arrive: what was sent before it on the same
    /// queue has then been switched.
    pub(super) fn exchange(
        &self,
        mut frames: Vec<Vec<u8>>,
        expected: usize,
    ) -> Result<Vec<Vec<u8>>> {
        const LAST: u8 = 0xEE;
        let (left, right) = (self.left()?, self.right()?);
        let own = left.link(0)?.mac;
        let many = frames.len();
        frames.push(guest::frame("ff:ff:ff:ff:ff:ff", &own, LAST)?);
        let capture = right
            .vm
            .agent()
            .begin_capture(&right.interface(0)?, many + 1)?;
        left.vm.agent().send_frames(&left.interface(0)?, &frames)?;
        // It ends when it has all of them; those that never come have had time to.
        let time = if expected == many { ALL } else { SOME };
        let seen = capture.end(time)?;
        ensure!(
            guest::count(&seen, &own, LAST)? == 1 || seen.len() > many,
            "not even a frame with the guest's own address arrived; {} others did",
            seen.len()
        );
        Ok(seen)
    }

    /// How many of `many` test frames from `from` to `to` get from the left guest to the right one,
    /// where all are to, or none.
    pub(super) fn crosses(
        &self,
        (to, from): (&str, &str),
        mark: u8,
        many: usize,
        all: bool,
    ) -> Result<usize> {
        let expected = if all { many } else { 0 };
        let seen = self.exchange(vec![guest::frame(to, from, mark)?; many], expected)?;
        guest::count(&seen, from, mark)
    }

    /// Judges the kernels' logs of both guests since the last time.
    pub(super) fn judge_kernels(
        &mut self,
        report: &mut Report,
        name: &str,
        expected: &[&str],
    ) -> Result<()> {
        for guest in [&mut self.left, &mut self.right].into_iter().flatten() {
            let complaints = guest.complaints(expected)?;
            report.check(
                format!(
                    "{name}: the kernel of the {} guest has no complaint",
                    guest.name
                ),
                complaints.is_empty(),
                complaints.join(" | "),
            );
        }
        Ok(())
    }

    /// Ends the guests and the programs in good order.
    pub(super) fn stop(self) -> Result<()> {
        self.stop_all().map(drop)
    }

    /// The same; every access that the card has traced.
    pub(super) fn stop_traced(self) -> Result<String> {
        let rig = self.stop_all()?;
        std::fs::read_to_string(rig.trace()).context("reading the card's trace")
    }

    fn stop_all(mut self) -> Result<Rig> {
        for guest in [self.left.take(), self.right.take()].into_iter().flatten() {
            guest.vm.shutdown()?;
        }
        self.rig.stop_all()?;
        Ok(self.rig)
    }

    /// What the programs said last, for a failure to show.
    pub(super) fn quote(&mut self) {
        for program in self.rig.programs() {
            eprintln!("-- {} said last:\n{}", program.name(), program.tail());
        }
        let audit = std::fs::read_to_string(self.rig.audit()).unwrap_or_default();
        let refused: Vec<_> = audit.lines().filter(|line| is_refusal(line)).collect();
        eprintln!("-- requests that were not granted:");
        for line in refused.iter().rev().take(AUDIT_LINES).rev() {
            eprintln!("    {line}");
        }
        for guest in [&self.left, &self.right].into_iter().flatten() {
            let words = guest.kernel_words("igbvf");
            let last = words.rsplit(" | ").take(KERNEL_LINES).collect::<Vec<_>>();
            eprintln!("-- the kernel of the {} guest:", guest.name);
            for line in last.into_iter().rev() {
                eprintln!("    {line}");
            }
        }
    }
}

/// Whether a line of the mediator's audit log tells of a request that was not granted.
fn is_refusal(line: &str) -> bool {
    line.contains("\"verdict\"") && !line.contains("\"verdict\":\"Ok\"")
}

/// Looks again and again, `limit` at most, whether `done`: for what nothing announces.
pub(super) fn until(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let state = done();
        if matches!(state, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= end {
            return match state {
                Err(error) => Err(error.context(format!("not within {limit:?}: {what}"))),
                Ok(_) => bail!("not within {limit:?}: {what}"),
            };
        }
        std::thread::sleep(LOOK);
    }
}
