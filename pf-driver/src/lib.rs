//! Trusted PF driver for the 82576: creates VFs and is the arbiter of all policy.
//!
//! - [`gaps`]: what a card lacks that a driver expects.
//! - [`driver`]: probe and remove, the PF's own network device, link.
//! - [`sriov`]: `sriov_configure`; adopting VFs that run already.
//! - [`admin`]: what `ip link set PF vf N ...` does.
//! - [`policy`], [`vport`], [`filters`]: pure state: what each VF may, and has.
//! - [`arbiter`]: decides every request of every VF, from that state alone.
//! - [`image`]: what the state means for the card's registers.
//! - [`channel`], [`mediated`]: requests that come through the mediator.
//! - [`mailbox`]: requests that come through the hardware's mailbox, where there is no mediator.
//! - [`state`]: the file from which a restarted driver goes on.
#![forbid(unsafe_code)]

pub mod admin;
pub mod arbiter;
pub mod capabilities;
pub mod channel;
pub mod driver;
mod error;
pub mod filters;
pub mod gaps;
pub mod image;
pub mod mailbox;
pub mod mediated;
pub mod policy;
mod program;
pub mod sriov;
pub mod state;
mod stats;
pub mod vport;

pub use admin::{VfConfig, VfStats};
pub use capabilities::Capabilities;
pub use channel::PfChannel;
pub use driver::{PfDriver, PfOptions};
pub use error::PfError;
pub use policy::{LinkState, Policy, PortVlan, VfPolicy};
pub use vport::MAX_VFS;

/// RCTL.MO: which bits of a multicast address make its hash. igbvf and DPDK know no other.
pub(crate) const MULTICAST_OFFSET: u32 = 0;
