//! Untrusted, transient VF driver for the 82576.
