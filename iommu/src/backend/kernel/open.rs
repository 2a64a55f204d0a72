//! Opening a function: group, container, device; and what of it can be mapped.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use vfio_bindings::bindings::vfio as kernel;
use vfio_ioctls::{VfioContainer, VfioError};
use vfio_user::device::{Irq, IrqFlags, RegionFlags, SparseArea, irq, region};
use vfio_user::wire::decode_region;

use super::address::KernelPlace;
use super::error::KernelError;
use super::info::IommuInfo;
use super::page_table::Table;
use super::space::{Kind, Space};
use super::sys::{self, Registers, Vectors};
use super::sysfs::Sysfs;
use super::{Bar, Interrupts, KernelVfio};
use crate::function::Function as _;
use crate::interrupt::InterruptSet;
use crate::memory::PAGE_SIZE;
use crate::pci;
use crate::windows::Windows;

impl KernelVfio {
    /// Open a function that is bound to vfio-pci, in a container of its own. The kernel resets it.
    ///
    /// # Errors
    /// One for each thing that can be missing, with the command that mends it.
    pub fn open(place: &KernelPlace) -> Result<Self, KernelError> {
        Self::open_by_group(place, None)
    }

    /// Open a function in the container or I/O address space of another: a window that both open is
    /// one window of the kernel's, and what one opens the other's DMA reaches too.
    ///
    /// # Errors
    /// As [`Self::open`]; and where the two cannot share.
    pub fn open_beside(place: &KernelPlace, other: &Self) -> Result<Self, KernelError> {
        match other.space.kind {
            Kind::Container(_) => Self::open_by_group(place, Some(other)),
            Kind::Iommufd(_) => Self::open_by_iommufd(place, Some(&other.space)),
        }
    }

    fn open_by_group(place: &KernelPlace, other: Option<&Self>) -> Result<Self, KernelError> {
        let address = place.address;
        let sysfs = Sysfs::of(address);
        let number = sysfs.group()?;
        let space = match other {
            Some(other) => other.space.clone(),
            None => {
                let container = VfioContainer::new(None).map_err(unusable)?;
                Arc::new(Space::new(Kind::Container(container)))
            }
        };
        let Kind::Container(container) = &space.kind else {
            return Err(KernelError::NotPci(address));
        };
        let theirs = other.and_then(|other| other.group.clone());
        let group = match theirs.filter(|(theirs, _)| *theirs == number) {
            // A group has one user at a time, and that is us.
            Some((_, group)) => group,
            None => Arc::new(enter(&sysfs, number, container)?),
        };
        if other.is_none() {
            sys::choose_type1v2(sys::borrow(container)).map_err(|errno| match errno {
                Errno::EPERM => KernelError::NoInterruptRemapping { group: number },
                errno => KernelError::system("choosing the IOMMU")(errno),
            })?;
        }
        let iommu = iommu(container)?;
        let name: CString = place.device_name();
        let device = sys::device(group.as_fd(), &name).map_err(|errno| match errno {
            Errno::EACCES => KernelError::Token { address },
            Errno::EINVAL if place.vf_token.is_some() => KernelError::NoToken { address },
            Errno::EBUSY => KernelError::Busy { group: number },
            errno => KernelError::system("opening the device")(errno),
        })?;
        let group = Some((number, group));
        Self::assemble(place, sysfs, None, File::from(device), group, space, iommu)
    }

    /// The function behind an open device.
    pub(super) fn assemble(
        place: &KernelPlace,
        sysfs: Sysfs,
        table: Option<Table>,
        device: File,
        group: Option<(u32, Arc<OwnedFd>)>,
        space: Arc<Space>,
        iommu: IommuInfo,
    ) -> Result<Self, KernelError> {
        let address = place.address;
        let about = sys::device_info(device.as_fd())
            .map_err(KernelError::system("describing the device"))?;
        let whole = about.flags & kernel::VFIO_DEVICE_FLAGS_PCI != 0
            && about.num_regions > region::CONFIG
            && about.num_irqs > irq::MSIX;
        if !whole {
            return Err(KernelError::NotPci(address));
        }
        let bars = (0..region::COUNT)
            .map(|index| bar(&device, index, index < about.num_regions))
            .collect::<Result<Vec<_>, _>>()?;
        let kinds = (0..irq::COUNT)
            .map(|index| kind(&device, index, index < about.num_irqs))
            .collect();
        let loss = InterruptSet::new(2).map_err(|error| KernelError::System {
            operation: "making an eventfd",
            source: std::io::Error::other(error),
        })?;
        let mut function = Self {
            bars,
            device,
            table,
            group,
            space,
            sysfs,
            has_token: place.vf_token.is_some(),
            resettable: about.flags & kernel::VFIO_DEVICE_FLAGS_RESET != 0,
            iommu,
            windows: Mutex::new(Windows::default()),
            tracked: Mutex::new(None),
            interrupts: Mutex::new(Interrupts {
                kinds,
                enabled: [false; irq::COUNT as usize],
            }),
            decodes: RwLock::new(false),
            power: None,
            loss,
            lost: AtomicBool::new(false),
        };
        let system = |operation| move |source| KernelError::System { operation, source };
        let reading = "reading configuration space";
        let power = function.find_capability(pci::POWER_MANAGEMENT_ID);
        function.power = power
            .map_err(system(reading))?
            .map(|at| at + pci::POWER_CONTROL);
        let msix = function.find_capability(pci::MSIX_ID);
        if let Some(at) = msix.map_err(system(reading))? {
            // Left to pread and pwrite, by which the kernel keeps the table to itself: nobody who is handed
            // this function's registers shall name addresses and data of interrupts.
            let table = function.config_u16(at + pci::MSIX_TABLE);
            let table = usize::from(table.map_err(system(reading))? & 7);
            if let Some(bar) = function.bars.get_mut(table) {
                bar.mapped.clear();
            }
        }
        let answers = function.answers();
        *function.decodes.get_mut().expect("nobody else has it yet") =
            answers.map_err(system(reading))?;
        function.watch_for_loss();
        Ok(function)
    }

    /// Offset of a capability. The list is the device's: the walk is bounded.
    fn find_capability(&self, wanted: u8) -> std::io::Result<Option<u64>> {
        if self.config_u16(pci::STATUS)? & pci::STATUS_CAPABILITIES == 0 {
            return Ok(None);
        }
        let mut at = u64::from(self.config_u16(pci::CAPABILITIES_POINTER)? & 0xFC);
        for _ in 0..pci::EXTENDED_CAPABILITIES / 4 {
            if at == 0 {
                break;
            }
            let [id, next] = self.config_u16(at)?.to_le_bytes();
            if id == wanted {
                return Ok(Some(at));
            }
            at = u64::from(next & 0xFC);
        }
        Ok(None)
    }

    /// Until somebody sets eventfds of their own: a request for the device, and a fatal error of it,
    /// mean that it is lost.
    fn watch_for_loss(&self) {
        for (index, event) in [irq::REQ, irq::ERR].into_iter().zip(self.loss.eventfds()) {
            if !self.irq(index).is_ok_and(|kind| kind.count > 0) {
                continue;
            }
            let trigger = kernel::VFIO_IRQ_SET_ACTION_TRIGGER;
            let vectors = [event];
            let set = self.set_irqs(trigger, index, 0, 1, &Vectors::Eventfds(&vectors));
            if let Err(error) = set {
                log::debug!("interrupt index {index} stays without an eventfd: {error}");
            }
        }
    }
}

/// What keeps the container from being used.
fn unusable(error: VfioError) -> KernelError {
    let errno = match &error {
        VfioError::OpenContainer(error) => error.raw_os_error().map(Errno::from_raw),
        VfioError::VfioExtension => return KernelError::NoType1,
        _ => None,
    };
    match errno {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => KernelError::NoVfio,
        Some(Errno::EACCES | Errno::EPERM) => KernelError::Permission {
            path: "/dev/vfio/vfio".to_owned(),
        },
        _ => KernelError::Container(error),
    }
}

/// Open a group and put it into a container.
fn enter(sysfs: &Sysfs, number: u32, container: &VfioContainer) -> Result<OwnedFd, KernelError> {
    let group = open_group(number)?;
    let flags = sys::group_flags(group.as_fd())
        .map_err(KernelError::system("asking for the group's state"))?;
    if flags & kernel::VFIO_GROUP_FLAGS_VIABLE == 0 {
        return Err(KernelError::NotViable {
            address: sysfs.address,
            group: number,
            others: sysfs.others(number),
        });
    }
    sys::join(group.as_fd(), sys::borrow(container)).map_err(|errno| match errno {
        Errno::EBUSY => KernelError::Busy { group: number },
        errno => KernelError::system("putting the group into a container")(errno),
    })?;
    Ok(group)
}

fn open_group(number: u32) -> Result<OwnedFd, KernelError> {
    let path = format!("/dev/vfio/{number}");
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).map_err(|errno| closed_group(number, path, errno))
}

/// Why a group's file does not open.
fn closed_group(group: u32, path: String, errno: Errno) -> KernelError {
    match errno {
        Errno::EACCES | Errno::EPERM => KernelError::Permission { path },
        Errno::EBUSY => KernelError::Busy { group },
        errno => KernelError::system("opening the group")(errno),
    }
}

fn iommu(container: &VfioContainer) -> Result<IommuInfo, KernelError> {
    let answer = sys::iommu_info(sys::borrow(container))
        .map_err(KernelError::system("describing the IOMMU"))?;
    let info = IommuInfo::decode(&answer).unwrap_or_default();
    if !info.maps_pages_of(PAGE_SIZE as u64) {
        let smallest = 1 << info.page_sizes.trailing_zeros();
        return Err(KernelError::PageSize { smallest });
    }
    log::debug!("IOVA {:x?}, {:?} windows left", info.ranges, info.available);
    Ok(info)
}

/// Describe a region, and map of it what can be.
fn bar(device: &File, index: u32, there: bool) -> Result<Bar, KernelError> {
    let absent = Bar {
        size: 0,
        flags: RegionFlags::empty(),
        offset: 0,
        mapped: Vec::new(),
    };
    if !there {
        return Ok(absent);
    }
    let operation = "describing a region";
    let answer = match sys::region_info(device.as_fd(), index) {
        Ok(answer) => answer,
        // A device without a VGA window.
        Err(Errno::EINVAL) => return Ok(absent),
        Err(errno) => return Err(KernelError::system(operation)(errno)),
    };
    let system = |source| KernelError::System { operation, source };
    let file = device.as_fd().try_clone_to_owned().map_err(system)?;
    let (described, _) = decode_region(&answer, index, Some(file))
        .map_err(|error| system(std::io::Error::other(error)))?;
    // The fixed part, which was there to be decoded, ends with the offset.
    let offset = answer.get(24..32).and_then(|bytes| bytes.try_into().ok());
    let mut bar = Bar {
        size: described.size,
        flags: described.flags,
        offset: offset.map_or(0, u64::from_ne_bytes),
        mapped: Vec::new(),
    };
    if index > region::BAR5 || !bar.flags.contains(RegionFlags::MMAP) {
        return Ok(bar);
    }
    let whole = [SparseArea {
        offset: 0,
        size: bar.size,
    }];
    let areas = match described.sparse.as_slice() {
        [] => &whole[..],
        areas => areas,
    };
    for area in areas {
        let Ok(size) = usize::try_from(area.size) else {
            continue;
        };
        match Registers::map(device.as_fd(), bar.offset + area.offset, size) {
            Ok(registers) => bar.mapped.push((area.offset, registers)),
            Err(errno) => log::debug!(
                "region {index} is not mapped at {:#x}: {errno}",
                area.offset
            ),
        }
    }
    bar.mapped.sort_by_key(|(first, _)| *first);
    Ok(bar)
}

/// Describe an interrupt index; one that the device lacks has no vectors.
fn kind(device: &File, index: u32, there: bool) -> Irq {
    let info = there.then(|| sys::irq_info(device.as_fd(), index));
    let (flags, count) = info.and_then(Result::ok).unwrap_or_default();
    Irq {
        flags: IrqFlags::from_bits_truncate(flags),
        count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_does_not_open_says_what_would_open_it() {
        let text = |errno| closed_group(12, "/dev/vfio/12".into(), errno).to_string();
        let user = nix::unistd::Uid::effective();
        let denied = text(Errno::EACCES);
        assert!(
            denied.contains(&format!("chown {user} /dev/vfio/12")),
            "{denied}"
        );
        let busy = text(Errno::EBUSY);
        assert!(busy.contains("fuser /dev/vfio/12"), "{busy}");
    }

    #[test]
    fn a_container_that_does_not_open_says_what_would_open_it() {
        let opening = |errno: Errno| unusable(VfioError::OpenContainer(errno.into())).to_string();
        assert!(opening(Errno::ENOENT).contains("modprobe vfio-pci"));
        assert!(opening(Errno::EACCES).contains("/dev/vfio/vfio"));
        let old = unusable(VfioError::VfioExtension).to_string();
        assert!(old.contains("modprobe vfio_iommu_type1"), "{old}");
    }
}
