//! A frame on its way through the card: a trusted copy of its header, on which every decision is made
//! and which receivers get, and where the rest lies in the sender's memory. Nothing is read twice.

use igb::frame::{ADDRESS_LENGTH, ETHERTYPE_OFFSET, HEADER_LENGTH, TAG_LENGTH};
use igb::{FunctionId, MacAddress, VlanTag};

/// Bytes of a frame that are copied before anything is decided.
pub(super) const HEAD: usize = 128;

/// A piece of a frame in its sender's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) iova: u64,
    pub(super) len: usize,
}

/// The rest of a frame, still in its sender's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail<'a> {
    pub(super) function: FunctionId,
    pub(super) segments: &'a [Segment],
    /// Bytes of the segments that the local part holds.
    pub(super) skip: usize,
    /// Bytes after those.
    pub(super) len: usize,
}

impl Tail<'_> {
    /// The pieces of `len` bytes from `offset` of the tail on.
    pub(super) fn pieces(&self, offset: usize, len: usize) -> impl Iterator<Item = Segment> + '_ {
        let mut skip = self.skip + offset;
        let mut left = len;
        self.segments.iter().filter_map(move |segment| {
            let skipped = skip.min(segment.len);
            skip -= skipped;
            let take = (segment.len - skipped).min(left);
            left -= take;
            (take != 0).then(|| Segment {
                iova: segment.iova.wrapping_add(skipped as u64),
                len: take,
            })
        })
    }
}

/// The two addresses of a frame.
pub(super) const ADDRESSES: usize = 2 * ADDRESS_LENGTH;

/// A frame without its VLAN tag, and the tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) addresses: [u8; ADDRESSES],
    pub(super) tag: Option<VlanTag>,
    /// From the EtherType on, as far as it is local.
    pub(super) rest: &'a [u8],
    /// What follows, if anything.
    pub(super) tail: Option<Tail<'a>>,
}

impl<'a> Frame<'a> {
    /// The frame that starts with these local bytes; `None` if it is shorter than a header. A tag in
    /// the frame is taken out.
    pub(super) fn parse(local: &'a [u8], tail: Option<Tail<'a>>, vlan: u16) -> Option<Self> {
        let addresses = *local.first_chunk::<ADDRESSES>()?;
        let rest = local
            .get(ADDRESSES..)
            .filter(|_| local.len() >= HEADER_LENGTH)?;
        let tag = match rest {
            [a, b, c, d, _, _, ..] if [*a, *b] == vlan.to_be_bytes() => {
                Some(VlanTag(u16::from_be_bytes([*c, *d])))
            }
            _ => None,
        };
        let rest = if tag.is_some() {
            &rest[TAG_LENGTH..]
        } else {
            rest
        };
        Some(Self {
            addresses,
            tag,
            rest,
            tail,
        })
    }

    pub(super) fn destination(&self) -> MacAddress {
        MacAddress::from_slice(&self.addresses).unwrap_or_default()
    }

    pub(super) fn source(&self) -> MacAddress {
        MacAddress::from_slice(&self.addresses[ADDRESS_LENGTH..]).unwrap_or_default()
    }

    pub(super) fn ethertype(&self) -> u16 {
        match self.rest {
            [high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        }
    }

    /// Bytes without tag and FCS.
    pub(super) fn untagged_len(&self) -> usize {
        ADDRESSES + self.rest.len() + self.tail.map_or(0, |tail| tail.len)
    }

    /// Bytes with its tag, without FCS.
    pub(super) fn len(&self) -> usize {
        self.untagged_len() + if self.tag.is_some() { TAG_LENGTH } else { 0 }
    }

    /// The local part as it goes out, with the tag or without it, into `buffer`.
    pub(super) fn write_local(&self, with_tag: bool, vlan: u16, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&self.addresses);
        if let Some(tag) = self.tag.filter(|_| with_tag) {
            buffer.extend_from_slice(&vlan.to_be_bytes());
            buffer.extend_from_slice(&tag.0.to_be_bytes());
        }
        buffer.extend_from_slice(self.rest);
    }
}

const _: () = assert!(ETHERTYPE_OFFSET == ADDRESSES && HEAD >= HEADER_LENGTH + TAG_LENGTH);

#[cfg(test)]
mod tests {
    use super::*;
    use igb::frame::ETHERTYPE_VLAN;
    use proptest::prelude::*;

    #[test]
    fn a_tag_is_taken_out_and_put_back() {
        let mut bytes: Vec<u8> = (0..60).collect();
        bytes[12..16].copy_from_slice(&[0x81, 0, 0x20, 0x05]);
        let frame = Frame::parse(&bytes, None, ETHERTYPE_VLAN).unwrap();
        assert_eq!(frame.tag, Some(VlanTag(0x2005)));
        assert_eq!((frame.len(), frame.untagged_len()), (60, 56));
        assert_eq!(frame.ethertype(), 0x1011);
        let mut out = Vec::new();
        frame.write_local(true, ETHERTYPE_VLAN, &mut out);
        assert_eq!(out, bytes);
        frame.write_local(false, ETHERTYPE_VLAN, &mut out);
        assert_eq!(out[..14], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17]);
    }

    #[test]
    fn a_truncated_tag_is_no_tag() {
        let mut bytes = vec![0; 17];
        bytes[12..14].copy_from_slice(&[0x81, 0]);
        assert_eq!(
            Frame::parse(&bytes, None, ETHERTYPE_VLAN).unwrap().tag,
            None
        );
        assert!(Frame::parse(&bytes[..13], None, ETHERTYPE_VLAN).is_none());
    }

    proptest! {
        /// The pieces of any part of a tail are that part, in order.
        #[test]
        fn pieces_cover_what_was_asked_for(
            lens in prop::collection::vec(0usize..20, 1..8),
            skip in 0usize..30, offset in 0usize..30, len in 0usize..60,
        ) {
            let mut next = 0;
            let segments: Vec<_> = lens
                .iter()
                .map(|len| {
                    let segment = Segment { iova: next as u64, len: *len };
                    next += len;
                    segment
                })
                .collect();
            let tail = Tail {
                function: FunctionId::PF,
                segments: &segments,
                skip,
                len: next.saturating_sub(skip),
            };
            let got: Vec<u64> = tail
                .pieces(offset, len)
                .flat_map(|piece| piece.iova..piece.iova + piece.len as u64)
                .collect();
            let first = (skip + offset).min(next);
            let want: Vec<u64> = (first as u64..(first + len).min(next) as u64).collect();
            prop_assert_eq!(got, want);
        }
    }
}
