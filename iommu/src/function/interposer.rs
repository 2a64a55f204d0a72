//! A function that stands in front of another: to record accesses, to break some of them, to add a
//! region.

use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{DmaAccess, DmaHandler, Function, FunctionError, Irq, Region};

/// Which of the two writes of a [`Function`] one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// [`Function::write`].
    Write,
    /// [`Function::post`].
    Post,
}

impl WriteKind {
    /// The same write to `function`.
    pub fn pass(
        self,
        function: &dyn Function,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FunctionError> {
        match self {
            Self::Write => function.write(region, offset, data),
            Self::Post => function.post(region, offset, data),
        }
    }
}

/// A [`Function`] that hands everything on to another, except for what it overrides.
///
/// Whoever implements it is a [`Function`]. The methods are those of [`Function`], but for one:
/// both kinds of write come through [`Self::write`], so that none passes an interposer by that
/// looks at writes, and what was posted stays posted.
///
/// Two ways lead past it, and are its own to close:
/// - Memory of the function that a driver maps ([`Self::region`]; take `RegionFlags::MMAP` away and
///   every access is a call).
/// - [`Self::sriov_configure`], which the function behind may carry out on its own configuration
///   space, or through the kernel.
///
/// Where both traits are in scope, a call of a method on the type itself is ambiguous; on a
/// `dyn Function` it is not.
pub trait Interposer: Send + Sync {
    /// The function behind.
    fn inner(&self) -> &dyn Function;

    /// See [`Function::region`].
    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        self.inner().region(index)
    }

    /// See [`Function::read`].
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        self.inner().read(region, offset, data)
    }

    /// See [`Function::write`] and [`Function::post`]; `kind` says which. [`WriteKind::pass`] hands
    /// it on.
    fn write(
        &self,
        kind: WriteKind,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FunctionError> {
        kind.pass(self.inner(), region, offset, data)
    }

    /// See [`Function::irq`].
    fn irq(&self, index: u32) -> Result<Irq, FunctionError> {
        self.inner().irq(index)
    }

    /// See [`Function::set_eventfds`].
    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        self.inner().set_eventfds(index, start, fds)
    }

    /// See [`Function::disable_irqs`].
    fn disable_irqs(&self, index: u32) -> Result<(), FunctionError> {
        self.inner().disable_irqs(index)
    }

    /// See [`Function::trigger_irqs`].
    fn trigger_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.inner().trigger_irqs(index, start, vectors)
    }

    /// See [`Function::mask_irqs`].
    fn mask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.inner().mask_irqs(index, start, vectors)
    }

    /// See [`Function::unmask_irqs`].
    fn unmask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        self.inner().unmask_irqs(index, start, vectors)
    }

    /// See [`Function::set_unmask_eventfd`].
    fn set_unmask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError> {
        self.inner().set_unmask_eventfd(index, vector, fd)
    }

    /// See [`Function::dma_map`].
    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        self.inner().dma_map(iova, size, access, file)
    }

    /// See [`Function::dma_unmap`].
    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), FunctionError> {
        self.inner().dma_unmap(iova, size)
    }

    /// See [`Function::dma_unmap_all`].
    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        self.inner().dma_unmap_all()
    }

    /// See [`Function::iova_ranges`].
    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.inner().iova_ranges()
    }

    /// See [`Function::set_dma_handler`].
    fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>) {
        self.inner().set_dma_handler(handler);
    }

    /// See [`Function::reset`].
    fn reset(&self) -> Result<(), FunctionError> {
        self.inner().reset()
    }

    /// See [`Function::sriov_configure`].
    fn sriov_configure(&self, num_vfs: u16) -> Result<(), FunctionError> {
        self.inner().sriov_configure(num_vfs)
    }

    /// See [`Function::lost`].
    fn lost(&self) -> bool {
        self.inner().lost()
    }

    /// See [`Function::lost_event`].
    fn lost_event(&self) -> BorrowedFd<'_> {
        self.inner().lost_event()
    }
}

impl<T: Interposer> Function for T {
    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        Interposer::region(self, index)
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        Interposer::read(self, region, offset, data)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        Interposer::write(self, WriteKind::Write, region, offset, data)
    }

    fn post(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        Interposer::write(self, WriteKind::Post, region, offset, data)
    }

    fn irq(&self, index: u32) -> Result<Irq, FunctionError> {
        Interposer::irq(self, index)
    }

    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        Interposer::set_eventfds(self, index, start, fds)
    }

    fn disable_irqs(&self, index: u32) -> Result<(), FunctionError> {
        Interposer::disable_irqs(self, index)
    }

    fn trigger_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        Interposer::trigger_irqs(self, index, start, vectors)
    }

    fn mask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        Interposer::mask_irqs(self, index, start, vectors)
    }

    fn unmask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        Interposer::unmask_irqs(self, index, start, vectors)
    }

    fn set_unmask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError> {
        Interposer::set_unmask_eventfd(self, index, vector, fd)
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        Interposer::dma_map(self, iova, size, access, file)
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), FunctionError> {
        Interposer::dma_unmap(self, iova, size)
    }

    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        Interposer::dma_unmap_all(self)
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        Interposer::iova_ranges(self)
    }

    fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>) {
        Interposer::set_dma_handler(self, handler);
    }

    fn reset(&self) -> Result<(), FunctionError> {
        Interposer::reset(self)
    }

    fn sriov_configure(&self, num_vfs: u16) -> Result<(), FunctionError> {
        Interposer::sriov_configure(self, num_vfs)
    }

    fn lost(&self) -> bool {
        Interposer::lost(self)
    }

    fn lost_event(&self) -> BorrowedFd<'_> {
        Interposer::lost_event(self)
    }
}

#[cfg(test)]
mod tests;
