//! What a vfio-user server serves: one PCI function, as the protocol sees it.
//!
//! The same trait is called over a socket (by [`crate::server`]) and directly in process (by the
//! in-process backend of the `iommu` crate), so a device cannot tell which of the two it is.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

/// Region indexes of a PCI function, as VFIO numbers them.
pub mod region {
    /// BAR0; BAR n has index n, up to BAR5.
    pub const BAR0: u32 = 0;
    /// BAR5, the last BAR.
    pub const BAR5: u32 = 5;
    /// Expansion ROM.
    pub const ROM: u32 = 6;
    /// PCI configuration space.
    pub const CONFIG: u32 = 7;
    /// VGA window; always of size 0 here.
    pub const VGA: u32 = 8;
    /// How many region indexes a PCI function has.
    pub const COUNT: u32 = 9;
}

/// Interrupt indexes of a PCI function, as VFIO numbers them.
pub mod irq {
    /// Legacy INTx.
    pub const INTX: u32 = 0;
    /// MSI.
    pub const MSI: u32 = 1;
    /// MSI-X.
    pub const MSIX: u32 = 2;
    /// Error notification.
    pub const ERR: u32 = 3;
    /// Device request (please release the device).
    pub const REQ: u32 = 4;
    /// How many interrupt indexes a PCI function has.
    pub const COUNT: u32 = 5;
}

bitflags::bitflags! {
    /// What may be done with a region.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RegionFlags: u32 {
        /// The region can be read.
        const READ = 1;
        /// The region can be written.
        const WRITE = 1 << 1;
        /// Parts of the region can be mapped: see [`Region::sparse`].
        const MMAP = 1 << 2;
    }

    /// What an interrupt index can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct IrqFlags: u32 {
        /// Signalled through an eventfd.
        const EVENTFD = 1;
        /// Can be masked and unmasked.
        const MASKABLE = 1 << 1;
        /// Masks itself when it fires (INTx).
        const AUTOMASKED = 1 << 2;
        /// The set of vectors cannot grow while enabled.
        const NORESIZE = 1 << 3;
    }

    /// What a DMA window permits, seen from the device.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct DmaAccess: u32 {
        /// The device may read.
        const READ = 1;
        /// The device may write.
        const WRITE = 1 << 1;
    }
}

/// A part of a region that the client may map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseArea {
    /// Offset in the region, page-aligned.
    pub offset: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
}

/// A region, as REGION_INFO reports it.
#[derive(Debug)]
pub struct Region {
    /// Bytes; 0 if the function has no such region.
    pub size: u64,
    /// What may be done with it.
    pub flags: RegionFlags,
    /// Which parts can be mapped through `fd`. With [`RegionFlags::MMAP`] and an empty list the
    /// whole region can.
    pub sparse: Vec<SparseArea>,
    /// The file behind the mappable parts: a region offset `o` lies at `fd_offset + o` in it.
    /// Each sparse area must lie inside the file; the rest of the file offset space need not.
    pub fd: Option<OwnedFd>,
    /// See `fd`.
    pub fd_offset: u64,
}

impl Region {
    /// A region that the function does not have.
    pub fn absent() -> Self {
        Self {
            size: 0,
            flags: RegionFlags::empty(),
            sparse: Vec::new(),
            fd: None,
            fd_offset: 0,
        }
    }

    /// A region of `size` bytes that is only ever accessed by messages.
    pub fn trapped(size: u64) -> Self {
        Self {
            size,
            flags: RegionFlags::READ | RegionFlags::WRITE,
            ..Self::absent()
        }
    }
}

/// An interrupt index, as IRQ_INFO reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Irq {
    /// What it can do.
    pub flags: IrqFlags,
    /// How many vectors it has.
    pub count: u32,
}

/// A DMA window that the client opens to the device.
#[derive(Debug)]
pub struct DmaWindow {
    /// First I/O virtual address.
    pub iova: u64,
    /// Bytes. `iova + size` has been checked not to wrap.
    pub size: u64,
    /// What the device may do.
    pub access: DmaAccess,
    /// The file that backs it and the offset of `iova` in that file; `None`: the device reaches the
    /// memory through [`DmaClient`] only.
    pub file: Option<(OwnedFd, u64)>,
}

/// What SET_IRQS does to the vectors that it names.
#[derive(Debug)]
pub enum IrqAction {
    /// Assign one eventfd per vector, starting with the first; `None` takes the one there away.
    SetEventfds(Vec<Option<OwnedFd>>),
    /// Disable the whole index: every eventfd goes.
    Disable,
    /// Fire the vectors for which the flag is set (loopback test, or INTx resample).
    Trigger(Vec<bool>),
    /// Mask the vectors for which the flag is set.
    Mask(Vec<bool>),
    /// Unmask the vectors for which the flag is set.
    Unmask(Vec<bool>),
    /// Eventfd by which the client unmasks (INTx resample); `None` takes it away.
    SetUnmaskEventfd(Option<OwnedFd>),
    /// Eventfd by which the client masks; `None` takes it away.
    SetMaskEventfd(Option<OwnedFd>),
}

/// DMA by message: the device's way to memory that came without a usable file descriptor.
///
/// Calls block until the client answered or the request was cancelled, so they are made from a
/// worker, never from inside a [`Device`] call: a client such as QEMU does not answer while it
/// waits for a reply of ours.
pub trait DmaClient: Send + Sync {
    /// Read client memory at `iova`. `ECANCELED` when the window went or the client left,
    /// `ETIMEDOUT` when it did not answer, `EFAULT` when it refused.
    fn dma_read(&self, iova: u64, data: &mut [u8]) -> Result<(), Errno>;
    /// Write client memory at `iova`. Errors as for [`Self::dma_read`].
    fn dma_write(&self, iova: u64, data: &[u8]) -> Result<(), Errno>;
    /// Cancel the outstanding requests that touch `iova .. iova + size`; late answers are ignored.
    fn cancel(&self, iova: u64, size: u64);
}

/// One PCI function, served to one client at a time.
///
/// All methods take `&self`: they may be called while a worker runs the function's data path.
/// None may wait for a [`DmaClient`] call, and each must return in well under a second. An `Err` is
/// for a request that makes no sense at the protocol's level (no such region); what a guest writes
/// into a register is never an error.
pub trait Device: Send + Sync {
    /// A client has connected; `dma` reaches its memory by message.
    fn connected(&self, dma: Arc<dyn DmaClient>);

    /// The client is gone, orderly or not: unmap everything, forget every eventfd, replace every
    /// page that was shared, keep the rest of the device's state.
    fn disconnected(&self);

    /// Describe a region; [`Region::absent`] for those the function does not have.
    fn region(&self, index: u32) -> Region;

    /// Describe an interrupt index.
    fn irq(&self, index: u32) -> Irq;

    /// Read `data.len()` bytes of a region. The range has been checked against the region's size.
    fn region_read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Write a region. The range has been checked against the region's size.
    fn region_write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// Open a DMA window. `EEXIST` on overlap, `ENOSPC` when a quota is used up.
    fn dma_map(&self, window: DmaWindow) -> Result<(), Errno>;

    /// Close every window inside `iova .. iova + size`; returns when no DMA into them is in flight.
    ///
    /// The specification has a client name exactly one window. QEMU behind an emulated I/O MMU names
    /// ranges that hold many, or none, as kernel VFIO lets it. `EINVAL` if a window reaches over an
    /// end of the range, and then none is closed.
    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), Errno>;

    /// Close every window.
    fn dma_unmap_all(&self);

    /// Change vectors of an interrupt index, starting at vector `start`. The range has been checked
    /// against [`Self::irq`].
    fn set_irqs(&self, index: u32, start: u32, action: IrqAction) -> Result<(), Errno>;

    /// Reset the function, as a function-level reset does.
    fn reset(&self);
}

/// Borrow the file descriptor of every vector that has one; for callers that re-send them.
pub fn borrow_all(fds: &[Option<OwnedFd>]) -> Vec<Option<BorrowedFd<'_>>> {
    use std::os::fd::AsFd;
    fds.iter().map(|fd| fd.as_ref().map(AsFd::as_fd)).collect()
}
