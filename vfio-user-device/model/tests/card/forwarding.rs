//! Frames between functions and the wire.

use igb::descriptor::{TxCommand, TxContext, TxData};
use igb::queue_page::QueueRegister;
use igb::*;
use igb_model::*;
use proptest::prelude::*;

use crate::world::*;

#[test]
fn a_frame_goes_from_vf_to_vf_and_nowhere_else() {
    let mut w = World::open(3);
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 777);
    w.send(vf(0), &sent);
    assert_eq!(w.take(vf(1)), [sent]);
    for other in [PF, vf(0), vf(2)] {
        assert!(w.take(other).is_empty());
    }
    assert!(w.host.wire.is_empty());
    assert_eq!(
        (w.report(vf(0)).tx_packets, w.report(vf(0)).tx_bytes),
        (1, 777)
    );
    assert_eq!(
        (w.report(vf(1)).rx_packets, w.report(vf(1)).rx_bytes),
        (1, 777)
    );
    assert_eq!(w.get::<vf::VFGPTC>(vf(0)).raw(), 1);
    assert_eq!(w.get::<vf::VFGORC>(vf(1)).raw(), 781);
    assert_eq!(w.get::<vf::VFGPRLBC>(vf(1)).raw(), 1);
    assert_eq!(w.get_at::<PVFGPRC>(PF, 1).raw(), 1);
}

#[test]
fn every_vf_and_the_pf_reach_each_other() {
    let mut w = World::open(7);
    let all: Vec<FunctionId> = FunctionId::all().take(8).collect();
    for from in &all {
        for to in &all {
            let sent = frame(mac_of(*to), mac_of(*from), 60 + to.slot());
            w.send(*from, &sent);
            let want = if from == to { vec![] } else { vec![sent] };
            assert_eq!(w.take(*to), want, "{from} to {to}");
        }
        assert_eq!(w.dropped(*from, DropReason::SourceOnly), 1);
    }
    assert!(w.host.wire.is_empty());
}

#[test]
fn a_broadcast_reaches_all_but_its_sender_and_the_wire() {
    let mut w = World::open(3);
    let sent = frame(MacAddress::BROADCAST, mac_of(vf(1)), 100);
    w.send(vf(1), &sent);
    for other in [PF, vf(0), vf(2)] {
        assert_eq!(w.take(other), std::slice::from_ref(&sent));
    }
    assert!(w.take(vf(1)).is_empty());
    assert_eq!(w.host.wire, [sent]);
    assert_eq!(w.get::<BPTC>(PF).raw(), 1);
    assert_eq!(w.get::<BPTC>(PF).raw(), 0, "a read clears");
}

#[test]
fn own_frames_come_back_only_with_lle() {
    let mut w = World::open(2);
    let dtxswc = w.get::<DTXSWC>(PF).with(DTXSWC::LLE, 0b10);
    w.set(PF, dtxswc);
    let sent = frame(MacAddress::BROADCAST, mac_of(vf(1)), 100);
    w.send(vf(1), &sent);
    assert_eq!(w.take(vf(1)), [sent]);
}

#[test]
fn unknown_unicast_leaves_the_card() {
    let mut w = World::open(2);
    let stranger = MacAddress([2, 9, 9, 9, 9, 9]);
    let sent = frame(stranger, mac_of(vf(0)), 64);
    w.send(vf(0), &sent);
    assert_eq!(w.host.wire, std::slice::from_ref(&sent));
    // A pool that asked for the address's hash sees it too.
    let vmolr = w.get_at::<VMOLR>(PF, 1).set(VMOLR::ROPE);
    w.set_at(PF, 1, vmolr);
    w.send(vf(0), &sent);
    assert!(w.take(vf(1)).is_empty(), "the hash is not in UTA yet");
    let hash = u32::from(stranger.hash(0));
    w.set_at(PF, hash / 32, Value::<UTA>::from_raw(1 << (hash % 32)));
    w.send(vf(0), &sent);
    assert_eq!(w.take(vf(1)), [sent]);
    assert_eq!(w.host.wire.len(), 3);
}

#[test]
fn multicast_goes_by_hash_or_promiscuous() {
    let mut w = World::open(3);
    let group = MacAddress([1, 0, 0x5E, 1, 2, 3]);
    let sent = frame(group, mac_of(PF), 64);
    for (pool, field) in [(0, VMOLR::ROMPE), (1, VMOLR::MPME)] {
        let vmolr = w.get_at::<VMOLR>(PF, pool).set(field);
        w.set_at(PF, pool, vmolr);
    }
    w.send(PF, &sent);
    assert!(w.take(vf(0)).is_empty());
    assert_eq!(w.take(vf(1)), std::slice::from_ref(&sent));
    let hash = u32::from(group.hash(0));
    w.set_at(PF, hash / 32, Value::<MTA>::from_raw(1 << (hash % 32)));
    w.send(PF, &sent);
    assert_eq!(
        (
            w.take(vf(0)).len(),
            w.take(vf(1)).len(),
            w.take(vf(2)).len()
        ),
        (1, 1, 0)
    );
    assert_eq!(w.host.wire.len(), 2);
}

#[test]
fn frames_from_the_wire_find_their_pool() {
    let mut w = World::open(2);
    let peer = MacAddress([2, 8, 8, 8, 8, 8]);
    let to_vf = frame(mac_of(vf(1)), peer, 1514);
    w.wire_sends(&to_vf);
    assert_eq!(w.take(vf(1)), [to_vf]);
    let all = frame(MacAddress::BROADCAST, peer, 60);
    w.wire_sends(&all);
    for f in [PF, vf(0), vf(1)] {
        assert_eq!(w.take(f), std::slice::from_ref(&all));
    }
    w.wire_sends(&frame(MacAddress([2, 7, 7, 7, 7, 7]), peer, 60));
    w.wire_sends(&all[..13]);
    let drops = &w.control.snapshot().uplink.drops;
    assert_eq!(
        (
            drops.get(DropReason::FilterMac),
            drops.get(DropReason::Runt)
        ),
        (1, 1)
    );
    assert_eq!((w.get::<TPR>(PF).raw(), w.get::<GPRC>(PF).raw()), (3, 2));
    assert_eq!(w.get::<PRC64>(PF).raw(), 2);
    // With unicast promiscuous the default pool takes what nobody knows.
    let rctl = w.get::<RCTL>(PF).set(RCTL::UPE);
    w.set(PF, rctl);
    w.wire_sends(&frame(MacAddress([2, 7, 7, 7, 7, 7]), peer, 60));
    assert_eq!(w.take(PF).len(), 1);
}

#[test]
fn without_pools_the_pf_has_it_all() {
    let mut w = World::new();
    w.init_pf();
    w.open_queue(PF);
    let peer = MacAddress([2, 8, 8, 8, 8, 8]);
    let mine = frame(mac_of(PF), peer, 99);
    w.wire_sends(&mine);
    w.wire_sends(&frame(mac_of(vf(0)), peer, 99));
    assert_eq!(w.take(PF), std::slice::from_ref(&mine));
    let sent = frame(peer, mac_of(PF), 61);
    w.send(PF, &sent);
    assert_eq!(w.host.wire, [sent]);
    // Link down: neither way.
    let effects = w.control.set_link(false, &mut w.host);
    w.apply(effects);
    w.send(PF, &frame(peer, mac_of(PF), 61));
    w.wire_sends(&mine);
    assert_eq!(w.host.wire.len(), 1);
    assert!(w.take(PF).is_empty());
    assert_eq!(w.dropped(PF, DropReason::LinkDown), 1);
    assert_eq!(
        w.control.snapshot().uplink.drops.get(DropReason::LinkDown),
        1
    );
}

#[test]
fn a_frame_longer_than_a_buffer_takes_several_descriptors() {
    let mut w = World::open(2);
    let vmolr = w
        .get_at::<VMOLR>(PF, 1)
        .set(VMOLR::LPE)
        .with(VMOLR::RLPML, 0x2600);
    w.set_at(PF, 1, vmolr);
    for len in [2048, 2049, 4096, 9000, 9724] {
        let sent = frame(mac_of(vf(1)), mac_of(vf(0)), len);
        w.send(vf(0), &sent);
        assert_eq!(w.take(vf(1)), [sent], "{len}");
    }
    // The other VF has no long packets.
    let long = frame(mac_of(vf(0)), mac_of(vf(1)), 1515);
    w.send(vf(1), &long);
    assert_eq!(w.dropped(vf(0), DropReason::TooLong), 1);
    w.send(vf(1), &long[..1514]);
    assert_eq!(w.take(vf(0)).len(), 1);
}

#[test]
fn vlans_separate() {
    let mut w = World::open(4);
    w.add_vlan(0, 100, 0b0011);
    w.add_vlan(1, 200, 0b1100);
    let sent = |to: u8, from: u8, vid| tagged(&frame(mac_of(vf(to)), mac_of(vf(from)), 80), vid);
    w.send(vf(0), &sent(1, 0, 100));
    assert_eq!(w.take(vf(1)), [sent(1, 0, 100)]);
    // VF2 is in another VLAN: the frame leaves the card, as to an unknown address.
    w.send(vf(0), &sent(2, 0, 100));
    assert!(w.take(vf(2)).is_empty());
    assert_eq!(w.host.wire.len(), 1);
    let all = tagged(&frame(MacAddress::BROADCAST, mac_of(vf(2)), 80), 200);
    w.send(vf(2), &all);
    assert_eq!(w.take(vf(3)), std::slice::from_ref(&all));
    for other in [PF, vf(0), vf(1), vf(2)] {
        assert!(w.take(other).is_empty());
    }
    // From the wire likewise.
    w.wire_sends(&sent(1, 3, 200));
    assert!(w.take(vf(1)).is_empty());
    // A VLAN nobody is in.
    w.wire_sends(&sent(1, 3, 300));
    assert_eq!(
        w.control
            .snapshot()
            .uplink
            .drops
            .get(DropReason::FilterVlan),
        1
    );
    // A pool that does not take untagged frames.
    let vmolr = w.get_at::<VMOLR>(PF, 1).clear(VMOLR::AUPE);
    w.set_at(PF, 1, vmolr);
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 80));
    assert!(w.take(vf(1)).is_empty());
}

#[test]
fn a_local_vlan_does_not_leave_the_card() {
    let mut w = World::open(2);
    w.add_vlan(0, 5, 0b11);
    let entry = w.get_at::<VLVF>(PF, 0).set(VLVF::LVLAN);
    w.set_at(PF, 0, entry);
    let all = tagged(&frame(MacAddress::BROADCAST, mac_of(vf(0)), 80), 5);
    w.send(vf(0), &all);
    assert_eq!(w.take(vf(1)), std::slice::from_ref(&all));
    w.send(
        vf(0),
        &tagged(&frame(MacAddress([2, 1, 1, 1, 1, 1]), mac_of(vf(0)), 80), 5),
    );
    assert!(w.host.wire.is_empty());
    assert_eq!(w.dropped(vf(0), DropReason::NoDestination), 1);
    w.wire_sends(&all);
    assert!(w.take(vf(1)).is_empty());
}

#[test]
fn a_capture_sees_every_port() {
    let mut w = World::open(2);
    w.host.capture = Some(Vec::new());
    let sent = frame(MacAddress::BROADCAST, mac_of(vf(0)), 300);
    w.send(vf(0), &sent);
    w.wire_sends(&sent[..60]);
    let got = w.host.capture.take().unwrap();
    let crossed: Vec<_> = got
        .iter()
        .map(|(port, direction, _)| (*port, *direction))
        .collect();
    let (of, ingress, egress) = (Port::Function, Direction::Ingress, Direction::Egress);
    assert_eq!(
        crossed,
        [
            (of(vf(0)), ingress),
            (of(vf(1)), egress),
            (of(PF), egress),
            (Port::Uplink, egress),
            (Port::Uplink, ingress),
            (of(vf(0)), egress),
            (of(vf(1)), egress),
            (of(PF), egress),
        ]
    );
    assert!(got[..4].iter().all(|(_, _, bytes)| *bytes == sent));
}

#[test]
fn senders_take_turns() {
    let mut w = World::open(3);
    for f in [vf(0), vf(1)] {
        for _ in 0..15 {
            w.queue_tx(f, &frame(mac_of(vf(2)), mac_of(f), 60), TxCommand::empty());
        }
        w.ring_tx(f);
    }
    // Sixteen buffers for thirty frames; each sender is heard.
    for _ in 0..4 {
        w.path.run(&mut w.host, &mut w.events);
        w.absorb();
        let sources: Vec<u8> = w.take(vf(2)).iter().map(|frame| frame[11]).collect();
        if sources.is_empty() {
            break;
        }
    }
    assert_eq!(w.report(vf(0)).tx_packets + w.report(vf(1)).tx_packets, 30);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However a frame lies in its sender's buffers and its receivers', and with or without a tag, it
    /// arrives as it was.
    #[test]
    fn a_frame_in_pieces_arrives_whole(
        len in 60usize..6000,
        cuts in prop::collection::vec(1usize..3000, 0..8),
        buffer in 1u32..4,
        insert in any::<bool>(),
        strip in any::<bool>(),
        capture in any::<bool>(),
    ) {
        let mut w = World::open(2);
        w.add_vlan(0, 9, 0b111);
        w.host.capture = capture.then(Vec::new);
        let mut vmolr = w.get_at::<VMOLR>(PF, 1).set(VMOLR::LPE).with(VMOLR::RLPML, 0x2600);
        if strip {
            vmolr = vmolr.set(VMOLR::STRVLAN);
        }
        w.set_at(PF, 1, vmolr);
        w.set_queue(vf(1), QueueRegister::RXDCTL, 0);
        w.driver(vf(1)).buffer = buffer * 1024;
        w.open_queue(vf(1));

        let sent = frame(mac_of(vf(1)), mac_of(vf(0)), len);
        let mut command = TxCommand::empty();
        if insert {
            w.push_tx(vf(0), TxContext::new(0, 14, 0).with_vlan_tag(9).to_bytes());
            command = TxCommand::VLE;
        }
        let mut at = 0;
        let mut cuts = cuts.into_iter();
        while at < len {
            let take = cuts.next().unwrap_or(len).min(len - at);
            // Pieces lie apart from each other.
            let place = w.tx_buffer(vf(0)) + 8;
            w.poke(vf(0), place, &sent[at..at + take]);
            at += take;
            let end = if at == len { TxCommand::EOP | TxCommand::RS } else { TxCommand::empty() };
            w.push_tx(vf(0), TxData::new(place, take as u16, command | end).to_bytes());
        }
        w.ring_tx(vf(0));
        w.run();
        let want = if insert && !strip { tagged(&sent, 9) } else { sent };
        prop_assert_eq!(w.take(vf(1)), [want]);
    }
}
