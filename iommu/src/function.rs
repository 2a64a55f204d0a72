//! One PCI function as a driver sees it: regions, interrupts, DMA windows, reset, loss.
//!
//! Drivers are written against [`Function`] alone; what stands behind it is in [`crate::backend`],
//! what can stand in front of it is an [`Interposer`].

mod interposer;

use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use interposer::{Interposer, WriteKind};
use nix::errno::Errno;
/// How memory without a file is reached, and what a function has: drivers name these from here.
pub use vfio_user::client::{DmaHandler, DmaReply};
pub use vfio_user::device::{
    DmaAccess, Irq, IrqFlags, Region, RegionFlags, SparseArea, irq, region,
};

use crate::pci::{self, sriov};

/// Why an operation on a function failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FunctionError {
    /// The function is gone (unplugged, its server ended, its connection broke). It does not come
    /// back: release it and probe a new one.
    #[error("the function is gone; release it and probe it anew when it is back")]
    Lost,
    /// The other side understood the request and refused it: `EINVAL` for a region, a range or a
    /// vector that does not exist.
    #[error("{operation} refused: {errno}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// No answer in time; the function may still carry the request out.
    #[error("{operation} got no answer in time; treat the function as hung and reset it")]
    TimedOut {
        /// What was asked.
        operation: &'static str,
    },
    /// The memory behind a window is none that a device may reach; nothing was done.
    #[error("{operation} refused ({errno}): {mend}")]
    Memory {
        /// What was asked.
        operation: &'static str,
        /// As a system call would have put it.
        errno: Errno,
        /// What memory would do.
        mend: &'static str,
    },
    /// A limit of this system keeps it from being done; nothing was.
    #[error("{operation} refused ({errno}): {mend}")]
    Limit {
        /// What was asked.
        operation: &'static str,
        /// The system's answer.
        errno: Errno,
        /// What the limit is, and how it is raised.
        mend: String,
    },
    /// The transport failed in another way.
    #[error("{operation} failed in transport")]
    Transport {
        /// What was asked.
        operation: &'static str,
        /// The transport's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The function has no SR-IOV capability: it is a VF, or a device without SR-IOV.
    #[error("the function has no SR-IOV capability; only a physical function has one")]
    NoSriov,
    /// More VFs were asked for than the function can have.
    #[error("{wanted} VFs wanted, but TotalVFs is {total}")]
    TooManyVfs {
        /// VFs asked for.
        wanted: u16,
        /// VFs there can be.
        total: u16,
    },
    /// VFs are enabled in another number; disable them (0) first.
    #[error("{enabled} VFs are enabled; disable them before enabling another number")]
    VfsEnabled {
        /// VFs enabled now.
        enabled: u16,
    },
    /// The function did not take the VF Enable bit.
    #[error("the function did not take VF Enable for {wanted} VFs")]
    VfsNotEnabled {
        /// VFs asked for.
        wanted: u16,
    },
}

/// One PCI function.
///
/// All methods take `&self` and may be called from several threads. Region and interrupt indexes
/// are VFIO's ([`region`](mod@region), [`irq`](mod@irq)).
pub trait Function: Send + Sync {
    /// Describe a region; size 0 if the function does not have it.
    fn region(&self, index: u32) -> Result<Region, FunctionError>;

    /// Read `data.len()` bytes of a region.
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError>;

    /// Write a region; the device has seen it when this returns.
    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError>;

    /// Write a region in order with every other access, but possibly return before the device saw
    /// it, as a posted PCI write does.
    fn post(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.write(region, offset, data)
    }

    /// Describe an interrupt index; count 0 if the function does not have it.
    fn irq(&self, index: u32) -> Result<Irq, FunctionError>;

    /// Assign an eventfd to each vector from `start` on; `None` takes the one there away.
    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError>;

    /// Disable a whole interrupt index.
    fn disable_irqs(&self, index: u32) -> Result<(), FunctionError>;

    /// Fire the vectors from `start` on for which the flag is set (loopback test).
    fn trigger_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError>;

    /// Mask the vectors from `start` on for which the flag is set.
    fn mask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError>;

    /// Unmask the vectors from `start` on for which the flag is set.
    fn unmask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError>;

    /// Eventfd through which a self-masking vector (INTx) is unmasked; `None` takes it away.
    fn set_unmask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError>;

    /// Open `iova .. iova + size` to the function's DMA. `file` is the memory behind it and the
    /// offset of `iova` in it; without one the function reaches the memory through the
    /// DMA messages.
    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError>;

    /// Close every window inside `iova .. iova + size`, if there are any; no DMA into them is in
    /// flight afterwards. One that reaches over an end of the range is `EINVAL`, and closes none.
    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), FunctionError>;

    /// Close every window.
    fn dma_unmap_all(&self) -> Result<(), FunctionError>;

    /// The I/O virtual addresses at which windows can be opened, lowest first.
    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        vec![0..=u64::MAX]
    }

    /// Who answers the function's DMA by message, from now on.
    fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>);

    /// Reset the function, as a function-level reset does.
    fn reset(&self) -> Result<(), FunctionError>;

    /// Enable `num_vfs` virtual functions, or disable all with 0, as the kernel's
    /// `sriov_configure` does.
    ///
    /// The default goes through the SR-IOV capability in configuration space. A backend where
    /// another party owns that capability overrides it.
    fn sriov_configure(&self, num_vfs: u16) -> Result<(), FunctionError> {
        configure_through_capability(self, num_vfs)
    }

    /// Whether the function is gone for good.
    fn lost(&self) -> bool;

    /// A descriptor that is readable once [`Self::lost`] is true.
    fn lost_event(&self) -> BorrowedFd<'_>;
}

fn read_u16<F: Function + ?Sized>(function: &F, offset: u64) -> Result<u16, FunctionError> {
    let mut data = [0; 2];
    function.read(region::CONFIG, offset, &mut data)?;
    Ok(u16::from_le_bytes(data))
}

fn write_u16<F: Function + ?Sized>(
    function: &F,
    offset: u64,
    value: u16,
) -> Result<(), FunctionError> {
    function.write(region::CONFIG, offset, &value.to_le_bytes())
}

/// Offset of an extended capability in configuration space; `None` if the function lacks it.
///
/// The list comes from the device, so the walk is bounded by what fits into configuration space.
pub fn find_extended_capability<F: Function + ?Sized>(
    function: &F,
    id: u16,
) -> Result<Option<u64>, FunctionError> {
    if function.region(region::CONFIG)?.size < pci::CONFIG_SPACE_SIZE {
        return Ok(None);
    }
    let mut at = pci::EXTENDED_CAPABILITIES;
    let most = (pci::CONFIG_SPACE_SIZE - pci::EXTENDED_CAPABILITIES) / 4;
    for _ in 0..most {
        let mut data = [0; 4];
        function.read(region::CONFIG, at, &mut data)?;
        let header = u32::from_le_bytes(data);
        // All zeros: no extended capabilities. All ones: nobody answered.
        if header == 0 || header == u32::MAX {
            return Ok(None);
        }
        if header & 0xFFFF == u32::from(id) {
            return Ok(Some(at));
        }
        let next = u64::from(header >> 20) & !3;
        if next < pci::EXTENDED_CAPABILITIES {
            return Ok(None);
        }
        at = next;
    }
    Ok(None)
}

/// The default of [`Function::sriov_configure`].
fn configure_through_capability<F: Function + ?Sized>(
    function: &F,
    num_vfs: u16,
) -> Result<(), FunctionError> {
    let capability = find_extended_capability(function, pci::SRIOV_CAPABILITY_ID)?
        .ok_or(FunctionError::NoSriov)?;
    let control = read_u16(function, capability + sriov::CONTROL)?;
    let enabled = control & sriov::VF_ENABLE != 0;
    if num_vfs == 0 {
        // VF Enable goes first: NumVFs must not change while it is set (section 9.3.3.7).
        let control = control & !sriov::VF_ENABLE;
        write_u16(function, capability + sriov::CONTROL, control)?;
        write_u16(
            function,
            capability + sriov::CONTROL,
            control & !sriov::VF_MSE,
        )?;
        return write_u16(function, capability + sriov::NUM_VFS, 0);
    }
    let total = read_u16(function, capability + sriov::TOTAL_VFS)?;
    if num_vfs > total {
        return Err(FunctionError::TooManyVfs {
            wanted: num_vfs,
            total,
        });
    }
    if enabled {
        let now = read_u16(function, capability + sriov::NUM_VFS)?;
        return if now == num_vfs {
            Ok(())
        } else {
            Err(FunctionError::VfsEnabled { enabled: now })
        };
    }
    write_u16(function, capability + sriov::NUM_VFS, num_vfs)?;
    let wanted = control | sriov::VF_ENABLE | sriov::VF_MSE;
    write_u16(function, capability + sriov::CONTROL, wanted)?;
    let taken = read_u16(function, capability + sriov::CONTROL)?;
    if taken & sriov::VF_ENABLE == 0 {
        return Err(FunctionError::VfsNotEnabled { wanted: num_vfs });
    }
    Ok(())
}
