//! What the card asks of the world around it. Every call names the function it acts for.

use igb::FunctionId;

pub use igb::queue_page::Page as QueuePage;

use crate::events::{Direction, Port};

/// An interrupt message or line of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// MSI-X vector.
    Msix(u16),
    /// The single MSI.
    Msi,
    /// INTx became asserted or deasserted.
    Intx {
        /// The level of the line.
        asserted: bool,
    },
}

/// The world as the card's registers see it.
pub trait ControlHost {
    /// Signal an interrupt of `function`. `false`: the vector is masked or nobody listens; the card
    /// keeps an MSI-X vector pending until [`crate::Control::retry_pending`].
    fn interrupt(&mut self, function: FunctionId, signal: Signal) -> bool;

    /// Load a dword of a function's queue page. `offset` is a multiple of 4 inside the page.
    fn page_load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32;

    /// Store a dword of a function's queue page.
    fn page_store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32);
}

/// Why a DMA did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultCause {
    /// No window covers the address.
    NoWindow,
    /// A window covers it but does not permit the access.
    Permission,
    /// The access runs over the edge of a window.
    Edge,
    /// The address lies in the MSI window.
    Msi,
    /// The function may not master the bus.
    BusMasterOff,
    /// The memory behind the window failed (file truncated, client refused).
    Io,
    /// The window or its client went away meanwhile.
    Cancelled,
}

impl FaultCause {
    /// The cause as reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            FaultCause::NoWindow => "no-window",
            FaultCause::Permission => "permission",
            FaultCause::Edge => "edge",
            FaultCause::Msi => "msi-window",
            FaultCause::BusMasterOff => "bus-master-off",
            FaultCause::Io => "io",
            FaultCause::Cancelled => "cancelled",
        }
    }
}

/// A DMA that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaFault {
    /// Why.
    pub cause: FaultCause,
}

/// Which side of a copy faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFault {
    /// The memory that was to be read.
    Source(DmaFault),
    /// The memory that was to be written.
    Destination(DmaFault),
}

/// The world as the data path sees it.
pub trait DataHost {
    /// Read memory of `function`.
    fn dma_read(
        &mut self,
        function: FunctionId,
        iova: u64,
        data: &mut [u8],
    ) -> Result<(), DmaFault>;

    /// Write memory of `function`.
    fn dma_write(&mut self, function: FunctionId, iova: u64, data: &[u8]) -> Result<(), DmaFault>;

    /// Store eight bytes, little endian, as one release store: whoever sees it sees all that was
    /// written before. `iova` is a multiple of 8.
    fn dma_store_release(
        &mut self,
        function: FunctionId,
        iova: u64,
        value: u64,
    ) -> Result<(), DmaFault>;

    /// Copy `len` bytes straight from one function's memory to another's.
    fn dma_copy(
        &mut self,
        from: (FunctionId, u64),
        to: (FunctionId, u64),
        len: usize,
    ) -> Result<(), CopyFault>;

    /// Whether the memory of `function` has answered quickly enough for it to go on in this round.
    /// If not it sends no frame more before the next round, and those for it are dropped: others
    /// must not wait for it.
    fn has_turn(&self, function: FunctionId) -> bool {
        let _ = function;
        true
    }

    /// Load a dword of a function's queue page. `offset` is a multiple of 4 inside the page.
    fn page_load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32;

    /// Store a dword of a function's queue page.
    fn page_store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32);

    /// Send a frame (without FCS) out of the card.
    fn uplink_send(&mut self, frame: &[u8]);

    /// Whether [`Self::capture`] wants frames.
    fn capturing(&self) -> bool {
        false
    }

    /// Record a frame at a port, as it crossed it.
    fn capture(&mut self, port: Port, direction: Direction, frame: &[u8]) {
        let _ = (port, direction, frame);
    }
}
