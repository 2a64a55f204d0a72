//! Time in a rig: the drivers go on while something is waited for.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use igb_driver::netdev::NetDevice as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{PATIENCE, Rig};

/// How often a condition is looked at that no event announces (counters of the card).
const LOOK: Duration = Duration::from_millis(5);

impl Rig {
    /// Let every driver do what it has to.
    pub fn pump(&mut self) {
        for vf in &self.vfs {
            if let Some((slot, function)) = &vf.plugged {
                let now = self
                    .mediator
                    .as_ref()
                    .and_then(|mediator| mediator.device(vf.number));
                if now.is_none_or(|now| !Arc::ptr_eq(&now, slot)) {
                    function.remove();
                }
            }
        }
        for vf in &mut self.vfs {
            vf.changes = vf.changes.and(vf.driver.service());
            while vf
                .driver
                .poll(64, &mut |frame| vf.received.push_back(frame.to_vec()))
                == 64
            {}
        }
        if let Some(pf) = &self.pf {
            self.pf_received.extend(pf.take_received());
        }
    }

    /// Wait until `done`, while the drivers go on.
    ///
    /// # Panics
    ///
    /// If it does not come about.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.pump();
            if done(self) {
                return;
            }
            assert!(Instant::now() < end, "waited in vain for {what}");
            let timeouts = self.vfs.iter().filter_map(|vf| vf.driver.next_timeout());
            let timeout = timeouts.min().unwrap_or(LOOK).min(LOOK);
            let vfs = self.vfs.iter().flat_map(|vf| vf.driver.event_fds());
            let pf = self.pf.iter().map(|pf| pf.news().as_fd());
            let mut fds: Vec<_> = vfs
                .chain(pf)
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            let _ = poll(
                &mut fds,
                PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
            );
        }
    }
}
