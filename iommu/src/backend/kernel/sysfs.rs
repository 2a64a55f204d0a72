//! What the kernel tells of a function in files: its driver, its group, who else is in it.

use std::fs;
use std::path::{Path, PathBuf};

use super::address::PciAddress;
use super::error::{Holdout, KernelError};

/// Drivers that do not keep a group from being opened: they let go of DMA, or do none.
const HARMLESS: [&str; 3] = ["vfio-pci", "pcieport", "pci-stub"];

/// The files of one function.
pub(super) struct Sysfs {
    root: PathBuf,
    address: PciAddress,
}

fn target(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

impl Sysfs {
    pub(super) fn of(address: PciAddress) -> Self {
        Self::below(Path::new("/sys"), address)
    }

    fn below(root: &Path, address: PciAddress) -> Self {
        Self {
            root: root.to_owned(),
            address,
        }
    }

    fn device(&self) -> PathBuf {
        self.root
            .join("bus/pci/devices")
            .join(self.address.to_string())
    }

    /// The function's group, if the function is there, has vfio-pci as its driver, and an I/O MMU.
    pub(super) fn group(&self) -> Result<u32, KernelError> {
        let device = self.device();
        if !device.exists() {
            return Err(KernelError::NoDevice(self.address));
        }
        let driver = target(&device.join("driver"));
        // Variants of vfio-pci for single devices are named alike: mlx5_vfio_pci.
        let ours = |name: &str| name == "vfio-pci" || name.ends_with("vfio_pci");
        let group = target(&device.join("iommu_group")).and_then(|group| group.parse().ok());
        match (driver, group) {
            // First: without an I/O MMU there is no use in binding it.
            (_, None) => Err(KernelError::NoIommu(self.address)),
            (Some(name), Some(group)) if ours(&name) => Ok(group),
            (driver, Some(_)) => Err(KernelError::NotBound {
                address: self.address,
                driver,
            }),
        }
    }

    /// The other devices of `group` that keep it from being opened.
    pub(super) fn others(&self, group: u32) -> Vec<Holdout> {
        let devices = self
            .root
            .join(format!("kernel/iommu_groups/{group}/devices"));
        let Ok(entries) = fs::read_dir(devices) else {
            return Vec::new();
        };
        let mut others: Vec<Holdout> = entries
            .flatten()
            .filter_map(|entry| {
                let address = entry.file_name().to_str()?.to_owned();
                let driver = target(&entry.path().join("driver"))?;
                let holds =
                    address != self.address.to_string() && !HARMLESS.contains(&driver.as_str());
                holds.then_some(Holdout { address, driver })
            })
            .collect();
        others.sort_by(|a, b| a.address.cmp(&b.address));
        others
    }

    /// Where the number of VFs is set.
    pub(super) fn num_vfs(&self) -> PathBuf {
        self.device().join("sriov_numvfs")
    }

    /// Where the number of VFs there can be is read.
    pub(super) fn total_vfs(&self) -> PathBuf {
        self.device().join("sriov_totalvfs")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree {
        root: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Self {
            Self {
                root: tempfile::tempdir().expect("a folder"),
            }
        }

        fn device(&self, address: &str, driver: Option<&str>, group: Option<u32>) {
            let device = self.root.path().join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).expect("a device");
            if let Some(driver) = driver {
                let target = format!("../../../../bus/pci/drivers/{driver}");
                symlink(target, device.join("driver")).expect("a driver");
            }
            if let Some(group) = group {
                let target = format!("../../../../kernel/iommu_groups/{group}");
                symlink(target, device.join("iommu_group")).expect("a group");
                let members = format!("kernel/iommu_groups/{group}/devices");
                let members = self.root.path().join(members);
                fs::create_dir_all(&members).expect("a group");
                symlink(&device, members.join(address)).expect("a member");
            }
        }

        fn sysfs(&self, address: &str) -> Sysfs {
            Sysfs::below(self.root.path(), address.parse().expect("an address"))
        }
    }

    #[test]
    fn what_is_missing_is_named_in_the_order_in_which_it_is_mended() {
        let tree = Tree::new();
        tree.device("0000:01:00.0", Some("vfio-pci"), Some(12));
        tree.device("0000:01:00.1", Some("igbvf"), Some(13));
        tree.device("0000:01:00.2", Some("igbvf"), None);
        tree.device("0000:01:00.3", None, Some(14));
        tree.device("0000:01:00.4", Some("mlx5_vfio_pci"), Some(15));
        let group = |address| tree.sysfs(address).group();
        assert_eq!(group("0000:01:00.0").expect("a group"), 12);
        assert_eq!(group("0000:01:00.4").expect("a group"), 15);
        assert!(matches!(
            group("0000:01:00.1"),
            Err(KernelError::NotBound { driver: Some(driver), .. }) if driver == "igbvf"
        ));
        assert!(matches!(
            group("0000:01:00.2"),
            Err(KernelError::NoIommu(_))
        ));
        assert!(matches!(
            group("0000:01:00.3"),
            Err(KernelError::NotBound { driver: None, .. })
        ));
        assert!(matches!(
            group("0000:02:00.0"),
            Err(KernelError::NoDevice(_))
        ));
    }

    #[test]
    fn those_that_keep_a_group_from_being_opened_are_named() {
        let tree = Tree::new();
        for (address, driver) in [
            ("0000:01:00.0", Some("vfio-pci")),
            ("0000:01:00.1", Some("snd")),
            ("0000:01:00.2", None),
            ("0000:00:01.0", Some("pcieport")),
            ("0000:00:1f.0", Some("lpc")),
        ] {
            tree.device(address, driver, Some(3));
        }
        let others = tree.sysfs("0000:01:00.0").others(3);
        let names: Vec<_> = others.iter().map(|other| other.address.as_str()).collect();
        assert_eq!(names, ["0000:00:1f.0", "0000:01:00.1"]);
        assert!(tree.sysfs("0000:01:00.0").others(4).is_empty());
    }
}
