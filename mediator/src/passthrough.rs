//! A VF of hardware, as a slot relays it: what a card on a vfio-user socket does for its client by
//! itself, and hardware behind the kernel's VFIO does not.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use igb::register::Access;
use igb::vf::Scope;
use igb::{PVTEIMC, Register, vf};
use iommu::function::{DmaAccess, Function, FunctionError, Interposer, irq, region};
use iommu::iova::last_address;
use iommu::pci::touches_msi_window;
use iommu::windows::Windows;
use nix::errno::Errno;

use crate::limits::Limits;

/// What a client is told that it may have when it connects.
const MOST_WINDOWS: usize = u16::MAX as usize;

/// What a client has open.
#[derive(Debug, Default)]
struct Open {
    /// A file's memory, which stays in place for as long: the hardware reaches it.
    reached: Windows,
    /// Memory without a file, which it does not reach.
    unreached: Windows,
}

/// The counters of a VF, which no VF can clear and, in hardware, no reset does.
fn counters() -> impl Iterator<Item = u64> {
    let counters = vf::WINDOW
        .iter()
        .filter(|info| info.access == Access::ReadOnly && info.scope == Scope::Function);
    counters.map(|info| info.offset.into())
}

/// A VF of hardware.
///
/// - Memory that comes without a file is a window that the hardware does not reach. A client has such
///   windows (a machine's firmware is one), and no device ever looks for anything there; one that does
///   finds the I/O MMU closed. Nobody could answer for the client: hardware knows no messages.
/// - Nothing of the last tenant is left to the next, whatever the card's own reset leaves. (CTRL.RST
///   clears what the card clears: it is the same client's before and after.)
/// - What a client may have mapped is bounded, as its pages stay in memory for as long, and count
///   against the one limit that all VFs of this process share.
/// - A fatal error of the device takes the VF away, whatever the client has set for that index: the
///   eventfd that the kernel signals stays ours.
pub struct Passthrough {
    inner: Arc<dyn Function>,
    most_bytes: u64,
    open: Mutex<Open>,
    /// The counters as they were at the last reset: a tenant's begin at 0.
    counted: RwLock<BTreeMap<u64, u32>>,
    /// A refusal was told of.
    told: AtomicBool,
}

impl Passthrough {
    /// In front of a function, within a VF's limits.
    pub fn new(inner: Arc<dyn Function>, limits: &Limits) -> Self {
        Self {
            inner,
            most_bytes: u64::from(limits.dma_mib) << 20,
            open: Mutex::default(),
            counted: RwLock::default(),
            told: AtomicBool::new(false),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client must not fill the log with what it asks for.
    fn tell(&self, error: &FunctionError) {
        if self.told.swap(true, Ordering::Relaxed) {
            log::debug!("{error}");
        } else {
            log::warn!("a client's DMA window: {error}; what else is refused is not told");
        }
    }

    fn too_much(&self) -> FunctionError {
        let most = self.most_bytes >> 20;
        FunctionError::Limit {
            operation: "DMA_MAP",
            errno: Errno::ENOMEM,
            mend: format!("a VF may have {most} MiB; raise \"dma_mib\" in the file of --limits"),
        }
    }

    fn map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        let refused = |errno| refused("DMA_MAP", errno);
        let last = last_address(iova, size).ok_or_else(|| refused(Errno::EINVAL))?;
        let length = usize::try_from(size).map_err(|_| refused(Errno::EINVAL))?;
        // Where there is memory behind it, the I/O MMU refuses it too.
        if touches_msi_window(iova, last) {
            return Err(refused(Errno::EINVAL));
        }
        let mut open = self.open();
        if open.reached.overlap(iova, last) || open.unreached.overlap(iova, last) {
            return Err(refused(Errno::EEXIST));
        }
        if open.reached.len() + open.unreached.len() >= MOST_WINDOWS {
            return Err(refused(Errno::ENOSPC));
        }
        if file.is_none() {
            log::debug!(
                "{size:#x} bytes at {iova:#x} have no file: the hardware does not reach them"
            );
            open.unreached.insert(iova, length);
            return Ok(());
        }
        if size > self.most_bytes.saturating_sub(open.reached.bytes()) {
            return Err(self.too_much());
        }
        self.inner.dma_map(iova, size, access, file)?;
        open.reached.insert(iova, length);
        Ok(())
    }
}

fn refused(operation: &'static str, errno: Errno) -> FunctionError {
    FunctionError::Refused { operation, errno }
}

fn read_register(function: &dyn Function, offset: u64) -> Result<u32, FunctionError> {
    let mut value = [0; 4];
    function.read(region::BAR0, offset, &mut value)?;
    Ok(u32::from_le_bytes(value))
}

/// What a reset of hardware may leave of a tenant: rings, vectors, throttles, mailbox memory. The
/// datasheet has a VF's reset clear its enables; what else it clears is the card's own affair, and QEMU's
/// igb clears nothing else.
fn scrub(function: &dyn Function) -> Result<(), FunctionError> {
    let put =
        |offset: u32, value: u32| function.post(region::BAR0, offset.into(), &value.to_le_bytes());
    put(vf::VTEIMC::OFFSET, PVTEIMC::VECTORS.mask())?;
    for info in &vf::WINDOW {
        // These two do something when they are written.
        let acts = [vf::VTCTRL::OFFSET, vf::V2PMAILBOX::OFFSET].contains(&info.offset);
        for index in 0..info.count {
            let offset = info.offset + index * info.stride;
            match info.access {
                Access::ReadWrite if !acts => put(offset, info.id.info().reset)?,
                Access::ReadClear => function.read(region::BAR0, offset.into(), &mut [0; 4])?,
                _ => {}
            }
        }
    }
    Ok(())
}

impl Interposer for Passthrough {
    fn reset(&self) -> Result<(), FunctionError> {
        self.inner.reset()?;
        scrub(self.inner.as_ref())?;
        let counted = counters().map(|at| Ok((at, read_register(self.inner.as_ref(), at)?)));
        let counted = counted.collect::<Result<_, FunctionError>>()?;
        *self.counted.write().unwrap_or_else(PoisonError::into_inner) = counted;
        Ok(())
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        self.inner.read(region, offset, data)?;
        if region != region::BAR0 {
            return Ok(());
        }
        let counted = self.counted.read().unwrap_or_else(PoisonError::into_inner);
        let end = offset.saturating_add(data.len() as u64);
        for (&at, &base) in counted.range(offset.saturating_sub(3)..end) {
            // A part of a counter is a part of the difference, which the whole alone tells.
            let value = read_register(self.inner.as_ref(), at)?.wrapping_sub(base);
            for (byte, place) in value.to_le_bytes().into_iter().zip(at..) {
                if let Some(n) = place.checked_sub(offset)
                    && let Some(part) = usize::try_from(n).ok().and_then(|n| data.get_mut(n))
                {
                    *part = byte;
                }
            }
        }
        Ok(())
    }

    fn inner(&self) -> &dyn Function {
        self.inner.as_ref()
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        self.map(iova, size, access, file)
            .inspect_err(|error| self.tell(error))
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), FunctionError> {
        let refused = |errno| refused("DMA_UNMAP", errno);
        let last = last_address(iova, size).ok_or_else(|| refused(Errno::EINVAL))?;
        let mut open = self.open();
        let unreached = open.unreached.inside(iova, last).map_err(refused)?;
        let reached = open.reached.inside(iova, last).map_err(refused)?;
        for (first, _) in unreached {
            open.unreached.remove(first);
        }
        // One by one: where one fails, what is kept of the others is right.
        for (first, length) in reached {
            self.inner.dma_unmap(first, length as u64)?;
            open.reached.remove(first);
        }
        Ok(())
    }

    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        let mut open = self.open();
        self.inner.dma_unmap_all()?;
        *open = Open::default();
        Ok(())
    }

    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        if index == irq::ERR {
            return Ok(());
        }
        self.inner.set_eventfds(index, start, fds)
    }

    fn disable_irqs(&self, index: u32) -> Result<(), FunctionError> {
        if index == irq::ERR {
            return Ok(());
        }
        self.inner.disable_irqs(index)
    }

    fn trigger_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        if index == irq::ERR {
            return Ok(());
        }
        self.inner.trigger_irqs(index, start, vectors)
    }
}
