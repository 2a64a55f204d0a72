//! Talks to a vfio-user server: the driver's side.

mod dma;
mod link;
mod requests;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::TimeVal;

pub use dma::{DmaHandler, DmaReply};

use crate::wire::{Capabilities, WireError, command};
use link::Link;

/// How a client treats its server.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How long the server may take to answer a request, or to take one in.
    pub timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No connection to the server.
    #[error("cannot connect to {path}: check that the server runs, and as the same user")]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Something that the connection needs here could not be had.
    #[error("cannot set the connection up")]
    Setup(#[source] Errno),
    /// The server refused the request; the connection goes on.
    #[error("the server refused {}: {errno}", command::name(*.command))]
    Refused {
        /// The request.
        command: u16,
        /// The server's reason.
        errno: Errno,
    },
    /// No answer in time; the connection goes on, and a late answer is ignored.
    #[error("the server did not answer {} in time", command::name(*.0))]
    Timeout(u16),
    /// The answer makes no sense; the connection goes on.
    #[error("the server's answer is malformed")]
    BadReply(#[source] WireError),
    /// The connection is lost.
    #[error("the connection to the server is lost: {0}")]
    Closed(Lost),
    /// The request itself makes no sense.
    #[error("{} was given an argument that the protocol cannot carry", command::name(*.0))]
    Argument(u16),
}

/// Why a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The server closed it.
    #[error("the server closed it")]
    ByServer,
    /// Receiving failed.
    #[error("receive failed: {0}")]
    Receive(Errno),
    /// Sending failed, or the server did not read for too long.
    #[error("send failed: {0}")]
    Send(Errno),
    /// The stream ended inside a message.
    #[error("the stream ended in the middle of a message")]
    Truncated,
    /// The server sent no valid message.
    #[error("malformed message: {0}")]
    Malformed(WireError),
    /// The server sent a reply that nothing waits for.
    #[error("unexpected reply ({})", command::name(*.0))]
    UnexpectedReply(u16),
    /// Too many file descriptors with one message.
    #[error("too many file descriptors")]
    TooManyFds,
}

/// What DEVICE_GET_INFO says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo {
    /// DEVICE_RESET works.
    pub resettable: bool,
    /// A PCI function.
    pub pci: bool,
    /// How many region indexes there are.
    pub regions: u32,
    /// How many interrupt indexes there are.
    pub irqs: u32,
}

/// A connection to a server. Any number of threads may use it at a time.
///
/// The thread that waits for a reply receives it itself, for the others too if they wait; a service
/// thread receives only while nobody waits. So a register read takes no thread switch on this side.
#[derive(Debug)]
pub struct Client {
    link: Arc<Link>,
    capabilities: Capabilities,
    service: Option<JoinHandle<()>>,
}

impl Client {
    /// Connect to the server's socket and agree on the version.
    pub fn connect(path: &Path, options: ClientOptions) -> Result<Self, ClientError> {
        let stream =
            connect_within(path, options.timeout).map_err(|source| ClientError::Connect {
                path: path.to_owned(),
                source,
            })?;
        Self::from_stream(stream, options)
    }

    /// Take over a connected stream and agree on the version.
    pub fn from_stream(stream: UnixStream, options: ClientOptions) -> Result<Self, ClientError> {
        let link = Arc::new(Link::new(stream, options.timeout)?);
        // Whatever fails from here on drops the client, and that ends link and thread.
        let mut client = Self {
            link,
            capabilities: Capabilities::default(),
            service: None,
        };
        client.capabilities = client.negotiate()?;
        let link = Arc::clone(&client.link);
        let service = std::thread::Builder::new()
            .name("vfio-user-client".into())
            .spawn(move || link.service())
            .map_err(|error| ClientError::Setup(errno_of(&error)))?;
        client.service = Some(service);
        Ok(client)
    }

    /// What the server can do, within our own limits.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Answer the server's DMA requests with `handler` from now on. Without one they are refused
    /// with `ENOTSUP`.
    pub fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>) {
        self.link.set_dma_handler(handler);
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.link.lost().is_some()
    }

    /// Why the connection was lost, if it is.
    pub fn lost(&self) -> Option<Lost> {
        self.link.lost()
    }

    /// An eventfd that becomes and stays readable when the connection is lost, for event loops. Do
    /// not read it.
    pub fn closed_fd(&self) -> BorrowedFd<'_> {
        self.link.closed_fd()
    }

    /// [`Self::closed_fd`] for callers that outlive the client.
    pub fn on_closed(&self) -> Result<OwnedFd, ClientError> {
        self.closed_fd()
            .try_clone_to_owned()
            .map_err(|e| ClientError::Setup(errno_of(&e)))
    }

    /// End the connection. Requests that wait fail with [`ClientError::Closed`].
    pub fn close(&self) {
        self.link.shutdown();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.shutdown();
        if let Some(service) = self.service.take()
            && service.thread().id() != std::thread::current().id()
        {
            // It panics only if a DMA handler does.
            let _ = service.join();
        }
    }
}

impl AsFd for Client {
    /// [`Client::closed_fd`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.closed_fd()
    }
}

/// Connect, waiting no longer than `timeout` for a server whose queue is full.
fn connect_within(path: &Path, timeout: Duration) -> Result<UnixStream, Errno> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    let limit = TimeVal::new(seconds, timeout.subsec_micros().into());
    setsockopt(&fd, SendTimeout, &limit)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
