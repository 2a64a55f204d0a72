//! The link, as `pf-driver ctl` and the cable have it.

use anyhow::Result;

use super::guest::LINK_LIMIT;
use super::world::{LEFT, RIGHT, World};
use crate::report::Report;
use crate::rig::vf_address;

/// `vf N state disable|enable|auto`.
pub(super) fn state(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let outcome = follow_state(world);
    world.set(LEFT, "state", "auto")?;
    report.outcome("vm/vf/link state followed by the guest", outcome);
    world.left()?.carrier(0, true)
}

fn follow_state(world: &World<'_>) -> Result<String> {
    let (left, right) = (world.left()?, world.right()?);
    world.set(LEFT, "state", "disable")?;
    left.carrier(0, false)?;
    let silent = right.cannot_reach(&vf_address(LEFT))?;
    world.set(LEFT, "state", "enable")?;
    left.carrier(0, true)?;
    let reached = right.reaches(&vf_address(LEFT), LINK_LIMIT)?;
    Ok(format!(
        "disabled: carrier down, {silent}; enabled: carrier up, reached after {reached:.1?}"
    ))
}

/// The card's cable: `auto` follows it, `enable` does not.
pub(super) fn cable(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let outcome = pull(world);
    world.plug(true)?;
    for vf in [LEFT, RIGHT] {
        world.set(vf, "state", "auto")?;
    }
    report.outcome("vm/vf/link of the card followed by the guests", outcome);
    for guest in [world.left()?, world.right()?] {
        guest.carrier(0, true)?;
    }
    Ok(())
}

fn pull(world: &World<'_>) -> Result<String> {
    let (left, right) = (world.left()?, world.right()?);
    world.plug(false)?;
    for guest in [left, right] {
        guest.carrier(0, false)?;
    }
    for vf in [LEFT, RIGHT] {
        world.set(vf, "state", "enable")?;
    }
    for guest in [left, right] {
        guest.carrier(0, true)?;
    }
    let reached = left.reaches(&vf_address(RIGHT), LINK_LIMIT)?;
    world.plug(true)?;
    for vf in [LEFT, RIGHT] {
        world.set(vf, "state", "auto")?;
    }
    for guest in [left, right] {
        guest.carrier(0, true)?;
    }
    Ok(format!(
        "cable out: both down; enabled without a cable: VF to VF after {reached:.1?}; cable in: both up"
    ))
}
