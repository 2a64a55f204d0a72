mod any_order;
mod attacks;
mod igbvf;
mod rules;

use std::collections::BTreeSet;

use igb::mailbox::{CTS, Hashes, NACK, PfReply, VfMessage, WORDS};
use mediator_protocol::block::{self, Accept, Config, Control, Features, Stats, VfRequest};
use proptest::prelude::*;

use super::*;
use crate::image::Image;
use crate::policy::{MAX_MTU, PortVlan, VfPolicy};
use crate::vport::{MAX_VFS, PF_POOL};

const PF_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const ADMIN_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0xAD, 1]);
const PORT_VLAN: PortVlan = PortVlan { vid: 77, qos: 5 };

/// VF 0 has no restriction but the caps, VF 1 what an administrator can set, VF 2 trust and a list of
/// VLANs; the rest are like VF 0.
fn arbiter() -> Arbiter {
    let mut switch = NicSwitch::new(PF_MAC);
    switch.create_switch().unwrap();
    for n in 0..MAX_VFS {
        let vf = switch.allocate_vf().unwrap();
        assert_eq!(vf, n);
        let policy = match vf {
            1 => VfPolicy {
                mac: Some(ADMIN_MAC),
                vlan: Some(PORT_VLAN),
                max_mtu: Some(1000),
                ..VfPolicy::default()
            },
            2 => VfPolicy {
                allowed_vlans: Some(vec![10, 20]),
                trust: true,
                ..VfPolicy::default()
            },
            _ => VfPolicy::default(),
        };
        switch.create_vport(vf, policy).unwrap();
        switch.set_filters(vf).unwrap();
    }
    Arbiter::new(switch)
}

fn begun() -> Arbiter {
    let mut arbiter = arbiter();
    for vf in 0..u16::from(MAX_VFS) {
        arbiter.ask(vf, &Ask::Init).unwrap();
    }
    arbiter
}

fn mac(n: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 1, n])
}

/// The request is refused for this reason, the state is what it was, and the refusal is counted.
#[track_caller]
fn refused(arbiter: &mut Arbiter, vf: u16, ask: &Ask, reason: Refusal) {
    let before = arbiter.switch.clone();
    let known = usize::from(vf) < usize::from(MAX_VFS);
    let count = |arbiter: &Arbiter| {
        let tally = if known {
            arbiter.tally(vf)
        } else {
            arbiter.strangers()
        };
        tally.map_or(0, |tally| tally.refused(reason))
    };
    let counted = count(arbiter);
    assert_eq!(arbiter.ask(vf, ask), Err(reason), "{ask:?}");
    assert_eq!(
        arbiter.switch, before,
        "{ask:?} was refused and changed something"
    );
    assert_eq!(count(arbiter), counted + 1);
}

fn accept(features: Features) -> mediator_protocol::BlockData {
    Accept {
        version: block::VERSION,
        features,
    }
    .encode()
}
