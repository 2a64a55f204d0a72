//! The Intel 82576 as a contract: register map, descriptors, mailbox words and PCI layout.
//!
//! Offsets and bit positions are literals only here. Registers are types ([`CTRL`], [`RDT`], ...)
//! with typed fields (`CTRL::RST`); [`decode`] tells what lies at an offset of the PF's BAR0 and
//! [`vf::decode`] what an offset of a VF's BAR0 means in the card. Sections are those of the Intel
//! 82576EB datasheet.

#![no_std]
#![forbid(unsafe_code)]

pub mod absent;
pub mod descriptor;
pub mod frame;
pub mod function;
pub mod interrupt;
pub mod mailbox;
mod map;
pub mod nvm;
pub mod pci;
pub mod phy;
pub mod queue_page;
pub mod register;
pub mod vf;

pub use frame::{MacAddress, VlanId, VlanTag};
pub use function::{FunctionId, FunctionKind};
pub use map::*;
pub use register::{Access, Decoded, Field, FieldInfo, Register, RegisterInfo, Value};
