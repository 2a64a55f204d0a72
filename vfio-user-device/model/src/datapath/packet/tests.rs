use super::*;
use proptest::prelude::*;

/// An IPv4 packet behind its EtherType: options, flags and offset, protocol, data.
fn ipv4(options: usize, fragment: u16, protocol: u8, data: &[u8]) -> Vec<u8> {
    let header = IPV4_LEAST + options;
    let mut bytes = ETHERTYPE_IPV4.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0x40 | (header / 4) as u8, 0]);
    bytes.extend_from_slice(&((header + data.len()) as u16).to_be_bytes());
    bytes.extend_from_slice(&[0x12, 0x34]);
    bytes.extend_from_slice(&fragment.to_be_bytes());
    bytes.extend_from_slice(&[64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend_from_slice(&vec![1; options]);
    bytes.extend_from_slice(data);
    bytes
}

fn ipv6(next: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = ETHERTYPE_IPV6.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0x60, 0, 0, 0]);
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&[next, 64]);
    bytes.extend_from_slice(&[0xA1; 16]);
    bytes.extend_from_slice(&[0xB2; 16]);
    bytes.extend_from_slice(data);
    bytes
}

fn tcp(options: usize) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.push(((TCP_LEAST + options) as u8 / 4) << 4);
    bytes.extend_from_slice(&vec![0x12; 7 + options + 9]);
    bytes
}

fn udp(data: usize) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, 2];
    bytes.extend_from_slice(&((UDP_LENGTH + data) as u16).to_be_bytes());
    bytes.extend_from_slice(&vec![7; 2 + data]);
    bytes
}

fn parse(bytes: &[u8]) -> Packet {
    Packet::parse(bytes, bytes.len())
}

#[test]
fn what_is_plain_is_recognised() {
    let packet = parse(&ipv4(8, 0x4000, TCP, &tcp(12)));
    let all = PacketType::IPV4 | PacketType::IPV4E | PacketType::TCP;
    assert_eq!(packet.kind, all);
    let ip = packet.ipv4.unwrap();
    assert_eq!((ip.payload, ip.id, ip.fragment), (2 + 28, 0x1234, None));
    let transport = packet.transport.unwrap();
    assert_eq!((transport.at, transport.payload), (30, 30 + 32));
    assert_eq!((transport.source_port, transport.destination_port), (1, 2));
    assert_eq!(transport.flags, 0x12);

    // Padding behind the packet is not part of it.
    let mut short = ipv4(0, 0, UDP, &udp(3));
    let end = short.len();
    short.resize(60, 0);
    let packet = parse(&short);
    assert_eq!(packet.transport.unwrap().end, end);
    assert_eq!(packet.kind, PacketType::IPV4 | PacketType::UDP);

    let packet = parse(&ipv6(SCTP, &[0; 30]));
    assert_eq!(packet.kind, PacketType::IPV6 | PacketType::SCTP);
    for (protocol, kind) in [(ESP, PacketType::ESP), (AH, PacketType::AH)] {
        let packet = parse(&ipv6(protocol, &[0; 30]));
        assert_eq!(
            (packet.kind, packet.transport),
            (PacketType::IPV6 | kind, None)
        );
    }
}

#[test]
fn what_lies_behind_other_headers_is_recognised() {
    let plain = ipv4(0, 0, UDP, &udp(20));
    let mut tagged = vec![0x88, 0xA8, 0, 5];
    tagged.extend_from_slice(&plain);
    assert_eq!(parse(&tagged).kind, parse(&plain).kind);
    let mut snap = (plain.len() as u16).to_be_bytes().to_vec();
    snap.extend_from_slice(&SNAP);
    snap.extend_from_slice(&plain);
    let packet = parse(&snap);
    assert_eq!(packet.kind, parse(&plain).kind);
    assert_eq!(packet.ipv4.unwrap().at, 2 + 6 + 2);

    // IPv6 inside IPv4.
    let packet = parse(&ipv4(0, 0, IPV6_IN_IP, &ipv6(TCP, &tcp(0))[2..]));
    assert_eq!(
        packet.kind,
        PacketType::IPV4 | PacketType::IPV6 | PacketType::TCP
    );
    assert_eq!(packet.transport.unwrap().at, 2 + 20 + 40);
}

#[test]
fn fragments_have_no_transport() {
    for (word, part) in [
        (0x2000, FragmentPart::First),
        (0x2005, FragmentPart::Later),
        (0x0005, FragmentPart::Later),
    ] {
        let packet = parse(&ipv4(0, word, UDP, &udp(20)));
        assert_eq!(packet.ipv4.unwrap().fragment, Some(part));
        assert_eq!((packet.kind, packet.transport), (PacketType::IPV4, None));
    }
    let mut data = vec![UDP, 0, 0, 1, 0, 0, 0, 9];
    data.extend_from_slice(&udp(8));
    let packet = parse(&ipv6(FRAGMENT, &data));
    let ip = packet.ipv6.unwrap();
    assert!(ip.fragment && packet.transport.is_none());
    assert_eq!(ip.payload, 2 + 40, "the header ends before the fragment's");
}

#[test]
fn addresses_elsewhere_are_found() {
    // Destination options with a home address, a routing header of type 2, then TCP.
    let mut data = vec![ROUTING, 2, 1, 2, 0, 0, OPTION_HOME, 16];
    data.extend_from_slice(&[0xC3; 16]);
    data.extend_from_slice(&[TCP, 2, ROUTING_HOME, 1, 0, 0, 0, 0]);
    data.extend_from_slice(&[0xD4; 16]);
    data.extend_from_slice(&tcp(0));
    let packet = parse(&ipv6(DESTINATION_OPTIONS, &data));
    let ip = packet.ipv6.unwrap();
    assert_eq!(ip.home_source, Some([0xC3; 16]));
    assert_eq!(ip.home_destination, Some([0xD4; 16]));
    assert!(ip.extended && ip.other_addresses);
    assert!(packet.kind.contains(PacketType::IPV6E | PacketType::TCP));
    // A routing header that has been followed to its end changes nothing.
    let mut data = vec![TCP, 0, 0, 0, 0, 0, 0, 0];
    data.extend_from_slice(&tcp(0));
    let packet = parse(&ipv6(ROUTING, &data));
    assert!(!packet.ipv6.unwrap().other_addresses && packet.transport.is_some());
}

#[test]
fn endless_headers_end_with_what_is_looked_at() {
    let mut data = Vec::new();
    for _ in 0..1000 {
        data.extend_from_slice(&[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0]);
    }
    let packet = parse(&ipv6(HOP_BY_HOP, &data));
    assert!(packet.ipv6.unwrap().payload <= LOOKED_AT);
    assert!(packet.transport.is_none());
    // One that claims to be longer than all there is, and options that do.
    for data in [
        [TCP, 255, 1, 4, 0, 0, 0, 0],
        [TCP, 0, OPTION_HOME, 200, 0, 0, 0, 0],
        [TCP, 0, 0, 0, 0, 0, 0, OPTION_HOME],
    ] {
        let packet = parse(&ipv6(DESTINATION_OPTIONS, &data));
        assert!(packet.ipv6.is_some_and(|ip| ip.home_source.is_none()));
        assert!(packet.transport.is_none());
    }
}

#[test]
fn lengths_that_lie_are_not_believed() {
    let mut long = ipv4(0, 0, UDP, &udp(20));
    long[4] = 0xFF;
    assert_eq!(parse(&long), Packet::default());
    let mut small = ipv4(0, 0, UDP, &udp(20));
    small[5] = 19;
    assert_eq!(parse(&small), Packet::default());
    let mut header = ipv4(0, 0, UDP, &udp(20));
    header[2] = 0x44;
    assert_eq!(parse(&header), Packet::default());
    for claimed in [7u16, 29, u16::MAX] {
        let mut datagram = udp(20);
        datagram[4..6].copy_from_slice(&claimed.to_be_bytes());
        assert_eq!(parse(&ipv4(0, 0, UDP, &datagram)).transport, None);
    }
    for words in [0u8, 4, 15] {
        let mut segment = tcp(0);
        segment[12] = words << 4;
        segment.truncate(30);
        assert_eq!(parse(&ipv4(0, 0, TCP, &segment)).transport, None);
    }
}

/// Whatever was recognised lies inside.
fn is_sound(packet: &Packet, len: usize) {
    let mut end = len;
    if let Some(ip) = packet.ipv4 {
        assert!(ip.at <= ip.payload && ip.payload <= ip.end && ip.end <= end);
        end = ip.end;
    }
    if let Some(ip) = packet.ipv6 {
        assert!(ip.payload <= ip.end && ip.end <= end);
        end = ip.end;
    }
    if let Some(transport) = packet.transport {
        assert!(transport.at < transport.payload && transport.payload <= transport.end);
        assert!(transport.end <= end);
        assert!(packet.ipv4.is_some() || packet.ipv6.is_some());
    }
    assert_eq!(
        packet.kind.contains(PacketType::IPV4),
        packet.ipv4.is_some()
    );
    assert_eq!(
        packet.kind.contains(PacketType::IPV6),
        packet.ipv6.is_some()
    );
}

fn whole() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0usize..10, any::<u16>(), any::<u8>()).prop_map(|(n, f, p)| ipv4(n * 4, f, p, &tcp(8))),
        (0usize..10, 0usize..90).prop_map(|(n, len)| ipv4(n * 4, 0, UDP, &udp(len))),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..90)).prop_map(|(p, d)| ipv6(p, &d)),
        (0usize..6).prop_map(|n| ipv4(n * 4, 0, IPV6_IN_IP, &ipv6(TCP, &tcp(4))[2..])),
        prop::collection::vec(any::<u8>(), 0..160),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Cut off anywhere and with any byte changed, nothing panics, nothing lies outside, and how much
    /// of the frame is local makes no difference.
    #[test]
    fn broken_packets_are_bounded(
        mut bytes in whole(), cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        for (at, value) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let packet = parse(&bytes);
        is_sound(&packet, bytes.len());
        let local = &bytes[..bytes.len().min(LOOKED_AT)];
        prop_assert_eq!(Packet::parse(local, bytes.len()), packet);
    }
}
