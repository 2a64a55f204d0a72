//! The messages of the protocol, as bytes: layouts, limits and the checks that every message passes
//! before anything acts on it.
//!
//! Parsing is pure: [`Request::parse`] takes bytes and a count of file descriptors and touches
//! nothing else, so it can be tested and fuzzed by itself. Numbers are in host byte order, as the
//! protocol has it.

mod body;
mod header;
mod region;
mod request;
mod version;

pub use body::{
    DeviceInfo, DmaMap, DmaRequest, DmaUnmap, IrqInfo, RegionAccess, RegionInfo, SetIrqs,
    VersionBody,
};
pub use header::{Header, HeaderFlags, Kind};
pub use region::{decode_region, encode_region};
pub use request::{IrqRequest, Request, Vectors};
pub use version::{Capabilities, MAJOR, MINOR};

use nix::errno::Errno;

/// Bytes of a message header.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// Most data bytes in one message (`max_data_xfer_size`).
pub const MAX_TRANSFER: usize = 1 << 20;
/// Longest message that is received; a longer one ends the connection. Leaves room for the padding
/// that some clients add.
pub const MAX_MESSAGE: usize = HEADER_SIZE + size_of::<RegionAccess>() + MAX_TRANSFER + 4096;
/// Most file descriptors in one message (`max_msg_fds`).
pub const MAX_FDS: usize = 16;
/// Longest capability text in a VERSION message, with its final NUL.
pub const MAX_VERSION_DATA: usize = 4096;
/// The page size that both sides announce, and to which mappable areas are aligned.
pub const PAGE_SIZE: u64 = 4096;

/// Command numbers.
pub mod command {
    /// Agree on version and capabilities; the first message of a connection.
    pub const VERSION: u16 = 1;
    /// Open a DMA window.
    pub const DMA_MAP: u16 = 2;
    /// Close a DMA window.
    pub const DMA_UNMAP: u16 = 3;
    /// Describe the device.
    pub const DEVICE_GET_INFO: u16 = 4;
    /// Describe a region.
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    /// Hand out ioeventfds; not offered here.
    pub const DEVICE_GET_REGION_IO_FDS: u16 = 6;
    /// Describe an interrupt index.
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    /// Change interrupt vectors.
    pub const DEVICE_SET_IRQS: u16 = 8;
    /// Read from a region.
    pub const REGION_READ: u16 = 9;
    /// Write to a region.
    pub const REGION_WRITE: u16 = 10;
    /// Read client memory (server to client).
    pub const DMA_READ: u16 = 11;
    /// Write client memory (server to client).
    pub const DMA_WRITE: u16 = 12;
    /// Reset the device.
    pub const DEVICE_RESET: u16 = 13;

    /// The command's name in the specification, for logs.
    pub fn name(command: u16) -> &'static str {
        match command {
            VERSION => "VERSION",
            DMA_MAP => "DMA_MAP",
            DMA_UNMAP => "DMA_UNMAP",
            DEVICE_GET_INFO => "DEVICE_GET_INFO",
            DEVICE_GET_REGION_INFO => "DEVICE_GET_REGION_INFO",
            DEVICE_GET_REGION_IO_FDS => "DEVICE_GET_REGION_IO_FDS",
            DEVICE_GET_IRQ_INFO => "DEVICE_GET_IRQ_INFO",
            DEVICE_SET_IRQS => "DEVICE_SET_IRQS",
            REGION_READ => "REGION_READ",
            REGION_WRITE => "REGION_WRITE",
            DMA_READ => "DMA_READ",
            DMA_WRITE => "DMA_WRITE",
            DEVICE_RESET => "DEVICE_RESET",
            _ => "unknown command",
        }
    }
}

/// Why bytes are not a valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The header's size is below that of a header.
    #[error("message_size {0} is less than a header")]
    SizeBelowHeader(u32),
    /// The header's size is above the limit.
    #[error("message_size {0} is more than the {MAX_MESSAGE} bytes that are accepted")]
    SizeAboveLimit(u32),
    /// The message type is neither command nor reply, or not the one that is due.
    #[error("message flags {0:#x} do not have the message type that is due here")]
    Type(u32),
    /// The bytes given are not the whole message.
    #[error("{have} bytes are not a message of {size}")]
    Incomplete {
        /// Bytes at hand.
        have: usize,
        /// Bytes that the header announces.
        size: u32,
    },
    /// The body is shorter than the command's fixed part.
    #[error("{} needs a body of {need} bytes, got {have}", command::name(*.command))]
    BodyTooShort {
        /// The command.
        command: u16,
        /// Bytes of the body.
        have: usize,
        /// Bytes that it needs.
        need: usize,
    },
    /// The caller's `argsz` does not cover the structure.
    #[error("{} has argsz {argsz}, needs {need}", command::name(*.command))]
    ArgszTooSmall {
        /// The command.
        command: u16,
        /// What it said.
        argsz: u32,
        /// What the structure needs.
        need: usize,
    },
    /// Flags that contradict each other or that the protocol does not know.
    #[error("{} has flags {flags:#x} that make no sense", command::name(*.command))]
    Flags {
        /// The command.
        command: u16,
        /// The flags.
        flags: u32,
    },
    /// The number of file descriptors does not fit the command.
    #[error("{} came with {got} file descriptors", command::name(*.command))]
    FdCount {
        /// The command.
        command: u16,
        /// How many came.
        got: usize,
    },
    /// An address range is empty or wraps.
    #[error("{} has the bad range {start:#x}+{size:#x}", command::name(*.command))]
    Range {
        /// The command.
        command: u16,
        /// First address or offset.
        start: u64,
        /// Bytes.
        size: u64,
    },
    /// A data count of zero, above the transfer limit, or not what the body holds.
    #[error("{} has the bad count {count}", command::name(*.command))]
    Count {
        /// The command.
        command: u16,
        /// The count.
        count: u64,
    },
    /// A feature that the peer asked for is not offered.
    #[error("{} asks for something that is not offered", command::name(*.command))]
    NotOffered {
        /// The command.
        command: u16,
    },
    /// The VERSION text does not end in NUL or is too long.
    #[error("the VERSION text does not end in NUL, or is longer than {MAX_VERSION_DATA} bytes")]
    VersionText,
    /// The VERSION text is not the JSON that is due.
    #[error("the VERSION text is not a JSON object with usable capabilities")]
    VersionJson,
    /// Another major version.
    #[error("major version {0} is not supported, only {MAJOR}")]
    Major(u16),
    /// A region's capability chain is malformed.
    #[error("the region's capability at offset {0} is malformed")]
    RegionCapability(usize),
    /// A mappable area is misaligned or lies outside its region.
    #[error("the mappable area {offset:#x}+{size:#x} is misaligned or outside its region")]
    SparseArea {
        /// Offset in the region.
        offset: u64,
        /// Bytes.
        size: u64,
    },
}

impl WireError {
    /// The errno that a reply carries for this error.
    pub fn errno(self) -> Errno {
        match self {
            Self::NotOffered { .. } => Errno::ENOTSUP,
            _ => Errno::EINVAL,
        }
    }
}
