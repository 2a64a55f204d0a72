//! What the 82576 PF and VF drivers share: typed registers, rings, buffers, interrupts.
