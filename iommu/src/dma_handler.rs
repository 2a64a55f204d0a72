//! Answers the DMA messages of functions that cannot use a container's files.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;
use vfio_user::client::{DmaHandler, DmaReply};
use vfio_user::device::DmaAccess;

use crate::memory::SharedMemory;

/// What a container has mapped, by address.
#[derive(Default)]
pub(crate) struct MappedMemory {
    windows: RwLock<BTreeMap<u64, Window>>,
}

struct Window {
    access: DmaAccess,
    memory: Arc<SharedMemory>,
}

impl MappedMemory {
    pub(crate) fn insert(&self, iova: u64, access: DmaAccess, memory: Arc<SharedMemory>) {
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        windows.insert(iova, Window { access, memory });
    }

    pub(crate) fn remove(&self, iova: u64) {
        self.windows
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&iova);
    }

    /// Call `each` with memory, offset in it and part of the range, window after window. `EFAULT`
    /// before the first call if any of the range is not mapped for `access`.
    fn walk(
        &self,
        iova: u64,
        len: usize,
        access: DmaAccess,
        mut each: impl FnMut(&SharedMemory, usize, std::ops::Range<usize>),
    ) -> Result<(), Errno> {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        let part = |done: usize| -> Result<(&SharedMemory, usize, usize), Errno> {
            let at = iova.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let (&first, window) = windows.range(..=at).next_back().ok_or(Errno::EFAULT)?;
            let offset = usize::try_from(at - first).map_err(|_| Errno::EFAULT)?;
            let room = window
                .memory
                .len()
                .checked_sub(offset)
                .filter(|&room| room != 0);
            let room = room
                .filter(|_| window.access.contains(access))
                .ok_or(Errno::EFAULT)?;
            Ok((&window.memory, offset, room.min(len - done)))
        };
        let mut done = 0;
        while done < len {
            done += part(done)?.2;
        }
        done = 0;
        while done < len {
            let (memory, offset, count) = part(done)?;
            each(memory, offset, done..done + count);
            done += count;
        }
        Ok(())
    }
}

impl DmaHandler for MappedMemory {
    fn dma_read(&self, iova: u64, len: usize, reply: DmaReply) {
        let mut data = vec![0; len];
        let walked = self.walk(iova, len, DmaAccess::READ, |memory, offset, range| {
            memory.read(offset, &mut data[range]);
        });
        match walked {
            Ok(()) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn dma_write(&self, iova: u64, data: &[u8], reply: DmaReply) {
        let walked = self.walk(
            iova,
            data.len(),
            DmaAccess::WRITE,
            |memory, offset, range| {
                memory.write(offset, &data[range]);
            },
        );
        match walked {
            Ok(()) => reply.done(),
            Err(errno) => reply.error(errno),
        }
    }
}
