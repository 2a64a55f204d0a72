//! A guest for a person: a shell on this terminal.

use anyhow::{Context, Result, ensure};
use guest_agent::SHELL_WORD;

use super::layout::{Installation, VmDir};
use super::machine::{VmConfig, boot};
use super::{ShellArgs, accel, initramfs};

/// Boots a guest with its console on this terminal and waits for its end.
pub(super) fn run(dir: &VmDir, installation: &Installation, arguments: &ShellArgs) -> Result<()> {
    let mut config = VmConfig::new("shell").tools();
    for socket in &arguments.vfio_user {
        config = config.vfio_user(socket)?;
    }
    config.modules.extend(arguments.module.iter().cloned());
    config.qemu_args.clone_from(&arguments.qemu);
    let accel = match arguments.accel {
        Some(accel) => accel,
        None => accel::best(dir, installation)?,
    };
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let initrd = folder.path().join("initrd");
    initramfs::build(dir, installation, &config)?.write(&initrd)?;
    let mut command = installation.qemu.source.command(dir);
    command.args(config.arguments(accel));
    boot(
        &mut command,
        dir,
        installation,
        &initrd,
        &config.command_line(SHELL_WORD),
    );
    command.args(["-serial", "mon:stdio"]);
    eprintln!(
        "Booting on {}. Ctrl-a x ends the VM, Ctrl-a h tells of other keys.",
        accel.name()
    );
    let status = command.status().context("run QEMU")?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}
