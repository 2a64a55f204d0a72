//! What this crate needs of PCI Express configuration space: standard offsets, no device's own.
//!
//! PCI Express Base Specification 5.0, sections 7.5.1 (header), 7.5.2 (power management), 7.6.3
//! (extended capability header) and 9.3.3 (Single Root I/O Virtualization extended capability).

use std::fmt;

/// Command, 16 bits.
pub const COMMAND: u64 = 0x04;
/// Status, 16 bits. No hypervisor keeps a copy of it: reading it asks the device.
pub const STATUS: u64 = 0x06;
/// Capabilities Pointer, 8 bits.
pub const CAPABILITIES_POINTER: u64 = 0x34;
/// Command: Memory Space Enable.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Status: there is a list of capabilities.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Identity of the power management capability.
pub const POWER_MANAGEMENT_ID: u8 = 0x01;
/// Power management capability: Control/Status, relative to it; the power state is in bits 1:0.
pub const POWER_CONTROL: u64 = 0x04;

/// Capability id of MSI-X.
pub const MSIX_ID: u8 = 0x11;
/// MSI-X capability: which BAR has the table, relative to it; bits 2:0.
pub const MSIX_TABLE: u64 = 0x04;

/// Where extended capabilities begin; everything below is the legacy configuration space.
pub const EXTENDED_CAPABILITIES: u64 = 0x100;
/// Bytes of the configuration space of a PCI Express function.
pub const CONFIG_SPACE_SIZE: u64 = 0x1000;
/// Identity of the SR-IOV extended capability.
pub const SRIOV_CAPABILITY_ID: u16 = 0x0010;

/// Registers of the SR-IOV extended capability, relative to it.
pub mod sriov {
    /// SR-IOV Control, 16 bits.
    pub const CONTROL: u64 = 0x08;
    /// TotalVFs, 16 bits, read only.
    pub const TOTAL_VFS: u64 = 0x0E;
    /// NumVFs, 16 bits; may change only while [`VF_ENABLE`] is clear.
    pub const NUM_VFS: u64 = 0x10;
    /// SR-IOV Control: VF Enable.
    pub const VF_ENABLE: u16 = 1;
    /// SR-IOV Control: VF Memory Space Enable.
    pub const VF_MSE: u16 = 1 << 3;
}

/// The windows of an x86 machine's address space where a write is an interrupt, never memory:
/// nothing is mapped there and no DMA goes there.
pub const MSI_WINDOW: std::ops::RangeInclusive<u64> = 0xFEE0_0000..=0xFEEF_FFFF;

/// Whether `first ..= last` touches the MSI window.
pub fn touches_msi_window(first: u64, last: u64) -> bool {
    first <= *MSI_WINDOW.end() && last >= *MSI_WINDOW.start()
}

/// A requester id: bus, device and function of who made a DMA or interrupt request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Rid(pub u16);

impl fmt::Display for Rid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.0 >> 8,
            (self.0 >> 3) & 0x1F,
            self.0 & 7
        )
    }
}
