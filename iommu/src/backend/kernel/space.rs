//! Where windows are: a container, or an I/O address space of iommufd; of one function, or of several
//! that see the same windows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iommufd_ioctls::IommufdError;
use nix::errno::Errno;
use vfio_ioctls::{VfioContainer, VfioError, VfioIommufd};
use vfio_user::device::DmaAccess;

use super::dirty::{DirtyTracking, Piece};
use super::info::IommuInfo;
use super::lent::Lent;
use super::page_table::Tables;
use super::sys;

/// How the kernel has it.
pub(super) enum Kind {
    /// By groups.
    Container(VfioContainer),
    /// By iommufd.
    Iommufd(VfioIommufd),
}

/// What a window opens. Two of one address must be alike in all of it to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Opened {
    size: usize,
    access: DmaAccess,
    /// Device and inode of the file, and where in it the window begins.
    file: (u64, u64, u64),
}

/// How many functions have each window.
#[derive(Debug, Default)]
struct Users(BTreeMap<u64, (Opened, usize)>);

impl Users {
    /// One more function has a window; `true` if it is the first, and the kernel is to be told.
    fn enter(&mut self, iova: u64, opened: Opened) -> Result<bool, Errno> {
        match self.0.get_mut(&iova) {
            None => {
                self.0.insert(iova, (opened, 1));
                Ok(true)
            }
            Some((there, users)) if *there == opened => {
                *users += 1;
                Ok(false)
            }
            Some(_) => Err(Errno::EEXIST),
        }
    }

    /// Whether nobody but this function has a window.
    fn is_last(&self, iova: u64) -> bool {
        self.0.get(&iova).is_none_or(|(_, users)| *users <= 1)
    }

    /// One function less has it.
    fn leave(&mut self, iova: u64) {
        if self.is_last(iova) {
            self.0.remove(&iova);
        } else if let Some((_, users)) = self.0.get_mut(&iova) {
            *users -= 1;
        }
    }
}

/// An I/O address space.
pub(super) struct Space {
    pub(super) kind: Kind,
    users: Mutex<Users>,
    /// Page tables in it that its devices have, where iommufd is used.
    pub(super) tables: Tables,
    /// A function has dirty pages tracked.
    tracked: AtomicBool,
}

impl Space {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            users: Mutex::default(),
            tables: Tables::default(),
            tracked: AtomicBool::new(false),
        }
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open a window for one more function.
    pub(super) fn map(&self, iova: u64, memory: &Lent<'_>) -> Result<(), Errno> {
        let access = memory.access();
        let opened = Opened {
            size: memory.size(),
            access,
            file: memory.place(),
        };
        let mut users = self.users();
        if !users.enter(iova, opened)? {
            return Ok(());
        }
        let mapped = memory.mapped().and_then(|memory| match &self.kind {
            Kind::Container(container) => sys::map(sys::borrow(container), iova, &memory, access),
            Kind::Iommufd(space) => sys::ioas_map(space, iova, &memory, access),
        });
        if mapped.is_err() {
            users.leave(iova);
        }
        mapped
    }

    /// Close it for one function; the last one's closes it.
    pub(super) fn unmap(&self, iova: u64, size: usize) -> Result<(), VfioError> {
        let mut users = self.users();
        if users.is_last(iova) {
            match &self.kind {
                Kind::Container(container) => container.vfio_dma_unmap(iova, size)?,
                Kind::Iommufd(space) => space.vfio_dma_unmap(iova, size)?,
            }
        }
        users.leave(iova);
        Ok(())
    }

    /// As [`Self::unmap`], with the pages that were written until then. A window that other functions
    /// keep is asked, and stays.
    pub(super) fn unmap_dirty(
        &self,
        iova: u64,
        size: usize,
        piece: &mut Piece,
    ) -> Result<(), Errno> {
        let mut users = self.users();
        if !users.is_last(iova) {
            self.dirty_bitmap(piece)?;
        } else {
            match &self.kind {
                Kind::Container(container) => sys::unmap_dirty(sys::borrow(container), piece)?,
                Kind::Iommufd(space) => {
                    self.tables.dirty_bitmap(space, piece, false)?;
                    space
                        .vfio_dma_unmap(iova, size)
                        .map_err(|error| unmap_errno(&error))?;
                }
            }
        }
        users.leave(iova);
        Ok(())
    }

    /// What can be told of dirty pages.
    pub(super) fn dirty_tracking(&self) -> Option<DirtyTracking> {
        match &self.kind {
            Kind::Container(container) => {
                let answer = sys::iommu_info(sys::borrow(container)).ok()?;
                IommuInfo::decode(&answer)?.dirty_tracking()
            }
            Kind::Iommufd(_) => self.tables.dirty_tracking(),
        }
    }

    /// Track dirty pages for one function.
    ///
    /// # Errors
    /// `EALREADY`: they are tracked for another.
    pub(super) fn start_tracking(&self) -> Result<(), Errno> {
        if self.tracked.swap(true, Ordering::AcqRel) {
            return Err(Errno::EALREADY);
        }
        let started = match &self.kind {
            Kind::Container(container) => sys::track_dirty(sys::borrow(container), true),
            Kind::Iommufd(space) => self.tables.track(space, true),
        };
        if started.is_err() {
            self.tracked.store(false, Ordering::Release);
        }
        started
    }

    pub(super) fn stop_tracking(&self) -> Result<(), Errno> {
        match &self.kind {
            Kind::Container(container) => sys::track_dirty(sys::borrow(container), false),
            Kind::Iommufd(space) => self.tables.track(space, false),
        }?;
        self.tracked.store(false, Ordering::Release);
        Ok(())
    }

    /// Set the bits of the pages that were written since they were last asked for.
    pub(super) fn dirty_bitmap(&self, piece: &mut Piece) -> Result<(), Errno> {
        match &self.kind {
            Kind::Container(container) => sys::dirty_bitmap(sys::borrow(container), piece),
            Kind::Iommufd(space) => self.tables.dirty_bitmap(space, piece, true),
        }
    }

    /// How many more windows there can be, if that is limited and told.
    pub(super) fn windows_left(&self) -> Option<u32> {
        match &self.kind {
            Kind::Container(container) => {
                let answer = sys::iommu_info(sys::borrow(container)).ok()?;
                IommuInfo::decode(&answer)?.available
            }
            Kind::Iommufd(_) => None,
        }
    }
}

/// Why a window was not closed.
fn unmap_errno(error: &VfioError) -> Errno {
    match error {
        VfioError::IommuDmaUnmap(error)
        | VfioError::IommufdIoctlError(IommufdError::IommuIoasUnmap(error)) => {
            Errno::from_raw(error.errno())
        }
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_two_functions_stays_until_both_have_closed_it() {
        let opened = Opened {
            size: 4096,
            access: DmaAccess::READ,
            file: (1, 2, 0),
        };
        let mut users = Users::default();
        assert_eq!(users.enter(0x1000, opened), Ok(true));
        assert_eq!(users.enter(0x1000, opened), Ok(false));
        for other in [
            Opened {
                size: 8192,
                ..opened
            },
            Opened {
                access: DmaAccess::WRITE,
                ..opened
            },
            Opened {
                file: (1, 2, 4096),
                ..opened
            },
        ] {
            assert_eq!(users.enter(0x1000, other), Err(Errno::EEXIST));
        }
        assert!(!users.is_last(0x1000));
        users.leave(0x1000);
        assert!(users.is_last(0x1000));
        users.leave(0x1000);
        assert_eq!(
            users.enter(0x1000, opened),
            Ok(true),
            "nothing is left of it"
        );
    }
}
