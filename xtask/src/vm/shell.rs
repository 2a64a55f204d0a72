//! A guest for a person: a shell on this terminal, with a function of a card
//! in the guest and the rest of the project's programs around it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use guest_agent::{BANNER, INTERFACE_WORD, SHELL_WORD};
use serde_json::json;

use super::layout::{Installation, VmDir};
use super::machine::{VmConfig, boot};
use super::packages::{NotHere, TOOLS};
use super::{ShellArgs, accel, initramfs};
use crate::build;
use crate::rig::{PF_ADDRESS, Rig, RigOptions, vf_address};

/// The MAC address that the PF driver assigns to the guest's VF.
const GUEST_MAC: &str = "02:82:57:60:0a:00";

/// Boots a guest with its console on this terminal and waits for its end.
pub(super) fn run(dir: &VmDir, installation: &Installation, arguments: &ShellArgs) -> Result<()> {
    let mut config = VmConfig::new("shell").tools();
    config.modules.extend(arguments.module.iter().cloned());
    config.packages.extend(arguments.package.iter().cloned());
    config.qemu_args.clone_from(&arguments.qemu);
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let mut rig = None;
    if arguments.vfio_user.is_empty() {
        let started = start_rig(arguments.pf)?;
        let (socket, driver, address) = if arguments.pf {
            (started.nic().join("pf.sock"), "igb", PF_ADDRESS.to_owned())
        } else {
            (started.vf_socket(0), "igbvf", vf_address(0))
        };
        let banner = folder.path().join("banner");
        fs::write(&banner, describe(&started, arguments.pf)).context("write the banner")?;
        config = config
            .vfio_user(&socket)?
            .file(BANNER, &banner)
            .kernel_arg(&format!("{INTERFACE_WORD}{driver},{address}/24"));
        rig = Some(started);
    }
    for socket in &arguments.vfio_user {
        config = config.vfio_user(socket)?;
    }
    let outcome = boot_shell(dir, installation, &config, arguments, folder.path());
    match rig {
        Some(mut rig) => outcome.and(rig.stop_all()),
        None => outcome,
    }
}

/// A card; around a VF also its mediator, the PF driver and a neighbour.
fn start_rig(pf: bool) -> Result<Rig> {
    let mut rig = Rig::new(RigOptions {
        programs: build::programs(false)?,
        vfs: if pf { 0 } else { 2 },
        policy: json!({"vfs": {"0": {"mac": GUEST_MAC}}}),
        capture: true,
        card_arguments: Vec::new(),
    })?;
    rig.start_card()?;
    if !pf {
        rig.start_mediator()?;
        rig.start_pf()?;
        rig.start_vf(1)?;
    }
    Ok(rig)
}

/// What is where, for the guest's user.
fn describe(rig: &Rig, pf: bool) -> String {
    let control = |program: &str, socket: &Path| {
        let program = rig.program(program);
        format!("{} ctl --control {}", program.display(), socket.display())
    };
    let capture = rig.capture();
    let mut text = String::from("\nOn this guest's host:\n");
    if pf {
        text.push_str("  the card alone: this guest has its PF, and nothing is at the other end\n");
    } else {
        text.push_str(&format!(
            "  {PF_ADDRESS} is the PF driver, {} another VF's driver: ping them\n  {} vf 0 vlan 100\n  {} list\n",
            vf_address(1),
            control("pf-driver", rig.pf_control().path()),
            control("mediator", rig.mediator_control().path()),
        ));
    }
    text.push_str(&format!(
        "  {} has every frame, {} the programs' logs\n",
        capture.display(),
        rig.path().display()
    ));
    text.push_str(&format!("Tools: {} and busybox\n", TOOLS.join(", ")));
    text
}

fn boot_shell(
    dir: &VmDir,
    installation: &Installation,
    config: &VmConfig,
    arguments: &ShellArgs,
    folder: &Path,
) -> Result<()> {
    let accel = match arguments.accel {
        Some(accel) => accel,
        None => accel::best(dir, installation)?,
    };
    ensure!(
        installation.busybox.is_some(),
        NotHere(
            "the shell is busybox, which comes with the fetched kernel: run `cargo xtask vm \
             fetch` without --kernel"
                .into()
        )
    );
    let initrd = folder.join("initrd");
    initramfs::build(dir, installation, config)?.write(&initrd)?;
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
