//! The memory of a ring: descriptors, then one buffer for each, in one DMA mapping.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use igb::descriptor::{self, Raw};
use iommu::container::Container;
use iommu::dma_buffer::SharedDma;
use iommu::memory::PAGE_SIZE;

use crate::DriverError;

/// Fewest descriptors in a ring: their length is a multiple of 128 bytes (datasheet 8.10, 8.12).
pub const MIN_ENTRIES: u16 = 8;
/// Most descriptors in a ring of these drivers, as Linux's igb has it.
pub const MAX_ENTRIES: u16 = 4096;

/// Buffers start at multiples of this, so that small ones do not straddle pages.
pub(super) const BUFFER_ALIGNMENT: usize = 2048;

pub(super) struct RingMemory {
    dma: SharedDma,
    entries: u16,
    buffers: usize,
    stride: usize,
    buffer_size: usize,
}

impl RingMemory {
    pub(super) fn new(
        container: &Arc<Container>,
        entries: u16,
        buffer_size: usize,
    ) -> Result<Self, DriverError> {
        if !(MIN_ENTRIES..=MAX_ENTRIES).contains(&entries) || !entries.is_power_of_two() {
            return Err(DriverError::RingSize(entries.into()));
        }
        let buffers = (usize::from(entries) * descriptor::SIZE).next_multiple_of(PAGE_SIZE);
        let stride = buffer_size.next_multiple_of(BUFFER_ALIGNMENT);
        let dma = container
            .alloc(buffers + usize::from(entries) * stride)?
            .share()?;
        Ok(Self {
            dma,
            entries,
            buffers,
            stride,
            buffer_size,
        })
    }

    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    /// Bytes that a buffer holds.
    pub(super) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// Where the card finds the descriptors.
    pub(super) fn base(&self) -> u64 {
        self.dma.iova()
    }

    /// Bytes of all descriptors.
    pub(super) fn length(&self) -> u32 {
        u32::from(self.entries) * descriptor::SIZE as u32
    }

    pub(super) fn next(&self, index: u16) -> u16 {
        (index + 1) & (self.entries - 1)
    }

    pub(super) fn previous(&self, index: u16) -> u16 {
        index.wrapping_sub(1) & (self.entries - 1)
    }

    /// Where the card finds the buffer of a descriptor.
    pub(super) fn buffer_address(&self, index: u16) -> u64 {
        self.dma.iova() + self.buffer_offset(index) as u64
    }

    fn buffer_offset(&self, index: u16) -> usize {
        self.buffers + usize::from(index) * self.stride
    }

    fn descriptor_offset(index: u16) -> usize {
        usize::from(index) * descriptor::SIZE
    }

    /// Writes a descriptor, the word with DD last.
    pub(super) fn put(&self, index: u16, raw: Raw) {
        let at = Self::descriptor_offset(index);
        self.dma.store_u64(at, raw[0], Ordering::Relaxed);
        self.dma
            .store_u64(at + descriptor::STATUS_WORD, raw[1], Ordering::Release);
    }

    /// The word of a descriptor that has DD; whatever it says was written before it.
    pub(super) fn status_word(&self, index: u16) -> u64 {
        let at = Self::descriptor_offset(index) + descriptor::STATUS_WORD;
        self.dma.load_u64(at, Ordering::Acquire)
    }

    /// Copies into the buffer of a descriptor; `data` fits into it.
    pub(super) fn fill(&self, index: u16, data: &[u8]) {
        self.fill_from(index, 0, data);
    }

    /// Copies into the buffer of a descriptor from `at` on; `data` fits into the rest.
    pub(super) fn fill_from(&self, index: u16, at: usize, data: &[u8]) {
        debug_assert!(at + data.len() <= self.buffer_size);
        self.dma.write(self.buffer_offset(index) + at, data);
    }

    /// Copies out of the buffer of a descriptor; `data` is no longer than it.
    pub(super) fn drain(&self, index: u16, data: &mut [u8]) {
        debug_assert!(data.len() <= self.buffer_size);
        self.dma.read(self.buffer_offset(index), data);
    }

    /// Lets a test be the card.
    #[cfg(test)]
    pub(super) fn dma(&self) -> &SharedDma {
        &self.dma
    }
}
