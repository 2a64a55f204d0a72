//! A slot of the virtual PCI bus, from the moment a VF is offered until it is absent again.
//!
//! Threads of a slot: one that brings the VF up, serves its client and takes it down
//! ([`Slot::run`]); one that attends to what must not hold others up, the mailbox interrupt and the
//! loss of the card (`attendant`); one that forwards DMA messages. All of them wait for this
//! VF's client or the card's view of this VF at most, so that no VF holds up another.
//!
//! Locks: `function` before `channel`; `life` is never held while taking another.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use igb::{Register, vf};
use iommu::function::{Function, FunctionError, region};
use iommu::interrupt::EventFd;
use mediator_protocol::{ResetCause, Status, ToPf};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vfio_user::device::Device;
use vfio_user::server::{Listener, ServerOptions, Stop};

use crate::audit::Event;
use crate::backchannel::Backchannel;
use crate::bus::Core;
use crate::channel::{Channel, Host};
use crate::clock::Due;
use crate::config_space::ConfigSpace;
use crate::dma::{Forwarder, Handler};
use crate::nic::{Watch, vf_socket};

/// Between attempts to connect to a VF whose card does not tell when it appears, or is slow to.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// The longest pause between attempts.
const RETRY_MOST: Duration = Duration::from_millis(500);

/// Where a slot is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// Offered; the card's VF is not there yet.
    Waiting,
    /// On the bus.
    Present,
    /// On the bus; the guest has been asked to let go.
    Ejecting,
    /// Not on the bus.
    Absent,
}

impl SlotState {
    /// Its name in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Present => "present",
            Self::Ejecting => "ejecting",
            Self::Absent => "absent",
        }
    }
}

/// Why a VF leaves the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    Ejected { graceful: bool },
    Revoked,
    CardLost,
    NeverCame,
    ResetFailed,
    SocketFailed,
    Stopping,
}

impl Leave {
    fn reason(self) -> &'static str {
        match self {
            Self::Ejected { graceful: true } => "ejected",
            Self::Ejected { graceful: false } => "eject-timeout",
            Self::Revoked => "revoked",
            Self::CardLost => "card-lost",
            Self::NeverCame => "card-vf-missing",
            Self::ResetFailed => "reset-failed",
            Self::SocketFailed => "socket-failed",
            Self::Stopping => "mediator-stops",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) state: SlotState,
    pub(crate) serial: u64,
    pub(crate) backchannel: Option<Backchannel>,
    leave: Option<Leave>,
}

struct Timed {
    channel: Channel,
    /// When the timer fires for this channel, if it does.
    armed: Option<u64>,
}

/// What VTIVAR_MISC names, as far as the mediator knows.
pub(crate) const IVAR_UNKNOWN: u64 = u64::MAX;

pub(crate) struct Slot {
    pub(crate) vf: u16,
    /// Tells this VF in the slot from those before and after.
    pub(crate) occupancy: u64,
    pub(crate) core: Arc<Core>,
    channel: Mutex<Timed>,
    /// The card's VF. Held for reading while it is used, so that it is not dropped under a user.
    pub(crate) function: RwLock<Option<Arc<dyn Function>>>,
    pub(crate) lost_event: Mutex<Option<Arc<OwnedFd>>>,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) config: ConfigSpace,
    /// The client's eventfd of the REQ index: please release the device.
    pub(crate) req_event: Mutex<Option<EventFd>>,
    /// VTIVAR_MISC as the VF wrote it, or [`IVAR_UNKNOWN`].
    pub(crate) ivar_misc: AtomicU64,
    /// The client can map queue pages.
    pub(crate) pages_mapped: AtomicBool,
    pub(crate) notify: AtomicBool,
    pub(crate) ask_release: AtomicBool,
    pub(crate) attention: EventFd,
    life: Mutex<Life>,
    pub(crate) stop: Stop,
}

impl Slot {
    pub(crate) fn new(
        core: Arc<Core>,
        vf: u16,
        occupancy: u64,
        generation: u32,
        serial: u64,
    ) -> Result<Self, Errno> {
        let attention = EventFd::new().map_err(|_| Errno::EMFILE)?;
        let stop = Stop::new().map_err(|_| Errno::EMFILE)?;
        let channel = Channel::new(vf, generation, core.limits, core.clock.now());
        Ok(Self {
            vf,
            occupancy,
            core,
            channel: Mutex::new(Timed {
                channel,
                armed: None,
            }),
            function: RwLock::default(),
            lost_event: Mutex::default(),
            forwarder: Arc::default(),
            config: ConfigSpace::default(),
            req_event: Mutex::default(),
            ivar_misc: AtomicU64::new(IVAR_UNKNOWN),
            pages_mapped: AtomicBool::new(false),
            notify: AtomicBool::new(false),
            ask_release: AtomicBool::new(false),
            attention,
            life: Mutex::new(Life {
                state: SlotState::Waiting,
                serial,
                backchannel: None,
                leave: None,
            }),
            stop,
        })
    }

    /// Do something with the channel. `act` must not block.
    pub(crate) fn channel<T>(&self, act: impl FnOnce(&mut Channel, u64, &mut dyn Host) -> T) -> T {
        let mut timed = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut timed.channel, self.core.clock.now(), &mut Outlet(self));
        self.arm(&mut timed);
        result
    }

    /// The timer for the oldest request has fired.
    pub(crate) fn expire(&self) {
        let mut timed = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        timed.armed = None;
        timed
            .channel
            .expire(self.core.clock.now(), &mut Outlet(self));
        self.arm(&mut timed);
    }

    /// At most one timer entry per slot: deadlines only grow, so the oldest request's is enough.
    fn arm(&self, timed: &mut Timed) {
        if timed.armed.is_none()
            && let Some(deadline) = timed.channel.next_deadline()
        {
            timed.armed = Some(deadline);
            self.core.timer.arm(
                deadline,
                Due::Deadline {
                    slot: self.vf,
                    occupancy: self.occupancy,
                },
            );
        }
    }

    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> SlotState {
        self.life().state
    }

    /// Where its client finds it.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.core
            .socket_dir
            .as_deref()
            .map(|directory| vf_socket(directory, self.vf))
    }

    /// Wait until the slot is absent, `timeout` at most.
    pub(crate) fn wait_absent(&self, timeout: Duration) -> bool {
        let absent = || (self.state() == SlotState::Absent).then_some(());
        self.core.changes.wait_for(timeout, absent).is_some()
    }

    /// Why it left, once it has.
    pub(crate) fn graceful(&self) -> bool {
        self.life().leave == Some(Leave::Ejected { graceful: true })
    }

    // ---- leaving ----

    /// Ask the guest to let go, and take the VF away after `timeout` at the latest.
    pub(crate) fn eject(&self, timeout: Duration) {
        let asked = {
            let mut life = self.life();
            let ejectable = matches!(life.state, SlotState::Waiting | SlotState::Present)
                && life.leave.is_none();
            // A VF that is still being set up has no guest to ask.
            if ejectable && life.state == SlotState::Present {
                life.state = SlotState::Ejecting;
            }
            ejectable
        };
        if !asked {
            return;
        }
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.core.audit.record(Event::Eject {
            slot: self.vf,
            timeout_ms: timeout_ns / 1_000_000,
        });
        if self.channel(|channel, _, _| channel.attached()) {
            let at = self.core.clock.now().saturating_add(timeout_ns);
            self.core.timer.arm(
                at,
                Due::Eject {
                    slot: self.vf,
                    occupancy: self.occupancy,
                },
            );
            self.ask_release.store(true, Ordering::SeqCst);
            self.attention.signal();
        } else {
            self.leave(Leave::Ejected { graceful: true });
        }
    }

    /// The guest's time is up.
    pub(crate) fn eject_timeout(&self) {
        if self.state() == SlotState::Ejecting {
            log::warn!("VF {}: the guest did not let go in time", self.vf);
            self.leave(Leave::Ejected { graceful: false });
        }
    }

    /// Take the VF away at once. The first reason counts.
    pub(crate) fn leave(&self, leave: Leave) {
        self.life().leave.get_or_insert(leave);
        self.channel(|channel, now, host| channel.tear_down(now, host));
        self.stop.raise();
        self.attention.signal();
    }

    /// The client has given us its REQ eventfd, or taken it away.
    pub(crate) fn set_req_event(&self, event: Option<EventFd>) {
        *self
            .req_event
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = event;
        if self.state() == SlotState::Ejecting {
            self.ask_release.store(true, Ordering::SeqCst);
            self.attention.signal();
        }
    }

    // ---- the slot's own thread ----

    /// Bring the VF up, serve its clients, take it down.
    pub(crate) fn run(self: &Arc<Self>) {
        std::thread::scope(|scope| {
            let attend = std::thread::Builder::new().name(format!("vf{}-attend", self.vf));
            let forward = std::thread::Builder::new().name(format!("vf{}-dma", self.vf));
            let started = attend
                .spawn_scoped(scope, || self.attend())
                .and_then(|_| forward.spawn_scoped(scope, || self.forwarder.run()));
            match started {
                Ok(_) => self.live(),
                Err(error) => {
                    log::error!("VF {}: no thread: {error}", self.vf);
                    self.leave(Leave::SocketFailed);
                }
            }
            self.forwarder.stop();
        });
        self.finish();
    }

    fn live(self: &Arc<Self>) {
        if let Err(leave) = self.acquire() {
            return self.leave(leave);
        }
        let listener = match self
            .socket()
            .map(|path| Listener::bind(&path, ServerOptions::default()))
            .transpose()
        {
            Ok(listener) => listener,
            Err(error) => {
                log::error!("VF {}: {error}", self.vf);
                return self.leave(Leave::SocketFailed);
            }
        };
        let (serial, backchannel) = {
            let mut life = self.life();
            if life.state == SlotState::Waiting {
                life.state = SlotState::Present;
            }
            (life.serial, life.backchannel)
        };
        self.core.changes.announce();
        self.core.audit.record(Event::Present {
            slot: self.vf,
            serial,
            backchannel: backchannel.map_or("unknown", Backchannel::name),
        });
        log::info!("VF {} is on the bus", self.vf);
        if backchannel == Some(Backchannel::Fenced) {
            log::warn!(
                "VF {}: the card's own mailbox is open. It is fenced here: nothing of this VF's client \
                 gets to it; a process that opens the VF without the mediator does",
                self.vf
            );
        }
        let device: Arc<dyn Device> = Arc::clone(self) as _;
        match listener {
            Some(listener) => {
                if let Err(error) = listener.serve(&device, &self.stop) {
                    log::error!("VF {}: {error}", self.vf);
                    self.leave(Leave::SocketFailed);
                }
            }
            // Used in process: the client calls the device itself.
            None => self.wait(None, None),
        }
    }

    /// Connect to the card's VF and reset it: nothing of an earlier tenant is left. Waits until the
    /// VF is there, as long as an offer may take.
    fn acquire(&self) -> Result<(), Leave> {
        let watch = self.core.nic.watch().unwrap_or_else(|error| {
            log::warn!("cannot watch the card's directory: {error}");
            None
        });
        let started = std::time::Instant::now();
        let mut pause = RETRY_FIRST;
        loop {
            if self.stop.is_raised() {
                return Err(Leave::Stopping);
            }
            if let Some(watch) = &watch {
                watch.drain();
            }
            let missing = match self.core.nic.connect(self.vf) {
                Ok(function) => match self.install(function) {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        log::warn!("VF {}: the card's VF cannot be used: {error}", self.vf);
                        error.into()
                    }
                },
                Err(error) => {
                    log::debug!("VF {}: not there yet: {error}", self.vf);
                    error
                }
            };
            let left = self.core.offer_timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                log::warn!("VF {}: the card's VF does not come: {missing}", self.vf);
                return Err(Leave::NeverCame);
            }
            self.wait(watch.as_deref(), Some(pause.min(left)));
            pause = (2 * pause).min(RETRY_MOST);
        }
    }

    /// Wait for the stop, for `watch`, or for so long.
    fn wait(&self, watch: Option<&dyn Watch>, timeout: Option<Duration>) {
        let mut fds = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        if let Some(watch) = watch {
            fds.push(PollFd::new(watch.event().as_fd(), PollFlags::POLLIN));
        }
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)
        });
        while poll(&mut fds, timeout) == Err(Errno::EINTR) {}
    }

    fn install(&self, function: Arc<dyn Function>) -> Result<(), FunctionError> {
        function.set_dma_handler(Arc::new(Handler(Arc::clone(&self.forwarder))));
        function.reset()?;
        self.config.attach(function.as_ref())?;
        // A PF's reset of before is no news to whoever gets the VF now: a read takes it out of the card.
        function.read(region::BAR0, vf::V2PMAILBOX::OFFSET.into(), &mut [0; 4])?;
        let backchannel = Backchannel::try_out(function.as_ref())?;
        self.life().backchannel = Some(backchannel);
        let lost = function
            .lost_event()
            .try_clone_to_owned()
            .map_err(|source| FunctionError::Transport {
                operation: "watching the function",
                source: Box::new(source),
            })?;
        *self
            .lost_event
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(lost));
        *self
            .function
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(function);
        self.after_reset(ResetCause::Tenant);
        self.attention.signal();
        Ok(())
    }

    /// The card has completed a reset of the VF.
    pub(crate) fn after_reset(&self, cause: ResetCause) {
        self.ivar_misc.store(IVAR_UNKNOWN, Ordering::SeqCst);
        if cause != ResetCause::CtrlRst {
            self.config.reset();
        }
        self.channel(|channel, now, host| channel.reset(cause, now, host));
    }

    /// The client is gone: make the VF ready for the next, or let it leave.
    pub(crate) fn recycle(&self) {
        *self
            .req_event
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.detach();
        if self.state() == SlotState::Ejecting {
            self.leave(Leave::Ejected { graceful: true });
        }
        if self.stop.is_raised() {
            return;
        }
        // Queue pages, windows and interrupts of this tenant go with the connection.
        drop(self.release());
        if let Err(leave) = self.acquire() {
            let leave = if leave == Leave::NeverCame {
                Leave::CardLost
            } else {
                leave
            };
            self.leave(leave);
        }
    }

    /// A client in process may outlive its VF, so it may have been detached before.
    fn detach(&self) {
        self.channel(|channel, now, host| {
            if channel.attached() {
                channel.detach(now, host);
            }
        });
    }

    fn release(&self) -> Option<Arc<dyn Function>> {
        *self
            .lost_event
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.function
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn finish(&self) {
        self.detach();
        if let Some(function) = self.release() {
            // Nobody owns the VF now: it must not go on as its last owner left it.
            if !function.lost()
                && let Err(error) = function.reset()
            {
                log::warn!("VF {}: not reset on its way out: {error}", self.vf);
            }
            drop(function);
            self.after_reset(ResetCause::Tenant);
        }
        let generation = self.channel(|channel, _, _| channel.generation());
        self.core.keep_generation(self.vf, generation);
        let leave = {
            let mut life = self.life();
            life.state = SlotState::Absent;
            *life.leave.get_or_insert(Leave::Stopping)
        };
        let graceful = leave == Leave::Ejected { graceful: true };
        log::info!("VF {} has left the bus: {}", self.vf, leave.reason());
        self.core.audit.record(Event::Absent {
            slot: self.vf,
            reason: leave.reason(),
            graceful,
        });
        let message = match leave {
            Leave::NeverCame => ToPf::Rejected {
                vf: self.vf,
                status: Status::TimedOut,
            },
            _ => ToPf::Ejected {
                vf: self.vf,
                graceful,
            },
        };
        self.core.pf.send(message);
        if matches!(leave, Leave::CardLost | Leave::ResetFailed) {
            // Nobody wanted that: the PF driver offers the VF again, if it still has it, until the
            // card has recovered.
            self.core.pf.send(ToPf::Rejected {
                vf: self.vf,
                status: Status::TimedOut,
            });
        }
        self.core.changes.announce();
    }
}

/// Where a slot's channel sends what it has to say.
struct Outlet<'a>(&'a Slot);

impl Host for Outlet<'_> {
    fn send(&mut self, message: ToPf) -> bool {
        self.0.core.pf.send(message)
    }

    fn next_id(&mut self) -> u64 {
        self.0.core.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn notify(&mut self) {
        self.0.notify.store(true, Ordering::SeqCst);
        self.0.attention.signal();
    }

    fn record(&mut self, event: Event) {
        self.0.core.audit.record(event);
    }
}
