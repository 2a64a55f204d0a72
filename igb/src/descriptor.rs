//! Descriptors: the 16-byte records of the rings (datasheet 7.1 and 7.2).
//!
//! Each type wraps the two 64-bit words of a descriptor as numbers; [`Raw`] in memory is little
//! endian, low word first, which [`from_bytes`] and [`to_bytes`] convert.

mod rx;
mod tx;

pub use rx::{LegacyRx, LegacyRxStatus, PacketType, RssType, RxRead, RxStatus, RxWriteBack};
pub use tx::{
    ContextOptions, L4Type, LegacyTx, LegacyTxCommand, TxCommand, TxContext, TxData, TxDescriptor,
    TxOptions, TxWriteBack,
};

/// Bytes of a descriptor.
pub const SIZE: usize = 16;
/// Ring bases are aligned to this, and ring lengths are a multiple of it, in bytes.
pub const RING_ALIGNMENT: u32 = 128;
/// Most descriptors in a ring of the 82576 (xDLEN is 20 bits of bytes).
pub const RING_MAX: u32 = 0x8000;
/// Offset of the word of a descriptor that carries DD, which is written last.
pub const STATUS_WORD: usize = 8;

/// A descriptor as two numbers, the one at the lower address first.
pub type Raw = [u64; 2];

/// Reads a descriptor from its bytes in memory.
#[must_use]
pub const fn from_bytes(bytes: &[u8; SIZE]) -> Raw {
    let word = u128::from_le_bytes(*bytes);
    [word as u64, (word >> 64) as u64]
}

/// The bytes of a descriptor in memory.
#[must_use]
pub const fn to_bytes(raw: Raw) -> [u8; SIZE] {
    (raw[0] as u128 | (raw[1] as u128) << 64).to_le_bytes()
}

const fn bits(word: u64, lo: u32, width: u32) -> u64 {
    word >> lo & ((1 << width) - 1)
}

const fn with_bits(word: u64, lo: u32, width: u32, value: u64) -> u64 {
    let mask = (1 << width) - 1;
    word & !(mask << lo) | (value & mask) << lo
}

// The conversions that every descriptor type has.
macro_rules! descriptor {
    ($($name:ident)*) => { $(
        impl $name {
            /// The descriptor of these words, whatever they hold.
            #[must_use]
            pub const fn from_raw(raw: $crate::descriptor::Raw) -> Self {
                $name(raw)
            }

            /// The words.
            #[must_use]
            pub const fn raw(self) -> $crate::descriptor::Raw {
                self.0
            }

            /// The descriptor of these bytes of memory.
            #[must_use]
            pub const fn from_bytes(bytes: &[u8; $crate::descriptor::SIZE]) -> Self {
                $name($crate::descriptor::from_bytes(bytes))
            }

            /// The bytes for memory.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; $crate::descriptor::SIZE] {
                $crate::descriptor::to_bytes(self.0)
            }
        }
    )* };
}
use descriptor;
