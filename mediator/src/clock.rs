//! Time, and a timer thread's view of it. Tests hold the clock in their hands.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A clock that only goes forward. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// Counts [`Clock::wake`], so that a waiter misses none.
    wakes: Mutex<u64>,
    woken: Condvar,
}

#[derive(Debug)]
enum Source {
    Monotonic(Instant),
    Manual(AtomicU64),
}

impl Clock {
    /// The system's.
    pub fn monotonic() -> Self {
        Self::new(Source::Monotonic(Instant::now()))
    }

    /// One that stands still but for [`Self::advance`].
    pub fn manual() -> Self {
        Self::new(Source::Manual(AtomicU64::new(0)))
    }

    fn new(source: Source) -> Self {
        Self(Arc::new(Inner {
            source,
            wakes: Mutex::default(),
            woken: Condvar::new(),
        }))
    }

    /// Nanoseconds since the clock was made.
    pub fn now(&self) -> u64 {
        match &self.0.source {
            Source::Monotonic(start) => {
                u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
            }
            Source::Manual(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Move a manual clock forward.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0.source {
            now.fetch_add(
                u64::try_from(by.as_nanos()).unwrap_or(u64::MAX),
                Ordering::SeqCst,
            );
            self.wake();
        }
    }

    fn wakes(&self) -> MutexGuard<'_, u64> {
        self.0.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// End every [`Self::wait`].
    fn wake(&self) {
        *self.wakes() += 1;
        self.0.woken.notify_all();
    }

    /// Wait until the clock shows `until` (`None`: no end) or [`Self::wake`] was called more often
    /// than `seen` times.
    fn wait(&self, seen: u64, until: Option<u64>) {
        let mut wakes = self.wakes();
        while *wakes == seen {
            let left = until.map(|until| Duration::from_nanos(until.saturating_sub(self.now())));
            wakes = match (&self.0.source, left) {
                (_, Some(Duration::ZERO)) => return,
                (Source::Monotonic(_), Some(left)) => {
                    self.0
                        .woken
                        .wait_timeout(wakes, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                _ => self
                    .0
                    .woken
                    .wait(wakes)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// What has come due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// The oldest mailbox request of a slot.
    Deadline {
        slot: u16,
        /// Tells one VF in a slot from the next.
        occupancy: u64,
    },
    /// The time that a guest had to let go.
    Eject { slot: u16, occupancy: u64 },
}

/// Things to do at their time. [`Self::run`] is the thread that does them.
pub(crate) struct Timer {
    clock: Clock,
    due: Mutex<BinaryHeap<Reverse<(u64, Due)>>>,
    stopped: AtomicBool,
}

impl Timer {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            due: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Have `due` done when the clock shows `at`.
    pub(crate) fn arm(&self, at: u64, due: Due) {
        let mut heap = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = heap.peek().is_none_or(|Reverse((first, _))| at < *first);
        heap.push(Reverse((at, due)));
        drop(heap);
        if earliest {
            self.clock.wake();
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.clock.wake();
    }

    /// Do what comes due until [`Self::stop`]. `fire` must not block.
    pub(crate) fn run(&self, fire: impl Fn(Due)) {
        loop {
            let seen = *self.clock.wakes();
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let next = loop {
                let mut heap = self.due.lock().unwrap_or_else(PoisonError::into_inner);
                match heap.peek().copied() {
                    None => break None,
                    Some(Reverse((at, _))) if at > self.clock.now() => break Some(at),
                    Some(Reverse((_, due))) => {
                        heap.pop();
                        drop(heap);
                        fire(due);
                    }
                }
            };
            self.clock.wait(seen, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn fires_in_order_as_the_clock_advances() {
        let clock = Clock::manual();
        let timer = Timer::new(clock.clone());
        let (fired, fires) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| timer.run(|due| fired.send(due).unwrap()));
            timer.arm(
                20,
                Due::Deadline {
                    slot: 2,
                    occupancy: 1,
                },
            );
            timer.arm(
                10,
                Due::Deadline {
                    slot: 1,
                    occupancy: 1,
                },
            );
            clock.advance(Duration::from_nanos(10));
            assert_eq!(
                fires.recv(),
                Ok(Due::Deadline {
                    slot: 1,
                    occupancy: 1
                })
            );
            assert!(fires.try_recv().is_err(), "20 has not come");
            clock.advance(Duration::from_nanos(10));
            assert_eq!(
                fires.recv(),
                Ok(Due::Deadline {
                    slot: 2,
                    occupancy: 1
                })
            );
            timer.stop();
        });
    }

    #[test]
    fn the_monotonic_clock_fires_too() {
        let timer = Timer::new(Clock::monotonic());
        let (fired, fires) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| timer.run(|due| fired.send(due).unwrap()));
            timer.arm(
                timer.clock.now() + 1_000_000,
                Due::Eject {
                    slot: 0,
                    occupancy: 1,
                },
            );
            assert_eq!(
                fires.recv(),
                Ok(Due::Eject {
                    slot: 0,
                    occupancy: 1
                })
            );
            timer.stop();
        });
    }
}
