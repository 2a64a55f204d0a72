//! A card whose VFs are the kernel's: real ones, or those of a virtual machine behind an I/O MMU, each
//! opened over VFIO. Its PF may be on VFIO too, with a PF driver of ours.

use std::error::Error;
use std::sync::Arc;

use igb::pci::{VENDOR_INTEL, VF_DEVICE_ID};
use iommu::backend::kernel::{KernelPlace, PciAddress, VfOf};
use iommu::backend::{OpenError, Place};
use iommu::function::{Function, FunctionError};
use vfio_user::device::region;

use crate::limits::Limits;
use crate::nic::Nic;
use crate::passthrough::Passthrough;

/// Why a VF cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum KernelNicError {
    /// A socket is not the kernel's.
    #[error("{0} is no VF of the kernel's; name the directory of a card's sockets with --nic")]
    Socket(Place),
    /// The same VF twice.
    #[error("{0} is named twice; a VF has one slot")]
    Twice(PciAddress),
    /// None of those named has the number, as far as they are there.
    #[error(
        "none of the VFs that --vf names is number {number} of its PF ({}); name it too, or have the PF \
         driver create fewer",
        describe(.known)
    )]
    NoSuchVf {
        /// The number.
        number: u16,
        /// Those that are there, each with its number.
        known: Vec<(PciAddress, u16)>,
    },
    /// VFs of two PFs.
    #[error(
        "{first} and {second} are VFs of two PFs; a mediator has one PF driver, so run one for each PF"
    )]
    TwoPfs {
        /// One.
        first: PciAddress,
        /// The other.
        second: PciAddress,
    },
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It does not say what it is.
    #[error("{address} cannot be asked what it is")]
    Silent {
        /// Which.
        address: PciAddress,
        /// Why.
        #[source]
        source: FunctionError,
    },
    /// It is not an 82576's: what is fenced would be something else, and its mailbox stay open.
    #[error(
        "{address} is {vendor:04x}:{device:04x}; the mediator knows the registers of \
         {VENDOR_INTEL:04x}:{VF_DEVICE_ID:04x}, a VF of the 82576, and no others"
    )]
    Foreign {
        /// Which.
        address: PciAddress,
        /// Its vendor.
        vendor: u16,
        /// Its device.
        device: u16,
    },
}

fn describe(known: &[(PciAddress, u16)]) -> String {
    let known: Vec<String> = known
        .iter()
        .map(|(address, number)| format!("{address} is {number}"))
        .collect();
    if known.is_empty() {
        return "none of them is there".into();
    }
    known.join(", ")
}

/// The VFs that a mediator was given, by their addresses. They may appear later.
#[derive(Debug)]
pub struct KernelNic {
    vfs: Vec<(Place, KernelPlace)>,
    limits: Limits,
}

impl KernelNic {
    /// The VFs named.
    ///
    /// # Errors
    /// One is no function of the kernel's, or named twice.
    pub fn new(places: Vec<Place>, limits: Limits) -> Result<Self, KernelNicError> {
        let mut vfs: Vec<(Place, KernelPlace)> = Vec::new();
        for place in places {
            let (Place::Vfio(at) | Place::Iommufd(at)) = place else {
                return Err(KernelNicError::Socket(place));
            };
            if vfs.iter().any(|(_, other)| other.address == at.address) {
                return Err(KernelNicError::Twice(at.address));
            }
            match at.address.vf() {
                Some(VfOf { pf, number }) => log::info!("{at} is VF {number} of {pf}"),
                None => {
                    log::info!("{at} is no VF yet; it is taken once its PF's driver has made it")
                }
            }
            vfs.push((place, at));
        }
        Ok(Self { vfs, limits })
    }

    /// Those that are there, each with its place among the VFs of its PF.
    fn there(&self) -> Vec<(&Place, PciAddress, VfOf)> {
        let vfs = self.vfs.iter();
        vfs.filter_map(|(place, at)| Some((place, at.address, at.address.vf()?)))
            .collect()
    }

    fn open(&self, number: u16) -> Result<Arc<dyn Function>, KernelNicError> {
        let there = self.there();
        one_pf(&there)?;
        let Some(&(place, address, _)) = there.iter().find(|(_, _, of)| of.number == number) else {
            let known = there.iter().map(|(_, address, of)| (*address, of.number));
            let known = known.collect();
            return Err(KernelNicError::NoSuchVf { number, known });
        };
        let function = place.open()?;
        let mut ids = [0; 4];
        let asked = function.read(region::CONFIG, 0, &mut ids);
        asked.map_err(|source| KernelNicError::Silent { address, source })?;
        let [vendor, device] = [[ids[0], ids[1]], [ids[2], ids[3]]].map(u16::from_le_bytes);
        if (vendor, device) != (VENDOR_INTEL, VF_DEVICE_ID) {
            return Err(KernelNicError::Foreign {
                address,
                vendor,
                device,
            });
        }
        Ok(Arc::new(Passthrough::new(function, &self.limits)))
    }
}

/// The PF driver's policy is for the VFs of one card.
fn one_pf<T>(there: &[(T, PciAddress, VfOf)]) -> Result<(), KernelNicError> {
    match there {
        [(_, first, of), rest @ ..] => match rest.iter().find(|(_, _, other)| other.pf != of.pf) {
            Some(&(_, second, _)) => Err(KernelNicError::TwoPfs {
                first: *first,
                second,
            }),
            None => Ok(()),
        },
        [] => Ok(()),
    }
}

impl Nic for KernelNic {
    fn connect(&self, vf: u16) -> Result<Arc<dyn Function>, Box<dyn Error + Send + Sync>> {
        Ok(self.open(vf)?)
    }

    /// One whose address is not on the bus yet may be any.
    fn serves(&self, vf: u16) -> bool {
        let there = self.there();
        there.len() < self.vfs.len() || there.iter().any(|(_, _, of)| of.number == vf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(names: &[&str]) -> Result<KernelNic, KernelNicError> {
        let places = names.iter().map(|name| name.parse().expect("a place"));
        KernelNic::new(places.collect(), Limits::default())
    }

    #[test]
    fn what_is_no_vf_of_the_kernels_is_refused_with_its_name() {
        let error = nic(&["vfio-user:/run/vf0.sock"]).unwrap_err().to_string();
        assert!(
            error.contains("/run/vf0.sock") && error.contains("--nic"),
            "{error}"
        );
        let twice = nic(&["vfio:0000:01:10.0", "iommufd:0000:01:10.0"]).unwrap_err();
        assert!(twice.to_string().contains("0000:01:10.0"), "{twice}");
    }

    #[test]
    fn a_vf_that_is_not_there_yet_may_be_any_and_says_what_is_missing() {
        let nic = nic(&["vfio:fffe:ff:1f.7"]).expect("a card");
        assert!(nic.serves(3));
        let Err(error) = nic.connect(3) else {
            panic!("connected")
        };
        let error = error.to_string();
        assert!(
            error.contains("number 3") && error.contains("none of them is there"),
            "{error}"
        );
    }

    #[test]
    fn vfs_of_two_pfs_are_refused_whatever_their_numbers() {
        let address = |text: &str| text.parse::<PciAddress>().expect("an address");
        let vf = |at: &str, pf: &str, number| {
            let pf = address(pf);
            ((), address(at), VfOf { pf, number })
        };
        let mut there = vec![
            vf("0000:01:10.0", "0000:01:00.0", 0),
            vf("0000:01:10.2", "0000:01:00.0", 1),
        ];
        one_pf(&there).expect("one PF");
        there.push(vf("0000:02:10.4", "0000:02:00.0", 2));
        let error = one_pf(&there).unwrap_err().to_string();
        assert!(
            error.contains("0000:01:10.0") && error.contains("0000:02:10.4"),
            "{error}"
        );
    }
}
