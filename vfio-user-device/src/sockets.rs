//! The sockets of a card: `pf.sock` from the start, `vf0.sock`, `vf1.sock`, ... while the VFs are
//! enabled. Each function has a thread of its own that serves one client at a time.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use igb::FunctionId;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use vfio_user::device::Device;
use vfio_user::server::{self, Listener, ServerOptions, Stop};

use crate::card::{Card, CardState, VfWatcher};
use crate::function::CardFunction;
use crate::lock;
use crate::message_dma::DMA_TIMEOUT;
use crate::names::function_name;

/// How long a client may leave a message of ours unread. Others may have to wait for that.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a card cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The directory cannot be made or looked at.
    #[error("cannot use {path} for sockets: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could put sockets into the directory.
    #[error(
        "{0} must belong to the user who runs the card, and nobody else may write to it: \
         chmod 700 {0}"
    )]
    NotPrivate(PathBuf),
    /// A card is being served there.
    #[error("another card is served in {0}: choose another directory, or end that card")]
    Served(PathBuf),
    /// A socket cannot be bound or served.
    #[error("{path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: server::Error,
    },
    /// No thread.
    #[error("cannot start the thread that serves {path}: {source}")]
    Thread {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A directory that is ours alone as long as this lives; the lock leaves no file behind.
pub struct SocketDir {
    path: PathBuf,
    _claim: Flock<File>,
}

impl SocketDir {
    /// Make the directory if it is not there (mode 0700), and claim it.
    pub fn claim(path: &Path) -> Result<Self, SocketsError> {
        let error = |source| SocketsError::Directory {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(error)?;
        let dir = File::open(path).map_err(error)?;
        let metadata = dir.metadata().map_err(error)?;
        if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(SocketsError::NotPrivate(path.to_owned()));
        }
        if metadata.mode() & 0o055 != 0 {
            log::warn!(
                "{}: others can look into it; chmod 700 is better",
                path.display()
            );
        }
        let claim =
            Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(
                |(_, errno)| match errno {
                    Errno::EWOULDBLOCK => SocketsError::Served(path.to_owned()),
                    errno => error(errno.into()),
                },
            )?;
        Ok(Self {
            path: path.to_owned(),
            _claim: claim,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn socket(&self, function: FunctionId) -> PathBuf {
        self.path.join(format!("{}.sock", function_name(function)))
    }
}

/// The sockets of one card. Dropping it ends every connection and removes the sockets.
pub struct Sockets {
    shared: Arc<Shared>,
    /// The card lives as long as it is served.
    _card: Arc<Card>,
}

struct Shared {
    dir: SocketDir,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    serving: Vec<Serving>,
    /// Threads that have ended or are about to.
    leaving: Vec<JoinHandle<()>>,
    closed: bool,
}

struct Serving {
    function: FunctionId,
    path: PathBuf,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Sockets {
    /// Serve a card in `dir`. When this returns the PF can be connected to.
    pub fn serve(card: &Arc<Card>, dir: SocketDir) -> Result<Self, SocketsError> {
        // What a predecessor that was killed has left. A live socket here is somebody else's.
        for function in FunctionId::all() {
            let path = dir.socket(function);
            if fs::symlink_metadata(&path).is_ok() {
                drop(bind(&path)?);
            }
        }
        let shared = Arc::new(Shared {
            dir,
            state: Mutex::default(),
        });
        // From here on an error drops this, and so ends what has begun.
        let sockets = Self {
            shared,
            _card: Arc::clone(card),
        };
        lock(&sockets.shared.state).serve(&sockets.shared.dir, card.state(), FunctionId::PF)?;
        let watcher: Weak<dyn VfWatcher> = Arc::downgrade(&(Arc::clone(&sockets.shared) as _));
        card.state().set_watcher(watcher);
        sockets.shared.vfs_changed(card.state(), card.num_vfs());
        Ok(sockets)
    }

    /// Where the PF is served.
    pub fn pf_socket(&self) -> PathBuf {
        self.shared.dir.socket(FunctionId::PF)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let threads = {
            let mut state = lock(&self.shared.state);
            state.closed = true;
            state.end(|_| true);
            std::mem::take(&mut state.leaving)
        };
        for thread in threads {
            // Panics were caught and logged there.
            let _ = thread.join();
        }
    }
}

impl VfWatcher for Shared {
    fn vfs_changed(&self, card: &Arc<CardState>, enabled: u8) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        let exists = |function: FunctionId| function.vf_index().is_none_or(|n| n < enabled);
        state.end(|serving| !exists(serving.function));
        for vf in FunctionId::vfs().filter(|vf| exists(*vf)) {
            if state.serving.iter().any(|serving| serving.function == vf) {
                continue;
            }
            if let Err(error) = state.serve(&self.dir, card, vf) {
                log::error!("a VF has no socket: {error}");
            }
        }
    }
}

impl State {
    /// Begin to serve a function.
    fn serve(
        &mut self,
        dir: &SocketDir,
        card: &Arc<CardState>,
        function: FunctionId,
    ) -> Result<(), SocketsError> {
        self.leaving.retain(|thread| !thread.is_finished());
        let path = dir.socket(function);
        let listener = bind(&path)?;
        let stop = Stop::new().map_err(|source| SocketsError::Socket {
            path: path.clone(),
            source,
        })?;
        let device: Arc<dyn Device> = Arc::new(CardFunction::new(card, function, None));
        let thread = thread::Builder::new()
            .name(function_name(function))
            .spawn({
                let stop = stop.clone();
                move || serve_until_stopped(&listener, &device, &stop)
            })
            .map_err(|source| SocketsError::Thread {
                path: path.clone(),
                source,
            })?;
        log::info!("listening on {}", path.display());
        self.serving.push(Serving {
            function,
            path,
            stop,
            thread,
        });
        Ok(())
    }

    /// End what `which` says, without waiting for it. The sockets are gone when this returns.
    fn end(&mut self, which: impl Fn(&Serving) -> bool) {
        for serving in self.serving.extract_if(.., |serving| which(serving)) {
            serving.stop.raise();
            // The listener itself removes only a socket that is still its own, so a later one of
            // the same name is safe from it.
            if let Err(error) = fs::remove_file(&serving.path)
                && error.kind() != io::ErrorKind::NotFound
            {
                log::warn!(
                    "{}: cannot remove the socket: {error}",
                    serving.path.display()
                );
            }
            self.leaving.push(serving.thread);
        }
    }
}

fn bind(path: &Path) -> Result<Listener, SocketsError> {
    let options = ServerOptions {
        send_timeout: SEND_TIMEOUT,
        dma_timeout: DMA_TIMEOUT,
        ..ServerOptions::default()
    };
    Listener::bind(path, options).map_err(|source| SocketsError::Socket {
        path: path.to_owned(),
        source,
    })
}

/// A panic in a connection ends that connection, as far as the card is concerned.
fn serve_until_stopped(listener: &Listener, device: &Arc<dyn Device>, stop: &Stop) {
    while !stop.is_raised() {
        match catch_unwind(AssertUnwindSafe(|| listener.serve(device, stop))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                log::error!(
                    "{}: {error}; it is served no more",
                    listener.path().display()
                );
                return;
            }
            Err(_) => {
                log::error!("{}: the connection panicked", listener.path().display());
                // Told already, if the unwinding came past the connection.
                device.disconnected();
            }
        }
    }
}
