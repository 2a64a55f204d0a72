//! A function on kernel VFIO: a real device, or one of a virtual machine behind an I/O MMU.
//!
//! One container per function, or one I/O address space of iommufd ([`KernelVfio::open`],
//! [`KernelVfio::open_iommufd`]); or several functions in one ([`KernelVfio::open_beside`]). The
//! memory of a window is mapped in this process while the kernel looks for its pages, and no longer.
//! Registers are reached by loads and stores where the kernel lets them be mapped, else by pread and
//! pwrite. Nobody reads the device's memory on its behalf here, so a window always needs a file.

mod address;
mod bind;
mod cdev;
mod changes;
mod dirty;
mod error;
mod info;
mod lent;
mod limits;
#[cfg(test)]
mod made_up;
mod open;
mod page_table;
mod space;
mod sriov;
#[expect(unsafe_code, reason = "ioctls and mmap of kernel VFIO")]
mod sys;
mod sysfs;
mod tree;

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vfio_bindings::bindings::vfio as kernel;
use vfio_ioctls::VfioError;
use vfio_user::client::DmaHandler;
use vfio_user::device::{DmaAccess, Irq, IrqFlags, Region, RegionFlags, irq, region};

pub use self::address::{KernelPlace, NotAnAddress, PciAddress, VfToken};
pub use self::bind::{BindError, Binder, Bound, Unbound};
pub use self::dirty::{DirtyError, DirtyPages, DirtyTracking, Granularity};
pub use self::error::{Holdout, KernelError};
use self::info::IommuInfo;
use self::lent::Lent;
use self::page_table::Table;
use self::space::Space;
use self::sys::{Registers, Vectors};
use self::sysfs::Sysfs;
pub use self::sysfs::VfOf;
use crate::function::{Function, FunctionError};
use crate::interrupt::InterruptSet;
use crate::iova::last_address;
use crate::pci;
use crate::windows::Windows;

/// One region of the device.
#[derive(Debug)]
struct Bar {
    size: u64,
    flags: RegionFlags,
    /// Where it begins in the device's file.
    offset: u64,
    /// The parts that are mapped here: first offset, registers.
    mapped: Vec<(u64, Registers)>,
}

/// A [`Function`] over kernel VFIO. Dropping it closes every window and gives the device back.
pub struct KernelVfio {
    // Dropped first to last: mappings of the device, the device, what it is in.
    bars: Vec<Bar>,
    device: File,
    /// Its page table, where iommufd is used.
    #[expect(
        dead_code,
        reason = "goes after the device and before the address space"
    )]
    table: Option<Table>,
    /// Its group and that one's number, where groups are used.
    group: Option<(u32, Arc<OwnedFd>)>,
    space: Arc<Space>,
    sysfs: Sysfs,
    /// Who opened it chose the token of its VFs.
    has_token: bool,
    resettable: bool,
    iommu: IommuInfo,
    /// What was offered when this function began to ask for dirty pages. Taken before the windows.
    tracked: Mutex<Option<DirtyTracking>>,
    windows: Mutex<Windows>,
    interrupts: Mutex<Interrupts>,
    /// Whether the device answers to its BARs. While it does not, touching a mapping of one is a
    /// fatal signal.
    decodes: RwLock<bool>,
    /// Offset of power management's Control/Status in configuration space.
    power: Option<u64>,
    loss: InterruptSet,
    lost: AtomicBool,
}

/// What is known of the interrupt indexes.
#[derive(Debug)]
struct Interrupts {
    kinds: Vec<Irq>,
    /// The kernel refuses to disable what is not enabled.
    enabled: [bool; irq::COUNT as usize],
}

impl KernelVfio {
    /// How many more windows the kernel lets this container have, if it tells.
    pub fn windows_left(&self) -> Option<u32> {
        self.space.windows_left()
    }

    fn refused(operation: &'static str) -> impl Fn(Errno) -> FunctionError {
        move |errno| FunctionError::Refused { operation, errno }
    }

    /// What a failed system call on the device means.
    fn failed(&self, operation: &'static str, error: &io::Error) -> FunctionError {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        if errno == Errno::ENODEV || self.lost() {
            return FunctionError::Lost;
        }
        FunctionError::Refused { operation, errno }
    }

    fn bar(
        &self,
        index: u32,
        offset: u64,
        len: usize,
        need: RegionFlags,
        operation: &'static str,
    ) -> Result<&Bar, FunctionError> {
        if self.lost.load(Ordering::Acquire) {
            return Err(FunctionError::Lost);
        }
        let inside = |bar: &&Bar| {
            let end = offset.checked_add(len as u64);
            bar.flags.contains(need) && end.is_some_and(|end| end <= bar.size)
        };
        self.bars
            .get(index as usize)
            .filter(inside)
            .ok_or(FunctionError::Refused {
                operation,
                errno: Errno::EINVAL,
            })
    }

    /// The registers at `offset`, and where in them that is; the guard keeps them alive.
    fn mapped<'a>(
        &'a self,
        bar: &'a Bar,
        offset: u64,
    ) -> Option<(RwLockReadGuard<'a, bool>, &'a Registers, usize)> {
        // The last that begins at or below: there are a few at most.
        let (first, registers) = bar.mapped.iter().rfind(|(first, _)| *first <= offset)?;
        let at = usize::try_from(offset - first).ok()?;
        let decodes = self.decodes.read().unwrap_or_else(PoisonError::into_inner);
        decodes.then_some((decodes, registers, at))
    }

    fn put(&self, bar: &Bar, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some((_decodes, registers, at)) = self.mapped(bar, offset)
            && registers.store(at, data).is_some()
        {
            return Ok(());
        }
        self.device.write_all_at(data, bar.offset + offset)
    }

    fn config(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let begin = self.bars[region::CONFIG as usize].offset;
        self.device.read_exact_at(data, begin + offset)
    }

    fn config_u16(&self, offset: u64) -> io::Result<u16> {
        let mut data = [0; 2];
        self.config(offset, &mut data)?;
        Ok(u16::from_le_bytes(data))
    }

    /// Write configuration space. Where that can switch the BARs off, nobody touches one meanwhile.
    fn put_config(&self, bar: &Bar, offset: u64, data: &[u8]) -> io::Result<()> {
        let touches =
            |register: u64| register < offset + data.len() as u64 && offset < register + 2;
        if !touches(pci::COMMAND) && !self.power.is_some_and(touches) {
            return self.device.write_all_at(data, bar.offset + offset);
        }
        let mut decodes = self.decodes.write().unwrap_or_else(PoisonError::into_inner);
        *decodes = false;
        let written = self.device.write_all_at(data, bar.offset + offset);
        *decodes = self.answers().unwrap_or(false);
        written
    }

    /// Whether the device answers to its BARs: memory space is on, and so is its power.
    fn answers(&self) -> io::Result<bool> {
        let command = self.config_u16(pci::COMMAND)?;
        let asleep = match self.power {
            Some(power) => self.config_u16(power)? & 3 != 0,
            None => false,
        };
        Ok(command & pci::COMMAND_MEMORY != 0 && !asleep)
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupts(&self) -> MutexGuard<'_, Interrupts> {
        self.interrupts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, windows: &mut Windows, which: Vec<(u64, usize)>) -> Result<(), FunctionError> {
        for (iova, size) in which {
            let closed = self.space.unmap(iova, size);
            closed.map_err(|error| match error {
                VfioError::IommuDmaUnmap(error) => {
                    Self::refused("DMA_UNMAP")(Errno::from_raw(error.errno()))
                }
                error => FunctionError::Transport {
                    operation: "DMA_UNMAP",
                    source: Box::new(error),
                },
            })?;
            windows.remove(iova);
        }
        Ok(())
    }

    /// What the kernel's refusal of a window means, and what mends it.
    fn unmappable(&self, errno: Errno, size: u64, windows: &Windows) -> FunctionError {
        let situation = limits::Situation {
            size,
            windows: windows.len(),
            mapped: windows.bytes(),
            available: self.windows_left(),
            lockable: limits::lockable(),
        };
        limits::refusal(errno, situation)
    }

    /// Set vectors from `start` on.
    fn set_irqs(
        &self,
        action: u32,
        index: u32,
        start: u32,
        count: usize,
        vectors: &Vectors<'_>,
    ) -> Result<(), FunctionError> {
        let operation = "SET_IRQS";
        let end = u32::try_from(count).ok().and_then(|n| start.checked_add(n));
        let inside = |kind: &Irq| end.is_some_and(|end| end <= kind.count);
        let kinds = &self.interrupts().kinds;
        if !kinds.get(index as usize).is_some_and(inside) {
            return Err(Self::refused(operation)(Errno::EINVAL));
        }
        sys::set_irqs(self.device.as_fd(), action, index, start, vectors)
            .map_err(|errno| self.failed(operation, &errno.into()))
    }
}

impl Drop for KernelVfio {
    /// With the last function of an address space the kernel closes all of it by itself.
    fn drop(&mut self) {
        self.abandon_tracking();
        if Arc::strong_count(&self.space) > 1
            && let Err(error) = self.dma_unmap_all()
        {
            log::warn!("windows of a function stay open to those beside it: {error}");
        }
    }
}

impl Function for KernelVfio {
    /// Without a file: the device's own can be mapped by nobody who takes it for memory.
    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        let bar = self.bar(index, 0, 0, RegionFlags::empty(), "DEVICE_GET_REGION_INFO")?;
        Ok(Region {
            size: bar.size,
            flags: bar.flags - RegionFlags::MMAP,
            ..Region::absent()
        })
    }

    fn read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        let operation = "reading a region";
        let bar = self.bar(index, offset, data.len(), RegionFlags::READ, operation)?;
        if let Some((_decodes, registers, at)) = self.mapped(bar, offset)
            && registers.load(at, data).is_some()
        {
            return Ok(());
        }
        self.device
            .read_exact_at(data, bar.offset + offset)
            .map_err(|error| self.failed(operation, &error))
    }

    fn write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        let operation = "writing a region";
        let bar = self.bar(index, offset, data.len(), RegionFlags::WRITE, operation)?;
        let written = match index {
            region::CONFIG => self.put_config(bar, offset, data),
            // A read of configuration space pushes the posted write before it to the device.
            _ => self
                .put(bar, offset, data)
                .and_then(|()| self.config_u16(pci::STATUS).map(drop)),
        };
        written.map_err(|error| self.failed(operation, &error))
    }

    fn post(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        if index == region::CONFIG {
            return self.write(index, offset, data);
        }
        let operation = "writing a region";
        let bar = self.bar(index, offset, data.len(), RegionFlags::WRITE, operation)?;
        self.put(bar, offset, data)
            .map_err(|error| self.failed(operation, &error))
    }

    fn irq(&self, index: u32) -> Result<Irq, FunctionError> {
        let interrupts = self.interrupts();
        let kind = interrupts.kinds.get(index as usize).copied();
        kind.ok_or_else(|| Self::refused("DEVICE_GET_IRQ_INFO")(Errno::EINVAL))
    }

    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        let trigger = kernel::VFIO_IRQ_SET_ACTION_TRIGGER;
        let kind = self.irq(index)?;
        let first = !self.interrupts().enabled[index as usize];
        let last = u32::try_from(fds.len())
            .ok()
            .and_then(|n| start.checked_add(n));
        if first && kind.flags.contains(IrqFlags::NORESIZE) && last <= Some(kind.count) {
            // The set cannot grow later: take all vectors now.
            let mut all = vec![None; kind.count as usize];
            all[start as usize..start as usize + fds.len()].copy_from_slice(fds);
            self.set_irqs(trigger, index, 0, all.len(), &Vectors::Eventfds(&all))?;
        } else {
            self.set_irqs(trigger, index, start, fds.len(), &Vectors::Eventfds(fds))?;
        }
        self.interrupts().enabled[index as usize] = true;
        Ok(())
    }

    fn disable_irqs(&self, index: u32) -> Result<(), FunctionError> {
        self.irq(index)?;
        if !self.interrupts().enabled[index as usize] {
            return Ok(());
        }
        let trigger = kernel::VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs(trigger, index, 0, 0, &Vectors::None)?;
        self.interrupts().enabled[index as usize] = false;
        Ok(())
    }

    fn trigger_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        let action = kernel::VFIO_IRQ_SET_ACTION_TRIGGER;
        let data = Vectors::Flags(vectors);
        self.set_irqs(action, index, start, vectors.len(), &data)
    }

    fn mask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        let action = kernel::VFIO_IRQ_SET_ACTION_MASK;
        let data = Vectors::Flags(vectors);
        self.set_irqs(action, index, start, vectors.len(), &data)
    }

    fn unmask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        let action = kernel::VFIO_IRQ_SET_ACTION_UNMASK;
        let data = Vectors::Flags(vectors);
        self.set_irqs(action, index, start, vectors.len(), &data)
    }

    fn set_unmask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError> {
        let action = kernel::VFIO_IRQ_SET_ACTION_UNMASK;
        self.set_irqs(action, index, vector, 1, &Vectors::Eventfds(&[fd]))
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        let refused = Self::refused("DMA_MAP");
        let last = last_address(iova, size).ok_or_else(|| refused(Errno::EINVAL))?;
        if access.is_empty() {
            return Err(refused(Errno::EINVAL));
        }
        // A device of the kernel's reaches memory only, never somebody who answers for it.
        let (file, offset) = file.ok_or_else(|| refused(Errno::EOPNOTSUPP))?;
        let memory = Lent::of(file, offset, size, access)?;
        let mut windows = self.windows();
        if windows.overlap(iova, last) {
            return Err(refused(Errno::EEXIST));
        }
        self.space
            .map(iova, &memory)
            .map_err(|errno| self.unmappable(errno, size, &windows))?;
        windows.insert(iova, memory.size());
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), FunctionError> {
        let refused = Self::refused("DMA_UNMAP");
        let last = last_address(iova, size).ok_or_else(|| refused(Errno::EINVAL))?;
        let mut windows = self.windows();
        let inside = windows.inside(iova, last).map_err(refused)?;
        self.close(&mut windows, inside)
    }

    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        let mut windows = self.windows();
        let all = windows.all();
        self.close(&mut windows, all)
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        match self.iommu.ranges.as_slice() {
            // An old kernel, which does not tell.
            [] => vec![0..=u64::MAX],
            ranges => ranges.to_vec(),
        }
    }

    /// Nobody asks: the device reaches every window by itself.
    fn set_dma_handler(&self, _: Arc<dyn DmaHandler>) {}

    fn reset(&self) -> Result<(), FunctionError> {
        let operation = "reset";
        if !self.resettable {
            return Err(Self::refused(operation)(Errno::EOPNOTSUPP));
        }
        sys::reset(self.device.as_fd()).map_err(|errno| self.failed(operation, &errno.into()))
    }

    /// Through the kernel, which owns the capability and makes devices of the VFs.
    fn sriov_configure(&self, num_vfs: u16) -> Result<(), FunctionError> {
        sriov::configure(&self.sysfs, num_vfs, sriov::Patience::default())?;
        if num_vfs != 0 && !self.has_token {
            let address = self.sysfs.address;
            log::warn!(
                "the kernel has chosen a secret VF token, so no process opens a VF over VFIO; \
                 name this device vfio:{address},vf_token=UUID, and each VF likewise"
            );
        }
        Ok(())
    }

    fn lost(&self) -> bool {
        if self.lost.load(Ordering::Acquire) {
            return true;
        }
        let mut event = [PollFd::new(self.loss.as_fd(), PollFlags::POLLIN)];
        let lost = poll(&mut event, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        if lost && !self.lost.swap(true, Ordering::AcqRel) {
            log::warn!("the kernel wants the device back, or it failed fatally: letting go of it");
        }
        lost
    }

    fn lost_event(&self) -> BorrowedFd<'_> {
        self.loss.as_fd()
    }
}
