//! What the kernel tells of a container's I/O MMU.

use std::ops::RangeInclusive;

use vfio_bindings::bindings::vfio as kernel;
use zerocopy::FromBytes;

use super::dirty::{DirtyTracking, Granularity};

/// An I/O MMU as a container has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct IommuInfo {
    /// One bit for each page size, in bytes; 0 if the kernel does not tell.
    pub(super) page_sizes: u64,
    /// Addresses that can be mapped, lowest first; empty if the kernel does not tell.
    pub(super) ranges: Vec<RangeInclusive<u64>>,
    /// Mappings that can still be made, if the kernel tells.
    pub(super) available: Option<u32>,
    /// Dirty tracking, if the kernel offers it: one bit for each page size, in bytes, and the bytes
    /// that a bitmap may have.
    pub(super) dirty: Option<(u64, u64)>,
}

fn word<T: FromBytes>(bytes: &[u8], at: usize) -> Option<T> {
    T::read_from_prefix(bytes.get(at..)?)
        .ok()
        .map(|read| read.0)
}

impl IommuInfo {
    /// Read the answer of VFIO_IOMMU_GET_INFO: a chain of capabilities after a fixed part. Offsets
    /// count from the start and must increase, so the walk ends; `None` if it leaves the bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut info = Self::default();
        let flags: u32 = word(bytes, 4)?;
        if flags & kernel::VFIO_IOMMU_INFO_PGSIZES != 0 {
            info.page_sizes = word(bytes, 8)?;
        }
        if flags & kernel::VFIO_IOMMU_INFO_CAPS == 0 {
            return Some(info);
        }
        let mut at = word::<u32>(bytes, 16)? as usize;
        let mut floor = 20;
        while at != 0 {
            if at < floor {
                return None;
            }
            let (id, next): (u16, u32) = (word(bytes, at)?, word(bytes, at + 4)?);
            match u32::from(id) {
                kernel::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                    let count: u32 = word(bytes, at + 8)?;
                    for n in 0..count as usize {
                        let first: u64 = word(bytes, at + 16 + 16 * n)?;
                        let last: u64 = word(bytes, at + 24 + 16 * n)?;
                        info.ranges.push(first..=last);
                    }
                }
                kernel::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                    info.available = Some(word(bytes, at + 8)?)
                }
                kernel::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION => {
                    info.dirty = Some((word(bytes, at + 16)?, word(bytes, at + 24)?));
                }
                _ => {}
            }
            floor = at + 8;
            at = next as usize;
        }
        info.ranges.retain(|range| !range.is_empty());
        info.ranges.sort_by_key(|range| *range.start());
        Some(info)
    }

    /// What iommufd tells of an address space.
    pub(super) fn of_ioas(mut ranges: Vec<RangeInclusive<u64>>, alignment: u64) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| *range.start());
        Self {
            // The smallest is the one that is looked at.
            page_sizes: alignment,
            ranges,
            available: None,
            dirty: None,
        }
    }

    /// What a container offers of dirty tracking. Of several page sizes the kernel takes the smallest.
    pub(super) fn dirty_tracking(&self) -> Option<DirtyTracking> {
        let (sizes, most) = self.dirty?;
        let page_size = 1_u64.checked_shl(sizes.trailing_zeros())?;
        Some(DirtyTracking {
            page_size,
            granularity: Granularity::EveryMappedPage,
            // Whole words, at least one.
            most: (most & !7).max(8),
            over_holes: true,
        })
    }

    /// Whether pages of `size` bytes can be mapped.
    pub(super) fn maps_pages_of(&self, size: u64) -> bool {
        // The smallest page size rules: larger ones are made of smaller pages where they must be.
        self.page_sizes == 0 || 1_u64 << self.page_sizes.trailing_zeros() <= size
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer as a kernel behind an emulated VT-d gives it.
    fn answer(capabilities: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(3_u32.to_ne_bytes());
        bytes.extend(0x4020_1000_u64.to_ne_bytes());
        bytes.extend(24_u32.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        for (n, (id, body)) in capabilities.iter().enumerate() {
            let next = bytes.len() + 8 + body.len();
            let next = if n + 1 == capabilities.len() {
                0
            } else {
                next as u32
            };
            bytes.extend(id.to_ne_bytes());
            bytes.extend(1_u16.to_ne_bytes());
            bytes.extend(next.to_ne_bytes());
            bytes.extend(body);
        }
        bytes
    }

    fn ranges(list: &[(u64, u64)]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend((list.len() as u32).to_ne_bytes());
        body.extend(0_u32.to_ne_bytes());
        for (first, last) in list {
            body.extend(first.to_ne_bytes());
            body.extend(last.to_ne_bytes());
        }
        body
    }

    #[test]
    fn ranges_and_what_is_left_are_read() {
        let body = ranges(&[(0xFEF0_0000, (1 << 48) - 1), (0, 0xFEDF_FFFF)]);
        let bytes = answer(&[
            (2, vec![0; 24]),
            (1, body),
            (3, 65_535_u32.to_ne_bytes().into()),
        ]);
        let info = IommuInfo::decode(&bytes).expect("an answer");
        assert_eq!(info.ranges, [0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 48) - 1]);
        assert_eq!(info.available, Some(65_535));
        assert!(info.maps_pages_of(4096));
        let coarse = IommuInfo {
            page_sizes: 1 << 16,
            ..info
        };
        assert!(!coarse.maps_pages_of(4096));
    }

    #[test]
    fn an_address_space_of_iommufd_is_read_alike() {
        let empty = 1;
        let ranges = vec![0xFEF0_0000..=0xFFFF_FFFF, 0..=0xFEDF_FFFF, empty..=0];
        let info = IommuInfo::of_ioas(ranges, 4096);
        assert_eq!(info.ranges, [0..=0xFEDF_FFFF, 0xFEF0_0000..=0xFFFF_FFFF]);
        assert!(info.maps_pages_of(4096));
        assert!(!IommuInfo::of_ioas(Vec::new(), 1 << 16).maps_pages_of(4096));
    }

    fn migration(page_sizes: u64, most: u64) -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend(page_sizes.to_ne_bytes());
        body.extend(most.to_ne_bytes());
        body
    }

    #[test]
    fn dirty_tracking_is_read_where_it_is_offered() {
        let offered = |capabilities: &[(u16, Vec<u8>)]| {
            let info = IommuInfo::decode(&answer(capabilities)).expect("an answer");
            info.dirty_tracking()
        };
        let told = offered(&[
            (1, ranges(&[(0, 1)])),
            (2, migration(0x4020_1000, 256 << 20)),
        ]);
        let told = told.expect("an offer");
        assert_eq!((told.page_size, told.most), (4096, 256 << 20));
        assert_eq!(told.granularity, Granularity::EveryMappedPage);
        assert_eq!(offered(&[(1, ranges(&[(0, 1)]))]), None);
        // An offer without a page size is none; one without room is one of the smallest.
        assert_eq!(offered(&[(2, migration(0, 256))]), None);
        assert_eq!(
            offered(&[(2, migration(4096, 7))]).map(|told| told.most),
            Some(8)
        );
        // Cut off.
        let whole = answer(&[(2, migration(4096, 256))]);
        assert_eq!(IommuInfo::decode(&whole[..whole.len() - 1]), None);
    }

    #[test]
    fn an_old_kernel_tells_nothing() {
        let mut bytes = answer(&[]);
        bytes[4..8].fill(0);
        assert_eq!(IommuInfo::decode(&bytes), Some(IommuInfo::default()));
        assert!(IommuInfo::default().maps_pages_of(4096));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_away(
            at in 0..120_usize, value: u8, cut in 0..120_usize, count: u32,
        ) {
            let mut body = ranges(&[(0, 1), (2, 3)]);
            body[..4].copy_from_slice(&(count % 8).to_ne_bytes());
            let mut bytes = answer(&[(1, body), (3, vec![0; 4]), (1, ranges(&[(4, 5)]))]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut);
            if let Some(info) = IommuInfo::decode(&bytes) {
                prop_assert!(info.ranges.len() <= bytes.len() / 4);
            }
        }
    }
}
