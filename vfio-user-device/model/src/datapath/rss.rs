//! Receive-side scaling (datasheet 7.1.2.6): what is hashed, and the hash.

use igb::descriptor::RssType;
use igb::{Field, MRQC, Value};
use smallvec::SmallVec;

use super::packet::{Ipv6, Packet, TCP, Transport, UDP};
use crate::config::{RSS_KEY, RssConfig};

/// Addresses of IPv6 and two ports.
const INPUT_MOST: usize = 2 * 16 + 2 * 2;

type Input = SmallVec<[u8; INPUT_MOST]>;

impl RssConfig {
    /// What of the packet is hashed, and the hash; `None` if MRQC enables nothing that fits.
    pub(super) fn hash(&self, packet: &Packet) -> Option<(RssType, u32)> {
        let (kind, input) = self.input(packet)?;
        Some((kind, toeplitz(&self.key, &input)))
    }

    /// The number in the redirection table for a hash.
    pub(super) fn entry(&self, hash: u32) -> u8 {
        self.table[hash as usize % self.table.len()]
    }

    fn has(&self, field: Field<MRQC>) -> bool {
        Value::<MRQC>::from_raw(self.mrqc).has(field)
    }

    fn input(&self, packet: &Packet) -> Option<(RssType, Input)> {
        let transport = packet.transport;
        let ports = |protocol: u8, field: Field<MRQC>| {
            transport
                .as_ref()
                .filter(|transport| transport.protocol == protocol && self.has(field))
        };
        // Of IPv6 inside IPv4 the outer addresses count, and those have no ports.
        if let Some(ip) = &packet.ipv4 {
            let direct = packet.ipv6.is_none();
            let (kind, ports) = if let Some(ports) = ports(TCP, MRQC::TCP_IPV4).filter(|_| direct) {
                (RssType::TcpIpv4, Some(ports))
            } else if let Some(ports) = ports(UDP, MRQC::UDP_IPV4).filter(|_| direct) {
                (RssType::UdpIpv4, Some(ports))
            } else if self.has(MRQC::IPV4) {
                (RssType::Ipv4, None)
            } else {
                return None;
            };
            return Some((kind, input(&ip.source, &ip.destination, ports)));
        }
        let ip = packet.ipv6.as_ref()?;
        let home = |ports| {
            let source = ip.home_source.unwrap_or(ip.source);
            let destination = ip.home_destination.unwrap_or(ip.destination);
            input(&source, &destination, ports)
        };
        let plain = |ports| input(&ip.source, &ip.destination, ports);
        // The kinds with extension headers differ only for packets that have other addresses there.
        Some(
            if let Some(ports) = ports(TCP, MRQC::TCP_IPV6).filter(|_| !is_mobile(ip)) {
                (RssType::TcpIpv6, plain(Some(ports)))
            } else if let Some(ports) = ports(TCP, MRQC::TCP_IPV6EX) {
                (RssType::TcpIpv6Ex, home(Some(ports)))
            } else if let Some(ports) = ports(UDP, MRQC::UDP_IPV6).filter(|_| !is_mobile(ip)) {
                (RssType::UdpIpv6, plain(Some(ports)))
            } else if let Some(ports) = ports(UDP, MRQC::UDP_IPV6EX) {
                (RssType::UdpIpv6Ex, home(Some(ports)))
            } else if self.has(MRQC::IPV6) && !is_mobile(ip) {
                (RssType::Ipv6, plain(None))
            } else if self.has(MRQC::IPV6EX) {
                (RssType::Ipv6Ex, home(None))
            } else if self.has(MRQC::IPV6) {
                (RssType::Ipv6, plain(None))
            } else {
                return None;
            },
        )
    }
}

/// Its connection is not that of the addresses in its header.
fn is_mobile(ip: &Ipv6) -> bool {
    ip.home_source.is_some() || ip.home_destination.is_some()
}

fn input(source: &[u8], destination: &[u8], ports: Option<&Transport>) -> Input {
    let mut input = Input::new();
    input.extend_from_slice(source);
    input.extend_from_slice(destination);
    if let Some(transport) = ports {
        input.extend_from_slice(&transport.source_port.to_be_bytes());
        input.extend_from_slice(&transport.destination_port.to_be_bytes());
    }
    input
}

/// The Toeplitz hash: for each bit that is set in the input, the 32 bits of the key from there on.
fn toeplitz(key: &[u8; RSS_KEY], input: &[u8]) -> u32 {
    let mut hash = 0;
    for (byte, window) in input.iter().zip(key.windows(5)) {
        let window = window
            .iter()
            .fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for bit in 0..u8::BITS {
            if byte & 0x80 >> bit != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

const _: () = assert!(INPUT_MOST + 4 <= RSS_KEY);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RSS_TABLE;
    use igb::descriptor::PacketType;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::super::packet::Ipv4;

    /// The key of Microsoft's RSS verification suite, which the datasheet names as well.
    const KEY: [u8; RSS_KEY] = [
        0x6D, 0x5A, 0x56, 0xDA, 0x25, 0x5B, 0x0E, 0xC2, 0x41, 0x67, 0x25, 0x3D, 0x43, 0xA3, 0x8F,
        0xB0, 0xD0, 0xCA, 0x2B, 0xCB, 0xAE, 0x7B, 0x30, 0xB4, 0x77, 0xCB, 0x2D, 0xA3, 0x80, 0x30,
        0xF2, 0x0C, 0x6A, 0x42, 0xB7, 0x3B, 0xBE, 0xAC, 0x01, 0xFA,
    ];

    fn config(mrqc: u32) -> RssConfig {
        RssConfig {
            mrqc,
            key: KEY,
            table: std::array::from_fn::<u8, RSS_TABLE, _>(|n| n as u8),
        }
    }

    fn transport(protocol: u8, from: u16, to: u16) -> Option<Transport> {
        Some(Transport {
            protocol,
            at: 0,
            payload: 0,
            end: 0,
            source_port: from,
            destination_port: to,
            flags: 0,
        })
    }

    fn ipv4(from: &str, to: &str) -> Ipv4 {
        let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
        Ipv4 {
            at: 0,
            payload: 0,
            end: 0,
            source: octets(from),
            destination: octets(to),
            id: 0,
            protocol: 0,
            fragment: None,
        }
    }

    fn ipv6(from: &str, to: &str) -> Ipv6 {
        let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        Ipv6 {
            payload: 0,
            end: 0,
            source: octets(from),
            destination: octets(to),
            home_source: None,
            home_destination: None,
            extended: false,
            other_addresses: false,
            fragment: false,
        }
    }

    fn all() -> u32 {
        [
            MRQC::TCP_IPV4,
            MRQC::IPV4,
            MRQC::TCP_IPV6,
            MRQC::IPV6,
            MRQC::UDP_IPV4,
            MRQC::UDP_IPV6,
        ]
        .iter()
        .fold(0, |bits, field| bits | field.mask())
    }

    #[test]
    fn the_verification_suite_for_ipv4() {
        for (to, to_port, from, from_port, alone, with_ports) in [
            (
                "161.142.100.80",
                1766,
                "66.9.149.187",
                2794,
                0x323E_8FC2,
                0x51CC_C178,
            ),
            (
                "65.69.140.83",
                4739,
                "199.92.111.2",
                14230,
                0xD718_262A,
                0xC626_B0EA,
            ),
            (
                "12.22.207.184",
                38024,
                "24.19.198.95",
                12898,
                0xD2D0_A5DE,
                0x5C2B_394A,
            ),
            (
                "209.142.163.6",
                2217,
                "38.27.205.30",
                48228,
                0x8298_9176,
                0xAFC7_327F,
            ),
            (
                "202.188.127.2",
                1303,
                "153.39.163.191",
                44251,
                0x5D18_09C5,
                0x10E8_28A2,
            ),
        ] {
            let mut packet = Packet {
                kind: PacketType::IPV4,
                ipv4: Some(ipv4(from, to)),
                ..Packet::default()
            };
            let rss = config(all());
            assert_eq!(rss.hash(&packet), Some((RssType::Ipv4, alone)));
            for (protocol, kind) in [(TCP, RssType::TcpIpv4), (UDP, RssType::UdpIpv4)] {
                packet.transport = transport(protocol, from_port, to_port);
                assert_eq!(rss.hash(&packet), Some((kind, with_ports)));
            }
        }
    }

    #[test]
    fn the_verification_suite_for_ipv6() {
        let host = "3ffe:1900:4545:3:200:f8ff:fe21:67cf";
        let other = "3ffe:501:8::260:97ff:fe40:efab";
        for (to, to_port, from, from_port, alone, with_ports) in [
            (
                "3ffe:2501:200:3::1",
                1766,
                "3ffe:2501:200:1fff::7",
                2794,
                0x2CC1_8CD5,
                0x4020_7D3D,
            ),
            ("ff02::1", 4739, other, 14230, 0x0F0C_461C, 0xDDE5_1BBF),
            (
                "fe80::200:f8ff:fe21:67cf",
                38024,
                host,
                44251,
                0x4B61_E985,
                0x02D1_FEEF,
            ),
        ] {
            let mut packet = Packet {
                kind: PacketType::IPV6,
                ipv6: Some(ipv6(from, to)),
                ..Packet::default()
            };
            let rss = config(all());
            assert_eq!(rss.hash(&packet), Some((RssType::Ipv6, alone)));
            for (protocol, kind) in [(TCP, RssType::TcpIpv6), (UDP, RssType::UdpIpv6)] {
                packet.transport = transport(protocol, from_port, to_port);
                assert_eq!(rss.hash(&packet), Some((kind, with_ports)));
            }
            // With the mobile node's addresses elsewhere, they are hashed in place of the header's.
            let there = packet.ipv6.unwrap();
            packet.ipv6 = Some(Ipv6 {
                source: [1; 16],
                destination: [2; 16],
                home_source: Some(there.source),
                home_destination: Some(there.destination),
                ..there
            });
            packet.transport = transport(TCP, from_port, to_port);
            let rss = config(MRQC::TCP_IPV6EX.mask() | MRQC::IPV6EX.mask());
            assert_eq!(rss.hash(&packet), Some((RssType::TcpIpv6Ex, with_ports)));
            packet.transport = None;
            assert_eq!(rss.hash(&packet), Some((RssType::Ipv6Ex, alone)));
        }
    }

    #[test]
    fn only_what_is_enabled_is_hashed() {
        let packet = Packet {
            kind: PacketType::IPV4,
            ipv4: Some(ipv4("1.2.3.4", "5.6.7.8")),
            transport: transport(TCP, 1, 2),
            ..Packet::default()
        };
        let kind = |mrqc| config(mrqc).hash(&packet).map(|(kind, _)| kind);
        assert_eq!(kind(0), None);
        assert_eq!(kind(MRQC::UDP_IPV4.mask()), None);
        assert_eq!(kind(MRQC::IPV6.mask()), None);
        assert_eq!(kind(MRQC::IPV4.mask()), Some(RssType::Ipv4));
        assert_eq!(kind(MRQC::TCP_IPV4.mask()), Some(RssType::TcpIpv4));
        assert_eq!(config(all()).hash(&Packet::default()), None);
    }

    /// Bit by bit, as the definition has it.
    fn naive(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], n: usize| bytes[n / 8] >> (7 - n % 8) & 1 == 1;
        let mut hash = 0u32;
        for n in (0..input.len() * 8).filter(|n| bit(input, *n)) {
            for k in 0..32 {
                hash ^= u32::from(bit(key, n + k)) << (31 - k);
            }
        }
        hash
    }

    proptest! {
        #[test]
        fn the_hash_is_what_its_definition_says(
            key in any::<[u8; 20]>(), more in any::<[u8; 20]>(),
            input in prop::collection::vec(any::<u8>(), 0..=INPUT_MOST),
        ) {
            let key: [u8; RSS_KEY] = [key, more].concat().try_into().unwrap();
            prop_assert_eq!(toeplitz(&key, &input), naive(&key, &input));
        }
    }
}
