//! The PF's own network device.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use igb::frame::MacAddress;
use igb_driver::DriverError;
use igb_driver::netdev::{Changes, Counters, NetDevice, XmitError};
use igb_driver::offload::{Offloads, RxChecksum, TxOffload};

use super::{PfDriver, check_mtu};
use crate::vport::LINK_MBITS;

impl NetDevice for PfDriver {
    fn mac(&self) -> MacAddress {
        self.arbiter.switch.pf_mac
    }

    fn mtu(&self) -> u32 {
        self.arbiter.switch.pf_mtu
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<(), DriverError> {
        check_mtu(mtu)?;
        let was_open = self.port.is_open();
        self.stop();
        self.change_pf_mtu(mtu)
            .map_err(|_| DriverError::State("the PF's MTU could not be set: the card is gone"))?;
        if was_open { self.open() } else { Ok(()) }
    }

    fn carrier(&self) -> bool {
        self.link_up && !self.gone
    }

    fn speed(&self) -> Option<u32> {
        self.carrier().then_some(LINK_MBITS)
    }

    fn open(&mut self) -> Result<(), DriverError> {
        self.port.open(
            &self.regs,
            &self.container,
            &mut self.interrupts,
            self.arbiter.switch.pf_mtu,
        )
    }

    fn stop(&mut self) {
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
        if self.gone {
            return 0;
        }
        self.port
            .poll(&self.regs, &mut self.interrupts, budget, receive)
    }

    fn set_busy_poll(&mut self, on: bool) {
        if let Err(error) = self
            .port
            .set_busy_poll(&self.regs, &mut self.interrupts, on)
            && !self.gone()
        {
            log::warn!("the queue's interrupt did not change: {error}");
        }
    }

    fn service(&mut self) -> Changes {
        if self.gone {
            return Changes::default();
        }
        let result = self.service_all();
        if self.regs.function().lost() || self.port.is_lost() || self.was_reset {
            log::error!("the PF is gone; every VF is gone with it");
            self.gone = true;
            self.link_up = false;
            self.lose_vfs();
            return Changes {
                gone: true,
                link: true,
                ..Changes::default()
            };
        }
        result.unwrap_or_else(|error| {
            log::error!("{error}");
            Changes::default()
        })
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.interrupts.event_fd()]
    }

    fn next_timeout(&self) -> Option<Duration> {
        if self.gone {
            return None;
        }
        let stats =
            (self.num_vfs() != 0).then(|| self.stats_due.saturating_duration_since(Instant::now()));
        let watchdog = self.watchdog.saturating_duration_since(Instant::now());
        [stats, self.channel_timeout(), Some(watchdog)]
            .into_iter()
            .flatten()
            .min()
    }

    fn gone(&self) -> bool {
        self.gone || self.regs.function().lost()
    }

    fn stats(&self) -> Counters {
        let mut counters = self.port.counters();
        counters.push("other_interrupts", self.other_interrupts);
        counters.push("mailbox_requests", self.mailbox_requests);
        counters.push("mailbox_unanswered", self.mailbox_unanswered);
        counters.push("state_file_errors", self.state_errors);
        self.append_channel_counters(&mut counters);
        self.append_vf_counters(&mut counters);
        counters
    }
}
