//! Registers of a function, by type: `regs.read::<STATUS>()?.has(STATUS::LU)`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use igb::{Register, Value};
use iommu::function::{Function, FunctionError};
use iommu::memory::{MapAccess, SharedMemory};

use crate::DriverError;

/// Index of BAR0 among the regions of a function, as VFIO counts them.
pub const BAR0: u32 = 0;
/// Index of configuration space among the regions of a function, as VFIO counts them.
pub const CONFIG: u32 = 7;

/// Access to the registers in BAR0 of one function.
///
/// Where the function offers pages of BAR0 as shared memory (the queue pages), accesses to them are
/// loads and stores; all others go through the function. Callers cannot tell which, but by time, and
/// never trust what they read.
pub struct Registers {
    function: Arc<dyn Function>,
    windows: Vec<Window>,
}

struct Window {
    first: u32,
    memory: SharedMemory,
}

impl Registers {
    /// Prepares access to BAR0, which must have `needed` bytes at least, and maps the pages of it
    /// that can be mapped.
    ///
    /// # Errors
    ///
    /// The function is gone, or BAR0 is too small.
    pub fn new(function: Arc<dyn Function>, needed: u32) -> Result<Self, DriverError> {
        let windows = map_windows(function.as_ref(), needed)?;
        Ok(Self { function, windows })
    }

    /// Asks for the region anew, after a reset that replaced its shared pages.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn remap(&mut self, needed: u32) -> Result<(), DriverError> {
        self.windows = map_windows(self.function.as_ref(), needed)?;
        Ok(())
    }

    /// The function behind.
    #[must_use]
    pub fn function(&self) -> &Arc<dyn Function> {
        &self.function
    }

    /// Whether the register is reached by loads and stores.
    #[must_use]
    pub fn is_shared<R: Register>(&self, index: u32) -> bool {
        self.shared(R::offset(index)).is_some()
    }

    /// Reads a register that is no array.
    ///
    /// # Errors
    ///
    /// The function is gone, or did not answer.
    pub fn read<R: Register>(&self) -> Result<Value<R>, FunctionError> {
        self.read_at(0)
    }

    /// Reads element `index` of a register array.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn read_at<R: Register>(&self, index: u32) -> Result<Value<R>, FunctionError> {
        self.load(R::offset(index)).map(Value::from_raw)
    }

    /// Writes a register that is no array; the card has seen it when this returns.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn write<R: Register>(&self, value: Value<R>) -> Result<(), FunctionError> {
        self.write_at(0, value)
    }

    /// Writes element `index` of a register array; the card has seen it when this returns.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn write_at<R: Register>(&self, index: u32, value: Value<R>) -> Result<(), FunctionError> {
        self.store(R::offset(index), value.raw())
    }

    /// Writes a register in order with all other accesses, but without waiting for the card.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn post<R: Register>(&self, value: Value<R>) -> Result<(), FunctionError> {
        self.post_at(0, value)
    }

    /// Writes element `index` in order with all other accesses, but without waiting for the card.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn post_at<R: Register>(&self, index: u32, value: Value<R>) -> Result<(), FunctionError> {
        let offset = R::offset(index);
        if let Some((memory, at)) = self.shared(offset) {
            memory.store_u32(at, value.raw(), Ordering::Release);
            return Ok(());
        }
        self.function
            .post(BAR0, offset.into(), &value.raw().to_le_bytes())
    }

    /// Writes a register through the function even where it lies in shared memory; the card has seen
    /// it, and all that was stored before, when this returns.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn write_trapped<R: Register>(
        &self,
        index: u32,
        value: Value<R>,
    ) -> Result<(), FunctionError> {
        self.function
            .write(BAR0, R::offset(index).into(), &value.raw().to_le_bytes())
    }

    /// Whether the dword at `offset` of BAR0 is reached by loads and stores.
    #[must_use]
    pub fn is_shared_at(&self, offset: u32) -> bool {
        self.shared(offset).is_some()
    }

    /// Changes a register: read, `change`, write.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn update<R: Register>(
        &self,
        index: u32,
        change: impl FnOnce(Value<R>) -> Value<R>,
    ) -> Result<(), FunctionError> {
        let value = self.read_at::<R>(index)?;
        self.write_at(index, change(value))
    }

    /// Reads the dword at `offset` of BAR0.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn load(&self, offset: u32) -> Result<u32, FunctionError> {
        if let Some((memory, at)) = self.shared(offset) {
            return Ok(memory.load_u32(at, Ordering::Acquire));
        }
        let mut data = [0; 4];
        self.function.read(BAR0, offset.into(), &mut data)?;
        Ok(u32::from_le_bytes(data))
    }

    /// Writes the dword at `offset` of BAR0.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn store(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        if let Some((memory, at)) = self.shared(offset) {
            memory.store_u32(at, value, Ordering::Release);
            return Ok(());
        }
        self.function
            .write(BAR0, offset.into(), &value.to_le_bytes())
    }

    /// The shared memory that holds `offset`, if a page of it does, and where in it.
    #[inline]
    fn shared(&self, offset: u32) -> Option<(&SharedMemory, usize)> {
        self.windows.iter().find_map(|window| {
            let at = offset.checked_sub(window.first)? as usize;
            (at + 4 <= window.memory.len()).then_some((&window.memory, at))
        })
    }
}

/// Maps the parts of BAR0 that the function offers; one that cannot be mapped stays trapped.
fn map_windows(function: &dyn Function, needed: u32) -> Result<Vec<Window>, DriverError> {
    let region = function.region(BAR0)?;
    if region.size < u64::from(needed) {
        return Err(DriverError::Bar {
            found: region.size,
            needed: needed.into(),
        });
    }
    let mut windows = Vec::new();
    let Some(fd) = &region.fd else {
        return Ok(windows);
    };
    for area in &region.sparse {
        let inside = area
            .offset
            .checked_add(area.size)
            .is_some_and(|end| end <= region.size);
        let (Ok(first), Ok(size), true) = (
            u32::try_from(area.offset),
            usize::try_from(area.size),
            inside,
        ) else {
            log::warn!("BAR0 offers {area:?} outside itself; not mapped");
            continue;
        };
        let mapped = fd
            .try_clone()
            .map_err(|error| error.to_string())
            .and_then(|fd| {
                let offset = region.fd_offset.saturating_add(area.offset);
                SharedMemory::map(fd, offset, size, MapAccess::ReadWrite)
                    .map_err(|error| error.to_string())
            });
        match mapped {
            Ok(memory) => windows.push(Window { first, memory }),
            Err(error) => log::warn!("BAR0 from {first:#x} on stays trapped: {error}"),
        }
    }
    Ok(windows)
}
