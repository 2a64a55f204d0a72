//! The VF's own address: given, chosen, changed where trust allows it.

use anyhow::{Context as _, Result, ensure};

use super::guest::{LINK_LIMIT, mac};
use super::world::{LEFT, LEFT_MAC, NAMELESS, RIGHT_MAC, World};
use crate::report::Report;
use crate::rig::vf_address;

/// Addresses that a guest would like to have.
const WANTED: &str = "02:82:57:60:0b:01";
const NEW_BY_ADMIN: &str = "02:82:57:60:0b:02";

/// Given by the PF driver, or chosen at random where it gives none.
pub(super) fn at_probe(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    for (guest, given) in [(world.left()?, LEFT_MAC), (world.right()?, RIGHT_MAC)] {
        let has = guest.link(0)?.mac;
        report.check(
            format!("vm/vf/mac given by the PF driver, {} guest", guest.name),
            has == given,
            format!("{has}, the PF driver assigned {given}"),
        );
    }
    let left = world.left()?;
    let chosen = left.link(1)?.mac;
    let said = left.kernel_words("random MAC");
    let local = mac(&chosen)?[0] & 3 == 2;
    report.check(
        "vm/vf/mac chosen at random",
        local && !said.is_empty(),
        format!("{chosen}; {said}"),
    );
    let known = world.config(NAMELESS)?["mac"].clone();
    report.check(
        "vm/vf/mac chosen at random is the one in force",
        known == chosen.as_str(),
        format!("the guest has {chosen}, the PF driver {known}"),
    );
    Ok(())
}

/// The one that was chosen stays over an ifdown and an ifup, which reset the VF.
pub(super) fn chosen_stays(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let left = world.left()?;
    let before = left.link(1)?.mac;
    let interface = left.interface(1)?;
    left.ip(&format!("link set dev {interface} up"))?;
    left.carrier(1, true)?;
    left.ip(&format!("link set dev {interface} down"))?;
    let after = left.link(1)?.mac;
    let known = world.config(NAMELESS)?["mac"].clone();
    report.check(
        "vm/vf/mac chosen at random stays over a reset",
        before == after && known == after.as_str(),
        format!("{before}, then {after}; the PF driver has {known}"),
    );
    Ok(())
}

/// `ip link set address` is refused without trust, and the guest sees it.
pub(super) fn refused(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let left = world.left()?;
    let before = world.refusals(LEFT, "admin-mac")?;
    let line = format!("ip link set dev {} address {WANTED}", left.interface(0)?);
    let said = left.refused(&line)?;
    let (has, after) = (left.link(0)?.mac, world.refusals(LEFT, "admin-mac")?);
    report.check(
        "vm/vf/mac change refused without trust",
        has == LEFT_MAC && after > before,
        format!("{said}; the guest keeps {has}; refused admin-mac {before}, then {after}"),
    );
    Ok(())
}

/// With trust it is granted; without, it is taken back.
pub(super) fn trusted(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    world.set(LEFT, "trust", "on")?;
    let (left, right) = (world.left()?, world.right()?);
    let interface = left.interface(0)?;
    left.ip(&format!("link set dev {interface} address {WANTED}"))?;
    let known = world.config(LEFT)?["mac"].clone();
    right.ip("neigh flush all")?;
    let reached = right.reaches(&vf_address(LEFT), LINK_LIMIT);
    report.check(
        "vm/vf/mac change granted with trust",
        known == WANTED && reached.is_ok(),
        format!("the PF driver has {known}; ping at the new address: {reached:?}"),
    );
    world.set(LEFT, "trust", "off")?;
    let taken_back = world.config(LEFT)?["mac"].clone();
    let has = bounce(world)?;
    report.check(
        "vm/vf/mac is the administrator's again without trust",
        taken_back == LEFT_MAC && has == LEFT_MAC,
        format!("the PF driver has {taken_back}, the guest {has} after its next reset"),
    );
    Ok(())
}

/// `vf N mac` while the guest runs: it has it after its next reset.
pub(super) fn changed_by_the_administrator(
    world: &mut World<'_>,
    report: &mut Report,
) -> Result<()> {
    world.set(LEFT, "mac", NEW_BY_ADMIN)?;
    let has = bounce(world)?;
    let reached = world.right()?.reaches(&vf_address(LEFT), LINK_LIMIT);
    report.check(
        "vm/vf/mac changed by the administrator",
        has == NEW_BY_ADMIN && reached.is_ok(),
        format!("the guest has {has} after its next reset; ping: {reached:?}"),
    );
    world.set(LEFT, "mac", LEFT_MAC)?;
    let has = bounce(world)?;
    ensure!(has == LEFT_MAC, "the guest has {has}, not {LEFT_MAC}");
    Ok(())
}

/// Sets the left guest's interface down and up, which resets the VF; its address afterwards.
fn bounce(world: &World<'_>) -> Result<String> {
    let (left, right) = (world.left()?, world.right()?);
    left.bounce(0)?;
    left.carrier(0, true).context("after a reset")?;
    right.ip("neigh flush all")?;
    Ok(left.link(0)?.mac)
}
