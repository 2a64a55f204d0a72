//! What a VF receives besides its own address: multicast groups, nothing of others; and how long
//! frames may be.

use anyhow::{Context as _, Result};

use super::guest::{self, LINK_LIMIT};
use super::world::{LEFT, NAMELESS, RIGHT, World};
use crate::report::Report;
use crate::rig::{PF_ADDRESS, vf_address};

/// As many groups as a mailbox message can name.
const NAMED: usize = igb::mailbox::MAX_HASHES;
const GROUPS: u8 = 40;
/// Nobody's address.
const STRANGER: &str = "02:aa:aa:aa:aa:aa";
const JUMBO: u16 = 9000;
const JUMBO_PING: u16 = 8900;

/// A group whose hash differs from that of every other number, and from those that every kernel
/// joins (datasheet 7.1.1.4 with MO 0: the hash is the last byte and the high half of the one before).
fn group(n: u8) -> String {
    format!("01:00:5e:7f:f0:{n:02x}")
}

/// Groups are received while they are joined.
pub(super) fn multicast(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let (left, right) = (world.left()?, world.right()?);
    let own = left.link(0)?.mac;
    let interface = right.interface(0)?;
    let maddr =
        |what: &str, n: u8| right.ip(&format!("maddress {what} {} dev {interface}", group(n)));
    let before = world.crosses((&group(1), &own), 1, 5, false)?;
    maddr("add", 1)?;
    let joined = world.crosses((&group(1), &own), 2, 5, true)?;
    let other = world.crosses((&group(2), &own), 3, 5, false)?;
    maddr("del", 1)?;
    let left_again = world.crosses((&group(1), &own), 4, 5, false)?;
    report.check(
        "vm/vf/multicast received while joined, and nothing else",
        (before, joined, other, left_again) == (0, 5, 0, 0),
        format!(
            "of 5 frames arrived: {before} before, {joined} while joined, {other} of another group, \
             {left_again} after"
        ),
    );

    for n in 1..=GROUPS {
        maddr("add", n)?;
    }
    let hashes = world.config(RIGHT)?["multicast"].as_u64().unwrap_or(0);
    let frames = (1..=GROUPS).map(|n| guest::frame(&group(n), &own, n));
    let seen = world.exchange(frames.collect::<Result<_>>()?, NAMED)?;
    let mut arrived = 0;
    for n in 1..=GROUPS {
        arrived += guest::count(&seen, &own, n)?;
    }
    for n in 1..=GROUPS {
        maddr("del", n)?;
    }
    // The guest's own groups (all hosts, all nodes) take some of the places.
    report.check(
        "vm/vf/multicast with more groups than a message holds",
        hashes as usize <= NAMED && (NAMED - 8..=NAMED).contains(&arrived),
        format!(
            "{GROUPS} groups: igbvf names {NAMED} at most, the PF driver has {hashes}, \
             {arrived} groups are received"
        ),
    );
    let after = world.crosses((&group(1), &own), 5, 5, false)?;
    report.check(
        "vm/vf/multicast filter shrinks again",
        after == 0,
        format!("{after} of 5 frames to a group that was left"),
    );
    Ok(())
}

/// Promiscuous mode in the guest gives it nothing of others.
pub(super) fn promiscuous(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let (left, right) = (world.left()?, world.right()?);
    let own = left.link(0)?.mac;
    let interface = right.interface(0)?;
    right.ip(&format!("link set dev {interface} promisc on"))?;
    right.ip(&format!("link set dev {interface} allmulticast on"))?;
    let unicast = world.crosses((STRANGER, &own), 1, 5, false);
    let multicast = world.crosses((&group(0xF0), &own), 2, 5, false);
    right.ip(&format!("link set dev {interface} promisc off"))?;
    right.ip(&format!("link set dev {interface} allmulticast off"))?;
    let (unicast, multicast) = (unicast?, multicast?);
    report.check(
        "vm/vf/promiscuous mode gives a guest nothing of others",
        (unicast, multicast) == (0, 0),
        format!("of 5 frames each arrived: {unicast} unicast, {multicast} multicast"),
    );
    report.not_applicable(
        "vm/vf/promiscuous mode granted by trust",
        "igbvf has no message for it: it never asks (see vm/vf/by hand, where a mailbox message does)",
    );
    Ok(())
}

/// MTU 9000 between guests and to the PF.
pub(super) fn jumbo(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let outcome = jumbo_checks(world, report);
    for guest in [world.left()?, world.right()?] {
        guest.ip(&format!("link set dev {} mtu 1500", guest.interface(0)?))?;
        guest.carrier(0, true)?;
    }
    outcome
}

fn jumbo_checks(world: &World<'_>, report: &mut Report) -> Result<()> {
    let (left, right) = (world.left()?, world.right()?);
    for guest in [left, right] {
        let interface = guest.interface(0)?;
        guest.ip(&format!("link set dev {interface} mtu {JUMBO}"))?;
        guest.carrier(0, true)?;
    }
    left.reaches(&vf_address(RIGHT), LINK_LIMIT)?;
    let capture = right.vm.agent().begin_capture(&right.interface(0)?, 64)?;
    let pings = left.ping(&vf_address(RIGHT), 3, JUMBO_PING)?;
    let longest = capture
        .end(std::time::Duration::from_secs(1))?
        .iter()
        .map(Vec::len)
        .max();
    report.check(
        "vm/vf/mtu 9000 between guests, in one frame",
        pings.received == pings.sent && longest > Some(JUMBO_PING.into()),
        format!(
            "{} of {} pings of {JUMBO_PING} bytes answered; longest frame {longest:?}",
            pings.received, pings.sent
        ),
    );
    let mut others = vec![("PF", PF_ADDRESS)];
    if let Ok(wire) = &world.wire {
        others.push(("uplink", wire.address));
    }
    for (name, address) in others {
        let name = format!("vm/vf/mtu 9000 to the {name}");
        if name.ends_with("PF") && world.pf.is_err() {
            report.not_applicable(
                name,
                "the PF driver's own stack answers no ping of that size",
            );
            continue;
        }
        left.reaches(address, LINK_LIMIT)?;
        let pings = left.ping(address, 3, JUMBO_PING)?;
        let detail = format!("{} of {} answered", pings.received, pings.sent);
        report.check(name, pings.received == pings.sent, detail);
    }
    Ok(())
}

/// `max_mtu`: igbvf does not look at the answer, but the VF gets no longer frames.
pub(super) fn longest(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    let left = world.left()?;
    let interface = left.interface(1)?;
    let before = world.refusals(NAMELESS, "mtu-too-large")?;
    left.ip(&format!("link set dev {interface} up"))?;
    left.carrier(1, true)?;
    left.ip(&format!("link set dev {interface} mtu {JUMBO}"))?;
    left.carrier(1, true)
        .context("after a longer MTU was refused")?;
    let after = world.refusals(NAMELESS, "mtu-too-large")?;
    let mtu = world.config(NAMELESS)?["mtu"].clone();
    let dropped = world.drops("vf1", "too-long")?;
    let right = world.right()?;
    let name = right.interface(0)?;
    right.ip(&format!("link set dev {name} mtu {JUMBO}"))?;
    right.carrier(0, true)?;
    let mut frame = guest::frame(&left.link(1)?.mac, &right.link(0)?.mac, 9)?;
    frame.resize(3000, 9);
    let sent = right.vm.agent().send_frames(&name, &vec![frame; 5]);
    let counted = super::world::until("the card drops what is too long", LINK_LIMIT, || {
        Ok(world.drops("vf1", "too-long")? >= dropped + 5)
    });
    right.ip(&format!("link set dev {name} mtu 1500"))?;
    right.carrier(0, true)?;
    left.ip(&format!("link set dev {interface} down"))?;
    left.ip(&format!("link set dev {interface} mtu 1500"))?;
    sent?;
    report.check(
        "vm/vf/mtu beyond the policy's is refused and not received",
        after > before && mtu == 1500 && counted.is_ok(),
        format!(
            "refused mtu-too-large {before}, then {after}; in force {mtu}; 5 frames of 3000 bytes \
             dropped as too-long: {counted:?}"
        ),
    );
    // A VF that nobody trusts still reaches what it reached.
    world.right()?.reaches(&vf_address(LEFT), LINK_LIMIT)?;
    Ok(())
}
