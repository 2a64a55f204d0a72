//! What the 82576 PF and VF drivers share: typed registers, rings, buffers, interrupts.
#![forbid(unsafe_code)]

mod error;
pub mod netdev;

pub use error::DriverError;
pub use igb::frame::MacAddress;
