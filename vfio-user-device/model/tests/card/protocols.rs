//! Packets as they lie on the wire, with right checksums.

use igb::MacAddress;
use igb::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// One's complement sum, word by word.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// CRC32c bit by bit.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ ((crc & 1) * 0x82F6_3B78);
        }
    }
    !crc
}

/// Bytes of a payload that differ from place to place.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 13 + n / 251) as u8).collect()
}

/// A TCP, UDP or SCTP segment, its checksum 0.
pub(crate) fn segment(protocol: u8, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    match protocol {
        TCP => {
            bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, 0x10, 1, 0, 0, 0, 0, 0]);
        }
        UDP => {
            bytes.extend_from_slice(&(8 + data.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
        }
        SCTP => bytes.extend_from_slice(&[0, 0, 0, 7, 0, 0, 0, 0]),
        _ => bytes.clear(),
    }
    bytes.extend_from_slice(data);
    bytes
}

/// Put the checksum into a segment between two addresses.
pub(crate) fn seal(protocol: u8, addresses: &[u8], segment: &mut [u8]) {
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        SCTP => {
            let crc = crc32c(segment);
            segment[8..12].copy_from_slice(&crc.to_le_bytes());
            return;
        }
        _ => return,
    };
    let mut covered = addresses.to_vec();
    covered.extend_from_slice(&(segment.len() as u32).to_be_bytes());
    covered.extend_from_slice(&[0, 0, 0, protocol]);
    covered.extend_from_slice(segment);
    let value = match !sum(&covered) {
        0 if protocol == UDP => 0xFFFF,
        value => value,
    };
    segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn ethernet(to: MacAddress, from: MacAddress, ethertype: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = [to.0, from.0].concat();
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

/// An IPv4 header, its options padded with 0, around `data`. `fragment` is the word with the flags
/// and the offset.
pub(crate) fn ipv4(protocol: u8, options: usize, fragment: u16, data: &[u8]) -> Vec<u8> {
    let header = 20 + options.next_multiple_of(4);
    let mut bytes = vec![0; header];
    bytes[0] = 4 << 4 | (header / 4) as u8;
    bytes[2..4].copy_from_slice(&((header + data.len()) as u16).to_be_bytes());
    bytes[4..6].copy_from_slice(&0xABCDu16.to_be_bytes());
    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
    bytes[8] = 64;
    bytes[9] = protocol;
    bytes[12..20].copy_from_slice(&IPV4);
    let value = !sum(&bytes);
    bytes[10..12].copy_from_slice(&value.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Source and destination.
pub(crate) const IPV4: [u8; 8] = [10, 0, 0, 1, 10, 0, 0, 2];

/// Source and destination.
pub(crate) fn ipv6_addresses() -> [u8; 32] {
    std::array::from_fn(|n| [0xFE, 0x80].get(n % 16).copied().unwrap_or(n as u8))
}

/// An IPv6 header with extension headers in front of `data`; each is its number and its bytes from
/// the length on.
pub(crate) fn ipv6(protocol: u8, extensions: &[(u8, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    for (n, (_, body)) in extensions.iter().enumerate() {
        rest.push(extensions.get(n + 1).map_or(protocol, |(next, _)| *next));
        rest.extend_from_slice(body);
    }
    rest.extend_from_slice(data);
    let mut bytes = vec![6 << 4, 0, 0, 0];
    bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
    bytes.push(extensions.first().map_or(protocol, |(first, _)| *first));
    bytes.push(64);
    bytes.extend_from_slice(&ipv6_addresses());
    bytes.extend_from_slice(&rest);
    bytes
}

/// An extension header of `units` times eight bytes, with nothing in it but padding.
pub(crate) fn padding(number: u8, units: u8) -> (u8, Vec<u8>) {
    let mut body = vec![0; usize::from(units) * 8 - 1];
    body[0] = units - 1;
    (number, body)
}

/// A frame over IPv4 with right checksums and `len` bytes of data.
pub(crate) fn over_ipv4(to: MacAddress, from: MacAddress, protocol: u8, len: usize) -> Vec<u8> {
    let mut segment = segment(protocol, PORTS, &payload(len));
    seal(protocol, &IPV4, &mut segment);
    ethernet(to, from, ETHERTYPE_IPV4, &ipv4(protocol, 0, 0, &segment))
}

/// A frame over IPv6 likewise.
pub(crate) fn over_ipv6(to: MacAddress, from: MacAddress, protocol: u8, len: usize) -> Vec<u8> {
    let mut segment = segment(protocol, PORTS, &payload(len));
    seal(protocol, &ipv6_addresses(), &mut segment);
    in_ipv6(to, from, &ipv6(protocol, &[], &segment))
}

/// An IPv4 packet in its frame.
pub(crate) fn in_ipv4(to: MacAddress, from: MacAddress, packet: &[u8]) -> Vec<u8> {
    ethernet(to, from, ETHERTYPE_IPV4, packet)
}

/// An IPv6 packet in its frame.
pub(crate) fn in_ipv6(to: MacAddress, from: MacAddress, packet: &[u8]) -> Vec<u8> {
    ethernet(to, from, ETHERTYPE_IPV6, packet)
}

pub(crate) const PORTS: (u16, u16) = (2794, 1766);

#[test]
fn the_checks_here_know_the_published_answers() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    // RFC 1071's example.
    assert_eq!(sum(&[0, 1, 0xF2, 3, 0xF4, 0xF5, 0xF6, 0xF7]), 0xDDF2);
}
