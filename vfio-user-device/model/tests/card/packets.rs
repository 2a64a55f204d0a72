//! Packets that are too long for a frame, and a slow and simple cutter of them.

use igb::descriptor::*;
use igb::queue_page::QueueRegister;
use igb::*;
use smoltcp::wire::*;

use crate::world::*;

/// Where payload lies, behind what [`World`] uses.
pub(crate) const AREA: u64 = 0xC_0000;
pub(crate) const VID: u16 = 9;

pub(crate) const FIN: u16 = 1;
pub(crate) const PSH: u16 = 8;
pub(crate) const CWR: u16 = 0x80;

/// A packet too long to be sent as one.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) to: MacAddress,
    pub(crate) from: MacAddress,
    /// Tags in the frame, outermost first: EtherType and the rest.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) v6: bool,
    /// TCP, else UDP.
    pub(crate) tcp: bool,
    /// Words of options, or of an extension header in IPv6.
    pub(crate) ip_options: usize,
    pub(crate) tcp_options: usize,
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) mss: usize,
}

impl Packet {
    pub(crate) fn new(payload: usize, mss: usize) -> Self {
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

    pub(crate) fn mac_len(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    pub(crate) fn ip_len(&self) -> usize {
        if self.v6 {
            40 + 8 * self.ip_options
        } else {
            20 + 4 * self.ip_options
        }
    }

    pub(crate) fn l4_len(&self) -> usize {
        if self.tcp {
            20 + 4 * self.tcp_options
        } else {
            8
        }
    }

    pub(crate) fn pseudo(&self, len: usize) -> Vec<u8> {
        let protocol = if self.tcp { 6 } else { 17 };
        let (source, destination) = self.addresses();
        let mut bytes = [source, destination].concat();
        bytes.extend_from_slice(&[0, protocol]);
        bytes.extend_from_slice(&(len as u16).to_be_bytes());
        bytes
    }

    pub(crate) fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        let len = if self.v6 { 16 } else { 4 };
        (vec![10; len], (0..len as u8).map(|n| 0xE1 ^ n).collect())
    }

    /// The frame with `payload`, and what of the header depends on it.
    pub(crate) fn build(
        &self,
        payload: &[u8],
        id: u16,
        sequence: u32,
        flags: u16,
        finished: bool,
    ) -> Vec<u8> {
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
    pub(crate) fn request(&self) -> Vec<u8> {
        self.build(&self.payload, self.id, self.sequence, self.flags, false)
    }

    /// What comes out.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
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

    pub(crate) fn context(&self) -> TxContext {
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

    pub(crate) fn options(&self) -> TxOptions {
        if self.v6 {
            TxOptions::TXSM
        } else {
            TxOptions::TXSM | TxOptions::IXSM
        }
    }
}

pub(crate) fn naive_sum(parts: &[&[u8]]) -> u16 {
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
pub(crate) fn check_with_smoltcp(frame: &[u8], mac_len: usize) {
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
pub(crate) fn world(vfs: u8) -> World {
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
pub(crate) fn queue_in(
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

pub(crate) fn queue_packet(w: &mut World, f: FunctionId, packet: &Packet, lengths: &[usize]) {
    w.push_tx(f, packet.context().to_bytes());
    queue_in(w, f, &packet.request(), lengths, |data| {
        data.with_options(packet.options())
            .with_payload_length(packet.payload.len() as u32)
    });
}

pub(crate) fn send_packet(w: &mut World, f: FunctionId, packet: &Packet) {
    queue_packet(w, f, packet, &[]);
    w.ring_tx(f);
    w.run();
}

pub(crate) fn send_queue_only(w: &mut World, packet: &Packet) {
    queue_packet(w, vf(0), packet, &[]);
    w.ring_tx(vf(0));
}
