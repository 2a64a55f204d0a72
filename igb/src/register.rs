//! The language of the register map: registers as types, fields typed to their register, values of
//! a register.

use core::fmt;
use core::marker::PhantomData;

pub use crate::map::RegisterId;

/// What software can do with a register, in the datasheet's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads return what was written.
    ReadWrite,
    /// Writes are ignored.
    ReadOnly,
    /// Reads return no state (the map's user decides on 0).
    WriteOnly,
    /// A read clears the register.
    ReadClear,
    /// Writing 1 to a bit clears it.
    WriteOneClear,
    /// Writing 1 to a bit sets it; writing 0 changes nothing.
    WriteOneSet,
}

impl Access {
    pub(crate) const RW: Access = Access::ReadWrite;
    pub(crate) const RO: Access = Access::ReadOnly;
    pub(crate) const WO: Access = Access::WriteOnly;
    pub(crate) const RC: Access = Access::ReadClear;
    pub(crate) const W1C: Access = Access::WriteOneClear;
    pub(crate) const W1S: Access = Access::WriteOneSet;
}

/// A field of register `R`: `CTRL::RST` is a `Field<CTRL>` and fits no other register.
pub struct Field<R> {
    name: &'static str,
    lo: u8,
    width: u8,
    register: PhantomData<R>,
}

impl<R> Clone for Field<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Field<R> {}

impl<R> fmt::Debug for Field<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}:{}]", self.name, self.lo + self.width - 1, self.lo)
    }
}

impl<R> Field<R> {
    /// The bits `lo..=hi`.
    pub(crate) const fn new(name: &'static str, lo: u8, hi: u8) -> Self {
        assert!(lo <= hi && hi < 32, "a field lies inside 32 bits");
        Field {
            name,
            lo,
            width: hi - lo + 1,
            register: PhantomData,
        }
    }

    /// The field's bits, in place.
    #[must_use]
    pub const fn mask(self) -> u32 {
        (u32::MAX >> (32 - self.width as u32)) << self.lo
    }

    /// The lowest bit.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.lo as u32
    }

    /// How many bits.
    #[must_use]
    pub const fn width(self) -> u32 {
        self.width as u32
    }

    /// The field of a register's raw value, shifted down.
    #[must_use]
    pub const fn get(self, raw: u32) -> u32 {
        (raw & self.mask()) >> self.lo
    }

    /// `value` in the field's place; bits that do not fit are cut off.
    #[must_use]
    pub const fn put(self, value: u32) -> u32 {
        (value << self.lo) & self.mask()
    }

    /// As the datasheet spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }
}

/// A register, or an array of registers, of a BAR.
pub trait Register: Copy + 'static {
    /// The register whose fields this one has: itself, except for the VF window, where it is the
    /// card's register of the same content.
    type Layout: Register;
    /// Which one; for the VF window, the card's register behind it.
    const ID: RegisterId;
    /// Byte offset of element 0 in its BAR.
    const OFFSET: u32;
    /// Bytes between elements.
    const STRIDE: u32;
    /// Elements; 1 for a register that is no array.
    const COUNT: u32;
    /// Value after reset.
    const RESET: u32;
    /// What software can do with it.
    const ACCESS: Access;
    /// As the datasheet spells it.
    const NAME: &'static str;

    /// Byte offset of element `index`, which must be below `COUNT`.
    #[must_use]
    fn offset(index: u32) -> u32 {
        debug_assert!(index < Self::COUNT, "{} has no element {index}", Self::NAME);
        Self::OFFSET + index * Self::STRIDE
    }
}

/// A value of register `R`.
pub struct Value<R: Register>(pub u32, PhantomData<R>);

impl<R: Register> Clone for Value<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R: Register> Copy for Value<R> {}
impl<R: Register> PartialEq for Value<R> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<R: Register> Eq for Value<R> {}
impl<R: Register> Default for Value<R> {
    fn default() -> Self {
        Self::from_raw(0)
    }
}
impl<R: Register> From<u32> for Value<R> {
    fn from(raw: u32) -> Self {
        Self::from_raw(raw)
    }
}

impl<R: Register> Value<R> {
    /// The register's value after reset.
    pub const RESET: Self = Self::from_raw(R::RESET);

    /// The value with these bits.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Value(raw, PhantomData)
    }

    /// The bits.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether any bit of the field is set.
    #[must_use]
    pub const fn has(self, field: Field<R::Layout>) -> bool {
        self.0 & field.mask() != 0
    }

    /// The field, shifted down.
    #[must_use]
    pub const fn get(self, field: Field<R::Layout>) -> u32 {
        field.get(self.0)
    }

    /// With the field replaced by `value`; bits that do not fit are cut off.
    #[must_use]
    pub const fn with(self, field: Field<R::Layout>, value: u32) -> Self {
        Self::from_raw(self.0 & !field.mask() | field.put(value))
    }

    /// With every bit of the field set.
    #[must_use]
    pub const fn set(self, field: Field<R::Layout>) -> Self {
        Self::from_raw(self.0 | field.mask())
    }

    /// With every bit of the field clear.
    #[must_use]
    pub const fn clear(self, field: Field<R::Layout>) -> Self {
        Self::from_raw(self.0 & !field.mask())
    }
}

impl<R: Register> fmt::Debug for Value<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#010x}", R::NAME, self.0)?;
        <R::Layout as Register>::ID.info().write_fields(self.0, f)
    }
}

/// A field, for traces and for tables in documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldInfo {
    /// As the datasheet spells it.
    pub name: &'static str,
    /// Lowest bit.
    pub lo: u8,
    /// Highest bit.
    pub hi: u8,
    /// What it means; may be empty.
    pub doc: &'static str,
}

impl FieldInfo {
    /// The field's bits, in place.
    #[must_use]
    pub const fn mask(&self) -> u32 {
        (u32::MAX >> (31 - (self.hi - self.lo) as u32)) << self.lo
    }
}

/// A second place of an array's first elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// How many elements, from element 0.
    pub count: u32,
    /// Byte offset of element 0.
    pub offset: u32,
    /// Bytes between elements.
    pub stride: u32,
}

/// Where an array goes on when it is not in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// The first element that lies there.
    pub first: u32,
    /// Its byte offset; the stride is the array's.
    pub offset: u32,
}

/// All that is known about a register.
#[derive(Clone, Copy, Debug)]
pub struct RegisterInfo {
    /// Which register.
    pub id: RegisterId,
    /// As the datasheet spells it.
    pub name: &'static str,
    /// Byte offset of element 0 in BAR0.
    pub offset: u32,
    /// Bytes between elements.
    pub stride: u32,
    /// Elements.
    pub count: u32,
    /// Where the array goes on, when it is in two pieces.
    pub split: Option<Split>,
    /// A second place of the first elements.
    pub alias: Option<Alias>,
    /// What software can do with it.
    pub access: Access,
    /// Value after reset.
    pub reset: u32,
    /// The fields that have a name.
    pub fields: &'static [FieldInfo],
    /// Section of the 82576 datasheet.
    pub section: &'static str,
    /// What it is.
    pub doc: &'static str,
}

impl RegisterInfo {
    /// Byte offset of element `index`; `None` beyond the array.
    #[must_use]
    pub const fn offset_of(&self, index: u32) -> Option<u32> {
        if index >= self.count {
            return None;
        }
        Some(match self.split {
            Some(split) if index >= split.first => {
                split.offset + (index - split.first) * self.stride
            }
            _ => self.offset + index * self.stride,
        })
    }

    /// Byte offset of element `index` in the second place; `None` if it has none.
    #[must_use]
    pub const fn alias_of(&self, index: u32) -> Option<u32> {
        match self.alias {
            Some(alias) if index < alias.count => Some(alias.offset + index * alias.stride),
            _ => None,
        }
    }

    /// Which element lies at `offset`, which must be one of this register's.
    pub(crate) const fn index_at(&self, offset: u32) -> u32 {
        if let Some(alias) = self.alias
            && offset >= alias.offset
            && offset - alias.offset < alias.count * alias.stride
        {
            return (offset - alias.offset) / alias.stride;
        }
        if let Some(split) = self.split
            && offset >= split.offset
        {
            return split.first + (offset - split.offset) / self.stride;
        }
        (offset - self.offset) / self.stride
    }

    /// Writes the fields of `raw` that are not 0 as `{NAME=value ...}`, and nothing if none is.
    fn write_fields(&self, raw: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = " {";
        for field in self.fields {
            let value = (raw & field.mask()) >> field.lo;
            if value == 0 {
                continue;
            }
            if field.lo == field.hi {
                write!(f, "{separator}{}", field.name)?;
            } else {
                write!(f, "{separator}{}={value:#x}", field.name)?;
            }
            separator = " ";
        }
        if separator == " " {
            f.write_str("}")?;
        }
        Ok(())
    }

    /// A value of this register for a trace: hexadecimal, then the fields that are not 0.
    #[must_use]
    pub const fn describe(&'static self, raw: u32) -> Description {
        Description { info: self, raw }
    }
}

/// A register's value for a trace; see [`RegisterInfo::describe`].
#[derive(Clone, Copy)]
pub struct Description {
    info: &'static RegisterInfo,
    raw: u32,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.raw)?;
        self.info.write_fields(self.raw, f)
    }
}

impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which element of which register an access means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decoded {
    /// The register.
    pub id: RegisterId,
    /// The element; 0 for a register that is no array.
    pub index: u32,
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id.info().name)?;
        if self.id.info().count > 1 {
            write!(f, "[{}]", self.index)?;
        }
        Ok(())
    }
}
