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

/// The last address of `size` bytes at `iova`; `None` if there is none.
#[inline]
pub fn last_address(iova: u64, size: u64) -> Option<u64> {
    iova.checked_add(size.checked_sub(1)?)
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
        let last = last_address(iova, size).ok_or(IovaError::Invalid { size, align: 1 })?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_msi_window_is_never_given_out() {
        let mut allocator = IovaAllocator::new(0xFEDF_0000..=0xFEF0_FFFF);
        let mut got = Vec::new();
        while let Ok(iova) = allocator.allocate(0x1_0000, 0x1000) {
            got.push(iova);
        }
        assert_eq!(got, [0xFEDF_0000, 0xFEF0_0000]);
        let exhausted = allocator.allocate(0x1000, 0x1000);
        assert_eq!(
            exhausted,
            Err(IovaError::Exhausted {
                size: 0x1000,
                align: 0x1000
            })
        );
        allocator
            .allocate_at(0xFEE0_0000, 0x1000)
            .expect_err("reserved");
        assert!(IovaAllocator::new(MSI_WINDOW).allocate(1, 1).is_err());
    }

    #[test]
    fn the_top_of_the_address_space_is_an_address_like_any_other() {
        let mut allocator = IovaAllocator::new(u64::MAX - 0x1FFF..=u64::MAX);
        assert_eq!(allocator.allocate(0x1000, 0x1000), Ok(u64::MAX - 0x1FFF));
        assert_eq!(allocator.allocate(0x1000, 0x1000), Ok(u64::MAX - 0xFFF));
        allocator.allocate(1, 1).expect_err("full");
        allocator.free(u64::MAX - 0xFFF, 0x1000).expect("free");
        allocator.free(u64::MAX - 0x1FFF, 0x1000).expect("free");
        assert_eq!(
            allocator.free_ranges().collect::<Vec<_>>(),
            [u64::MAX - 0x1FFF..=u64::MAX]
        );
        allocator.allocate(u64::MAX, 1).expect_err("too large");
        allocator
            .allocate(1, 1 << 63)
            .expect_err("no such multiple");
        assert!(
            IovaAllocator::new(0..=u64::MAX)
                .allocate(u64::MAX, 1)
                .is_err()
        );
    }

    #[test]
    fn senseless_requests_are_refused() {
        let mut allocator = IovaAllocator::new(0x1000..=0xFFFF);
        allocator.allocate(0, 0x1000).expect_err("nothing");
        allocator
            .allocate(0x1000, 0x1800)
            .expect_err("no power of two");
        allocator.allocate(0x1000, 0).expect_err("no power of two");
        allocator.allocate_at(u64::MAX, 2).expect_err("wraps");
        let iova = allocator.allocate(0x2000, 0x1000).expect("allocate");
        for (iova, size) in [
            (iova, 0x1000),
            (iova + 0x1000, 0x1000),
            (iova, 0x3000),
            (iova, 0),
        ] {
            assert_eq!(
                allocator.free(iova, size),
                Err(IovaError::NotAllocated { iova, size })
            );
        }
        allocator.free(iova, 0x2000).expect("free");
        allocator.free(iova, 0x2000).expect_err("twice");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate { size: u64, align: u64 },
        AllocateAt { iova: u64, size: u64 },
        Free(prop::sample::Index),
        Reserve { first: u64, len: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..40_u64, 0..5_u32)
                .prop_map(|(size, shift)| Step::Allocate { size, align: 1 << shift }),
            2 => (0..SPACE, 1..40_u64).prop_map(|(iova, size)| Step::AllocateAt { iova, size }),
            4 => any::<prop::sample::Index>().prop_map(Step::Free),
            1 => (0..SPACE, 0..10_u64).prop_map(|(first, len)| Step::Reserve { first, len }),
        ]
    }

    const SPACE: u64 = 256;

    proptest! {
        /// One flag per address.
        #[test]
        fn agrees_with_a_naive_first_fit(steps in prop::collection::vec(step(), 1..100)) {
            let mut allocator = IovaAllocator::new(0..=SPACE - 1);
            let mut free = [true; SPACE as usize];
            let mut allocations: Vec<(u64, u64)> = Vec::new();
            let all_free = |free: &[bool], at: u64, size: u64| {
                at + size <= SPACE && free[at as usize..(at + size) as usize].iter().all(|&f| f)
            };
            for step in steps {
                let taken = match step {
                    Step::Allocate { size, align } => {
                        let got = allocator.allocate(size, align);
                        let fit = (0..SPACE)
                            .find(|at| at % align == 0 && all_free(&free, *at, size));
                        prop_assert_eq!(got.ok(), fit);
                        fit.map(|at| (at, size))
                    }
                    Step::AllocateAt { iova, size } => {
                        let got = allocator.allocate_at(iova, size);
                        let fits = all_free(&free, iova, size);
                        prop_assert_eq!(got.is_ok(), fits);
                        fits.then_some((iova, size))
                    }
                    Step::Free(pick) => {
                        if !allocations.is_empty() {
                            let index = pick.index(allocations.len());
                            let (iova, size) = allocations.swap_remove(index);
                            prop_assert_eq!(allocator.free(iova, size), Ok(()));
                            free[iova as usize..(iova + size) as usize].fill(true);
                        }
                        None
                    }
                    Step::Reserve { first, len } => {
                        allocator.reserve(first..=first + len);
                        let end = SPACE.min(first + len + 1);
                        // What is allocated there comes back when it is freed.
                        free[first as usize..end as usize].fill(false);
                        None
                    }
                };
                if let Some((iova, size)) = taken {
                    free[iova as usize..(iova + size) as usize].fill(false);
                    allocations.push((iova, size));
                }
                // Whole: no two free ranges touch, and each address is free in both or in neither.
                let ranges: Vec<_> = allocator.free_ranges().collect();
                for pair in ranges.windows(2) {
                    prop_assert!(pair[0].end() + 1 < *pair[1].start());
                }
                for at in 0..SPACE {
                    let here = ranges.iter().any(|range| range.contains(&at));
                    prop_assert_eq!(here, free[at as usize], "at {}", at);
                }
            }
        }
    }
}
