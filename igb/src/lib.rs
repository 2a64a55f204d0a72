//! The Intel 82576 as a contract: register map, descriptors, mailbox words and PCI layout.
