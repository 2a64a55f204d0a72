//! What the card hands to the trace: as little as it can, to be named and formatted elsewhere.

use std::fmt;
use std::time::Duration;

use igb::register::RegisterInfo;
use igb::{FunctionId, vf};
use igb_model::{CardRegion, Direction, Fault, Halt, Port, Ring, Signal};

use super::MailboxMessage;
use super::entry::{Access, Entry, Event, FieldValue, Place, SHOWN, What};
use crate::incidents::port_name;
use crate::names::{config_name, function_name, msix_name};

/// One access.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccessRecord {
    /// Since the card started.
    pub(crate) at: Duration,
    pub(crate) function: FunctionId,
    pub(crate) write: bool,
    pub(crate) region: CardRegion,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    data: [u8; SHOWN],
}

/// One event.
#[derive(Debug, Clone)]
pub(crate) enum EventRecord {
    Interrupt {
        signal: Signal,
        taken: bool,
    },
    ResetRequested,
    ResetDone,
    Link(bool),
    Vfs(u8),
    Client(bool),
    Removed,
    Mailbox(MailboxMessage),
    Fault(Fault),
    Halt(Halt),
    Frame {
        direction: Direction,
        len: usize,
        /// The start of the frame; bytes that it does not have are 0.
        head: [u8; FRAME_HEAD],
    },
    Inject(String),
}

/// Bytes of a frame that are looked at: addresses, VLAN tag, EtherType.
pub(crate) const FRAME_HEAD: usize = 18;

impl AccessRecord {
    pub(crate) fn new(
        at: Duration,
        function: FunctionId,
        write: bool,
        (region, offset): (CardRegion, u64),
        data: &[u8],
    ) -> Self {
        let mut shown = [0; SHOWN];
        for (to, from) in shown.iter_mut().zip(data) {
            *to = *from;
        }
        Self {
            at,
            function,
            write,
            region,
            offset,
            len: data.len(),
            data: shown,
        }
    }

    /// Whether `later` is the same read with the same result.
    pub(super) fn repeats(&self, later: &Self) -> bool {
        !self.write
            && !later.write
            && self.function == later.function
            && self.region == later.region
            && self.offset == later.offset
            && self.len == later.len
            // What is not shown may differ.
            && self.len <= SHOWN
            && self.data == later.data
    }

    fn value(&self) -> Option<u64> {
        (self.len <= SHOWN).then(|| u64::from_le_bytes(self.data))
    }

    pub(super) fn entry(&self, prefix: &str) -> Entry {
        let (place, fields) = self.place();
        Entry {
            at: self.at,
            who: prefix.to_owned() + &function_name(self.function),
            what: What::Access(Access {
                write: self.write,
                region: region_name(self.region).to_owned(),
                place,
                value: self.value(),
                fields,
                repeats: 1,
                until: None,
            }),
        }
    }

    fn place(&self) -> (Place, Vec<FieldValue>) {
        if self.region == CardRegion::Bar0 && self.len == 4 && self.offset.is_multiple_of(4) {
            let raw = u32::from_le_bytes([self.data[0], self.data[1], self.data[2], self.data[3]]);
            return match register(self.function, self.offset) {
                Some((place, info)) => (place, fields_of(info, raw)),
                None => (Place::Offset(self.offset), Vec::new()),
            };
        }
        let name = match self.region {
            CardRegion::Config => config_name(self.function, self.offset).map(str::to_owned),
            CardRegion::Msix => msix_name(self.offset),
            _ => None,
        };
        let place = Place::Bytes {
            offset: self.offset,
            len: self.len,
            name,
        };
        (place, Vec::new())
    }
}

pub(super) fn region_name(region: CardRegion) -> &'static str {
    match region {
        CardRegion::Bar0 => "bar0",
        CardRegion::Flash => "flash",
        CardRegion::Io => "io",
        CardRegion::Msix => "msix",
        CardRegion::Config => "config",
    }
}

/// A whole register of BAR0, by the name that the function's own documentation uses.
pub(super) fn register(
    function: FunctionId,
    offset: u64,
) -> Option<(Place, &'static RegisterInfo)> {
    let offset = u32::try_from(offset).ok()?;
    let (name, info, count, index) = if function.is_vf() {
        let (window, index) = vf::window_at(offset)?;
        (window.name, window.id.info(), window.count, index)
    } else {
        let decoded = igb::decode(offset)?;
        let info = decoded.id.info();
        (info.name, info, info.count, decoded.index)
    };
    let place = Place::Register {
        name: name.to_owned(),
        index: (count > 1).then_some(index),
    };
    Some((place, info))
}

/// The fields of a register's value that are not 0.
pub(super) fn fields_of(info: &RegisterInfo, raw: u32) -> Vec<FieldValue> {
    info.fields
        .iter()
        .map(|field| (field, (raw & field.mask()) >> field.lo))
        .filter(|(_, value)| *value != 0)
        .map(|(field, value)| FieldValue {
            name: field.name.to_owned(),
            value: (field.lo != field.hi).then_some(value),
        })
        .collect()
}

impl EventRecord {
    pub(super) fn entry(&self, at: Duration, prefix: &str, port: Option<Port>) -> Entry {
        let who = port.map_or_else(|| "-".to_owned(), port_name);
        Entry {
            at,
            who: prefix.to_owned() + &who,
            what: What::Event(Event {
                name: self.name().to_owned(),
                details: self.to_string(),
            }),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            EventRecord::Interrupt { .. } => "interrupt",
            EventRecord::ResetRequested | EventRecord::ResetDone => "reset",
            EventRecord::Link(_) => "link",
            EventRecord::Vfs(_) => "vfs",
            EventRecord::Client(_) => "client",
            EventRecord::Removed => "removed",
            EventRecord::Mailbox(_) => "mailbox",
            EventRecord::Fault(_) => "dma-fault",
            EventRecord::Halt(_) => "halt",
            EventRecord::Frame { .. } => "frame",
            EventRecord::Inject(_) => "inject",
        }
    }
}

fn ring_name(ring: Ring) -> &'static str {
    match ring {
        Ring::Rx => "rx",
        Ring::Tx => "tx",
    }
}

/// Writes an interrupt as traces and injections spell it.
pub(crate) struct SignalName(pub(crate) Signal);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Signal::Msix(vector) => write!(f, "msix[{vector}]"),
            Signal::Msi => f.write_str("msi"),
            Signal::Intx { asserted: true } => f.write_str("intx asserted"),
            Signal::Intx { asserted: false } => f.write_str("intx deasserted"),
        }
    }
}

/// The details of the event.
impl fmt::Display for EventRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventRecord::Interrupt { signal, taken } => {
                let pending = if *taken { "" } else { " pending" };
                write!(f, "{}{pending}", SignalName(*signal))
            }
            EventRecord::ResetRequested => f.write_str("requested"),
            EventRecord::ResetDone => f.write_str("done"),
            EventRecord::Link(up) => f.write_str(if *up { "up" } else { "down" }),
            EventRecord::Vfs(count) => write!(f, "{count}"),
            EventRecord::Client(true) => f.write_str("connected"),
            EventRecord::Client(false) => f.write_str("disconnected"),
            EventRecord::Removed => Ok(()),
            EventRecord::Mailbox(message) => message.fmt(f),
            EventRecord::Fault(fault) => write!(
                f,
                "{} {:#x} {} {} {} {}",
                if fault.write { "write" } else { "read" },
                fault.iova,
                fault.len,
                ring_name(fault.ring),
                fault.queue,
                fault.cause.name()
            ),
            EventRecord::Halt(halt) => write!(
                f,
                "{} {} {}",
                ring_name(halt.ring),
                halt.queue,
                halt.reason.name()
            ),
            EventRecord::Frame {
                direction,
                len,
                head,
            } => write_frame(*direction, *len, head, f),
            EventRecord::Inject(text) => f.write_str(text),
        }
    }
}

fn write_frame(
    direction: Direction,
    len: usize,
    head: &[u8; FRAME_HEAD],
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let direction = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    write!(f, "{direction} {len}")?;
    for (address, separator) in head.chunks_exact(6).zip([" ", " < "]) {
        f.write_str(separator)?;
        for (n, byte) in address.iter().enumerate() {
            let colon = if n == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
    }
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    if word(12) == igb::frame::ETHERTYPE_VLAN {
        return write!(f, " {:#06x} vlan {}", word(16), word(14) & 0xFFF);
    }
    write!(f, " {:#06x}", word(12))
}

#[cfg(test)]
mod tests {
    use super::*;
    use igb::pci::header;

    fn line(function: FunctionId, place: (CardRegion, u64), data: &[u8]) -> String {
        let at = Duration::from_micros(1_500_000);
        AccessRecord::new(at, function, true, place, data)
            .entry("")
            .to_string()
    }

    fn event(record: &EventRecord, port: Option<Port>) -> String {
        record.entry(Duration::ZERO, "card1/", port).to_string()
    }

    #[test]
    fn registers_have_the_name_that_their_owner_knows_and_their_fields() {
        let ctrl = (
            CardRegion::Bar0,
            u64::from(<igb::CTRL as igb::Register>::OFFSET),
        );
        let rst = igb::CTRL::RST.mask().to_le_bytes();
        let text = line(FunctionId::PF, ctrl, &rst);
        assert_eq!(text, "1.500000000 pf   W bar0   CTRL 0x04000000 {RST}");
        let text = line(FunctionId::vf(3), ctrl, &rst);
        assert_eq!(text, "1.500000000 vf3  W bar0   VTCTRL 0x04000000 {RST}");
        let rdt = (
            CardRegion::Bar0,
            u64::from(<vf::RDT as igb::Register>::offset(1)),
        );
        let text = line(FunctionId::vf(0), rdt, &7_u32.to_le_bytes());
        assert!(text.contains(" RDT[1] 0x00000007"), "{text}");
    }

    #[test]
    fn other_regions_show_offset_length_and_name() {
        let command = (CardRegion::Config, u64::from(header::COMMAND));
        let text = line(FunctionId::vf(1), command, &[6, 0]);
        assert_eq!(text, "1.500000000 vf1  W config 0x004/2 COMMAND 0x0006");
        let text = line(FunctionId::PF, (CardRegion::Msix, 0x1C), &[1, 0, 0, 0]);
        assert_eq!(
            text,
            "1.500000000 pf   W msix   0x01c/4 VECTOR[1].VECTOR_CONTROL 0x00000001"
        );
        let text = line(FunctionId::PF, (CardRegion::Config, 0), &[0; 256]);
        assert!(text.ends_with("0x000/256 VENDOR_ID ..."), "{text}");
        let text = line(FunctionId::PF, (CardRegion::Bar0, 2), &[0xAB]);
        assert!(text.ends_with("bar0   0x002/1 0xab"), "{text}");
    }

    #[test]
    fn every_access_is_read_back_as_it_was_written() {
        for function in [FunctionId::PF, FunctionId::vf(7)] {
            for offset in (0..u64::from(igb::BAR0_SIZE)).step_by(4) {
                let place = (CardRegion::Bar0, offset);
                let line = line(function, place, &0xA5A5_FFFF_u32.to_le_bytes());
                let read: Entry = line.parse().expect(&line);
                assert_eq!(read.to_string(), line);
            }
            for region in [CardRegion::Config, CardRegion::Msix] {
                for offset in 0..0x1000 {
                    let line = line(function, (region, offset), &[1, 2]);
                    let read: Entry = line.parse().expect(&line);
                    assert_eq!(read.to_string(), line);
                }
            }
        }
    }

    #[test]
    fn events_say_who_and_what() {
        let vf = Some(Port::Function(FunctionId::vf(2)));
        let interrupt = EventRecord::Interrupt {
            signal: Signal::Msix(1),
            taken: false,
        };
        assert_eq!(
            event(&interrupt, vf),
            "0.000000000 card1/vf2 # interrupt msix[1] pending"
        );
        assert_eq!(
            event(&EventRecord::Link(false), None),
            "0.000000000 card1/- # link down"
        );
        let mut head = [0xFF; FRAME_HEAD];
        head[6..].copy_from_slice(&[2, 0, 0, 0, 0, 1, 0x81, 0, 0x20, 100, 8, 0]);
        let frame = EventRecord::Frame {
            direction: Direction::Ingress,
            len: 64,
            head,
        };
        assert_eq!(
            event(&frame, Some(Port::Uplink)),
            "0.000000000 card1/uplink # frame in 64 ff:ff:ff:ff:ff:ff < 02:00:00:00:00:01 0x0800 \
             vlan 100"
        );
    }
}
