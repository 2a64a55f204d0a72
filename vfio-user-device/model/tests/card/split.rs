//! Header split and replication: what lies in which buffer and what descriptors tell of it.

use igb::descriptor::{RxRead, RxStatus, RxWriteBack, SIZE, TxCommand};
use igb::queue_page::QueueRegister;
use igb::*;
use igb_model::*;
use proptest::prelude::*;

use crate::protocols::*;
use crate::world::*;

const HEADERS: u64 = 0xD_0000;
const HEADER: u64 = 0x400;
/// Left in buffers that nothing was written to.
const UNTOUCHED: u8 = 0xEE;

/// DESCTYPE.
const SPLIT: u32 = 2;
const REPLICATE: u32 = 3;
const REPLICATE_LARGE: u32 = 4;
const SPLIT_ALWAYS: u32 = 5;

fn srrctl(kind: u32, header_units: u32, packet_units: u32) -> Value<SRRCTL> {
    Value::default()
        .with(SRRCTL::DESCTYPE, kind)
        .with(SRRCTL::BSIZEHEADER, header_units)
        .with(SRRCTL::BSIZEPACKET, packet_units)
}

/// Set the function's receive queue up anew, each descriptor with both buffers.
fn open_split(w: &mut World, f: FunctionId, srrctl: Value<SRRCTL>) {
    w.set_queue(f, QueueRegister::RXDCTL, 0);
    w.driver(f).buffer = srrctl.get(SRRCTL::BSIZEPACKET) * 1024;
    w.open_queue(f);
    w.set_queue(f, QueueRegister::RXDCTL, 0);
    w.set_queue(f, QueueRegister::SRRCTL, srrctl.raw());
    for n in 0..ENTRIES {
        give(w, f, n);
    }
    w.set_queue(f, QueueRegister::RXDCTL, RXDCTL::ENABLE.mask());
}

fn buffers(w: &mut World, f: FunctionId, n: u32) -> (u64, u64) {
    let buffer = w.driver(f).buffer;
    (
        RX_BUFFERS + u64::from(n * buffer),
        HEADERS + u64::from(n) * HEADER,
    )
}

fn give(w: &mut World, f: FunctionId, n: u32) {
    let (packet, header) = buffers(w, f, n);
    let size = w.driver(f).buffer as usize;
    w.poke(f, packet, &vec![UNTOUCHED; size]);
    w.poke(f, header, &[UNTOUCHED; HEADER as usize]);
    let at = RX_RING + u64::from(n) * SIZE as u64;
    w.poke(f, at, &RxRead::new(packet, header).to_bytes());
}

/// A descriptor that was written back, and its buffers.
struct Done {
    told: RxWriteBack,
    header: Vec<u8>,
    packet: Vec<u8>,
}

/// The descriptors of the next frame.
fn take_split(w: &mut World, f: FunctionId) -> Vec<Done> {
    let mut all = Vec::new();
    loop {
        let n = w.driver(f).rx_next;
        let at = RX_RING + u64::from(n) * SIZE as u64;
        let bytes: [u8; SIZE] = w.peek(f, at, SIZE).try_into().unwrap();
        let told = RxWriteBack::from_bytes(&bytes);
        if !told.is_done() {
            assert!(all.is_empty(), "a frame without an end");
            return all;
        }
        let (packet, header) = buffers(w, f, n);
        let size = w.driver(f).buffer as usize;
        all.push(Done {
            told,
            header: w.peek(f, header, HEADER as usize),
            packet: w.peek(f, packet, size),
        });
        give(w, f, n);
        w.set_queue(f, QueueRegister::RDT, n);
        w.driver(f).rx_next = (n + 1) % ENTRIES;
        if told.status().contains(RxStatus::EOP) {
            return all;
        }
    }
}

/// The datasheet's table of split and replicated headers, row by row: HDR_LEN, SPH, HBO, bytes in the
/// header buffer, where the packet buffers start, and the length told instead of what they hold.
#[derive(Debug, PartialEq, Eq)]
struct Row(usize, bool, bool, usize, usize, Option<usize>);

fn row(kind: u32, size: usize, header: Option<usize>, total: usize) -> Row {
    match (kind, header) {
        (SPLIT, None) => Row(0, false, false, 0, 0, None),
        (SPLIT, Some(h)) if h <= size => Row(h, true, false, h, h, None),
        (SPLIT, Some(h)) => Row(h, true, true, 0, 0, None),
        (SPLIT_ALWAYS, _) if total <= size => Row(total, false, false, total, total, None),
        (SPLIT_ALWAYS, None) => Row(size, false, false, size, size, None),
        (SPLIT_ALWAYS, Some(h)) if h <= size => Row(h, true, false, h, h, None),
        (SPLIT_ALWAYS, Some(h)) => Row(h, true, true, size, size, None),
        (REPLICATE_LARGE, h) if total <= size => Row(
            h.unwrap_or(0),
            h.is_some(),
            false,
            total,
            total,
            Some(total),
        ),
        (REPLICATE | REPLICATE_LARGE, h) => Row(
            h.unwrap_or(0),
            h.is_some(),
            h.is_some_and(|h| h > size),
            size.min(total),
            0,
            None,
        ),
        _ => Row(0, false, false, 0, 0, None),
    }
}

/// The frames of a receiver that may be long, from VF0 to VF1.
fn long_frames() -> World {
    let mut w = World::open(2);
    let vmolr = w.get_at::<VMOLR>(PF, 1).set(VMOLR::LPE);
    w.set_at(PF, 1, vmolr.with(VMOLR::RLPML, 0x2600));
    w
}

/// A frame and the length of its header, if it is of a kind that is split.
fn sample(kind: usize, len: usize) -> (Vec<u8>, Option<usize>) {
    let (to, from) = (mac_of(vf(1)), mac_of(vf(0)));
    match kind {
        0 => (over_ipv4(to, from, TCP, len), Some(14 + 20 + 20)),
        1 => (over_ipv4(to, from, UDP, len), Some(14 + 20 + 8)),
        2 => (over_ipv6(to, from, TCP, len), Some(14 + 40 + 20)),
        3 => (over_ipv6(to, from, UDP, len), Some(14 + 40 + 8)),
        4 => (over_ipv4(to, from, SCTP, len), None),
        5 => (frame(to, from, 20 + len), None),
        6 => {
            let fragment = ipv4(UDP, 0, 0x2000, &payload(8 + len));
            (in_ipv4(to, from, &fragment), Some(14 + 20))
        }
        _ => {
            let mut segment = segment(TCP, PORTS, &payload(len));
            seal(TCP, &ipv6_addresses(), &mut segment);
            let packet = ipv6(TCP, &[padding(0, 1), padding(60, 2)], &segment);
            (in_ipv6(to, from, &packet), Some(14 + 40 + 24 + 20))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever frame comes into whatever buffers, it lies there as the table says.
    #[test]
    fn frames_lie_as_the_table_says(
        kind in 0u32..8, header_units in 0u32..16, packet_units in 1u32..4,
        sort in 0usize..8, len in prop_oneof![0usize..200, 0usize..9000],
        tag in any::<bool>(), strip in any::<bool>(), checksums in any::<bool>(),
    ) {
        let mut w = long_frames();
        w.add_vlan(0, 9, 0b111);
        if !checksums {
            w.set(PF, Value::<RXCSUM>::default());
        }
        if strip {
            let vmolr = w.get_at::<VMOLR>(PF, 1).set(VMOLR::STRVLAN);
            w.set_at(PF, 1, vmolr);
        }
        let srrctl = srrctl(kind, header_units, packet_units);
        open_split(&mut w, vf(1), srrctl);
        let (plain, header) = sample(sort, len);
        let sent = if tag { tagged(&plain, 9) } else { plain.clone() };
        w.send(vf(0), &sent);

        let want = if strip { plain } else { sent };
        let header = header.map(|header| header + if tag && !strip { 4 } else { 0 });
        let (size, packet) = (header_units as usize * 64, packet_units as usize * 1024);
        if kind == 0 {
            // Legacy descriptors are written back otherwise, and have one buffer.
            prop_assert_eq!(&w.peek(vf(1), RX_BUFFERS, want.len().min(packet)), &want[..want.len().min(packet)]);
            return Ok(());
        }
        let Row(length, split, overflow, in_header, from, told) =
            row(kind, size, header, want.len());
        let got = take_split(&mut w, vf(1));
        prop_assert_eq!(got.len(), (want.len() - from).div_ceil(packet).max(1));
        let first = &got[0];
        prop_assert_eq!(usize::from(first.told.header_length()), length);
        prop_assert_eq!(first.told.is_split(), split);
        prop_assert_eq!(first.told.status().contains(RxStatus::HBO), overflow);
        prop_assert_eq!(&first.header[..in_header], &want[..in_header]);
        prop_assert!(first.header[in_header..].iter().all(|byte| *byte == UNTOUCHED));
        let mut at = from;
        for (n, done) in got.iter().enumerate() {
            let here = packet.min(want.len() - at);
            let length = told.filter(|_| n == 0).unwrap_or(here);
            prop_assert_eq!(usize::from(done.told.length()), length);
            prop_assert_eq!(&done.packet[..here], &want[at..at + here]);
            prop_assert!(done.packet[here..].iter().all(|byte| *byte == UNTOUCHED));
            prop_assert!(n == 0 || done.header.iter().all(|byte| *byte == UNTOUCHED));
            at += here;
            prop_assert_eq!(done.told.status().contains(RxStatus::EOP), n + 1 == got.len());
        }
        prop_assert_eq!(at, want.len());
        prop_assert!(take_split(&mut w, vf(1)).is_empty());
    }
}

#[test]
fn igbvf_with_long_buffers_gets_jumbo_frames() {
    let mut w = long_frames();
    // What igbvf writes: 128 bytes of header, always split, dropping.
    let value = Value::<SRRCTL>::from_raw(0x0A00_0000).with(SRRCTL::BSIZEHEADER, 2);
    open_split(
        &mut w,
        vf(1),
        value.with(SRRCTL::BSIZEPACKET, 2).set(SRRCTL::DROP_EN),
    );
    for len in [0, 60, 1446, 4000, 8946, 9658] {
        let sent = over_ipv4(mac_of(vf(1)), mac_of(vf(0)), TCP, len);
        w.send(vf(0), &sent);
        let got = take_split(&mut w, vf(1));
        let header = usize::from(got[0].told.header_length()).min(128);
        let mut bytes = got[0].header[..header].to_vec();
        for done in &got {
            bytes.extend_from_slice(&done.packet[..done.told.length().into()]);
        }
        assert!(bytes == sent, "{len}");
    }
    assert_eq!(w.report(vf(1)).drops.total(), 0);
}

#[test]
fn psrtype_says_what_is_split() {
    let mut w = long_frames();
    open_split(&mut w, vf(1), srrctl(SPLIT, 2, 2));
    for (sort, bit) in [(0, 2), (1, 3), (2, 8), (3, 9), (6, 1)] {
        let (sent, header) = sample(sort, 300);
        for types in [1 << bit, !(1 << bit)] {
            // The VF writes its own register.
            w.set(vf(1), Value::<vf::PSRTYPE>::from_raw(types));
            w.send(vf(0), &sent);
            let got = take_split(&mut w, vf(1));
            let want = header.filter(|_| types & 1 << bit != 0);
            assert_eq!(got[0].told.is_split(), want.is_some(), "{sort} {types:x}");
            assert_eq!(usize::from(got[0].told.header_length()), want.unwrap_or(0));
        }
    }
    w.set(vf(1), Value::<vf::PSRTYPE>::RESET);
    let rfctl = Value::<RFCTL>::default().set(RFCTL::IPFRSP_DIS);
    w.set(PF, rfctl);
    w.send(vf(0), &sample(6, 300).0);
    assert!(!take_split(&mut w, vf(1))[0].told.is_split());
}

#[test]
fn a_ring_that_runs_dry_takes_whole_frames_only() {
    let mut w = long_frames();
    open_split(&mut w, vf(1), srrctl(SPLIT_ALWAYS, 2, 1));
    let sent = over_ipv4(mac_of(vf(1)), mac_of(vf(0)), TCP, 6000);
    for _ in 0..3 {
        w.send(vf(0), &sent);
    }
    // Fifteen descriptors hold two frames of six, and three are left over.
    assert_eq!(w.dropped(vf(1), DropReason::NoDescriptorNoDropEn), 1);
    for _ in 0..2 {
        assert_eq!(take_split(&mut w, vf(1)).len(), 6);
    }
    assert!(take_split(&mut w, vf(1)).is_empty());
    // A shorter one fits still, and the dropped one left nothing behind.
    let short = over_ipv4(mac_of(vf(1)), mac_of(vf(0)), TCP, 2500);
    w.send(vf(0), &short);
    let got = take_split(&mut w, vf(1));
    let bytes: Vec<u8> = got[0].header[..54]
        .iter()
        .chain(
            got.iter()
                .flat_map(|done| &done.packet[..done.told.length().into()]),
        )
        .copied()
        .collect();
    assert!(bytes == short);
}

#[test]
fn a_fault_names_the_buffer_that_it_hit() {
    for header in [true, false] {
        let mut w = long_frames();
        open_split(&mut w, vf(1), srrctl(SPLIT, 2, 2));
        let outside = MEMORY as u64 + 0x100;
        let (packet, head) = buffers(&mut w, vf(1), 0);
        let descriptor = if header {
            RxRead::new(packet, outside)
        } else {
            RxRead::new(outside, head)
        };
        w.poke(vf(1), RX_RING, &descriptor.to_bytes());
        let sent = over_ipv4(mac_of(vf(1)), mac_of(vf(0)), TCP, 500);
        w.send(vf(0), &sent);
        let report = w.report(vf(1)).clone();
        let fault = report.last_fault.unwrap();
        assert_eq!((fault.iova, fault.write), (outside, true));
        assert_eq!(fault.len, if header { 54 } else { 500 });
        assert_eq!(report.last_halt.unwrap().reason, HaltReason::Fault);
        assert!(take_split(&mut w, vf(1)).is_empty(), "nothing is told");
        assert_eq!(w.report(vf(0)).faults, 0);
        // Set up anew, it goes on.
        open_split(&mut w, vf(1), srrctl(SPLIT, 2, 2));
        w.driver(vf(0)).tx_next = w.get_queue(vf(0), QueueRegister::TDH);
        w.send(vf(0), &sent);
        assert_eq!(take_split(&mut w, vf(1)).len(), 1);
    }
}

/// One access of the receiver's memory is cancelled: a frame is lost at most, and what is told is
/// true.
#[test]
fn a_cancelled_access_costs_a_frame_at_most() {
    for nth in 0..24 {
        let mut w = long_frames();
        open_split(&mut w, vf(1), srrctl(SPLIT_ALWAYS, 2, 1));
        let sent: Vec<_> = (0..3)
            .map(|n| over_ipv4(mac_of(vf(1)), mac_of(vf(0)), TCP, 2500 + n))
            .collect();
        for sent in &sent {
            w.queue_tx(vf(0), sent, TxCommand::empty());
        }
        w.ring_tx(vf(0));
        w.host.cancel = Some((vf(1), nth));
        let mut got = Vec::new();
        for turn in 1..4 {
            w.path.advance(turn * 10_000_000);
            w.run();
            loop {
                let frame = take_split(&mut w, vf(1));
                let Some(first) = frame.first() else { break };
                assert!(first.told.is_split());
                let mut bytes = first.header[..first.told.header_length().into()].to_vec();
                for done in &frame {
                    bytes.extend_from_slice(&done.packet[..done.told.length().into()]);
                }
                got.push(bytes);
            }
        }
        assert!(got.len() + 1 >= sent.len(), "access {nth}: {}", got.len());
        let mut left = sent.iter();
        assert!(
            got.iter().all(|got| left.any(|sent| sent == got)),
            "access {nth}"
        );
        assert_eq!(w.report(vf(1)).halts, 0, "access {nth}");
    }
}
