//! The device's side of DMA: the windows that a driver opened to a function, and every access of the
//! function checked against them.
//!
//! The data path takes an [`AddressSpace::enter`] guard per burst and moves bytes through it; closing
//! a window waits until the guards that were there have gone, so that nothing is in flight
//! afterwards.
//!
//! What a client may hand in and what becomes of it:
//! - a memory file (memfd, huge pages) that is sealed against shrinking is mapped, once per file
//!   and access mode, however many windows lie in it;
//! - another file in memory or on a local disk is read and written by system calls, since touching
//!   a mapping of a file that was truncated is a fatal signal;
//! - for anything else (no file, a file system that another process serves) the client is asked by
//!   message, which can be cancelled.

mod fault;
mod guard;
mod messages;
mod window;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use nix::errno::Errno;
use vfio_user::device::{DmaAccess, DmaClient, DmaWindow};

pub use self::fault::{CopyFault, DmaFault, FaultCause};
pub use self::guard::{Guard, copy};
use self::messages::Messages;
use self::window::{Backing, Plan, Target, Window, Windows, plan};
use crate::iova::last_address;
use crate::memory::{Inspection, MapAccess, MemoryError};
use crate::pci::{Rid, touches_msi_window};

/// What one client may take of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Windows. The protocol's own limit is 65535.
    pub windows: usize,
    /// Files held, each of which costs a descriptor and at most one mapping.
    pub files: usize,
    /// Bytes mapped.
    pub bytes: u64,
}

impl Default for Quota {
    /// All windows of the protocol, 256 files, 1 TiB: more than any machine's memory layout needs,
    /// and a small part of what a process has.
    fn default() -> Self {
        Self {
            windows: 65535,
            files: 256,
            bytes: 1 << 40,
        }
    }
}

/// What a client takes at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Windows.
    pub windows: usize,
    /// Files held.
    pub files: usize,
    /// Bytes mapped.
    pub bytes: u64,
}

/// A window that a client asks for, checked as far as that is possible without the other windows.
///
/// To look at a descriptor of somebody else's, and to close it, may take for ever: the file system
/// may be a process of theirs, or the socket linger. So it is done before any lock is taken that others
/// wait for; a file that is kept is one of this kernel's own.
#[derive(Debug)]
pub struct InspectedWindow {
    iova: u64,
    last: u64,
    access: DmaAccess,
    /// `None`: the client is asked by message.
    file: Option<InspectedFile>,
}

#[derive(Debug)]
struct InspectedFile {
    file: OwnedFd,
    offset: u64,
    inspection: Inspection,
    key: window::Key,
}

impl InspectedWindow {
    /// Inspect a window.
    ///
    /// # Errors
    /// `EINVAL`: size 0, wraps, no access at all, touches the MSI window, or beyond the file's end;
    /// `EACCES`: the file does not permit the access.
    pub fn of(window: DmaWindow) -> Result<Self, Errno> {
        let DmaWindow {
            iova,
            size,
            access,
            file,
        } = window;
        let last = last_address(iova, size).ok_or(Errno::EINVAL)?;
        if access.is_empty() || touches_msi_window(iova, last) {
            return Err(Errno::EINVAL);
        }
        let mut inspected = Self {
            iova,
            last,
            access,
            file: None,
        };
        let Some((file, offset)) = file else {
            return Ok(inspected);
        };
        let mode = if access.contains(DmaAccess::WRITE) {
            MapAccess::ReadWrite
        } else {
            MapAccess::ReadOnly
        };
        let inspection = Inspection::of(file.as_fd()).map_err(|error| errno_of(&error))?;
        if let Plan::Backing(key) = plan(&inspection, offset, size, mode)? {
            inspected.file = Some(InspectedFile {
                file,
                offset,
                inspection,
                key,
            });
        }
        Ok(inspected)
    }
}

/// The DMA windows of one function.
///
/// [`Self::map`] and its like come from the client's connection. They wait for guards, so a thread
/// that holds a [`Guard`] of this space must not call them.
pub struct AddressSpace {
    requester: Rid,
    quota: Quota,
    windows: RwLock<Windows>,
    /// Held by whoever changes windows, so that the lock above is taken for the change alone.
    files: Mutex<Vec<Arc<Backing>>>,
    bus_master: AtomicBool,
    messages: Messages,
    counters: fault::Counters,
}

impl AddressSpace {
    /// A space without windows, with bus mastering off, as after a reset. `requester` is who its
    /// faults name.
    pub fn new(requester: Rid, quota: Quota) -> Self {
        Self {
            requester,
            quota,
            windows: RwLock::default(),
            files: Mutex::default(),
            bus_master: AtomicBool::new(false),
            messages: Messages::default(),
            counters: fault::Counters::default(),
        }
    }

    /// Who its faults name.
    pub fn requester(&self) -> Rid {
        self.requester
    }

    /// A client has connected; `client` reaches its memory by message.
    pub fn connect(&self, client: Arc<dyn DmaClient>) {
        self.messages.set_client(Some(client));
    }

    /// The client is gone, and all its windows with it.
    pub fn disconnect(&self) {
        self.unmap_all();
        self.messages.set_client(None);
    }

    /// Open a window.
    ///
    /// # Errors
    /// Those of [`InspectedWindow::of`]; `EEXIST`: overlaps a window; `ENOSPC`: a quota is used up;
    /// `ENOMEM` and others: the system could not map it.
    pub fn map(&self, window: DmaWindow) -> Result<(), Errno> {
        self.map_inspected(InspectedWindow::of(window)?)
    }

    /// As [`Self::map`], with the inspection done.
    pub fn map_inspected(&self, window: InspectedWindow) -> Result<(), Errno> {
        let InspectedWindow {
            iova,
            last,
            access,
            file,
        } = window;
        let mut files = self.files();
        let (count, overlap) = {
            let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
            (windows.len(), windows.overlaps(iova, last))
        };
        if overlap {
            return Err(Errno::EEXIST);
        }
        if count >= self.quota.windows {
            return Err(Errno::ENOSPC);
        }
        let target = match file {
            None => Target::Messages,
            Some(InspectedFile {
                file,
                offset,
                inspection,
                key,
            }) => {
                // The inspection has checked that this does not wrap.
                let end = offset + (last - iova) + 1;
                let known = files.iter().find(|known| known.serves(&key, end));
                let backing = match known {
                    Some(backing) => backing.clone(),
                    None => {
                        let backing = self.hold(&files, file, &inspection, key)?;
                        files.push(backing.clone());
                        backing
                    }
                };
                Target::File { backing, offset }
            }
        };
        let window = Window {
            first: iova,
            last,
            access,
            target,
        };
        self.change().insert(window);
        Ok(())
    }

    /// A new backing, if the quota has room for it.
    fn hold(
        &self,
        files: &[Arc<Backing>],
        file: OwnedFd,
        inspection: &Inspection,
        key: window::Key,
    ) -> Result<Arc<Backing>, Errno> {
        let bytes: u64 = files.iter().map(|file| file.mapped_bytes()).sum();
        let more = if inspection.can_map(0, inspection.size, key.access()) {
            inspection.size
        } else {
            0
        };
        let fits = bytes
            .checked_add(more)
            .is_some_and(|bytes| bytes <= self.quota.bytes);
        if files.len() >= self.quota.files || !fits {
            return Err(Errno::ENOSPC);
        }
        Backing::new(file, inspection, key)
            .map(Arc::new)
            .map_err(|error| errno_of(&error))
    }

    /// Close every window inside `iova .. iova + size`: usually one, but a client behind an I/O MMU
    /// of its own takes many back at once, or sweeps ranges where there is none, as a kernel's
    /// container lets it. When this returns, no access to them is in flight.
    ///
    /// # Errors
    /// `EINVAL`: no bytes, or the range wraps; a window reaches over an end of it, and none is closed.
    pub fn unmap(&self, iova: u64, size: u64) -> Result<(), Errno> {
        let last = last_address(iova, size).ok_or(Errno::EINVAL)?;
        let mut files = self.files();
        let closed = self.change().remove(iova, last)?;
        for window in closed {
            match window.target {
                Target::Messages => self.messages.drain(window.first, window.last),
                Target::File { backing, .. } => {
                    // The list and this one hold it: nobody else does any more.
                    if Arc::strong_count(&backing) == 2 {
                        files.retain(|other| !Arc::ptr_eq(other, &backing));
                    }
                }
            }
        }
        Ok(())
    }

    /// Close every window. When this returns, no access is in flight.
    pub fn unmap_all(&self) {
        let mut files = self.files();
        let windows = std::mem::take(&mut *self.change());
        self.messages.drain(0, u64::MAX);
        files.clear();
        drop(windows);
    }

    /// Bus Master Enable of the function. While it is off every access faults. When turning it off
    /// returns, no access is in flight.
    pub fn set_bus_master(&self, on: bool) {
        let was = self.bus_master.swap(on, Ordering::SeqCst);
        if was && !on {
            // Accesses begun before have a guard, or are messages.
            drop(self.change());
            self.messages.drain(0, u64::MAX);
        }
    }

    /// Whether bus mastering is on.
    pub fn bus_master(&self) -> bool {
        self.bus_master.load(Ordering::Acquire)
    }

    /// Begin a burst of accesses. Windows are not closed while the guard lives, so hold it for one
    /// bounded burst; a thread holds at most one guard of a space at a time, or it could wait for
    /// itself.
    pub fn enter(&self) -> Guard<'_> {
        Guard::new(self)
    }

    /// Read memory of the client's: [`Guard::read`] for a single access.
    pub fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), DmaFault> {
        self.enter().read(iova, data)
    }

    /// Write memory of the client's: [`Guard::write`] for a single access.
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.enter().write(iova, data)
    }

    /// [`Guard::store_u64_release`] for a single access.
    pub fn store_u64_release(&self, iova: u64, value: u64) -> Result<(), DmaFault> {
        self.enter().store_u64_release(iova, value)
    }

    /// How many accesses faulted for `cause`.
    pub fn faults(&self, cause: FaultCause) -> u64 {
        self.counters.get(cause)
    }

    /// What the client takes of this process.
    pub fn usage(&self) -> Usage {
        let files = self.files();
        Usage {
            windows: self
                .windows
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .len(),
            files: files.len(),
            bytes: files.iter().map(|file| file.mapped_bytes()).sum(),
        }
    }

    fn files(&self) -> MutexGuard<'_, Vec<Arc<Backing>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for the guards there are, and keep new ones out.
    fn change(&self) -> RwLockWriteGuard<'_, Windows> {
        self.windows.write().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    fn fault(&self, iova: u64, len: usize, access: DmaAccess, cause: FaultCause) -> DmaFault {
        self.counters.count(cause);
        let fault = DmaFault {
            requester: self.requester,
            iova,
            len,
            access,
            cause,
        };
        log::debug!("{fault}");
        fault
    }
}

fn errno_of(error: &MemoryError) -> Errno {
    match error {
        MemoryError::Inspect(errno) => *errno,
        MemoryError::TooLarge { .. } | MemoryError::NotMappable | MemoryError::Empty => {
            Errno::EINVAL
        }
        _ => Errno::ENOMEM,
    }
}

#[cfg(test)]
mod tests;
