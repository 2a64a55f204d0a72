//! The project's own tool: `cargo xtask demo`, `test`, `bench`, `vm` and what they share.

#![forbid(unsafe_code)]

pub mod appear;
pub mod bench;
pub mod build;
pub mod control;
pub mod demo;
pub mod inside;
pub mod interop;
pub mod netns;
pub mod program;
pub mod report;
pub mod rig;
pub mod scenarios;
pub mod test;
pub mod usage;
pub mod vm;
