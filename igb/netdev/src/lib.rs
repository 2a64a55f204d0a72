//! What stands above a driver in a process: a TCP/IP stack with a few services, the control socket,
//! and the loop that runs a driver until it is told to stop.
//!
//! The loop ([`run::run`]) owns the driver. It survives the loss of the device: it says what it
//! lost, goes on answering its control socket, and probes again when the device is back.

#![forbid(unsafe_code)]

pub mod bind;
pub mod control;
pub mod ctl;
pub mod jobs;
pub mod joined;
pub mod options;
pub mod port;
pub mod run;
pub mod stack;
pub mod stream;
