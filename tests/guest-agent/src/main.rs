//! Init of the test guest: loads modules and runs commands for the host.
#![deny(unsafe_code)]

mod frames;
mod init;
mod jobs;
mod link;
mod modules;
mod netlink;
mod ping;
mod serve;
mod system;
mod tcp;

use std::process::ExitCode;

use guest_agent::MODPROBE;
use nix::sys::reboot::{RebootMode, reboot};

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    if called.ends_with(MODPROBE) {
        return modules::modprobe(&words.collect::<Vec<_>>());
    }
    if nix::unistd::getpid().as_raw() != 1 {
        eprintln!("guest-agent is the init of a test guest, and runs only as process 1");
        return ExitCode::from(2);
    }
    let end = init::run().unwrap_or_else(|error| {
        println!("guest-agent: {error:#}");
        RebootMode::RB_POWER_OFF
    });
    nix::unistd::sync();
    // Process 1 must not return; if even this fails the kernel panics, which
    // ends a VM started with -no-reboot.
    let Err(errno) = reboot(end);
    println!("guest-agent: {end:?}: {errno}");
    ExitCode::FAILURE
}
