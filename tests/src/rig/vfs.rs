//! The VFs of a rig and their drivers.

use std::sync::Arc;

use igb_driver::netdev::NetDevice as _;
use iommu::backend::{InProcess, VfioUser};
use iommu::function::Function;
use pf_driver::VfConfig;
use vf_driver::{Status, VfDriver, VfError, VfOptions, VfRequest};

use super::{PATIENCE, Plugged, Rig, Vf, Wiring, client_options};

impl Rig {
    /// A VF's function, as its guest gets it; waits for the VF to be on the bus.
    #[must_use]
    pub fn vf_function(&self, vf: u16) -> Arc<dyn Function> {
        self.plug(vf).0
    }

    fn plug(&self, vf: u16) -> (Arc<dyn Function>, Plugged) {
        let device = self.mediator().wait_for_device(vf, PATIENCE);
        let device = device.unwrap_or_else(|| panic!("VF {vf} does not come onto the bus"));
        match self.wiring {
            Wiring::InProcess | Wiring::Hardware | Wiring::Kernel(_) => {
                let function = Arc::new(InProcess::new(Arc::clone(&device)).expect("the VF"));
                (Arc::clone(&function) as _, Some((device, function)))
            }
            Wiring::Sockets => {
                let path = mediator::nic::vf_socket(&self.path("guests"), vf);
                let function = VfioUser::connect(&path, client_options());
                (Arc::new(function.expect("the VF's socket")), None)
            }
        }
    }

    /// Probe a VF and open it.
    pub fn probe(&mut self, vf: u16) {
        self.try_probe(vf)
            .unwrap_or_else(|error| panic!("VF {vf} cannot be probed: {error}"));
    }

    /// [`Self::probe`], which may fail.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn try_probe(&mut self, vf: u16) -> Result<(), VfError> {
        assert!(
            self.vfs.iter().all(|other| other.number != vf),
            "VF {vf} has a driver"
        );
        let (function, plugged) = self.plug(vf);
        let mut driver = VfDriver::probe(Arc::clone(&function), &VfOptions::default())?;
        driver.open()?;
        let (received, changes) = Default::default();
        self.vfs.push(Vf {
            number: vf,
            driver,
            function,
            plugged,
            received,
            changes,
        });
        Ok(())
    }

    /// Remove a VF's driver; the tenant is gone.
    pub fn remove(&mut self, vf: u16) {
        let at = self
            .vfs
            .iter()
            .position(|other| other.number == vf)
            .expect("a VF with a driver");
        let vf = self.vfs.remove(at);
        vf.driver.remove();
    }

    /// The VF's driver and its connection go without a word.
    pub fn crash(&mut self, vf: u16) {
        self.vfs.retain(|other| other.number != vf);
    }

    /// A VF with a driver.
    pub fn vf(&mut self, vf: u16) -> &mut Vf {
        self.vfs
            .iter_mut()
            .find(|other| other.number == vf)
            .expect("a VF with a driver")
    }

    /// VFs with a driver.
    #[must_use]
    pub fn driven(&self) -> Vec<u16> {
        self.vfs.iter().map(|vf| vf.number).collect()
    }

    /// Ask the PF in the name of a VF.
    pub fn request(&mut self, vf: u16, request: VfRequest) -> Status {
        self.vf(vf)
            .driver
            .request(&request)
            .expect("the request can be made")
    }

    /// A VF as the PF driver has it.
    #[must_use]
    pub fn config(&self, vf: u16) -> VfConfig {
        self.pf(move |pf| pf.get_vf_config(vf))
            .expect("the VF is enabled")
    }
}
