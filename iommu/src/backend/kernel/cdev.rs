//! Opening a function through iommufd: the device has a file of its own, and no group is opened.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iommufd_ioctls::{IommuFd, IommufdError};
use nix::errno::Errno;
use vfio_ioctls::{VfioError, VfioIommufd};

use super::KernelVfio;
use super::address::{KernelPlace, PciAddress};
use super::error::KernelError;
use super::info::IommuInfo;
use super::page_table::Table;
use super::space::{Kind, Space};
use super::sys;
use super::sysfs::Sysfs;

const IOMMUFD: &str = "/dev/iommu";

/// The device's own file, if the kernel makes one.
fn device_file(sysfs: &Sysfs) -> Result<PathBuf, KernelError> {
    let address = sysfs.address;
    let folder = sysfs.path("vfio-dev");
    let entry = std::fs::read_dir(folder)
        .ok()
        .and_then(|mut all| all.next());
    let name = entry
        .and_then(Result::ok)
        .map(|entry| entry.file_name())
        .ok_or(KernelError::NoCdev(address))?;
    Ok(Path::new("/dev/vfio/devices").join(name))
}

/// Why a file does not open.
fn closed(path: &Path, address: PciAddress, error: io::Error) -> KernelError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => KernelError::Permission {
            path: path.display().to_string(),
        },
        Some(Errno::ENOENT | Errno::ENODEV) if path == Path::new(IOMMUFD) => {
            KernelError::NoIommufd(address)
        }
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => KernelError::NoCdev(address),
        _ => KernelError::System {
            operation: "opening the device",
            source: error,
        },
    }
}

/// What keeps a device from being bound to iommufd.
fn unbindable(place: &KernelPlace, errno: Errno) -> KernelError {
    let address = place.address;
    match errno {
        Errno::EACCES => KernelError::Token { address },
        Errno::EINVAL if place.vf_token.is_some() => KernelError::NoToken { address },
        Errno::EBUSY => KernelError::BusyDevice { address },
        Errno::EPERM => KernelError::NotViableDevice { address },
        errno => KernelError::system("binding the device to iommufd")(errno),
    }
}

impl KernelVfio {
    /// Open a function that is bound to vfio-pci through iommufd, in an address space of its own. The
    /// kernel resets it.
    ///
    /// # Errors
    /// One for each thing that can be missing, with the command that mends it.
    pub fn open_iommufd(place: &KernelPlace) -> Result<Self, KernelError> {
        Self::open_by_iommufd(place, None)
    }

    pub(super) fn open_by_iommufd(
        place: &KernelPlace,
        beside: Option<&Arc<Space>>,
    ) -> Result<Self, KernelError> {
        let address = place.address;
        let sysfs = Sysfs::of(address);
        sysfs.group()?;
        let path = device_file(&sysfs)?;
        let space = match beside {
            Some(space) => space.clone(),
            None => {
                let iommufd = IommuFd::new().map_err(|error| match error {
                    IommufdError::OpenIommufd(error) => closed(Path::new(IOMMUFD), address, error),
                    error => KernelError::Container(VfioError::NewVfioIommufd(error)),
                })?;
                let space = VfioIommufd::new(Arc::new(iommufd), None, None);
                let space = space.map_err(KernelError::Container)?;
                Arc::new(Space::new(Kind::Iommufd(space)))
            }
        };
        let Kind::Iommufd(ioas) = &space.kind else {
            return Err(KernelError::NotPci(address));
        };
        let device = open(&path).map_err(|error| closed(&path, address, error))?;
        let number = sys::bind_iommufd(device.as_fd(), ioas, place.vf_token.as_ref())
            .map_err(|errno| unbindable(place, errno))?;
        let table = Table::attach(&space, ioas, device.as_fd(), number).map_err(
            KernelError::system("attaching the device to its address space"),
        )?;
        // After attaching: the device narrows what can be mapped.
        let (ranges, alignment) = sys::ioas_ranges(ioas).map_err(KernelError::system(
            "asking for the addresses that can be mapped",
        ))?;
        let iommu = IommuInfo::of_ioas(ranges, alignment);
        Self::assemble(place, sysfs, Some(table), device, None, space, iommu)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    const PF: &str = "0000:01:00.0";

    fn address() -> PciAddress {
        PF.parse().expect("an address")
    }

    #[test]
    fn the_file_of_a_device_is_found_where_the_kernel_makes_one() {
        let made = MadeUp::new();
        made.device(PF, Some("vfio-pci"), Some(7));
        let error = device_file(&made.sysfs(PF)).expect_err("no file");
        let text = error.to_string();
        assert!(text.contains("CONFIG_VFIO_DEVICE_CDEV"), "{text}");
        assert!(text.contains("vfio:0000:01:00.0"), "{text}");
        let folder = made.sysfs(PF).path("vfio-dev/vfio3");
        std::fs::create_dir_all(folder).expect("a folder");
        let path = device_file(&made.sysfs(PF)).expect("a file");
        assert_eq!(path, Path::new("/dev/vfio/devices/vfio3"));
    }

    #[test]
    fn a_file_that_does_not_open_says_what_would_open_it() {
        let text =
            |path: &str, errno: Errno| closed(Path::new(path), address(), errno.into()).to_string();
        let absent = text(IOMMUFD, Errno::ENOENT);
        assert!(absent.contains("CONFIG_IOMMUFD"), "{absent}");
        assert!(absent.contains("modprobe iommufd"), "{absent}");
        let user = nix::unistd::Uid::effective();
        let denied = text("/dev/vfio/devices/vfio3", Errno::EACCES);
        let mend = format!("chown {user} /dev/vfio/devices/vfio3");
        assert!(denied.contains(&mend), "{denied}");
    }

    #[test]
    fn a_device_that_cannot_be_bound_says_why() {
        let plain: KernelPlace = PF.parse().expect("a place");
        let token = format!("{PF},vf_token=00112233-4455-6677-8899-aabbccddeeff");
        let token: KernelPlace = token.parse().expect("a place");
        for (place, errno, part) in [
            (plain, Errno::EACCES, "vf_token=UUID"),
            (token, Errno::EINVAL, "takes no VF token"),
            (plain, Errno::EBUSY, "in use"),
            (plain, Errno::EPERM, "shares its IOMMU group"),
            (plain, Errno::EINVAL, "binding the device to iommufd"),
        ] {
            let text = unbindable(&place, errno).to_string();
            assert!(text.contains(part), "{errno}: {text}");
        }
    }
}
