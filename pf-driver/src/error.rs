//! What can go wrong in the PF driver.

use std::io;
use std::path::PathBuf;

use igb_driver::DriverError;
use mediator_protocol as protocol;

/// A step of the PF driver failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PfError {
    /// No mediator has accepted this driver.
    #[error("no mediator is connected; start one and name its --pf-socket with --mediator")]
    NoMediator,
    /// The device below failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The function is no 82576 PF.
    #[error("{vendor:04x}:{device:04x} is not the PF of an 82576 (8086:10c9); check --device")]
    WrongDevice {
        /// Vendor id.
        vendor: u16,
        /// Device id.
        device: u16,
    },
    /// The NVM does not sum up to what it must.
    #[error("the NVM's checksum is {found:#06x}, not 0xbaba; the card's NVM is damaged")]
    NvmChecksum {
        /// Sum of words 0 to 0x3F.
        found: u16,
    },
    /// The card did not finish in time.
    #[error("the card did not finish {what} in time; it hangs, or something else owns it")]
    Timeout {
        /// What was waited for.
        what: &'static str,
    },
    /// The card's address is not one a station can have.
    #[error("the card's NVM holds {0}, which no station can have")]
    NvmMac(igb::frame::MacAddress),
    /// The device has no SR-IOV.
    #[error("this device offers no SR-IOV (behind a VM's virtual PCI bus the PF has no VFs)")]
    NoSriov,
    /// More VFs than the device has.
    #[error("{asked} VFs asked for, {most} are possible")]
    TooManyVfs {
        /// How many were asked for.
        asked: u16,
        /// How many are possible: one pool stays the PF's.
        most: u16,
    },
    /// Another number of VFs is enabled.
    #[error("{enabled} VFs are enabled; disable them first (set 0)")]
    VfsEnabled {
        /// How many are.
        enabled: u16,
    },
    /// There is no such VF.
    #[error("VF {0} is not enabled")]
    NoSuchVf(u16),
    /// An NIC switch operation out of order.
    #[error("{0}")]
    Order(&'static str),
    /// The address is not one a station can have.
    #[error("{0} is zero, multicast or broadcast")]
    InvalidMac(igb::frame::MacAddress),
    /// Another function has the address.
    #[error("{0} belongs to another function of this card")]
    MacInUse(igb::frame::MacAddress),
    /// The VLAN table is full.
    #[error("the card's 32 VLAN filters are all in use")]
    VlanTableFull,
    /// The value is out of range.
    #[error("{0}")]
    PolicyValue(&'static str),
    /// The device cannot do it.
    #[error("the 82576 has no {0} (EOPNOTSUPP)")]
    NotSupported(&'static str),
    /// This card cannot do what an 82576 can.
    #[error("this card has no {0} (EOPNOTSUPP); `show` lists what it lacks")]
    CardLacks(&'static str),
    /// The policy file cannot be read.
    #[error("cannot read the policy file {path}: {source}")]
    PolicyRead {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The policy file is not what it must be.
    #[error("the policy file is not valid: {0}")]
    PolicyParse(serde_json::Error),
    /// The state file cannot be read or written.
    #[error("cannot {what} the state file {path}: {source}")]
    State {
        /// Read or write.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The channel's socket failed.
    #[error("the mediator's socket {path}: {source}")]
    Channel {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mediator said something that no mediator says.
    #[error("the mediator sent a message that is not valid: {0}")]
    ChannelMessage(#[from] protocol::Invalid),
    /// The mediator refused this PF driver.
    #[error("the mediator refused this PF driver: {0}")]
    Refused(String),
}

impl From<iommu::function::FunctionError> for PfError {
    fn from(error: iommu::function::FunctionError) -> Self {
        Self::Driver(error.into())
    }
}
