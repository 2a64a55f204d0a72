//! How a received frame lies in the buffers of its descriptors (SRRCTL, datasheet 7.1.10): whole, its
//! header apart, or its header twice.

use igb::{SRRCTL, Value};

use super::packet::{Packet, TCP, UDP};

/// SRRCTL.BSIZEPACKET counts these.
const PACKET_UNIT: u32 = 1024;
/// SRRCTL.BSIZEHEADER counts these.
const HEADER_UNIT: u32 = 64;

/// What SRRCTL says of a queue's descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Format {
    kind: Kind,
    /// Bytes of a packet buffer, not 0, and of a header buffer.
    packet: usize,
    header: usize,
}

/// SRRCTL.DESCTYPE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    Legacy,
    #[default]
    OneBuffer,
    Split,
    Replicate,
    /// Of frames that do not fit into the header buffer.
    ReplicateLarge,
    SplitAlways,
}

impl Format {
    /// `default` is the size of packet buffers where SRRCTL leaves it to RCTL.
    pub(super) fn new(srrctl: Value<SRRCTL>, default: u32) -> Self {
        let packet = match srrctl.get(SRRCTL::BSIZEPACKET) {
            0 => default,
            units => units * PACKET_UNIT,
        };
        Self {
            kind: match srrctl.get(SRRCTL::DESCTYPE) {
                0 => Kind::Legacy,
                2 => Kind::Split,
                3 => Kind::Replicate,
                4 => Kind::ReplicateLarge,
                5 => Kind::SplitAlways,
                _ => Kind::OneBuffer,
            },
            packet: packet.max(1) as usize,
            header: (srrctl.get(SRRCTL::BSIZEHEADER) * HEADER_UNIT) as usize,
        }
    }

    pub(super) fn is_legacy(self) -> bool {
        self.kind == Kind::Legacy
    }

    /// The layout of a frame of `total` bytes, whose header, if it was recognised as one that may be
    /// split, has `header` bytes.
    pub(super) fn layout(self, header: Option<usize>, total: usize) -> Layout {
        let whole = Layout {
            total,
            packet: self.packet,
            in_header: 0,
            from: 0,
            header_length: 0,
            split: false,
            overflow: false,
            told: None,
        };
        // A header that reaches beyond the frame is none.
        let header = header.filter(|header| *header <= total);
        let found = Layout {
            header_length: header.unwrap_or(0),
            split: header.is_some(),
            overflow: header.is_some_and(|header| header > self.header),
            ..whole
        };
        let small = total <= self.header;
        match (self.kind, header) {
            (Kind::Legacy | Kind::OneBuffer, _) | (Kind::Split, None) => whole,
            (Kind::Split, Some(_)) if found.overflow => found,
            (Kind::SplitAlways, _) if small => Layout {
                in_header: total,
                from: total,
                header_length: total,
                ..whole
            },
            (Kind::Split | Kind::SplitAlways, Some(header)) if !found.overflow => Layout {
                in_header: header,
                from: header,
                ..found
            },
            (Kind::Split | Kind::SplitAlways, _) => Layout {
                in_header: self.header,
                from: self.header,
                header_length: header.unwrap_or(self.header),
                ..found
            },
            (Kind::ReplicateLarge, _) if small => Layout {
                in_header: total,
                from: total,
                // The packet's length all the same.
                told: Some(total),
                ..found
            },
            (Kind::Replicate | Kind::ReplicateLarge, _) => Layout {
                in_header: total.min(self.header),
                ..found
            },
        }
    }
}

/// A frame over its descriptors. Only the first one's header buffer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    total: usize,
    packet: usize,
    /// So many of its first bytes are in the header buffer.
    pub(super) in_header: usize,
    /// The packet buffers hold it from here on.
    from: usize,
    /// HDR_LEN.
    pub(super) header_length: usize,
    /// SPH.
    pub(super) split: bool,
    /// HBO.
    pub(super) overflow: bool,
    /// The length in the first descriptor, if not that of what is in its packet buffer.
    told: Option<usize>,
}

impl Layout {
    /// How many descriptors it takes.
    pub(super) fn descriptors(&self) -> usize {
        (self.total - self.from).div_ceil(self.packet).max(1)
    }

    /// Where what is in the packet buffer of descriptor `n` starts in the frame, and how much that is.
    pub(super) fn piece(&self, n: usize) -> (usize, usize) {
        let start = (self.from + n * self.packet).min(self.total);
        (start, self.packet.min(self.total - start))
    }

    /// The length that descriptor `n` tells.
    pub(super) fn length(&self, n: usize) -> usize {
        self.told
            .filter(|_| n == 0)
            .unwrap_or_else(|| self.piece(n).1)
    }
}

/// The kinds of packets that PSRTYPE enables, by their bit.
const FRAGMENT: u32 = 1;
const WITH_TCP: u32 = 2;
const WITH_UDP: u32 = 3;
/// The same of IPv6 inside IPv4 and of IPv6 lie so many bits above.
const IPV6_IN_IPV4: u32 = 3;
const IPV6: u32 = 6;

/// Where the header of a packet of the kinds that PSRTYPE enables ends, counted as [`Packet`] does.
pub(super) fn header_end(packet: &Packet, types: u32, fragments_whole: bool) -> Option<usize> {
    let (kind, payload, fragment) = match (&packet.ipv4, &packet.ipv6) {
        (Some(ip), None) => (0, ip.payload, ip.fragment.is_some()),
        (Some(_), Some(ip)) => (IPV6_IN_IPV4, ip.payload, ip.fragment),
        (None, Some(ip)) => (IPV6, ip.payload, ip.fragment),
        (None, None) => return None,
    };
    let (kind, end) = match packet.transport {
        _ if fragment => (kind + FRAGMENT, payload),
        Some(transport) if transport.protocol == TCP => (kind + WITH_TCP, transport.payload),
        Some(transport) if transport.protocol == UDP => (kind + WITH_UDP, transport.payload),
        _ => return None,
    };
    (types & 1 << kind != 0 && !(fragment && fragments_whole)).then_some(end)
}
