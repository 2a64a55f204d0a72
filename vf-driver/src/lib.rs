//! Untrusted, transient VF driver for the 82576.
//!
//! The driver drives its queues and asks the PF for everything else. It asks through the channel
//! that the mediator offers in a BAR of its own ([`mediated`]) or, for pairs without a mediator,
//! through the hardware's mailbox ([`mailbox`]).
#![forbid(unsafe_code)]

pub mod channel;
mod driver;
mod error;
pub mod mailbox;
pub mod mediated;
mod misbehave;
mod netdev;
mod program;

pub use channel::{Channel, ChannelKind, Granted};
pub use driver::{VfDriver, VfOptions};
pub use error::{ChannelError, VfError};
pub use mediator_protocol::Status;
pub use mediator_protocol::block::VfRequest;
pub use misbehave::InFlight;
