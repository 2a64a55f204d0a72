//! The Intel 82576 as two sans-IO machines.
//!
//! [`Control`] is what software sees: configuration space, registers, mailbox, interrupts,
//! SR-IOV, resets, statistics. [`DataPath`] is what moves frames: descriptor rings, the switch
//! between pools and uplink, filters, offloads. Control publishes a [`Config`]; the data path
//! reports [`Events`]. Neither knows a socket, a file, a thread or a clock: what they need of the
//! world they ask of a [`ControlHost`] or a [`DataHost`], naming the function they act for. The same
//! inputs give the same outputs.

#![forbid(unsafe_code)]

mod config;
mod config_space;
mod control;
mod datapath;
mod drops;
mod effects;
mod events;
mod host;
mod msix;
mod report;
mod stamps;

pub use config::Config;
pub use control::{CardRegion, CardSettings, Control, MailboxMode};
pub use datapath::{DataPath, Progress};
pub use drops::{DropCounters, DropReason};
pub use effects::{Effects, FunctionSet};
pub use events::{Direction, Events, FAULTS_KEPT, Fault, Halt, HaltReason, Port, PortEvents, Ring};
pub use host::{ControlHost, CopyFault, DataHost, DmaFault, FaultCause, QueuePage, Signal};
pub use report::{PortReport, Snapshot};
