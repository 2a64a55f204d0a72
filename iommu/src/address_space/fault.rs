//! DMA that did not happen: who, where, why, how often.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use vfio_user::device::DmaAccess;

use crate::pci::Rid;

/// Why a DMA did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultCause {
    /// No window covers the first byte.
    NoWindow,
    /// A window covers it but does not permit the access.
    Permission,
    /// The access runs over the edge of a window, and no other window adjoins it.
    Edge,
    /// The access touches the MSI window, where a write is an interrupt and not memory.
    Msi,
    /// Bus mastering is off.
    BusMasterOff,
    /// The memory behind the window failed: a truncated file, a client that refused or was silent.
    Io,
    /// The window or the client went away while the access waited for it.
    Cancelled,
}

impl FaultCause {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::NoWindow,
        Self::Permission,
        Self::Edge,
        Self::Msi,
        Self::BusMasterOff,
        Self::Io,
        Self::Cancelled,
    ];

    /// The cause as reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoWindow => "no-window",
            Self::Permission => "permission",
            Self::Edge => "edge",
            Self::Msi => "msi-window",
            Self::BusMasterOff => "bus-master-off",
            Self::Io => "io",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for FaultCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A DMA that did not happen. No byte after the first bad one was moved, and none at all unless the
/// memory itself failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaFault {
    /// Who asked.
    pub requester: Rid,
    /// First I/O virtual address of the access.
    pub iova: u64,
    /// Bytes of the access.
    pub len: usize,
    /// What the device wanted to do.
    pub access: DmaAccess,
    /// Why it did not happen.
    pub cause: FaultCause,
}

impl fmt::Display for DmaFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.access.contains(DmaAccess::WRITE) {
            "write"
        } else {
            "read"
        };
        let Self {
            requester,
            iova,
            len,
            cause,
            ..
        } = self;
        write!(
            f,
            "DMA {access} by {requester} of {len} bytes at {iova:#x} faulted: {cause}"
        )
    }
}

impl std::error::Error for DmaFault {}

/// Which side of a copy faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CopyFault {
    /// The memory that was to be read.
    #[error("source: {0}")]
    Source(DmaFault),
    /// The memory that was to be written.
    #[error("destination: {0}")]
    Destination(DmaFault),
}

impl CopyFault {
    /// The fault itself; its requester says whose it is.
    pub fn fault(&self) -> &DmaFault {
        match self {
            Self::Source(fault) | Self::Destination(fault) => fault,
        }
    }
}

/// Faults of one address space, counted by cause.
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; FaultCause::ALL.len()]);

impl Counters {
    pub(super) fn count(&self, cause: FaultCause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, cause: FaultCause) -> u64 {
        self.0[cause as usize].load(Ordering::Relaxed)
    }
}
