//! What the kernel leaves undone in a frame, and what it need not do again: the virtio-net header (VIRTIO
//! 1.3 section 5.1.6, linux/virtio_net.h), which TAPs and packet sockets speak.

use nix::libc;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// The checksum above IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing is known of it: it is in the frame, to be verified.
    #[default]
    Unknown,
    /// It was verified, or the frame never left the machine.
    Valid,
    /// It is left to be done: the one's complement sum from `start` on, at `offset` behind `start`. The
    /// pseudo header's sum is in its place.
    Partial {
        /// First byte summed.
        start: u16,
        /// Where the checksum is, from `start`.
        offset: u16,
    },
}

/// A frame that is to be split into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// TCP, with this many bytes of payload in each.
    Tcp(u16),
    /// Another kind, which nobody here has offered to split.
    Other,
}

/// What comes with a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// What is known of its checksum.
    pub checksum: Checksum,
    /// Whether it is to be split.
    pub segments: Option<Segments>,
}

impl Header {
    /// A frame whose checksums were verified.
    pub const VALID: Header = Header {
        checksum: Checksum::Valid,
        segments: None,
    };

    /// Reads the kernel's header.
    #[must_use]
    pub fn parse(raw: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([raw[at], raw[at + 1]]);
        let checksum = if raw[0] & NEEDS_CHECKSUM != 0 {
            Checksum::Partial {
                start: word(6),
                offset: word(8),
            }
        } else if raw[0] & DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::Unknown
        };
        let segments = match raw[1] & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP4 | GSO_TCP6 => Some(Segments::Tcp(word(4))),
            _ => Some(Segments::Other),
        };
        Self { checksum, segments }
    }

    /// The header of a frame given to the kernel, which is never one to be split.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut raw = [0; HEADER_BYTES];
        match self.checksum {
            Checksum::Unknown => {}
            Checksum::Valid => raw[0] = DATA_VALID,
            Checksum::Partial { start, offset } => {
                raw[0] = NEEDS_CHECKSUM;
                raw[6..8].copy_from_slice(&start.to_ne_bytes());
                raw[8..10].copy_from_slice(&offset.to_ne_bytes());
            }
        }
        raw
    }

    /// The header of the same frame with `more` bytes put in before its network header.
    #[must_use]
    pub(crate) fn moved(mut self, more: usize) -> Self {
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start = start.saturating_add(more as u16);
        }
        self
    }
}

/// What a reader of a TAP takes upon itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Checksums above IP may be left undone.
    pub checksum: bool,
    /// TCP may come unsegmented; takes `checksum` too.
    pub tcp_segments: bool,
}

impl Accepted {
    pub(crate) fn tap_bits(self) -> u32 {
        let checksum = if self.checksum { libc::TUN_F_CSUM } else { 0 };
        let segments = if self.tcp_segments && self.checksum {
            libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN
        } else {
            0
        };
        checksum | segments
    }
}

/// Do in software what [`Checksum::Partial`] leaves undone. `false` if its offsets lie outside the
/// frame, which is then as before.
#[must_use]
pub fn complete(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let at = usize::from(offset);
    let Some(rest) = frame.get_mut(usize::from(start)..) else {
        return false;
    };
    if at + 2 > rest.len() {
        return false;
    }
    // 0 says that there is no checksum (RFC 768).
    let value = match !sum(rest) {
        0 => 0xFFFF,
        value => value,
    };
    rest[at..at + 2].copy_from_slice(&value.to_be_bytes());
    true
}

/// One's complement sum of big-endian words, folded (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let (pairs, last) = bytes.as_chunks::<2>();
    let mut sum: u64 = pairs
        .iter()
        .map(|pair| u64::from(u16::from_be_bytes(*pair)))
        .sum();
    if let [byte] = last {
        sum += u64::from(*byte) << 8;
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is completed verifies; offsets outside change nothing, and panic never.
        #[test]
        fn a_completed_checksum_verifies(
            mut frame in prop::collection::vec(any::<u8>(), 0..200),
            start in 0u16..220,
            offset in 0u16..220,
        ) {
            let before = frame.clone();
            let seed = usize::from(start) + usize::from(offset);
            let pseudo = frame.get(seed..seed + 2).map(|field| u16::from_be_bytes([field[0], field[1]]));
            if complete(&mut frame, start, offset) {
                // The field's old value stands for the pseudo header, at its own parity.
                let mut pseudo = pseudo.unwrap().to_be_bytes();
                if offset % 2 == 1 {
                    pseudo.reverse();
                }
                let mut summed = frame[usize::from(start)..].to_vec();
                if summed.len() % 2 == 1 {
                    summed.push(0);
                }
                summed.extend_from_slice(&pseudo);
                prop_assert_eq!(offset % 2 == 0 && sum(&summed) != 0xFFFF, false);
            } else {
                prop_assert!(seed + 2 > frame.len());
                prop_assert_eq!(frame, before);
            }
        }

        /// A header reads back as it was written, and any bytes are read as some header.
        #[test]
        fn headers_round_trip(raw: [u8; HEADER_BYTES], start: u16, offset: u16) {
            let _ = Header::parse(&raw);
            for checksum in [Checksum::Unknown, Checksum::Valid, Checksum::Partial { start, offset }] {
                let header = Header { checksum, segments: None };
                prop_assert_eq!(Header::parse(&header.to_bytes()), header);
            }
        }
    }

    #[test]
    fn segments_are_told_from_whole_frames() {
        let mut raw = [0; HEADER_BYTES];
        raw[0] = NEEDS_CHECKSUM;
        raw[1] = GSO_TCP6 | GSO_ECN;
        raw[4..6].copy_from_slice(&1440_u16.to_ne_bytes());
        assert_eq!(Header::parse(&raw).segments, Some(Segments::Tcp(1440)));
        raw[1] = 5;
        assert_eq!(Header::parse(&raw).segments, Some(Segments::Other));
    }
}
