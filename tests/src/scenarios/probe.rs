//! Drivers come and go.

use igb::FunctionId;
use igb::{Register, vf};
use pf_driver::PfError;
use vfio_user::device::region;

use crate::rig::{Rig, Setup, Station};

pub(super) fn twenty_vf_drivers_one_after_the_other(rig: &mut Rig) {
    rig.start(Setup::default(), 2);
    rig.probe(1);
    for _ in 0..20 {
        rig.probe(0);
        rig.reaches(Station::Vf(0), Station::Pf);
        rig.reaches(Station::Vf(1), Station::Vf(0));
        rig.remove(0);
    }
    rig.reaches(Station::Vf(1), Station::Pf);
}

pub(super) fn twenty_pf_drivers_one_after_the_other(rig: &mut Rig) {
    rig.start(Setup::default(), 2);
    for _ in 0..20 {
        rig.remove_pf();
        assert_eq!(rig.card().num_vfs(), 0, "VFs outlive their PF driver");
        rig.start_pf(|_| ());
        rig.sriov_configure(2);
    }
    rig.probe(0);
    rig.probe(1);
    rig.all_reach_each_other();
}

pub(super) fn a_card_has_no_vf_before_the_pf_driver_makes_one(rig: &mut Rig) {
    rig.start(Setup::default(), 0);
    assert_eq!(rig.card().num_vfs(), 0);
    assert!(rig.mediator().list().is_empty());
    for vf in 0..8 {
        assert!(rig.mediator().device(vf).is_none());
        assert!(matches!(rig.pf(move |pf| pf.get_vf_config(vf)), Err(PfError::NoSuchVf(_))));
    }
}

pub(super) fn the_number_of_vfs_is_bounded_and_fixed_while_enabled(rig: &mut Rig) {
    rig.start(Setup::default(), 0);
    let capabilities = rig.pf(|pf| pf.capabilities());
    assert!(capabilities.sriov);
    for wrong in [8, 9, 256, u16::MAX] {
        let refused = rig.pf(move |pf| pf.sriov_configure(wrong));
        assert!(matches!(refused, Err(PfError::TooManyVfs { .. })), "{wrong}: {refused:?}");
        assert_eq!(rig.card().num_vfs(), 0);
    }
    rig.sriov_configure(3);
    assert_eq!(rig.card().num_vfs(), 3);
    let refused = rig.pf(|pf| pf.sriov_configure(4));
    assert!(matches!(refused, Err(PfError::VfsEnabled { enabled: 3 })), "{refused:?}");
    assert_eq!(rig.card().num_vfs(), 3);
    rig.sriov_configure(0);
    rig.sriov_configure(7);
    assert_eq!(rig.card().num_vfs(), 7);
}

/// Seen from the card's own VF, without a mediator in between.
pub(super) fn the_hardware_mailbox_is_closed(rig: &mut Rig) {
    rig.start(Setup::default(), 1);
    let device = rig.card().function(FunctionId::vf(0));
    let write = |offset: u32, value: u32| {
        device.region_write(region::BAR0, offset.into(), &value.to_le_bytes()).expect("a write");
    };
    let read = |offset: u32| {
        let mut data = [0; 4];
        device.region_read(region::BAR0, offset.into(), &mut data).expect("a read");
        u32::from_le_bytes(data)
    };
    for word in 0..vf::VMBMEM::COUNT {
        write(vf::VMBMEM::offset(word), 0x5A5A_5A5A);
        assert_eq!(read(vf::VMBMEM::offset(word)), 0, "mailbox word {word}");
    }
    let (req, vfu) = (igb::V2PMAILBOX::REQ.mask(), igb::V2PMAILBOX::VFU.mask());
    write(vf::V2PMAILBOX::OFFSET, req | vfu);
    assert_eq!(read(vf::V2PMAILBOX::OFFSET) & (req | vfu), 0);
    assert_eq!(rig.pf(|pf| pf.arbiter().tally(0).map(|tally| tally.granted)), None, "the PF heard it");
}
