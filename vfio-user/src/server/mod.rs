//! Serves a [`Device`] to vfio-user clients.

mod connection;
mod dma;
mod listener;
mod stop;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

pub use listener::Listener;
pub use stop::Stop;

use crate::device::Device;
use crate::frame::FrameError;
use crate::wire::{MAX_FDS, WireError, command};

/// How a server treats its clients.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// How many DMA windows VERSION announces. The device enforces its own quota.
    pub max_dma_maps: u16,
    /// How long a client may take to begin with VERSION, and how long it may leave a message of
    /// ours unread; after that its connection ends.
    pub send_timeout: Duration,
    /// How long a client may take to answer a DMA request.
    pub dma_timeout: Duration,
    /// The user who may connect; `None` stands for the user that this process runs as.
    pub peer_uid: Option<u32>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_dma_maps: u16::MAX,
            send_timeout: Duration::from_secs(5),
            dma_timeout: Duration::from_secs(5),
            peer_uid: None,
        }
    }
}

/// How a connection ended in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client closed it.
    Disconnected,
    /// [`Stop`] was raised.
    Stopped,
}

/// Why a connection, or a listener, had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No eventfd to stop with.
    #[error("no eventfd: raise the limit of open files")]
    Eventfd(#[source] Errno),
    /// The socket cannot be bound.
    #[error("cannot bind the socket {path}: check that its directory exists and is yours")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another server is listening on the path, or the path is no socket.
    #[error("{path} is in use: choose another path, or stop the server there")]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// Waiting for a connection failed.
    #[error("cannot wait for connections")]
    Accept(#[source] Errno),
    /// A client of another user.
    #[error("the client runs as uid {uid}, only uid {allowed} may connect")]
    PeerUid {
        /// The client's.
        uid: u32,
        /// The one that may.
        allowed: u32,
    },
    /// A socket option cannot be set.
    #[error("cannot prepare the socket")]
    Socket(#[source] io::Error),
    /// Receiving failed.
    #[error("cannot receive from the client")]
    Receive(#[source] Errno),
    /// Sending failed, or the client did not read for too long.
    #[error("cannot send to the client")]
    Send(#[source] Errno),
    /// The stream ended inside a message.
    #[error("the client closed the connection in the middle of a message")]
    Truncated,
    /// The client was silent instead of saying VERSION.
    #[error("the client did not say VERSION in time")]
    VersionTimeout,
    /// The client did not begin with VERSION.
    #[error("the client began with {} instead of VERSION", command::name(*.0))]
    VersionMissing(u16),
    /// The client said VERSION twice.
    #[error("the client said VERSION twice")]
    VersionTwice,
    /// The client's VERSION cannot be accepted.
    #[error("the client's VERSION was refused")]
    Version(#[source] WireError),
    /// The bytes are no message.
    #[error("the client sent a malformed message")]
    Malformed(#[source] WireError),
    /// A reply to nothing.
    #[error("the client sent a reply ({}, id {id}) that nothing waits for", command::name(*.command))]
    UnexpectedReply {
        /// Its command.
        command: u16,
        /// Its id.
        id: u16,
    },
    /// Too many descriptors.
    #[error("the client sent more than {MAX_FDS} file descriptors with one message")]
    TooManyFds,
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Receive(errno) => Self::Receive(errno),
            FrameError::Truncated => Self::Truncated,
            FrameError::Wire(error) => Self::Malformed(error),
            FrameError::TooManyFds => Self::TooManyFds,
        }
    }
}

/// Serve `device` on a connected stream until the client leaves, misbehaves, or `stop` is raised.
///
/// [`Device::connected`] is called once the client's VERSION has been accepted, and then
/// [`Device::disconnected`] however the connection ends.
pub fn serve_connection(
    stream: UnixStream,
    device: &Arc<dyn Device>,
    stop: &Stop,
    options: &ServerOptions,
) -> Result<Ended, Error> {
    let registration = stop.register(&stream).map_err(Error::Socket)?;
    let result = connection::serve(stream, device.as_ref(), options);
    drop(registration);
    match result {
        // Stopping shuts the stream down, which looks like any other end of it.
        _ if stop.is_raised() => Ok(Ended::Stopped),
        result => result.map(|()| Ended::Disconnected),
    }
}

/// [`serve_connection`] on a descriptor that was inherited or passed (`--fd`).
pub fn serve_fd(
    fd: OwnedFd,
    device: &Arc<dyn Device>,
    stop: &Stop,
    options: &ServerOptions,
) -> Result<Ended, Error> {
    serve_connection(UnixStream::from(fd), device, stop, options)
}
