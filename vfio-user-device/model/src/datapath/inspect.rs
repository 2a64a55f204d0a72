//! What a receiver is told of a frame besides its bytes (datasheet 7.1.5.2 and 7.1.11): what it
//! carries, its hash, whether its checksums are right.

use igb::descriptor::{PacketType, RssType, RxStatus};

use super::checksum::{CRC32C, SCTP_CHECKSUM, UDP_CHECKSUM, sum};
use super::frame::Frame;
use super::packet::{FragmentPart, Packet, SCTP, TCP, Transport, UDP};
use super::sort::Sortable;
use crate::config::{ChecksumConfig, Config};

/// What is told of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inspection {
    pub(super) kind: PacketType,
    pub(super) hash: Option<(RssType, u32)>,
    /// Of its last descriptor.
    pub(super) status: RxStatus,
    pub(super) ip_id: u16,
    /// The sum of a fragment's payload.
    pub(super) fragment_sum: u16,
    /// Hash and type stand where the sums would (RXCSUM.PCSD).
    pub(super) hash_instead: bool,
    /// Where the packet checksum of a legacy descriptor starts; `None` if there is none.
    pub(super) sum_from: Option<usize>,
}

impl Inspection {
    /// `frame` is in one piece if [`ChecksumConfig::reads`] says so.
    pub(super) fn of(config: &Config, frame: &Frame<'_>, sorted: &Sortable<'_>) -> Self {
        let packet = sorted.packet;
        let checksum = &config.receive.checksum;
        let (mut status, fragment_sum) = checksum.verify(packet, frame.rest);
        status.set(RxStatus::VEXT, frame.outer.is_some());
        Self {
            kind: match sorted.ethertype {
                Some(filter) => {
                    PacketType::L2 | PacketType::from_bits_retain(u16::from(filter.number))
                }
                None => packet.kind,
            },
            hash: checksum.hash_instead.then(|| sorted.hash()).flatten(),
            status,
            ip_id: packet.ipv4.map_or(0, |ip| ip.id),
            fragment_sum,
            hash_instead: checksum.hash_instead,
            sum_from: (!checksum.hash_instead).then_some(checksum.start.into()),
        }
    }
}

impl ChecksumConfig {
    /// Whether more of the packet than its headers must be looked at.
    pub(super) fn reads(&self, packet: &Packet) -> bool {
        self.transport(packet).is_some() || self.sums_fragment(packet)
    }

    /// The transport whose checksum is to be verified.
    fn transport<'a>(&self, packet: &'a Packet) -> Option<&'a Transport> {
        let transport = packet.transport.as_ref()?;
        let enabled = match transport.protocol {
            TCP | UDP => {
                // Where a packet goes to in the end, and a mobile node's home, are not followed.
                let addresses = packet.ipv6.is_none_or(|ip| !ip.other_addresses);
                self.l4 && addresses && (packet.ipv6.is_none() || !self.skip_ipv6)
            }
            SCTP => self.sctp,
            _ => false,
        };
        Some(transport).filter(|_| enabled)
    }

    fn sums_fragment(&self, packet: &Packet) -> bool {
        self.fragments
            && !self.hash_instead
            && packet
                .ipv4
                .is_some_and(|ip| ip.fragment.is_some() && ip.protocol == UDP)
    }

    /// Status and errors, and the sum of a fragment. `bytes` are the packet's from the EtherType on.
    fn verify(&self, packet: &Packet, bytes: &[u8]) -> (RxStatus, u16) {
        let mut status = RxStatus::empty();
        let part = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default();
        if let Some(ip) = packet.ipv4.filter(|_| self.ip) {
            status |= RxStatus::IPCS;
            let right = sum(part(ip.at, ip.payload), 0) == 0xFFFF;
            status.set(RxStatus::IPE, !right);
        }
        if let Some(transport) = self.transport(packet) {
            let segment = part(transport.at, transport.end);
            let field = |at: usize| segment.get(at..at + 2);
            let right = match transport.protocol {
                SCTP => Some(sctp_is_right(segment)),
                // The sender has left it out.
                UDP if field(UDP_CHECKSUM) == Some(&[0, 0]) => None,
                _ => Some(sum(segment, pseudo_header(packet, transport)) == 0xFFFF),
            };
            if let Some(right) = right {
                status |= RxStatus::L4CS;
                status.set(RxStatus::UDPCS, transport.protocol == UDP);
                status.set(RxStatus::L4E, !right);
            }
        }
        let mut fragment = 0;
        if let Some(ip) = packet.ipv4.filter(|_| self.sums_fragment(packet)) {
            let payload = part(ip.payload, ip.end);
            fragment = sum(payload, 0);
            let told = payload
                .get(UDP_CHECKSUM..UDP_CHECKSUM + 2)
                .is_some_and(|field| field != [0, 0]);
            let first = ip.fragment == Some(FragmentPart::First);
            status.set(RxStatus::UDPV, first && told);
        }
        (status, fragment)
    }
}

/// The sum of what a checksum covers besides the segment: addresses, length and protocol.
fn pseudo_header(packet: &Packet, transport: &Transport) -> u32 {
    let addresses = match (&packet.ipv6, &packet.ipv4) {
        (Some(ip), _) => u32::from(sum(&ip.source, 0)) + u32::from(sum(&ip.destination, 0)),
        (None, Some(ip)) => u32::from(sum(&ip.source, 0)) + u32::from(sum(&ip.destination, 0)),
        (None, None) => 0,
    };
    // Frames are shorter than 64 KiB.
    let len = (transport.end - transport.at) as u32;
    addresses + len + u32::from(transport.protocol)
}

fn sctp_is_right(segment: &[u8]) -> bool {
    let Some((before, rest)) = segment.split_at_checked(SCTP_CHECKSUM) else {
        return false;
    };
    let Some((field, after)) = rest.split_first_chunk::<4>() else {
        return false;
    };
    let mut digest = CRC32C.digest();
    digest.update(before);
    digest.update(&[0; 4]);
    digest.update(after);
    digest.finalize() == u32::from_le_bytes(*field)
}
