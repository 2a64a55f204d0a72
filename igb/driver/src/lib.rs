//! What the 82576 PF and VF drivers share: typed registers, rings, buffers, interrupts.
//!
//! - [`registers`]: register access by type, through traps or shared pages alike.
//! - [`ring`]: transmit and receive rings, which know descriptors and no other hardware, keep a
//!   trusted shadow of what they wrote, and believe nothing that they read back.
//! - [`config`]: configuration space.
//! - [`queue`]: a queue pair of a function: a ring of each kind, its registers and doorbells.
//! - [`window`]: where PF and VF find the same registers.
//! - [`interrupt`]: MSI-X vectors as eventfds.
//! - [`offload`]: what a stack leaves to the card.
//! - [`netdev`]: what a network stack sees of either driver.
#![forbid(unsafe_code)]

pub mod config;
mod error;
pub mod interrupt;
pub mod netdev;
pub mod offload;
pub mod queue;
pub mod registers;
pub mod ring;
pub mod window;

pub use error::DriverError;
pub use igb::frame::MacAddress;
pub use registers::Registers;
