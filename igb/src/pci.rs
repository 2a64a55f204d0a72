//! Configuration space of the PF and the VFs: identity, BARs, capabilities and their fields
//! (datasheet 9; PCI Express Base Specification; PCI-SIG SR-IOV).
//!
//! Constants named after a register are byte offsets: in the header from the start of configuration
//! space, in a capability from the start of the capability. Bits and masks stand in a module named
//! after their register.

/// Vendor of both functions.
pub const VENDOR_INTEL: u16 = 0x8086;
/// Device ID of the PF (82576, copper).
pub const PF_DEVICE_ID: u16 = 0x10C9;
/// Device ID of a VF (from the SR-IOV capability; a VF's own reads 0xFFFF on a bus).
pub const VF_DEVICE_ID: u16 = 0x10CA;
/// Revision of the 82576.
pub const REVISION: u8 = 0x01;
/// Class code: Ethernet controller.
pub const CLASS_ETHERNET: u32 = 0x02_0000;
/// Subsystem ID as the EEPROM of an Intel adapter has it.
pub const SUBSYSTEM_ID: u16 = 0xA03C;

/// Bytes of conventional configuration space.
pub const CONFIG_SIZE: usize = 256;
/// Bytes of extended configuration space.
pub const EXTENDED_CONFIG_SIZE: usize = 4096;

/// What a BAR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// 32-bit memory.
    Memory32,
    /// 64-bit memory, prefetchable; takes the next BAR too.
    Memory64,
    /// I/O ports.
    Io,
}

/// A BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its number.
    pub index: usize,
    /// Bytes.
    pub size: u32,
    /// What it is.
    pub kind: BarKind,
}

/// Registers of the PF.
pub const PF_BAR_REGISTERS: Bar = Bar {
    index: 0,
    size: crate::BAR0_SIZE,
    kind: BarKind::Memory32,
};
/// Flash of the PF.
pub const PF_BAR_FLASH: Bar = Bar {
    index: 1,
    size: 0x2_0000,
    kind: BarKind::Memory32,
};
/// I/O window of the PF: an address register at 0, data at 4.
pub const PF_BAR_IO: Bar = Bar {
    index: 2,
    size: 0x20,
    kind: BarKind::Io,
};
/// MSI-X of the PF.
pub const PF_BAR_MSIX: Bar = Bar {
    index: 3,
    size: 0x4000,
    kind: BarKind::Memory32,
};
/// Every BAR of the PF.
pub const PF_BARS: [Bar; 4] = [PF_BAR_REGISTERS, PF_BAR_FLASH, PF_BAR_IO, PF_BAR_MSIX];
/// Registers of a VF.
pub const VF_BAR_REGISTERS: Bar = Bar {
    index: 0,
    size: crate::vf::BAR0_SIZE,
    kind: BarKind::Memory64,
};
/// MSI-X of a VF.
pub const VF_BAR_MSIX: Bar = Bar {
    index: 3,
    size: 0x4000,
    kind: BarKind::Memory64,
};
/// Every BAR of a VF.
pub const VF_BARS: [Bar; 2] = [VF_BAR_REGISTERS, VF_BAR_MSIX];

/// Low bits of a BAR that is I/O.
pub const BAR_IO: u32 = 0x1;
/// Low bits of a BAR that is 64-bit memory.
pub const BAR_MEMORY_64: u32 = 0x4;
/// Low bit of a memory BAR that is prefetchable.
pub const BAR_PREFETCHABLE: u32 = 0x8;

/// Where the I/O window takes the offset of a register.
pub const IOADDR: u32 = 0x0;
/// Where the I/O window reads and writes the register.
pub const IODATA: u32 = 0x4;

/// MSI-X vectors of the PF.
pub const PF_MSIX_VECTORS: u16 = crate::function::PF_VECTORS as u16;
/// MSI-X vectors of a VF.
pub const VF_MSIX_VECTORS: u16 = crate::function::VF_VECTORS as u16;
/// The MSI-X table in BAR3.
pub const MSIX_TABLE_OFFSET: u32 = 0x0;
/// The pending bit array in BAR3.
pub const MSIX_PBA_OFFSET: u32 = 0x2000;

/// TotalVFs and InitialVFs of the PF.
pub const TOTAL_VFS: u16 = crate::function::VF_COUNT as u16;
/// VF 0's RID less the PF's.
pub const VF_OFFSET: u16 = 0x80;
/// Distance of the RIDs of consecutive VFs.
pub const VF_STRIDE: u16 = 2;

/// The type 0 header.
pub mod header {
    /// 16 bits.
    pub const VENDOR_ID: u16 = 0x00;
    /// 16 bits.
    pub const DEVICE_ID: u16 = 0x02;
    /// 16 bits; see [`super::command`].
    pub const COMMAND: u16 = 0x04;
    /// 16 bits; see [`super::status`].
    pub const STATUS: u16 = 0x06;
    /// 8 bits.
    pub const REVISION_ID: u16 = 0x08;
    /// 24 bits.
    pub const CLASS_CODE: u16 = 0x09;
    /// 8 bits.
    pub const CACHE_LINE_SIZE: u16 = 0x0C;
    /// 8 bits.
    pub const LATENCY_TIMER: u16 = 0x0D;
    /// 8 bits; bit 7 says that the device has several functions.
    pub const HEADER_TYPE: u16 = 0x0E;
    /// 32 bits; six of them, 4 bytes apart.
    pub const BAR0: u16 = 0x10;
    /// 16 bits.
    pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2C;
    /// 16 bits.
    pub const SUBSYSTEM_ID: u16 = 0x2E;
    /// 32 bits.
    pub const EXPANSION_ROM: u16 = 0x30;
    /// 8 bits: the first capability.
    pub const CAPABILITIES: u16 = 0x34;
    /// 8 bits.
    pub const INTERRUPT_LINE: u16 = 0x3C;
    /// 8 bits: 1 is INTA.
    pub const INTERRUPT_PIN: u16 = 0x3D;

    /// Offset of BAR `index` (0 to 5).
    #[must_use]
    pub const fn bar(index: usize) -> u16 {
        BAR0 + 4 * index as u16
    }
}

/// Bits of Command.
pub mod command {
    /// I/O BARs respond.
    pub const IO: u16 = 1 << 0;
    /// Memory BARs respond.
    pub const MEMORY: u16 = 1 << 1;
    /// The function may do DMA and send MSIs.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Parity error response.
    pub const PARITY: u16 = 1 << 6;
    /// SERR# enable.
    pub const SERR: u16 = 1 << 8;
    /// INTx is off.
    pub const INTX_DISABLE: u16 = 1 << 10;
    /// The bits that the PF lets software write.
    pub const WRITABLE: u16 = IO | MEMORY | BUS_MASTER | PARITY | SERR | INTX_DISABLE;
    /// The bits that a VF lets software write; memory is enabled by VF MSE.
    pub const VF_WRITABLE: u16 = BUS_MASTER;
}

/// Bits of Status.
pub mod status {
    /// INTx is asserted inside.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a capability list.
    pub const CAPABILITIES: u16 = 1 << 4;
    /// The bits that a 1 clears.
    pub const WRITE_ONE_CLEAR: u16 = 0xF900;
}

/// Where the capabilities lie.
pub mod offset {
    /// Power management; not in a VF.
    pub const PM: u16 = 0x40;
    /// MSI; not in a VF.
    pub const MSI: u16 = 0x50;
    /// MSI-X.
    pub const MSIX: u16 = 0x70;
    /// PCI Express.
    pub const EXPRESS: u16 = 0xA0;
    /// Advanced error reporting.
    pub const AER: u16 = 0x100;
    /// Alternative routing-ID interpretation; the next one of the PF is SR-IOV, a VF's is the last.
    pub const ARI: u16 = 0x150;
    /// SR-IOV; not in a VF.
    pub const SRIOV: u16 = 0x160;
}

/// Capability IDs.
pub mod id {
    /// Power management.
    pub const PM: u8 = 0x01;
    /// MSI.
    pub const MSI: u8 = 0x05;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// Vendor-specific.
    pub const VENDOR: u8 = 0x09;
    /// Extended: advanced error reporting.
    pub const AER: u16 = 0x0001;
    /// Extended: alternative routing-ID interpretation.
    pub const ARI: u16 = 0x000E;
    /// Extended: SR-IOV.
    pub const SRIOV: u16 = 0x0010;
}

/// The header of a capability.
pub mod capability {
    /// 8 bits.
    pub const ID: u16 = 0;
    /// 8 bits: offset of the next one, or 0.
    pub const NEXT: u16 = 1;

    /// The first dword of an extended capability.
    #[must_use]
    pub const fn extended_header(id: u16, version: u8, next: u16) -> u32 {
        id as u32 | (version as u32 & 0xF) << 16 | (next as u32) << 20
    }
}

/// Power management.
pub mod pm {
    /// Bytes.
    pub const SIZE: u16 = 8;
    /// 16 bits: PMC.
    pub const CAPABILITIES: u16 = 2;
    /// 16 bits: PMCSR.
    pub const CONTROL: u16 = 4;
    /// PMC: version 3.
    pub const VERSION: u16 = 3;
    /// PMC: device specific initialisation.
    pub const DSI: u16 = 1 << 5;
    /// PMCSR: the power state; 0 is D0, 3 is D3hot.
    pub const POWER_STATE: u16 = 3;
    /// PMCSR: going from D3hot to D0 does not reset.
    pub const NO_SOFT_RESET: u16 = 1 << 3;
    /// PMCSR: PME enable.
    pub const PME_ENABLE: u16 = 1 << 8;
    /// PMCSR: PME status; a 1 clears it.
    pub const PME_STATUS: u16 = 1 << 15;
}

/// MSI: 64-bit, with per-vector masking.
pub mod msi {
    /// Bytes.
    pub const SIZE: u16 = 24;
    /// 16 bits.
    pub const CONTROL: u16 = 2;
    /// 32 bits.
    pub const ADDRESS_LOW: u16 = 4;
    /// 32 bits.
    pub const ADDRESS_HIGH: u16 = 8;
    /// 16 bits.
    pub const DATA: u16 = 12;
    /// 32 bits.
    pub const MASK: u16 = 16;
    /// 32 bits.
    pub const PENDING: u16 = 20;
    /// Control: MSI enable.
    pub const ENABLE: u16 = 1 << 0;
    /// Control: 64-bit addresses.
    pub const ADDRESS_64: u16 = 1 << 7;
    /// Control: per-vector masking.
    pub const MASKABLE: u16 = 1 << 8;
}

/// MSI-X.
pub mod msix {
    /// Bytes.
    pub const SIZE: u16 = 12;
    /// 16 bits.
    pub const CONTROL: u16 = 2;
    /// 32 bits: offset and BAR of the table.
    pub const TABLE: u16 = 4;
    /// 32 bits: offset and BAR of the PBA.
    pub const PBA: u16 = 8;
    /// Control: vectors less 1.
    pub const TABLE_SIZE: u16 = 0x7FF;
    /// Control: every vector is masked.
    pub const FUNCTION_MASK: u16 = 1 << 14;
    /// Control: MSI-X enable.
    pub const ENABLE: u16 = 1 << 15;
    /// Table and PBA: the BAR.
    pub const BIR: u32 = 7;
    /// Bytes of a table entry.
    pub const ENTRY_SIZE: u32 = 16;
    /// In an entry, 32 bits.
    pub const ENTRY_ADDRESS_LOW: u32 = 0;
    /// In an entry, 32 bits.
    pub const ENTRY_ADDRESS_HIGH: u32 = 4;
    /// In an entry, 32 bits.
    pub const ENTRY_DATA: u32 = 8;
    /// In an entry, 32 bits.
    pub const ENTRY_VECTOR_CONTROL: u32 = 12;
    /// Vector control: the vector is masked.
    pub const VECTOR_MASKED: u32 = 1 << 0;
}

/// PCI Express.
pub mod express {
    /// Bytes of a version 2 capability.
    pub const SIZE: u16 = 0x3C;
    /// 16 bits.
    pub const CAPABILITIES: u16 = 0x02;
    /// 32 bits.
    pub const DEVICE_CAPABILITIES: u16 = 0x04;
    /// 16 bits.
    pub const DEVICE_CONTROL: u16 = 0x08;
    /// 16 bits.
    pub const DEVICE_STATUS: u16 = 0x0A;
    /// 32 bits.
    pub const LINK_CAPABILITIES: u16 = 0x0C;
    /// 16 bits.
    pub const LINK_CONTROL: u16 = 0x10;
    /// 16 bits.
    pub const LINK_STATUS: u16 = 0x12;
    /// 32 bits.
    pub const DEVICE_CAPABILITIES_2: u16 = 0x24;
    /// 16 bits.
    pub const DEVICE_CONTROL_2: u16 = 0x28;
    /// 16 bits.
    pub const LINK_CONTROL_2: u16 = 0x30;
    /// Capabilities: version 2, endpoint.
    pub const VERSION_2_ENDPOINT: u16 = 2;
    /// Device capabilities: largest payload 512 bytes.
    pub const MAX_PAYLOAD_512: u32 = 2;
    /// Device capabilities: role-based error reporting.
    pub const ROLE_BASED_ERRORS: u32 = 1 << 15;
    /// Device capabilities: FLR.
    pub const FLR_CAPABLE: u32 = 1 << 28;
    /// Device control: relaxed ordering.
    pub const RELAXED_ORDERING: u16 = 1 << 4;
    /// Device control: largest payload.
    pub const MAX_PAYLOAD: u16 = 7 << 5;
    /// Device control: no snoop.
    pub const NO_SNOOP: u16 = 1 << 11;
    /// Device control: largest read request.
    pub const MAX_READ_REQUEST: u16 = 7 << 12;
    /// Device control: start an FLR; reads 0.
    pub const INITIATE_FLR: u16 = 1 << 15;
    /// Device status: the bits that a 1 clears.
    pub const STATUS_WRITE_ONE_CLEAR: u16 = 0xF;
    /// Device status: requests of the function are outstanding.
    pub const TRANSACTIONS_PENDING: u16 = 1 << 5;
    /// Link capabilities: 2.5 GT/s.
    pub const LINK_SPEED_2_5: u32 = 1;
    /// Link capabilities: 4 lanes.
    pub const LINK_WIDTH_4: u32 = 4 << 4;
}

/// Advanced error reporting.
pub mod aer {
    /// Bytes.
    pub const SIZE: u16 = 0x48;
    /// Capability version.
    pub const VERSION: u8 = 1;
    /// 32 bits, W1C.
    pub const UNCORRECTABLE_STATUS: u16 = 0x04;
    /// 32 bits.
    pub const UNCORRECTABLE_MASK: u16 = 0x08;
    /// 32 bits.
    pub const UNCORRECTABLE_SEVERITY: u16 = 0x0C;
    /// 32 bits, W1C.
    pub const CORRECTABLE_STATUS: u16 = 0x10;
    /// 32 bits.
    pub const CORRECTABLE_MASK: u16 = 0x14;
    /// 32 bits.
    pub const CONTROL: u16 = 0x18;
    /// Severity after reset.
    pub const SEVERITY_RESET: u32 = 0x0006_2030;
    /// Correctable mask after reset: advisory non-fatal errors.
    pub const CORRECTABLE_MASK_RESET: u32 = 1 << 13;
}

/// Alternative routing-ID interpretation.
pub mod ari {
    /// Bytes.
    pub const SIZE: u16 = 8;
    /// Capability version.
    pub const VERSION: u8 = 1;
    /// 16 bits: bits 15:8 are the next function.
    pub const CAPABILITIES: u16 = 4;
    /// 16 bits.
    pub const CONTROL: u16 = 6;
}

/// SR-IOV.
pub mod sriov {
    /// Bytes.
    pub const SIZE: u16 = 0x40;
    /// Capability version.
    pub const VERSION: u8 = 1;
    /// 32 bits.
    pub const CAPABILITIES: u16 = 0x04;
    /// 16 bits.
    pub const CONTROL: u16 = 0x08;
    /// 16 bits.
    pub const STATUS: u16 = 0x0A;
    /// 16 bits.
    pub const INITIAL_VFS: u16 = 0x0C;
    /// 16 bits.
    pub const TOTAL_VFS: u16 = 0x0E;
    /// 16 bits: writable while VF Enable is clear.
    pub const NUM_VFS: u16 = 0x10;
    /// 8 bits.
    pub const FUNCTION_DEPENDENCY_LINK: u16 = 0x12;
    /// 16 bits.
    pub const FIRST_VF_OFFSET: u16 = 0x14;
    /// 16 bits.
    pub const VF_STRIDE: u16 = 0x16;
    /// 16 bits.
    pub const VF_DEVICE_ID: u16 = 0x1A;
    /// 32 bits.
    pub const SUPPORTED_PAGE_SIZES: u16 = 0x1C;
    /// 32 bits: writable while VF Enable is clear.
    pub const SYSTEM_PAGE_SIZE: u16 = 0x20;
    /// 32 bits; six of them, 4 bytes apart: the base of VF 0's BARs.
    pub const VF_BAR0: u16 = 0x24;
    /// Control: the VFs exist.
    pub const VF_ENABLE: u16 = 1 << 0;
    /// Control: the VFs' memory BARs respond (VF MSE).
    pub const VF_MSE: u16 = 1 << 3;
    /// Control: VFs may lie on the PF's bus above function 7.
    pub const ARI_CAPABLE_HIERARCHY: u16 = 1 << 4;
    /// Control: the bits that software may write.
    pub const CONTROL_WRITABLE: u16 = VF_ENABLE | VF_MSE | ARI_CAPABLE_HIERARCHY;
    /// Supported page sizes: 4 KiB, 8 KiB, 64 KiB, 256 KiB, 1 MiB and 4 MiB.
    pub const PAGE_SIZES: u32 = 0x553;
    /// System page size after reset: 4 KiB.
    pub const PAGE_SIZE_4K: u32 = 1;
}

/// The RID of VF `vf` of the PF whose RID (bus, device, function) is `pf`.
#[must_use]
pub const fn vf_rid(pf: u16, vf: u8) -> u16 {
    pf.wrapping_add(VF_OFFSET)
        .wrapping_add(VF_STRIDE * vf as u16)
}
