//! The register map of the PF's BAR0. The files below this one are the map itself, by subject; this
//! one turns them into types, [`RegisterId`], [`REGISTERS`] and [`decode`].

#![expect(
    non_camel_case_types,
    reason = "registers are spelled as the datasheet does"
)]

use crate::register::{Access, Alias, Decoded, Field, FieldInfo, Register, RegisterInfo, Split};

// Each file defines a macro that appends its registers to what it is given and calls the next one.
#[macro_use]
mod device;
#[macro_use]
mod interrupt;
#[macro_use]
mod receive;
#[macro_use]
mod filter;
#[macro_use]
mod transmit;
#[macro_use]
mod virtualization;
#[macro_use]
mod time;
#[macro_use]
mod statistics;

/// Bytes of BAR0 that hold registers.
pub const BAR0_SIZE: u32 = 0x2_0000;

macro_rules! or {
    ($default:expr) => {
        $default
    };
    ($default:expr, $given:expr) => {
        $given
    };
}

macro_rules! optional {
    () => {
        None
    };
    ($given:expr) => {
        Some($given)
    };
}

// NAME[count]: ACCESS @ offset stride s split first @ offset alias [count] @ offset stride s
//     reset value, "datasheet section" { FIELD: bit, FIELD: lo..=hi, ... }
macro_rules! registers {
    ([] $(
        $(#[doc = $doc:literal])*
        $name:ident $([$count:literal])? : $access:ident @ $offset:literal
            $(stride $stride:literal)?
            $(split $first:literal @ $second:literal)?
            $(alias [$alias_count:literal] @ $alias:literal stride $alias_stride:literal)?
            $(reset $reset:literal)? , $section:literal
        { $(
            $(#[doc = $field_doc:literal])*
            $field:ident : $lo:literal $(..= $hi:literal)?
        ),* $(,)? }
    )*) => {
        /// A register of the card, by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum RegisterId {
            $( $(#[doc = $doc])* $name, )*
        }

        impl RegisterId {
            /// Every register, in the map's order.
            pub const ALL: &'static [RegisterId] = &[$(RegisterId::$name),*];
        }

        /// Every register of BAR0, indexed by [`RegisterId`].
        pub static REGISTERS: [RegisterInfo; RegisterId::ALL.len()] = INFO;

        const INFO: [RegisterInfo; RegisterId::ALL.len()] = [$(
            RegisterInfo {
                id: RegisterId::$name,
                name: stringify!($name),
                offset: $offset,
                stride: or!(4 $(, $stride)?),
                count: or!(1 $(, $count)?),
                split: optional!($(Split { first: $first, offset: $second })?),
                alias: optional!($(Alias {
                    count: $alias_count,
                    offset: $alias,
                    stride: $alias_stride,
                })?),
                access: Access::$access,
                reset: or!(0 $(, $reset)?),
                fields: &[$(
                    FieldInfo {
                        name: stringify!($field),
                        lo: $lo,
                        hi: or!($lo $(, $hi)?),
                        doc: concat!($($field_doc),*).trim_ascii(),
                    },
                )*],
                section: $section,
                doc: concat!($($doc),*).trim_ascii(),
            },
        )*];

        $(
            $(#[doc = $doc])*
            #[doc = concat!("\n\nDatasheet ", $section, ".")]
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub struct $name;

            impl Register for $name {
                type Layout = Self;
                const ID: RegisterId = RegisterId::$name;
                const OFFSET: u32 = $offset;
                const STRIDE: u32 = or!(4 $(, $stride)?);
                const COUNT: u32 = or!(1 $(, $count)?);
                const RESET: u32 = or!(0 $(, $reset)?);
                const ACCESS: Access = Access::$access;
                const NAME: &'static str = stringify!($name);
                $(
                    fn offset(index: u32) -> u32 {
                        if index < $first {
                            Self::OFFSET + index * Self::STRIDE
                        } else {
                            $second + (index - $first) * Self::STRIDE
                        }
                    }
                )?
            }

            impl $name {
                $(
                    $(#[doc = $field_doc])*
                    #[doc = concat!("\n\nBits ", stringify!($lo $(..= $hi)?), ".")]
                    pub const $field: Field<$name> =
                        Field::new(stringify!($field), $lo, or!($lo $(, $hi)?));
                )*
            }
        )*
    };
}

device_registers! {[
    interrupt_registers receive_registers filter_registers transmit_registers
    virtualization_registers time_registers statistics_registers registers
]}

impl RegisterId {
    /// All that is known about it.
    #[must_use]
    pub const fn info(self) -> &'static RegisterInfo {
        &REGISTERS[self as usize]
    }
}

/// For every dword of BAR0, 1 + the register it belongs to, or 0.
static OWNERS: [u16; (BAR0_SIZE / 4) as usize] = owners();

const fn owners() -> [u16; (BAR0_SIZE / 4) as usize] {
    let mut owners = [0; (BAR0_SIZE / 4) as usize];
    let mut id = 0;
    while id < INFO.len() {
        let info = &INFO[id];
        let mut index = 0;
        while let Some(offset) = info.offset_of(index) {
            claim(&mut owners, offset, id);
            if let Some(alias) = info.alias_of(index) {
                claim(&mut owners, alias, id);
            }
            index += 1;
        }
        id += 1;
    }
    owners
}

const fn claim(owners: &mut [u16; (BAR0_SIZE / 4) as usize], offset: u32, id: usize) {
    assert!(offset.is_multiple_of(4), "registers are dwords");
    let owner = &mut owners[(offset / 4) as usize];
    assert!(*owner == 0, "two registers at one offset");
    *owner = id as u16 + 1;
}

/// What lies at `offset` of the PF's BAR0, which the caller aligns down to a dword. Aliases decode
/// to the register they stand for.
#[must_use]
pub const fn decode(offset: u32) -> Option<Decoded> {
    if offset >= BAR0_SIZE {
        return None;
    }
    let owner = OWNERS[(offset / 4) as usize];
    if owner == 0 {
        return None;
    }
    let info = &REGISTERS[owner as usize - 1];
    Some(Decoded {
        id: info.id,
        index: info.index_at(offset),
    })
}
