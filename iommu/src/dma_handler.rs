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

    /// The memory at `iova .. iova + len` and the offset in it. `EFAULT` if that is not all in one
    /// mapping that permits `access`.
    fn find(
        &self,
        iova: u64,
        len: usize,
        access: DmaAccess,
    ) -> Result<(Arc<SharedMemory>, usize), Errno> {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        let (&first, window) = windows.range(..=iova).next_back().ok_or(Errno::EFAULT)?;
        let offset = usize::try_from(iova - first).map_err(|_| Errno::EFAULT)?;
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= window.memory.len());
        if !inside || !window.access.contains(access) {
            return Err(Errno::EFAULT);
        }
        Ok((window.memory.clone(), offset))
    }
}

impl DmaHandler for MappedMemory {
    fn dma_read(&self, iova: u64, len: usize, reply: DmaReply) {
        match self.find(iova, len, DmaAccess::READ) {
            Ok((memory, offset)) => {
                let mut data = vec![0; len];
                memory.read(offset, &mut data);
                reply.data(&data);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn dma_write(&self, iova: u64, data: &[u8], reply: DmaReply) {
        match self.find(iova, data.len(), DmaAccess::WRITE) {
            Ok((memory, offset)) => {
                memory.write(offset, data);
                reply.done();
            }
            Err(errno) => reply.error(errno),
        }
    }
}
