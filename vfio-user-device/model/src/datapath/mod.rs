//! What moves frames.

use std::sync::Arc;

use igb::FunctionId;

use crate::config::Config;
use crate::effects::FunctionSet;
use crate::events::Events;
use crate::host::DataHost;

/// What a round of [`DataPath::run`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// There is more to do right away.
    pub more: bool,
    /// Frames taken from transmit rings.
    pub frames: u32,
    /// No work is left now, but some will be allowed at this time (TX rate limiting).
    pub deadline_ns: Option<u64>,
}

/// The card's data path.
#[derive(Debug, Default)]
pub struct DataPath {
    config: Arc<Config>,
}

impl DataPath {
    /// A data path without a configuration: nothing moves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Work by this configuration from now on. An older version than the current is ignored.
    /// Queues whose function was reset forget their state.
    pub fn configure(&mut self, config: Arc<Config>) {
        if config.version() > self.config.version() {
            self.config = config;
        }
    }

    /// Look at a function's queue pages now: latch rings that were enabled, forget those disabled.
    pub fn sync_queues(&mut self, function: FunctionId, host: &mut dyn DataHost) {
        let _ = (function, host);
    }

    /// It is `now_ns`, on the clock of [`crate::Control::advance`]; only rate limiting uses it.
    pub fn advance(&mut self, now_ns: u64) {
        let _ = now_ns;
    }

    /// One bounded round over the active queues.
    pub fn run(&mut self, host: &mut dyn DataHost, events: &mut Events) -> Progress {
        let _ = (host, events);
        Progress::default()
    }

    /// A frame (without FCS) came in from the wire.
    pub fn uplink_receive(&mut self, frame: &[u8], host: &mut dyn DataHost, events: &mut Events) {
        let _ = (frame, host, events);
    }

    /// The caller is about to sleep: tell the drivers that speak the wake protocol. `false`: a
    /// doorbell rang meanwhile, run on.
    pub fn prepare_sleep(&mut self, host: &mut dyn DataHost) -> bool {
        let _ = host;
        true
    }

    /// The caller is awake again.
    pub fn wake(&mut self, host: &mut dyn DataHost) {
        let _ = host;
    }

    /// Functions that may transmit or receive and do not speak the wake protocol: if their pages
    /// are shared, they must be polled with [`Self::sync_queues`] and [`Self::run`].
    #[must_use]
    pub fn must_poll(&self) -> FunctionSet {
        FunctionSet::EMPTY
    }
}
