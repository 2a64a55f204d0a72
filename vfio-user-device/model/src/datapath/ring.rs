//! What receive and transmit rings share: when a ring is latched, and what makes it malformed.

use igb::descriptor;
use igb::queue_page::{self, QueueRegister};
use igb::{FunctionId, TXDCTL, Value};

use crate::events::{HaltReason, Ring as Kind};
use crate::host::{DataHost, DmaFault};

/// Whether a ring runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// ENABLE is clear, or the function may not use it.
    #[default]
    Off,
    Running,
    /// Until it is disabled, or gets another base or length.
    Halted,
}

/// The registers of one side of a queue pair.
struct Registers {
    base_low: QueueRegister,
    base_high: QueueRegister,
    length: QueueRegister,
    head: QueueRegister,
    tail: QueueRegister,
    control: QueueRegister,
}

const RX: Registers = Registers {
    base_low: QueueRegister::RDBAL,
    base_high: QueueRegister::RDBAH,
    length: QueueRegister::RDLEN,
    head: QueueRegister::RDH,
    tail: QueueRegister::RDT,
    control: QueueRegister::RXDCTL,
};
const TX: Registers = Registers {
    base_low: QueueRegister::TDBAL,
    base_high: QueueRegister::TDBAH,
    length: QueueRegister::TDLEN,
    head: QueueRegister::TDH,
    tail: QueueRegister::TDT,
    control: QueueRegister::TXDCTL,
};

const fn registers(kind: Kind) -> &'static Registers {
    match kind {
        Kind::Rx => &RX,
        Kind::Tx => &TX,
    }
}

/// A function's own queue: the place of its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) function: FunctionId,
    /// The function's own number.
    pub(super) queue: u32,
}

impl Place {
    pub(super) fn load(self, host: &dyn DataHost, register: QueueRegister) -> u32 {
        match queue_page::slot(self.function.kind(), self.queue, register) {
            Some((page, offset)) => host.page_load(self.function, page, offset),
            None => 0,
        }
    }

    pub(super) fn store(self, host: &mut dyn DataHost, register: QueueRegister, value: u32) {
        if let Some((page, offset)) = queue_page::slot(self.function.kind(), self.queue, register) {
            host.page_store(self.function, page, offset, value);
        }
    }
}

/// The card's trusted copy of a ring's state. What lies in the page is looked at once and checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    pub(super) state: State,
    base: u64,
    /// Descriptors.
    pub(super) count: u32,
    pub(super) head: u32,
    /// Base and length as they were read when latched.
    latched: [u32; 3],
}

/// What a look at the page found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// As before.
    Same,
    /// The ring was latched: state kept of the old one is void.
    Latched,
    /// The ring is malformed.
    Halted(HaltReason),
}

impl Ring {
    pub(super) fn halt(&mut self) {
        self.state = State::Halted;
    }

    /// Look whether software has enabled, disabled or moved the ring. A toggle of ENABLE between two
    /// looks is recognised by another base or length.
    pub(super) fn look(
        &mut self,
        kind: Kind,
        place: Place,
        permitted: bool,
        host: &dyn DataHost,
    ) -> Look {
        let registers = registers(kind);
        let enabled = permitted && {
            // ENABLE is the same bit of RXDCTL.
            let control = Value::<TXDCTL>::from_raw(place.load(host, registers.control));
            control.has(TXDCTL::ENABLE)
        };
        if !enabled {
            self.state = State::Off;
            return Look::Same;
        }
        let found = [registers.base_low, registers.base_high, registers.length]
            .map(|register| place.load(host, register));
        if self.state != State::Off && found == self.latched {
            return Look::Same;
        }
        self.latched = found;
        match self.latch(place.load(host, registers.head)) {
            Ok(()) => {
                self.state = State::Running;
                Look::Latched
            }
            Err(reason) => {
                self.state = State::Halted;
                Look::Halted(reason)
            }
        }
    }

    fn latch(&mut self, head: u32) -> Result<(), HaltReason> {
        let [low, high, length] = self.latched;
        // The low bits of the base do not exist (datasheet 8.10.5, 8.12.8).
        let base =
            (u64::from(high) << 32 | u64::from(low)) & !u64::from(descriptor::RING_ALIGNMENT - 1);
        let size = descriptor::SIZE as u32;
        if length == 0
            || !length.is_multiple_of(descriptor::RING_ALIGNMENT)
            || length / size > descriptor::RING_MAX
        {
            return Err(HaltReason::RingLength);
        }
        if base.checked_add(u64::from(length)).is_none() {
            return Err(HaltReason::RingBase);
        }
        self.base = base;
        self.count = length / size;
        if head >= self.count {
            return Err(HaltReason::Head);
        }
        self.head = head;
        Ok(())
    }

    /// Descriptors between head and a tail just read; `None` if the tail lies outside.
    pub(super) fn available(&self, kind: Kind, place: Place, host: &dyn DataHost) -> Option<u32> {
        let tail = place.load(host, registers(kind).tail);
        (tail < self.count).then(|| (tail + self.count - self.head) % self.count)
    }

    /// Where the descriptor `ahead` of the head lies.
    pub(super) fn iova(&self, ahead: u32) -> u64 {
        let index = (self.head + ahead) % self.count.max(1);
        self.base + u64::from(index) * descriptor::SIZE as u64
    }

    /// The head after `descriptors` more, which are at most `count`.
    pub(super) fn ahead(&self, descriptors: u32) -> u32 {
        (self.head + descriptors) % self.count.max(1)
    }

    /// The head goes on by `descriptors`, which are at most `count`.
    pub(super) fn advance(&mut self, descriptors: u32) {
        self.head = self.ahead(descriptors);
    }

    /// Read `raw.len()` descriptors from the one `ahead` of the head on; `raw.len()` is at most
    /// `count`.
    pub(super) fn fetch(
        &self,
        place: Place,
        ahead: u32,
        raw: &mut [[u8; descriptor::SIZE]],
        host: &mut dyn DataHost,
    ) -> Result<(), (u64, u64, DmaFault)> {
        let first = (self.head + ahead) % self.count.max(1);
        let until_end = (self.count - first) as usize;
        let (one, two) = raw.split_at_mut(raw.len().min(until_end));
        for (part, iova) in [(one, self.iova(ahead)), (two, self.base)] {
            if part.is_empty() {
                continue;
            }
            let bytes = part.as_flattened_mut();
            let len = bytes.len() as u64;
            host.dma_read(place.function, iova, bytes)
                .map_err(|fault| (iova, len, fault))?;
        }
        Ok(())
    }

    /// Show software the head.
    pub(super) fn publish_head(&self, kind: Kind, place: Place, host: &mut dyn DataHost) {
        place.store(host, registers(kind).head, self.head);
    }
}
