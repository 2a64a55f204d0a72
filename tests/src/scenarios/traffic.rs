//! Frames between all stations.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use igb::{FunctionId, MacAddress, Register, vf};
use igb_driver::netdev::{NetDevice, XmitError};
use iommu::memory::{MapAccess, SharedMemory};
use mediator_protocol::block::MulticastList;
use vf_driver::{Status, VfRequest};
use vfio_user::device::region;

use crate::frames::{NONE};
use crate::frames::SHORTEST;
use crate::raw::Raw;
use crate::rig::{Rig, Setup, Station, Wiring};

/// Frames under way at a time: fewer than a ring has room for, so that none may be lost.
const BURST: usize = 64;
/// Longest frame at an MTU of 1500.
const LONGEST: usize = 1514;

/// Room that a driver leaves for a VLAN tag.
const TAG: usize = 4;

const VF0: Station = Station::Vf(0);
const VF1: Station = Station::Vf(1);
const VF2: Station = Station::Vf(2);

pub(super) fn every_station_reaches_every_other(rig: &mut Rig) {
    rig.start_with_drivers(7);
    rig.all_reach_each_other();
}

pub(super) fn every_size_arrives_intact(rig: &mut Rig) {
    rig.start_with_drivers(2);
    for (from, to) in [(VF0, VF1), (VF1, Station::Pf), (Station::Pf, VF0)] {
        let address = rig.mac(to);
        let sizes: Vec<usize> = (SHORTEST..130).chain((130..LONGEST).step_by(37)).chain(LONGEST - 9..=LONGEST).collect();
        for burst in sizes.chunks(BURST) {
            let sent: Vec<u32> = burst.iter().map(|length| rig.send(from, address, *length)).collect();
            // Contents and lengths are checked on arrival.
            let last = *sent.last().expect("a frame");
            assert_eq!(rig.receive(to, last), sent, "{from:?} to {to:?}");
        }
    }
}

pub(super) fn ten_thousand_frames_in_order(rig: &mut Rig) {
    rig.start_with_drivers(2);
    let address = rig.mac(VF1);
    let mut left = 10_000;
    while left > 0 {
        let burst = BURST.min(left);
        let sent: Vec<u32> = (0..burst).map(|n| rig.send(VF0, address, SHORTEST + n % 200)).collect();
        let last = *sent.last().expect("a frame");
        assert_eq!(rig.receive(VF1, last), sent);
        left -= burst;
    }
    rig.wait("the card's counters", |rig| {
        rig.report(VF0).tx_packets == 10_000 && rig.report(VF1).rx_packets == 10_000
    });
    assert_eq!(rig.report(VF0).drops.total() + rig.report(VF1).drops.total(), 0);
}

pub(super) fn broadcast_reaches_all_but_its_sender(rig: &mut Rig) {
    rig.start_with_drivers(3);
    for from in [VF0, Station::Pf] {
        let number = rig.send(from, MacAddress::BROADCAST, SHORTEST);
        for to in [VF0, VF1, VF2, Station::Pf].into_iter().filter(|to| *to != from) {
            assert_eq!(rig.receive(to, number), [number], "{to:?}");
        }
        // What came before a frame that comes later has come already.
        assert_eq!(after(rig, VF1, from), NONE, "{from:?} got its own broadcast");
    }
}

/// What `to` has received before a frame that `from` sends now.
pub(super) fn after(rig: &mut Rig, from: Station, to: Station) -> Vec<u32> {
    let address = rig.mac(to);
    let sentinel = rig.send(from, address, SHORTEST);
    let mut taken = rig.receive(to, sentinel);
    taken.pop();
    taken
}

pub(super) fn multicast_reaches_its_group(rig: &mut Rig) {
    rig.start_with_drivers(3);
    let group = MacAddress::new([0x33, 0x33, 0, 0, 0x12, 0x34]);
    let list = MulticastList::new(&[group.bytes()]).expect("one address");
    assert_eq!(rig.request(1, VfRequest::SetMulticast { append: false, list }), Status::Ok);
    let number = rig.send(VF0, group, SHORTEST);
    assert_eq!(rig.receive(VF1, number), [number]);
    assert_eq!(after(rig, VF0, VF2), NONE, "VF 2 is not in the group");
    assert_eq!(after(rig, VF1, VF0), NONE, "the sender is not in the group");
    // And no longer, once it has left.
    let none = MulticastList::new(&[]).expect("no address");
    assert_eq!(rig.request(1, VfRequest::SetMulticast { append: false, list: none }), Status::Ok);
    rig.send(VF0, group, SHORTEST);
    assert_eq!(after(rig, VF0, VF1), NONE);
}

pub(super) fn unknown_unicast_reaches_nobody(rig: &mut Rig) {
    rig.start_with_drivers(3);
    rig.send(VF0, MacAddress::new([2, 0xDE, 0xAD, 0, 0, 1]), SHORTEST);
    assert_eq!(after(rig, VF0, VF1), NONE);
    assert_eq!(after(rig, VF0, VF2), NONE);
}

pub(super) fn jumbo_frames_after_both_asked(rig: &mut Rig) {
    rig.start(Setup { mtu: 9000, ..Setup::default() }, 2);
    rig.probe(0);
    rig.probe(1);
    let (source, target) = (rig.mac(VF0), rig.mac(VF1));
    let long = crate::frames::frame(target, source, 0, LONGEST + TAG + 1);
    assert!(matches!(rig.send_raw(VF0, &long), Err(XmitError::Long { .. })));
    for vf in [0, 1] {
        rig.vf(vf).driver.set_mtu(9000).expect("the PF allows it");
        assert_eq!(rig.config(vf).mtu, 9000);
    }
    for length in [LONGEST + 1, 2048, 4096, 9014] {
        let number = rig.send(VF0, target, length);
        assert_eq!(rig.receive(VF1, number), [number]);
    }
    assert!(rig.vf(0).driver.set_mtu(9001).is_err(), "beyond the PF's MTU");
    rig.all_reach_each_other();
}

/// A write that has returned does not come after a later store to the same page; of hardware there is
/// none to store to.
pub(super) fn a_write_is_done_before_what_follows(rig: &mut Rig) {
    rig.start_with_drivers(1);
    let raw = Raw(Arc::clone(&rig.vf(0).function));
    let mut bar = raw.0.region(region::BAR0).expect("BAR0");
    if rig.wiring() == Wiring::Hardware {
        assert!(bar.fd.is_none(), "registers of hardware are nobody's memory");
        let card = rig.card().function(FunctionId::vf(0));
        for n in 1..=1000 {
            raw.set::<vf::TDBAL>(1, n << 8);
            let mut seen = [0; 4];
            card.region_read(region::BAR0, vf::TDBAL::offset(1).into(), &mut seen).expect("a read");
            assert_eq!(u32::from_le_bytes(seen), n << 8, "the write is still under way");
        }
        return;
    }
    let file = bar.fd.take().expect("pages to map");
    let end = bar.sparse.iter().map(|area| area.offset + area.size).max().expect("an area");
    let pages = SharedMemory::map(file, bar.fd_offset, end as usize, MapAccess::ReadWrite);
    let pages = pages.expect("a mapping");
    // The second queue's, which nobody uses.
    let at = vf::TDBAL::offset(1) as usize;
    for n in 1..=1000 {
        raw.set::<vf::TDBAL>(1, n << 8);
        assert_eq!(pages.load_u32(at, Ordering::SeqCst), n << 8, "the write is still under way");
        pages.store_u32(at, 0, Ordering::SeqCst);
    }
    assert_eq!(raw.get::<vf::TDBAL>(1), 0);
}
