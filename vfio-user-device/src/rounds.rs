//! Waits until the worker has been round once more, so that what it did before is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::kick::Kick;
use crate::lock;

/// Nobody waits longer: a worker that is held up by a client's memory comes round when it can.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub(crate) struct Rounds {
    asked: AtomicU64,
    done: Mutex<u64>,
    changed: Condvar,
}

impl Rounds {
    /// Wait for a whole round of the worker that begins after this call; `false` if none came.
    pub(crate) fn wait(&self, kick: &Kick) -> bool {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        kick.ring();
        let end = Instant::now() + PATIENCE;
        let mut done = lock(&self.done);
        while *done < ticket {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return false;
            };
            done = self
                .changed
                .wait_timeout(done, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// A round begins; what to give to [`Self::end`].
    pub(crate) fn begin(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// The round is over.
    pub(crate) fn end(&self, begun: u64, last: &mut u64) {
        if begun != *last {
            *last = begun;
            *lock(&self.done) = begun;
            self.changed.notify_all();
        }
    }
}
