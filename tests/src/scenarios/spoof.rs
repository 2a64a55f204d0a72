//! Frames that are not what a VF may send.

use igb::MacAddress;
use igb_model::DropReason;

use super::traffic::after;
use crate::frames::{NONE};
use crate::frames::{self, SHORTEST};
use crate::rig::{Rig, Station};

const VF0: Station = Station::Vf(0);
const VF1: Station = Station::Vf(1);
const VF2: Station = Station::Vf(2);

pub(super) fn a_spoofed_mac_is_dropped_and_counted(rig: &mut Rig) {
    rig.start_with_drivers(3);
    let (to, sibling) = (rig.mac(VF1), rig.mac(VF2));
    let sources = [sibling, rig.mac(Station::Pf), MacAddress::new([2, 0xEE, 0, 0, 0, 1])];
    for source in sources {
        rig.send_raw(VF0, &frames::frame(to, source, 7000, SHORTEST)).expect("it is sent");
    }
    assert_eq!(after(rig, VF0, VF1), NONE, "a spoofed frame came through");
    rig.wait("the drops to be counted", |rig| rig.drops(VF0, DropReason::SpoofedMac) == 3);
    rig.wait("the PF driver to hear of it", |rig| {
        rig.pf(|pf| pf.get_vf_stats(0)).expect("counters").tx_spoofed > 0
    });
    assert_eq!(rig.drops(VF2, DropReason::SpoofedMac), 0, "counted for another VF");
    // The administrator may allow it.
    rig.pf(|pf| pf.set_vf_spoofchk(0, false)).expect("no check");
    rig.send_raw(VF0, &frames::frame(to, sources[2], 7001, SHORTEST)).expect("it is sent");
    assert_eq!(after(rig, VF0, VF1), [7001]);
}

pub(super) fn a_vlan_not_its_own_is_dropped(rig: &mut Rig) {
    rig.start_with_drivers(3);
    let (from, to) = (rig.mac(VF0), rig.mac(VF1));
    let frame = frames::tagged(&frames::frame(to, from, 7002, SHORTEST), 55);
    rig.send_raw(VF0, &frame).expect("it is sent");
    rig.wait("the drop to be counted", |rig| rig.drops(VF0, DropReason::SpoofedVlan) == 1);
    // A VF in a port VLAN tags nothing itself.
    rig.pf(|pf| pf.set_vf_vlan(0, 10, 0)).expect("a VLAN");
    rig.pf(|pf| pf.set_vf_vlan(1, 10, 0)).expect("a VLAN");
    rig.send_raw(VF0, &frame).expect("it is sent");
    rig.wait("the drop to be counted", |rig| {
        let report = rig.report(VF0);
        report.drops.get(DropReason::TagNotAllowed) + report.drops.get(DropReason::SpoofedVlan) == 2
    });
    let count = rig.report(VF1).rx_packets;
    assert_eq!(after(rig, VF0, VF1), NONE);
    rig.wait("the counter", |rig| rig.report(VF1).rx_packets > count);
    assert_eq!(rig.report(VF1).rx_packets, count + 1, "a tagged frame came through");
}

pub(super) fn a_pause_frame_reaches_nobody(rig: &mut Rig) {
    rig.start_with_drivers(3);
    let mut frame = vec![1, 0x80, 0xC2, 0, 0, 1];
    frame.extend(rig.mac(VF0).bytes());
    frame.extend([0x88, 0x08, 0, 1, 0xFF, 0xFF]);
    frame.resize(SHORTEST, 0);
    let before = [VF1, VF2, Station::Pf].map(|station| rig.report(station).rx_packets);
    rig.send_raw(VF0, &frame).expect("it is sent");
    rig.wait("the card to have taken it", |rig| {
        let report = rig.report(VF0);
        report.tx_packets + report.drops.total() > 0
    });
    for (station, before) in [VF1, VF2, Station::Pf].into_iter().zip(before) {
        assert_eq!(rig.report(station).rx_packets, before, "{station:?} got a pause frame");
    }
    rig.all_reach_each_other();
}
