//! VLANs: those the administrator sets, and those a VF asks for.

use igb::MacAddress;
use pf_driver::Policy;
use vf_driver::{Status, VfRequest};

use super::traffic::after;
use crate::frames::{NONE, NO_VLAN};
use crate::frames::{self, SHORTEST};
use crate::rig::{Rig, Setup, Station};

pub(super) fn a_port_vlan_separates(rig: &mut Rig) {
    rig.start_with_drivers(5);
    let [vf0, vf1, vf2, vf3, vf4] = [0, 1, 2, 3, 4].map(Station::Vf);
    for (vf, vid) in [(0, 10), (1, 10), (2, 20), (3, 20)] {
        rig.pf(move |pf| pf.set_vf_vlan(vf, vid, 0)).expect("a VLAN");
    }
    rig.reaches(vf0, vf1);
    rig.reaches(vf2, vf3);
    rig.reaches(vf4, Station::Pf);
    // Neither an address nor a broadcast crosses from one to the other.
    let stranger = rig.mac(vf2);
    rig.send(vf0, stranger, SHORTEST);
    let number = rig.send(vf0, MacAddress::BROADCAST, SHORTEST);
    assert_eq!(rig.receive(vf1, number), [number]);
    assert_eq!(after(rig, vf3, vf2), NONE, "VLAN 10 reaches VLAN 20");
    assert_eq!(after(rig, vf2, vf3), NONE, "VLAN 10 reaches VLAN 20");
    assert_eq!(after(rig, vf4, Station::Pf), NONE, "VLAN 10 reaches the PF");
    assert_eq!(after(rig, Station::Pf, vf4), NONE, "VLAN 10 reaches a VF without VLAN");
    // Taken out of their VLANs all reach each other again.
    for vf in 0..4 {
        rig.pf(move |pf| pf.set_vf_vlan(vf, 0, 0)).expect("no VLAN");
    }
    rig.all_reach_each_other();
}

fn policy() -> Policy {
    Policy::parse(r#"{ "defaults": { "allowed_vlans": [100, 101], "max_vlans": 2 } }"#).expect("a policy")
}

/// Numbers of the frames that a station has received before one that `from` sends now, with or
/// without a tag.
fn any_tag(rig: &mut Rig, from: Station, to: Station) -> Vec<u32> {
    let address = rig.mac(to);
    let sentinel = rig.send(from, address, SHORTEST);
    let mut numbers = Vec::new();
    rig.wait("the sentinel", |rig| {
        while let Some(mut frame) = rig.received(to).pop_front() {
            if frame.get(12..14) == Some(&[0x81, 0x00]) {
                frame.drain(12..16);
            }
            match frames::parse(&frame) {
                Some((_, number)) if number == sentinel => return true,
                found => numbers.extend(found.map(|(_, number)| number)),
            }
        }
        false
    });
    numbers
}

pub(super) fn a_vf_joins_the_vlans_it_may(rig: &mut Rig) {
    rig.start(Setup { policy: policy(), ..Setup::default() }, 3);
    for vf in 0..3 {
        rig.probe(vf);
    }
    assert_eq!(rig.request(0, VfRequest::AddVlan(200)), Status::Denied, "not in the list");
    assert_eq!(rig.config(0).vlans, NO_VLAN);
    for vf in [0, 1] {
        assert_eq!(rig.request(vf, VfRequest::AddVlan(100)), Status::Ok);
        assert_eq!(rig.config(vf).vlans, [100]);
    }
    let (from, to) = (rig.mac(Station::Vf(0)), MacAddress::BROADCAST);
    let frame = frames::tagged(&frames::frame(to, from, 5000, SHORTEST), 100);
    rig.send_raw(Station::Vf(0), &frame).expect("it is sent");
    assert_eq!(any_tag(rig, Station::Vf(0), Station::Vf(1)), [5000]);
    assert_eq!(any_tag(rig, Station::Vf(0), Station::Vf(2)), NONE, "VF 2 is not in the VLAN");
    assert_eq!(rig.request(0, VfRequest::AddVlan(101)), Status::Ok);
    assert_eq!(rig.request(1, VfRequest::DelVlan(100)), Status::Ok);
    assert_eq!(rig.config(0).vlans, [100, 101]);
    assert_eq!(rig.config(1).vlans, NO_VLAN);
    rig.send_raw(Station::Vf(0), &frame).expect("it is sent");
    assert_eq!(any_tag(rig, Station::Vf(0), Station::Vf(1)), NONE, "VF 1 has left");
}

pub(super) fn a_port_vlan_allows_no_other(rig: &mut Rig) {
    rig.start_with_drivers(1);
    assert_eq!(rig.request(0, VfRequest::AddVlan(30)), Status::Ok);
    rig.pf(|pf| pf.set_vf_vlan(0, 10, 0)).expect("a VLAN");
    assert_eq!(rig.config(0).vlans, [10]);
    assert_eq!(rig.request(0, VfRequest::AddVlan(30)), Status::Denied);
    assert_ne!(rig.request(0, VfRequest::DelVlan(10)), Status::Ok, "the administrator's VLAN");
    assert_eq!(rig.config(0).vlans, [10]);
}
