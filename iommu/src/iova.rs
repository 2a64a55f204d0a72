//! Which I/O virtual addresses are free: first fit, with reserved windows.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::pci::MSI_WINDOW;

/// Why an address range was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IovaError {
    /// No free range is large enough.
    #[error("no {size:#x} bytes of I/O address space are free at an alignment of {align:#x}")]
    Exhausted {
        /// Bytes wanted.
        size: u64,
        /// Alignment wanted.
        align: u64,
    },
    /// The size is 0 or the alignment no power of two.
    #[error("an I/O address range of {size:#x} bytes aligned to {align:#x} makes no sense")]
    Invalid {
        /// Bytes wanted.
        size: u64,
        /// Alignment wanted.
        align: u64,
    },
    /// The range is not free.
    #[error("{first:#x}..={last:#x} is reserved or in use")]
    InUse {
        /// First address.
        first: u64,
        /// Last address.
        last: u64,
    },
    /// What is to be freed was not allocated as such.
    #[error("{iova:#x} with {size:#x} bytes is not an allocation")]
    NotAllocated {
        /// First address.
        iova: u64,
        /// Bytes.
        size: u64,
    },
}

/// Free ranges of one I/O address space.
///
/// Ranges are kept by first and last address, both inclusive, so the top of the 64-bit space needs
/// no special case.
#[derive(Debug, Clone)]
pub struct IovaAllocator {
    /// First address to last address; no two touch each other.
    free: BTreeMap<u64, u64>,
    /// First address to last address.
    allocated: BTreeMap<u64, u64>,
}

impl IovaAllocator {
    /// All of `usable` is free, except the MSI window.
    pub fn new(usable: RangeInclusive<u64>) -> Self {
        let mut allocator = Self {
            free: BTreeMap::new(),
            allocated: BTreeMap::new(),
        };
        if usable.start() <= usable.end() {
            allocator.free.insert(*usable.start(), *usable.end());
        }
        allocator.reserve(MSI_WINDOW);
        allocator
    }

    /// Never allocate from `window`, as far as it is still free.
    pub fn reserve(&mut self, window: RangeInclusive<u64>) {
        let (first, last) = (*window.start(), *window.end());
        if first > last {
            return;
        }
        let overlapping: Vec<(u64, u64)> = self
            .free
            .range(..=last)
            .rev()
            .map(|(&start, &end)| (start, end))
            .take_while(|&(_, end)| end >= first)
            .collect();
        for (start, end) in overlapping {
            self.free.remove(&start);
            if start < first {
                self.free.insert(start, first - 1);
            }
            if end > last {
                self.free.insert(last + 1, end);
            }
        }
    }

    /// Allocate `size` bytes at a multiple of `align` (a power of two): the lowest that fit.
    pub fn allocate(&mut self, size: u64, align: u64) -> Result<u64, IovaError> {
        if size == 0 || !align.is_power_of_two() {
            return Err(IovaError::Invalid { size, align });
        }
        let fit = self.free.iter().find_map(|(&start, &end)| {
            let first = start.checked_next_multiple_of(align)?;
            let last = first.checked_add(size - 1)?;
            (last <= end).then_some((start, end, first, last))
        });
        let (start, end, first, last) = fit.ok_or(IovaError::Exhausted { size, align })?;
        self.cut(start, end, first, last);
        self.allocated.insert(first, last);
        Ok(first)
    }

    /// Allocate exactly `iova .. iova + size`.
    pub fn allocate_at(&mut self, iova: u64, size: u64) -> Result<(), IovaError> {
        let last = size
            .checked_sub(1)
            .and_then(|more| iova.checked_add(more))
            .ok_or(IovaError::Invalid { size, align: 1 })?;
        match self.free.range(..=iova).next_back() {
            Some((&start, &end)) if last <= end => {
                self.cut(start, end, iova, last);
                self.allocated.insert(iova, last);
                Ok(())
            }
            _ => Err(IovaError::InUse { first: iova, last }),
        }
    }

    /// Take `first..=last` out of the free range `start..=end`.
    fn cut(&mut self, start: u64, end: u64, first: u64, last: u64) {
        self.free.remove(&start);
        if start < first {
            self.free.insert(start, first - 1);
        }
        if last < end {
            self.free.insert(last + 1, end);
        }
    }

    /// Give an allocation back.
    pub fn free(&mut self, iova: u64, size: u64) -> Result<(), IovaError> {
        let last = match self.allocated.get(&iova) {
            Some(&last) if size.checked_sub(1) == Some(last - iova) => last,
            _ => return Err(IovaError::NotAllocated { iova, size }),
        };
        self.allocated.remove(&iova);
        let (mut first, mut last) = (iova, last);
        if let Some((&start, &end)) = self.free.range(..first).next_back()
            && end + 1 == first
        {
            self.free.remove(&start);
            first = start;
        }
        if let Some(after) = last.checked_add(1)
            && let Some(end) = self.free.remove(&after)
        {
            last = end;
        }
        self.free.insert(first, last);
        Ok(())
    }

    /// The free ranges, lowest first.
    pub fn free_ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.free.iter().map(|(&first, &last)| first..=last)
    }
}
