//! The end of a tenant, of a VF, of all VFs.

use std::sync::Arc;
use std::time::Duration;

use igb::{Register, vf};
use igb_driver::netdev::NetDevice;
use mediator_protocol::bar;
use mediator_protocol::block::MulticastList;
use vf_driver::{Status, VfRequest};
use vfio_user::device::region;

use crate::frames::{NONE};
use crate::frames::SHORTEST;
use crate::raw::Raw;
use crate::rig::{PATIENCE, Rig, Station};

/// A tenant leaves its marks wherever it can.
fn mark(rig: &mut Rig) {
    let list = MulticastList::new(&[[0x33, 0x33, 0, 0, 0, 7]]).expect("an address");
    for request in [
        VfRequest::SetMac([2, 0, 0, 0, 0x77, 0x77]),
        VfRequest::AddMac([2, 0, 0, 0, 0x77, 0x78]),
        VfRequest::AddVlan(77),
        VfRequest::SetMulticast { append: false, list },
        VfRequest::SetPromisc { unicast: false, multicast: true },
        VfRequest::SetMtu(1400),
    ] {
        assert_eq!(rig.request(0, request), Status::Ok, "{request:?}");
    }
    rig.all_reach_each_other();
    let raw = Raw(Arc::clone(&rig.vf(0).function));
    raw.0.write(bar::INDEX, bar::BUFFER, &[0x77; 128]).expect("a write");
    for word in 0..vf::VMBMEM::COUNT {
        raw.set::<vf::VMBMEM>(word, 0x7777_7777);
    }
    for offset in (0..0x1000).step_by(4) {
        // Queue 1, and what no queue uses.
        if !(0x800..0x900).contains(&offset) {
            raw.write(region::BAR0, 0x2000 + offset, 0x7777_7777);
            raw.write(region::BAR0, 0x3000 + offset, 0x7777_7777);
        }
    }
    raw.set::<vf::VTIVAR>(0, 0x8181_8181);
    raw.set::<vf::VTEITR>(2, 0x7770);
}

fn nothing_left(rig: &mut Rig, fresh: &pf_driver::VfConfig, generation: u32) {
    let raw = Raw(rig.vf_function(0));
    let left = |offset: u64| (offset, raw.read(region::BAR0, offset));
    let expected = |offset: u64, value: u32| {
        let decoded = igb::vf::decode(0, offset as u32);
        let reset = decoded.map_or(0, |register| register.id.info().reset);
        value == 0 || value == reset
    };
    for page in [0x2000, 0x3000] {
        for (offset, value) in (0..0x1000).step_by(4).map(|at| left(page + at)) {
            assert!(expected(offset, value), "{offset:#x} holds {value:#x}");
            assert_ne!(value, 0x7777_7777, "{offset:#x}");
        }
    }
    for word in 0..vf::VMBMEM::COUNT {
        assert_eq!(raw.get::<vf::VMBMEM>(word), 0, "mailbox word {word}");
    }
    let mut buffer = [0xAA; 128];
    raw.0.read(bar::INDEX, bar::BUFFER, &mut buffer).expect("a read");
    assert_eq!(buffer, [0; 128], "the block buffer");
    assert_eq!(raw.get::<vf::VTIVAR>(0), 0);
    assert_eq!(raw.get::<vf::VTEITR>(2), 0);
    assert!(raw.bar(bar::Register::Generation) > generation, "the generation stands still");
    drop(raw);
    // Resets are told to the PF driver before the VF's next request, and may come merged.
    rig.wait("the PF driver to hear of the reset", |rig| {
        rig.config(0).generation > fresh.generation
    });
    let config = rig.config(0);
    assert_eq!(pf_driver::VfConfig { generation: 0, phase: fresh.phase, ..config.clone() }, pf_driver::VfConfig { generation: 0, ..fresh.clone() });
    // The old tenant's address reaches nobody.
    rig.probe(0);
    rig.send(Station::Vf(1), igb::MacAddress::new([2, 0, 0, 0, 0x77, 0x77]), SHORTEST);
    rig.send(Station::Vf(1), igb::MacAddress::new([2, 0, 0, 0, 0x77, 0x78]), SHORTEST);
    assert_eq!(super::traffic::after(rig, Station::Vf(1), Station::Vf(0)), NONE);
    rig.all_reach_each_other();
}

pub(super) fn the_next_tenant_sees_nothing(rig: &mut Rig) {
    rig.start_with_drivers(2);
    let fresh = rig.config(0);
    mark(rig);
    let generation = Raw(Arc::clone(&rig.vf(0).function)).bar(bar::Register::Generation);
    rig.remove(0);
    nothing_left(rig, &fresh, generation);
}

pub(super) fn a_tenant_that_crashed_leaves_nothing(rig: &mut Rig) {
    rig.start_with_drivers(2);
    let fresh = rig.config(0);
    mark(rig);
    let generation = Raw(Arc::clone(&rig.vf(0).function)).bar(bar::Register::Generation);
    rig.crash(0);
    nothing_left(rig, &fresh, generation);
}

pub(super) fn vfs_are_disabled_in_mid_traffic(rig: &mut Rig) {
    rig.start_with_drivers(3);
    let targets = [1, 2, 0].map(|vf| rig.mac(Station::Vf(vf)));
    for _ in 0..60 {
        for (from, to) in (0..).map(Station::Vf).zip(targets) {
            rig.send(from, to, SHORTEST);
        }
    }
    rig.sriov_configure(0);
    assert_eq!(rig.num_vfs(), 0);
    rig.wait("the VF drivers to notice", |rig| (0..3).all(|vf| rig.vf(vf).driver.gone()));
    // A driver that was asked lets go before its VF has left the bus.
    rig.wait("the VFs to leave the bus", |rig| {
        (0..3).all(|vf| rig.vf(vf).function.lost() && rig.mediator().device(vf).is_none())
    });
    for vf in 0..3 {
        rig.remove(vf);
    }
    rig.sriov_configure(3);
    for vf in 0..3 {
        rig.probe(vf);
    }
    rig.all_reach_each_other();
}

pub(super) fn a_revoked_vf_comes_back(rig: &mut Rig) {
    rig.start_with_drivers(3);
    rig.mediator().revoke(0).expect("a VF on the bus");
    rig.wait("the VF driver to notice", |rig| rig.vf(0).driver.gone());
    rig.remove(0);
    rig.all_reach_each_other();
    assert!(rig.mediator().device(0).is_none());
    rig.pf(|pf| pf.offer_vf(0)).expect("an offer");
    rig.probe(0);
    rig.all_reach_each_other();
}

/// Nobody lets go of VF 0, so it is taken.
pub(super) fn an_ejected_vf_leaves_others_alone(rig: &mut Rig) {
    rig.start_with_drivers(2);
    rig.pf(|pf| pf.eject_vf(0, Duration::from_millis(50))).expect("an eject");
    rig.wait("the VF driver to notice", |rig| rig.vf(0).driver.gone());
    assert!(rig.mediator().wait_absent(0, PATIENCE));
    rig.remove(0);
    rig.all_reach_each_other();
    rig.pf(|pf| pf.offer_vf(0)).expect("an offer");
    rig.probe(0);
    rig.all_reach_each_other();
}
