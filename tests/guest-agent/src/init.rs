//! First steps of process 1, and the choice between agent and shell.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use guest_agent::{BUSYBOX, PATH, SHELL_WORD};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::RebootMode;

use crate::serve;

/// Prepares the guest, then serves the host or a shell until it ends.
pub(crate) fn run() -> Result<RebootMode> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
    ] {
        attach(kind, at)?;
    }
    // What a kernel of one's own may be built without.
    for (kind, at) in [
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("hugetlbfs", "/dev/hugepages"),
    ] {
        if let Err(error) = attach(kind, at) {
            println!("guest-agent: {error:#}");
        }
    }
    link_up_loopback();
    let cmdline = fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
    if cmdline.split_whitespace().any(|word| word == SHELL_WORD) {
        shell().map(|()| RebootMode::RB_POWER_OFF)
    } else {
        serve::run()
    }
}

fn attach(kind: &str, at: &str) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("create {at}"))?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount {kind} on {at}"))
}

fn link_up_loopback() {
    let change = guest_agent::protocol::LinkChange {
        up: Some(true),
        ..Default::default()
    };
    if let Err(error) = crate::link::set("lo", &change) {
        println!("guest-agent: lo: {error:#}");
    }
}

/// Runs busybox on the console until its user leaves it.
fn shell() -> Result<()> {
    if !Path::new(BUSYBOX).exists() {
        bail!("this initramfs holds no {BUSYBOX}, so there is no shell");
    }
    let modules = crate::modules::names()?.join(" ");
    println!("\nModules at hand (insmod /modules/NAME.ko): {modules}\nLeave with `exit`.");
    let status = Command::new(BUSYBOX)
        .args(["setsid", "cttyhack", "sh"])
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("TERM", "vt100")
        .status()
        .context("run the shell")?;
    println!("guest-agent: the shell ended with {status}");
    Ok(())
}
