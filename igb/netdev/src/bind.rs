//! `bind` and `unbind`: giving a function of this machine to the drivers here, and giving it back.

use std::path::PathBuf;

use iommu::backend::kernel::{Binder, Bound, PciAddress, Unbound};
use serde_json::{Value, json};

use crate::ctl;

/// Which function, and how what was done is shown.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The function, as `lspci -D` names it: 0000:BB:DD.F
    #[arg(value_name = "ADDRESS")]
    address: PciAddress,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    /// Where the kernel's tree of devices is
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/sys",
        hide_default_value = true
    )]
    sysfs: PathBuf,
    /// Where to keep which driver the function had
    #[arg(long, value_name = "DIR", default_value = Binder::MEMORY)]
    memory: PathBuf,
}

impl Target {
    fn binder(&self) -> Binder {
        Binder::below(&self.sysfs, &self.memory)
    }

    /// Give the function to vfio-pci.
    ///
    /// # Errors
    ///
    /// It cannot be bound; the error says what mends that.
    pub fn bind(&self) -> anyhow::Result<()> {
        let bound = self.binder().bind(self.address)?;
        for other in &bound.others {
            log::warn!(
                "{other} is in the same IOMMU group, which does not open until that is bound or \
                 unbound too"
            );
        }
        ctl::show(&described(&bound), self.json);
        Ok(())
    }

    /// Give the function to the driver it had.
    ///
    /// # Errors
    ///
    /// It cannot be given back; the error says what mends that.
    pub fn unbind(&self) -> anyhow::Result<()> {
        let Unbound { address, driver } = self.binder().unbind(self.address)?;
        let done = json!({"address": address.to_string(), "driver": driver});
        ctl::show(&done, self.json);
        Ok(())
    }
}

fn described(bound: &Bound) -> Value {
    let others: Vec<Value> = bound
        .others
        .iter()
        .map(|other| json!({"address": other.address, "driver": other.driver}))
        .collect();
    json!({
        "address": bound.address.to_string(),
        "device": format!("vfio:{}", bound.address),
        "driver": "vfio-pci",
        "former": bound.former,
        "group": bound.group,
        "node": bound.node(),
        "changed": bound.changed,
        "others": others,
    })
}
