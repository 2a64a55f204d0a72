//! Cuts the byte stream into messages.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::socket::{self, ControlBuffer};
use crate::wire::{HEADER_SIZE, Header, MAX_FDS, WireError};

/// Bytes of the receive buffer to begin with: many register accesses. It grows when a longer
/// message is announced, up to [`crate::wire::MAX_MESSAGE`].
const INITIAL_BUFFER: usize = 8192;

/// Why the stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("receive failed")]
    Receive(#[source] Errno),
    #[error("the stream ended in the middle of a message")]
    Truncated,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("more than {MAX_FDS} file descriptors came with one message")]
    TooManyFds,
}

/// A complete message. The bytes are in the receiver, see [`Receiver::bytes`].
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    start: usize,
    /// Descriptors that came with it; closed if nobody takes them.
    pub(crate) fds: Vec<OwnedFd>,
    /// Descriptors were lost because this process can hold no more.
    pub(crate) fds_lost: bool,
}

/// What a receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Bytes.
    More,
    /// The orderly end of the stream, between two messages.
    End,
    /// Nothing before the timeout, or nothing there without waiting.
    Nothing,
}

/// The receiving half of a connection.
///
/// It reads as much as there is in one call. The kernel ends a receive behind the part that carries
/// descriptors, so they belong to the message that holds the last byte received: right for every
/// peer that sends each message with its descriptors in a call of its own, however it splits it.
pub(crate) struct Receiver {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Stream position of `buffer[start]`.
    position: u64,
    control: ControlBuffer,
    incoming: Vec<OwnedFd>,
    /// Descriptors not yet handed out, with the position of the byte that they belong to.
    pending: Vec<(u64, OwnedFd)>,
    /// Position of a byte with which descriptors were lost.
    lost: Option<u64>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; INITIAL_BUFFER],
            start: 0,
            end: 0,
            position: 0,
            control: ControlBuffer::new(),
            incoming: Vec::new(),
            pending: Vec::new(),
            lost: None,
        }
    }

    /// Take the next complete message out of the buffer.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = Header::parse(&self.buffer[self.start..self.end])? else {
            return Ok(None);
        };
        let size = header.message_size as usize;
        if size > self.end - self.start {
            return Ok(None);
        }
        let start = self.start;
        self.start += size;
        self.position += size as u64;
        let mut fds = Vec::new();
        if !self.pending.is_empty() {
            let position = self.position;
            fds.extend(
                self.pending
                    .extract_if(.., |fd| fd.0 < position)
                    .map(|fd| fd.1),
            );
            if fds.len() > MAX_FDS {
                return Err(FrameError::TooManyFds);
            }
        }
        let fds_lost = self.lost.take_if(|lost| *lost < self.position).is_some();
        Ok(Some(Frame {
            header,
            start,
            fds,
            fds_lost,
        }))
    }

    /// The whole message, header included. Only until the next [`Self::fill`].
    pub(crate) fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.buffer[frame.start..frame.start + frame.header.message_size as usize]
    }

    /// The message without its header. Only until the next [`Self::fill`].
    pub(crate) fn body(&self, frame: &Frame) -> &[u8] {
        &self.bytes(frame)[HEADER_SIZE..]
    }

    /// Receive once. All complete messages must have been taken before.
    pub(crate) fn fill(
        &mut self,
        socket: &UnixStream,
        dont_wait: bool,
    ) -> Result<Fill, FrameError> {
        self.make_room()?;
        let room = &mut self.buffer[self.end..];
        let received = match socket::receive(
            socket,
            room,
            &mut self.control,
            dont_wait,
            &mut self.incoming,
        ) {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return Ok(Fill::Nothing),
            Err(Errno::ECONNRESET) if self.start == self.end => return Ok(Fill::End),
            Err(errno) => return Err(FrameError::Receive(errno)),
        };
        if received.bytes == 0 {
            self.incoming.clear();
            return if self.start == self.end {
                Ok(Fill::End)
            } else {
                Err(FrameError::Truncated)
            };
        }
        self.end += received.bytes;
        let last = self.position + (self.end - self.start) as u64 - 1;
        if received.truncated {
            if self.incoming.len() >= MAX_FDS {
                self.incoming.clear();
                return Err(FrameError::TooManyFds);
            }
            self.incoming.clear();
            self.lost = Some(last);
        }
        self.pending
            .extend(self.incoming.drain(..).map(|fd| (last, fd)));
        // One message may be incomplete and the next one have begun, no more.
        if self.pending.len() > 2 * MAX_FDS {
            return Err(FrameError::TooManyFds);
        }
        Ok(Fill::More)
    }

    /// Room for the rest of the message at the front, or for as much as there may be.
    fn make_room(&mut self) -> Result<(), FrameError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let have = &self.buffer[self.start..self.end];
        let need = Header::parse(have)?.map_or(HEADER_SIZE, |header| header.message_size as usize);
        if self.start + need > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if need > self.buffer.len() {
                self.buffer.resize(need, 0);
            }
        }
        Ok(())
    }
}

/// The sending half of a connection, shared by all who send on it.
pub(crate) struct Sender {
    stream: UnixStream,
    limit: Duration,
    /// Why nothing can be sent any more.
    broken: Mutex<Option<Errno>>,
}

impl Sender {
    /// Send on `stream`, each message within `limit`.
    pub(crate) fn new(stream: UnixStream, limit: Duration) -> std::io::Result<Self> {
        stream.set_write_timeout(Some(limit))?;
        Ok(Self {
            stream,
            limit,
            broken: Mutex::new(None),
        })
    }

    /// Send one message: `head` starts with its header. After a failure nothing can be sent any
    /// more; the caller then notes why and shuts the connection down, so that its reader ends too.
    pub(crate) fn send(
        &self,
        head: &[u8],
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let mut broken = lock(&self.broken);
        if let Some(errno) = *broken {
            return Err(errno);
        }
        socket::send(&self.stream, head, body, fds, self.limit)
            .inspect_err(|errno| *broken = Some(*errno))
    }

    /// Send a message that is only a header.
    pub(crate) fn send_header(&self, header: &Header) -> Result<(), Errno> {
        self.send(header.as_bytes(), &[], &[])
    }

    /// Why sending failed, if it did.
    pub(crate) fn failure(&self) -> Option<Errno> {
        *lock(&self.broken)
    }

    /// End the connection for both sides.
    pub(crate) fn shutdown(&self) {
        // Fails only if it has ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// The socket.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// Lock, also when a holder panicked: what these locks protect is consistent at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
