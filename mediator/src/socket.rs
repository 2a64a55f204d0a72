//! The mediator's own sockets (PF driver, control): private files, peers checked by uid.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;
use vfio_user::server::Stop;

/// How long to wait, in milliseconds, before accepting again when no descriptor was free.
const FDS_EXHAUSTED_PAUSE: u16 = 100;

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there, or the path is no socket.
    #[error("{path} is in use: stop the program that listens there, or choose another path")]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {path}: check that its directory exists and is yours")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening socket of mode 0600. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct Private {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Private {
    /// Listen on `path`; a socket that nobody listens on any more is replaced.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source: io::Error| SocketError::Bind {
            path: path.into(),
            source,
        };
        if let Ok(metadata) = path.symlink_metadata() {
            if !metadata.file_type().is_socket() || probe(path) != Err(Errno::ECONNREFUSED) {
                return Err(SocketError::InUse { path: path.into() });
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = listen_privately(path).map_err(|errno| failed(errno.into()))?;
        let metadata = path.symlink_metadata().map_err(failed)?;
        Ok(Self {
            listener,
            path: path.into(),
            inode: (metadata.dev(), metadata.ino()),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of our own user, and whether it is one; `None` when `stop` is raised.
    pub(crate) fn accept(&self, stop: &Stop) -> io::Result<Option<(UnixStream, bool)>> {
        loop {
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [readable(stop.as_fd()), readable(self.listener.as_fd())];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if stop.is_raised() {
                return Ok(None);
            }
            let error = match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    let ours = getsockopt(&stream, PeerCredentials)
                        .is_ok_and(|peer| peer.uid() == geteuid().as_raw());
                    return Ok(Some((stream, ours)));
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => {}
                Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                    // The connection stays in the queue: wait for the stop alone, or this would spin.
                    log::warn!("{}: cannot accept: {error}", self.path.display());
                    let _ = poll(&mut fds[..1], FDS_EXHAUSTED_PAUSE);
                }
                _ => return Err(error),
            }
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|now| (now.dev(), now.ino()) == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{}: cannot remove the socket: {error}", self.path.display());
        }
    }
}

fn stream_socket() -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// The mode is set before the file exists, so nobody else can open it even for a moment.
fn listen_privately(path: &Path) -> Result<UnixListener, Errno> {
    let fd = stream_socket()?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(8)?)?;
    Ok(UnixListener::from(fd))
}

fn probe(path: &Path) -> Result<(), Errno> {
    connect(stream_socket()?.as_raw_fd(), &UnixAddr::new(path)?)
}
