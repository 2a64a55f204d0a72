//! The hypervisor's part of an SR-IOV pair: a virtual PCI bus that relays VFs and mediates their
//! channel to the PF driver.
//!
//! [`Mediator`] is the whole; what it is made of:
//! - pure state machines, without I/O and clocks: [`mailbox`] and [`config_block`] (what a VF sees),
//!   [`limits`] (what it may ask), and [`channel`], which joins them with deadlines, generations and
//!   teardown;
//! - the bus: `slot` (a VF's life) and `attendant`, `relay` (the VF as its client sees it),
//!   `config_space`, `dma` (DMA messages), `backchannel` (whether the card's own mailbox is closed);
//! - where VFs come from: [`nic`] (a card on sockets), [`kernel_nic`] (the kernel's VFIO), with
//!   [`passthrough`] in front of hardware;
//! - its peers: `pf` (the PF driver's connection), [`control`], [`audit`].
//!
//! The mediator can refuse a request, never grant one, and it does not look into config blocks. No
//! reply to a VF's client ever waits for the PF driver, and no lock is held while something is sent
//! to a peer that might not read.
#![forbid(unsafe_code)]

mod attendant;
pub mod audit;
mod backchannel;
mod bus;
pub mod channel;
pub mod clock;
pub mod config_block;
mod config_space;
pub mod control;
mod dma;
pub mod kernel_nic;
pub mod limits;
pub mod mailbox;
mod mediator;
pub mod nic;
pub mod passthrough;
mod pf;
mod relay;
mod slot;
mod socket;

pub use backchannel::Backchannel;
pub use bus::{SlotError, SlotInfo};
pub use mediator::{Mediator, MediatorError, MediatorOptions};
pub use slot::SlotState;
pub use socket::SocketError;
