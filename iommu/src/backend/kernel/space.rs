//! Where a function's windows are: a container with its group, or an I/O address space of iommufd.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use vfio_ioctls::{VfioContainer, VfioError, VfioIommufd};
use vfio_user::device::DmaAccess;

use super::info::IommuInfo;
use super::sys;
use crate::memory::SharedMemory;

/// The I/O address space of one function.
pub(super) enum Space {
    /// By group and container.
    Container {
        /// Dropped first: a container outlives what is in it.
        _group: OwnedFd,
        container: VfioContainer,
    },
    /// By iommufd.
    Iommufd(VfioIommufd),
}

impl Space {
    pub(super) fn map(
        &self,
        iova: u64,
        memory: &SharedMemory,
        access: DmaAccess,
    ) -> Result<(), Errno> {
        match self {
            Self::Container { container, .. } => {
                sys::map(sys::borrow(container), iova, memory, access)
            }
            Self::Iommufd(space) => sys::ioas_map(space, iova, memory, access),
        }
    }

    pub(super) fn unmap(&self, iova: u64, size: usize) -> Result<(), VfioError> {
        match self {
            Self::Container { container, .. } => container.vfio_dma_unmap(iova, size),
            Self::Iommufd(space) => space.vfio_dma_unmap(iova, size),
        }
    }

    /// How many more windows there can be, if that is limited and told.
    pub(super) fn windows_left(&self) -> Option<u32> {
        match self {
            Self::Container { container, .. } => {
                let answer = sys::iommu_info(sys::borrow(container)).ok()?;
                IommuInfo::decode(&answer)?.available
            }
            Self::Iommufd(_) => None,
        }
    }
}
