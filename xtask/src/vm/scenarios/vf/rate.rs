//! The rate limit: what the card counted, against this machine's clock.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::guest::{Guest, IPERF_PORT};
use super::world::{LEFT, RIGHT, World};
use crate::report::Report;
use crate::rig::vf_address;

const LIMIT_MBITS: f64 = 20.0;
/// More than this, and the limit does not hold.
const OVER: f64 = 1.1;
/// Less than this, and it is no limit but an obstacle. An emulated guest has pauses of its own.
const UNDER: f64 = 0.5;
/// What the guest tries to send.
const OFFERED: &str = "80M";
const WARM_UP: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(5);

/// `vf N rate`.
pub(super) fn limit(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let free = sending(world, &["-u", "-b", OFFERED, "-l", "1400"])?;
    world.set(LEFT, "rate", &LIMIT_MBITS.to_string())?;
    let held: Result<_> = (|| {
        let udp = sending(world, &["-u", "-b", OFFERED, "-l", "1400"])?;
        let tcp = sending(world, &[])?;
        Ok((udp, tcp))
    })();
    world.set(LEFT, "rate", "0")?;
    let (udp, tcp) = held?;
    for (name, mbits) in [("UDP", udp), ("TCP", tcp)] {
        report.measured(
            format!("vm/vf/rate limit holds, {name}"),
            (LIMIT_MBITS * UNDER..=LIMIT_MBITS * OVER).contains(&mbits),
            (mbits, "Mbit/s"),
            format!("limit {LIMIT_MBITS} Mbit/s; without one {free:.1}"),
        );
    }
    let again = sending(world, &["-u", "-b", OFFERED, "-l", "1400"])?;
    report.measured(
        "vm/vf/rate limit ends",
        again > LIMIT_MBITS * OVER,
        (again, "Mbit/s"),
        format!("before the limit {free:.1}"),
    );
    Ok(())
}

/// Mbit/s that the left guest's VF sends while its iperf3 sends all it can.
fn sending(world: &World<'_>, more: &[&str]) -> Result<f64> {
    let left = world.left()?;
    let seconds = (WARM_UP + WINDOW).as_secs() + 4;
    let job = start(left, &vf_address(RIGHT), seconds, more)?;
    let measured = (|| -> Result<f64> {
        left.vm.agent().runs_for(job, WARM_UP)?;
        let (begin, before) = (Instant::now(), sent(world)?);
        left.vm.agent().runs_for(job, WINDOW)?;
        let (time, after) = (begin.elapsed(), sent(world)?);
        Ok((after - before) as f64 * 8.0 / 1e6 / time.as_secs_f64())
    })()
    .context("iperf3 of the left guest");
    // A server that still talks to a client refuses the next one.
    let ended = left
        .vm
        .agent()
        .wait(job, Duration::from_secs(seconds + 60))
        .context("iperf3 of the left guest does not end");
    let measured = measured?;
    ended?;
    Ok(measured)
}

fn start(guest: &Guest, address: &str, seconds: u64, more: &[&str]) -> Result<u32> {
    let time = seconds.to_string();
    let mut words = vec!["iperf3", "-c", address, "-p", IPERF_PORT, "-t", &time];
    words.extend(more);
    guest.vm.agent().spawn(&words)
}

/// Bytes that the card has taken from the left guest's VF.
fn sent(world: &World<'_>) -> Result<u64> {
    world.vf_stats(LEFT)?["tx_bytes"]
        .as_u64()
        .context("no tx_bytes in the VF's statistics")
}
