//! Trusted PF driver for the 82576: creates VFs and is the arbiter of all policy.
