//! Wakes the worker, at the price of a system call only when it sleeps.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use iommu::interrupt::{EventFd, InterruptError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// While the worker is awake it looks at every deadline before it sleeps.
const AWAKE: u64 = 0;
const NEVER: u64 = u64::MAX;

/// See the module.
pub(crate) struct Kick {
    event: EventFd,
    pending: AtomicBool,
    /// The time, on the card's clock, at which the worker wakes by itself; [`AWAKE`] while it is
    /// awake.
    wakes_at: AtomicU64,
}

impl Kick {
    pub(crate) fn new() -> Result<Self, InterruptError> {
        Ok(Self {
            event: EventFd::new()?,
            pending: AtomicBool::new(false),
            wakes_at: AtomicU64::new(AWAKE),
        })
    }

    /// There is work.
    pub(crate) fn ring(&self) {
        // SeqCst against `prepare`: either this sees that the worker is about to sleep, or the worker
        // sees that work is pending.
        if !self.pending.swap(true, Ordering::SeqCst)
            && self.wakes_at.load(Ordering::SeqCst) != AWAKE
        {
            self.event.signal();
        }
    }

    /// There will be work at `deadline`.
    pub(crate) fn ring_at(&self, deadline: u64) {
        if deadline < self.wakes_at.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// The worker is about to look for work.
    pub(crate) fn clear(&self) {
        self.pending.store(false, Ordering::SeqCst);
    }

    /// The worker will sleep if nothing comes up; called before it looks at the deadlines.
    pub(crate) fn prepare(&self) {
        self.wakes_at.store(NEVER, Ordering::SeqCst);
    }

    /// The worker does not sleep after all, or is awake again.
    pub(crate) fn awake(&self) {
        self.wakes_at.store(AWAKE, Ordering::SeqCst);
    }

    /// Sleep until there is work, one of `others` is readable, or it is `deadline` on the clock that
    /// says `now`. Which of `others` are readable.
    pub(crate) fn sleep<const N: usize>(
        &self,
        others: [Option<BorrowedFd<'_>>; N],
        deadline: Option<u64>,
        now: u64,
    ) -> [bool; N] {
        self.wakes_at
            .store(deadline.unwrap_or(NEVER).max(AWAKE + 1), Ordering::SeqCst);
        let mut readable = [false; N];
        let due = deadline.is_some_and(|deadline| deadline <= now);
        let pending = self.pending.load(Ordering::SeqCst);
        // Descriptors are looked at even if there is no time to sleep.
        let timeout = match deadline {
            _ if pending || due => Some(Duration::ZERO),
            Some(deadline) => Some(Duration::from_nanos(deadline - now)),
            None => None,
        };
        let mut fds = Vec::with_capacity(1 + N);
        fds.push(PollFd::new(self.event.as_fd(), PollFlags::POLLIN));
        fds.extend(
            others
                .iter()
                .flatten()
                .map(|fd| PollFd::new(*fd, PollFlags::POLLIN)),
        );
        match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => log::error!("the worker cannot wait: {errno}"),
        }
        self.awake();
        let mut polled = fds[1..].iter();
        for (flag, other) in readable.iter_mut().zip(others) {
            if other.is_some() {
                *flag = polled.next().is_some_and(|fd| fd.any().unwrap_or(false));
            }
        }
        if fds[0].any().unwrap_or(false) {
            self.event.take();
        }
        readable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn no_ring_is_lost_between_looking_and_sleeping() {
        let kick = Arc::new(Kick::new().expect("a kick"));
        let done = Arc::new(AtomicU64::new(0));
        let ringer = thread::spawn({
            let (kick, done) = (Arc::clone(&kick), Arc::clone(&done));
            move || {
                for _ in 0..20_000 {
                    done.fetch_add(1, Ordering::SeqCst);
                    kick.ring();
                }
            }
        });
        // Sleeps without a deadline: a lost ring would hang this test.
        loop {
            kick.clear();
            if done.load(Ordering::SeqCst) == 20_000 {
                break;
            }
            kick.prepare();
            kick.sleep([None; 0], None, 0);
        }
        ringer.join().expect("the ringer ends");
    }

    #[test]
    fn an_earlier_deadline_rings_and_a_later_one_does_not() {
        let kick = Kick::new().expect("a kick");
        kick.prepare();
        kick.ring_at(500);
        assert!(
            kick.pending.load(Ordering::SeqCst),
            "nothing is planned yet: anything is earlier"
        );
        kick.clear();
        kick.awake();
        kick.ring_at(500);
        assert!(
            !kick.pending.load(Ordering::SeqCst),
            "an awake worker looks by itself"
        );
        kick.prepare();
        kick.wakes_at.store(400, Ordering::SeqCst);
        kick.ring_at(500);
        assert!(!kick.pending.load(Ordering::SeqCst));
    }
}
