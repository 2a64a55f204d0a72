//! A function in this process: its device is called directly, without a socket.
//!
//! The device cannot tell the difference: the same checks stand before it as the socket's server
//! makes, it gets duplicates of descriptors, and its DMA messages find the same handler.

mod dma;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use vfio_user::client::DmaHandler;
use vfio_user::device::{
    Device, DmaAccess, DmaWindow, Irq, IrqAction, Region, RegionFlags, irq, region,
};

use self::dma::LocalDma;
use crate::function::{Function, FunctionError};
use crate::interrupt::{EventFd, InterruptError};

/// What an access to a region is checked against.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    size: u64,
    flags: RegionFlags,
}

impl Bounds {
    fn of(region: &Region) -> Self {
        Self {
            size: region.size,
            flags: region.flags,
        }
    }
}

/// A [`Function`] over a [`Device`] of this process. It is the device's one client until it is
/// dropped or [`Self::remove`]d.
pub struct InProcess {
    device: Arc<dyn Device>,
    dma: Arc<LocalDma>,
    /// Asked of the device once, since describing a region duplicates its file.
    regions: Mutex<[Bounds; region::COUNT as usize]>,
    lost: AtomicBool,
    lost_event: EventFd,
}

impl InProcess {
    /// Become the client of `device`.
    ///
    /// # Errors
    /// No eventfd could be had.
    pub fn new(device: Arc<dyn Device>) -> Result<Self, InterruptError> {
        let lost_event = EventFd::new()?;
        let dma = Arc::new(LocalDma::default());
        device.connected(dma.clone());
        let mut regions = [Bounds {
            size: 0,
            flags: RegionFlags::empty(),
        }; region::COUNT as usize];
        for (index, bounds) in (0..).zip(&mut regions) {
            *bounds = Bounds::of(&device.region(index));
        }
        let regions = Mutex::new(regions);
        Ok(Self {
            device,
            dma,
            regions,
            lost: AtomicBool::new(false),
            lost_event,
        })
    }

    /// Surprise removal, as when a server closes its socket: the device loses its client, and this
    /// function is lost for good.
    pub fn remove(&self) {
        if !self.lost.swap(true, Ordering::AcqRel) {
            // First: the device may have workers that wait for DMA answers.
            self.dma.close();
            self.device.disconnected();
            self.lost_event.signal();
        }
    }

    fn alive(&self) -> Result<(), FunctionError> {
        if self.lost() {
            Err(FunctionError::Lost)
        } else {
            Ok(())
        }
    }

    fn bounds(
        &self,
        index: u32,
        offset: u64,
        len: usize,
        need: RegionFlags,
        operation: &'static str,
    ) -> Result<(), FunctionError> {
        self.alive()?;
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = regions.get(index as usize).is_some_and(|bounds| {
            bounds.flags.contains(need)
                && offset
                    .checked_add(len as u64)
                    .is_some_and(|end| end <= bounds.size)
        });
        if inside {
            Ok(())
        } else {
            Err(refused(operation)(Errno::EINVAL))
        }
    }

    fn set_irqs(
        &self,
        index: u32,
        start: u32,
        count: usize,
        action: IrqAction,
    ) -> Result<(), FunctionError> {
        self.alive()?;
        let refused = refused("SET_IRQS");
        let vectors = if index < irq::COUNT {
            self.device.irq(index).count
        } else {
            0
        };
        let end = u32::try_from(count)
            .ok()
            .and_then(|count| start.checked_add(count));
        if index >= irq::COUNT || end.is_none_or(|end| end > vectors) {
            return Err(refused(Errno::EINVAL));
        }
        self.device.set_irqs(index, start, action).map_err(refused)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.remove();
    }
}

fn refused(operation: &'static str) -> impl Fn(Errno) -> FunctionError {
    move |errno| FunctionError::Refused { operation, errno }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, FunctionError> {
    fd.try_clone_to_owned()
        .map_err(|error| FunctionError::Transport {
            operation: "duplicating a descriptor",
            source: Box::new(error),
        })
}

impl Function for InProcess {
    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        self.alive()?;
        if index >= region::COUNT {
            return Err(refused("DEVICE_GET_REGION_INFO")(Errno::EINVAL));
        }
        let region = self.device.region(index);
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        regions[index as usize] = Bounds::of(&region);
        Ok(region)
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        self.bounds(region, offset, data.len(), RegionFlags::READ, "REGION_READ")?;
        self.device
            .region_read(region, offset, data)
            .map_err(refused("REGION_READ"))
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.bounds(
            region,
            offset,
            data.len(),
            RegionFlags::WRITE,
            "REGION_WRITE",
        )?;
        self.device
            .region_write(region, offset, data)
            .map_err(refused("REGION_WRITE"))
    }

    fn irq(&self, index: u32) -> Result<Irq, FunctionError> {
        self.alive()?;
        if index >= irq::COUNT {
            return Err(refused("DEVICE_GET_IRQ_INFO")(Errno::EINVAL));
        }
        Ok(self.device.irq(index))
    }

    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        let own = fds
            .iter()
            .map(|fd| fd.map(duplicate).transpose())
            .collect::<Result<Vec<_>, FunctionError>>()?;
        self.set_irqs(index, start, fds.len(), IrqAction::SetEventfds(own))
    }

    fn disable_irqs(&self, index: u32) -> Result<(), FunctionError> {
        self.set_irqs(index, 0, 0, IrqAction::Disable)
    }

    fn trigger_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.set_irqs(
            index,
            start,
            vectors.len(),
            IrqAction::Trigger(vectors.to_vec()),
        )
    }

    fn mask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.set_irqs(
            index,
            start,
            vectors.len(),
            IrqAction::Mask(vectors.to_vec()),
        )
    }

    fn unmask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.set_irqs(
            index,
            start,
            vectors.len(),
            IrqAction::Unmask(vectors.to_vec()),
        )
    }

    fn set_unmask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError> {
        let own = fd.map(duplicate).transpose()?;
        self.set_irqs(index, vector, 1, IrqAction::SetUnmaskEventfd(own))
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        self.alive()?;
        let refused = refused("DMA_MAP");
        let offset = file.map_or(0, |(_, offset)| offset);
        let wraps = iova.checked_add(size).is_none()
            || offset
                .checked_add(size)
                .is_none_or(|end| i64::try_from(end).is_err());
        if size == 0 || access.is_empty() || wraps {
            return Err(refused(Errno::EINVAL));
        }
        let file = match file {
            Some((fd, offset)) => Some((duplicate(fd)?, offset)),
            None => None,
        };
        self.device
            .dma_map(DmaWindow {
                iova,
                size,
                access,
                file,
            })
            .map_err(refused)
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), FunctionError> {
        self.alive()?;
        let refused = refused("DMA_UNMAP");
        if size == 0 || iova.checked_add(size).is_none() {
            return Err(refused(Errno::EINVAL));
        }
        let _closing = self.dma.begin_closing(iova, size);
        self.device.dma_unmap(iova, size).map_err(refused)
    }

    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        self.alive()?;
        let _closing = self.dma.begin_closing(0, u64::MAX);
        self.device.dma_unmap_all();
        Ok(())
    }

    fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>) {
        self.dma.set_handler(handler);
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.alive()?;
        let _closing = self.dma.begin_closing(0, u64::MAX);
        self.device.reset();
        Ok(())
    }

    fn lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn lost_event(&self) -> BorrowedFd<'_> {
        self.lost_event.as_fd()
    }
}
