//! Requests and replies over one stream, shared by many threads.
//!
//! Who receives: the receiver lies in [`State`]. A thread that waits for its reply takes it out and
//! leads: it receives for everyone until its own reply is there. The others follow, each on a
//! condition variable. A leader that has its reply puts the receiver back and wakes one follower to
//! lead on; without followers it arms the service thread, which waits on an epoll that watches the
//! socket only while armed. So the service thread is not woken by replies that a leader waits for,
//! and whatever arrives while nobody leads (DMA requests, the end of the stream) is seen at once.

mod service;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use zerocopy::IntoBytes;

use super::dma::{self, DmaHandler};
use super::{ClientError, Lost, errno_of};
use crate::frame::{Fill, Frame, FrameError, Receiver, Sender, lock};
use crate::wire::{HEADER_SIZE, Header, HeaderFlags, Kind, WireError, command};

/// Requests that may wait for a reply at a time; more callers queue. A power of two.
const SLOTS: usize = 64;
/// Ids of posted writes have this bit, so that the error reply which some servers send to them
/// matches no request.
const POSTED_ID: u16 = 1 << 15;
/// DMA requests of the server's that may be unanswered at a time; more are refused.
const DMA_LIMIT: usize = 256;
/// A leader's first receive ends with the socket's timeout, which is that of a request. Later ones
/// have less time and wait with poll, unless this much has not passed yet.
const SLACK: Duration = Duration::from_millis(1);

/// Takes a reply: its header, its body, and the descriptors that came with it.
type Take<'a> = dyn FnMut(&Header, &[u8], &mut Vec<OwnedFd>) + 'a;

pub(super) struct Link {
    sender: Sender,
    timeout: Duration,
    state: Mutex<State>,
    /// One per slot: its reply is there, or its owner is to lead.
    wake: [Condvar; SLOTS],
    /// A slot has become free.
    freed: Condvar,
    epoll: Epoll,
    closed: EventFd,
    lost: AtomicBool,
    posts: AtomicU64,
    dma_open: AtomicUsize,
    handler: Mutex<Option<Arc<dyn DmaHandler>>>,
}

struct State {
    /// `None` while somebody leads.
    receiver: Option<Box<Receiver>>,
    /// The service thread watches the socket.
    armed: bool,
    lost: Option<Lost>,
    slots: [Slot; SLOTS],
    /// Callers that wait for a free slot.
    queued: usize,
    /// Requests that were given up before their replies came: so many late ones are ignored.
    owed: u32,
    /// Error replies to posted writes that have come.
    posts_refused: u64,
}

#[derive(Default)]
struct Slot {
    phase: Phase,
    id: u16,
    command: u16,
    /// Its owner sleeps and can be woken to lead.
    follows: bool,
    reply: Option<Header>,
    /// The reply's body, if another thread received it. Kept between uses.
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Free,
    Waiting,
    Done,
}

/// A request that waits for its reply.
#[derive(Clone, Copy)]
struct Ticket {
    index: usize,
    id: u16,
    command: u16,
    deadline: Instant,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("socket", &self.sender.stream())
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(stream: UnixStream, timeout: Duration) -> Result<Self, ClientError> {
        let setup_io = |error| ClientError::Setup(errno_of(&error));
        stream.set_nonblocking(false).map_err(setup_io)?;
        stream.set_read_timeout(Some(timeout)).map_err(setup_io)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(ClientError::Setup)?;
        epoll
            .add(&stream, service::interest(false))
            .map_err(ClientError::Setup)?;
        let closed = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(ClientError::Setup)?;
        Ok(Self {
            sender: Sender::new(stream, timeout).map_err(setup_io)?,
            timeout,
            state: Mutex::new(State {
                receiver: Some(Box::new(Receiver::new())),
                armed: false,
                lost: None,
                slots: std::array::from_fn(|_| Slot::default()),
                queued: 0,
                owed: 0,
                posts_refused: 0,
            }),
            wake: std::array::from_fn(|_| Condvar::new()),
            freed: Condvar::new(),
            epoll,
            closed,
            lost: AtomicBool::new(false),
            posts: AtomicU64::new(0),
            dma_open: AtomicUsize::new(0),
            handler: Mutex::new(None),
        })
    }

    /// Send a request and wait for its reply. `head` starts with room for the header. `take` reads
    /// the reply's body, and takes the descriptors that it wants.
    pub(super) fn transact<R>(
        self: &Arc<Self>,
        command: u16,
        head: &mut [u8],
        data: &[u8],
        fds: &[BorrowedFd<'_>],
        take: impl FnOnce(&[u8], &mut Vec<OwnedFd>) -> Result<R, WireError>,
    ) -> Result<R, ClientError> {
        let ticket = self.occupy(command)?;
        let body = head.len() - HEADER_SIZE + data.len();
        let header = Header::command(ticket.id, command, body, HeaderFlags::empty());
        head[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        if let Err(errno) = self.sender.send(head, data, fds) {
            self.lose(&mut lock(&self.state), send_lost(errno));
        }
        let mut take = Some(take);
        let mut taken = None;
        let outcome = self.await_reply(ticket, &mut |header, body, fds| {
            if let Some(take) = take.take() {
                taken = Some(match header.errno() {
                    Some(errno) => Err(ClientError::Refused { command, errno }),
                    None => take(body, fds).map_err(ClientError::BadReply),
                });
            }
        });
        outcome?;
        // `await_reply` succeeds only after it has called the closure.
        taken.unwrap_or(Err(ClientError::Timeout(command)))
    }

    /// Send a request that gets no reply.
    pub(super) fn post(
        &self,
        command: u16,
        head: &mut [u8],
        data: &[u8],
    ) -> Result<(), ClientError> {
        let count = self.posts.fetch_add(1, Ordering::Relaxed);
        let id = POSTED_ID | (count as u16 & !POSTED_ID);
        let body = head.len() - HEADER_SIZE + data.len();
        let header = Header::command(id, command, body, HeaderFlags::NO_REPLY);
        head[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        if let Err(errno) = self.sender.send(head, data, &[]) {
            let mut state = lock(&self.state);
            self.lose(&mut state, send_lost(errno));
            return Err(closed(&state));
        }
        Ok(())
    }

    /// Send the reply to a request of the server's.
    pub(super) fn send_reply(&self, head: &[u8], data: &[u8]) {
        if let Err(errno) = self.sender.send(head, data, &[]) {
            self.lose(&mut lock(&self.state), send_lost(errno));
        }
    }

    /// Take a free slot.
    fn occupy(&self, command: u16) -> Result<Ticket, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut state = lock(&self.state);
        let index = loop {
            if state.lost.is_some() {
                return Err(closed(&state));
            }
            if let Some(index) = state
                .slots
                .iter()
                .position(|slot| slot.phase == Phase::Free)
            {
                break index;
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .ok_or(ClientError::Timeout(command))?;
            state.queued += 1;
            state = wait(&self.freed, state, left);
            state.queued -= 1;
        };
        let slot = &mut state.slots[index];
        // A new id each time, so that a late reply to the slot's previous request fits no more.
        let generation = (slot.id / SLOTS as u16).wrapping_add(1);
        slot.id = (generation * SLOTS as u16 + index as u16) & !POSTED_ID;
        slot.phase = Phase::Waiting;
        slot.command = command;
        slot.reply = None;
        Ok(Ticket {
            index,
            id: slot.id,
            command,
            deadline,
        })
    }

    /// Wait until the reply to `ticket` is there, leading if nobody else does. Frees the slot.
    fn await_reply(
        self: &Arc<Self>,
        ticket: Ticket,
        take: &mut Take<'_>,
    ) -> Result<(), ClientError> {
        let mut state = lock(&self.state);
        let result = loop {
            let slot = &mut state.slots[ticket.index];
            if slot.phase == Phase::Done {
                if let Some(header) = slot.reply.take() {
                    let body = std::mem::take(&mut slot.body);
                    let mut fds = std::mem::take(&mut slot.fds);
                    drop(state);
                    take(&header, &body, &mut fds);
                    fds.clear();
                    state = lock(&self.state);
                    let slot = &mut state.slots[ticket.index];
                    (slot.body, slot.fds) = (body, fds);
                }
                break Ok(());
            }
            if state.lost.is_some() {
                break Err(closed(&state));
            }
            let left = ticket.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.owed += 1;
                break Err(ClientError::Timeout(ticket.command));
            }
            if let Some(receiver) = state.receiver.take() {
                self.disarm(&mut state);
                drop(state);
                state = self.lead(receiver, ticket, take);
            } else {
                state.slots[ticket.index].follows = true;
                state = wait(&self.wake[ticket.index], state, left);
                state.slots[ticket.index].follows = false;
            }
        };
        state.slots[ticket.index].phase = Phase::Free;
        // Not otherwise: notifying is a system call, whether anybody waits or not.
        if state.queued > 0 {
            self.freed.notify_one();
        }
        self.settle(&mut state);
        result
    }

    /// Receive for everyone until the reply to `ticket` is there, its time is over or the connection
    /// is lost. Only [`Self::await_reply`] decides which.
    fn lead(
        self: &Arc<Self>,
        mut receiver: Box<Receiver>,
        ticket: Ticket,
        take: &mut Take<'_>,
    ) -> MutexGuard<'_, State> {
        let mut done = false;
        let lost = loop {
            match self.drain(&mut receiver, Some((ticket, &mut *take)), &mut done) {
                Ok(()) if done => break None,
                Ok(()) => {}
                Err(lost) => break Some(lost),
            }
            let left = ticket.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break None;
            }
            // One system call in the usual case.
            let whole = left + SLACK >= self.timeout;
            if !whole && !self.readable_within(left) {
                break None;
            }
            match receiver.fill(self.sender.stream(), !whole) {
                Ok(Fill::More | Fill::Nothing) => {}
                Ok(Fill::End) => break Some(Lost::ByServer),
                Err(error) => break Some(error.into()),
            }
        };
        let mut state = lock(&self.state);
        state.receiver = Some(receiver);
        if done {
            state.slots[ticket.index].phase = Phase::Done;
        }
        if let Some(lost) = lost {
            self.lose(&mut state, lost);
        }
        state
    }

    /// Handle every complete message in the receiver. The reply to `mine` goes straight to its
    /// closure and sets `done`.
    fn drain(
        self: &Arc<Self>,
        receiver: &mut Receiver,
        mut mine: Option<(Ticket, &mut Take<'_>)>,
        done: &mut bool,
    ) -> Result<(), Lost> {
        while let Some(mut frame) = receiver.next_frame()? {
            let header = frame.header;
            if header.kind().map_err(Lost::Malformed)? == Kind::Command {
                dma::dispatch(self, &header, receiver.body(&frame));
                continue;
            }
            if let Some((ticket, take)) = &mut mine
                && ticket.id == header.message_id
                && !*done
            {
                if ticket.command != header.command {
                    return Err(Lost::UnexpectedReply(header.command));
                }
                take(&header, receiver.body(&frame), &mut frame.fds);
                *done = true;
                continue;
            }
            self.deliver(receiver, frame)?;
        }
        Ok(())
    }

    /// Hand a reply to the follower that waits for it.
    fn deliver(&self, receiver: &Receiver, frame: Frame) -> Result<(), Lost> {
        let header = frame.header;
        let mut state = lock(&self.state);
        let index = header.message_id as usize % SLOTS;
        let slot = &mut state.slots[index];
        if slot.phase == Phase::Waiting && slot.id == header.message_id {
            if slot.command != header.command {
                return Err(Lost::UnexpectedReply(header.command));
            }
            slot.body.clear();
            slot.body.extend_from_slice(receiver.body(&frame));
            slot.fds = frame.fds;
            slot.reply = Some(header);
            slot.phase = Phase::Done;
            self.wake[index].notify_one();
            return Ok(());
        }
        // Some servers answer a posted write that they refuse.
        let refused_post = header.message_id & POSTED_ID != 0
            && header.command == command::REGION_WRITE
            && header.errno().is_some()
            && state.posts_refused < self.posts.load(Ordering::Relaxed);
        if refused_post {
            state.posts_refused += 1;
            log::debug!("the server refused a posted write");
        } else if state.owed > 0 {
            state.owed -= 1;
        } else {
            return Err(Lost::UnexpectedReply(header.command));
        }
        Ok(())
    }

    fn readable_within(&self, left: Duration) -> bool {
        let mut fds = [PollFd::new(self.sender.stream().as_fd(), PollFlags::POLLIN)];
        // Rounded up, or the last millisecond would spin.
        let left = PollTimeout::try_from(left + Duration::from_millis(1));
        match poll(&mut fds, left.unwrap_or(PollTimeout::MAX)) {
            Ok(0) => false,
            Ok(_) | Err(Errno::EINTR) => true,
            Err(_) => false,
        }
    }

    /// Note that the connection is lost, and tell everybody. Only the first reason counts.
    fn lose(&self, state: &mut State, lost: Lost) {
        if state.lost.is_some() {
            return;
        }
        log::debug!("connection to the server lost: {lost}");
        state.lost = Some(lost);
        self.lost.store(true, Ordering::Release);
        self.sender.shutdown();
        // Fails only if the counter is full, and then it is readable.
        let _ = self.closed.write(1);
        for wake in &self.wake {
            wake.notify_one();
        }
        self.freed.notify_all();
        // The service thread sees the end of the stream and goes.
        state.armed = true;
        self.watch(true);
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        if !self.lost.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.state).lost
    }

    pub(super) fn closed_fd(&self) -> BorrowedFd<'_> {
        self.closed.as_fd()
    }

    pub(super) fn shutdown(&self) {
        self.sender.shutdown();
    }

    pub(super) fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>) {
        *lock(&self.handler) = Some(handler);
    }

    pub(super) fn dma_handler(&self) -> Option<Arc<dyn DmaHandler>> {
        lock(&self.handler).clone()
    }

    /// Count a DMA request of the server's; false if there are too many.
    pub(super) fn dma_begun(&self) -> bool {
        self.dma_open.fetch_add(1, Ordering::Relaxed) < DMA_LIMIT
    }

    pub(super) fn dma_answered(&self) {
        self.dma_open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl From<FrameError> for Lost {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Receive(errno) => Self::Receive(errno),
            FrameError::Truncated => Self::Truncated,
            FrameError::Wire(error) => Self::Malformed(error),
            FrameError::TooManyFds => Self::TooManyFds,
        }
    }
}

/// A server that has gone looks the same to whoever sends and whoever receives.
fn send_lost(errno: Errno) -> Lost {
    match errno {
        Errno::EPIPE | Errno::ECONNRESET => Lost::ByServer,
        errno => Lost::Send(errno),
    }
}

fn closed(state: &State) -> ClientError {
    ClientError::Closed(state.lost.unwrap_or(Lost::ByServer))
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
