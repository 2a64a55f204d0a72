//! What a frame carries (datasheet 7.1.5.2 and appendix A): IP, what is above it, and where each
//! header ends. Pure, and bounded by what is looked at: a header that goes on beyond it, or beyond
//! the frame, is not recognised.

use igb::descriptor::PacketType;
use igb::frame::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, MIN_ETHERTYPE, TAG_LENGTH,
};

use super::frame::{ADDRESSES, Frame, HEAD};

/// Bytes from the EtherType on that are looked at. Of every frame so many are local, if it has them,
/// so that what is recognised does not depend on where the frame lies.
const LOOKED_AT: usize = HEAD - ADDRESSES - 2 * TAG_LENGTH;

const ETHERTYPE: usize = 2;
/// LLC and SNAP of an EtherType, behind the length that stands in its place.
const SNAP: [u8; 6] = [0xAA, 0xAA, 3, 0, 0, 0];

/// IP protocols and next headers.
const HOP_BY_HOP: u8 = 0;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const IPV6_IN_IP: u8 = 41;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AH: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
pub(super) const SCTP: u8 = 132;

const IPV4_LEAST: usize = 20;
const IPV6_LENGTH: usize = 40;
const TCP_LEAST: usize = 20;
const UDP_LENGTH: usize = 8;
const SCTP_LENGTH: usize = 12;
/// Extension headers are a multiple of this.
const EXTENSION_UNIT: usize = 8;
/// The routing header and the option that name a mobile node's home (RFC 6275).
const ROUTING_HOME: u8 = 2;
const OPTION_HOME: u8 = 0xC9;
const OPTION_PAD: u8 = 0;

/// What was recognised. Places count from the EtherType, the tag taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: PacketType,
    pub(super) ipv4: Option<Ipv4>,
    /// Alone or inside IPv4.
    pub(super) ipv6: Option<Ipv6>,
    /// What is above IP, unless it is in fragments.
    pub(super) transport: Option<Transport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ipv4 {
    pub(super) at: usize,
    /// Where the header ends.
    pub(super) payload: usize,
    /// Where the packet ends.
    pub(super) end: usize,
    pub(super) source: [u8; 4],
    pub(super) destination: [u8; 4],
    pub(super) id: u16,
    pub(super) protocol: u8,
    pub(super) fragment: Option<FragmentPart>,
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FragmentPart {
    First,
    Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ipv6 {
    /// Where its headers end: before the one of a fragment.
    pub(super) payload: usize,
    pub(super) end: usize,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    /// The mobile node's addresses, from a home address option and a routing header of type 2.
    pub(super) home_source: Option<[u8; 16]>,
    pub(super) home_destination: Option<[u8; 16]>,
    /// Has extension headers.
    pub(super) extended: bool,
    /// The addresses in the header are not those that the checksum of what is above it covers.
    pub(super) other_addresses: bool,
    pub(super) fragment: bool,
}

/// A header above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    pub(super) protocol: u8,
    pub(super) at: usize,
    /// Where the header ends.
    pub(super) payload: usize,
    /// Where what it describes ends.
    pub(super) end: usize,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// Of TCP.
    pub(super) flags: u8,
}

/// Bytes that were looked at, and how many there are.
#[derive(Clone, Copy)]
struct View<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> View<'a> {
    fn array<const N: usize>(&self, at: usize) -> Option<&'a [u8; N]> {
        self.bytes.get(at..)?.first_chunk()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }
}

impl Packet {
    pub(super) fn of(frame: &Frame<'_>) -> Self {
        let len = frame.untagged_len() - frame.prefix_len();
        Self::parse(frame.rest, len)
    }

    /// What is in `len` bytes from the EtherType on, the first of which are `bytes`.
    pub(super) fn parse(bytes: &[u8], len: usize) -> Self {
        let view = View {
            bytes: &bytes[..bytes.len().min(LOOKED_AT).min(len)],
            len,
        };
        let mut packet = Self::default();
        // What cannot be followed ends the recognition, and what was recognised so far stays.
        let _ = packet.link(view);
        packet
    }

    fn link(&mut self, view: View<'_>) -> Option<()> {
        let mut at = 0;
        let mut ethertype = view.u16(at)?;
        if matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
            at += TAG_LENGTH;
            ethertype = view.u16(at)?;
        }
        at += ETHERTYPE;
        if ethertype < MIN_ETHERTYPE && view.array(at) == Some(&SNAP) {
            at += SNAP.len();
            ethertype = view.u16(at)?;
            at += ETHERTYPE;
        }
        match ethertype {
            ETHERTYPE_IPV4 => self.ipv4(view, at),
            ETHERTYPE_IPV6 => self.ipv6(view, at, view.len),
            _ => None,
        }
    }

    fn ipv4(&mut self, view: View<'_>, at: usize) -> Option<()> {
        let head = view.array::<IPV4_LEAST>(at)?;
        let header = usize::from(head[0] & 0xF) * 4;
        let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let end = at + total;
        if head[0] >> 4 != 4
            || header < IPV4_LEAST
            || total < header
            || end > view.len
            || at + header > view.bytes.len()
        {
            return None;
        }
        // More Fragments, and the offset.
        let fragmented = u16::from_be_bytes([head[6], head[7]]) & 0x3FFF;
        let fragment = match (fragmented, fragmented & 0x1FFF) {
            (0, _) => None,
            (_, 0) => Some(FragmentPart::First),
            _ => Some(FragmentPart::Later),
        };
        let [_, _, _, _, _, _, _, _, _, protocol, ..] = *head;
        let payload = at + header;
        self.kind |= PacketType::IPV4;
        self.kind.set(PacketType::IPV4E, header > IPV4_LEAST);
        self.ipv4 = Some(Ipv4 {
            at,
            payload,
            end,
            source: *view.array(at + 12)?,
            destination: *view.array(at + 16)?,
            id: u16::from_be_bytes([head[4], head[5]]),
            protocol,
            fragment,
        });
        match protocol {
            _ if fragment.is_some() => None,
            IPV6_IN_IP => self.ipv6(view, payload, end),
            _ => self.transport(view, protocol, payload, end),
        }
    }

    fn ipv6(&mut self, view: View<'_>, at: usize, limit: usize) -> Option<()> {
        let head = view.array::<IPV6_LENGTH>(at)?;
        let end = at + IPV6_LENGTH + usize::from(u16::from_be_bytes([head[4], head[5]]));
        if head[0] >> 4 != 6 || end > limit {
            return None;
        }
        let mut ipv6 = Ipv6 {
            payload: at + IPV6_LENGTH,
            end,
            source: *view.array(at + 8)?,
            destination: *view.array(at + 24)?,
            home_source: None,
            home_destination: None,
            extended: false,
            other_addresses: false,
            fragment: false,
        };
        let next = ipv6.extensions(view, head[6]);
        self.kind |= PacketType::IPV6;
        self.kind
            .set(PacketType::IPV6E, ipv6.extended || ipv6.fragment);
        self.ipv6 = Some(ipv6);
        self.transport(view, next?, ipv6.payload, end)
    }

    fn transport(&mut self, view: View<'_>, protocol: u8, at: usize, end: usize) -> Option<()> {
        let mut transport = Transport {
            protocol,
            at,
            payload: at,
            end,
            source_port: 0,
            destination_port: 0,
            flags: 0,
        };
        let kind = match protocol {
            TCP => {
                let header = usize::from(view.u8(at + 12)? >> 4) * 4;
                transport.flags = view.u8(at + 13)? & 0x3F;
                transport.payload = at + header.max(TCP_LEAST);
                if header < TCP_LEAST {
                    return None;
                }
                PacketType::TCP
            }
            UDP => {
                let len = usize::from(view.u16(at + 4)?);
                transport.payload = at + UDP_LENGTH;
                // Padding behind the datagram is not part of it.
                transport.end = at + len;
                if len < UDP_LENGTH {
                    return None;
                }
                PacketType::UDP
            }
            SCTP => {
                transport.payload = at + SCTP_LENGTH;
                PacketType::SCTP
            }
            ESP => {
                self.kind |= PacketType::ESP;
                return None;
            }
            AH => {
                self.kind |= PacketType::AH;
                return None;
            }
            _ => return None,
        };
        transport.source_port = view.u16(at)?;
        transport.destination_port = view.u16(at + 2)?;
        if transport.payload > transport.end || transport.end > end {
            return None;
        }
        self.kind |= kind;
        self.transport = Some(transport);
        Some(())
    }
}

impl Ipv6 {
    /// Go over the extension headers. What comes above them, `None` if it cannot be told.
    fn extensions(&mut self, view: View<'_>, mut next: u8) -> Option<u8> {
        loop {
            if next == FRAGMENT {
                self.fragment = true;
                return None;
            }
            if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
                return Some(next);
            }
            let at = self.payload;
            let [after, units] = *view.array::<2>(at)?;
            let len = (usize::from(units) + 1) * EXTENSION_UNIT;
            // Each is eight bytes at least, and all lie in what is looked at.
            let header = view
                .bytes
                .get(at..at + len)
                .filter(|_| at + len <= self.end)?;
            self.extended = true;
            match next {
                ROUTING => self.routing(header),
                DESTINATION_OPTIONS => self.options(header),
                _ => {}
            }
            self.payload += len;
            next = after;
        }
    }

    fn routing(&mut self, header: &[u8]) {
        let [_, _, kind, left, ..] = *header else {
            return;
        };
        if left == 0 {
            return;
        }
        self.other_addresses = true;
        if kind == ROUTING_HOME {
            self.home_destination = header.get(8..).and_then(<[u8]>::first_chunk).copied();
        }
    }

    fn options(&mut self, header: &[u8]) {
        let mut rest = &header[2..];
        while let [kind, after @ ..] = rest {
            if *kind == OPTION_PAD {
                rest = after;
                continue;
            }
            let [len, after @ ..] = after else { return };
            let Some((data, after)) = after.split_at_checked((*len).into()) else {
                return;
            };
            if *kind == OPTION_HOME {
                self.home_source = data.try_into().ok();
                self.other_addresses = true;
            }
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests;
