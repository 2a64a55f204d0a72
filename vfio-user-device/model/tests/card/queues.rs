//! RSS and the filters that choose a queue, through registers and rings.

use igb::descriptor::{RssType, RxRead, RxWriteBack, SIZE};
use igb::queue_page::{self, QueueRegister};
use igb::*;
use igb_model::*;

use crate::protocols::*;
use crate::world::*;

const RINGS: u64 = 0x2_0000;
const RING: u64 = 0x100;
const BUFFERS_AT: u64 = 0x4_0000;
const DESCRIPTORS: u64 = 8;

fn set(w: &mut World, f: FunctionId, queue: u32, register: QueueRegister, value: u32) {
    let (page, at) = queue_page::slot(f.kind(), queue, register).unwrap();
    w.write32(f, page.offset(f.kind()) + at, value);
}

fn ring(queue: u32) -> u64 {
    RINGS + u64::from(queue) * RING
}

/// Open a receive queue of the function.
fn open(w: &mut World, f: FunctionId, queue: u32) {
    for n in 0..DESCRIPTORS {
        let buffer = BUFFERS_AT + (u64::from(queue) * DESCRIPTORS + n) * 0x800;
        w.poke(
            f,
            ring(queue) + n * SIZE as u64,
            &RxRead::new(buffer, 0).to_bytes(),
        );
    }
    let srrctl = Value::<SRRCTL>::default()
        .with(SRRCTL::DESCTYPE, 1)
        .with(SRRCTL::BSIZEPACKET, 2);
    for (register, value) in [
        (QueueRegister::RXDCTL, 0),
        (QueueRegister::RDBAL, ring(queue) as u32),
        (QueueRegister::RDLEN, DESCRIPTORS as u32 * SIZE as u32),
        (QueueRegister::RDH, 0),
        (QueueRegister::RDT, DESCRIPTORS as u32 - 1),
        (QueueRegister::SRRCTL, srrctl.raw()),
        (QueueRegister::RXDCTL, RXDCTL::ENABLE.mask()),
    ] {
        set(w, f, queue, register, value);
    }
}

/// What the queue was told of its last frame, and how many it has.
fn told(w: &World, f: FunctionId, queue: u32) -> (usize, RxWriteBack) {
    let mut last = RxWriteBack::default();
    let mut count = 0;
    for n in 0..DESCRIPTORS {
        let raw = w.peek(f, ring(queue) + n * SIZE as u64, SIZE);
        let done = RxWriteBack::from_bytes(&raw.try_into().unwrap());
        if done.is_done() {
            (count, last) = (count + 1, done);
        }
    }
    (count, last)
}

/// The key of Microsoft's verification suite.
fn write_key(w: &mut World) {
    let key: [u8; 40] = [
        0x6D, 0x5A, 0x56, 0xDA, 0x25, 0x5B, 0x0E, 0xC2, 0x41, 0x67, 0x25, 0x3D, 0x43, 0xA3, 0x8F,
        0xB0, 0xD0, 0xCA, 0x2B, 0xCB, 0xAE, 0x7B, 0x30, 0xB4, 0x77, 0xCB, 0x2D, 0xA3, 0x80, 0x30,
        0xF2, 0x0C, 0x6A, 0x42, 0xB7, 0x3B, 0xBE, 0xAC, 0x01, 0xFA,
    ];
    for (n, word) in key.as_chunks::<4>().0.iter().enumerate() {
        let value = Value::<RSSRK>::from_raw(u32::from_le_bytes(*word));
        w.set_at(PF, n as u32, value);
    }
    w.set(PF, Value::<RXCSUM>::RESET.set(RXCSUM::PCSD));
}

fn write_table(w: &mut World, entry: impl Fn(u32) -> u8) {
    for n in 0..32 {
        let bytes = [0, 1, 2, 3].map(|k| entry(4 * n + k));
        w.set_at(PF, n, Value::<RETA>::from_raw(u32::from_le_bytes(bytes)));
    }
}

/// A frame of the suite's first connection: its hash is 0x51CCC178.
fn known(to: MacAddress) -> Vec<u8> {
    let mut segment = segment(TCP, PORTS, b"hello");
    let addresses = [66, 9, 149, 187, 161, 142, 100, 80];
    seal(TCP, &addresses, &mut segment);
    let mut packet = ipv4(TCP, 0, 0, &segment);
    packet[12..20].copy_from_slice(&addresses);
    packet[10..12].fill(0);
    let value = !sum(&packet[..20]);
    packet[10..12].copy_from_slice(&value.to_be_bytes());
    in_ipv4(to, MacAddress([2, 8, 8, 8, 8, 8]), &packet)
}

const HASH: u32 = 0x51CC_C178;

fn fields() -> Value<MRQC> {
    Value::default()
        .set(MRQC::TCP_IPV4)
        .set(MRQC::IPV4)
        .set(MRQC::TCP_IPV6)
        .set(MRQC::IPV6)
}

#[test]
fn all_sixteen_queues_of_the_pf_are_reached() {
    let mut w = World::new();
    w.init_pf();
    for queue in 0..16 {
        open(&mut w, PF, queue);
    }
    write_key(&mut w);
    w.set(PF, fields().with(MRQC::MULTIPLE_RECEIVE_QUEUES, 2));
    for queue in 0..16u8 {
        write_table(&mut w, |n| if n == HASH % 128 { queue } else { 15 - queue });
        w.wire_sends(&known(mac_of(PF)));
        let (count, done) = told(&w, PF, queue.into());
        assert_eq!(count, 1, "queue {queue}");
        assert_eq!((done.rss_type(), done.rss_hash()), (RssType::TcpIpv4, HASH));
    }
    // What is not hashed goes to the default queue.
    w.set(
        PF,
        fields()
            .with(MRQC::MULTIPLE_RECEIVE_QUEUES, 2)
            .with(MRQC::DEF_Q, 5),
    );
    w.wire_sends(&frame(mac_of(PF), mac_of(vf(0)), 60));
    let (count, done) = told(&w, PF, 5);
    assert_eq!((count, done.rss_type()), (2, RssType::None));
    // Without RSS all do, as the driver's loopback test has it.
    w.set(PF, Value::<MRQC>::default().with(MRQC::DEF_Q, 3));
    w.wire_sends(&known(mac_of(PF)));
    assert_eq!(told(&w, PF, 3).0, 2);
}

#[test]
fn a_vf_with_rss_has_two_queues() {
    let mut w = World::open(3);
    for queue in 0..2 {
        open(&mut w, vf(1), queue);
    }
    write_key(&mut w);
    w.set(PF, fields().with(MRQC::MULTIPLE_RECEIVE_QUEUES, 5));
    let index = HASH % 128;
    for (rss, entry, queue, count) in [
        (false, 8, 0, 1),
        (true, 8, 1, 1),
        (true, 0, 0, 2),
        // Only bit 3 counts.
        (true, 7, 0, 3),
        (true, 0xF, 1, 2),
    ] {
        let mut vmolr = w.get_at::<VMOLR>(PF, 1).clear(VMOLR::RSSE);
        if rss {
            vmolr = vmolr.set(VMOLR::RSSE);
        }
        w.set_at(PF, 1, vmolr);
        write_table(&mut w, |n| if n == index { entry } else { !entry });
        w.wire_sends(&known(mac_of(vf(1))));
        let (got, done) = told(&w, vf(1), queue);
        assert_eq!(got, count, "{rss} {entry}");
        assert_eq!(done.rss_hash(), HASH);
    }
    // Both queues count for the VF, and each has its cause.
    assert_eq!(w.get::<vf::VFGPRC>(vf(1)).raw(), 5);
    assert_eq!(w.report(vf(1)).rx_packets, 5);
    assert_eq!(w.report(vf(1)).drops.total(), 0);
    // From a sibling likewise.
    w.send(vf(0), &{
        let mut sent = known(mac_of(vf(1)));
        sent[6..12].copy_from_slice(&mac_of(vf(0)).0);
        sent
    });
    assert_eq!(told(&w, vf(1), 1).0, 3);
}

#[test]
fn filters_choose_queues_as_linux_and_dpdk_write_them() {
    let mut w = World::new();
    w.init_pf();
    for queue in 0..16 {
        open(&mut w, PF, queue);
    }
    w.add_vlan(0, 7, 0);
    let peer = MacAddress([2, 8, 8, 8, 8, 8]);
    // `ethtool -N eth0 flow-type ether proto 0x88B5 action 2`.
    let etqf = Value::<ETQF>::default()
        .set(ETQF::FILTER_ENABLE)
        .set(ETQF::QUEUE_ENABLE)
        .with(ETQF::QUEUE, 2)
        .with(ETQF::ETYPE, igb::frame::ETHERTYPE_EXPERIMENTAL.into());
    w.set_at(PF, 4, etqf);
    w.wire_sends(&frame(mac_of(PF), peer, 60));
    let (count, done) = told(&w, PF, 2);
    assert_eq!(count, 1);
    let kind = igb::descriptor::PacketType::L2.bits() | 4;
    assert_eq!(done.packet_type().bits(), kind, "the filter's number");
    // `ethtool -N eth0 flow-type ether vlan 0xE000 vlan-mask 0x1FFF action 3`.
    let vlapqf = Value::<VLAPQF>::default()
        .with(VLAPQF::VP7QSEL, 3)
        .set(VLAPQF::VLANP7V);
    w.set(PF, vlapqf);
    w.wire_sends(&tagged(&over_ipv4(mac_of(PF), peer, UDP, 30), 0xE007));
    assert_eq!(told(&w, PF, 3).0, 1);
    // DPDK's five-tuple: what is not compared is masked, ports as on the wire.
    let ports = (PORTS.0.swap_bytes(), PORTS.1.swap_bytes());
    w.set_at(PF, 1, Value::<SPQF>::from_raw(ports.0.into()));
    w.set_at(
        PF,
        1,
        Value::<IMIR>::default().with(IMIR::PORT, ports.1.into()),
    );
    w.set_at(
        PF,
        1,
        Value::<DAQF>::from_raw(u32::from_le_bytes([10, 0, 0, 2])),
    );
    let more = Value::<IMIREXT>::default()
        .set(IMIREXT::SIZE_BP)
        .set(IMIREXT::CTRL_BP);
    w.set_at(PF, 1, more);
    let ftqf = Value::<FTQF>::default()
        .with(FTQF::PROTOCOL, UDP.into())
        .set(FTQF::VF_MASK)
        .set(FTQF::MASK_SOURCE)
        .set(FTQF::QUEUE_ENABLE)
        .with(FTQF::QUEUE, 9);
    w.set_at(PF, 1, ftqf);
    w.wire_sends(&over_ipv4(mac_of(PF), peer, UDP, 30));
    assert_eq!(told(&w, PF, 9).0, 1);
    w.wire_sends(&over_ipv4(mac_of(PF), peer, TCP, 30));
    assert_eq!(told(&w, PF, 0).0, 1, "another protocol");
    // SYN.
    let synqf = Value::<SYNQF>::default()
        .set(SYNQF::QUEUE_ENABLE)
        .with(SYNQF::QUEUE, 6);
    w.set(PF, synqf);
    let mut syn = over_ipv4(mac_of(PF), peer, TCP, 30);
    syn[14 + 20 + 13] = 2;
    w.wire_sends(&syn);
    assert_eq!(told(&w, PF, 6).0, 1);
    assert_eq!(w.control.snapshot().uplink.drops.total(), 0);
}

#[test]
fn an_ethertype_filter_overrules_the_pools() {
    let mut w = World::open(2);
    let etqf = Value::<ETQF>::default()
        .set(ETQF::FILTER_ENABLE)
        .set(ETQF::QUEUE_ENABLE)
        // The PF's pool.
        .with(ETQF::QUEUE, 2)
        .with(ETQF::ETYPE, igb::frame::ETHERTYPE_EXPERIMENTAL.into());
    w.set_at(PF, 0, etqf);
    let sent = frame(mac_of(vf(1)), MacAddress([2, 8, 8, 8, 8, 8]), 60);
    w.wire_sends(&sent);
    assert!(w.take(vf(1)).is_empty());
    assert_eq!(w.take(PF), [sent]);
    assert_eq!(w.dropped(vf(1), DropReason::RxDisabled), 0);
}
