//! Vector allocation and throttling: how IVAR, VTIVAR and EITR spell vectors and intervals
//! (datasheet 7.3.2, 7.3.4). Which causes are whose is in [`crate::function`].

use crate::function::FunctionKind;
use crate::register::Field;
use crate::{EITR, IVAR, IVAR_MISC, VTIVAR, VTIVAR_MISC};

/// In an 8-bit entry of IVAR: the entry is in use.
pub const VALID: u8 = 0x80;

/// Which side of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Receive.
    Rx,
    /// Transmit.
    Tx,
}

/// An 8-bit entry of IVAR or one of its like: which register, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Element of IVAR; 0 in the other registers.
    pub index: u32,
    shift: u8,
    vector_mask: u8,
}

impl Entry {
    /// The entry of the function's own queue: in IVAR for the PF, in VTIVAR for a VF.
    #[must_use]
    pub const fn of_queue(kind: FunctionKind, queue: u32, direction: Direction) -> Entry {
        match kind {
            FunctionKind::Physical => {
                let (rx, tx) = if queue & 8 == 0 {
                    (IVAR::RXQ_LOW, IVAR::TXQ_LOW)
                } else {
                    (IVAR::RXQ_HIGH, IVAR::TXQ_HIGH)
                };
                Self::at(queue % 8, direction.pick(rx, tx))
            }
            FunctionKind::Virtual => {
                let (rx, tx) = if queue & 1 == 0 {
                    (VTIVAR::RXQ0, VTIVAR::TXQ0)
                } else {
                    (VTIVAR::RXQ1, VTIVAR::TXQ1)
                };
                Self::at(0, direction.pick(rx, tx))
            }
        }
    }

    /// The entry of everything else: the causes of ICR in IVAR_MISC for the PF, the mailbox in
    /// VTIVAR_MISC for a VF.
    #[must_use]
    pub const fn of_other(kind: FunctionKind) -> Entry {
        match kind {
            FunctionKind::Physical => Self::at(0, IVAR_MISC::OTHER),
            FunctionKind::Virtual => Self::at(0, VTIVAR_MISC::MAILBOX),
        }
    }

    const fn at<R>(index: u32, vector: Field<R>) -> Entry {
        Entry {
            index,
            shift: vector.shift() as u8,
            vector_mask: (vector.mask() >> vector.shift()) as u8,
        }
    }

    /// The vector in the register's value, if the entry is in use.
    #[must_use]
    pub const fn vector(self, raw: u32) -> Option<u32> {
        let entry = (raw >> self.shift) as u8;
        if entry & VALID == 0 {
            None
        } else {
            Some((entry & self.vector_mask) as u32)
        }
    }

    /// The register's value with this entry pointing at `vector`, or out of use.
    #[must_use]
    pub const fn with_vector(self, raw: u32, vector: Option<u32>) -> u32 {
        let entry = match vector {
            Some(vector) => VALID | vector as u8 & self.vector_mask,
            None => 0,
        };
        raw & !(0xFF << self.shift) | (entry as u32) << self.shift
    }
}

impl Direction {
    const fn pick<R>(self, rx: Field<R>, tx: Field<R>) -> Field<R> {
        match self {
            Direction::Rx => rx,
            Direction::Tx => tx,
        }
    }
}

/// The shortest interval between two messages of a vector, in us, that an EITR value asks for.
#[must_use]
pub const fn interval_us(eitr: u32) -> u32 {
    EITR::INTERVAL.get(eitr)
}

/// The EITR value that asks for an interval of `us`, at most 8191, and resets the counters.
#[must_use]
pub const fn eitr(us: u32) -> u32 {
    let most = EITR::INTERVAL.get(u32::MAX);
    EITR::INTERVAL.put(if us < most { us } else { most })
}
