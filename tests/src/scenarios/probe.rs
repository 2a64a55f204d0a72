//! Drivers come and go.

use igb::FunctionId;
use igb::{Register, vf};
use mediator::Backchannel;
use pf_driver::PfError;
use vfio_user::device::{Device, region};

use crate::rig::{Rig, Setup, Station, Wiring};

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
        assert_eq!(rig.num_vfs(), 0, "VFs outlive their PF driver");
        rig.start_pf(|_| ());
        rig.sriov_configure(2);
    }
    rig.probe(0);
    rig.probe(1);
    rig.all_reach_each_other();
}

pub(super) fn a_card_has_no_vf_before_the_pf_driver_makes_one(rig: &mut Rig) {
    rig.start(Setup::default(), 0);
    assert_eq!(rig.num_vfs(), 0);
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
        assert_eq!(rig.num_vfs(), 0);
    }
    rig.sriov_configure(3);
    assert_eq!(rig.num_vfs(), 3);
    let refused = rig.pf(|pf| pf.sriov_configure(4));
    assert!(matches!(refused, Err(PfError::VfsEnabled { enabled: 3 })), "{refused:?}");
    assert_eq!(rig.num_vfs(), 3);
    rig.sriov_configure(0);
    rig.sriov_configure(7);
    assert_eq!(rig.num_vfs(), 7);
}

/// Through the mediator always; without it where the card closes its mailbox, and where it does not the
/// mediator says so.
pub(super) fn the_cards_own_mailbox_is_out_of_reach(rig: &mut Rig) {
    const PATTERN: u32 = 0x5A5A_5A5A;
    rig.start(Setup::default(), 1);
    let open = rig.wiring() == Wiring::Hardware;
    let function = rig.vf_function(0);
    let expected = if open { Backchannel::Fenced } else { Backchannel::Closed };
    assert_eq!(rig.mediator().list()[0].backchannel, Some(expected));
    let device = rig.card().function(FunctionId::vf(0));
    let pf = rig.card().function(FunctionId::PF);
    let read = |device: &dyn Device, offset: u32| {
        let mut data = [0; 4];
        device.region_read(region::BAR0, offset.into(), &mut data).expect("a read");
        u32::from_le_bytes(data)
    };
    let (req, vfu) = (igb::V2PMAILBOX::REQ.mask(), igb::V2PMAILBOX::VFU.mask());
    let words = || (0..vf::VMBMEM::COUNT).map(vf::VMBMEM::offset);
    let relayed = |offset: u64, data: &[u8]| {
        function.write(region::BAR0, offset, data).expect("a write");
    };
    for offset in words() {
        relayed(offset.into(), &PATTERN.to_le_bytes());
    }
    relayed(vf::V2PMAILBOX::OFFSET.into(), &vfu.to_le_bytes());
    relayed(vf::V2PMAILBOX::OFFSET.into(), &req.to_le_bytes());
    // In other widths, and across the ends of the memory.
    for offset in words() {
        relayed(offset.into(), &PATTERN.to_le_bytes()[..1]);
        relayed(u64::from(offset) + 2, &PATTERN.to_le_bytes()[..2]);
    }
    let first = u64::from(vf::VMBMEM::OFFSET);
    relayed(first - 4, &[0x5A; 8]);
    relayed(first + 4 * u64::from(vf::VMBMEM::COUNT) - 4, &[0x5A; 8]);
    for offset in words() {
        assert_eq!(read(&*device, offset), 0, "word {offset:#x} of the card's mailbox");
    }
    assert_eq!(read(&*device, vf::V2PMAILBOX::OFFSET) & (req | vfu), 0);
    let rung = |pf: &dyn Device| igb::Value::<igb::MBVFICR>::from_raw(read(pf, igb::MBVFICR::OFFSET));
    assert_eq!(rung(&*pf).get(igb::MBVFICR::VFREQ), 0, "the card rang at the PF");

    let write = |offset: u32, value: u32| {
        device.region_write(region::BAR0, offset.into(), &value.to_le_bytes()).expect("a write");
    };
    for offset in words() {
        write(offset, PATTERN);
        let kept = read(&*device, offset);
        assert_eq!(kept, if open { PATTERN } else { 0 }, "mailbox word {offset:#x}");
    }
    write(vf::V2PMAILBOX::OFFSET, req | vfu);
    if !open {
        assert_eq!(read(&*device, vf::V2PMAILBOX::OFFSET) & (req | vfu), 0);
    }
    let granted = rig.pf(|pf| pf.arbiter().tally(0).map(|tally| tally.granted));
    assert_eq!(granted.unwrap_or(0), 0, "the PF granted something");
}
