//! Accesses of a device to its client's memory.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{Ordering, fence};
use std::sync::{PoisonError, RwLockReadGuard};

use vfio_user::device::DmaAccess;
use vm_memory::{Bytes, VolatileSlice};

use super::messages::Data;
use super::window::{Target, Windows};
use super::{AddressSpace, CopyFault, DmaFault, FaultCause};
use crate::iova::last_address;
use crate::pci::touches_msi_window;

/// Bytes of the stack through which a copy goes that cannot be direct.
const BOUNCE: usize = 4096;

/// A burst of accesses to one address space.
///
/// An access may span windows that adjoin. The whole range is checked before the first byte moves.
/// An access that waits for the client (a window without a usable file, see
/// [`Self::is_direct`]) lets go of the windows of this guard while it waits, so that the client may
/// close them meanwhile; guards of other spaces that the thread holds are not let go.
pub struct Guard<'a> {
    space: &'a AddressSpace,
    /// `None` only while an access waits for the client.
    windows: RefCell<Option<RwLockReadGuard<'a, Windows>>>,
    /// Where the last access was.
    hint: Cell<usize>,
}

/// Who a part of an access goes to.
enum Part<'t> {
    Memory(VolatileSlice<'t>),
    /// By system call, or message.
    Slow,
}

impl<'a> Guard<'a> {
    pub(super) fn new(space: &'a AddressSpace) -> Self {
        Self {
            space,
            windows: RefCell::new(Some(lock(space))),
            hint: Cell::new(0),
        }
    }

    /// The space that the guard is of.
    pub fn space(&self) -> &'a AddressSpace {
        self.space
    }

    /// Read memory of the client's.
    #[inline]
    pub fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), DmaFault> {
        if let Some(()) = self.direct(iova, data.len(), DmaAccess::READ, |slice| {
            slice.copy_to(data);
        }) {
            return Ok(());
        }
        self.read_parts(iova, data)
    }

    /// Write memory of the client's.
    #[inline]
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaFault> {
        if let Some(()) = self.direct(iova, data.len(), DmaAccess::WRITE, |slice| {
            slice.copy_from(data);
        }) {
            return Ok(());
        }
        self.write_parts(iova, data)
    }

    /// Store eight bytes, little-endian, so that whoever sees them (with an acquire load) sees
    /// everything that was written before. Atomic where `iova` is a multiple of 8 and the memory is
    /// mapped.
    #[inline]
    pub fn store_u64_release(&self, iova: u64, value: u64) -> Result<(), DmaFault> {
        let stored = self.direct(iova, 8, DmaAccess::WRITE, |slice| {
            slice.store(value.to_le(), 0, Ordering::Release).is_ok()
        });
        if stored == Some(true) {
            return Ok(());
        }
        fence(Ordering::Release);
        self.write(iova, &value.to_le_bytes())
    }

    /// Whether all of `iova .. iova + len` lies in one mapped window: an access there neither waits
    /// for the client nor makes a system call.
    pub fn is_direct(&self, iova: u64, len: usize) -> bool {
        let windows = self.windows.borrow();
        let Some(windows) = windows.as_deref() else {
            return false;
        };
        let Some(index) = windows.find(iova, self.hint.get()) else {
            return false;
        };
        let window = windows.get(index);
        let Target::File { backing, offset } = &window.target else {
            return false;
        };
        last_address(iova, len as u64).is_some_and(|last| last <= window.last)
            && backing.slice(offset + (iova - window.first), len).is_some()
    }

    /// The common case: the range lies in one mapped window that permits the access. `None` stands
    /// for every other case.
    #[inline]
    fn direct<R>(
        &self,
        iova: u64,
        len: usize,
        access: DmaAccess,
        use_it: impl FnOnce(VolatileSlice<'_>) -> R,
    ) -> Option<R> {
        if !self.space.bus_master() {
            return None;
        }
        let windows = self.windows.borrow();
        let windows = windows.as_deref()?;
        match self.part(windows, iova, len, access)? {
            (Part::Memory(slice), whole) if whole == len => Some(use_it(slice)),
            _ => None,
        }
    }

    /// The part of `iova .. iova + len` that lies in the window of `iova`, and its length. `None` if
    /// there is no window, it does not permit the access, or `len` is 0.
    #[inline]
    fn part<'t>(
        &self,
        windows: &'t Windows,
        iova: u64,
        len: usize,
        access: DmaAccess,
    ) -> Option<(Part<'t>, usize)> {
        let index = windows.find(iova, self.hint.get())?;
        self.hint.set(index);
        let window = windows.get(index);
        if len == 0 || !window.access.contains(access) {
            return None;
        }
        let room = (window.last - iova).saturating_add(1);
        let len = usize::try_from(room).map_or(len, |room| room.min(len));
        let part = match &window.target {
            Target::File { backing, offset } => {
                match backing.slice(offset + (iova - window.first), len) {
                    Some(slice) => Part::Memory(slice),
                    None => Part::Slow,
                }
            }
            Target::Messages => Part::Slow,
        };
        Some((part, len))
    }

    /// Check a whole access before any of it is done.
    fn check(&self, iova: u64, len: usize, access: DmaAccess) -> Result<(), DmaFault> {
        let cause = self.cause(iova, len, access);
        cause.map_or(Ok(()), |cause| {
            Err(self.space.fault(iova, len, access, cause))
        })
    }

    /// Why an access cannot be done, if so.
    fn cause(&self, iova: u64, len: usize, access: DmaAccess) -> Option<FaultCause> {
        if len == 0 {
            return None;
        }
        if !self.space.bus_master() {
            return Some(FaultCause::BusMasterOff);
        }
        let last = last_address(iova, len as u64);
        if touches_msi_window(iova, last.unwrap_or(u64::MAX)) {
            return Some(FaultCause::Msi);
        }
        let windows = self.windows.borrow();
        let Some(windows) = windows.as_deref() else {
            return Some(FaultCause::Cancelled);
        };
        let mut at = iova;
        loop {
            let Some(index) = windows.find(at, self.hint.get()) else {
                let first = at == iova;
                return Some(if first {
                    FaultCause::NoWindow
                } else {
                    FaultCause::Edge
                });
            };
            let window = windows.get(index);
            if !window.access.contains(access) {
                return Some(FaultCause::Permission);
            }
            match last {
                Some(last) if last <= window.last => return None,
                _ => {}
            }
            // Past the top of the address space there is no window.
            let Some(next) = window.last.checked_add(1) else {
                return Some(FaultCause::Edge);
            };
            at = next;
        }
    }

    #[cold]
    fn read_parts(&self, iova: u64, data: &mut [u8]) -> Result<(), DmaFault> {
        self.check(iova, data.len(), DmaAccess::READ)?;
        let len = data.len();
        let mut done = 0;
        while done < len {
            done += self
                .one_part(iova + done as u64, Data::Read(&mut data[done..]), None)
                .map_err(|cause| self.space.fault(iova, len, DmaAccess::READ, cause))?;
        }
        Ok(())
    }

    #[cold]
    fn write_parts(&self, iova: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.check(iova, data.len(), DmaAccess::WRITE)?;
        let mut done = 0;
        while done < data.len() {
            done += self
                .one_part(iova + done as u64, Data::Write(&data[done..]), None)
                .map_err(|cause| self.space.fault(iova, data.len(), DmaAccess::WRITE, cause))?;
        }
        Ok(())
    }

    /// Do the part of an access that lies in the first window, and say how long it was. Should it
    /// have to wait for the client, this guard and `other` let go meanwhile; the windows are looked up
    /// anew for every part, so nothing is assumed of them afterwards.
    fn one_part(
        &self,
        iova: u64,
        data: Data<'_>,
        other: Option<&Guard<'_>>,
    ) -> Result<usize, FaultCause> {
        let access = match data {
            Data::Read(_) => DmaAccess::READ,
            Data::Write(_) => DmaAccess::WRITE,
        };
        let (message, len) = {
            let windows = self.windows.borrow();
            let windows = windows.as_deref().ok_or(FaultCause::Cancelled)?;
            // It was there when the access was checked.
            let (_, len) = self
                .part(windows, iova, data.len(), access)
                .ok_or(FaultCause::Cancelled)?;
            let window = windows.get(self.hint.get());
            match &window.target {
                Target::File { backing, offset } => {
                    let offset = offset + (iova - window.first);
                    match data {
                        Data::Read(data) => backing.read(offset, &mut data[..len])?,
                        Data::Write(data) => backing.write(offset, &data[..len])?,
                    }
                    return Ok(len);
                }
                Target::Messages => {
                    let last = iova + (len as u64 - 1);
                    (self.space.messages.begin(iova, last)?, len)
                }
            }
        };
        self.windows.replace(None);
        if let Some(other) = other {
            other.windows.replace(None);
        }
        let result = message.send(match data {
            Data::Read(data) => Data::Read(&mut data[..len]),
            Data::Write(data) => Data::Write(&data[..len]),
        });
        self.resume();
        if let Some(other) = other {
            other.resume();
        }
        result.map(|()| len)
    }

    fn resume(&self) {
        let mut windows = self.windows.borrow_mut();
        if windows.is_none() {
            *windows = Some(lock(self.space));
        }
    }
}

fn lock(space: &AddressSpace) -> RwLockReadGuard<'_, Windows> {
    space.windows.read().unwrap_or_else(PoisonError::into_inner)
}

/// Copy `len` bytes from one client's memory straight into another's (or the same one's, in which
/// case both guards are one). Overlapping ranges in different windows give any mix of old and new.
#[inline]
pub fn copy(
    from: &Guard<'_>,
    from_iova: u64,
    to: &Guard<'_>,
    to_iova: u64,
    len: usize,
) -> Result<(), CopyFault> {
    let copied = from.direct(from_iova, len, DmaAccess::READ, |source| {
        to.direct(to_iova, len, DmaAccess::WRITE, |target| {
            source.copy_to_volatile_slice(target)
        })
    });
    if let Some(Some(())) = copied {
        return Ok(());
    }
    copy_parts(from, from_iova, to, to_iova, len)
}

#[cold]
fn copy_parts(
    from: &Guard<'_>,
    from_iova: u64,
    to: &Guard<'_>,
    to_iova: u64,
    len: usize,
) -> Result<(), CopyFault> {
    from.check(from_iova, len, DmaAccess::READ)
        .map_err(CopyFault::Source)?;
    to.check(to_iova, len, DmaAccess::WRITE)
        .map_err(CopyFault::Destination)?;
    let mut bounce = [0; BOUNCE];
    let mut done = 0;
    while done < len {
        let (source, target) = (from_iova + done as u64, to_iova + done as u64);
        if let Some(part) = copy_direct_part(from, source, to, target, len - done) {
            done += part;
            continue;
        }
        let bounce = &mut bounce[..BOUNCE.min(len - done)];
        let fault =
            |guard: &Guard<'_>, iova, access, cause| guard.space.fault(iova, len, access, cause);
        let part = from
            .one_part(source, Data::Read(bounce), Some(to))
            .map_err(|cause| CopyFault::Source(fault(from, from_iova, DmaAccess::READ, cause)))?;
        let mut moved = 0;
        while moved < part {
            let data = Data::Write(&bounce[moved..part]);
            moved += to
                .one_part(target + moved as u64, data, Some(from))
                .map_err(|cause| {
                    CopyFault::Destination(fault(to, to_iova, DmaAccess::WRITE, cause))
                })?;
        }
        done += part;
    }
    Ok(())
}

/// Copy as much as is mapped in one piece on both sides. `None` if the next byte is not.
fn copy_direct_part(
    from: &Guard<'_>,
    from_iova: u64,
    to: &Guard<'_>,
    to_iova: u64,
    len: usize,
) -> Option<usize> {
    let (from_windows, to_windows) = (from.windows.borrow(), to.windows.borrow());
    let source = from.part(from_windows.as_deref()?, from_iova, len, DmaAccess::READ)?;
    let target = to.part(to_windows.as_deref()?, to_iova, len, DmaAccess::WRITE)?;
    let ((Part::Memory(source), from_len), (Part::Memory(target), to_len)) = (source, target)
    else {
        return None;
    };
    source.copy_to_volatile_slice(target);
    Some(from_len.min(to_len))
}
