//! What guests see when the PF driver is killed, in time and too late, and when a VF is taken away.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::guest::{Guest, LINK_LIMIT, QUICK};
use super::life::slot;
use super::world::{LEFT, LEFT_MAC, NAMELESS, RIGHT, World, until};
use crate::report::Report;
use crate::rig::{PF_ADDRESS, vf_address};

const SETTLE: Duration = Duration::from_secs(30);
/// How long a guest has to let go of a VF.
const EJECT: &str = "2";

/// What a guest's kernel says of a VF that is gone: igbvf finds no PF. Not of a machine that hangs.
pub(super) const GONE: &[&str] = &["PF still in reset", "PF still resetting"];

/// SIGKILL, and a new one in time: the VFs are adopted.
pub(super) fn back_in_time(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let before = slot(world, LEFT)?["generation"].clone();
    world.rig.pf()?.crash()?;
    let alone = world.left()?.ping(&vf_address(RIGHT), 5, 56)?;
    report.check(
        "vm/vf/PF driver killed: traffic between VFs goes on",
        alone.received == alone.sent,
        format!("{} of {} pings answered", alone.received, alone.sent),
    );
    restart(world)?;
    let info = world.rig.pf_ctl(&["info"])?;
    let after = slot(world, LEFT)?["generation"].clone();
    let (left, right) = (world.left()?, world.right()?);
    let (carrier, address) = (left.link(0)?.carrier, left.link(0)?.mac);
    let reached = left.reaches(&vf_address(RIGHT), LINK_LIMIT);
    let served = left.reaches(PF_ADDRESS, LINK_LIMIT);
    report.check(
        "vm/vf/PF driver back within the grace time: VFs adopted",
        info["adopted"] == true
            && before == after
            && carrier == Some(true)
            && address == LEFT_MAC
            && reached.is_ok()
            && served.is_ok(),
        format!(
            "adopted {}; generation {before}, then {after}; carrier {carrier:?}; VF {reached:?}, PF \
             {served:?}",
            info["adopted"]
        ),
    );
    // Requests are answered again.
    let interface = right.interface(0)?;
    right.vm.agent().load_module("8021q", "")?;
    right.ip(&format!(
        "link add link {interface} name vlan200 type vlan id 200"
    ))?;
    let vlans = world.config(RIGHT)?["vlans"].clone();
    right.ip("link del vlan200")?;
    report.check(
        "vm/vf/PF driver back within the grace time: requests answered",
        vlans == serde_json::json!([200]),
        format!("VLANs {vlans}"),
    );
    Ok(())
}

/// Starts the PF driver again, with what stands behind it.
fn restart(world: &mut World<'_>) -> Result<()> {
    world.rig.start_pf()?;
    if let Ok(pf) = &world.pf {
        pf.again()?;
    }
    Ok(())
}

/// `mediator ctl eject` of a VF that a guest uses.
pub(super) fn ejected(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let left = world.left()?;
    let interface = left.interface(1)?;
    left.ip(&format!("link set dev {interface} up"))?;
    left.carrier(1, true)?;
    let begin = Instant::now();
    let answer = world
        .rig
        .mediator_ctl(&["eject", &NAMELESS.to_string(), "--timeout", EJECT])?;
    let took = begin.elapsed();
    let state = slot(world, NAMELESS)?["state"].clone();
    let alive = left.run("ip -s link");
    let other = left.reaches(&vf_address(RIGHT), LINK_LIMIT);
    report.check(
        "vm/vf/eject takes a VF from a guest that lives on",
        state == "absent" && alive.is_ok() && other.is_ok(),
        format!(
            "after {took:.1?}, graceful {}; its other VF: {other:?}",
            answer["graceful"]
        ),
    );
    // QEMU has no way to give it back; what it can do is to let go of the dead one.
    left.ip(&format!("link set dev {interface} down"))?;
    world.rig.pf_ctl(&["offer", &NAMELESS.to_string()])?;
    let back = until("the VF is on the bus again", SETTLE, || {
        Ok(slot(world, NAMELESS)?["state"] == "present")
    });
    report.outcome(
        "vm/vf/eject: the VF can be offered again",
        back.map(|()| "present".to_owned()),
    );
    Ok(())
}

/// SIGKILL, and none comes back in time: every VF is lost, no guest hangs.
pub(super) fn too_late(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    world.rig.pf()?.crash()?;
    let left = world.left()?;
    let job = left.vm.agent().spawn(&["ping", &vf_address(RIGHT)])?;
    let begin = Instant::now();
    until("the VFs leave the bus", SETTLE, || {
        Ok(slot(world, LEFT)?["state"] != "present" && slot(world, RIGHT)?["state"] != "present")
    })?;
    let took = begin.elapsed();
    for guest in [world.left()?, world.right()?] {
        let alive = survives(guest);
        report.outcome(
            &format!(
                "vm/vf/surprise removal leaves the {} guest alive",
                guest.name
            ),
            alive.map(|()| format!("VFs gone {took:.1?} after the PF driver; igbvf unloaded")),
        );
    }
    world.left()?.vm.agent().kill(job)?;
    world.judge_kernels(report, "vm/vf/surprise removal", GONE)?;
    // These QEMUs have no way to a VF any more.
    for guest in [world.left.take(), world.right.take()]
        .into_iter()
        .flatten()
    {
        guest.vm.shutdown()?;
    }
    restart(world)?;
    let mut guest = Guest::boot(world.stage, "after", &[world.rig.vf_socket(LEFT)])?;
    guest.load()?;
    guest.set_up(0, &vf_address(LEFT))?;
    let reached = guest.reaches(PF_ADDRESS, LINK_LIMIT);
    report.check(
        "vm/vf/PF driver back after the grace time: VFs made anew",
        reached.is_ok(),
        format!("a guest that starts then reaches the PF: {reached:?}"),
    );
    world.left = Some(guest);
    Ok(())
}

/// A guest whose VF is gone still runs programs, and its driver lets go.
fn survives(guest: &Guest) -> Result<()> {
    guest.run("ip -s link")?;
    let interface = guest.interface(0)?;
    let down = ["ip", "link", "set", "dev", &interface, "down"];
    guest.vm.agent().run(&down, QUICK + QUICK)?;
    guest.unload().context("igbvf does not let go")?;
    let up = guest.vm.agent().read_text("/proc/uptime")?;
    ensure!(!up.is_empty(), "no uptime");
    Ok(())
}
