//! The listening socket of a function.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
    socket, sockopt::PeerCredentials,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;

use super::{Ended, Error, ServerOptions, Stop, serve_connection};
use crate::device::Device;

/// How many clients may wait while one is served.
const BACKLOG: i32 = 8;
/// How long to wait, in milliseconds, before accepting again when no descriptor was free.
const FDS_EXHAUSTED_PAUSE: u16 = 100;

/// A socket in the file system on which one function is served, to one client at a time.
///
/// Only its owner may connect: the file has mode 0600, and the peer's uid is checked. Dropping the
/// listener removes the file, if it is still the one that was made.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    options: ServerOptions,
}

impl Listener {
    /// Bind `path`. A socket that a dead server left there is replaced.
    pub fn bind(path: &Path, options: ServerOptions) -> Result<Self, Error> {
        remove_stale(path)?;
        let error = |source| Error::Bind {
            path: path.to_owned(),
            source,
        };
        let listener = bind_private(path).map_err(|errno| match errno {
            Errno::EADDRINUSE => Error::InUse {
                path: path.to_owned(),
            },
            errno => error(errno.into()),
        })?;
        let metadata = path.symlink_metadata().map_err(error)?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
            options,
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serve clients, one after the other, on this thread until `stop` is raised. Those that connect
    /// meanwhile wait. A client that misbehaves ends its own connection only; the reason is logged.
    pub fn serve(&self, device: &Arc<dyn Device>, stop: &Stop) -> Result<(), Error> {
        let path = self.path.display();
        while let Some(stream) = self.accept(stop)? {
            let served = self
                .check_peer(&stream)
                .and_then(|()| serve_connection(stream, device, stop, &self.options));
            match served {
                Ok(Ended::Stopped) => break,
                Ok(Ended::Disconnected) => log::debug!("{path}: client disconnected"),
                Err(error) => {
                    let source = std::error::Error::source(&error);
                    let cause = source.map(|cause| format!(": {cause}")).unwrap_or_default();
                    log::warn!("{path}: connection ended: {error}{cause}");
                }
            }
        }
        Ok(())
    }

    /// The next connection, or `None` when `stop` is raised.
    fn accept(&self, stop: &Stop) -> Result<Option<UnixStream>, Error> {
        loop {
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [readable(stop.as_fd()), readable(self.listener.as_fd())];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Accept(errno)),
            }
            if stop.is_raised() {
                return Ok(None);
            }
            let error = match self.listener.accept() {
                Ok((stream, _)) => {
                    // Not inherited from the listener on Linux, but let that not matter.
                    stream.set_nonblocking(false).map_err(Error::Socket)?;
                    return Ok(Some(stream));
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => {}
                Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                    // The connection stays in the queue, so the listener stays readable: wait for
                    // the stop alone, or this would spin.
                    log::warn!("{}: cannot accept: {errno}", self.path.display());
                    let _ = poll(&mut fds[..1], FDS_EXHAUSTED_PAUSE);
                }
                _ => return Err(Error::Accept(last_errno(&error))),
            }
        }
    }

    fn check_peer(&self, stream: &UnixStream) -> Result<(), Error> {
        let allowed = self.options.peer_uid.unwrap_or_else(|| geteuid().as_raw());
        let peer = getsockopt(stream, PeerCredentials).map_err(|e| Error::Socket(e.into()))?;
        if peer.uid() != allowed {
            return Err(Error::PeerUid {
                uid: peer.uid(),
                allowed,
            });
        }
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Ok(metadata) = self.path.symlink_metadata() else {
            return;
        };
        if (metadata.dev(), metadata.ino()) == self.inode
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("{}: cannot remove the socket: {error}", self.path.display());
        }
    }
}

/// A listening socket whose file nobody else could open even for a moment: its mode is that of the
/// socket at the time it is bound.
fn bind_private(path: &Path) -> Result<UnixListener, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    // Bound under another name and linked when it listens: who waits for the name to appear can
    // connect at once.
    let unready = unready_name(path);
    bind(fd.as_raw_fd(), &UnixAddr::new(&unready)?)?;
    let linked = listen(&fd, Backlog::new(BACKLOG)?).and_then(|()| {
        std::fs::hard_link(&unready, path).map_err(|error| match last_errno(&error) {
            Errno::EEXIST => Errno::EADDRINUSE,
            errno => errno,
        })
    });
    let removed = std::fs::remove_file(&unready).map_err(|error| last_errno(&error));
    linked.and(removed)?;
    Ok(UnixListener::from(fd))
}

/// A name beside `path` that no other listener uses, and hardly longer: a socket's path has at most
/// 107 bytes.
fn unready_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{:x}.{number:x}", std::process::id()))
}

/// Remove a socket on which nobody listens.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    let in_use = || Error::InUse {
        path: path.to_owned(),
    };
    if !metadata.file_type().is_socket() {
        return Err(in_use());
    }
    match probe(path) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path).map_err(|source| Error::Bind {
            path: path.to_owned(),
            source,
        }),
        Err(Errno::ENOENT) => Ok(()),
        _ => Err(in_use()),
    }
}

/// Connect without waiting: a server whose queue is full is alive too.
fn probe(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)
}

fn last_errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
