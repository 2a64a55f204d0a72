//! The hypervisor's part of an SR-IOV pair: a virtual PCI bus that relays VFs and mediates their channel.
