//! Scenarios that run in process, over sockets and in VMs, and the bodies of the fuzz targets.

#![forbid(unsafe_code)]

pub mod frames;
pub mod fuzzing;
pub mod journal;
pub mod pf_thread;
pub mod raw;
pub mod rig;
pub mod runner;
pub mod scenarios;
