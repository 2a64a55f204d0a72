//! PCI configuration space as a set of bytes, each bit of which is read-only, read-write, or cleared
//! by writing 1. What a change means is the caller's: see `control::pci`.

mod builder;
mod pf;
mod vf;

pub(crate) use builder::ConfigSpace;
pub(crate) use pf::pf_config_space;
pub(crate) use vf::vf_config_space;
