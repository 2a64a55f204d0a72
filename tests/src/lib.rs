//! Scenarios that run in process, over sockets and in VMs, and the bodies of the fuzz targets.

#![forbid(unsafe_code)]

pub mod fuzzing;
