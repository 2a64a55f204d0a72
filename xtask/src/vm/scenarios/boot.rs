//! The smallest of all: a stock kernel, its drivers at hand, an orderly end.

use anyhow::{Result, ensure};

use crate::report::Report;
use crate::vm::VmConfig;
use crate::vm::scenario::Stage;

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let vm = stage.start(VmConfig::new("boot"))?;
    let accel = vm.accel().name();
    let seconds = vm.boot_time().as_secs_f64();
    let hello = vm.agent().hello();
    report.measured(
        "vm/boot/kernel",
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
    report.check("vm/boot/pci", virtio == 1, detail);
    for module in ["igb", "igbvf", "vfio-pci"] {
        let loaded = vm
            .agent()
            .load_module(module, "")
            .map(|names| names.join(", "));
        report.outcome(&format!("vm/boot/module {module}"), loaded);
    }
    let log = vm.agent().kmsg()?;
    ensure!(
        log.contains("Linux version"),
        "the kernel's log does not begin with its version"
    );
    report.outcome(
        "vm/boot/poweroff",
        vm.shutdown().map(|()| "switched off by itself".into()),
    );
    Ok(())
}
