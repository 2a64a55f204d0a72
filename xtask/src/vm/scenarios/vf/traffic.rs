//! ping and iperf3 between everything that is joined by the card.

use anyhow::Result;

use super::guest::{Guest, LINK_LIMIT, Throughput};
use super::world::{Host, LEFT, RIGHT, World};
use crate::report::Report;
use crate::rig::{PF_ADDRESS, vf_address};

/// Seconds of each run.
const SECONDS: u64 = 3;
const PINGS: u16 = 5;
/// Datagrams are sent at this rate: what an emulated guest can take on any machine.
const UDP: &[&str] = &["-u", "-b", "10M", "-l", "1400"];
const MOST_LOST_PERCENT: f64 = 5.0;
/// Less than this and TCP has stalled.
const LEAST_MBITS: f64 = 1.0;

/// ping both ways.
pub(super) fn pings(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let (left, right) = (world.left()?, world.right()?);
    ping(report, "VF to VF", left, &vf_address(RIGHT))?;
    ping(report, "VF to VF, the other way", right, &vf_address(LEFT))?;
    ping(report, "VF to PF", left, PF_ADDRESS)?;
    match &world.wire {
        Ok(wire) => ping(report, "VF to uplink", left, wire.address)?,
        Err(reason) => report.not_applicable("vm/vf/ping VF to uplink", reason),
    }
    Ok(())
}

fn ping(report: &mut Report, name: &str, guest: &Guest, address: &str) -> Result<()> {
    guest.reaches(address, LINK_LIMIT)?;
    let pings = guest.ping(address, PINGS, 56)?;
    report.check(
        format!("vm/vf/ping {name}"),
        pings.received == pings.sent,
        format!(
            "{} of {} answered, {:?} us",
            pings.received, pings.sent, pings.rtts_us
        ),
    );
    Ok(())
}

/// iperf3, TCP and UDP, each way.
pub(super) fn iperf(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let (left, right) = (world.left()?, world.right()?);
    let right_address = vf_address(RIGHT);
    for (way, more) in [("", &[][..]), (", reverse", &["-R"])] {
        let run = |words: &[&str]| {
            let words: Vec<_> = words.iter().chain(more).copied().collect();
            left.iperf(&right_address, SECONDS, &words)
        };
        record(report, &format!("VF to VF{way}"), run);
    }
    let _ = right;
    for (name, host) in [("PF", &world.pf), ("uplink", &world.wire)] {
        match host {
            Ok(host) => to_host(world, report, name, host)?,
            Err(reason) => {
                for kind in ["TCP", "UDP"] {
                    report.not_applicable(format!("vm/vf/iperf3 {kind} VF to {name}"), reason);
                }
            }
        }
    }
    Ok(())
}

fn to_host(world: &World<'_>, report: &mut Report, name: &str, host: &Host) -> Result<()> {
    let left = world.left()?;
    left.reaches(host.address, LINK_LIMIT)?;
    record(report, &format!("VF to {name}"), |words| {
        left.iperf(host.address, SECONDS, words)
    });
    let address = vf_address(LEFT);
    record(report, &format!("{name} to VF"), |words| {
        host.iperf(world.stage, &address, SECONDS, words)
    });
    Ok(())
}

fn record(report: &mut Report, name: &str, run: impl Fn(&[&str]) -> Result<Throughput>) {
    for (kind, words) in [("TCP", &[][..]), ("UDP", UDP)] {
        let name = format!("vm/vf/iperf3 {kind} {name}");
        match run(words) {
            Ok(got) => {
                let good = got.mbits >= LEAST_MBITS && got.lost <= MOST_LOST_PERCENT;
                let detail = format!("{:.1} % lost", got.lost);
                report.measured(name, good, (got.mbits, "Mbit/s"), detail);
            }
            Err(error) => {
                report.check(name, false, format!("{error:#}"));
            }
        }
    }
}
