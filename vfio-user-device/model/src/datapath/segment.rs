//! Segmentation (datasheet 7.2.4): one request with one header becomes many frames, each with its own
//! lengths, identification, sequence number, flags and checksums.

use igb::descriptor::{ContextOptions, L4Type, TxContext, TxOptions};
use igb::frame::HEADER_LENGTH;

use super::checksum::{self, BadContext, IPV4_CHECKSUM, TCP_CHECKSUM, UDP_CHECKSUM};
use super::tx::FRAME_BYTES;
use crate::config::FlagMasks;

/// Longest header that is replicated (datasheet 7.2.4.5).
pub(super) const HEADER_MOST: usize = 240;

const IPV4_LEAST: usize = 20;
const IPV4_LENGTH: usize = 2;
const IPV4_IDENTIFICATION: usize = 4;
const IPV6_LEAST: usize = 40;
const IPV6_LENGTH: usize = 4;
const TCP_LEAST: usize = 20;
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 12;
/// The flags and the reserved bits before them; the header's length lies above.
const TCP_FLAGS_MASK: u16 = 0xFFF;
const UDP_LEAST: usize = 8;
const UDP_LENGTH: usize = 4;
/// LLC and SNAP, and the 802.3 length in front of them, which counts all behind it.
const SNAP: usize = 8;
const SNAP_LENGTH: usize = SNAP + 2;

/// How a request is to be cut, as its descriptors say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    options: TxOptions,
    ipv4: bool,
    snap: bool,
    tcp: bool,
    /// Where the IP header lies, the one above it, and the payload.
    network: usize,
    transport: usize,
    header: usize,
    mss: usize,
    payload: usize,
}

impl Plan {
    /// The plan of a request of `len` bytes in all, of which PAYLEN says `payload` are no header.
    pub(super) fn new(
        context: TxContext,
        options: TxOptions,
        payload: u32,
        len: usize,
    ) -> Result<Self, BadContext> {
        let network = usize::from(context.mac_length());
        let network_len = usize::from(context.ip_length());
        let transport = network + network_len;
        let transport_len = usize::from(context.l4_length());
        let ipv4 = context.options().contains(ContextOptions::IPV4);
        let snap = context.options().contains(ContextOptions::SNAP);
        let (tcp, least) = match context.l4_type() {
            L4Type::Tcp => (true, TCP_LEAST),
            L4Type::Udp => (false, UDP_LEAST),
            L4Type::Sctp | L4Type::Reserved => return Err(BadContext),
        };
        let plan = Self {
            options,
            ipv4,
            snap,
            tcp,
            network,
            transport,
            header: transport + transport_len,
            mss: usize::from(context.mss()),
            payload: payload as usize,
        };
        let headers_hold = network >= HEADER_LENGTH + if snap { SNAP } else { 0 }
            && network_len >= if ipv4 { IPV4_LEAST } else { IPV6_LEAST }
            && transport_len >= least
            && plan.header <= HEADER_MOST;
        let lengths_hold = plan.mss != 0
            && plan.payload != 0
            && plan.header + plan.payload == len
            && plan.header + plan.mss.min(plan.payload) <= FRAME_BYTES;
        if headers_hold && lengths_hold {
            Ok(plan)
        } else {
            Err(BadContext)
        }
    }

    /// Bytes of the header.
    pub(super) fn header_len(&self) -> usize {
        self.header
    }

    fn checksum_at(&self) -> usize {
        self.transport + if self.tcp { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }
}

/// A part of the payload, which the next frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it begins in the payload.
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// A request that is being cut.
#[derive(Clone, Debug)]
pub(super) struct Segmenter {
    plan: Plan,
    header: [u8; HEADER_MOST],
    /// The header's fields as software wrote them.
    identification: u16,
    sequence: u32,
    flags: u16,
    /// Both checksum fields, whose contents count.
    ip_seed: u16,
    seed: u16,
    /// Frames cut so far, and the bytes of payload in them.
    frames: u32,
    done: usize,
}

impl Segmenter {
    /// `header` has the length that the plan says.
    pub(super) fn new(plan: Plan, header: &[u8]) -> Self {
        let mut own = [0; HEADER_MOST];
        own[..plan.header].copy_from_slice(&header[..plan.header]);
        let (network, transport) = (plan.network, plan.transport);
        Self {
            identification: get(&own, network + IPV4_IDENTIFICATION),
            sequence: u32::from(get(&own, transport + TCP_SEQUENCE)) << 16
                | u32::from(get(&own, transport + TCP_SEQUENCE + 2)),
            flags: if plan.tcp {
                get(&own, transport + TCP_FLAGS)
            } else {
                0
            },
            ip_seed: get(&own, network + IPV4_CHECKSUM),
            seed: get(&own, plan.checksum_at()),
            plan,
            header: own,
            frames: 0,
            done: 0,
        }
    }

    /// Frames that are still to be cut.
    pub(super) fn frames_left(&self) -> u64 {
        (self.plan.payload - self.done).div_ceil(self.plan.mss) as u64
    }

    /// Go on to the next frame; `None` if there is none. Its header is [`Self::header`].
    pub(super) fn advance(&mut self, masks: FlagMasks) -> Option<Piece> {
        let plan = self.plan;
        let left = plan.payload - self.done;
        if left == 0 {
            return None;
        }
        let piece = Piece {
            offset: self.done,
            len: plan.mss.min(left),
        };
        let transport_len = plan.header - plan.transport + piece.len;
        let network_len = plan.header - plan.network + piece.len;
        // None of these is above FRAME_BYTES.
        let header = &mut self.header;
        if plan.snap {
            put(
                header,
                plan.network - SNAP_LENGTH,
                (network_len + SNAP) as u16,
            );
        }
        if plan.ipv4 {
            put(header, plan.network + IPV4_LENGTH, network_len as u16);
            let identification = self.identification.wrapping_add(self.frames as u16);
            put(header, plan.network + IPV4_IDENTIFICATION, identification);
            put(header, plan.network + IPV4_CHECKSUM, self.ip_seed);
        } else {
            let len = network_len - IPV6_LEAST;
            put(header, plan.network + IPV6_LENGTH, len as u16);
        }
        if plan.tcp {
            let sequence = self.sequence.wrapping_add(self.done as u32);
            put(
                header,
                plan.transport + TCP_SEQUENCE,
                (sequence >> 16) as u16,
            );
            put(header, plan.transport + TCP_SEQUENCE + 2, sequence as u16);
            let mask = masks.of(self.done == 0, piece.len == left) | !TCP_FLAGS_MASK;
            put(header, plan.transport + TCP_FLAGS, self.flags & mask);
        } else {
            put(header, plan.transport + UDP_LENGTH, transport_len as u16);
        }
        put(header, plan.checksum_at(), self.seed);
        self.frames += 1;
        self.done += piece.len;
        Some(piece)
    }

    /// The header of the latest frame, its checksums not inserted yet.
    pub(super) fn header(&self) -> &[u8] {
        &self.header[..self.plan.header]
    }

    /// Insert the checksums into the latest frame. The pseudo header's sum that software left in the
    /// field lacks the length, which differs from frame to frame (datasheet 7.2.4.7).
    pub(super) fn insert_checksums(&self, frame: &mut [u8]) {
        let plan = &self.plan;
        if plan.options.contains(TxOptions::IXSM) && plan.ipv4 {
            checksum::insert_ipv4(frame, plan.network, plan.transport);
        }
        if plan.options.contains(TxOptions::TXSM) {
            let len = frame.len() - plan.transport;
            let at = plan.checksum_at();
            checksum::insert_transport(frame, plan.transport, at, !plan.tcp, len as u32);
        }
    }
}

fn get(header: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

fn put(header: &mut [u8], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
