//! Named runs of a VM.

use std::path::Path;

use anyhow::{Context, Result, ensure};

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
        let config = VmConfig { accel: config.accel.or(self.accel), ..config };
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
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "boot",
    about: "boots the stock kernel to the agent, loads the 82576 drivers, switches off",
    run: boot,
}];

/// The scenario called `name`.
pub fn find(name: &str) -> Result<&'static Scenario> {
    let known = || SCENARIOS.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
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
            let stage =
                Stage { dir: &dir, installation: &installation, accel: None, programs };
            for scenario in SCENARIOS {
                run(scenario, &stage, report);
            }
        }
        Err(error) => {
            report.check("vm/fetch", false, format!("{error:#}; --no-vm leaves VMs out"));
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
        format!("kernel {} on {accel}, QEMU {}", hello.kernel, stage.installation.qemu.version),
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
    let virtio = functions.iter().filter(|function| function.vendor == 0x1af4).count();
    let detail = format!("{} functions, {virtio} of them virtio", functions.len());
    report.check("vm/pci", virtio == 1, detail);
    for module in ["igb", "igbvf", "vfio-pci"] {
        let loaded = vm.agent().load_module(module, "").map(|names| names.join(", "));
        report.outcome(&format!("vm/module/{module}"), loaded);
    }
    let log = vm.agent().kmsg()?;
    ensure!(log.contains("Linux version"), "the kernel's log does not begin with its version");
    report.outcome("vm/poweroff", vm.shutdown().map(|()| "switched off by itself".into()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_unknown_ones_list_the_known() {
        for (at, scenario) in SCENARIOS.iter().enumerate() {
            assert!(SCENARIOS[at + 1..].iter().all(|other| other.name != scenario.name));
            assert_eq!(find(scenario.name).unwrap().name, scenario.name);
        }
        assert!(find("nothere").unwrap_err().to_string().contains("boot"));
    }
}
