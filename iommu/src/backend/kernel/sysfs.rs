//! What the kernel tells of a function in files: its driver, its group, who else is in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::address::PciAddress;
use super::error::{Holdout, KernelError};
use super::tree::Tree;

/// Drivers that do not keep a group from being opened: they let go of DMA, or do none.
const HARMLESS: [&str; 3] = ["vfio-pci", "pcieport", "pci-stub"];

/// Whether a driver is vfio-pci. Variants of it for single devices are named alike: mlx5_vfio_pci.
pub(super) fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("vfio_pci")
}

/// A VF's place among those of its PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VfOf {
    /// The PF.
    pub pf: PciAddress,
    /// Which of its VFs, from 0 on.
    pub number: u16,
}

impl PciAddress {
    /// Which VF of which PF the kernel has at this address; `None` if it has none there now.
    #[must_use]
    pub fn vf(self) -> Option<VfOf> {
        Sysfs::of(self).as_vf()
    }

    /// Where the kernel has a VF of this PF, or will have it once it is enabled; `None` if this is no PF.
    #[must_use]
    pub fn of_vf(self, number: u16) -> Option<Self> {
        Sysfs::of(self).of_vf(number)
    }
}

/// The files of one function.
#[derive(Debug, Clone)]
pub(super) struct Sysfs {
    pub(super) tree: Tree,
    pub(super) address: PciAddress,
}

impl Sysfs {
    pub(super) fn of(address: PciAddress) -> Self {
        Self::on(Tree::below(Path::new("/sys")), address)
    }

    pub(super) fn on(tree: Tree, address: PciAddress) -> Self {
        Self { tree, address }
    }

    /// An attribute of the function, below the root.
    pub(super) fn attribute(&self, name: &str) -> String {
        format!("bus/pci/devices/{}/{name}", self.address)
    }

    /// Where an attribute is, for a person.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.tree.path(&self.attribute(name))
    }

    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        self.tree.read(&self.attribute(name))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        self.tree.write(&self.attribute(name), text)
    }

    pub(super) fn is_there(&self) -> bool {
        self.tree.exists(&self.attribute(""))
    }

    /// The driver that has the function.
    pub(super) fn driver(&self) -> Option<String> {
        self.tree.target(&self.attribute("driver"))
    }

    pub(super) fn is_on_vfio(&self) -> bool {
        self.driver().is_some_and(|driver| is_vfio(&driver))
    }

    /// The function's group, if there is an I/O MMU for it.
    pub(super) fn iommu_group(&self) -> Option<u32> {
        self.tree
            .target(&self.attribute("iommu_group"))?
            .parse()
            .ok()
    }

    /// The function's group, if the function is there, has vfio-pci as its driver, and an I/O MMU.
    pub(super) fn group(&self) -> Result<u32, KernelError> {
        if !self.is_there() {
            return Err(KernelError::NoDevice(self.address));
        }
        match (self.driver(), self.iommu_group()) {
            // First: without an I/O MMU there is no use in binding it.
            (_, None) => Err(KernelError::NoIommu(self.address)),
            (Some(name), Some(group)) if is_vfio(&name) => Ok(group),
            (driver, Some(_)) => Err(KernelError::NotBound {
                address: self.address,
                driver,
            }),
        }
    }

    /// The other devices of `group` that keep it from being opened.
    pub(super) fn others(&self, group: u32) -> Vec<Holdout> {
        let members = format!("kernel/iommu_groups/{group}/devices");
        let Ok(entries) = fs::read_dir(self.tree.path(&members)) else {
            return Vec::new();
        };
        let mut others: Vec<Holdout> = entries
            .flatten()
            .filter_map(|entry| {
                let address = entry.file_name().to_str()?.to_owned();
                let driver = self.tree.target(&format!("{members}/{address}/driver"))?;
                let holds =
                    address != self.address.to_string() && !HARMLESS.contains(&driver.as_str());
                holds.then_some(Holdout { address, driver })
            })
            .collect();
        others.sort_by(|a, b| a.address.cmp(&b.address));
        others
    }

    /// Which VF of which PF this function is; `None` if it is none, or not there.
    pub(super) fn as_vf(&self) -> Option<VfOf> {
        let pf: PciAddress = self.tree.target(&self.attribute("physfn"))?.parse().ok()?;
        let whole = Self::on(self.tree.clone(), pf);
        let mut numbers = (0..=u16::MAX).map_while(|number| Some((number, whole.vf(number)?)));
        let (number, _) = numbers.find(|(_, vf)| vf.address == self.address)?;
        Some(VfOf { pf, number })
    }

    /// As the SR-IOV capability places its VFs among the requester ids (PCIe 6.0 9.2.1.2).
    fn of_vf(&self, number: u16) -> Option<PciAddress> {
        let PciAddress {
            domain,
            bus,
            device,
            function,
        } = self.address;
        let first: u32 = self.read("sriov_offset").ok()?.parse().ok()?;
        let stride: u32 = self.read("sriov_stride").ok()?.parse().ok()?;
        let pf = u32::from(bus) << 8 | u32::from(device) << 3 | u32::from(function);
        let vf = first
            .checked_add(stride.checked_mul(number.into())?)?
            .checked_add(pf)?;
        let [bus, rest] = u16::try_from(vf).ok()?.to_be_bytes();
        Some(PciAddress {
            domain,
            bus,
            device: rest >> 3,
            function: rest & 7,
        })
    }

    /// A VF of this function, once it is there.
    pub(super) fn vf(&self, number: u16) -> Option<Self> {
        let name = self
            .tree
            .target(&self.attribute(&format!("virtfn{number}")))?;
        let vf = Self::on(self.tree.clone(), name.parse().ok()?);
        vf.is_there().then_some(vf)
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    #[test]
    fn what_is_missing_is_named_in_the_order_in_which_it_is_mended() {
        let tree = MadeUp::new();
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
    fn a_vf_has_its_place_before_it_is_there() {
        let tree = MadeUp::new();
        tree.device("0000:01:00.0", Some("vfio-pci"), Some(12));
        let pf = tree.sysfs("0000:01:00.0");
        let at = |number| pf.of_vf(number).map(|address| address.to_string());
        assert_eq!(at(0), None, "no PF");
        for (name, value) in [("sriov_offset", "128"), ("sriov_stride", "2")] {
            fs::write(pf.path(name), format!("{value}\n")).expect("an attribute");
        }
        assert_eq!(at(0).as_deref(), Some("0000:01:10.0"));
        assert_eq!(at(7).as_deref(), Some("0000:01:11.6"));
        assert_eq!(at(64).as_deref(), Some("0000:02:00.0"));
        assert_eq!(at(u16::MAX), None, "beyond the last requester id");
    }

    #[test]
    fn those_that_keep_a_group_from_being_opened_are_named() {
        let tree = MadeUp::new();
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
