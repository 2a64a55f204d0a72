//! First steps of process 1, and the choice between agent and shell.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use guest_agent::{BANNER, BUSYBOX, INTERFACE_WORD, PATH, SHELL_WORD};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::RebootMode;

use crate::serve;

/// Prepares the guest, then serves the host or a shell until it ends.
pub(crate) fn run() -> Result<RebootMode> {
    // The kernel leaves it to everybody, and some programs refuse to start so.
    fs::set_permissions("/", Permissions::from_mode(0o755)).context("close the root folder")?;
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
        shell(&cmdline).map(|()| RebootMode::RB_POWER_OFF)
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

/// Loads the driver, and sets its first interface up with the address.
fn interface(word: &str) -> Result<String> {
    let (driver, rest) = word.split_once(',').context("no address")?;
    let (address, prefix) = rest.split_once('/').context("no prefix length")?;
    let (address, prefix) = (address.parse()?, prefix.parse()?);
    crate::modules::load(driver, "")?;
    let links = crate::link::list()?;
    let link = links
        .iter()
        .find(|link| link.driver.as_deref() == Some(driver))
        .with_context(|| format!("{driver} made no interface: see dmesg"))?;
    crate::link::set_addr(&link.name, address, prefix)?;
    let change = guest_agent::protocol::LinkChange {
        up: Some(true),
        ..Default::default()
    };
    crate::link::set(&link.name, &change)?;
    Ok(format!(
        "{} is {driver}'s, {}, with {rest}",
        link.name, link.mac
    ))
}

/// Runs busybox on the console until its user leaves it.
fn shell(cmdline: &str) -> Result<()> {
    if !Path::new(BUSYBOX).exists() {
        bail!("this initramfs holds no {BUSYBOX}, so there is no shell");
    }
    let modules = crate::modules::names()?.join(" ");
    println!("\nModules at hand (modprobe NAME, modprobe -r NAME): {modules}");
    for word in cmdline.split_whitespace() {
        if let Some(word) = word.strip_prefix(INTERFACE_WORD) {
            match interface(word) {
                Ok(line) => println!("{line}"),
                Err(error) => println!("guest-agent: {word}: {error:#}"),
            }
        }
    }
    // A guest without a card has no banner.
    print!("{}", fs::read_to_string(BANNER).unwrap_or_default());
    println!("Leave with `exit`.");
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
