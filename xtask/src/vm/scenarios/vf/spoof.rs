//! Frames that are not the VF's to send, sent with a raw socket in the guest.

use anyhow::{Context as _, Result};

use super::guest;
use super::world::{LEFT, World, until};
use crate::report::Report;

const FALSE_SOURCE: &str = "02:bb:bb:bb:bb:bb";
const BROADCAST: &str = "ff:ff:ff:ff:ff:ff";
const FRAMES: usize = 50;
const SETTLE: std::time::Duration = std::time::Duration::from_secs(20);

/// A false source address; then with `spoofchk off`.
pub(super) fn source(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let dropped = world.drops("vf0", "spoofed-mac")?;
    let told = world.vf_stats(LEFT)?["tx_spoofed"].as_u64().unwrap_or(0);
    let uplink = out_of_uplink(world)?;
    let arrived = world.crosses((BROADCAST, FALSE_SOURCE), 1, FRAMES, false)?;
    let counted = world.drops("vf0", "spoofed-mac")? - dropped;
    report.check(
        "vm/vf/spoofed frames dropped and counted",
        arrived == 0 && counted == FRAMES as u64,
        format!("{FRAMES} sent, {arrived} arrived, the card dropped {counted} as spoofed-mac"),
    );
    let seen = until("the PF driver sees WVBR", SETTLE, || {
        Ok(world.vf_stats(LEFT)?["tx_spoofed"].as_u64().unwrap_or(0) > told)
    });
    report.check(
        "vm/vf/spoofed frames reported to the PF driver",
        seen.is_ok(),
        format!("tx_spoofed was {told}: {seen:?}"),
    );
    let left = out_of_uplink(world)? - uplink;
    report.check(
        "vm/vf/spoofed frames do not leave by the uplink",
        left < FRAMES as u64 / 2,
        format!("{left} frames left meanwhile, {FRAMES} broadcasts were sent with a false source"),
    );
    world.set(LEFT, "spoofchk", "off")?;
    let arrived = world.crosses((BROADCAST, FALSE_SOURCE), 2, FRAMES, true);
    let left = out_of_uplink(world)? - uplink;
    world.set(LEFT, "spoofchk", "on")?;
    let arrived = arrived?;
    report.check(
        "vm/vf/spoofed frames arrive without the check",
        arrived == FRAMES && left >= FRAMES as u64,
        format!("{arrived} of {FRAMES} arrived, {left} frames left by the uplink"),
    );
    let again = world.crosses((BROADCAST, FALSE_SOURCE), 3, 5, false)?;
    report.check(
        "vm/vf/spoofed frames dropped with the check back on",
        again == 0,
        format!("{again} of 5 arrived"),
    );
    Ok(())
}

/// A tag of a VLAN that the VF is not in.
pub(super) fn vlan(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let own = world.left()?.link(0)?.mac;
    let dropped = world.drops("vf0", "spoofed-vlan")?;
    let mut frame = guest::frame(BROADCAST, &own, 4)?;
    frame.splice(12..12, [0x81, 0x00, 0x00, 201]);
    let seen = world.exchange(vec![frame; 10], 0)?;
    let arrived = seen
        .iter()
        .filter(|frame| frame.get(12..14) == Some(&[0x81, 0x00]))
        .count();
    let counted = world.drops("vf0", "spoofed-vlan")? - dropped;
    report.check(
        "vm/vf/frames tagged for a VLAN of others are dropped",
        arrived == 0 && counted == 10,
        format!("10 sent, {arrived} arrived, the card dropped {counted} as spoofed-vlan"),
    );
    Ok(())
}

/// Frames that left the card: the wire has received them.
fn out_of_uplink(world: &World<'_>) -> Result<u64> {
    world.port("uplink")?["rx_packets"]
        .as_u64()
        .context("the card does not count what leaves by the uplink")
}
