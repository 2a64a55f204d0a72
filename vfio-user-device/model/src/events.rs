//! What the data path did, for the control state to absorb: interrupt causes, statistics, drops,
//! faults.

use igb::FunctionId;
use igb::function::FUNCTION_COUNT;
use smallvec::SmallVec;

use crate::drops::{DropCounters, DropReason, Malformed};
use crate::host::FaultCause;

/// A place where frames enter and leave the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// A function.
    Function(FunctionId),
    /// The wire.
    Uplink,
}

/// Which way a frame crossed a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the port into the card: transmitted by a function, received from the wire.
    Ingress,
    /// From the card to the port.
    Egress,
}

/// The ring kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ring {
    /// Receive.
    Rx,
    /// Transmit.
    Tx,
}

/// A DMA that a function's ring or buffers asked for and that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose DMA.
    pub function: FunctionId,
    /// The function's own queue number.
    pub queue: u8,
    /// Which of the queue's rings.
    pub ring: Ring,
    /// Where.
    pub iova: u64,
    /// Bytes.
    pub len: u64,
    /// The device wanted to write.
    pub write: bool,
    /// Why it did not happen.
    pub cause: FaultCause,
}

/// Faults, and halts, kept in one [`Events`]; later ones are counted only.
pub const FAULTS_KEPT: usize = 16;

/// Why a ring was halted. It stays so until software disables and enables it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HaltReason {
    /// DMA for it failed.
    Fault,
    /// Its length is 0, too large or no multiple of 128 bytes.
    RingLength,
    /// Its base is not aligned, or the ring wraps around the end of the address space.
    RingBase,
    /// Its head lies outside.
    Head,
    /// Its tail lies outside.
    Tail,
    /// Its descriptors make no sense, and the PF wants such queues blocked (DTXCTL.MDP_EN).
    Malicious,
}

impl HaltReason {
    /// The reason as reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            HaltReason::Fault => "dma-fault",
            HaltReason::RingLength => "ring-length",
            HaltReason::RingBase => "ring-base",
            HaltReason::Head => "head-outside",
            HaltReason::Tail => "tail-outside",
            HaltReason::Malicious => "malicious",
        }
    }
}

/// A ring that was halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Whose ring.
    pub function: FunctionId,
    /// The function's own queue number.
    pub queue: u8,
    /// Which of the queue's rings.
    pub ring: Ring,
    /// Why.
    pub reason: HaltReason,
}

/// What a driver did that none should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Misbehavior {
    SpoofedMac,
    SpoofedVlan,
    /// Its descriptors make no sense, and its queue was blocked.
    Malformed(Malformed),
}

/// A misbehavior, and the transmit queue (card number) on which it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastMisbehavior {
    pub(crate) cause: Misbehavior,
    pub(crate) queue: u8,
}

/// Frames and bytes that crossed a port since the last [`Events::clear`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortEvents {
    /// Frames to the port's owner (a function received them, the wire carried them away).
    pub rx_packets: u64,
    /// Their bytes, without FCS.
    pub rx_bytes: u64,
    /// Of them, multicast.
    pub rx_multicast: u64,
    /// Of them, broadcast.
    pub rx_broadcast: u64,
    /// Of them, sent by another function of the card.
    pub rx_loopback_packets: u64,
    /// Their bytes.
    pub rx_loopback_bytes: u64,
    /// Frames from the port's owner.
    pub tx_packets: u64,
    /// Their bytes, without FCS.
    pub tx_bytes: u64,
    /// Of them, multicast.
    pub tx_multicast: u64,
    /// Of them, broadcast.
    pub tx_broadcast: u64,
    /// Of them, delivered to another function of the card.
    pub tx_loopback_packets: u64,
    /// Their bytes.
    pub tx_loopback_bytes: u64,
    /// Frames dropped, by reason.
    pub drops: DropCounters,
    /// DMA faults.
    pub faults: u64,
    /// Rings halted.
    pub halts: u64,
}

/// Frames that passed the filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GoodFrames {
    pub(crate) packets: u64,
    /// Without FCS.
    pub(crate) bytes: u64,
    pub(crate) multicast: u64,
    pub(crate) broadcast: u64,
}

/// Everything that happened since the last [`Events::clear`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Version of the configuration that was in force.
    pub(crate) version: u64,
    /// Receive queues (card numbers) with a cause.
    pub(crate) rx_causes: u16,
    /// Transmit queues with a cause.
    pub(crate) tx_causes: u16,
    /// Transmit queues (card numbers) that sent a spoofed frame.
    pub(crate) wvbr: u16,
    /// Those that were blocked, for nonsense.
    pub(crate) newly_blocked: u16,
    /// Those that are blocked, if that has changed.
    pub(crate) blocked: Option<u16>,
    /// The latest thing that a driver did wrong.
    pub(crate) last_misbehavior: Option<LastMisbehavior>,
    /// Frames that were cut into many, and those for which that failed.
    pub(crate) segmented: u64,
    pub(crate) segmentation_failed: u64,
    /// When the first frame left the card that was to be stamped (TSTAMP), on the clock of
    /// [`crate::DataPath::advance`].
    pub(crate) tx_timestamp: Option<u64>,
    /// Of the frames from the wire, those that the filters let through.
    pub(crate) wire_good: GoodFrames,
    /// Sizes of frames from the wire: the classes are those of the statistics.
    pub(crate) wire_rx_sizes: [u64; SIZE_CLASSES],
    /// Sizes of frames to the wire.
    pub(crate) wire_tx_sizes: [u64; SIZE_CLASSES],
    pub(crate) functions: [PortEvents; FUNCTION_COUNT],
    pub(crate) uplink: PortEvents,
    pub(crate) faults: SmallVec<[Fault; 2]>,
    pub(crate) halts: SmallVec<[Halt; 2]>,
    dirty: bool,
}

/// Size classes of the statistics: 64, 65-127, 128-255, 256-511, 512-1023, 1024 and more.
pub(crate) const SIZE_CLASSES: usize = 6;

/// The size class of a frame of `len` bytes without FCS.
pub(crate) fn size_class(len: usize) -> usize {
    match len.saturating_add(4) {
        0..=64 => 0,
        65..=127 => 1,
        128..=255 => 2,
        256..=511 => 3,
        512..=1023 => 4,
        _ => 5,
    }
}

impl Events {
    /// Nothing happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is anything to absorb.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.dirty
    }

    /// Forget everything, after [`crate::Control::absorb`].
    pub fn clear(&mut self) {
        if self.dirty {
            *self = Self::default();
        }
    }

    /// What crossed a port.
    #[must_use]
    pub fn port(&self, port: Port) -> &PortEvents {
        match port {
            Port::Function(function) => &self.functions[function.slot()],
            Port::Uplink => &self.uplink,
        }
    }

    /// The faults, at most [`FAULTS_KEPT`]; [`PortEvents::faults`] counts all.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The rings that were halted, at most [`FAULTS_KEPT`]; [`PortEvents::halts`] counts all.
    #[must_use]
    pub fn halts(&self) -> &[Halt] {
        &self.halts
    }

    /// For writing: notes that there is something to absorb.
    pub(crate) fn port_mut(&mut self, port: Port) -> &mut PortEvents {
        self.dirty = true;
        match port {
            Port::Function(function) => &mut self.functions[function.slot()],
            Port::Uplink => &mut self.uplink,
        }
    }

    pub(crate) fn begin(&mut self, version: u64) {
        self.version = version;
    }

    pub(crate) fn drop_frame(&mut self, port: Port, reason: DropReason) {
        self.port_mut(port).drops.add(reason, 1);
    }

    pub(crate) fn drop_frames(&mut self, port: Port, reason: DropReason, frames: u64) {
        self.port_mut(port).drops.add(reason, frames);
    }

    pub(crate) fn misbehavior(&mut self, queue: u8, cause: Misbehavior) {
        self.dirty = true;
        let bit = 1u16 << (queue & 15);
        match cause {
            Misbehavior::SpoofedMac | Misbehavior::SpoofedVlan => self.wvbr |= bit,
            Misbehavior::Malformed(_) => self.newly_blocked |= bit,
        }
        self.last_misbehavior = Some(LastMisbehavior { cause, queue });
    }

    /// These transmit queues are blocked now, and no others.
    pub(crate) fn blocked(&mut self, queues: u16) {
        self.dirty = true;
        self.blocked = Some(queues);
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.port_mut(Port::Function(fault.function)).faults += 1;
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(fault);
        }
    }

    pub(crate) fn halt(&mut self, halt: Halt) {
        self.port_mut(Port::Function(halt.function)).halts += 1;
        if self.halts.len() < FAULTS_KEPT {
            self.halts.push(halt);
        }
    }

    /// A frame that was to be stamped left the card.
    pub(crate) fn tx_timestamp(&mut self, now: u64) {
        self.dirty = true;
        self.tx_timestamp.get_or_insert(now);
    }

    pub(crate) fn cause(&mut self, ring: Ring, queue: u8) {
        self.dirty = true;
        let bit = 1u16 << (queue & 15);
        match ring {
            Ring::Rx => self.rx_causes |= bit,
            Ring::Tx => self.tx_causes |= bit,
        }
    }
}
