//! Checksum insertion (datasheet 7.2.5): IPv4 header, TCP and UDP, and the legacy kind.

use igb::descriptor::{ContextOptions, L4Type, TxContext, TxOptions};

/// The request cannot be carried out: its offsets lie outside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadContext;

const IPV4_CHECKSUM: usize = 10;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const PROTOCOL_UDP: L4Type = L4Type::Udp;

/// One's complement sum of big-endian words, folded.
fn sum(bytes: &[u8], initial: u32) -> u16 {
    let (pairs, last) = bytes.as_chunks::<2>();
    let mut sum = pairs.iter().fold(u64::from(initial), |sum, pair| {
        sum + u64::from(u16::from_be_bytes(*pair))
    });
    if let [byte] = last {
        sum += u64::from(*byte) << 8;
    }
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

/// Insert what `options` ask for into an untagged frame. `context` counts a tag that the frame had
/// in it, `removed` bytes, in its MAC header.
///
/// The driver has left the pseudo header's sum in the checksum field, so that summing from there on
/// completes it.
pub(super) fn insert(
    frame: &mut [u8],
    options: TxOptions,
    context: TxContext,
    removed: usize,
) -> Result<(), BadContext> {
    let network = usize::from(context.mac_length())
        .checked_sub(removed)
        .ok_or(BadContext)?;
    let transport = network + usize::from(context.ip_length());
    if options.contains(TxOptions::IXSM) && context.options().contains(ContextOptions::IPV4) {
        let header = frame.get_mut(network..transport).ok_or(BadContext)?;
        put(header, IPV4_CHECKSUM, 0)?;
        let value = !sum(header, 0);
        put(header, IPV4_CHECKSUM, value)?;
    }
    if options.contains(TxOptions::TXSM) {
        let at = match context.l4_type() {
            L4Type::Tcp => TCP_CHECKSUM,
            L4Type::Udp => UDP_CHECKSUM,
            L4Type::Sctp | L4Type::Reserved => return Err(BadContext),
        };
        let segment = frame.get_mut(transport..).ok_or(BadContext)?;
        let mut value = !sum(segment, 0);
        if context.l4_type() == PROTOCOL_UDP && value == 0 {
            // 0 says that there is none (RFC 768).
            value = 0xFFFF;
        }
        put(segment, at, value)?;
    }
    Ok(())
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

    fn pseudo_header(ip: &[u8], len: usize) -> u16 {
        let mut bytes = ip[12..20].to_vec();
        bytes.extend_from_slice(&[0, ip[9]]);
        bytes.extend_from_slice(&(len as u16).to_be_bytes());
        sum(&bytes, 0)
    }

    proptest! {
        /// What was inserted verifies: header and segment sum to all ones.
        #[test]
        fn inserted_checksums_verify(
            payload in prop::collection::vec(any::<u8>(), 0..200), tcp in any::<bool>(),
        ) {
            let l4_len = if tcp { 20 } else { 8 };
            let mut frame = vec![0u8; 14];
            let mut ip = vec![0x45, 0, 0, 0, 1, 2, 0, 0, 64, 17, 0xAA, 0xAA, 10, 0, 0, 1, 10, 0, 0, 2];
            ip[9] = if tcp { 6 } else { 17 };
            let mut segment = vec![7u8; l4_len];
            segment.extend_from_slice(&payload);
            let at = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
            let pseudo = pseudo_header(&ip, segment.len());
            segment[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
            frame.extend_from_slice(&ip);
            frame.extend_from_slice(&segment);
            let context = TxContext::new(0, 14, 20)
                .with_options(ContextOptions::IPV4)
                .with_l4(if tcp { L4Type::Tcp } else { L4Type::Udp }, l4_len as u8);
            insert(&mut frame, TxOptions::IXSM | TxOptions::TXSM, context, 0).unwrap();
            prop_assert_eq!(sum(&frame[14..34], 0), 0xFFFF);
            prop_assert_eq!(sum(&frame[34..], u32::from(pseudo_header(&ip, segment.len()))), 0xFFFF);
        }

        /// No offsets make it panic.
        #[test]
        fn offsets_outside_are_refused(
            mut frame in prop::collection::vec(any::<u8>(), 0..80),
            mac in 0u8..128, ip in 0u16..512, options in any::<u32>(), removed in 0usize..5,
            start in any::<u8>(), at in any::<u8>(),
        ) {
            let context = TxContext::new(0, mac, ip)
                .with_options(ContextOptions::IPV4)
                .with_l4(if options & 1 == 0 { L4Type::Tcp } else { L4Type::Udp }, 8);
            let _ = insert(&mut frame, TxOptions::from_bits_truncate(options), context, removed);
            let _ = insert_legacy(&mut frame, start.into(), at.into());
        }
    }
}
