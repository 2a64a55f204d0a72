//! A VF's configuration space (datasheet 9.7), with the ids, the BARs and the memory enable bit that a
//! hypervisor presents: on a bus a VF's ids read all ones, its BARs and that bit 0. The bit is storage;
//! whether the VF's memory responds is for VF MSE in the PF.

use igb::pci::{self, command, express, header};

use super::builder::{Builder, ConfigSpace};
use super::pf::{common, express_capability, extended, msix_capability};

/// A VF after its reset.
pub(crate) fn vf_config_space() -> ConfigSpace {
    let mut b = Builder::new();
    common(&mut b, pci::VF_DEVICE_ID);
    b.u16_rw(header::COMMAND, 0, command::VF_WRITABLE | command::MEMORY)
        .bars(header::BAR0, &pci::VF_BARS);
    msix_capability(&mut b, pci::VF_MSIX_VECTORS, pci::VF_BAR_MSIX.index);
    express_capability(&mut b, express::STATUS_WRITE_ONE_CLEAR);
    extended(&mut b);
    b.build()
}
