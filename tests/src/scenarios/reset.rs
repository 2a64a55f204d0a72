//! Resets of VFs and of the PF.

use std::sync::Arc;

use igb::pci::{express, offset};
use igb_driver::netdev::NetDevice;
use vf_driver::{Status, VfRequest};
use vfio_user::device::region;

use crate::frames::{NO_VLAN};
use crate::frames::SHORTEST;
use crate::rig::{Rig, Station};

pub(super) fn a_vf_resets_itself_in_mid_traffic(rig: &mut Rig) {
    rig.start_with_drivers(3);
    let (target, back) = (rig.mac(Station::Vf(1)), rig.mac(Station::Vf(0)));
    for round in 1..=10 {
        for _ in 0..40 {
            rig.send(Station::Vf(0), target, SHORTEST);
            rig.send(Station::Vf(1), back, SHORTEST);
        }
        rig.vf(0).driver.reset().expect("a reset");
        rig.reaches(Station::Vf(1), Station::Vf(2));
        rig.reaches(Station::Vf(0), Station::Vf(1));
        assert_eq!(rig.vf(0).driver.resets(), round);
    }
    rig.all_reach_each_other();
    assert_eq!((rig.vf(1).driver.resets(), rig.vf(2).driver.resets()), (0, 0));
}

/// The guest writes Initiate FLR, and the driver does not know.
pub(super) fn an_flr_under_the_driver(rig: &mut Rig) {
    rig.start_with_drivers(2);
    assert_eq!(rig.request(0, VfRequest::AddVlan(77)), Status::Ok);
    let before = (rig.config(0), rig.config(1));
    let function = Arc::clone(&rig.vf(0).function);
    let at = u64::from(offset::EXPRESS + express::DEVICE_CONTROL);
    function.write(region::CONFIG, at, &express::INITIATE_FLR.to_le_bytes()).expect("a write");
    rig.wait("the PF driver to hear of it", |rig| rig.config(0).generation > before.0.generation);
    assert_eq!(rig.config(0).vlans, NO_VLAN, "the VF's filters survived its reset");
    assert_eq!(rig.config(1), before.1);
    rig.vf(0).driver.reset().expect("a reset");
    rig.all_reach_each_other();
}

pub(super) fn a_pf_reset_under_vfs(rig: &mut Rig) {
    rig.start_with_drivers(2);
    rig.all_reach_each_other();
    rig.crash_pf();
    rig.start_pf(|options| options.reset = true);
    rig.wait("the VFs to begin anew", |rig| {
        [0, 1].iter().all(|vf| rig.vf(*vf).driver.resets() > 0 && !rig.vf(*vf).driver.is_waiting())
    });
    rig.all_reach_each_other();
}

pub(super) fn a_pf_driver_that_comes_back_adopts_its_vfs(rig: &mut Rig) {
    rig.start_with_drivers(2);
    rig.pf(|pf| pf.set_vf_spoofchk(1, false)).expect("a setting");
    assert_eq!(rig.request(0, VfRequest::AddVlan(9)), Status::Ok);
    let before = [0, 1].map(|vf| rig.config(vf));
    rig.crash_pf();
    rig.wait("the mediator to notice", |rig| !rig.mediator().pf_connected());
    // Nobody misses the PF but who asks it.
    rig.reaches(Station::Vf(0), Station::Vf(1));
    assert_eq!(rig.request(0, VfRequest::AddVlan(10)), Status::PfGone);
    rig.start_pf(|_| ());
    assert!(rig.pf(|pf| pf.adopted()));
    assert_eq!(before, [0, 1].map(|vf| rig.config(vf)));
    rig.wait("the VFs to be offered again", |rig| rig.mediator().list().iter().all(|slot| slot.pf));
    rig.all_reach_each_other();
    assert_eq!(rig.request(0, VfRequest::AddVlan(10)), Status::Ok);
    for vf in [0, 1] {
        assert_eq!(rig.vf(vf).driver.resets(), 0, "VF {vf} noticed");
        assert!(rig.vf(vf).driver.carrier());
    }
}
