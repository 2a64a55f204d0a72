//! Bounded little-endian reading and writing, for the messages of this crate.

use crate::Invalid;

/// Reads fields off the front of a byte slice; every read is bounds-checked.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Invalid> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Invalid::Truncated {
                missing: count - self.rest.len().min(count),
            })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Invalid> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Invalid> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Invalid> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Invalid> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A byte that is 0 or 1.
    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, Invalid> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Invalid::Value {
                field,
                value: value.into(),
            }),
        }
    }

    /// `count` bytes that must be zero.
    pub(crate) fn reserved(&mut self, count: usize, field: &'static str) -> Result<(), Invalid> {
        match self.bytes(count)?.iter().find(|&&byte| byte != 0) {
            None => Ok(()),
            Some(&byte) => Err(Invalid::Reserved {
                field,
                bits: byte.into(),
            }),
        }
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), Invalid> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(Invalid::Trailing { extra }),
        }
    }
}

/// Flags of type `T` from raw bits, all of which must be known.
pub(crate) fn flags<T: bitflags::Flags<Bits: Into<u64>>>(
    bits: T::Bits,
    field: &'static str,
) -> Result<T, Invalid> {
    T::from_bits(bits).ok_or_else(|| Invalid::Reserved {
        field,
        bits: bits.into() & !T::all().bits().into(),
    })
}

/// An enum that is one byte on the wire; other values do not parse.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident, $field:literal { $($(#[$doc:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $value),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value with this number on the wire.
            pub fn from_wire(value: u8) -> Result<Self, Invalid> {
                match value {
                    $($value => Ok(Self::$variant),)+
                    _ => Err(Invalid::Value { field: $field, value: value.into() }),
                }
            }

            /// Its number on the wire.
            pub fn to_wire(self) -> u8 {
                self as u8
            }

            /// Its name, as logs and JSON show it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }
    };
}

pub(crate) use wire_enum;
