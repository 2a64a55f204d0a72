//! Checksum insertion (datasheet 7.2.5): IPv4 header, TCP, UDP and SCTP, and the legacy kind.
//!
//! All of it works on the frame as it lies in the sender's memory, tags included, and before the
//! switch looks at it: a checksum can be told to overwrite any part of the header.

use crc::{CRC_32_ISCSI, Crc, Table};
use igb::descriptor::{ContextOptions, L4Type, TxContext, TxOptions};

/// The request cannot be carried out: its offsets lie outside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadContext;

pub(super) const IPV4_CHECKSUM: usize = 10;
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_CHECKSUM: usize = 6;
const IPV4_LEAST: usize = 20;
pub(super) const SCTP_CHECKSUM: usize = 8;
const SCTP_HEADER: usize = 12;

/// SCTP's checksum is CRC32c (RFC 9260, appendix A).
pub(super) const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// One's complement sum of big-endian words, folded.
pub(super) fn sum(bytes: &[u8], initial: u32) -> u16 {
    // The sum does not depend on the order of bytes, but for a swap of the result (RFC 1071), nor on
    // the width of what is added up.
    let (words, last) = bytes.as_chunks::<4>();
    let mut sum = words
        .iter()
        .fold(0u64, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
    let mut rest = [0; 4];
    rest[..last.len()].copy_from_slice(last);
    sum += u64::from(u32::from_ne_bytes(rest));
    let own = u16::from_be(fold(sum));
    fold(u64::from(own) + u64::from(initial))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Result<(), BadContext> {
    bytes
        .get_mut(at..at + 2)
        .ok_or(BadContext)?
        .copy_from_slice(&value.to_be_bytes());
    Ok(())
}

/// Insert what `options` ask for.
///
/// Of TCP and UDP the driver has left the pseudo header's sum in the checksum field, so that summing
/// from there on completes it. The field of IPv4 counts too: a driver that has the card take more
/// than the IPv4 header for it, a tunnel's, cancels the surplus there.
pub(super) fn insert(
    frame: &mut [u8],
    options: TxOptions,
    context: TxContext,
) -> Result<(), BadContext> {
    let network = usize::from(context.mac_length());
    let transport = network + usize::from(context.ip_length());
    if transport > frame.len() {
        return Err(BadContext);
    }
    if options.contains(TxOptions::IXSM) && context.options().contains(ContextOptions::IPV4) {
        if transport < network + IPV4_LEAST {
            return Err(BadContext);
        }
        insert_ipv4(frame, network, transport);
    }
    if options.contains(TxOptions::TXSM) {
        let left = frame.len() - transport;
        match context.l4_type() {
            L4Type::Tcp if left >= TCP_CHECKSUM + 2 => {
                insert_transport(frame, transport, transport + TCP_CHECKSUM, false, 0);
            }
            L4Type::Udp if left >= UDP_CHECKSUM + 2 => {
                insert_transport(frame, transport, transport + UDP_CHECKSUM, true, 0);
            }
            L4Type::Sctp if left >= SCTP_HEADER => insert_sctp(&mut frame[transport..]),
            _ => return Err(BadContext),
        }
    }
    Ok(())
}

/// The checksum of the IPv4 header that lies at `network..transport`, within the frame.
pub(super) fn insert_ipv4(frame: &mut [u8], network: usize, transport: usize) {
    let header = &mut frame[network..transport];
    let value = !sum(header, 0);
    header[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum from `transport` on and of `more`, put at `at`, which lies within the frame.
pub(super) fn insert_transport(
    frame: &mut [u8],
    transport: usize,
    at: usize,
    udp: bool,
    more: u32,
) {
    let mut value = !sum(&frame[transport..], more);
    if udp && value == 0 {
        // 0 says that there is none (RFC 768).
        value = 0xFFFF;
    }
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn insert_sctp(packet: &mut [u8]) {
    let field = SCTP_CHECKSUM..SCTP_CHECKSUM + 4;
    packet[field.clone()].fill(0);
    let value = CRC32C.checksum(packet);
    packet[field].copy_from_slice(&value.to_le_bytes());
}

/// Legacy: the sum from `start` on, put at `at`.
pub(super) fn insert_legacy(frame: &mut [u8], start: usize, at: usize) -> Result<(), BadContext> {
    let value = !sum(frame.get(start..).ok_or(BadContext)?, 0);
    put(frame, at, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, a word at a time.
    fn naive_sum(bytes: &[u8], initial: u32) -> u16 {
        let mut sum = u64::from(initial);
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum as u16
    }

    fn pseudo_header(ip: &[u8], len: usize) -> u16 {
        let mut bytes = ip[12..20].to_vec();
        bytes.extend_from_slice(&[0, ip[9]]);
        bytes.extend_from_slice(&(len as u16).to_be_bytes());
        naive_sum(&bytes, 0)
    }

    #[test]
    fn crc32c_is_that_of_the_standard() {
        assert_eq!(CRC32C.checksum(b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_words(
            bytes in prop::collection::vec(any::<u8>(), 0..300), initial in any::<u32>(),
        ) {
            // 0 and 0xFFFF are the same number; which of them it is matters to UDP only.
            let [ours, naive] = [sum(&bytes, initial), naive_sum(&bytes, initial)];
            prop_assert_eq!(ours % 0xFFFF, naive % 0xFFFF);
            prop_assert_eq!(ours == 0, naive == 0);
        }

        /// What was inserted verifies: header and segment sum to all ones.
        #[test]
        fn inserted_checksums_verify(
            payload in prop::collection::vec(any::<u8>(), 0..200), tcp in any::<bool>(),
            tag in any::<bool>(),
        ) {
            let l4_len = if tcp { 20 } else { 8 };
            let mac_len = if tag { 18 } else { 14 };
            let mut frame = vec![0x5Au8; mac_len];
            let mut ip = vec![0x45, 0, 0, 0, 1, 2, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            ip[9] = if tcp { 6 } else { 17 };
            let mut segment = vec![7u8; l4_len];
            segment.extend_from_slice(&payload);
            let at = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
            let pseudo = pseudo_header(&ip, segment.len());
            segment[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
            frame.extend_from_slice(&ip);
            frame.extend_from_slice(&segment);
            let context = TxContext::new(0, mac_len as u8, 20)
                .with_options(ContextOptions::IPV4)
                .with_l4(if tcp { L4Type::Tcp } else { L4Type::Udp }, l4_len as u8);
            insert(&mut frame, TxOptions::IXSM | TxOptions::TXSM, context).unwrap();
            let (ip, segment) = frame[mac_len..].split_at(20);
            prop_assert_eq!(naive_sum(ip, 0), 0xFFFF);
            prop_assert_eq!(
                naive_sum(segment, u32::from(pseudo_header(ip, segment.len()))),
                0xFFFF
            );
        }

        /// No offsets make it panic.
        #[test]
        fn offsets_outside_are_refused(
            mut frame in prop::collection::vec(any::<u8>(), 0..80),
            mac in 0u8..128, ip in 0u16..512, options in any::<u32>(), l4 in 0usize..4,
            start in any::<u8>(), at in any::<u8>(),
        ) {
            let l4 = [L4Type::Udp, L4Type::Tcp, L4Type::Sctp, L4Type::Reserved][l4];
            let context = TxContext::new(0, mac, ip)
                .with_options(ContextOptions::IPV4)
                .with_l4(l4, 8);
            let _ = insert(&mut frame, TxOptions::from_bits_truncate(options), context);
            let _ = insert_legacy(&mut frame, start.into(), at.into());
        }
    }
}
