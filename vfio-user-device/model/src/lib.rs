//! The 82576 as a sans-IO state machine.
