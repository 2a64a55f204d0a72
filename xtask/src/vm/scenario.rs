//! Named runs of a VM.

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::accel::Accel;
use super::fetch::{FetchArgs, ensure_fetched};
use super::layout::{Installation, VmDir};
use super::machine::{Vm, VmConfig};
use crate::report::Report;

/// What a scenario is given.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Where QEMU and kernel lie.
    pub dir: &'a VmDir,
    /// QEMU and kernel.
    pub installation: &'a Installation,
    /// What `--accel` said.
    pub accel: Option<Accel>,
    /// Where the project's programs lie, for scenarios with a card.
    pub programs: &'a Path,
}

impl Stage<'_> {
    /// Starts a VM.
    pub fn start(&self, config: VmConfig) -> Result<Vm> {
        let config = VmConfig {
            accel: config.accel.or(self.accel),
            ..config
        };
        Vm::start(self.dir, self.installation, &config)
    }
}

/// A named run.
#[derive(Debug)]
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// Runs it; an error is a scenario that could not be carried through.
    pub run: fn(&Stage<'_>, &mut Report) -> Result<()>,
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot",
        about: "boots the stock kernel to the agent, loads the 82576 drivers, switches off",
        run: boot,
    },
    Scenario {
        name: "qemu-igb",
        about: "stock igb on QEMU's own 82576: what the other scenarios do, on a foreign card",
        run: qemu_igb,
    },
    Scenario {
        name: "igbvf",
        about: "stock igbvf on our VF behind our mediator, pings both ways",
        run: super::igbvf::run,
    },
];

/// The scenario called `name`.
pub fn find(name: &str) -> Result<&'static Scenario> {
    let known = || {
        SCENARIOS
            .iter()
            .map(|s| s.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .with_context(|| format!("no scenario is called {name:?}; there are: {}", known()))
}

/// Runs `scenario`; what kept it from its end is a check that failed.
pub fn run(scenario: &Scenario, stage: &Stage<'_>, report: &mut Report) {
    if let Err(error) = (scenario.run)(stage, report) {
        report.check(format!("vm/{}", scenario.name), false, format!("{error:#}"));
    }
}

/// Fetches what is missing and runs every scenario, with the project's
/// programs of the folder `programs`.
pub fn smoke(programs: &Path, report: &mut Report) {
    let fetched = VmDir::locate().and_then(|dir| {
        let installation = ensure_fetched(&dir, &FetchArgs::default())?;
        Ok((dir, installation))
    });
    match fetched {
        Ok((dir, installation)) => {
            let stage = Stage {
                dir: &dir,
                installation: &installation,
                accel: None,
                programs,
            };
            for scenario in SCENARIOS {
                run(scenario, &stage, report);
            }
        }
        Err(error) => {
            report.check(
                "vm/fetch",
                false,
                format!("{error:#}; --no-vm leaves VMs out"),
            );
        }
    }
}

fn boot(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let mut vm = stage.start(VmConfig::new("boot"))?;
    let accel = vm.accel().name();
    let seconds = vm.boot_time().as_secs_f64();
    let hello = vm.agent().hello().clone();
    report.measured(
        "vm/boot",
        hello.kernel == stage.installation.kernel.release,
        (seconds, "s"),
        format!(
            "kernel {} on {accel}, QEMU {}",
            hello.kernel, stage.installation.qemu.version
        ),
    );
    let functions = vm.agent().pci()?;
    for function in &functions {
        let driver = function.driver.as_deref().unwrap_or("-");
        println!(
            "{} {:04x}:{:04x} class {:06x} rev {:02x} {driver}",
            function.address, function.vendor, function.device, function.class, function.revision
        );
    }
    // The agent's own port hangs off a virtio device, vendor 1af4.
    let virtio = functions
        .iter()
        .filter(|function| function.vendor == 0x1af4)
        .count();
    let detail = format!("{} functions, {virtio} of them virtio", functions.len());
    report.check("vm/pci", virtio == 1, detail);
    for module in ["igb", "igbvf", "vfio-pci"] {
        let loaded = vm
            .agent()
            .load_module(module, "")
            .map(|names| names.join(", "));
        report.outcome(&format!("vm/module/{module}"), loaded);
    }
    let log = vm.agent().kmsg()?;
    ensure!(
        log.contains("Linux version"),
        "the kernel's log does not begin with its version"
    );
    report.outcome(
        "vm/poweroff",
        vm.shutdown().map(|()| "switched off by itself".into()),
    );
    Ok(())
}

/// Two guests with QEMU's own card, joined by a socket: a control that tells
/// a fault of this harness from one of our card.
fn qemu_igb(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let guest = |name: &str, local: &str, remote: &str, mac: &str| {
        let netdev = format!(
            "dgram,id=n0,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            path(local),
            path(remote)
        );
        let device = format!("igb,netdev=n0,bus=rp1,mac={mac}");
        let config = VmConfig::new(name).root_port();
        stage.start(config.qemu_args(&["-netdev", &netdev, "-device", &device]))
    };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| guest("igb-a", "a", "b", "02:00:00:00:00:0a"));
        let second = guest("igb-b", "b", "a", "02:00:00:00:00:0b");
        let first = first
            .join()
            .unwrap_or_else(|_| bail!("starting a VM panicked"));
        (first, second)
    });
    let (mut first, mut second) = (first?, second?);
    let address = |last| Ipv4Addr::new(10, 76, 0, last);
    for (vm, last, mac) in [
        (&mut first, 1, "02:00:00:00:00:0a"),
        (&mut second, 2, "02:00:00:00:00:0b"),
    ] {
        let agent = vm.agent();
        agent.load_module("igb", "")?;
        let links = agent.links_of("igb")?;
        let link = links.first().context("igb made no interface")?;
        let name = link.name.clone();
        report.check(
            format!("vm/qemu-igb/mac/{last}"),
            link.mac == mac,
            link.mac.clone(),
        );
        agent.set_mtu(&name, 9000)?;
        agent.set_addr(&name, address(last), 24)?;
        agent.link_up(&name)?;
        agent.wait_link(&name, Some(true), Duration::from_secs(60))?;
    }
    let patience = Duration::from_secs(5);
    let pings = first
        .agent()
        .ping(address(2), 5, Duration::ZERO, patience, 8000)?;
    let detail = format!(
        "{} of {} answered, {:?} us",
        pings.received, pings.sent, pings.rtts_us
    );
    report.check("vm/qemu-igb/ping", pings.received == pings.sent, detail);
    second.agent().tcp_sink(5001)?;
    let bytes = 4 << 20;
    let timeout = Duration::from_secs(30);
    let tcp = first
        .agent()
        .tcp_send((address(2), 5001), bytes, timeout, 4 * timeout)?;
    let rate = tcp.received as f64 / 1048.576 / tcp.elapsed_ms.max(1) as f64;
    report.measured(
        "vm/qemu-igb/tcp",
        tcp.received == bytes,
        (rate, "MiB/s"),
        format!("{} of {bytes} bytes intact", tcp.received),
    );
    first.shutdown()?;
    second.shutdown()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_unknown_ones_list_the_known() {
        for (at, scenario) in SCENARIOS.iter().enumerate() {
            assert!(
                SCENARIOS[at + 1..]
                    .iter()
                    .all(|other| other.name != scenario.name)
            );
            assert_eq!(find(scenario.name).unwrap().name, scenario.name);
        }
        assert!(find("nothere").unwrap_err().to_string().contains("boot"));
    }
}
