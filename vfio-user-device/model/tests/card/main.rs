//! The whole card in a world of plain memory.

mod access;
mod cancelled;
mod clock;
mod config_space;
mod determinism;
mod driver_tests;
mod forwarding;
mod hostile;
mod interrupts;
mod loopback;
mod offloads;
mod probe;
mod resets;
mod segmentation;
mod wake;
mod world;
