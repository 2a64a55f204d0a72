//! VLAN tags, checksums, descriptor formats, write-back, rate limits.

use igb::descriptor::*;
use igb::queue_page::QueueRegister;
use igb::*;
use igb_model::*;

use crate::world::*;

fn vlan_world() -> World {
    let mut w = World::open(2);
    w.add_vlan(0, 9, 0b111);
    w
}

#[test]
fn a_tag_is_inserted_by_descriptor_and_stripped_by_pool() {
    let mut w = vlan_world();
    let plain = frame(mac_of(vf(1)), mac_of(vf(0)), 200);
    let send = |w: &mut World| {
        w.push_tx(
            vf(0),
            TxContext::new(0, 14, 0).with_vlan_tag(0x6009).to_bytes(),
        );
        w.queue_tx(vf(0), &plain, TxCommand::VLE);
        w.ring_tx(vf(0));
        w.run();
    };
    send(&mut w);
    assert_eq!(w.take(vf(1)), [tagged(&plain, 0x6009)]);
    let vmolr = w.get_at::<VMOLR>(PF, 1).set(VMOLR::STRVLAN);
    w.set_at(PF, 1, vmolr);
    send(&mut w);
    let (done, data) = w.take_descriptor(vf(1)).unwrap();
    assert_eq!((done.vlan_tag(), data), (Some(0x6009), plain.clone()));
    assert!(done.status().contains(RxStatus::LB | RxStatus::EOP));
    // A tag that is in the frame is stripped as well.
    w.send(vf(0), &tagged(&plain, 0x0009));
    let (done, data) = w.take_descriptor(vf(1)).unwrap();
    assert_eq!((done.vlan_tag(), data), (Some(9), plain));
}

#[test]
fn a_port_vlan_overrides_what_the_vf_wants() {
    let mut w = vlan_world();
    let vmvir = Value::<VMVIR>::default()
        .with(VMVIR::PORT_VLAN_ID, 9)
        .with(VMVIR::VLANA, 1);
    w.set_at(PF, 0, vmvir);
    let plain = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.send(vf(0), &plain);
    assert_eq!(w.take(vf(1)), [tagged(&plain, 9)]);
    w.send(vf(0), &tagged(&plain, 9));
    assert_eq!(w.dropped(vf(0), DropReason::TagNotAllowed), 1);
    w.push_tx(vf(0), TxContext::new(0, 14, 0).with_vlan_tag(77).to_bytes());
    w.queue_tx(vf(0), &plain, TxCommand::VLE);
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.take(vf(1)), [tagged(&plain, 9)]);
    w.set_at(PF, 0, Value::<VMVIR>::default().with(VMVIR::VLANA, 2));
    w.queue_tx(vf(0), &plain, TxCommand::VLE);
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.take(vf(1)), [plain]);
}

#[test]
fn replicated_frames_are_stripped_by_rplolr() {
    let mut w = vlan_world();
    w.set(PF, Value::<RPLOLR>::default().set(RPLOLR::STRVLAN));
    let plain = frame(MacAddress::BROADCAST, mac_of(vf(0)), 60);
    w.send(vf(0), &tagged(&plain, 9));
    assert_eq!(w.take(vf(1)), [plain]);
}

#[test]
fn checksums_are_inserted_where_asked_for() {
    let mut w = World::open(2);
    let mut sent = frame(mac_of(vf(1)), mac_of(vf(0)), 300);
    sent[12..14].copy_from_slice(&igb::frame::ETHERTYPE_IPV4.to_be_bytes());
    sent[14] = 0x45;
    // What lies in the field counts, so that drivers clear it.
    sent[24..26].fill(0);
    let context = TxContext::new(1, 14, 20)
        .with_options(ContextOptions::IPV4)
        .with_l4(L4Type::Udp, 8);
    w.push_tx(vf(0), context.to_bytes());
    let at = w.tx_buffer(vf(0));
    w.poke(vf(0), at, &sent);
    let data = TxData::new(at, 300, TxCommand::EOP | TxCommand::RS)
        .with_context(1)
        .with_options(TxOptions::IXSM | TxOptions::TXSM | TxOptions::CC);
    w.push_tx(vf(0), data.to_bytes());
    w.ring_tx(vf(0));
    w.run();
    let got = w.take(vf(1)).remove(0);
    let sum = |bytes: &[u8]| {
        let words = bytes
            .chunks(2)
            .map(|b| u64::from(b[0]) << 8 | u64::from(*b.get(1).unwrap_or(&0)));
        let mut sum: u64 = words.sum();
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum
    };
    assert_eq!(sum(&got[14..34]), 0xFFFF);
    // The checksum field held the pseudo header's sum, so that the rest sums to its complement.
    assert_eq!(sum(&got[34..]), 0xFFFF - sum(&sent[40..42]));
    assert_eq!(got[42..], sent[42..]);
    // Offsets outside the frame.
    let bad = TxContext::new(0, 127, 500).with_options(ContextOptions::IPV4);
    w.push_tx(vf(0), bad.to_bytes());
    let data = TxData::new(at, 60, TxCommand::EOP | TxCommand::RS).with_options(TxOptions::TXSM);
    w.push_tx(vf(0), data.to_bytes());
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.dropped(vf(0), DropReason::BadChecksumContext), 1);
}

#[test]
fn legacy_descriptors_work_both_ways() {
    let mut w = World::open(2);
    w.set_queue(vf(1), QueueRegister::RXDCTL, 0);
    let srrctl = Value::<SRRCTL>::default().with(SRRCTL::BSIZEPACKET, 2);
    w.set_queue(vf(1), QueueRegister::SRRCTL, srrctl.raw());
    w.set_queue(vf(1), QueueRegister::RXDCTL, RXDCTL::ENABLE.mask());
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 90);
    let at = w.tx_buffer(vf(0));
    w.poke(vf(0), at, &sent);
    let n = w.push_tx(
        vf(0),
        LegacyTx::new(at, 90, LegacyTxCommand::EOP | LegacyTxCommand::RS).to_bytes(),
    );
    w.ring_tx(vf(0));
    w.run();
    let raw: [u8; SIZE] = w.peek(vf(1), RX_RING, SIZE).try_into().unwrap();
    let done = LegacyRx::from_bytes(&raw);
    assert_eq!((done.length(), done.address()), (90, RX_BUFFERS));
    assert_eq!(done.status(), LegacyRxStatus::DD | LegacyRxStatus::EOP);
    assert_eq!(w.peek(vf(1), RX_BUFFERS, 90), sent);
    let raw: [u8; SIZE] = w
        .peek(vf(0), TX_RING + u64::from(n) * 16, SIZE)
        .try_into()
        .unwrap();
    assert!(TxWriteBack::from_bytes(&raw).is_done());
    assert_eq!(LegacyTx::from_bytes(&raw).address(), at);
}

#[test]
fn done_is_written_only_where_asked_for_or_the_head_instead() {
    let mut w = World::open(2);
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 90);
    let at = w.tx_buffer(vf(0));
    w.poke(vf(0), at, &sent);
    w.push_tx(vf(0), TxData::new(at, 90, TxCommand::EOP).to_bytes());
    w.push_tx(
        vf(0),
        TxData::new(at, 90, TxCommand::EOP | TxCommand::RS).to_bytes(),
    );
    w.ring_tx(vf(0));
    w.run();
    let done = |w: &World, n: u64| {
        let raw: [u8; SIZE] = w.peek(vf(0), TX_RING + n * 16, SIZE).try_into().unwrap();
        TxWriteBack::from_bytes(&raw).is_done()
    };
    assert!(!done(&w, 0) && done(&w, 1));
    assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 2);

    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    w.open_queue(vf(0));
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    w.set_queue(
        vf(0),
        QueueRegister::TDWBAL,
        0x7000 | TDWBAL::HEAD_WB_EN.mask(),
    );
    w.set_queue(vf(0), QueueRegister::TXDCTL, TXDCTL::ENABLE.mask());
    w.queue_tx(vf(0), &sent, TxCommand::empty());
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.peek(vf(0), 0x7000, 4), [1, 0, 0, 0]);
    assert!(!done(&w, 0));
}

#[test]
fn short_frames_are_padded_when_asked_for() {
    let mut w = World::open(2);
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 20);
    w.send(vf(0), &sent);
    assert_eq!(w.take(vf(1))[0].len(), 20);
    let tctl = w.get::<TCTL>(PF).set(TCTL::PSP);
    w.set(PF, tctl);
    w.send(vf(0), &sent);
    let got = w.take(vf(1)).remove(0);
    assert_eq!((got.len(), &got[..20]), (60, &sent[..]));
    assert_eq!(got[20..], [0; 40]);
}

#[test]
fn a_rate_limit_holds_one_vf_back() {
    let mut w = World::open(3);
    w.set(PF, Value::<RTTDQSEL>::from_raw(0));
    // A hundredth of the link: 1.25 MB/s.
    let rate = Value::<RTTBCNRC>::default()
        .set(RTTBCNRC::RS_ENA)
        .with(RTTBCNRC::RF_INT, 100);
    w.set(PF, rate);
    assert_eq!(w.get::<RTTBCNRC>(PF), rate);
    let mut now = 0;
    let mut sent = 0;
    while now < 1_000_000_000 {
        w.path.advance(now);
        for f in [vf(0), vf(1)] {
            while (w.driver(f).tx_next + 1) % ENTRIES != w.get_queue(f, QueueRegister::TDH) {
                w.queue_tx(
                    f,
                    &frame(mac_of(vf(2)), mac_of(f), 1000),
                    TxCommand::empty(),
                );
            }
            w.ring_tx(f);
        }
        let progress = w.path.run(&mut w.host, &mut w.events);
        w.absorb();
        w.take(vf(2));
        sent += 1;
        now = progress
            .deadline_ns
            .map_or(now + 1_000_000, |at| at.clamp(now + 1, now + 10_000_000));
    }
    let (limited, free) = (w.report(vf(0)).tx_packets, w.report(vf(1)).tx_packets);
    // 1024 bytes on the wire each; a burst of 16 KiB may have been saved up.
    assert!((1200..=1260).contains(&limited), "{limited}");
    assert!(free > 3 * limited, "{free} in {sent} rounds");
}

#[test]
fn sctp_has_its_crc() {
    let mut w = World::open(2);
    let mut sent = frame(mac_of(vf(1)), mac_of(vf(0)), 34);
    sent[12..14].copy_from_slice(&igb::frame::ETHERTYPE_IPV4.to_be_bytes());
    // RFC 3720, B.4: 32 bytes counting up have this CRC32c; its own field, where they would have 8 to
    // 11, counts as 0.
    sent.extend((0..32).map(|n| if (8..12).contains(&n) { 0xEE } else { n }));
    let naive = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 != 0 { 0x82F6_3B78 } else { 0 }
            })
        })
    };
    assert_eq!(naive(&(0..32).collect::<Vec<u8>>()), 0x46DD_794E);
    let send = |w: &mut World, len: usize| {
        let context = TxContext::new(0, 14, 20)
            .with_options(ContextOptions::IPV4)
            .with_l4(L4Type::Sctp, 12);
        w.push_tx(vf(0), context.to_bytes());
        let at = w.tx_buffer(vf(0));
        w.poke(vf(0), at, &sent[..len]);
        let data = TxData::new(at, len as u16, TxCommand::EOP | TxCommand::RS);
        w.push_tx(vf(0), data.with_options(TxOptions::TXSM).to_bytes());
        w.ring_tx(vf(0));
        w.run();
    };
    send(&mut w, sent.len());
    let got = w.take(vf(1)).remove(0);
    let mut cleared = sent[34..].to_vec();
    cleared[8..12].fill(0);
    assert_eq!(got[42..46], naive(&cleared).to_le_bytes());
    assert_eq!((&got[..42], &got[46..]), (&sent[..42], &sent[46..]));
    send(&mut w, 34 + 11);
    assert_eq!(w.dropped(vf(0), DropReason::BadChecksumContext), 1);
}

#[test]
fn behind_an_outer_tag_the_inner_one_counts() {
    let mut w = vlan_world();
    let vet = Value::<VET>::default()
        .with(VET::VET, igb::frame::ETHERTYPE_VLAN.into())
        .with(VET::VET_EXT, igb::frame::ETHERTYPE_QINQ.into());
    w.set(PF, vet);
    let control = w.get::<CTRL_EXT>(PF).set(CTRL_EXT::EXT_VLAN);
    w.set(PF, control);
    let vmolr = w.get_at::<VMOLR>(PF, 1).set(VMOLR::STRVLAN);
    w.set_at(PF, 1, vmolr);
    let plain = frame(mac_of(vf(1)), mac_of(vf(0)), 100);
    let outer = |frame: &[u8]| {
        let mut bytes = tagged(frame, 0x0123);
        bytes[12..14].copy_from_slice(&igb::frame::ETHERTYPE_QINQ.to_be_bytes());
        bytes
    };
    let insert = |w: &mut World, frame: &[u8]| {
        let context = TxContext::new(0, 18, 0).with_vlan_tag(0x6009);
        w.push_tx(vf(0), context.to_bytes());
        w.queue_tx(vf(0), frame, TxCommand::VLE);
        w.ring_tx(vf(0));
        w.run();
    };
    // The tag is inserted behind the outer one, by which the frame belongs to its VLAN, and stripped
    // from there.
    insert(&mut w, &outer(&plain));
    let (done, data) = w.take_descriptor(vf(1)).unwrap();
    assert_eq!((done.vlan_tag(), &data), (Some(0x6009), &outer(&plain)));
    w.set_at(PF, 1, vmolr.clear(VMOLR::STRVLAN));
    insert(&mut w, &outer(&plain));
    assert_eq!(w.take(vf(1)), [outer(&tagged(&plain, 0x6009))]);
    // A tag of the frame's own likewise; the VID of the outer one is nobody's.
    w.send(vf(0), &outer(&tagged(&plain, 9)));
    assert_eq!(w.take(vf(1)), [outer(&tagged(&plain, 9))]);
    w.send(vf(0), &outer(&tagged(&plain, 10)));
    assert!(w.take(vf(1)).is_empty());
    let vmvir = Value::<VMVIR>::default()
        .with(VMVIR::PORT_VLAN_ID, 9)
        .with(VMVIR::VLANA, 1);
    w.set_at(PF, 0, vmvir);
    w.send(vf(0), &outer(&plain));
    assert_eq!(w.take(vf(1)), [outer(&tagged(&plain, 9))]);
    w.send(vf(0), &outer(&tagged(&plain, 9)));
    assert_eq!(w.dropped(vf(0), DropReason::TagNotAllowed), 1);
}
