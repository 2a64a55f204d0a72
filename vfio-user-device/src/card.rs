//! The card: the model behind its locks, and what an access to it sets off.
//!
//! Order of the locks, outermost first: changes of the number of VFs, data path, tenancy of a
//! function, control. Control is let go before anything else is taken after an access. A
//! connection thread that waits for the data path first lets the worker's DMA messages to its own
//! client go (see [`crate::message_dma`]).

mod clients;
mod faults;
mod messages;

use std::array;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use igb::FunctionId;
use igb::function::FUNCTION_COUNT;
use igb::pci::{command, header};
use igb_model::{
    CardRegion, CardSettings, Config, Control, DataPath, Effects, FunctionSet, MailboxMode,
    Snapshot,
};
use iommu::interrupt::InterruptError;
use vfio_user::device::Device;

use crate::capture::{Capture, CaptureTap};
use crate::data_lock::{DataGuard, DataLock};
use crate::function::CardFunction;
use crate::host::{BurstHost, RegisterHost, Views};
use crate::incidents::Incidents;
use crate::inject::{InjectSpec, TooManyRules};
use crate::kick::Kick;
use crate::names::function_name;
use crate::options::CardOptions;
use crate::rounds::Rounds;
use crate::trace::EventRecord;
use crate::uplink::{Uplink, UplinkError};
use crate::view::View;
use crate::watch::Watch;
use crate::{lock, worker};

/// Why a card could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The uplink could not be opened.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// No eventfd for the worker.
    #[error("cannot set the card's worker up: {0}")]
    Kick(#[from] InterruptError),
    /// More faults than the card keeps.
    #[error(transparent)]
    Inject(#[from] TooManyRules),
    /// No worker thread.
    #[error("cannot start the card's worker thread: {0}")]
    Worker(std::io::Error),
}

/// Who is told when the number of enabled VFs changes, before the access that changed it is
/// answered.
pub(crate) trait VfWatcher: Send + Sync {
    /// `enabled` VFs exist now; VFs that were disabled in between have lost their tenants already.
    fn vfs_changed(&self, card: &Arc<CardState>, enabled: u8);
}

/// An emulated 82576. Dropping it, and every function taken from it, ends its worker.
pub struct Card {
    state: Arc<CardState>,
    worker: Option<JoinHandle<()>>,
}

/// The card as its worker, its sockets and its functions share it.
pub(crate) struct CardState {
    pub(crate) prefix: String,
    pub(crate) control: Mutex<Control>,
    pub(crate) data: DataLock<DataPath>,
    pub(crate) views: Views,
    pub(crate) uplink: Box<dyn Uplink>,
    tap: Option<CaptureTap>,
    pub(crate) capture: Option<Arc<Capture>>,
    first_interface: u32,
    pub(crate) watch: Watch,
    mailbox: MailboxMode,
    pub(crate) kick: Kick,
    pub(crate) rounds: Rounds,
    pub(crate) linger: Duration,
    pf_grace: Duration,
    /// When the VFs go, if no client of the PF has come by then.
    grace_ends: Mutex<Option<Instant>>,
    pub(crate) incidents: Mutex<Incidents>,
    /// Held from the access that changes the number of VFs until all that follows is done.
    vf_change: Mutex<()>,
    watcher: Mutex<Option<Weak<dyn VfWatcher>>>,
    pub(crate) stopping: AtomicBool,
}

/// What is left to do after an access, once the control lock is free.
struct Aftermath {
    effects: Effects,
    config: Option<Arc<Config>>,
    /// VFs that were disabled.
    left: FunctionSet,
    /// Bus Master Enable of the functions for which it may have changed.
    bus_master: [Option<bool>; FUNCTION_COUNT],
    deadline: Option<u64>,
}

impl Card {
    /// A card after power-up, with its worker running.
    pub fn new(options: CardOptions) -> Result<Arc<Self>, CardError> {
        let uplink = options.uplink.open()?;
        Self::with_uplink(options, uplink)
    }

    /// A card after power-up whose cable is `uplink`, whatever the options say.
    pub fn with_uplink(
        options: CardOptions,
        uplink: Box<dyn Uplink>,
    ) -> Result<Arc<Self>, CardError> {
        let prefix = options.prefix();
        let mut control = Control::new(CardSettings {
            mac: options.mac,
            mailbox: options.mailbox,
            link_up: true,
        });
        let ids: [FunctionId; FUNCTION_COUNT] =
            array::from_fn(|slot| FunctionId::from_slot(slot).expect("a slot of the card"));
        let mut data = DataPath::new();
        data.configure(control.config());
        let state = Arc::new(CardState {
            data: DataLock::new(data),
            views: ids.map(|id| View::new(id, options.doorbells.of(id))),
            uplink,
            tap: options.capture.as_ref().map(|capture| capture.tap()),
            capture: options.capture.clone(),
            first_interface: (options.index * crate::INTERFACES_PER_CARD) as u32,
            watch: Watch::new(options.trace.as_ref().map(|trace| trace.tracer(&prefix))),
            mailbox: options.mailbox,
            kick: Kick::new()?,
            rounds: Rounds::default(),
            linger: options.linger,
            control: Mutex::new(control),
            pf_grace: options.pf_grace,
            grace_ends: Mutex::new(None),
            incidents: Mutex::new(Incidents::new(prefix.clone())),
            vf_change: Mutex::new(()),
            watcher: Mutex::new(None),
            stopping: AtomicBool::new(false),
            prefix,
        });
        for spec in &options.inject {
            state.watch.injector.add(*spec, Duration::ZERO)?;
        }
        let worker = thread::Builder::new()
            .name(format!("worker{}", options.index))
            .spawn({
                let state = Arc::clone(&state);
                move || worker::run(&state)
            })
            .map_err(CardError::Worker)?;
        Ok(Arc::new(Self {
            state,
            worker: Some(worker),
        }))
    }

    /// A function of the card, to be served over a socket or used in process. A VF's goes dead for
    /// good when the VF is disabled, as a device does that is pulled out; that of a VF which is not
    /// enabled now is dead from the start.
    pub fn function(self: &Arc<Self>, function: FunctionId) -> Arc<dyn Device> {
        Arc::new(CardFunction::new(
            &self.state,
            function,
            Some(Arc::clone(self)),
        ))
    }

    /// VFs enabled now.
    pub fn num_vfs(&self) -> u8 {
        lock(&self.state.control).num_vfs_enabled()
    }

    /// Plug the cable in or out.
    pub fn set_link(&self, up: bool) {
        self.state.set_link(up);
    }

    /// Let something go wrong from now on; the number of the rule, for [`Self::stop_injecting`].
    pub fn inject(&self, spec: InjectSpec) -> Result<u32, TooManyRules> {
        let id = self.state.watch.injector.add(spec, self.state.elapsed())?;
        // The rule may have a time of its own.
        self.state.kick.ring();
        Ok(id)
    }

    /// Forget a rule, or all of them. Faults that have been put off still come.
    pub fn stop_injecting(&self, rule: Option<u32>) {
        self.state.watch.injector.remove(rule);
    }

    /// How many faults were injected by the rules that are there.
    pub fn injected(&self) -> u64 {
        self.state.watch.injector.struck()
    }

    /// Whether a client is connected to a function.
    pub fn is_connected(&self, function: FunctionId) -> bool {
        self.state.view(function).is_connected()
    }

    /// Ask the clients of all functions, over the REQ interrupt, to release them.
    pub fn request_release(&self) {
        for view in &self.state.views {
            view.interrupts.request_release();
        }
    }

    /// Wait until everything is counted that the card has done so far.
    pub fn settle(&self) {
        self.state.rounds.wait(&self.state.kick);
    }

    /// Counters of every port.
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.state.control).snapshot().clone()
    }

    pub(crate) fn state(&self) -> &Arc<CardState> {
        &self.state
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        self.state.kick.ring();
        if let Some(worker) = self.worker.take() {
            // A panic there was reported by the panic hook.
            let _ = worker.join();
        }
    }
}

impl CardState {
    pub(crate) fn view(&self, function: FunctionId) -> &View {
        &self.views[function.slot()]
    }

    /// Since the card started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    /// The card's clock.
    pub(crate) fn now(&self) -> u64 {
        faults::nanos(self.elapsed())
    }

    pub(crate) fn at(&self, instant: Instant) -> u64 {
        faults::nanos(self.watch.at(instant))
    }

    pub(crate) fn registers(&self) -> RegisterHost<'_> {
        RegisterHost::new(&self.views, &self.watch, &self.kick)
    }

    pub(crate) fn burst(&self) -> BurstHost<'_> {
        BurstHost::new(
            &self.views,
            &self.watch,
            &*self.uplink,
            self.tap.as_ref(),
            self.first_interface,
        )
    }

    pub(crate) fn set_watcher(&self, watcher: Weak<dyn VfWatcher>) {
        *lock(&self.watcher) = Some(watcher);
    }

    /// Read a region for the client of `function`. A device that was pulled out reads all ones.
    pub(crate) fn read(
        self: &Arc<Self>,
        (function, incarnation): (FunctionId, u64),
        (region, offset): (CardRegion, u64),
        data: &mut [u8],
    ) {
        self.before_access((function, incarnation), region);
        let after = {
            let mut control = lock(&self.control);
            if self.view(function).incarnation() != incarnation {
                data.fill(0xFF);
                return;
            }
            let mut host = self.registers();
            control.advance(self.now(), &mut host);
            let effects = control.read(function, region, offset, data, &mut host);
            self.after_read(function, (region, offset), data);
            self.watch.access(function, false, (region, offset), data);
            self.conclude(&mut control, effects, FunctionSet::EMPTY)
        };
        self.settle(Some(function), after);
    }

    /// Write a region for the client of `function`.
    pub(crate) fn write(
        self: &Arc<Self>,
        (function, incarnation): (FunctionId, u64),
        (region, offset): (CardRegion, u64),
        data: &[u8],
    ) {
        self.before_access((function, incarnation), region);
        let configures = region == CardRegion::Config;
        let _change = (configures && !function.is_vf()).then(|| lock(&self.vf_change));
        let after = {
            let mut control = lock(&self.control);
            if self.view(function).incarnation() != incarnation {
                return;
            }
            let mut host = self.registers();
            control.advance(self.now(), &mut host);
            // Before what it sets off.
            self.watch.access(function, true, (region, offset), data);
            let effects = control.write(function, region, offset, data, &mut host);
            if self.watch.is_traced() {
                self.trace_message(&mut control, function, (region, offset), data);
            }
            let configured = if configures {
                FunctionSet::only(function)
            } else {
                FunctionSet::EMPTY
            };
            self.conclude(&mut control, effects, configured)
        };
        self.settle(Some(function), after);
    }

    /// Reset a function for its client.
    pub(crate) fn reset(self: &Arc<Self>, (function, incarnation): (FunctionId, u64)) {
        self.watch
            .event(Some(function), || EventRecord::ResetRequested);
        self.reset_function((function, incarnation));
    }

    fn reset_function(self: &Arc<Self>, (function, incarnation): (FunctionId, u64)) {
        let _change = (!function.is_vf()).then(|| lock(&self.vf_change));
        let after = {
            let mut control = lock(&self.control);
            if self.view(function).incarnation() != incarnation {
                return;
            }
            let mut host = self.registers();
            control.advance(self.now(), &mut host);
            let effects = control.reset_function(function, &mut host);
            self.conclude(&mut control, effects, FunctionSet::only(function))
        };
        self.settle(Some(function), after);
    }

    pub(crate) fn set_link(self: &Arc<Self>, up: bool) {
        let after = {
            let mut control = lock(&self.control);
            let mut host = self.registers();
            control.advance(self.now(), &mut host);
            self.watch.event(None, || EventRecord::Link(up));
            let effects = control.set_link(up, &mut host);
            self.conclude(&mut control, effects, FunctionSet::EMPTY)
        };
        log::info!("{}link {}", self.prefix, if up { "up" } else { "down" });
        self.settle(None, after);
    }

    /// Vectors of a function became deliverable.
    pub(crate) fn retry_pending(&self, function: FunctionId) {
        let deadline = {
            let mut control = lock(&self.control);
            let mut host = self.registers();
            control.advance(self.now(), &mut host);
            control.retry_pending(function, &mut host);
            control.next_deadline()
        };
        if let Some(deadline) = deadline {
            self.kick.ring_at(deadline);
        }
    }

    /// What has to be done under the control lock after an access.
    fn conclude(
        &self,
        control: &mut Control,
        effects: Effects,
        configured: FunctionSet,
    ) -> Aftermath {
        let mut left = FunctionSet::EMPTY;
        if let Some(enabled) = effects.vfs {
            for vf in FunctionId::vfs() {
                let exists = vf.vf_index().is_some_and(|n| n < enabled);
                if self.view(vf).set_enabled(exists) && !exists {
                    left.insert(vf);
                }
            }
        }
        for function in effects.reset_done.iter() {
            self.watch.event(Some(function), || EventRecord::ResetDone);
        }
        self.watch.injector.forget(effects.reset_done.union(left));
        let mut bus_master = [None; FUNCTION_COUNT];
        for function in configured.union(effects.reset_done).iter() {
            let mut word = [0; 2];
            let at = u64::from(header::COMMAND);
            let mut host = self.registers();
            // A plain register: reading it has no effect.
            let _ = control.read(function, CardRegion::Config, at, &mut word, &mut host);
            let on = u16::from_le_bytes(word) & command::BUS_MASTER != 0;
            bus_master[function.slot()] = Some(on);
        }
        Aftermath {
            config: effects.publish.then(|| control.config()),
            effects,
            left,
            bus_master,
            deadline: control.next_deadline(),
        }
    }

    /// Do what an access of `caller` asked for, before it is answered.
    fn settle(self: &Arc<Self>, caller: Option<FunctionId>, after: Aftermath) {
        let Aftermath {
            effects,
            config,
            left,
            bus_master,
            deadline,
        } = after;
        let cancelled = effects.reset_done.union(left);
        let _holds: Vec<_> = cancelled
            .iter()
            .filter_map(|function| self.view(function).hold_dma())
            .collect();
        for (view, on) in self.views.iter().zip(bus_master) {
            if on == Some(false) {
                view.space.set_bus_master(false);
            }
        }
        // A filter holds for every frame sent after the write to it was answered.
        let in_step = config.is_some()
            || !effects.sync.is_empty()
            || !effects.clear_pages.is_empty()
            || !left.is_empty();
        if in_step {
            let mut data = self.visit(caller);
            if let Some(config) = config {
                data.configure(config);
            }
            for function in effects.clear_pages.iter() {
                self.view(function).pages().zero();
            }
            for vf in left.iter() {
                self.dismiss(vf);
            }
            let mut host = self.burst();
            for function in effects.sync.iter() {
                data.sync_queues(function, &mut host);
            }
        }
        for (view, on) in self.views.iter().zip(bus_master) {
            if on == Some(true) {
                view.space.set_bus_master(true);
            }
        }
        if let Some(enabled) = effects.vfs {
            self.announce_vfs(enabled);
        }
        if effects.kick || in_step {
            self.kick.ring();
        } else if let Some(deadline) = deadline {
            self.kick.ring_at(deadline);
        }
    }

    /// Lock the data path for a connection thread of `caller`.
    fn visit(&self, caller: Option<FunctionId>) -> DataGuard<'_, DataPath> {
        let mut hold = None;
        self.data
            .visit(|| hold = caller.and_then(|function| self.view(function).hold_dma()))
    }

    /// A VF was disabled: its tenant ends. Under the data path's lock.
    fn dismiss(&self, vf: FunctionId) {
        let view = self.view(vf);
        view.interrupts.request_release();
        let _tenancy = lock(&view.tenancy);
        if view.end_tenancy() {
            log::info!(
                "{}{}: disabled; its client is disconnected",
                self.prefix,
                function_name(vf)
            );
        }
    }

    fn announce_vfs(self: &Arc<Self>, enabled: u8) {
        self.watch.event(None, || EventRecord::Vfs(enabled));
        log::info!("{}{enabled} VFs enabled", self.prefix);
        if enabled == 0 {
            *lock(&self.grace_ends) = None;
        }
        let watcher = lock(&self.watcher).as_ref().and_then(Weak::upgrade);
        if let Some(watcher) = watcher {
            watcher.vfs_changed(self, enabled);
        }
    }
}
