//! The hypervisor's part of an SR-IOV pair: a virtual PCI bus that relays VFs and mediates their channel.
#![forbid(unsafe_code)]

pub mod audit;
pub mod channel;
pub mod config_block;
pub mod limits;
pub mod mailbox;
