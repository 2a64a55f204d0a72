//! The BAR that the mediator adds to every VF: BAR2, 4 KiB, 32-bit memory, not prefetchable,
//! trapped. A driver finds the mediated channel by [`MAGIC`] at offset 0.
//!
//! Registers are 32 bits wide, little endian, and written by aligned 4- or 8-byte accesses; any
//! other write to them is ignored. The buffer takes accesses of any width.
//!
//! How to ask: write BLOCK_ID, LENGTH and (for a write) BUFFER, then COMMAND. STATUS shows
//! [`StatusRegister::BUSY`] until [`StatusRegister::DONE`], with the [`Status`] code beside it.
//! The answer always comes, at the latest when the VF is taken away; the mailbox vector fires. A
//! driver that no longer wants to wait writes [`Command::Abandon`].

use crate::{Invalid, MAX_BLOCK, Status};

/// Which BAR of the VF it is.
pub const INDEX: u32 = 2;
/// Bytes of the BAR.
pub const SIZE: u64 = 0x1000;

/// Value of [`Register::Magic`]: "TNDM".
pub const MAGIC: u32 = u32::from_le_bytes(*b"TNDM");
/// Value of [`Register::Version`].
pub const VERSION: u32 = 1;

bitflags::bitflags! {
    /// Value of [`Register::Features`]: what this mediator offers in the BAR.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct BarFeatures: u32 {
        /// Config blocks can be read and written.
        const BLOCKS = 1;
        /// Changed blocks are announced in INVALIDATED_LO/HI.
        const INVALIDATION = 1 << 1;
        /// [`Command::Abandon`] exists.
        const ABANDON = 1 << 2;
    }
}

/// The registers of the BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Register {
    /// RO: [`MAGIC`].
    Magic = 0x00,
    /// RO: [`VERSION`].
    Version = 0x04,
    /// RO: [`BarFeatures`].
    Features = 0x08,
    /// RO: the VF's generation; grows with each reset.
    Generation = 0x0C,
    /// RW: block id of the next command. Read-only while busy.
    BlockId = 0x10,
    /// RW: bytes to read or write, 1 to 128. After a read: bytes that came. Read-only while busy.
    Length = 0x14,
    /// WO: a [`Command`]; writing starts it. Reads 0.
    Command = 0x18,
    /// RO: [`StatusRegister`].
    Status = 0x1C,
    /// W1C: changed blocks 0 to 31.
    InvalidatedLo = 0x20,
    /// W1C: changed blocks 32 to 63.
    InvalidatedHi = 0x24,
}

impl Register {
    /// Every register, by offset.
    pub const ALL: &'static [Self] = &[
        Self::Magic,
        Self::Version,
        Self::Features,
        Self::Generation,
        Self::BlockId,
        Self::Length,
        Self::Command,
        Self::Status,
        Self::InvalidatedLo,
        Self::InvalidatedHi,
    ];

    /// Offset in the BAR, bytes.
    pub const fn offset(self) -> u64 {
        self as u64
    }

    /// The register at `offset`, if one begins there.
    pub fn at(offset: u64) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|register| register.offset() == offset)
    }
}

/// Offset of the block buffer, bytes. RW; read-only while busy.
pub const BUFFER: u64 = 0x80;
/// Bytes of the block buffer.
pub const BUFFER_SIZE: u64 = MAX_BLOCK as u64;

/// What [`Register::Command`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Command {
    /// Read LENGTH bytes of block BLOCK_ID into the buffer.
    Read = 1,
    /// Write LENGTH bytes of the buffer to block BLOCK_ID.
    Write = 2,
    /// Stop waiting: the outstanding request ends with [`Status::TimedOut`].
    Abandon = 3,
}

impl Command {
    /// The command with this number. Anything else is [`Invalid`], reserved bits included.
    pub fn from_register(value: u32) -> Result<Self, Invalid> {
        match value {
            1 => Ok(Self::Read),
            2 => Ok(Self::Write),
            3 => Ok(Self::Abandon),
            _ => Err(Invalid::Value {
                field: "COMMAND",
                value: value.into(),
            }),
        }
    }
}

/// The value of [`Register::Status`]: flags in the low byte, the [`Status`] code in bits 15:8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusRegister(pub u32);

impl StatusRegister {
    /// A request is outstanding.
    pub const BUSY: u32 = 1;
    /// The last request has ended; the code is valid.
    pub const DONE: u32 = 1 << 1;
    /// A command was written while one was outstanding, and was ignored ([`Status::Busy`]). Goes
    /// with the next command that is taken.
    pub const OVERRUN: u32 = 1 << 2;
    const CODE_SHIFT: u32 = 8;

    /// A request is outstanding.
    pub fn busy() -> Self {
        Self(Self::BUSY)
    }

    /// The last request ended so.
    pub fn done(status: Status) -> Self {
        Self(Self::DONE | u32::from(status.to_wire()) << Self::CODE_SHIFT)
    }

    /// The same, with the OVERRUN flag set.
    pub fn with_overrun(self) -> Self {
        Self(self.0 | Self::OVERRUN)
    }

    /// Is a request outstanding?
    pub fn is_busy(self) -> bool {
        self.0 & Self::BUSY != 0
    }

    /// Was a command ignored because another was outstanding?
    pub fn overrun(self) -> bool {
        self.0 & Self::OVERRUN != 0
    }

    /// How the last request ended: `None` before the first one and while one is outstanding.
    pub fn verdict(self) -> Result<Option<Status>, Invalid> {
        if self.is_busy() || self.0 & Self::DONE == 0 {
            return Ok(None);
        }
        Status::from_wire((self.0 >> Self::CODE_SHIFT) as u8).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_fits_and_does_not_overlap() {
        for pair in Register::ALL.windows(2) {
            assert_eq!(pair[0].offset() + 4, pair[1].offset());
        }
        assert!(Register::InvalidatedHi.offset() + 4 <= BUFFER);
        const { assert!(BUFFER + BUFFER_SIZE <= SIZE) };
        for &register in Register::ALL {
            assert_eq!(Register::at(register.offset()), Some(register));
        }
        assert_eq!(Register::at(2), None);
    }

    #[test]
    fn status_register_says_what_it_was_given() {
        assert_eq!(StatusRegister::default().verdict(), Ok(None));
        assert_eq!(StatusRegister::busy().verdict(), Ok(None));
        for &status in Status::ALL {
            let register = StatusRegister::done(status).with_overrun();
            assert_eq!(register.verdict(), Ok(Some(status)));
            assert!(register.overrun() && !register.is_busy());
        }
        assert!(
            StatusRegister(StatusRegister::DONE | 0xEE00)
                .verdict()
                .is_err()
        );
    }

    #[test]
    fn commands_outside_the_list_are_refused() {
        assert_eq!(Command::from_register(1), Ok(Command::Read));
        assert!(Command::from_register(0).is_err());
        assert!(Command::from_register(0x8000_0001).is_err());
    }
}
