//! The PF driver of a rig: started, crashed, removed, and asked.

use std::sync::Arc;

use igb::FunctionId;
use igb_driver::netdev::NetDevice as _;
use iommu::backend::{InProcess, KernelVfio, VfioUser};
use iommu::function::Function;
use mediator_protocol::Token;
use pf_driver::{PfChannel, PfDriver, PfError, PfOptions};

use super::{PATIENCE, Rig, TOKEN, Wiring, client_options};
use crate::pf_thread::PfThread;

impl Rig {
    /// The PF as a function.
    #[must_use]
    pub fn pf_function(&self) -> Arc<dyn Function> {
        match self.wiring {
            Wiring::InProcess | Wiring::Hardware => {
                Arc::new(InProcess::new(self.card().function(FunctionId::PF)).expect("the PF"))
            }
            Wiring::Kernel(place) => Arc::new(KernelVfio::open(&place).expect("the PF")),
            Wiring::Sockets => {
                let path = self.sockets.as_ref().expect("sockets").pf_socket();
                Arc::new(VfioUser::connect(&path, client_options()).expect("the PF's socket"))
            }
        }
    }

    /// The channel of a PF driver that shows this token.
    #[must_use]
    pub fn pf_channel(&self, token: Token) -> PfChannel {
        match self.wiring {
            Wiring::InProcess | Wiring::Hardware | Wiring::Kernel(_) => {
                let stream = self.mediator().connect_pf().expect("a socket pair");
                PfChannel::over(stream, token).expect("a channel")
            }
            Wiring::Sockets => PfChannel::connect(&self.path("mediator.sock"), token),
        }
    }

    /// Start a PF driver whose options `change` may alter. It keeps its state in a file.
    pub fn start_pf(&mut self, change: impl FnOnce(&mut PfOptions)) {
        self.try_start_pf(change).expect("the PF driver starts");
        self.pf(|pf| pf.open()).expect("the PF opens");
        self.wait("the mediator to accept the PF driver", |rig| {
            rig.pf(|pf| pf.channel_ready())
        });
    }

    fn try_start_pf(&mut self, change: impl FnOnce(&mut PfOptions)) -> Result<(), PfError> {
        let mut options = PfOptions {
            policy: self.setup.policy.clone(),
            state: Some(self.path("state.json")),
            ..PfOptions::default()
        };
        if self.setup.mtu != 0 {
            options.mtu = self.setup.mtu;
        }
        change(&mut options);
        let (function, channel) = (self.pf_function(), self.pf_channel(TOKEN));
        self.pf = Some(PfThread::start(move || {
            let mut driver = PfDriver::probe(function, options)?;
            driver.attach_channel(channel)?;
            Ok(driver)
        })?);
        Ok(())
    }

    /// The PF driver dies without a word.
    pub fn crash_pf(&mut self) {
        self.pf.take().expect("a PF driver").crash();
    }

    /// The PF driver is removed, in good order.
    pub fn remove_pf(&mut self) {
        self.pf.take().expect("a PF driver").remove();
    }

    /// Have the PF driver do something.
    pub fn pf<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut PfDriver) -> R + Send + 'static,
    ) -> R {
        self.pf.as_ref().expect("a PF driver").call(job)
    }

    /// Have the PF driver do something, without waiting for it.
    pub fn pf_begin(&self, job: impl FnOnce(&mut PfDriver) + Send + 'static) {
        self.pf.as_ref().expect("a PF driver").begin(job);
    }

    /// `sriov_configure`, while the VF drivers do what they must. The VFs are on the bus afterwards.
    pub fn sriov_configure(&mut self, vfs: u16) {
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        let pf = self.pf.as_ref().expect("a PF driver");
        pf.begin(move |pf| drop(done.send(pf.sriov_configure(vfs))));
        let mut result = None;
        self.wait("sriov_configure", |_| {
            result = outcome.try_recv().ok();
            result.is_some()
        });
        result.expect("it came").expect("sriov_configure");
        for vf in 0..vfs {
            assert!(
                self.mediator().wait_for_device(vf, PATIENCE).is_some(),
                "VF {vf} is not on the bus"
            );
        }
    }
}
