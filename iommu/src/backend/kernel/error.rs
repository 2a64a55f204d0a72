//! Why a function does not open, and the command that mends it.

use std::fmt;
use std::io;

use nix::errno::Errno;
use vfio_ioctls::VfioError;

use super::address::PciAddress;

/// A device that keeps a group from being opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdout {
    /// Its address, as sysfs spells it.
    pub address: String,
    /// The driver that has it.
    pub driver: String,
}

impl fmt::Display for Holdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (driver {})", self.address, self.driver)
    }
}

/// Why a function on kernel VFIO could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// There is no such function.
    #[error("there is no PCI function {0}; `lspci -D` lists those there are")]
    NoDevice(PciAddress),
    /// Another driver has the function, or none.
    #[error(
        "{address} is bound to {}, not to vfio-pci; as root: modprobe vfio-pci; \
         echo vfio-pci > /sys/bus/pci/devices/{address}/driver_override; \
         {}echo {address} > /sys/bus/pci/drivers_probe",
        .driver.as_deref().unwrap_or("no driver"), unbind(*.address, .driver.as_deref())
    )]
    NotBound {
        /// The function.
        address: PciAddress,
        /// The driver that has it.
        driver: Option<String>,
    },
    /// The function is in no group: nothing translates its DMA.
    #[error(
        "{0} is in no IOMMU group, so no IOMMU translates its DMA; switch it on in the firmware \
         (VT-d, AMD-Vi) and boot the kernel with intel_iommu=on (or for AMD amd_iommu=on)"
    )]
    NoIommu(PciAddress),
    /// The module is not there.
    #[error("/dev/vfio/vfio is not there; as root: modprobe vfio-pci")]
    NoVfio,
    /// The I/O MMU cannot be used by a process.
    #[error(
        "the kernel's VFIO lacks the type 1 (version 2) IOMMU; as root: modprobe vfio_iommu_type1"
    )]
    NoType1,
    /// This process may not use the device.
    #[error(
        "{path} may not be opened by this user; as root: chown {user} {path}",
        user = nix::unistd::Uid::effective()
    )]
    Permission {
        /// What may not be opened.
        path: String,
    },
    /// Another process has the group.
    #[error(
        "IOMMU group {group} is in use by another process; `fuser /dev/vfio/{group}` names it, and \
         a group has one user at a time"
    )]
    Busy {
        /// The group.
        group: u32,
    },
    /// Another device of the group is not in our hands.
    #[error(
        "{address} shares IOMMU group {group} with {}, which could reach its memory; bind them to \
         vfio-pci too (echo vfio-pci > /sys/bus/pci/devices/ADDRESS/driver_override, unbind, \
         drivers_probe), or unbind them: echo ADDRESS > /sys/bus/pci/devices/ADDRESS/driver/unbind",
        list(.others)
    )]
    NotViable {
        /// The function.
        address: PciAddress,
        /// Its group.
        group: u32,
        /// Those of its group that other drivers have.
        others: Vec<Holdout>,
    },
    /// The kernel wants interrupt remapping.
    #[error(
        "the kernel lets no process use IOMMU group {group}: the platform does not remap \
         interrupts. With a device that is trusted, as root: \
         echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
    )]
    NoInterruptRemapping {
        /// The group.
        group: u32,
    },
    /// The VF's token is missing or wrong.
    #[error(
        "{address} wants its VF token: a VF whose PF is on vfio-pci wants the one with which the PF \
         was opened, and a PF with VFs in use the one that it has; write \
         vfio:{address},vf_token=UUID with that UUID"
    )]
    Token {
        /// The function.
        address: PciAddress,
    },
    /// A token was given where none is taken.
    #[error(
        "{address} takes no VF token: only a PF, and VFs whose PF is on vfio-pci, have one; leave \
         it out"
    )]
    NoToken {
        /// The function.
        address: PciAddress,
    },
    /// Another process has the device.
    #[error(
        "{address} is in use by another process; `fuser /dev/vfio/devices/*` names it, and a device \
         has one user at a time"
    )]
    BusyDevice {
        /// The function.
        address: PciAddress,
    },
    /// Another device of the group is not in our hands; seen through iommufd.
    #[error(
        "{address} shares its IOMMU group with a device that another driver has, which could reach its \
         memory; `ls /sys/bus/pci/devices/{address}/iommu_group/devices` names those in it: bind \
         them to vfio-pci too, or unbind them"
    )]
    NotViableDevice {
        /// The function.
        address: PciAddress,
    },
    /// The kernel has no iommufd.
    #[error(
        "/dev/iommu is not there; as root: modprobe iommufd. A kernel without CONFIG_IOMMUFD has none: \
         name the device vfio:{0}"
    )]
    NoIommufd(PciAddress),
    /// The kernel makes no files for devices.
    #[error(
        "{0} has no file of its own in /dev/vfio/devices: Linux before 6.6, or built without \
         CONFIG_VFIO_DEVICE_CDEV, makes none; name the device vfio:{0}"
    )]
    NoCdev(PciAddress),
    /// It is no PCI function, or an older kernel's.
    #[error("{0} is none that vfio-pci of this kernel can hand out in full")]
    NotPci(PciAddress),
    /// The pages of this process are smaller than those that can be mapped.
    #[error("the IOMMU maps pages of {smallest} bytes at least; buffers here have 4096")]
    PageSize {
        /// The smallest page.
        smallest: u64,
    },
    /// What is known to vfio-ioctls fails in another way.
    #[error("the VFIO container cannot be used")]
    Container(#[source] VfioError),
    /// A system call fails in another way.
    #[error("{operation} failed ({source})")]
    System {
        /// What was done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl KernelError {
    pub(super) fn system(operation: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System {
            operation,
            source: errno.into(),
        }
    }
}

fn unbind(address: PciAddress, driver: Option<&str>) -> String {
    driver.map_or_else(String::new, |_| {
        format!("echo {address} > /sys/bus/pci/devices/{address}/driver/unbind; ")
    })
}

fn list(others: &[Holdout]) -> String {
    if others.is_empty() {
        return "a device that another driver has".to_owned();
    }
    let names: Vec<String> = others.iter().map(Holdout::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> PciAddress {
        "0000:01:00.0".parse().expect("an address")
    }

    #[test]
    fn an_error_says_what_to_type() {
        let foreign = KernelError::NotBound {
            address: address(),
            driver: Some("igbvf".into()),
        };
        let text = foreign.to_string();
        assert!(text.contains("bound to igbvf"), "{text}");
        for command in [
            "echo vfio-pci > /sys/bus/pci/devices/0000:01:00.0/driver_override;",
            "echo 0000:01:00.0 > /sys/bus/pci/devices/0000:01:00.0/driver/unbind;",
            "echo 0000:01:00.0 > /sys/bus/pci/drivers_probe",
        ] {
            assert!(text.contains(command), "{text}");
        }
        let free = KernelError::NotBound {
            address: address(),
            driver: None,
        };
        assert!(!free.to_string().contains("unbind"), "nothing to unbind");

        let shared = KernelError::NotViable {
            address: address(),
            group: 7,
            others: vec![Holdout {
                address: "0000:01:00.1".into(),
                driver: "snd".into(),
            }],
        };
        let text = shared.to_string();
        assert!(text.contains("0000:01:00.1 (driver snd)"), "{text}");
    }
}
