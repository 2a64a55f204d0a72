//! The VF as a network device.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use igb::frame::MacAddress;
use igb_driver::DriverError;
use igb_driver::netdev::{Changes, Counters, NetDevice, XmitError};
use igb_driver::offload::{Offloads, RxChecksum, TxOffload};
use mediator_protocol::Status;
use mediator_protocol::block::{ConfigFlags, VfRequest};

use crate::driver::VfDriver;
use crate::error::VfError;

/// Smallest MTU that IPv4 allows (RFC 791).
const MIN_MTU: u32 = 68;

impl NetDevice for VfDriver {
    fn mac(&self) -> MacAddress {
        VfDriver::mac(self)
    }

    fn mtu(&self) -> u32 {
        self.granted.mtu
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<(), DriverError> {
        let max = self.granted.max_mtu;
        if !(MIN_MTU..=max).contains(&mtu) {
            return Err(DriverError::Mtu {
                mtu,
                min: MIN_MTU,
                max,
            });
        }
        match self.request(&VfRequest::SetMtu(mtu)) {
            Ok(Status::Ok) => {}
            Ok(status) => {
                let why = format!("{status:?}");
                return Err(DriverError::Refused {
                    what: "the MTU",
                    why,
                });
            }
            Err(VfError::Driver(error)) => return Err(error),
            Err(VfError::Function(error)) => return Err(error.into()),
            Err(error) => {
                return Err(DriverError::Refused {
                    what: "the MTU",
                    why: error.to_string(),
                });
            }
        }
        // Buffers are made for an MTU.
        if self.port.is_open() {
            self.port.stop(&self.regs, &mut self.interrupts);
            self.port
                .open(&self.regs, &self.container, &mut self.interrupts, mtu)?;
        }
        Ok(())
    }

    fn carrier(&self) -> bool {
        self.granted.flags.contains(ConfigFlags::LINK_UP) && !self.is_waiting()
    }

    fn speed(&self) -> Option<u32> {
        self.carrier().then_some(self.granted.speed)
    }

    fn open(&mut self) -> Result<(), DriverError> {
        self.wanted_open = true;
        if self.is_waiting() {
            return Ok(());
        }
        self.port.open(
            &self.regs,
            &self.container,
            &mut self.interrupts,
            self.granted.mtu,
        )
    }

    fn stop(&mut self) {
        self.wanted_open = false;
        self.port.stop(&self.regs, &mut self.interrupts);
    }

    fn xmit(&mut self, frame: &[u8]) -> Result<(), XmitError> {
        self.xmit_offloaded(frame, TxOffload::NONE)
    }

    fn offloads(&self) -> Offloads {
        self.port.offloads()
    }

    fn xmit_offloaded(&mut self, frame: &[u8], offload: TxOffload) -> Result<(), XmitError> {
        if self.gone {
            return Err(XmitError::Gone);
        }
        self.port.xmit(frame, offload)
    }

    fn flush(&mut self) {
        self.port.flush(&self.regs);
    }

    fn poll(&mut self, budget: usize, receive: &mut dyn FnMut(&[u8])) -> usize {
        self.poll_verified(budget, &mut |frame, _| receive(frame))
    }

    fn poll_verified(
        &mut self,
        budget: usize,
        receive: &mut dyn FnMut(&[u8], RxChecksum),
    ) -> usize {
        self.port
            .poll(&self.regs, &mut self.interrupts, budget, receive)
    }

    fn set_busy_poll(&mut self, on: bool) {
        if let Err(error) = self
            .port
            .set_busy_poll(&self.regs, &mut self.interrupts, on)
        {
            log::warn!("busy polling: {error}");
        }
    }

    fn service(&mut self) -> Changes {
        self.look()
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.interrupts.event_fd()]
    }

    fn next_timeout(&self) -> Option<Duration> {
        self.next_retry()
    }

    fn gone(&self) -> bool {
        self.gone
    }

    fn stats(&self) -> Counters {
        let mut counters = self.port.counters();
        counters.push("resets", self.resets());
        counters
    }
}
