//! What interrupts and timers tell of: link, mailboxes, spoofed frames, a queue that stands still,
//! counters that wrap.

use std::time::Instant;

use igb::{ICR, STATUS};
use igb_driver::interrupt::OTHER_VECTOR;
use igb_driver::netdev::Changes;
use igb_driver::queue::QueueFailure;

use super::{PfDriver, STATS_PERIOD, WATCHDOG};
use crate::error::PfError;

impl PfDriver {
    /// Handles causes of ICR: link, mailboxes, spoofed frames.
    fn handle_other(&mut self) -> Result<Changes, PfError> {
        self.other_interrupts += 1;
        let handled = self.handle_causes();
        // Also after a failure: the next cause may fare better.
        self.interrupts.arm(&self.regs, OTHER_VECTOR)?;
        handled
    }

    fn handle_causes(&mut self) -> Result<Changes, PfError> {
        let mut changes = Changes::default();
        let causes = self.regs.read::<ICR>()?;
        if causes.has(ICR::LSC) {
            changes.link = self.update_link()?;
        }
        if causes.has(ICR::VMMB) {
            self.serve_mailboxes()?;
            self.handle_vf_resets()?;
        }
        if causes.has(ICR::DOUTSYNC) {
            self.vf_counters.note_spoofed(&self.regs)?;
        }
        self.tell_untold()?;
        Ok(changes)
    }

    fn update_link(&mut self) -> Result<bool, PfError> {
        let up = self.regs.read::<STATUS>()?.has(STATUS::LU);
        if up == self.link_up {
            return Ok(false);
        }
        self.link_up = up;
        log::info!("link is {}", if up { "up" } else { "down" });
        let vfs: Vec<u8> = self.arbiter.switch.vports().map(|(vf, _)| vf).collect();
        for vf in vfs {
            self.announce_link(vf)?;
        }
        Ok(true)
    }

    pub(super) fn service_all(&mut self) -> Result<Changes, PfError> {
        let mut changes = Changes::default();
        if self.interrupts.take(OTHER_VECTOR) {
            changes = self.handle_other()?;
        } else if Instant::now() >= self.watchdog {
            self.watchdog = Instant::now() + WATCHDOG;
            changes.reset = self.look_after_queue()?;
            if !self.was_reset {
                // Causes stay in ICR when the message about them gets lost.
                changes = changes.and(self.handle_causes()?);
                self.interrupts.rearm(&self.regs, OTHER_VECTOR)?;
            }
        }
        self.poll_channel()?;
        if self.num_vfs() != 0 && Instant::now() >= self.stats_due {
            self.update_vf_stats()?;
        }
        Ok(changes)
    }

    /// Start the queue anew if it stands still; whether that was done.
    fn look_after_queue(&mut self) -> Result<bool, PfError> {
        // A function that does not answer reads all ones, and one that was reset does not answer.
        let silent = self.regs.read::<STATUS>()?.raw() == u32::MAX;
        let failure = match silent {
            true => Some(QueueFailure::Reset),
            false => self.port.failure(&self.regs, Instant::now())?,
        };
        match failure {
            None => Ok(false),
            Some(QueueFailure::Reset) => {
                log::error!("the PF was reset from outside");
                self.was_reset = true;
                Ok(false)
            }
            Some(QueueFailure::TransmitHangs) => {
                log::warn!("the card does not send what it was given: the queue is started anew");
                self.port.stop(&self.regs, &mut self.interrupts);
                let mtu = self.arbiter.switch.pf_mtu;
                self.port
                    .open(&self.regs, &self.container, &mut self.interrupts, mtu)?;
                Ok(true)
            }
        }
    }

    pub(crate) fn update_vf_stats(&mut self) -> Result<(), PfError> {
        self.stats_due = Instant::now() + STATS_PERIOD;
        for (vf, _) in self.arbiter.switch.vports() {
            self.vf_counters.update(&self.regs, vf)?;
        }
        Ok(())
    }
}
