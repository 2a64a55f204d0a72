//! DMA by message, fenced so that one slow or silent client cannot hold the card up.
//!
//! A worker that waits for a client's answer does nothing for the other functions meanwhile. The
//! address space leaves a client alone that does not answer at all; here a client that is slow time
//! after time loses the right for a while that doubles with each lapse, and its DMA fails at once.
//! And while a connection thread waits for the worker, DMA to that thread's own client is held: a
//! client such as QEMU answers nothing before it has its own answer.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use igb::FunctionId;
use nix::errno::Errno;
use vfio_user::device::DmaClient;

use crate::lock;

/// How long the server waits for the answer to one DMA message.
pub(crate) const DMA_TIMEOUT: Duration = Duration::from_millis(250);

/// An answer that took longer counts as slow.
const SLOW: Duration = Duration::from_millis(5);

/// Slow answers may take this much in all of each [`WINDOW`].
const SLOW_BUDGET: Duration = Duration::from_millis(250);
const WINDOW: Duration = Duration::from_secs(2);

/// A request may be on its way to the client when it is cancelled: cancel again after this long.
const CANCEL_AGAIN: Duration = Duration::from_millis(1);

const FIRST_QUARANTINE: Duration = Duration::from_secs(1);
const LONGEST_QUARANTINE: Duration = Duration::from_secs(64);

/// A client's DMA by message, for the time of its connection.
pub(crate) struct FencedDma {
    function: FunctionId,
    client: Arc<dyn DmaClient>,
    state: Mutex<State>,
    /// A request has come back.
    ended: Condvar,
}

struct State {
    /// Connection threads that wait for the worker.
    holds: u32,
    /// Requests that the client has been asked, or is about to be.
    under_way: u32,
    conduct: Conduct,
}

/// What a client's answers have cost, as a pure function of their times.
#[derive(Debug)]
struct Conduct {
    window_began: Instant,
    slow: Duration,
    lapse: Duration,
    barred_until: Option<Instant>,
}

impl Conduct {
    fn new(now: Instant) -> Self {
        Self {
            window_began: now,
            slow: Duration::ZERO,
            lapse: FIRST_QUARANTINE,
            barred_until: None,
        }
    }

    fn is_barred(&self, now: Instant) -> bool {
        self.barred_until.is_some_and(|until| now < until)
    }

    /// A request took from `asked` to `now`. Returns for how long the client is barred from now on,
    /// if it is.
    fn note(&mut self, asked: Instant, now: Instant) -> Option<Duration> {
        let took = now.saturating_duration_since(asked);
        if took < SLOW {
            return None;
        }
        if now.saturating_duration_since(self.window_began) > WINDOW {
            self.window_began = now;
            self.slow = Duration::ZERO;
        }
        self.slow += took;
        if self.slow <= SLOW_BUDGET {
            return None;
        }
        let lapse = self.lapse;
        self.barred_until = Some(now + lapse);
        self.lapse = (lapse * 2).min(LONGEST_QUARANTINE);
        self.slow = Duration::ZERO;
        Some(lapse)
    }
}

impl FencedDma {
    pub(crate) fn new(function: FunctionId, client: Arc<dyn DmaClient>) -> Self {
        let state = State {
            holds: 0,
            under_way: 0,
            conduct: Conduct::new(Instant::now()),
        };
        Self {
            function,
            client,
            state: Mutex::new(state),
            ended: Condvar::new(),
        }
    }

    /// Cancel what is outstanding and refuse more until the hold is dropped.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        let mut state = lock(&self.state);
        state.holds += 1;
        let end = Instant::now() + DMA_TIMEOUT;
        loop {
            drop(state);
            self.client.cancel(0, u64::MAX);
            state = lock(&self.state);
            if state.under_way == 0 || Instant::now() >= end {
                break;
            }
            // It was not on its way to the client yet when it was cancelled, or has not come back.
            state = self
                .ended
                .wait_timeout(state, CANCEL_AGAIN)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(state);
        Hold(Arc::clone(self))
    }

    /// Run one request under the fence.
    fn fenced(&self, request: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let asked = Instant::now();
        {
            let mut state = lock(&self.state);
            if state.holds > 0 {
                return Err(Errno::ECANCELED);
            }
            if state.conduct.is_barred(asked) {
                return Err(Errno::EBUSY);
            }
            state.under_way += 1;
        }
        let _under_way = UnderWay(self);
        let result = request();
        let barred = lock(&self.state).conduct.note(asked, Instant::now());
        if let Some(lapse) = barred {
            log::warn!(
                "{}: its client answers DMA messages too slowly; DMA by message is off for {} s",
                self.function,
                lapse.as_secs()
            );
        }
        result
    }
}

impl DmaClient for FencedDma {
    fn dma_read(&self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.fenced(|| self.client.dma_read(iova, data))
    }

    fn dma_write(&self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        self.fenced(|| self.client.dma_write(iova, data))
    }

    fn cancel(&self, iova: u64, size: u64) {
        self.client.cancel(iova, size);
    }
}

/// Counts a request that is under way.
struct UnderWay<'a>(&'a FencedDma);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).under_way -= 1;
        self.0.ended.notify_all();
    }
}

/// Keeps a client's DMA by message away; see [`FencedDma::hold`].
pub(crate) struct Hold(Arc<FencedDma>);

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.0.state).holds -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Client {
        asked: AtomicU32,
        cancelled: AtomicU32,
    }

    impl DmaClient for Client {
        fn dma_read(&self, _iova: u64, _data: &mut [u8]) -> Result<(), Errno> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn dma_write(&self, iova: u64, _data: &[u8]) -> Result<(), Errno> {
            self.dma_read(iova, &mut [])
        }

        fn cancel(&self, _iova: u64, _size: u64) {
            self.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_held_client_is_not_asked() {
        let client = Arc::new(Client::default());
        let fenced = Arc::new(FencedDma::new(FunctionId::PF, Arc::clone(&client) as _));
        assert_eq!(fenced.dma_write(0, &[]), Ok(()));
        let (first, second) = (fenced.hold(), fenced.hold());
        assert_eq!(client.cancelled.load(Ordering::Relaxed), 2);
        drop(first);
        assert_eq!(fenced.dma_write(0, &[]), Err(Errno::ECANCELED));
        drop(second);
        assert_eq!(fenced.dma_write(0, &[]), Ok(()));
        assert_eq!(client.asked.load(Ordering::Relaxed), 2);
    }

    /// Its first request begins only when it has been cancelled already.
    #[derive(Default)]
    struct Late {
        cancelled: Mutex<u32>,
        changed: Condvar,
        begun: AtomicU32,
    }

    impl Late {
        /// Whether it has been cancelled more than `before` times, in time.
        fn cancelled_after(&self, before: u32) -> Option<u32> {
            let limit = Duration::from_secs(20);
            let (count, waited) = self
                .changed
                .wait_timeout_while(lock(&self.cancelled), limit, |count| *count <= before)
                .unwrap_or_else(PoisonError::into_inner);
            (!waited.timed_out()).then_some(*count)
        }
    }

    impl DmaClient for Late {
        fn dma_read(&self, _iova: u64, _data: &mut [u8]) -> Result<(), Errno> {
            self.begun.store(1, Ordering::SeqCst);
            let first = self.cancelled_after(0).ok_or(Errno::ETIMEDOUT)?;
            // Now it is outstanding.
            self.cancelled_after(first).ok_or(Errno::ETIMEDOUT)?;
            Err(Errno::ECANCELED)
        }

        fn dma_write(&self, iova: u64, _data: &[u8]) -> Result<(), Errno> {
            self.dma_read(iova, &mut [])
        }

        fn cancel(&self, _iova: u64, _size: u64) {
            *lock(&self.cancelled) += 1;
            self.changed.notify_all();
        }
    }

    #[test]
    fn a_request_that_begins_while_it_is_cancelled_comes_back() {
        let client = Arc::new(Late::default());
        let fenced = Arc::new(FencedDma::new(FunctionId::PF, Arc::clone(&client) as _));
        std::thread::scope(|scope| {
            let request = scope.spawn(|| fenced.dma_write(0, &[]));
            while client.begun.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let hold = fenced.hold();
            assert_eq!(request.join().expect("it ends"), Err(Errno::ECANCELED));
            drop(hold);
        });
    }

    #[test]
    fn quick_answers_cost_nothing_slow_ones_add_up_and_lapses_grow() {
        let origin = Instant::now();
        let at = |millis| origin + Duration::from_millis(millis);
        let mut conduct = Conduct::new(origin);
        for n in 0..1000 {
            assert_eq!(conduct.note(at(n), at(n + 1)), None);
        }
        assert_eq!(conduct.note(at(1000), at(1200)), None, "within the budget");
        assert_eq!(conduct.note(at(1200), at(1300)), Some(FIRST_QUARANTINE));
        assert!(conduct.is_barred(at(2299)));
        assert!(!conduct.is_barred(at(2300)));
        assert_eq!(conduct.note(at(2300), at(2600)), Some(2 * FIRST_QUARANTINE));
        for n in 0..10 {
            conduct.note(at(10_000 * n), at(10_000 * n + 300));
        }
        assert_eq!(
            conduct.note(at(200_000), at(200_300)),
            Some(LONGEST_QUARANTINE)
        );
        let mut patient = Conduct::new(origin);
        assert_eq!(patient.note(at(0), at(200)), None);
        assert_eq!(patient.note(at(3000), at(3200)), None, "a new window");
    }
}
