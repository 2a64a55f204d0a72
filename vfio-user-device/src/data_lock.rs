//! The lock around the data path: a worker holds it round after round, and connection threads that
//! come to it now and then go first.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::lock;

/// How long a connection thread waits before it cancels what holds the worker up.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

/// How long the worker lets a visitor take its turn, in case that one was held up for good.
const COURTESY: Duration = Duration::from_millis(100);

/// A mutex with a regular user and visitors.
pub(crate) struct DataLock<T> {
    data: Mutex<T>,
    /// Visitors that wait.
    visitors: Mutex<u32>,
    released: Condvar,
    served: Condvar,
}

pub(crate) struct DataGuard<'a, T> {
    /// `None` only while it is dropped.
    guard: Option<MutexGuard<'a, T>>,
    lock: &'a DataLock<T>,
}

impl<T> DataLock<T> {
    pub(crate) fn new(data: T) -> Self {
        Self {
            data: Mutex::new(data),
            visitors: Mutex::new(0),
            released: Condvar::new(),
            served: Condvar::new(),
        }
    }

    /// Lock as the worker: after the visitors.
    pub(crate) fn lock_last(&self) -> DataGuard<'_, T> {
        let end = Instant::now() + COURTESY;
        let mut visitors = lock(&self.visitors);
        while *visitors > 0 {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                break;
            };
            visitors = self
                .served
                .wait_timeout(visitors, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(visitors);
        self.guard(lock(&self.data))
    }

    /// Lock as a visitor. `held_up` is called once, if it takes longer than [`PATIENCE`].
    pub(crate) fn visit(&self, held_up: impl FnOnce()) -> DataGuard<'_, T> {
        if let Some(guard) = self.try_lock() {
            return self.guard(guard);
        }
        let end = Instant::now() + PATIENCE;
        let mut visitors = lock(&self.visitors);
        *visitors += 1;
        let guard = loop {
            if let Some(guard) = self.try_lock() {
                break guard;
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                drop(visitors);
                held_up();
                let guard = lock(&self.data);
                visitors = lock(&self.visitors);
                break guard;
            };
            visitors = self
                .released
                .wait_timeout(visitors, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        *visitors -= 1;
        if *visitors == 0 {
            self.served.notify_all();
        }
        drop(visitors);
        self.guard(guard)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.data.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn guard<'a>(&'a self, guard: MutexGuard<'a, T>) -> DataGuard<'a, T> {
        DataGuard {
            guard: Some(guard),
            lock: self,
        }
    }
}

impl<T> Deref for DataGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("only a dropped guard is empty")
    }
}

impl<T> DerefMut for DataGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("only a dropped guard is empty")
    }
}

impl<T> Drop for DataGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.guard.take());
        // A visitor looks at the lock with `visitors` held, so it either sees it free or is told.
        if *lock(&self.lock.visitors) > 0 {
            self.lock.released.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;

    #[test]
    fn a_visitor_gets_its_turn_from_a_worker_that_never_rests() {
        let shared = Arc::new(DataLock::new(0_u64));
        let stop = Arc::new(AtomicBool::new(false));
        let worker = thread::spawn({
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    *shared.lock_last() += 1;
                }
            }
        });
        let visits: Vec<_> = (0..3)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    for _ in 0..200 {
                        *shared.visit(|| {}) += 1;
                    }
                })
            })
            .collect();
        for visit in visits {
            visit.join().expect("a visitor ends");
        }
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("the worker ends");
        assert!(*shared.lock_last() >= 600);
    }

    #[test]
    fn a_visitor_that_is_held_up_says_so_once_and_still_gets_the_lock() {
        let shared = Arc::new(DataLock::new(()));
        let guard = shared.lock_last();
        let (told, hears) = mpsc::channel();
        let calls = Arc::new(AtomicU32::new(0));
        let visitor = thread::spawn({
            let (shared, calls) = (Arc::clone(&shared), Arc::clone(&calls));
            move || {
                drop(shared.visit(|| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    told.send(()).expect("heard");
                }));
            }
        });
        hears.recv().expect("the visitor lost patience");
        drop(guard);
        visitor.join().expect("the visitor ends");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
