//! The queue pages of one function: shared memory of its client where doorbells are shared, private
//! memory of the card where they are trapped.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use igb::queue_page::{self, Page};
use igb::{FunctionId, FunctionKind};
use iommu::memory::{MemoryError, SharedMemory};
use vfio_user::device::SparseArea;

const PAGES: [Page; 2] = [Page::Rx, Page::Tx];

/// The two pages of a function, for the time of one connection.
pub(crate) struct QueuePages {
    kind: FunctionKind,
    memory: Memory,
}

enum Memory {
    /// A sealed file whose offsets are those of BAR0, as REGION_INFO has it. Nothing else of BAR0
    /// is in it: the bytes before and between the pages are holes.
    Shared(SharedMemory),
    Private(Box<[AtomicU32]>),
}

impl QueuePages {
    /// Zeroed pages that no client can map.
    pub(crate) fn private(function: FunctionId) -> Self {
        let words = PAGES.len() * queue_page::SIZE as usize / 4;
        let memory = Memory::Private((0..words).map(|_| AtomicU32::new(0)).collect());
        Self {
            kind: function.kind(),
            memory,
        }
    }

    /// Zeroed pages in a file of their own.
    pub(crate) fn shared(function: FunctionId) -> Result<Self, MemoryError> {
        let kind = function.kind();
        let end = PAGES
            .map(|page| page.offset(kind) + queue_page::SIZE)
            .into_iter()
            .max();
        let name = format!("queue-pages-{function}");
        let size = end.expect("there are pages") as usize;
        Ok(Self {
            kind,
            memory: Memory::Shared(SharedMemory::create_sealed(&name, size)?),
        })
    }

    /// Whether the client can map them.
    pub(crate) fn are_shared(&self) -> bool {
        matches!(self.memory, Memory::Shared(_))
    }

    /// The file and its mappable parts, for REGION_INFO of BAR0.
    pub(crate) fn mappable(&self) -> Option<(OwnedFd, Vec<SparseArea>)> {
        let Memory::Shared(memory) = &self.memory else {
            return None;
        };
        let fd = memory
            .fd()
            .try_clone_to_owned()
            .inspect_err(|error| log::warn!("queue pages cannot be shared: {error}"))
            .ok()?;
        let mut areas = PAGES.map(|page| SparseArea {
            offset: page.offset(self.kind).into(),
            size: queue_page::SIZE.into(),
        });
        areas.sort_by_key(|area| area.offset);
        Some((fd, areas.to_vec()))
    }

    fn private_index(page: Page, offset: u32) -> usize {
        let first = match page {
            Page::Rx => 0,
            Page::Tx => queue_page::SIZE,
        };
        ((first + offset) / 4) as usize
    }

    /// Load a dword. What a client stored before it is visible after it.
    pub(crate) fn load(&self, page: Page, offset: u32) -> u32 {
        match &self.memory {
            Memory::Shared(memory) => memory.load_u32(
                (page.offset(self.kind) + offset) as usize,
                Ordering::Acquire,
            ),
            Memory::Private(words) => {
                words[Self::private_index(page, offset)].load(Ordering::Acquire)
            }
        }
    }

    /// Store a dword, visible after all that was stored before it.
    pub(crate) fn store(&self, page: Page, offset: u32, value: u32) {
        match &self.memory {
            Memory::Shared(memory) => {
                let at = (page.offset(self.kind) + offset) as usize;
                memory.store_u32(at, value, Ordering::Release);
            }
            Memory::Private(words) => {
                words[Self::private_index(page, offset)].store(value, Ordering::Release);
            }
        }
    }

    /// Clear both pages.
    pub(crate) fn zero(&self) {
        for page in PAGES {
            for offset in (0..queue_page::SIZE).step_by(4) {
                self.store(page, offset, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu::memory::MapAccess;

    #[test]
    fn shared_pages_show_at_their_offsets_in_bar0_and_nothing_else() {
        for function in [FunctionId::PF, FunctionId::vf(7)] {
            let pages = QueuePages::shared(function).expect("pages");
            let (fd, areas) = pages.mappable().expect("a file");
            assert_eq!(areas.len(), 2);
            let end = areas
                .iter()
                .map(|area| area.offset + area.size)
                .max()
                .expect("an end");
            let client = SharedMemory::map(fd, 0, end as usize, MapAccess::ReadWrite);
            let client = client.expect("sealed against shrinking");
            pages.store(Page::Rx, 0x818, 1);
            pages.store(Page::Tx, 0x818, 2);
            let seen: Vec<u32> = areas
                .iter()
                .map(|area| client.load_u32(area.offset as usize + 0x818, Ordering::Acquire))
                .collect();
            assert_eq!(seen, [1, 2], "receive lies before transmit in both layouts");
            pages.zero();
            assert_eq!(
                (pages.load(Page::Rx, 0x818), pages.load(Page::Tx, 0x818)),
                (0, 0)
            );
        }
    }

    #[test]
    fn private_pages_hold_both_pages_apart() {
        let pages = QueuePages::private(FunctionId::PF);
        assert!(pages.mappable().is_none());
        pages.store(Page::Rx, queue_page::SIZE - 4, 1);
        pages.store(Page::Tx, 0, 2);
        assert_eq!(pages.load(Page::Rx, queue_page::SIZE - 4), 1);
        assert_eq!(pages.load(Page::Tx, 0), 2);
    }
}
