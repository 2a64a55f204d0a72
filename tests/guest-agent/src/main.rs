//! Init of the test guest: loads modules and runs commands for the host.

fn main() {}
