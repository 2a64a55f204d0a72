//! VLANs: tagged by the guests where the policy lets them, or by the card for a guest that does not
//! know.

use anyhow::{Context as _, Result};

use super::guest::{Guest, LINK_LIMIT};
use super::world::{LEFT, RIGHT, World};
use crate::report::Report;
use crate::rig::{PF_ADDRESS, vf_address};

/// Makes VLAN interface `vid` on a guest's first interface.
fn join(guest: &Guest, vid: u16, address: &str) -> Result<String> {
    let below = guest.interface(0)?;
    let name = format!("vlan{vid}");
    guest.ip(&add(&below, vid))?;
    guest.ip(&format!("address add {address}/24 dev {name}"))?;
    guest.ip(&format!("link set dev {name} up"))?;
    Ok(name)
}

fn add(below: &str, vid: u16) -> String {
    format!("link add link {below} name vlan{vid} type vlan id {vid}")
}

/// 802.1Q interfaces in both guests.
pub(super) fn tagged(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let (left, right) = (world.left()?, world.right()?);
    for guest in [left, right] {
        guest
            .vm
            .agent()
            .load_module("8021q", "")
            .context("loading 8021q")?;
    }
    join(left, 100, "10.100.0.1")?;
    join(right, 100, "10.100.0.2")?;
    let reached = left.reaches("10.100.0.2", LINK_LIMIT);
    let vlans = world.config(LEFT)?["vlans"].clone();
    report.check(
        "vm/vf/vlan between guests",
        reached.is_ok(),
        format!("{reached:?}; the PF driver has the VF in {vlans}"),
    );

    join(left, 200, "10.120.0.1")?;
    join(right, 201, "10.120.0.2")?;
    let silent = left.cannot_reach("10.120.0.2");
    report.outcome("vm/vf/vlan isolates from another", silent);

    let before = world.refusals(LEFT, "vlan-not-allowed")?;
    let said = left.refused(&format!("ip {}", add(&left.interface(0)?, 300)))?;
    let after = world.refusals(LEFT, "vlan-not-allowed")?;
    report.check(
        "vm/vf/vlan that is not on the list is refused",
        after > before,
        format!("{said}; refused vlan-not-allowed {before}, then {after}"),
    );

    for (guest, own) in [(left, 200), (right, 201)] {
        guest.ip("link del vlan100")?;
        guest.ip(&format!("link del vlan{own}"))?;
    }
    let left_over = world.config(LEFT)?["vlans"].clone();
    report.check(
        "vm/vf/vlan left again",
        left_over == serde_json::json!([]),
        format!("the PF driver has the VF in {left_over}"),
    );
    Ok(())
}

/// `vf N vlan`: the guests send and see untagged frames.
pub(super) fn port(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let outcome = port_checks(world, report);
    for vf in [LEFT, RIGHT] {
        world.set(vf, "vlan", "0")?;
    }
    outcome?;
    let reached = world.left()?.reaches(&vf_address(RIGHT), LINK_LIMIT);
    report.check(
        "vm/vf/port vlan taken away",
        reached.is_ok(),
        format!("{reached:?}"),
    );
    Ok(())
}

fn port_checks(world: &World<'_>, report: &mut Report) -> Result<()> {
    let (left, right) = (world.left()?, world.right()?);
    for vf in [LEFT, RIGHT] {
        world.set(vf, "vlan", "77")?;
    }
    let reached = left.reaches(&vf_address(RIGHT), LINK_LIMIT);
    report.check(
        "vm/vf/port vlan joins guests that know nothing of it",
        reached.is_ok(),
        format!("{reached:?}"),
    );
    let silent = left.cannot_reach(PF_ADDRESS);
    report.outcome("vm/vf/port vlan isolates from the PF", silent);

    let before = world.refusals(LEFT, "port-vlan")?;
    let said = left.refused(&format!("ip {}", add(&left.interface(0)?, 100)))?;
    let after = world.refusals(LEFT, "port-vlan")?;
    report.check(
        "vm/vf/port vlan leaves the guest none of its own",
        after > before,
        format!("{said}; refused port-vlan {before}, then {after}"),
    );

    world.set(RIGHT, "vlan", "78")?;
    right.ip("neigh flush all")?;
    let silent = left.cannot_reach(&vf_address(RIGHT));
    report.outcome("vm/vf/port vlan isolates from another", silent);
    Ok(())
}
