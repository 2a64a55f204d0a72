//! DMA by message without a socket: from a device of this process to its client's handler.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use vfio_user::client::{DmaHandler, DmaReply};
use vfio_user::device::DmaClient;

/// Most bytes of one message, as over a socket.
const MOST: usize = 1 << 20;
/// How long a handler may take, as over a socket.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Carries requests to the handler and waits for the answers.
#[derive(Default)]
pub(super) struct LocalDma {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handler: Option<Arc<dyn DmaHandler>>,
    waiting: Vec<Arc<Request>>,
    /// Ranges that are being closed; requests into them are refused.
    closing: Vec<(u64, u64)>,
    closed: bool,
}

/// One request that waits for its answer.
struct Request {
    iova: u64,
    len: u64,
    answer: Mutex<Option<Result<Vec<u8>, Errno>>>,
    answered: Condvar,
}

impl Request {
    /// The first answer counts; one after a cancellation is late.
    fn complete(&self, answer: Result<Vec<u8>, Errno>) {
        let mut slot = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(answer);
        self.answered.notify_all();
    }

    fn wait(&self) -> Result<Vec<u8>, Errno> {
        let deadline = Instant::now() + TIMEOUT;
        let mut slot = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(answer) = slot.take() {
                return answer;
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .ok_or(Errno::ETIMEDOUT)?;
            slot = self
                .answered
                .wait_timeout(slot, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Ends [`LocalDma::begin_closing`].
pub(super) struct Closing<'a> {
    dma: &'a LocalDma,
    range: (u64, u64),
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut state = self.dma.lock();
        if let Some(index) = state.closing.iter().position(|&range| range == self.range) {
            state.closing.swap_remove(index);
        }
    }
}

impl LocalDma {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_handler(&self, handler: Arc<dyn DmaHandler>) {
        self.lock().handler = Some(handler);
    }

    /// Cancel what touches the range, and refuse new requests into it until the result is dropped.
    pub(super) fn begin_closing(&self, iova: u64, size: u64) -> Closing<'_> {
        let mut state = self.lock();
        state.closing.push((iova, size));
        state.cancel(iova, size);
        Closing {
            dma: self,
            range: (iova, size),
        }
    }

    /// Nothing is answered any more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.handler = None;
        state.cancel(0, u64::MAX);
    }

    /// One request of at most [`MOST`] bytes. `start` hands it to the handler.
    fn request(
        &self,
        iova: u64,
        len: usize,
        start: impl FnOnce(&dyn DmaHandler, DmaReply),
        read: bool,
    ) -> Result<Vec<u8>, Errno> {
        let request = Arc::new(Request {
            iova,
            len: len as u64,
            answer: Mutex::new(None),
            answered: Condvar::new(),
        });
        let handler = {
            let mut state = self.lock();
            let range = (iova, len as u64);
            if state.closed || state.closing.iter().any(|&closing| overlap(closing, range)) {
                return Err(Errno::ECANCELED);
            }
            let handler = state.handler.clone().ok_or(Errno::EFAULT)?;
            state.waiting.push(request.clone());
            handler
        };
        let answered = request.clone();
        let reply = DmaReply::local(read.then_some(len), move |answer| {
            // Over a socket any refusal is one and the same.
            answered.complete(answer.map(<[u8]>::to_vec).map_err(|_| Errno::EFAULT));
        });
        start(handler.as_ref(), reply);
        let answer = request.wait();
        self.lock()
            .waiting
            .retain(|other| !Arc::ptr_eq(other, &request));
        answer
    }
}

impl State {
    fn cancel(&self, iova: u64, size: u64) {
        for request in &self.waiting {
            if overlap((request.iova, request.len), (iova, size)) {
                request.complete(Err(Errno::ECANCELED));
            }
        }
    }
}

impl DmaClient for LocalDma {
    fn dma_read(&self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        let mut at = iova;
        for chunk in data.chunks_mut(MOST) {
            let next = at.checked_add(chunk.len() as u64).ok_or(Errno::EFAULT)?;
            let len = chunk.len();
            let answer = self.request(
                at,
                len,
                |handler, reply| handler.dma_read(at, len, reply),
                true,
            )?;
            chunk.copy_from_slice(&answer);
            at = next;
        }
        Ok(())
    }

    fn dma_write(&self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let mut at = iova;
        for chunk in data.chunks(MOST) {
            let next = at.checked_add(chunk.len() as u64).ok_or(Errno::EFAULT)?;
            let start = |handler: &dyn DmaHandler, reply| handler.dma_write(at, chunk, reply);
            self.request(at, chunk.len(), start, false)?;
            at = next;
        }
        Ok(())
    }

    fn cancel(&self, iova: u64, size: u64) {
        self.lock().cancel(iova, size);
    }
}

/// Whether two ranges, each a start and a size, share an address. `u64::MAX` bytes are everything.
fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
}
