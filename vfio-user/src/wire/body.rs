//! The fixed parts of the message bodies.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! body {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

body! {
    /// VERSION, both ways; the capability text follows.
    VersionBody {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    }
}

body! {
    /// DMA_MAP.
    DmaMap {
        /// Size of this structure.
        argsz: u32,
        /// [`crate::device::DmaAccess`] in bits 1:0.
        flags: u32,
        /// Offset of `address` in the file that comes along.
        offset: u64,
        /// First I/O virtual address.
        address: u64,
        /// Bytes.
        size: u64,
    }
}

body! {
    /// DMA_UNMAP, both ways.
    DmaUnmap {
        /// Size of this structure.
        argsz: u32,
        /// Bit 0: report dirty pages; bit 1: unmap everything.
        flags: u32,
        /// First I/O virtual address.
        address: u64,
        /// Bytes.
        size: u64,
    }
}

impl DmaUnmap {
    /// Flag: report dirty pages.
    pub const DIRTY: u32 = 1;
    /// Flag: unmap everything; address and size are 0.
    pub const ALL: u32 = 1 << 1;
}

body! {
    /// DEVICE_GET_INFO, both ways.
    DeviceInfo {
        /// Size of this structure.
        argsz: u32,
        /// [`Self::RESET`], [`Self::PCI`].
        flags: u32,
        /// How many region indexes there are.
        num_regions: u32,
        /// How many interrupt indexes there are.
        num_irqs: u32,
    }
}

impl DeviceInfo {
    /// Flag: DEVICE_RESET works.
    pub const RESET: u32 = 1;
    /// Flag: a PCI function.
    pub const PCI: u32 = 1 << 1;
}

body! {
    /// DEVICE_GET_REGION_INFO, both ways; capabilities may follow.
    RegionInfo {
        /// Size of this structure and the capabilities: room in a request, need in a reply.
        argsz: u32,
        /// [`crate::device::RegionFlags`] in bits 2:0, [`Self::CAPS`].
        flags: u32,
        /// Region index.
        index: u32,
        /// Where the first capability starts, counted from the start of this structure.
        cap_offset: u32,
        /// Bytes of the region.
        size: u64,
        /// Offset of the region in the file that comes along.
        offset: u64,
    }
}

impl RegionInfo {
    /// Flag: capabilities follow.
    pub const CAPS: u32 = 1 << 3;
}

body! {
    /// DEVICE_GET_IRQ_INFO, both ways.
    IrqInfo {
        /// Size of this structure.
        argsz: u32,
        /// [`crate::device::IrqFlags`].
        flags: u32,
        /// Interrupt index.
        index: u32,
        /// How many vectors it has.
        count: u32,
    }
}

body! {
    /// DEVICE_SET_IRQS; one byte per vector follows with [`Self::DATA_BOOL`].
    SetIrqs {
        /// Size of this structure and the data.
        argsz: u32,
        /// One `DATA_*` and one `ACTION_*`.
        flags: u32,
        /// Interrupt index.
        index: u32,
        /// First vector.
        start: u32,
        /// How many vectors.
        count: u32,
    }
}

impl SetIrqs {
    /// No data: the action holds for every vector named.
    pub const DATA_NONE: u32 = 1;
    /// One byte per vector says whether the action holds for it.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// One eventfd per vector comes along, or none to take them away.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Mask.
    pub const ACTION_MASK: u32 = 1 << 3;
    /// Unmask.
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Fire, or assign what fires.
    pub const ACTION_TRIGGER: u32 = 1 << 5;
}

body! {
    /// REGION_READ and REGION_WRITE, both ways; data follows in a read's reply and a write's
    /// request.
    RegionAccess {
        /// Offset in the region.
        offset: u64,
        /// Region index.
        region: u32,
        /// Bytes.
        count: u32,
    }
}

body! {
    /// DMA_READ and DMA_WRITE, both ways; data follows in a read's reply and a write's request.
    DmaRequest {
        /// I/O virtual address.
        address: u64,
        /// Bytes.
        count: u64,
    }
}
