//! One I/O address space, the functions in it, and the memory mapped for all of them.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use vfio_user::device::DmaAccess;

use crate::dma_buffer::{DmaBuffer, SharedDma};
use crate::dma_handler::MappedMemory;
use crate::function::{Function, FunctionError};
use crate::iova::{IovaAllocator, IovaError};
use crate::memory::{MemoryError, PAGE_SIZE, SharedMemory};

/// Bytes after each buffer where nothing is mapped: a function that runs over the end of a buffer
/// faults, and does not write into the next one.
const GUARD: u64 = PAGE_SIZE as u64;

/// Why a container could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The function is in this container already.
    #[error("the function is attached already")]
    AlreadyAttached,
    /// The function is not in this container.
    #[error("the function is not attached to this container")]
    NotAttached,
    /// No memory.
    #[error("DMA memory could not be made")]
    Memory(#[from] MemoryError),
    /// No I/O virtual addresses.
    #[error("no I/O virtual addresses for the buffer")]
    Iova(#[from] IovaError),
    /// A function that cannot be reached at an address where the container has memory already.
    #[error(
        "the function cannot reach {size:#x} bytes at IOVA {iova:#x}, where the container has \
         memory already; attach it first"
    )]
    OutOfReach {
        /// First I/O virtual address.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// A function did not take the mapping; none has it now.
    #[error("{size:#x} bytes at IOVA {iova:#x} could not be mapped for a function")]
    Map {
        /// First I/O virtual address.
        iova: u64,
        /// Bytes.
        size: u64,
        /// What the function answered.
        #[source]
        source: FunctionError,
    },
}

/// What of the I/O address space a container may use.
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    /// Addresses to allocate from. The MSI window is never used, whatever this says.
    pub usable: RangeInclusive<u64>,
    /// Windows in it to stay clear of.
    pub reserved: Vec<RangeInclusive<u64>>,
}

impl Default for ContainerOptions {
    /// From 1 MiB to the top of a 39-bit space, the least that an IOMMU of today translates.
    fn default() -> Self {
        Self {
            usable: 0x10_0000..=(1 << 39) - 1,
            reserved: Vec::new(),
        }
    }
}

/// A driver's I/O address space.
///
/// Functions are attached to it; every buffer is mapped for all of them at one address. A function
/// that is attached late gets what is mapped already; one that is lost is skipped. A function that
/// cannot use the memory's file is answered by message.
pub struct Container {
    state: Mutex<State>,
    /// Apart from the state: it is asked while a function is being given a mapping.
    memory: Arc<MappedMemory>,
}

struct State {
    iova: IovaAllocator,
    functions: Vec<Arc<dyn Function>>,
    mappings: Vec<Mapping>,
}

struct Mapping {
    iova: u64,
    size: u64,
    access: DmaAccess,
    memory: Arc<SharedMemory>,
}

impl Container {
    /// A container with no function and no mapping.
    pub fn new(options: ContainerOptions) -> Arc<Self> {
        let mut iova = IovaAllocator::new(options.usable);
        for window in options.reserved {
            iova.reserve(window);
        }
        let state = State {
            iova,
            functions: Vec::new(),
            mappings: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            memory: Arc::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state whole at each step, so a panic elsewhere is no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attach a function and map for it what the container holds; from now on addresses are only
    /// given out that it can reach. On failure it is not attached and has no mapping.
    pub fn attach(&self, function: Arc<dyn Function>) -> Result<(), ContainerError> {
        let mut state = self.state();
        if state.position(&function).is_some() {
            return Err(ContainerError::AlreadyAttached);
        }
        let beyond = gaps(&function.iova_ranges());
        for &Mapping { iova, size, .. } in &state.mappings {
            let last = iova + (size - 1);
            if beyond
                .iter()
                .any(|gap| iova <= *gap.end() && *gap.start() <= last)
            {
                return Err(ContainerError::OutOfReach { iova, size });
            }
        }
        for gap in beyond {
            state.iova.reserve(gap);
        }
        function.set_dma_handler(self.memory.clone());
        for mapping in &state.mappings {
            if let Err(source) = mapping.map_for(function.as_ref()) {
                unmap_everything(function.as_ref());
                let Mapping { iova, size, .. } = *mapping;
                return Err(ContainerError::Map { iova, size, source });
            }
        }
        state.functions.push(function);
        Ok(())
    }

    /// Detach a function: nothing is mapped for it any more.
    pub fn detach(&self, function: &Arc<dyn Function>) -> Result<(), ContainerError> {
        let mut state = self.state();
        let position = state
            .position(function)
            .ok_or(ContainerError::NotAttached)?;
        let function = state.functions.swap_remove(position);
        unmap_everything(function.as_ref());
        Ok(())
    }

    /// A CPU-owned buffer of at least `len` bytes (rounded up to whole pages), zeroed.
    pub fn alloc(self: &Arc<Self>, len: usize) -> Result<DmaBuffer, ContainerError> {
        let size = len
            .checked_next_multiple_of(PAGE_SIZE)
            .filter(|&size| size != 0)
            .ok_or(ContainerError::Iova(IovaError::Invalid {
                size: len as u64,
                align: PAGE_SIZE as u64,
            }))?;
        Ok(DmaBuffer::new(self.clone(), size))
    }

    /// Map `memory` (whole pages) at a free address for every function attached, now or later.
    pub fn share(
        self: &Arc<Self>,
        memory: SharedMemory,
        access: DmaAccess,
    ) -> Result<SharedDma, ContainerError> {
        let memory = Arc::new(memory);
        let size = memory.len() as u64;
        if !memory.len().is_multiple_of(PAGE_SIZE) {
            return Err(IovaError::Invalid {
                size,
                align: PAGE_SIZE as u64,
            }
            .into());
        }
        let mut state = self.state();
        let iova = state.iova.allocate(size + GUARD, PAGE_SIZE as u64)?;
        let mapping = Mapping {
            iova,
            size,
            access,
            memory: memory.clone(),
        };
        self.memory.insert(iova, access, memory.clone());
        for done in 0..state.functions.len() {
            let Err(source) = mapping.map_for(state.functions[done].as_ref()) else {
                continue;
            };
            self.memory.remove(iova);
            // One that refused has no mapping; of any other failure that is not known.
            let refused = matches!(
                source,
                FunctionError::Refused { .. }
                    | FunctionError::Memory { .. }
                    | FunctionError::Limit { .. }
            );
            let tried = if refused { done } else { done + 1 };
            if mapping.unmap_for(&state.functions[..tried]) {
                state.release(iova, size);
            }
            return Err(ContainerError::Map { iova, size, source });
        }
        state.mappings.push(mapping);
        Ok(SharedDma::new(self.clone(), iova, memory))
    }

    /// Take a mapping away from every function; called when its buffer is dropped. Both address and
    /// memory must fit: the address may have been given out again.
    pub(crate) fn unmap(&self, iova: u64, memory: &Arc<SharedMemory>) {
        let mut state = self.state();
        let found = state
            .mappings
            .iter()
            .position(|m| m.iova == iova && Arc::ptr_eq(&m.memory, memory));
        let Some(position) = found else { return };
        let mapping = state.mappings.swap_remove(position);
        self.memory.remove(iova);
        if mapping.unmap_for(&state.functions) {
            state.release(iova, mapping.size);
        }
    }
}

/// What lies between `ranges`, which are sorted.
fn gaps(ranges: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let mut gaps = Vec::new();
    let mut next = Some(0);
    for range in ranges {
        if let Some(first) = next
            && first < *range.start()
        {
            gaps.push(first..=range.start() - 1);
        }
        next = next.and_then(|next| Some(next.max(range.end().checked_add(1)?)));
    }
    gaps.extend(next.map(|first| first..=u64::MAX));
    gaps
}

/// Leave a function with nothing of a container's.
fn unmap_everything(function: &dyn Function) {
    function.set_dma_handler(Arc::new(MappedMemory::default()));
    if let Err(error) = function.dma_unmap_all()
        && !function.lost()
    {
        log::warn!("a function that leaves its container kept mappings: {error}");
    }
}

impl State {
    fn position(&self, function: &Arc<dyn Function>) -> Option<usize> {
        self.functions
            .iter()
            .position(|known| Arc::ptr_eq(known, function))
    }

    fn release(&mut self, iova: u64, size: u64) {
        if let Err(error) = self.iova.free(iova, size + GUARD) {
            log::error!("I/O address allocation out of step: {error}");
        }
    }
}

impl Mapping {
    fn map_for(&self, function: &dyn Function) -> Result<(), FunctionError> {
        // A lost function does no DMA; it must not keep the others from getting memory.
        if function.lost() {
            return Ok(());
        }
        let file = (self.memory.fd(), self.memory.fd_offset());
        match function.dma_map(self.iova, self.size, self.access, Some(file)) {
            Err(_) if function.lost() => Ok(()),
            result => result,
        }
    }

    /// Whether the address range may be used again: no live function still has the old mapping.
    fn unmap_for(&self, functions: &[Arc<dyn Function>]) -> bool {
        let mut clean = true;
        for function in functions {
            match function.dma_unmap(self.iova, self.size) {
                Ok(())
                | Err(FunctionError::Refused {
                    errno: Errno::ENOENT,
                    ..
                }) => {}
                Err(_) if function.lost() => {}
                Err(error) => {
                    log::warn!(
                        "IOVA {:#x} is retired, a function kept it: {error}",
                        self.iova
                    );
                    clean = false;
                }
            }
        }
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_the_ranges_leave() {
        let all = 0..=u64::MAX;
        assert_eq!(gaps(std::slice::from_ref(&all)), []);
        assert_eq!(gaps(&[]), [all]);
        assert_eq!(
            gaps(&[0x1000..=0x1FFF, 0x2000..=0x2FFF, 0x8000..=0xFFFF]),
            [0..=0xFFF, 0x3000..=0x7FFF, 0x1_0000..=u64::MAX]
        );
        // One inside another.
        assert_eq!(gaps(&[0..=0xFFFF, 0x10..=0x20]), [0x1_0000..=u64::MAX]);
        assert_eq!(gaps(&[0x10..=u64::MAX, 0x20..=0x30]), [0..=0xF]);
    }
}
