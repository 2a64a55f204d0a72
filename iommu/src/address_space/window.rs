//! The windows of an address space, ordered for lookup, and what lies behind them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use vfio_user::device::DmaAccess;
use vm_memory::VolatileSlice;

use super::fault::FaultCause;
use crate::memory::{FileKind, Inspection, MapAccess, MemoryError, SharedMemory};

/// One window.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) first: u64,
    /// Inclusive, so that a window may end at the top of the address space.
    pub(super) last: u64,
    pub(super) access: DmaAccess,
    pub(super) target: Target,
}

/// What lies behind a window.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// A file, with the offset of the window's first byte in it.
    File { backing: Arc<Backing>, offset: u64 },
    /// The client's memory, reached by DMA messages.
    Messages,
}

/// Windows sorted by address; no two overlap.
#[derive(Debug, Default)]
pub(super) struct Windows(Vec<Window>);

impl Windows {
    /// Index of the window that covers `iova`. `hint` is tried first.
    #[inline]
    pub(super) fn find(&self, iova: u64, hint: usize) -> Option<usize> {
        if let Some(window) = self.0.get(hint)
            && window.first <= iova
            && iova <= window.last
        {
            return Some(hint);
        }
        let index = self.0.partition_point(|window| window.last < iova);
        self.0
            .get(index)
            .filter(|window| window.first <= iova)
            .map(|_| index)
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> &Window {
        &self.0[index]
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether any window touches `first ..= last`.
    pub(super) fn overlaps(&self, first: u64, last: u64) -> bool {
        let index = self.0.partition_point(|window| window.last < first);
        self.0.get(index).is_some_and(|window| window.first <= last)
    }

    pub(super) fn insert(&mut self, window: Window) {
        let index = self.0.partition_point(|other| other.last < window.first);
        self.0.insert(index, window);
    }

    /// Remove every window inside `first ..= last`, if there are any.
    ///
    /// # Errors
    /// `EINVAL`: a window reaches over an end of the range, and nothing is removed.
    pub(super) fn remove(&mut self, first: u64, last: u64) -> Result<Vec<Window>, Errno> {
        let start = self.0.partition_point(|window| window.last < first);
        let end = self.0.partition_point(|window| window.first <= last);
        match &self.0[start..end] {
            [head, ..] if head.first < first => Err(Errno::EINVAL),
            [.., tail] if tail.last > last => Err(Errno::EINVAL),
            _ => Ok(self.0.drain(start..end).collect()),
        }
    }
}

/// A file is held, and mapped, once for all windows that use it in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    device: u64,
    inode: u64,
    access: MapAccess,
}

impl Key {
    pub(super) fn access(&self) -> MapAccess {
        self.access
    }
}

/// A file behind windows.
#[derive(Debug)]
pub(super) struct Backing {
    key: Key,
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// Mapped from its beginning to where it ended at that time.
    Mapped(SharedMemory),
    /// Read and written by system calls, since somebody could truncate it.
    Plain(File),
}

/// How a file that a client sent is going to be used.
pub(super) enum Plan {
    /// Through a [`Backing`].
    Backing(Key),
    /// Not at all: its I/O might never end. The client's memory is reached by messages.
    Messages,
}

/// Decide how a file is used for a window of `size` bytes at `offset`.
pub(super) fn plan(
    inspection: &Inspection,
    offset: u64,
    size: u64,
    access: MapAccess,
) -> Result<Plan, Errno> {
    if !inspection.permits(access) {
        return Err(Errno::EACCES);
    }
    let key = Key {
        device: inspection.device,
        inode: inspection.inode,
        access,
    };
    match inspection.kind {
        FileKind::Tmpfs | FileKind::Local => {}
        // Huge pages know no write(2).
        FileKind::Hugetlbfs if inspection.shrink_sealed => {}
        FileKind::Hugetlbfs | FileKind::Other => return Ok(Plan::Messages),
    }
    if offset
        .checked_add(size)
        .is_none_or(|end| end > inspection.size)
    {
        return Err(Errno::EINVAL);
    }
    Ok(Plan::Backing(key))
}

impl Backing {
    /// Take a file over: mapped as a whole if that is safe.
    pub(super) fn new(
        file: OwnedFd,
        inspection: &Inspection,
        key: Key,
    ) -> Result<Self, MemoryError> {
        let store = if inspection.can_map(0, inspection.size, key.access) {
            let size = usize::try_from(inspection.size).map_err(|_| MemoryError::TooLarge {
                offset: 0,
                size: usize::MAX,
            })?;
            Store::Mapped(SharedMemory::map_inspected(
                file, inspection, 0, size, key.access,
            )?)
        } else {
            Store::Plain(File::from(file))
        };
        Ok(Self { key, store })
    }

    /// Whether a window of this key that ends at `end` in the file can use it.
    pub(super) fn serves(&self, key: &Key, end: u64) -> bool {
        self.key == *key
            && match &self.store {
                Store::Mapped(memory) => end <= memory.len() as u64,
                Store::Plain(_) => true,
            }
    }

    /// Bytes of this process's address space that it takes.
    pub(super) fn mapped_bytes(&self) -> u64 {
        match &self.store {
            Store::Mapped(memory) => memory.len() as u64,
            Store::Plain(_) => 0,
        }
    }

    /// The mapped bytes at `offset`; `None` if the file is not mapped.
    #[inline]
    pub(super) fn slice(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        match &self.store {
            Store::Mapped(memory) => memory.slice(usize::try_from(offset).ok()?, len),
            Store::Plain(_) => None,
        }
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), FaultCause> {
        match &self.store {
            Store::Mapped(_) => {
                self.slice(offset, data.len())
                    .ok_or(FaultCause::Io)?
                    .copy_to(data);
                Ok(())
            }
            Store::Plain(file) => file.read_exact_at(data, offset).map_err(|error| {
                log::debug!("DMA from a file failed: {error}");
                FaultCause::Io
            }),
        }
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), FaultCause> {
        let Store::Plain(file) = &self.store else {
            self.slice(offset, data.len())
                .ok_or(FaultCause::Io)?
                .copy_from(data);
            return Ok(());
        };
        // A write past the end would make a truncated file grow again, at our expense.
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        if offset + data.len() as u64 > size {
            return Err(FaultCause::Io);
        }
        file.write_all_at(data, offset).map_err(|error| {
            log::debug!("DMA to a file failed: {error}");
            FaultCause::Io
        })
    }
}
