//! DMA by message through the mediator: what the card asks of memory that came without a file
//! descriptor is asked of the VF's client, by a thread of this VF alone.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use vfio_user::client::{DmaHandler, DmaReply};
use vfio_user::device::DmaClient;

/// Requests that may wait.
const MOST_JOBS: usize = 256;
/// Bytes of writes that may wait.
const MOST_BYTES: usize = 4 << 20;

enum Work {
    Read { len: usize },
    Write { data: Vec<u8> },
}

struct Job {
    client: Arc<dyn DmaClient>,
    iova: u64,
    work: Work,
    reply: DmaReply,
}

#[derive(Default)]
struct State {
    client: Option<Arc<dyn DmaClient>>,
    jobs: VecDeque<Job>,
    bytes: usize,
    stopped: bool,
}

/// Forwards one VF's DMA messages to whoever is its client at the time.
#[derive(Default)]
pub(crate) struct Forwarder {
    state: Mutex<State>,
    changed: Condvar,
}

impl Forwarder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has come (`Some`) or gone. What waited for the one before is refused.
    pub(crate) fn set_client(&self, client: Option<Arc<dyn DmaClient>>) {
        let mut state = self.lock();
        state.client = client;
        state.bytes = 0;
        // Refusing means sending: not with the lock held.
        let stale = std::mem::take(&mut state.jobs);
        drop(state);
        for job in stale {
            job.reply.error(Errno::ECANCELED);
        }
    }

    /// End [`Self::run`].
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.set_client(None);
        self.changed.notify_all();
    }

    /// Forward until [`Self::stop`]: the VF's own thread, which waits for the VF's client.
    pub(crate) fn run(&self) {
        let mut buffer = Vec::new();
        while let Some(job) = self.next() {
            match job.work {
                Work::Read { len } => {
                    buffer.clear();
                    buffer.resize(len, 0);
                    match job.client.dma_read(job.iova, &mut buffer) {
                        Ok(()) => job.reply.data(&buffer),
                        Err(errno) => job.reply.error(errno),
                    }
                }
                Work::Write { data } => match job.client.dma_write(job.iova, &data) {
                    Ok(()) => job.reply.done(),
                    Err(errno) => job.reply.error(errno),
                },
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                if let Work::Write { data } = &job.work {
                    state.bytes -= data.len();
                }
                return Some(job);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn push(&self, iova: u64, bytes: usize, reply: DmaReply, work: impl FnOnce() -> Work) {
        let mut state = self.lock();
        let refusal = if state.stopped || state.client.is_none() {
            Some(Errno::ENODEV)
        } else if state.jobs.len() >= MOST_JOBS || state.bytes + bytes > MOST_BYTES {
            Some(Errno::ENOBUFS)
        } else {
            None
        };
        match (refusal, state.client.clone()) {
            (None, Some(client)) => {
                state.bytes += bytes;
                state.jobs.push_back(Job {
                    client,
                    iova,
                    work: work(),
                    reply,
                });
                drop(state);
                self.changed.notify_one();
            }
            (errno, _) => {
                drop(state);
                reply.error(errno.unwrap_or(Errno::ENODEV));
            }
        }
    }
}

/// The handler that is given to a [`Function`](iommu::function::Function).
pub(crate) struct Handler(pub(crate) Arc<Forwarder>);

impl DmaHandler for Handler {
    fn dma_read(&self, iova: u64, len: usize, reply: DmaReply) {
        self.0.push(iova, 0, reply, || Work::Read { len });
    }

    fn dma_write(&self, iova: u64, data: &[u8], reply: DmaReply) {
        self.0.push(iova, data.len(), reply, || Work::Write {
            data: data.to_vec(),
        });
    }
}
