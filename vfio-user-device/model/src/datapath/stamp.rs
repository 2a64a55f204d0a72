//! Which frames from the wire get a time stamp (datasheet 7.9).

use super::DataPath;
use super::frame::Frame;
use super::packet::{Packet, UDP};
use crate::config::{Config, StampConfig};
use crate::stamps::Attributes;

/// TSYNCRXCTL.TYPE.
const TYPE_L2_V2: u8 = 0;
const TYPE_L4_V1: u8 = 1;
const TYPE_L2_L4_V2: u8 = 2;
const TYPE_EVENT_V2: u8 = 5;

const ETHERTYPE: usize = 2;
/// Messages with this bit in their type are no events.
const GENERAL_MESSAGE: u8 = 8;
/// Where the parts of a message lie, the same in V1 and V2 unless said so.
const V2_TYPE: usize = 0;
const VERSION: usize = 1;
const SOURCE: usize = 22;
const SEQUENCE: usize = 30;
const V1_CONTROL: usize = 32;

/// A message that came over Ethernet or over UDP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) over_udp: bool,
}

impl StampConfig {
    fn wants(&self, message: Message<'_>) -> bool {
        let Some(head) = message.bytes.first_chunk::<{ V1_CONTROL + 1 }>() else {
            return false;
        };
        // The upper halves are the transport's.
        let version = head[VERSION] & 0xF;
        let kind = head[V2_TYPE] & 0xF;
        let same = kind == self.message & 0xF;
        self.enabled
            && match self.kind {
                TYPE_L2_V2 => version == 2 && !message.over_udp && same,
                TYPE_L4_V1 => version == 1 && message.over_udp && head[V1_CONTROL] == self.control,
                TYPE_L2_L4_V2 => version == 2 && same,
                TYPE_EVENT_V2 => version == 2 && kind & GENERAL_MESSAGE == 0,
                _ => false,
            }
    }
}

impl Config {
    /// The 1588 message in a frame, if a filter that stamps matches the frame.
    fn message<'a>(&self, frame: &Frame<'a>) -> Option<Message<'a>> {
        let after = |at: usize| frame.rest.get(at..).unwrap_or_default();
        if let Some(filter) = self.ethertype_filter(frame.ethertype()) {
            return filter.stamp.then(|| Message {
                bytes: after(ETHERTYPE),
                over_udp: false,
            });
        }
        let packet = Packet::of(frame);
        let transport = packet
            .transport
            .filter(|transport| transport.protocol == UDP)?;
        self.receive
            .tuples
            .iter()
            .any(|filter| filter.stamp && filter.matches(None, &packet))
            .then(|| Message {
                bytes: after(transport.payload),
                over_udp: true,
            })
    }
}

impl DataPath {
    /// Stamp a frame from the wire, if it is one to be stamped and RXSTMP is free. Whether it was.
    pub(super) fn stamp(&self, config: &Config, frame: &Frame<'_>) -> bool {
        let stamp = &config.receive.stamp;
        if !stamp.enabled {
            return false;
        }
        let Some(message) = config
            .message(frame)
            .filter(|message| stamp.wants(*message))
        else {
            return false;
        };
        let part = |at: usize| message.bytes.get(at..)?.first_chunk::<6>().copied();
        let (Some(source), Some(rest)) = (part(SOURCE), part(SEQUENCE - 4)) else {
            return false;
        };
        let attributes = Attributes {
            source,
            sequence: u16::from_be_bytes([rest[4], rest[5]]),
        };
        stamp.slots.received(self.now, attributes)
    }
}
