//! What a VF asks for, and what the administrator sets.

use igb::MacAddress;
use igb_driver::netdev::NetDevice;
use pf_driver::LinkState;
use vf_driver::{Status, VfRequest};

use super::traffic::after;
use crate::frames::{NONE};
use crate::frames::SHORTEST;
use crate::rig::{Rig, Station};

const VF0: Station = Station::Vf(0);
const VF1: Station = Station::Vf(1);

fn address(last: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0xAB, 0, last])
}

pub(super) fn a_mac_is_granted(rig: &mut Rig) {
    rig.start_with_drivers(2);
    let old = rig.mac(VF0);
    assert_eq!(rig.request(0, VfRequest::SetMac(address(1).bytes())), Status::Ok);
    assert_eq!((rig.mac(VF0), rig.config(0).mac), (address(1), address(1)));
    rig.all_reach_each_other();
    rig.send(VF1, old, SHORTEST);
    assert_eq!(after(rig, VF1, VF0), NONE, "the old address is still received");
}

pub(super) fn an_admin_mac_stays(rig: &mut Rig) {
    rig.start_with_drivers(2);
    rig.pf(|pf| pf.set_vf_mac(0, address(2))).expect("an address");
    rig.wait("the VF to learn its address", |rig| rig.mac(VF0) == address(2));
    let before = rig.config(0);
    assert_eq!(before.admin_mac, Some(address(2)));
    assert_eq!(rig.request(0, VfRequest::SetMac(address(3).bytes())), Status::Denied);
    assert_ne!(rig.request(0, VfRequest::DelMac(address(2).bytes())), Status::Ok);
    assert_eq!(rig.config(0), before);
    // A reset does not lose it, and neither does a new tenant.
    rig.vf(0).driver.reset().expect("a reset");
    assert_eq!(rig.mac(VF0), address(2));
    rig.remove(0);
    rig.probe(0);
    assert_eq!(rig.mac(VF0), address(2));
    rig.all_reach_each_other();
    // With trust it may.
    rig.pf(|pf| pf.set_vf_trust(0, true)).expect("trust");
    assert_eq!(rig.request(0, VfRequest::SetMac(address(3).bytes())), Status::Ok);
    rig.all_reach_each_other();
}

pub(super) fn anothers_mac_is_refused(rig: &mut Rig) {
    rig.start_with_drivers(2);
    let before = (rig.config(0), rig.config(1));
    for taken in [rig.mac(VF1), rig.mac(Station::Pf)] {
        assert_eq!(rig.request(0, VfRequest::SetMac(taken.bytes())), Status::Denied);
        assert_eq!(rig.request(0, VfRequest::AddMac(taken.bytes())), Status::Denied);
        let refused = rig.pf(move |pf| pf.set_vf_mac(0, taken));
        assert!(matches!(refused, Err(pf_driver::PfError::MacInUse(_))), "{refused:?}");
    }
    assert_eq!((rig.config(0), rig.config(1)), before);
    rig.all_reach_each_other();
}

pub(super) fn addresses_of_no_station_are_refused(rig: &mut Rig) {
    rig.start_with_drivers(1);
    let before = rig.config(0);
    for wrong in [[0; 6], [0xFF; 6], [1, 0, 0x5E, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        assert_eq!(rig.request(0, VfRequest::SetMac(wrong)), Status::Invalid, "{wrong:x?}");
        assert_eq!(rig.request(0, VfRequest::AddMac(wrong)), Status::Invalid, "{wrong:x?}");
    }
    assert_eq!(rig.config(0), before);
}

pub(super) fn unicast_promiscuity_needs_trust(rig: &mut Rig) {
    rig.start_with_drivers(2);
    let ask = VfRequest::SetPromisc { unicast: true, multicast: false };
    assert_eq!(rig.request(0, ask), Status::Denied);
    assert!(!rig.config(0).promisc_unicast);
    rig.send(VF1, address(9), SHORTEST);
    assert_eq!(after(rig, VF1, VF0), NONE);
    rig.pf(|pf| pf.set_vf_trust(0, true)).expect("trust");
    assert_eq!(rig.request(0, ask), Status::Ok);
    let number = rig.send(VF1, address(9), SHORTEST);
    assert_eq!(rig.receive(VF0, number), [number], "unknown unicast");
    rig.pf(|pf| pf.set_vf_trust(0, false)).expect("no trust");
    assert!(!rig.config(0).promisc_unicast, "trust is gone, and what it granted");
    rig.send(VF1, address(9), SHORTEST);
    assert_eq!(after(rig, VF1, VF0), NONE);
}

pub(super) fn additional_addresses_end(rig: &mut Rig) {
    rig.start_with_drivers(2);
    let most = rig.pf(|pf| pf.arbiter().switch.vport(0).map(|vport| vport.policy.max_mac_filters));
    let most = most.expect("a VPort");
    for n in 0..most {
        assert_eq!(rig.request(0, VfRequest::AddMac(address(0x10 + n).bytes())), Status::Ok);
        let number = rig.send(VF1, address(0x10 + n), SHORTEST);
        assert_eq!(rig.receive(VF0, number), [number]);
    }
    assert_eq!(rig.request(0, VfRequest::AddMac(address(0x80).bytes())), Status::Exhausted);
    assert_eq!(rig.config(0).extra_macs.len(), usize::from(most));
    // The sibling's share is untouched.
    assert_eq!(rig.request(1, VfRequest::AddMac(address(0x81).bytes())), Status::Ok);
    assert_eq!(rig.request(0, VfRequest::DelMac(address(0x10).bytes())), Status::Ok);
    assert_eq!(rig.request(0, VfRequest::AddMac(address(0x80).bytes())), Status::Ok);
}

pub(super) fn the_pf_bounds_the_mtu(rig: &mut Rig) {
    rig.start_with_drivers(2);
    for wrong in [0, 1, 67, 1501, 9000, 9216, 0x1_0000, u32::MAX] {
        assert_ne!(rig.request(0, VfRequest::SetMtu(wrong)), Status::Ok, "{wrong}");
        assert_eq!(rig.config(0).mtu, 1500);
    }
    assert_eq!(rig.request(0, VfRequest::SetMtu(1400)), Status::Ok);
    assert_eq!((rig.config(0).mtu, rig.config(1).mtu), (1400, 1500));
    // The PF's own is the bound for all.
    rig.pf(|pf| pf.set_mtu(1280)).expect("an MTU");
    rig.wait("both to learn of it", |rig| [0, 1].iter().all(|vf| rig.vf(*vf).driver.mtu() == 1280));
    rig.all_reach_each_other();
}

pub(super) fn each_vf_sees_its_own_link(rig: &mut Rig) {
    fn carriers(rig: &mut Rig) -> [bool; 3] {
        [0, 1, 2].map(|vf| rig.vf(vf).driver.carrier())
    }
    let wait = |rig: &mut Rig, wanted: [bool; 3]| {
        rig.wait(&format!("carriers {wanted:?}"), |rig| carriers(rig) == wanted);
    };
    rig.start_with_drivers(3);
    wait(rig, [true; 3]);
    rig.pf(|pf| pf.set_vf_link_state(0, LinkState::Disable)).expect("a link state");
    rig.pf(|pf| pf.set_vf_link_state(1, LinkState::Enable)).expect("a link state");
    wait(rig, [false, true, true]);
    rig.card().set_link(false);
    wait(rig, [false, true, false]);
    rig.card().set_link(true);
    wait(rig, [false, true, true]);
    rig.reaches(VF1, Station::Vf(2));
    rig.pf(|pf| pf.set_vf_link_state(0, LinkState::Auto)).expect("a link state");
    rig.pf(|pf| pf.set_vf_link_state(1, LinkState::Auto)).expect("a link state");
    wait(rig, [true; 3]);
    rig.all_reach_each_other();
}
