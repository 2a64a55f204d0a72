//! The whole card in a world of plain memory.

mod access;
mod cancelled;
mod checksums;
mod clock;
mod config_space;
mod determinism;
mod driver_tests;
mod forwarding;
mod hostile;
mod interrupts;
mod loopback;
mod malicious;
mod offloads;
mod packets;
mod probe;
mod protocols;
mod queues;
mod resets;
mod segmentation;
mod segmentation_hostile;
mod split;
mod stamping;
mod wake;
mod world;
