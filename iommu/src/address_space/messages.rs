//! DMA by message, for windows without a usable file.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use vfio_user::device::DmaClient;

use super::fault::FaultCause;

/// How long a client that did not answer is left alone, the first time; doubled each time.
const FIRST_HOLD: Duration = Duration::from_secs(1);
/// The longest it is left alone.
const LONGEST_HOLD: Duration = Duration::from_secs(64);
/// How long closing a window waits for cancelled messages to come back.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);
/// A message may be on its way into the client when it is cancelled: cancel again after this long.
const CANCEL_AGAIN: Duration = Duration::from_millis(1);

/// The client that answers, and what it has been asked.
#[derive(Default)]
pub(super) struct Messages {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    client: Option<Arc<dyn DmaClient>>,
    /// Ranges of the messages under way: first and last address.
    under_way: Vec<(u64, u64)>,
    /// A client that is silent must not cost everyone who shares the worker a timeout per message:
    /// until then its messages fail at once.
    held_until: Option<Instant>,
    hold: Option<Duration>,
}

/// A message that may be sent; [`Message::send`] waits for the answer.
pub(super) struct Message<'a> {
    messages: &'a Messages,
    client: Arc<dyn DmaClient>,
    first: u64,
    last: u64,
}

/// What a message carries.
pub(super) enum Data<'a> {
    /// Memory of the client's is read into it.
    Read(&'a mut [u8]),
    /// It is written to memory of the client's.
    Write(&'a [u8]),
}

impl Data<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }
}

impl Messages {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_client(&self, client: Option<Arc<dyn DmaClient>>) {
        let mut state = self.lock();
        state.client = client;
        state.held_until = None;
        state.hold = None;
    }

    /// Announce a message to `first ..= last`. To be called while the window is known to exist: once
    /// announced, whoever closes the window waits for it.
    pub(super) fn begin(&self, first: u64, last: u64) -> Result<Message<'_>, FaultCause> {
        let mut state = self.lock();
        if state.held_until.is_some_and(|until| Instant::now() < until) {
            return Err(FaultCause::Io);
        }
        let client = state.client.clone().ok_or(FaultCause::Cancelled)?;
        state.under_way.push((first, last));
        Ok(Message {
            messages: self,
            client,
            first,
            last,
        })
    }

    /// Cancel what touches `first ..= last`, and wait until it has come back.
    pub(super) fn drain(&self, first: u64, last: u64) {
        let deadline = Instant::now() + DRAIN_LIMIT;
        let mut state = self.lock();
        while state
            .under_way
            .iter()
            .any(|&(f, l)| f <= last && l >= first)
        {
            if let Some(client) = state.client.clone() {
                drop(state);
                client.cancel(first, (last - first).saturating_add(1));
                state = self.lock();
            }
            if Instant::now() >= deadline {
                log::error!("a cancelled DMA message does not come back; its answer is ignored");
                return;
            }
            if state
                .under_way
                .iter()
                .any(|&(f, l)| f <= last && l >= first)
            {
                state = self
                    .ended
                    .wait_timeout(state, CANCEL_AGAIN)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }
}

impl Message<'_> {
    /// Send it and wait for the answer. No lock of the address space may be held.
    pub(super) fn send(self, data: Data<'_>) -> Result<(), FaultCause> {
        let result = match data {
            Data::Read(data) => self.client.dma_read(self.first, data),
            Data::Write(data) => self.client.dma_write(self.first, data),
        };
        let mut state = self.messages.lock();
        match result {
            Ok(()) => {
                state.hold = None;
                Ok(())
            }
            Err(Errno::ECANCELED) => Err(FaultCause::Cancelled),
            Err(errno) => {
                if errno == Errno::ETIMEDOUT {
                    let hold = state
                        .hold
                        .map_or(FIRST_HOLD, |hold| LONGEST_HOLD.min(hold * 2));
                    log::warn!("the client does not answer DMA messages; next try in {hold:?}");
                    state.hold = Some(hold);
                    state.held_until = Some(Instant::now() + hold);
                }
                Err(FaultCause::Io)
            }
        }
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        let mut state = self.messages.lock();
        let range = (self.first, self.last);
        if let Some(index) = state.under_way.iter().position(|&other| other == range) {
            state.under_way.swap_remove(index);
        }
        drop(state);
        self.messages.ended.notify_all();
    }
}
