//! A running mediator: its bus, its sockets, its threads.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use mediator_protocol::Token;
use vfio_user::device::Device;
use vfio_user::server::Stop;

use crate::audit::Audit;
use crate::bus::{Bus, Changes, Core, SlotError, SlotInfo};
use crate::clock::{Clock, Timer};
use crate::control::ControlPort;
use crate::limits::Limits;
use crate::nic::Nic;
use crate::pf::{PfLink, PfPort};
use crate::slot::SlotState;
use crate::socket::{Private, SocketError};

/// How a mediator is set up.
pub struct MediatorOptions {
    /// The card whose VFs it offers.
    pub nic: Arc<dyn Nic>,
    /// Where the VFs' sockets appear. `None`: VFs are used in process, through
    /// [`Mediator::device`].
    pub socket_dir: Option<PathBuf>,
    /// Where the PF driver connects. `None`: only through [`Mediator::connect_pf`].
    pub pf_socket: Option<PathBuf>,
    /// Where `mediator ctl` connects.
    pub control_socket: Option<PathBuf>,
    /// What a VF may ask.
    pub limits: Limits,
    /// What the PF driver must show.
    pub token: Option<Token>,
    /// The audit log.
    pub audit: Audit,
    /// Time.
    pub clock: Clock,
    /// How long the card may take to have a VF that the PF driver has offered.
    pub offer_timeout: Duration,
}

impl MediatorOptions {
    /// A mediator without sockets, log and token, with default limits.
    pub fn new(nic: Arc<dyn Nic>) -> Self {
        Self {
            nic,
            socket_dir: None,
            pf_socket: None,
            control_socket: None,
            limits: Limits::default(),
            token: None,
            audit: Audit::none(),
            clock: Clock::monotonic(),
            offer_timeout: Duration::from_secs(10),
        }
    }
}

/// Why a mediator does not start.
#[derive(Debug, thiserror::Error)]
pub enum MediatorError {
    /// The directory for the VFs' sockets cannot be used.
    #[error(
        "cannot use the socket directory {path}; give one that exists and is yours, or can be made"
    )]
    SocketDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket cannot be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// No thread or eventfd.
    #[error("out of threads or descriptors")]
    Resources(#[source] io::Error),
}

/// A running mediator. Dropping it stops it.
pub struct Mediator {
    bus: Arc<Bus>,
    pf_port: Arc<PfPort>,
    control_port: Arc<ControlPort>,
    stop: Stop,
    acceptors: Vec<JoinHandle<()>>,
    timer: Option<JoinHandle<()>>,
}

impl Mediator {
    /// Start one. VFs appear as the PF driver offers them.
    pub fn start(options: MediatorOptions) -> Result<Self, MediatorError> {
        if let Some(path) = &options.socket_dir {
            prepare_directory(path).map_err(|source| MediatorError::SocketDir {
                path: path.clone(),
                source,
            })?;
        }
        let stop =
            Stop::new().map_err(|error| MediatorError::Resources(io::Error::other(error)))?;
        let core = Arc::new(Core {
            limits: options.limits,
            timer: Timer::new(options.clock.clone()),
            clock: options.clock,
            audit: options.audit,
            pf: PfLink::default(),
            // 0 stands for "never got one" in the audit log.
            ids: AtomicU64::new(1),
            nic: options.nic,
            socket_dir: options.socket_dir,
            offer_timeout: options.offer_timeout,
            generations: std::sync::Mutex::default(),
            changes: Changes::default(),
        });
        let bus = Arc::new(Bus::new(core));
        let mut mediator = Self {
            bus: Arc::clone(&bus),
            pf_port: Arc::new(PfPort::new(options.token)),
            control_port: Arc::default(),
            stop,
            acceptors: Vec::new(),
            timer: None,
        };
        // Whatever fails from here on drops the mediator, and that ends what has started.
        let pf_socket = options
            .pf_socket
            .as_deref()
            .map(Private::bind)
            .transpose()?;
        let control_socket = options
            .control_socket
            .as_deref()
            .map(Private::bind)
            .transpose()?;
        let of_timer = Arc::clone(&bus);
        let timer = std::thread::Builder::new()
            .name("timer".into())
            .spawn(move || of_timer.core.timer.run(|due| of_timer.fire(due)))
            .map_err(MediatorError::Resources)?;
        mediator.timer = Some(timer);
        if let Some(socket) = pf_socket {
            let (port, bus) = (Arc::clone(&mediator.pf_port), Arc::clone(&bus));
            mediator.accept("pf-accept", socket, move |stream, ours| {
                port.open(stream, ours, &bus)
            })?;
        }
        if let Some(socket) = control_socket {
            let (port, bus) = (Arc::clone(&mediator.control_port), bus);
            mediator.accept("control-accept", socket, move |stream, ours| {
                port.open(stream, ours, &bus)
            })?;
        }
        Ok(mediator)
    }

    fn accept(
        &mut self,
        name: &str,
        socket: Private,
        open: impl Fn(UnixStream, bool) -> io::Result<()> + Send + 'static,
    ) -> Result<(), MediatorError> {
        let stop = self.stop.clone();
        let accept = move || {
            loop {
                match socket.accept(&stop) {
                    Ok(None) => return,
                    Ok(Some((stream, ours))) => {
                        if let Err(error) = open(stream, ours) {
                            log::warn!(
                                "{}: connection not served: {error}",
                                socket.path().display()
                            );
                        }
                    }
                    Err(error) => return log::error!("{}: {error}", socket.path().display()),
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(accept);
        self.acceptors
            .push(thread.map_err(MediatorError::Resources)?);
        Ok(())
    }

    /// A connection of a PF driver in this process.
    pub fn connect_pf(&self) -> io::Result<UnixStream> {
        let (theirs, ours) = UnixStream::pair()?;
        self.pf_port.open(ours, true, &self.bus)?;
        Ok(theirs)
    }

    /// A VF on the bus, for a client in this process. Only with `socket_dir: None`.
    pub fn device(&self, vf: u16) -> Option<Arc<dyn Device>> {
        self.bus.device(vf)
    }

    /// [`Self::device`], waiting for the VF to be on the bus, `timeout` at most.
    pub fn wait_for_device(&self, vf: u16, timeout: Duration) -> Option<Arc<dyn Device>> {
        self.bus
            .core
            .changes
            .wait_for(timeout, || self.bus.device(vf))
    }

    /// Wait until a slot that has or had a VF is absent, `timeout` at most.
    pub fn wait_absent(&self, slot: u16, timeout: Duration) -> bool {
        let absent = || {
            self.list()
                .iter()
                .any(|info| info.slot == slot && info.state == SlotState::Absent.name())
        };
        self.bus
            .core
            .changes
            .wait_for(timeout, || absent().then_some(()))
            .is_some()
    }

    /// Every slot that has or had a VF, by number.
    pub fn list(&self) -> Vec<SlotInfo> {
        self.bus.list()
    }

    /// Ask the guest to let go of a VF, and take it away after `timeout` at the latest. Returns when
    /// the slot is absent; true if the guest let go.
    pub fn eject(&self, slot: u16, timeout: Duration) -> Result<bool, SlotError> {
        self.bus.remove(slot, Some(timeout))
    }

    /// Take a VF away at once. Returns when the slot is absent.
    pub fn revoke(&self, slot: u16) -> Result<(), SlotError> {
        self.bus.remove(slot, None).map(drop)
    }

    /// Is a PF driver connected?
    pub fn pf_connected(&self) -> bool {
        self.bus.core.pf.is_connected()
    }
}

impl Drop for Mediator {
    fn drop(&mut self) {
        self.stop.raise();
        for acceptor in self.acceptors.drain(..) {
            let _ = acceptor.join();
        }
        self.bus.stop();
        self.pf_port.close(&self.bus.core.pf);
        self.control_port.close();
        self.bus.core.timer.stop();
        if let Some(timer) = self.timer.take() {
            let _ = timer.join();
        }
    }
}

/// Make the directory, for ourselves only; say so if others may look into an existing one.
fn prepare_directory(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = path.metadata()?;
            if !metadata.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            if metadata.permissions().mode() & 0o077 != 0 {
                log::warn!(
                    "{}: other users may look into this directory",
                    path.display()
                );
            }
            Ok(())
        }
        result => result,
    }
}
