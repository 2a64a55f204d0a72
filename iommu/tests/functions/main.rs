//! Functions over every backend, and containers, against a device of ours.

mod backends;
mod containers;
mod device;
mod narrow;
