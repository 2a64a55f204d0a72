//! DMA buffers: owned by the CPU first, then shared with functions.
//!
//! While the CPU owns a buffer it is private memory, and ordinary references to it are fine. Sharing
//! consumes it, and what is left, [`SharedDma`], has copies and atomics only.

use std::ops::Deref;
use std::sync::Arc;

use vfio_user::device::DmaAccess;

use crate::container::{Container, ContainerError};
use crate::memory::SharedMemory;

/// A buffer that only this process sees.
pub struct DmaBuffer {
    container: Arc<Container>,
    len: usize,
    /// Allocated at the first touch: most buffers are shared while all zero.
    content: Option<Box<[u8]>>,
}

impl DmaBuffer {
    pub(crate) fn new(container: Arc<Container>, len: usize) -> Self {
        Self {
            container,
            len,
            content: None,
        }
    }

    /// Bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes; never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The content.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.content
            .get_or_insert_with(|| vec![0; self.len].into_boxed_slice())
    }

    /// Share it for reading and writing.
    pub fn share(self) -> Result<SharedDma, ContainerError> {
        self.share_for(DmaAccess::READ | DmaAccess::WRITE)
    }

    /// Share it for `access`: the buffer is mapped for every function of the container.
    pub fn share_for(self, access: DmaAccess) -> Result<SharedDma, ContainerError> {
        let memory = SharedMemory::create_sealed("dma", self.len)?;
        if let Some(content) = &self.content {
            memory.write(0, content);
        }
        self.container.share(memory, access)
    }
}

/// A buffer that functions can reach at [`Self::iova`], whose memory is a [`SharedMemory`]. Dropping
/// it unmaps it.
pub struct SharedDma {
    container: Arc<Container>,
    iova: u64,
    memory: Arc<SharedMemory>,
}

impl SharedDma {
    pub(crate) fn new(container: Arc<Container>, iova: u64, memory: Arc<SharedMemory>) -> Self {
        Self {
            container,
            iova,
            memory,
        }
    }

    /// Where functions find the first byte.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Unmap it from every function and take the content back. A function that kept the memory
    /// mapped regardless changes nothing in the copy.
    pub fn unshare(self) -> DmaBuffer {
        self.container.unmap(self.iova, &self.memory);
        let mut buffer = DmaBuffer::new(self.container.clone(), self.memory.len());
        self.memory.read(0, buffer.as_mut_slice());
        buffer
    }
}

impl Deref for SharedDma {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.memory
    }
}

impl Drop for SharedDma {
    fn drop(&mut self) {
        self.container.unmap(self.iova, &self.memory);
    }
}
