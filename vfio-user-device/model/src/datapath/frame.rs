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

/// A frame without its VLAN tag, and the tag. Where all frames have an outer tag (CTRL_EXT.EXT_VLAN,
/// datasheet 7.4.5) that one stays as it is, and the tag is the inner one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) addresses: [u8; ADDRESSES],
    /// The outer tag, with its EtherType.
    pub(super) outer: Option<[u8; TAG_LENGTH]>,
    pub(super) tag: Option<VlanTag>,
    /// From the EtherType on, as far as it is local.
    pub(super) rest: &'a [u8],
    /// What follows, if anything.
    pub(super) tail: Option<Tail<'a>>,
    /// Its time stamp lies in the registers.
    pub(super) stamped: bool,
}

impl<'a> Frame<'a> {
    /// The frame that starts with these local bytes; `None` if it is shorter than a header. A tag in
    /// the frame, of EtherType `vlan`, is taken out. With `outer`, the EtherType of an outer tag, only
    /// a tag behind such a one counts.
    pub(super) fn parse(
        local: &'a [u8],
        tail: Option<Tail<'a>>,
        vlan: u16,
        outer: Option<u16>,
    ) -> Option<Self> {
        let addresses = *local.first_chunk::<ADDRESSES>()?;
        let mut frame = Self {
            addresses,
            outer: None,
            tag: None,
            rest: local
                .get(ADDRESSES..)
                .filter(|_| local.len() >= HEADER_LENGTH)?,
            tail,
            stamped: false,
        };
        if let Some(ethertype) = outer {
            let Some((tag, rest)) = split_tag(frame.rest, ethertype) else {
                return Some(frame);
            };
            frame.outer = Some(*tag);
            frame.rest = rest;
        }
        if let Some(([_, _, high, low], rest)) = split_tag(frame.rest, vlan) {
            frame.tag = Some(VlanTag(u16::from_be_bytes([*high, *low])));
            frame.rest = rest;
        }
        Some(frame)
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

    /// Bytes of both addresses and the outer tag.
    pub(super) fn prefix_len(&self) -> usize {
        ADDRESSES + self.outer.map_or(0, |tag| tag.len())
    }

    /// Bytes without tag and FCS.
    pub(super) fn untagged_len(&self) -> usize {
        self.prefix_len() + self.rest.len() + self.tail.map_or(0, |tail| tail.len)
    }

    /// Bytes with its tag, without FCS.
    pub(super) fn len(&self) -> usize {
        self.untagged_len() + self.tag.map_or(0, |_| TAG_LENGTH)
    }

    /// Bytes of its tags.
    pub(super) fn tags_len(&self) -> usize {
        self.len() - self.untagged_len() + self.prefix_len() - ADDRESSES
    }

    /// The local part as it goes out, with the tag or without it, into `buffer`.
    pub(super) fn write_local(&self, with_tag: bool, vlan: u16, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&self.addresses);
        buffer.extend_from_slice(self.outer.as_ref().map_or(&[], |tag| tag));
        if let Some(tag) = self.tag.filter(|_| with_tag) {
            buffer.extend_from_slice(&vlan.to_be_bytes());
            buffer.extend_from_slice(&tag.0.to_be_bytes());
        }
        buffer.extend_from_slice(self.rest);
    }
}

/// The tag of this EtherType that `rest` begins with, and what follows, which has an EtherType of its
/// own.
fn split_tag(rest: &[u8], ethertype: u16) -> Option<(&[u8; TAG_LENGTH], &[u8])> {
    let (tag, after) = rest.split_first_chunk::<TAG_LENGTH>()?;
    (tag[..2] == ethertype.to_be_bytes() && after.len() >= HEADER_LENGTH - ADDRESSES)
        .then_some((tag, after))
}

const _: () = assert!(ETHERTYPE_OFFSET == ADDRESSES && HEAD >= HEADER_LENGTH + 2 * TAG_LENGTH);

#[cfg(test)]
mod tests {
    use super::*;
    use igb::frame::{ETHERTYPE_QINQ, ETHERTYPE_VLAN};
    use proptest::prelude::*;

    #[test]
    fn a_tag_is_taken_out_and_put_back() {
        let mut bytes: Vec<u8> = (0..60).collect();
        bytes[12..16].copy_from_slice(&[0x81, 0, 0x20, 0x05]);
        let frame = Frame::parse(&bytes, None, ETHERTYPE_VLAN, None).unwrap();
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
        let parse = |bytes| Frame::parse(bytes, None, ETHERTYPE_VLAN, None);
        assert_eq!(parse(&bytes).unwrap().tag, None);
        assert!(parse(&bytes[..13]).is_none());
    }

    #[test]
    fn an_outer_tag_stays_and_the_inner_one_counts() {
        let mut bytes: Vec<u8> = (0..64).collect();
        bytes[12..20].copy_from_slice(&[0x88, 0xA8, 0, 1, 0x81, 0, 0x20, 5]);
        let outer = Some(ETHERTYPE_QINQ);
        let frame = Frame::parse(&bytes, None, ETHERTYPE_VLAN, outer).unwrap();
        assert_eq!(
            (frame.outer, frame.tag),
            (Some([0x88, 0xA8, 0, 1]), Some(VlanTag(0x2005)))
        );
        assert_eq!(
            (frame.len(), frame.untagged_len(), frame.ethertype()),
            (64, 60, 0x1415)
        );
        let mut out = Vec::new();
        frame.write_local(true, ETHERTYPE_VLAN, &mut out);
        assert_eq!(out, bytes);
        frame.write_local(false, ETHERTYPE_VLAN, &mut out);
        assert_eq!(out[12..18], [0x88, 0xA8, 0, 1, 0x14, 0x15]);
        // One tag alone is the outer one, and without it there is none.
        bytes[12..14].copy_from_slice(&[0x81, 0]);
        bytes[16] = 0;
        let both = Frame::parse(&bytes, None, ETHERTYPE_VLAN, Some(ETHERTYPE_VLAN)).unwrap();
        assert_eq!((both.outer, both.tag), (Some([0x81, 0, 0, 1]), None));
        let none = Frame::parse(&bytes, None, ETHERTYPE_VLAN, outer).unwrap();
        assert_eq!(
            (none.outer, none.tag, none.ethertype()),
            (None, None, 0x8100)
        );
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
