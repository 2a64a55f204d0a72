//! The I/O page tables of devices in an address space of iommufd: where the IOMMU notes what is
//! written, a device gets a table of its own that does; else the one that the kernel chooses.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommufd_bindings::iommufd;
use nix::errno::Errno;
use vfio_ioctls::VfioIommufd;

use super::dirty::{DirtyTracking, Granularity, Piece};
use super::space::{Kind, Space};
use super::sys;
use crate::memory::PAGE_SIZE;

/// Bytes of a bitmap, whose length the kernel does not limit: as much as a container's.
const MOST: u64 = 256 << 20;

#[derive(Debug, Default)]
struct Attached {
    /// Tables that note what is written.
    noting: Vec<u32>,
    /// How many devices are in one that does not.
    others: usize,
    tracked: bool,
}

/// The tables of an address space.
#[derive(Debug, Default)]
pub(super) struct Tables(Mutex<Attached>);

impl Tables {
    fn attached(&self) -> MutexGuard<'_, Attached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offered if every device is in a table that notes what is written.
    pub(super) fn dirty_tracking(&self) -> Option<DirtyTracking> {
        let attached = self.attached();
        (attached.others == 0 && !attached.noting.is_empty()).then_some(DirtyTracking {
            page_size: PAGE_SIZE as u64,
            granularity: Granularity::WrittenPages,
            most: MOST,
            over_holes: false,
        })
    }

    /// Switch all of them, or none.
    pub(super) fn track(&self, space: &VfioIommufd, on: bool) -> Result<(), Errno> {
        let mut attached = self.attached();
        attached.switch(on, |table, on| sys::hwpt_track_dirty(space, table, on))
    }

    /// Set the bits of what any of the devices wrote.
    pub(super) fn dirty_bitmap(
        &self,
        space: &VfioIommufd,
        piece: &mut Piece,
        forget: bool,
    ) -> Result<(), Errno> {
        let attached = self.attached();
        if attached.others != 0 {
            // One that was opened beside the others since.
            return Err(Errno::EOPNOTSUPP);
        }
        for &table in &attached.noting {
            sys::hwpt_dirty_bitmap(space, table, piece, forget)?;
        }
        Ok(())
    }
}

impl Attached {
    fn switch(
        &mut self,
        on: bool,
        mut one: impl FnMut(u32, bool) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        for (at, &table) in self.noting.iter().enumerate() {
            if let Err(errno) = one(table, on) {
                for &done in &self.noting[..at] {
                    // It has just been as it is to be again.
                    let _ = one(done, !on);
                }
                return Err(errno);
            }
        }
        self.tracked = on;
        Ok(())
    }
}

/// The table of one device, which goes after the device.
pub(super) struct Table {
    space: Arc<Space>,
    /// `None`: the kernel's choice, of which it takes care.
    noting: Option<u32>,
}

impl Table {
    /// Attach a bound device, which has `number`, to the address space.
    pub(super) fn attach(
        space: &Arc<Space>,
        ioas: &VfioIommufd,
        device: BorrowedFd<'_>,
        number: u32,
    ) -> Result<Self, Errno> {
        let space = space.clone();
        let mut attached = space.tables.attached();
        if let Some(table) = noting_table(ioas, number) {
            let tracked = !attached.tracked || sys::hwpt_track_dirty(ioas, table, true).is_ok();
            if tracked && sys::attach(device, table).is_ok() {
                attached.noting.push(table);
                drop(attached);
                let noting = Some(table);
                return Ok(Self { space, noting });
            }
            destroy(ioas, table);
        }
        sys::attach(device, ioas.ioas().id())?;
        attached.others += 1;
        drop(attached);
        let noting = None;
        Ok(Self { space, noting })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let mut attached = self.space.tables.attached();
        match self.noting {
            None => attached.others = attached.others.saturating_sub(1),
            Some(table) => {
                attached.noting.retain(|other| *other != table);
                if let Kind::Iommufd(ioas) = &self.space.kind {
                    destroy(ioas, table);
                }
            }
        }
    }
}

/// A new table that notes what its device writes, if the IOMMU of the device can.
fn noting_table(ioas: &VfioIommufd, number: u32) -> Option<u32> {
    let mut about = iommufd::iommu_hw_info {
        size: size_of::<iommufd::iommu_hw_info>() as u32,
        dev_id: number,
        ..Default::default()
    };
    ioas.iommufd().get_hw_info(&mut about).ok()?;
    if !notes_what_is_written(about.out_capabilities) {
        return None;
    }
    let mut table = iommufd::iommu_hwpt_alloc {
        size: size_of::<iommufd::iommu_hwpt_alloc>() as u32,
        flags: iommufd::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
        dev_id: number,
        pt_id: ioas.ioas().id(),
        ..Default::default()
    };
    match ioas.iommufd().alloc_iommu_hwpt(&mut table) {
        Ok(()) => Some(table.out_hwpt_id),
        Err(error) => {
            log::debug!("no page table that notes what is written: {error}");
            None
        }
    }
}

fn notes_what_is_written(capabilities: u64) -> bool {
    capabilities & u64::from(iommufd::iommufd_hw_capabilities_IOMMU_HW_CAP_DIRTY_TRACKING) != 0
}

fn destroy(ioas: &VfioIommufd, table: u32) {
    if let Err(error) = ioas.iommufd().destroy_iommu_object(table) {
        log::debug!("a page table stays until its address space goes: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(noting: &[u32], others: usize) -> Tables {
        Tables(Mutex::new(Attached {
            noting: noting.to_vec(),
            others,
            tracked: false,
        }))
    }

    #[test]
    fn tracking_is_offered_where_every_device_is_noted() {
        assert_eq!(tables(&[], 0).dirty_tracking(), None);
        assert_eq!(tables(&[3], 1).dirty_tracking(), None);
        let offered = tables(&[3, 4], 0).dirty_tracking().expect("an offer");
        assert_eq!(offered.granularity, Granularity::WrittenPages);
        assert!(!offered.over_holes);
        assert!(notes_what_is_written(0b11) && !notes_what_is_written(0b10));
    }

    #[test]
    fn all_tables_are_switched_or_none() {
        let tables = tables(&[3, 4, 5], 0);
        let mut asked = Vec::new();
        let failed = tables.attached().switch(true, |table, on| {
            asked.push((table, on));
            if table == 5 {
                Err(Errno::ENOMEM)
            } else {
                Ok(())
            }
        });
        assert_eq!(failed, Err(Errno::ENOMEM));
        assert_eq!(
            asked,
            [(3, true), (4, true), (5, true), (3, false), (4, false)]
        );
        assert!(!tables.attached().tracked);
        tables.attached().switch(true, |_, _| Ok(())).expect("all");
        assert!(tables.attached().tracked);
    }
}
