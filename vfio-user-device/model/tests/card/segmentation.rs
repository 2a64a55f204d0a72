//! Segmentation: every frame that a request is cut into is what a slow and simple cutter makes of it,
//! and what hostile requests come to has a name.

use igb::descriptor::*;
use igb::queue_page::QueueRegister;
use igb::*;
use igb_model::*;
use proptest::prelude::*;
use smoltcp::wire::*;

use crate::world::*;

/// Where payload lies, behind what [`World`] uses.
const AREA: u64 = 0xC_0000;
const VID: u16 = 9;

const FIN: u16 = 1;
const PSH: u16 = 8;
const CWR: u16 = 0x80;

/// A packet too long to be sent as one.
#[derive(Clone, Debug)]
struct Packet {
    to: MacAddress,
    from: MacAddress,
    /// Tags in the frame, outermost first: EtherType and the rest.
    tags: Vec<(u16, u16)>,
    v6: bool,
    /// TCP, else UDP.
    tcp: bool,
    /// Words of options, or of an extension header in IPv6.
    ip_options: usize,
    tcp_options: usize,
    id: u16,
    sequence: u32,
    flags: u16,
    payload: Vec<u8>,
    mss: usize,
}

impl Packet {
    fn new(payload: usize, mss: usize) -> Self {
        Self {
            to: mac_of(vf(1)),
            from: mac_of(vf(0)),
            tags: Vec::new(),
            v6: false,
            tcp: true,
            ip_options: 0,
            tcp_options: 3,
            id: 0xFFFE,
            sequence: u32::MAX - 2000,
            flags: 0x10 | FIN | PSH,
            payload: (0..payload).map(|n| (n * 31 + n / 253) as u8).collect(),
            mss,
        }
    }

    fn mac_len(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    fn ip_len(&self) -> usize {
        if self.v6 {
            40 + 8 * self.ip_options
        } else {
            20 + 4 * self.ip_options
        }
    }

    fn l4_len(&self) -> usize {
        if self.tcp {
            20 + 4 * self.tcp_options
        } else {
            8
        }
    }

    fn pseudo(&self, len: usize) -> Vec<u8> {
        let protocol = if self.tcp { 6 } else { 17 };
        let (source, destination) = self.addresses();
        let mut bytes = [source, destination].concat();
        bytes.extend_from_slice(&[0, protocol]);
        bytes.extend_from_slice(&(len as u16).to_be_bytes());
        bytes
    }

    fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        let len = if self.v6 { 16 } else { 4 };
        (vec![10; len], (0..len as u8).map(|n| 0xE1 ^ n).collect())
    }

    /// The frame with `payload`, and what of the header depends on it.
    fn build(&self, payload: &[u8], id: u16, sequence: u32, flags: u16, finished: bool) -> Vec<u8> {
        let mut frame = [self.to.0, self.from.0].concat();
        for (ethertype, tci) in &self.tags {
            frame.extend_from_slice(&ethertype.to_be_bytes());
            frame.extend_from_slice(&tci.to_be_bytes());
        }
        let protocol = if self.tcp { 6 } else { 17 };
        let (source, destination) = self.addresses();
        let above = self.l4_len() + payload.len();
        // Before it is cut, a packet's lengths and IPv4 checksum are whatever they are.
        let length = |len: usize| if finished { len as u16 } else { 0 }.to_be_bytes();
        if self.v6 {
            frame.extend_from_slice(&[0x86, 0xDD, 0x60, 1, 2, 3]);
            frame.extend_from_slice(&length(self.ip_len() - 40 + above));
            let next = if self.ip_options > 0 { 60 } else { protocol };
            frame.extend_from_slice(&[next, 64]);
            frame.extend([source, destination].concat());
            if self.ip_options > 0 {
                frame.extend_from_slice(&[protocol, self.ip_options as u8 - 1]);
                frame.extend_from_slice(&[1, (8 * self.ip_options - 4) as u8]);
                frame.extend(vec![0; 8 * self.ip_options - 4]);
            }
        } else {
            let mut ip = vec![0x45 + self.ip_options as u8, 0];
            ip.extend_from_slice(&length(self.ip_len() + above));
            ip.extend_from_slice(&id.to_be_bytes());
            ip.extend_from_slice(&[0x40, 0, 64, protocol, 0, 0]);
            ip.extend([source, destination].concat());
            ip.extend(vec![1; 4 * self.ip_options]);
            if finished {
                let sum = !naive_sum(&[&ip]);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            frame.extend_from_slice(&[0x08, 0x00]);
            frame.extend(ip);
        }
        let mut l4 = vec![0x12, 0x34, 0x00, 0x50];
        if self.tcp {
            l4.extend_from_slice(&sequence.to_be_bytes());
            l4.extend_from_slice(&[0, 0, 0, 7]);
            let offset = (5 + self.tcp_options as u16) << 12;
            l4.extend_from_slice(&(offset | flags).to_be_bytes());
            l4.extend_from_slice(&[1, 0, 0, 0, 0, 0]);
            l4.extend(vec![1; 4 * self.tcp_options]);
        } else {
            l4.extend_from_slice(&length(above));
            l4.extend_from_slice(&[0, 0]);
        }
        let at = if self.tcp { 16 } else { 6 };
        let mut sum = if finished {
            !naive_sum(&[&self.pseudo(above), &l4, payload])
        } else {
            naive_sum(&[&self.pseudo(0)])
        };
        if finished && !self.tcp && sum == 0 {
            sum = 0xFFFF;
        }
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        frame.extend(l4);
        frame.extend_from_slice(payload);
        frame
    }

    /// What software gives the card.
    fn request(&self) -> Vec<u8> {
        self.build(&self.payload, self.id, self.sequence, self.flags, false)
    }

    /// What comes out.
    fn frames(&self) -> Vec<Vec<u8>> {
        let pieces: Vec<_> = self.payload.chunks(self.mss).collect();
        let mut frames = Vec::new();
        let mut sequence = self.sequence;
        for (n, piece) in pieces.iter().enumerate() {
            let mut flags = self.flags;
            if n + 1 < pieces.len() {
                flags &= !(FIN | PSH);
            } else if n > 0 {
                flags &= !CWR;
            }
            let id = self.id.wrapping_add(n as u16);
            frames.push(self.build(piece, id, sequence, flags, true));
            sequence = sequence.wrapping_add(piece.len() as u32);
        }
        frames
    }

    fn context(&self) -> TxContext {
        let options = if self.v6 {
            ContextOptions::empty()
        } else {
            ContextOptions::IPV4
        };
        let l4 = if self.tcp { L4Type::Tcp } else { L4Type::Udp };
        TxContext::new(0, self.mac_len() as u8, self.ip_len() as u16)
            .with_options(options)
            .with_l4(l4, self.l4_len() as u8)
            .with_mss(self.mss as u16)
    }

    fn options(&self) -> TxOptions {
        if self.v6 {
            TxOptions::TXSM
        } else {
            TxOptions::TXSM | TxOptions::IXSM
        }
    }
}

fn naive_sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// The frame is sound in the eyes of a stack that nobody here wrote. Extension headers of IPv6 it does
/// not look through.
fn check_with_smoltcp(frame: &[u8], mac_len: usize) {
    let packet = &frame[mac_len..];
    let (source, destination, protocol, payload): (IpAddress, IpAddress, _, _) =
        if packet[0] >> 4 == 4 {
            let ip = Ipv4Packet::new_checked(packet).unwrap();
            assert!(ip.verify_checksum());
            assert_eq!(usize::from(ip.total_len()), packet.len());
            let payload = &packet[usize::from(ip.header_len())..];
            (
                ip.src_addr().into(),
                ip.dst_addr().into(),
                ip.next_header(),
                payload,
            )
        } else {
            let ip = Ipv6Packet::new_checked(packet).unwrap();
            assert_eq!(ip.total_len(), packet.len());
            let (mut next, mut payload) = (ip.next_header(), &packet[40..]);
            if next == IpProtocol::Ipv6Opts {
                next = payload[0].into();
                payload = &payload[8 * (1 + usize::from(payload[1]))..];
            }
            (ip.src_addr().into(), ip.dst_addr().into(), next, payload)
        };
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).unwrap();
            assert!(tcp.verify_checksum(&source, &destination));
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).unwrap();
            assert!(udp.verify_checksum(&source, &destination));
            assert_eq!(usize::from(udp.len()), payload.len());
        }
        other => panic!("{other}"),
    }
}

/// A card whose VFs take long frames, with rings long enough for a request of 64 KiB.
fn world(vfs: u8) -> World {
    let mut w = World::open(vfs);
    w.add_vlan(0, VID.into(), 0b111);
    for f in FunctionId::all().take(1 + usize::from(vfs)) {
        let pool = f.pool(vfs).unwrap();
        let vmolr = w.get_at::<VMOLR>(PF, pool).set(VMOLR::LPE);
        w.set_at(PF, pool, vmolr.with(VMOLR::RLPML, 0x2600));
        w.driver(f).entries = 128;
        w.set_queue(f, QueueRegister::TXDCTL, 0);
        w.set_queue(f, QueueRegister::RXDCTL, 0);
        w.open_queue(f);
    }
    w
}

/// Queue a request of these bytes, cut into buffers of these lengths; the last takes the rest.
fn queue_in(
    w: &mut World,
    f: FunctionId,
    bytes: &[u8],
    lengths: &[usize],
    data: impl Fn(TxData) -> TxData,
) {
    let mut at = 0;
    let mut place = AREA;
    let mut lengths = lengths.iter().copied();
    while at < bytes.len() {
        let len = lengths.next().unwrap_or(0x7FFF).min(bytes.len() - at);
        w.poke(f, place, &bytes[at..at + len]);
        let end = if at + len == bytes.len() {
            TxCommand::EOP | TxCommand::RS
        } else {
            TxCommand::empty()
        };
        let command = TxCommand::TSE | TxCommand::IFCS | end;
        w.push_tx(f, data(TxData::new(place, len as u16, command)).to_bytes());
        at += len;
        place += len as u64 + 3;
    }
}

fn queue_packet(w: &mut World, f: FunctionId, packet: &Packet, lengths: &[usize]) {
    w.push_tx(f, packet.context().to_bytes());
    queue_in(w, f, &packet.request(), lengths, |data| {
        data.with_options(packet.options())
            .with_payload_length(packet.payload.len() as u32)
    });
}

fn send_packet(w: &mut World, f: FunctionId, packet: &Packet) {
    queue_packet(w, f, packet, &[]);
    w.ring_tx(f);
    w.run();
}

#[test]
fn a_request_of_64_kib_reaches_another_vf_and_the_wire() {
    let mut w = world(2);
    let mut packet = Packet::new(65536 - 52, 1448);
    packet.flags |= CWR;
    for to in [
        mac_of(vf(1)),
        MacAddress([2, 9, 9, 9, 9, 9]),
        MacAddress::BROADCAST,
    ] {
        packet.to = to;
        w.host.wire.clear();
        send_packet(&mut w, vf(0), &packet);
        let want = packet.frames();
        assert_eq!(want.len(), 46);
        let local = to == mac_of(vf(1));
        let got = w.take(vf(1));
        assert_eq!(
            got,
            if local || to.is_broadcast() {
                want.clone()
            } else {
                vec![]
            }
        );
        assert_eq!(w.host.wire, if local { vec![] } else { want.clone() });
        want.iter().for_each(|frame| check_with_smoltcp(frame, 14));
        w.take(PF);
    }
    // Frames are counted as they leave, requests as what they are.
    let frames = 3 * 46;
    assert_eq!(w.report(vf(0)).tx_packets, frames);
    assert_eq!(w.get::<vf::VFGPTC>(vf(0)).raw(), frames as u32);
    assert_eq!(w.get::<TSCTC>(PF).raw(), 3);
    assert_eq!(w.get::<CBRMPC>(PF).raw(), 0);
    assert_eq!(w.get::<GPTC>(PF).raw(), 2 * 46);
}

#[test]
fn software_is_told_once_and_after_the_last_frame() {
    let mut w = world(2);
    let packet = Packet::new(60_000, 1000);
    queue_packet(&mut w, vf(0), &packet, &[66, 30_000]);
    w.ring_tx(vf(0));
    let done = |w: &World, n: u64| {
        let raw: [u8; SIZE] = w.peek(vf(0), TX_RING + n * 16, SIZE).try_into().unwrap();
        TxWriteBack::from_bytes(&raw).is_done()
    };
    // More frames than a turn has.
    let progress = w.path.run(&mut w.host, &mut w.events);
    w.absorb();
    assert!(progress.more && progress.frames == 32);
    assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 1, "the context");
    assert!((0..4).all(|n| !done(&w, n)));
    w.run();
    assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 4);
    assert!(done(&w, 3) && (0..3).all(|n| !done(&w, n)));
    assert_eq!(w.take(vf(1)), packet.frames());
}

#[test]
fn siblings_have_their_turns_within_a_request() {
    let mut w = world(3);
    let packet = Packet::new(60_000, 600);
    send_queue_only(&mut w, &packet);
    let sent = frame(mac_of(vf(1)), mac_of(vf(2)), 99);
    w.queue_tx(vf(2), &sent, TxCommand::empty());
    w.ring_tx(vf(2));
    w.path.run(&mut w.host, &mut w.events);
    w.absorb();
    let got = w.take(vf(1));
    assert!(got.len() <= 33 && got.contains(&sent));
    w.run();
    assert_eq!(w.take(vf(1)).len() + got.len(), 101);
}

fn send_queue_only(w: &mut World, packet: &Packet) {
    queue_packet(w, vf(0), packet, &[]);
    w.ring_tx(vf(0));
}

#[test]
fn a_rate_limit_counts_what_goes_over_the_wire() {
    let mut w = world(2);
    w.set(PF, Value::<RTTDQSEL>::from_raw(0));
    // 1.25 MB/s.
    let rate = Value::<RTTBCNRC>::default()
        .set(RTTBCNRC::RS_ENA)
        .with(RTTBCNRC::RF_INT, 100);
    w.set(PF, rate);
    let packet = Packet::new(65_000, 1000);
    let frame = packet.frames()[0].len() as u64 + 4 + 20;
    send_queue_only(&mut w, &packet);
    let mut now = 0;
    let mut turns = 0;
    while w.report(vf(0)).tx_packets < 65 {
        let progress = w.path.run(&mut w.host, &mut w.events);
        w.absorb();
        w.take(vf(1));
        now = progress.deadline_ns.unwrap_or(now).max(now);
        w.path.advance(now);
        turns += 1;
        assert!(turns < 100);
    }
    // 16 KiB were saved up.
    let least = (65 * frame - 16384 - frame) * 1_000_000_000 / 1_250_000;
    assert!((least..=least + 2_000_000).contains(&now), "{now} {least}");
}

#[test]
fn flags_are_masked_as_the_registers_say() {
    let mut w = world(2);
    let mut packet = Packet::new(300, 100);
    packet.flags = 0xFFF;
    let first_middle = Value::<DTXTCPFLGL>::default()
        .with(DTXTCPFLGL::FIRST_SEG, 0x0F1)
        .with(DTXTCPFLGL::MID_SEG, 0x0F2);
    w.set(PF, first_middle);
    w.set(
        PF,
        Value::<DTXTCPFLGH>::default().with(DTXTCPFLGH::LAST_SEG, 0x0F4),
    );
    let flags = |w: &mut World| -> Vec<u16> {
        let frames = w.take(vf(1));
        frames
            .iter()
            .map(|f| u16::from(f[46] & 0xF) << 8 | u16::from(f[47]))
            .collect()
    };
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(flags(&mut w), [0xF1, 0xF2, 0xF4]);
    packet.payload.truncate(50);
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(flags(&mut w), [0xF5]);
}

#[test]
fn an_802_3_length_counts_what_follows_it() {
    let mut w = world(2);
    let packet = Packet::new(250, 100);
    let snap = |frame: &[u8], length: usize| {
        let mut bytes = frame[..12].to_vec();
        bytes.extend_from_slice(&(length as u16).to_be_bytes());
        bytes.extend_from_slice(&[0xAA, 0xAA, 3, 0, 0, 0]);
        bytes.extend_from_slice(&frame[12..]);
        bytes
    };
    let context = TxContext::new(0, 22, 20)
        .with_options(ContextOptions::IPV4 | ContextOptions::SNAP)
        .with_l4(L4Type::Tcp, packet.l4_len() as u8)
        .with_mss(100);
    w.push_tx(vf(0), context.to_bytes());
    queue_in(&mut w, vf(0), &snap(&packet.request(), 0), &[], |data| {
        data.with_options(packet.options()).with_payload_length(250)
    });
    w.ring_tx(vf(0));
    w.run();
    let want: Vec<_> = packet
        .frames()
        .iter()
        .map(|f| snap(f, f.len() - 14 + 8))
        .collect();
    assert_eq!(w.take(vf(1)), want);
}

/// A tunnel's header is part of what the context calls the IP header, and software cancels it in the
/// checksum field (Linux does so for GSO_PARTIAL).
#[test]
fn what_lies_in_the_ipv4_checksum_field_counts() {
    let mut w = world(2);
    let packet = Packet::new(200, 100);
    let mut request = packet.request();
    let tunnel = [0xDE, 0xAD, 0xBE, 0xEF, 1, 2, 3, 4];
    request.splice(34..34, tunnel);
    let surplus = !naive_sum(&[&tunnel]);
    request[24..26].copy_from_slice(&surplus.to_be_bytes());
    let context = TxContext::new(0, 14, 28)
        .with_options(ContextOptions::IPV4)
        .with_l4(L4Type::Tcp, packet.l4_len() as u8)
        .with_mss(100);
    w.push_tx(vf(0), context.to_bytes());
    queue_in(&mut w, vf(0), &request, &[], |data| {
        data.with_options(packet.options()).with_payload_length(200)
    });
    w.ring_tx(vf(0));
    w.run();
    for frame in w.take(vf(1)) {
        assert_eq!(naive_sum(&[&frame[14..34]]), 0xFFFF);
        assert_eq!(frame[34..42], tunnel);
    }
    assert_eq!(w.report(vf(0)).tx_packets, 2);
}

#[test]
fn nonsense_is_dropped_by_name_and_costs_the_queue_nothing() {
    let good = Packet::new(3000, 1000);
    let context = good.context();
    let l4 = |kind, len| context.with_l4(kind, len);
    let sized = |mac, ip| {
        TxContext::new(0, mac, ip)
            .with_options(ContextOptions::IPV4)
            .with_l4(L4Type::Tcp, 32)
            .with_mss(1000)
    };
    let len = good.payload.len() as u32;
    let cases = [
        ("mss 0", context.with_mss(0), len),
        (
            "mss above the longest frame",
            context.with_mss(u16::MAX),
            12_000,
        ),
        ("no context", TxContext::new(0, 0, 0), len),
        ("l4len 0", l4(L4Type::Tcp, 0), len),
        ("l4len 19", l4(L4Type::Tcp, 19), len + 13),
        ("l4len 255", l4(L4Type::Tcp, 255), len - 223),
        ("UDP l4len 7", l4(L4Type::Udp, 7), len),
        ("SCTP", l4(L4Type::Sctp, 32), len),
        ("reserved", l4(L4Type::Reserved, 32), len),
        ("maclen 0", sized(0, 20), len + 14),
        ("iplen 0", sized(14, 0), len + 20),
        ("iplen 511", sized(14, 511), len - 491),
        ("header beyond the frame", sized(127, 511), 0),
        ("paylen 0", context, 0),
        ("paylen too short", context, len - 1),
        ("paylen too long", context, len + 1),
        ("paylen at its most", context, (1 << 18) - 1),
    ];
    for (name, context, payload) in cases {
        let mut w = world(3);
        w.push_tx(vf(0), context.to_bytes());
        let mut bytes = good.request();
        if payload == 12_000 {
            bytes.resize(12_000 + 66, 0);
        }
        queue_in(&mut w, vf(0), &bytes, &[], |data| {
            data.with_options(good.options())
                .with_payload_length(payload)
        });
        w.ring_tx(vf(0));
        w.run();
        assert_eq!(w.dropped(vf(0), DropReason::BadSegmentation), 1, "{name}");
        assert_eq!(w.report(vf(0)).drops.total(), 1, "{name}");
        assert!(w.take(vf(1)).is_empty(), "{name}");
        assert_eq!(w.get::<CBRMPC>(PF).raw(), 1, "{name}");
        send_packet(&mut w, vf(0), &good);
        assert_eq!(w.take(vf(1)), good.frames(), "{name}");
    }
}

#[test]
fn a_request_of_very_many_frames_takes_very_many_turns() {
    let mut w = world(3);
    let packet = Packet::new(20_000, 1);
    send_queue_only(&mut w, &packet);
    let sent = frame(mac_of(vf(0)), mac_of(vf(1)), 99);
    for turn in 0..20_000 / 32 {
        let progress = w.path.run(&mut w.host, &mut w.events);
        w.absorb();
        assert_eq!((progress.frames, progress.more), (32, true), "{turn}");
        w.take(vf(1));
        if turn % 100 == 0 {
            w.queue_tx(vf(1), &sent, TxCommand::empty());
            w.ring_tx(vf(1));
            assert_eq!(w.path.run(&mut w.host, &mut w.events).frames, 33);
            w.absorb();
            assert_eq!(w.take(vf(0)), std::slice::from_ref(&sent));
            w.take(vf(1));
            if turn == 500 {
                break;
            }
        }
    }
    // The queue is taken away in the midst of it.
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    let before = w.report(vf(0)).tx_packets;
    w.run();
    assert_eq!(w.report(vf(0)).tx_packets, before);
    w.open_queue(vf(0));
    let packet = Packet::new(3000, 1000);
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(w.take(vf(1)), packet.frames());
}

#[test]
fn a_reset_in_the_midst_of_a_request_ends_it() {
    for by_pf in [false, true] {
        let mut w = world(3);
        let packet = Packet::new(60_000, 600);
        send_queue_only(&mut w, &packet);
        w.path.run(&mut w.host, &mut w.events);
        w.absorb();
        w.take(vf(1));
        if by_pf {
            let vfte = w.get::<VFTE>(PF).raw();
            w.set(PF, Value::<VFTE>::from_raw(vfte & !1));
        } else {
            let effects = w.control.reset_function(vf(0), &mut w.host);
            w.apply(effects);
        }
        w.host.reads.clear();
        w.run();
        assert!(w.take(vf(1)).is_empty());
        assert!(
            w.host.reads.iter().all(|(f, _, _)| *f != vf(0)),
            "no DMA any more"
        );
        let sent = frame(mac_of(vf(2)), mac_of(vf(1)), 500);
        w.send(vf(1), &sent);
        assert_eq!(w.take(vf(2)), [sent]);
    }
}

#[test]
fn memory_that_fails_in_the_midst_costs_the_rest() {
    let mut w = world(3);
    let packet = Packet::new(10_000, 1000);
    let bytes = packet.request();
    w.push_tx(vf(0), packet.context().to_bytes());
    w.poke(vf(0), AREA, &bytes[..4066]);
    let options = |data: TxData| {
        data.with_options(packet.options())
            .with_payload_length(10_000)
            .to_bytes()
    };
    w.push_tx(vf(0), options(TxData::new(AREA, 4066, TxCommand::TSE)));
    let end = TxCommand::TSE | TxCommand::EOP | TxCommand::RS;
    w.push_tx(vf(0), options(TxData::new(MEMORY as u64, 6000, end)));
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.take(vf(1)), packet.frames()[..4]);
    assert_eq!(w.dropped(vf(0), DropReason::TxFault), 6);
    let report = w.report(vf(0)).clone();
    assert_eq!(
        (report.faults, report.last_halt.unwrap().reason),
        (1, HaltReason::Fault)
    );
    assert_eq!(w.get::<CBRMPC>(PF).raw(), 1);
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    w.open_queue(vf(0));
    let packet = Packet::new(3000, 1000);
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(w.take(vf(1)), packet.frames());
}

/// However early or late one access is cancelled, one frame is lost at most, and none comes twice.
#[test]
fn a_cancelled_access_costs_one_frame() {
    let packet = Packet::new(4500, 1000);
    let want = packet.frames();
    for whose in [vf(0), vf(1)] {
        for nth in 0..24 {
            let mut w = world(2);
            queue_packet(&mut w, vf(0), &packet, &[70, 2000]);
            w.ring_tx(vf(0));
            w.host.cancel = Some((whose, nth));
            let mut got = Vec::new();
            for turn in 1..4 {
                w.path.advance(turn * 10_000_000);
                w.run();
                got.extend(w.take(vf(1)));
            }
            assert!(got.len() + 1 >= want.len(), "{whose} {nth}: {}", got.len());
            let mut left = want.iter();
            assert!(
                got.iter().all(|got| left.any(|sent| sent == got)),
                "{whose} {nth}"
            );
            assert_eq!(w.report(vf(0)).halts, 0, "{whose} {nth}");
            assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 4, "{whose} {nth}");
            w.host.cancel = None;
            send_packet(&mut w, vf(0), &packet);
            assert_eq!(w.take(vf(1)), want, "{whose} {nth}");
        }
    }
}

#[test]
fn spoofed_requests_count_as_the_frames_they_would_have_been() {
    let mut w = world(2);
    let dtxswc = w.get::<DTXSWC>(PF).with(DTXSWC::MACAS, 1);
    w.set(PF, dtxswc);
    let mut packet = Packet::new(4500, 1000);
    packet.from = mac_of(vf(1));
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(w.dropped(vf(0), DropReason::SpoofedMac), 5);
    assert!(w.take(vf(1)).is_empty());
    assert_eq!(w.get::<WVBR>(PF).raw(), 1);
    packet.from = mac_of(vf(0));
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(w.take(vf(1)), packet.frames());
}

prop_compose! {
    fn packet()(
        (v6, tcp) in any::<(bool, bool)>(),
        (ip_options, tcp_options) in (0usize..=10, 0usize..=10),
        tags in prop::sample::select(vec![
            vec![], vec![(0x8100, 0x2000 | VID)], vec![(0x8100, VID), (0x8100, 77)],
            vec![(0x88A8, 5), (0x8100, VID)],
        ]),
        (id, sequence, flags) in (any::<u16>(), any::<u32>(), 0u16..0x200),
        (payload, mss) in prop_oneof![
            (1usize..20_000, 300usize..1500),
            (1usize..100, 1usize..20),
            (1usize..20_000, 1500usize..9000),
        ],
        seed in any::<u8>(),
    ) -> Packet {
        let ip_options = if v6 { ip_options / 4 } else { ip_options };
        let mut packet = Packet::new(payload, mss);
        packet.payload.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(seed | 1));
        Packet { v6, tcp, ip_options, tcp_options, tags, id, sequence, flags, ..packet }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever the headers, however the request lies in memory and whoever gives the tag, what comes
    /// out is what the simple cutter makes of it.
    #[test]
    fn every_frame_is_as_it_should_be(
        mut packet in packet(),
        lengths in prop::collection::vec(1usize..3000, 0..20),
        tag_by in 0..3,
        to in 0..3,
        strip in any::<bool>(),
    ) {
        let mut w = world(2);
        packet.to = match to {
            0 => mac_of(vf(1)),
            1 => MacAddress([2, 9, 9, 9, 9, 9]),
            _ => MacAddress::BROADCAST,
        };
        if strip {
            let vmolr = w.get_at::<VMOLR>(PF, 1).set(VMOLR::STRVLAN);
            w.set_at(PF, 1, vmolr);
        }
        let mut context = packet.context();
        let mut command = TxCommand::empty();
        let inserted = match tag_by {
            1 => {
                context = context.with_vlan_tag(0x4000 | VID);
                command = TxCommand::VLE;
                Some(0x4000 | VID)
            }
            2 if packet.tags.is_empty() => {
                let vmvir = Value::<VMVIR>::default()
                    .with(VMVIR::PORT_VLAN_ID, VID.into())
                    .with(VMVIR::VLANA, 1);
                w.set_at(PF, 0, vmvir);
                Some(VID)
            }
            _ => None,
        };
        w.push_tx(vf(0), context.to_bytes());
        queue_in(&mut w, vf(0), &packet.request(), &lengths, |data| {
            let [low, high] = data.raw();
            TxData::from_raw([low, high | u64::from(command.bits())])
                .with_options(packet.options())
                .with_payload_length(packet.payload.len() as u32)
        });
        w.ring_tx(vf(0));
        w.run();
        let want: Vec<_> = packet
            .frames()
            .iter()
            .map(|frame| match inserted {
                Some(tci) => tagged(frame, tci),
                None => frame.clone(),
            })
            .collect();
        for frame in packet.frames() {
            check_with_smoltcp(&frame, packet.mac_len());
        }
        // An 802.1ad tag is no tag to the card, and such frames are untagged ones.
        let has_tag = inserted.is_some() || packet.tags.first().is_some_and(|tag| tag.0 == 0x8100);
        let stripped = |frame: &Vec<u8>| {
            if strip && has_tag { [&frame[..12], &frame[16..]].concat() } else { frame.clone() }
        };
        let received: Vec<_> = want.iter().map(stripped).collect();
        let local = to != 1;
        prop_assert_eq!(w.take(vf(1)), if local { received } else { vec![] });
        prop_assert_eq!(&w.host.wire, &if to == 0 { vec![] } else { want.clone() });
        prop_assert_eq!(w.report(vf(0)).tx_packets, want.len() as u64);
        prop_assert_eq!(w.report(vf(0)).drops.total(), 0);
    }

    /// No context, no lengths make the card do more than its turn, or anything but a drop by name.
    #[test]
    fn any_context_ends(
        low in any::<u64>(), high in any::<u64>(), payload in 0u32..1 << 18, len in 14usize..6000,
        options in any::<u32>(), agree in any::<bool>(),
    ) {
        let mut w = world(2);
        let context = TxContext::from_raw([low, high & !(0xF << 20)]);
        let context = TxContext::from_raw([
            context.raw()[0],
            context.raw()[1] | 2 << 20 | u64::from(TxCommand::DEXT.bits()),
        ]);
        let header = usize::from(context.mac_length())
            + usize::from(context.ip_length())
            + usize::from(context.l4_length());
        let payload = if agree { len.saturating_sub(header) as u32 } else { payload };
        w.push_tx(vf(0), context.to_bytes());
        queue_in(&mut w, vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), len), &[], |data| {
            data.with_options(TxOptions::from_bits_truncate(options))
                .with_context(context.index())
                .with_payload_length(payload)
        });
        w.ring_tx(vf(0));
        for _ in 0..6000 / 32 + 2 {
            let progress = w.path.run(&mut w.host, &mut w.events);
            prop_assert!(progress.frames <= 32);
            w.absorb();
            w.take(vf(1));
            if !progress.more {
                break;
            }
        }
        prop_assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 2);
        prop_assert_eq!(w.report(vf(0)).halts, 0);
    }
}
