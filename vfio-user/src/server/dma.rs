//! DMA by message: requests of the device to the client, and their answers.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::Error;
use crate::device::DmaClient;
use crate::frame::{Sender, lock};
use crate::wire::{Capabilities, DmaRequest, HEADER_SIZE, Header, HeaderFlags, command};

/// Requests that may wait for an answer at a time; more callers queue.
const SLOTS: usize = 16;
/// Most data of one message, and of all that wait for an answer. Well below the buffer of a socket,
/// so that DMA never fills it, and a client that is busy sending to us does not keep us from sending
/// to it.
const CHUNK: usize = 32 << 10;
const IN_FLIGHT: usize = 2 * CHUNK;

/// Sends requests for any number of workers, and matches the answers by id.
pub(super) struct DmaHub {
    sender: Arc<Sender>,
    chunk: usize,
    timeout: Duration,
    state: Mutex<State>,
    answered: [Condvar; SLOTS],
    /// A slot or in-flight room has become free, or nothing will any more.
    freed: Condvar,
}

struct State {
    slots: [Slot; SLOTS],
    next_id: u16,
    in_flight: usize,
    /// Requests that were given up before their answers came: so many late ones are ignored.
    owed: u32,
    /// The range that is being closed; requests into it are refused.
    closing: Option<(u64, u64)>,
    closed: bool,
}

#[derive(Default)]
struct Slot {
    phase: Phase,
    id: u16,
    command: u16,
    iova: u64,
    len: usize,
    /// The answer's data. Kept between uses.
    data: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Free,
    Waiting,
    Done(Result<(), Errno>),
}

/// One direction of a transfer.
enum Transfer<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Transfer<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }
}

impl DmaHub {
    pub(super) fn new(sender: Arc<Sender>, client: &Capabilities, timeout: Duration) -> Self {
        let client = usize::try_from(client.max_data_xfer_size).unwrap_or(CHUNK);
        Self {
            sender,
            chunk: CHUNK.min(client),
            timeout,
            state: Mutex::new(State {
                slots: Default::default(),
                next_id: 0,
                in_flight: 0,
                owed: 0,
                closing: None,
                closed: false,
            }),
            answered: Default::default(),
            freed: Condvar::new(),
        }
    }

    /// Cancel what touches the range, and refuse new requests into it until the guard is dropped.
    /// Held while the device closes windows: it waits for its workers then, and they may not wait
    /// for a client that waits for us.
    pub(super) fn begin_closing(&self, iova: u64, size: u64) -> Closing<'_> {
        let mut state = lock(&self.state);
        state.closing = Some((iova, size));
        self.cancel_in(&mut state, iova, size);
        Closing { hub: self }
    }

    /// The client has gone, or has to: everything is cancelled, now and later. The stream is shut
    /// down here, since the device may keep this longer than the connection lasts.
    pub(super) fn close(&self) {
        self.sender.shutdown();
        let mut state = lock(&self.state);
        state.closed = true;
        self.cancel_in(&mut state, 0, u64::MAX);
        self.freed.notify_all();
    }

    /// Take an answer of the client's.
    pub(super) fn answer(&self, header: &Header, body: &[u8]) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let waiting = state.slots.iter_mut().enumerate().find(|(_, slot)| {
            slot.phase == Phase::Waiting
                && slot.id == header.message_id
                && slot.command == header.command
        });
        let Some((index, slot)) = waiting else {
            // An answer that comes after its request was given up; but only one for each.
            if state.owed == 0 {
                let (command, id) = (header.command, header.message_id);
                return Err(Error::UnexpectedReply { command, id });
            }
            state.owed -= 1;
            return Ok(());
        };
        slot.phase = Phase::Done(slot.take(header, body));
        self.answered[index].notify_one();
        Ok(())
    }

    fn cancel_in(&self, state: &mut State, iova: u64, size: u64) {
        for (slot, answered) in state.slots.iter_mut().zip(&self.answered) {
            if slot.phase == Phase::Waiting && overlap((slot.iova, slot.len as u64), (iova, size)) {
                slot.phase = Phase::Done(Err(Errno::ECANCELED));
                state.owed += 1;
                answered.notify_one();
            }
        }
        self.freed.notify_all();
    }

    /// Send one request and wait for its answer.
    fn request(&self, iova: u64, mut transfer: Transfer<'_>) -> Result<(), Errno> {
        let len = transfer.len();
        let deadline = Instant::now() + self.timeout;
        let (index, id) = self.occupy(iova, &transfer, deadline)?;
        let (command, data) = match &transfer {
            Transfer::Read(_) => (command::DMA_READ, &[][..]),
            Transfer::Write(data) => (command::DMA_WRITE, *data),
        };
        let body = DmaRequest {
            address: iova,
            count: len as u64,
        };
        let header = Header::command(
            id,
            command,
            size_of_val(&body) + data.len(),
            HeaderFlags::empty(),
        );
        let mut head = [0; HEADER_SIZE + size_of::<DmaRequest>()];
        head[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        head[HEADER_SIZE..].copy_from_slice(body.as_bytes());
        let sent = self.sender.send(&head, data, &[]);
        if sent.is_err() {
            // The connection's own thread finds the reason in the sender.
            self.sender.shutdown();
        }

        let mut state = lock(&self.state);
        let result = loop {
            if let Phase::Done(result) = state.slots[index].phase {
                break result;
            }
            if sent.is_err() {
                break Err(Errno::ECANCELED);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                state.owed += 1;
                break Err(Errno::ETIMEDOUT);
            };
            state = wait(&self.answered[index], state, left);
        };
        let slot = &mut state.slots[index];
        slot.phase = Phase::Free;
        if let (Ok(()), Transfer::Read(data)) = (result, &mut transfer) {
            data.copy_from_slice(&slot.data);
        }
        state.in_flight -= len;
        drop(state);
        // All of them: the first may wait for more room than this has freed.
        self.freed.notify_all();
        result
    }

    /// Wait for a free slot and for room, and take both.
    fn occupy(
        &self,
        iova: u64,
        transfer: &Transfer<'_>,
        deadline: Instant,
    ) -> Result<(usize, u16), Errno> {
        let len = transfer.len();
        let mut state = lock(&self.state);
        let index = loop {
            let closing = state
                .closing
                .is_some_and(|range| overlap(range, (iova, len as u64)));
            if state.closed || closing {
                return Err(Errno::ECANCELED);
            }
            let free = state
                .slots
                .iter()
                .position(|slot| slot.phase == Phase::Free);
            if let Some(index) = free.filter(|_| state.in_flight + len <= IN_FLIGHT) {
                break index;
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .ok_or(Errno::ETIMEDOUT)?;
            state = wait(&self.freed, state, left);
        };
        let id = loop {
            state.next_id = state.next_id.wrapping_add(1);
            let id = state.next_id;
            if !state
                .slots
                .iter()
                .any(|slot| slot.phase != Phase::Free && slot.id == id)
            {
                break id;
            }
        };
        state.in_flight += len;
        let slot = &mut state.slots[index];
        slot.phase = Phase::Waiting;
        slot.id = id;
        slot.iova = iova;
        slot.len = len;
        slot.command = match transfer {
            Transfer::Read(_) => command::DMA_READ,
            Transfer::Write(_) => command::DMA_WRITE,
        };
        Ok((index, id))
    }
}

impl Slot {
    /// Check the answer and keep its data.
    fn take(&mut self, header: &Header, body: &[u8]) -> Result<(), Errno> {
        if header.errno().is_some() {
            return Err(Errno::EFAULT);
        }
        if self.command == command::DMA_WRITE {
            return Ok(());
        }
        let expected = DmaRequest {
            address: self.iova,
            count: self.len as u64,
        };
        match DmaRequest::read_from_prefix(body) {
            Ok((answer, data)) if answer == expected && data.len() >= self.len => {
                self.data.clear();
                self.data.extend_from_slice(&data[..self.len]);
                Ok(())
            }
            _ => {
                log::warn!(
                    "the client answered a DMA_READ of {} bytes with something else",
                    self.len
                );
                Err(Errno::EIO)
            }
        }
    }
}

/// Ends [`DmaHub::begin_closing`].
pub(super) struct Closing<'a> {
    hub: &'a DmaHub,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        lock(&self.hub.state).closing = None;
    }
}

impl DmaClient for DmaHub {
    fn dma_read(&self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        let mut at = iova;
        for chunk in data.chunks_mut(self.chunk) {
            let len = chunk.len() as u64;
            let next = at.checked_add(len).ok_or(Errno::EFAULT)?;
            self.request(at, Transfer::Read(chunk))?;
            at = next;
        }
        Ok(())
    }

    fn dma_write(&self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let mut at = iova;
        for chunk in data.chunks(self.chunk) {
            let next = at.checked_add(chunk.len() as u64).ok_or(Errno::EFAULT)?;
            self.request(at, Transfer::Write(chunk))?;
            at = next;
        }
        Ok(())
    }

    fn cancel(&self, iova: u64, size: u64) {
        self.cancel_in(&mut lock(&self.state), iova, size);
    }
}

/// Whether two ranges, each a start and a size, share an address. `u64::MAX` bytes are everything.
fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
}

fn wait<'a>(
    condvar: &Condvar,
    guard: MutexGuard<'a, State>,
    timeout: Duration,
) -> MutexGuard<'a, State> {
    condvar
        .wait_timeout(guard, timeout)
        .unwrap_or_else(PoisonError::into_inner)
        .0
}
