//! What moves frames: the rings of all functions, and the switch between them and the wire.

mod checksum;
mod credit;
mod deliver;
mod frame;
mod inspect;
mod layout;
mod packet;
mod ring;
mod rss;
mod rx;
mod segment;
mod send;
mod sort;
mod stamp;
mod switch;
mod transmit;
mod tx;
mod whole;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use igb::FunctionId;
use igb::frame::{HEADER_LENGTH, TAG_LENGTH};
use igb::function::{FUNCTION_COUNT, QUEUE_COUNT};
use igb::queue_page::{DOORBELL_ASLEEP, DOORBELL_WAKE, Page};
use smallvec::SmallVec;

use crate::config::Config;
use crate::effects::FunctionSet;
use crate::events::{Events, Halt, HaltReason, Ring as Kind};
use crate::host::{DataHost, FaultCause};
use ring::{Place, State};
use rx::{Refusal, RxQueue};
use send::Scratch;
use transmit::{RETRY_NS, fault_of};
use tx::TxQueue;

/// What a round of [`DataPath::run`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// There is more to do right away.
    pub more: bool,
    /// Frames taken from transmit rings. What is cut counts as the frames it becomes.
    pub frames: u32,
    /// Queues wait for their rate limit, or for DMA that was cancelled: there is more to do at this
    /// time.
    pub deadline_ns: Option<u64>,
}

impl Progress {
    fn look_again(&mut self, when: u64) {
        self.deadline_ns = Some(self.deadline_ns.unwrap_or(when).min(when));
    }
}

/// The card's data path.
#[derive(Debug)]
pub struct DataPath {
    config: Arc<Config>,
    now: u64,
    /// Counts rounds; a receive page is looked at once in each.
    round: u64,
    rx: [RxQueue; QUEUE_COUNT as usize],
    tx: [TxQueue; QUEUE_COUNT as usize],
    /// Where the next round starts, for fairness.
    next: usize,
    /// Functions whose drivers speak the wake protocol.
    speaks_wake: FunctionSet,
    asleep: FunctionSet,
    /// Other transmit queues are blocked than those last reported.
    blocks_changed: bool,
    /// Halts found outside a round, to be reported in the next.
    halts: SmallVec<[Halt; 4]>,
    scratch: Scratch,
}

impl Default for DataPath {
    fn default() -> Self {
        Self::new()
    }
}

impl DataPath {
    /// A data path without a configuration: nothing moves.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: Arc::default(),
            now: 0,
            round: 0,
            rx: std::array::from_fn(|_| RxQueue::default()),
            tx: std::array::from_fn(|_| TxQueue::default()),
            next: 0,
            speaks_wake: FunctionSet::EMPTY,
            asleep: FunctionSet::EMPTY,
            blocks_changed: false,
            halts: SmallVec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Work by this configuration from now on. An older version than the current is ignored.
    /// Queues whose function was reset, or that got another owner, forget their state; those that may
    /// no longer run stop. What may run now starts with [`Self::sync_queues`].
    pub fn configure(&mut self, config: Arc<Config>) {
        if config.version() <= self.config.version() {
            return;
        }
        let old = std::mem::replace(&mut self.config, config);
        let new = &self.config;
        let reset: [bool; FUNCTION_COUNT] =
            std::array::from_fn(|slot| old.functions[slot].epoch != new.functions[slot].epoch);
        for queue in 0..QUEUE_COUNT {
            let owner = new.queue_owner(queue);
            let fresh = old.queue_owner(queue) != owner
                || owner.is_none_or(|(function, _)| reset[function.slot()]);
            let allowed = owner
                .map(|(function, _)| *new.function(function))
                .unwrap_or_default();
            if fresh || !allowed.rx {
                self.rx[queue as usize].forget();
            }
            let tx = &mut self.tx[queue as usize];
            let blocked = tx.is_blocked();
            if fresh || !allowed.tx {
                tx.forget();
            }
            if old.freed[queue as usize] != new.freed[queue as usize] {
                tx.free();
            }
            self.blocks_changed |= blocked;
        }
        for function in FunctionId::all().filter(|function| reset[function.slot()]) {
            self.speaks_wake.remove(function);
            self.asleep.remove(function);
            self.halts.retain(|halt| halt.function != function);
        }
    }

    /// Look at a function's queue pages now: latch rings that were enabled, forget those disabled.
    pub fn sync_queues(&mut self, function: FunctionId, host: &mut dyn DataHost) {
        let allowed = *self.config.function(function);
        if !allowed.rx && !allowed.tx {
            return;
        }
        if host.page_load(function, Page::Tx, DOORBELL_WAKE) != 0 {
            self.speaks_wake.insert(function);
        } else {
            self.speaks_wake.remove(function);
        }
        for queue in 0..QUEUE_COUNT {
            if self
                .config
                .queue_owner(queue)
                .is_some_and(|(owner, _)| owner == function)
            {
                self.look_rx(queue, host);
                self.look_tx(queue, host);
            }
        }
    }

    fn look_rx(&mut self, queue: u32, host: &mut dyn DataHost) {
        let Some((function, own)) = self.config.queue_owner(queue) else {
            return;
        };
        let place = Place {
            function,
            queue: own,
        };
        let permitted = self.config.function(function).rx;
        let buffer = self.config.default_buffer;
        if let Some(reason) = self.rx[queue as usize].look(place, permitted, buffer, host) {
            self.note_halt(place, Kind::Rx, reason);
        }
    }

    fn look_tx(&mut self, queue: u32, host: &mut dyn DataHost) {
        let Some((function, own)) = self.config.queue_owner(queue) else {
            return;
        };
        let place = Place {
            function,
            queue: own,
        };
        let permitted = self.config.function(function).tx;
        if let Some(reason) = self.tx[queue as usize].look(place, permitted, host) {
            self.note_halt(place, Kind::Tx, reason);
        }
    }

    fn note_halt(&mut self, place: Place, ring: Kind, reason: HaltReason) {
        // As many as there are rings; software that toggles faster than rounds run loses some.
        if self.halts.len() < 2 * QUEUE_COUNT as usize {
            self.halts.push(halt(place, ring, reason));
        }
    }

    /// It is `now_ns`, on the clock of [`crate::Control::advance`]. Only rate limits and retries use it.
    pub fn advance(&mut self, now_ns: u64) {
        self.now = self.now.max(now_ns);
    }

    /// One round over the transmit queues that run, each of them taking a bounded number of frames.
    /// Queues take turns at being first.
    pub fn run(&mut self, host: &mut dyn DataHost, events: &mut Events) -> Progress {
        self.begin(events);
        let mut progress = Progress::default();
        let count = QUEUE_COUNT as usize;
        for queue in 0..QUEUE_COUNT {
            if self.rx[queue as usize].is_owing() {
                self.pay_rx(queue, &mut progress, host, events);
            }
        }
        for n in 0..count {
            let queue = (self.next + n) % count;
            if self.tx[queue].ring.state == State::Running {
                self.run_queue(queue as u32, &mut progress, host, events);
            }
        }
        self.next = (self.next + 1) % count;
        self.report_blocks(events);
        self.publish_heads(host);
        progress
    }

    fn begin(&mut self, events: &mut Events) {
        self.round += 1;
        events.begin(self.config.version());
        self.report_blocks(events);
        for halt in self.halts.drain(..) {
            events.halt(halt);
        }
    }

    fn report_blocks(&mut self, events: &mut Events) {
        if std::mem::take(&mut self.blocks_changed) {
            let blocked = (self.tx.iter().enumerate())
                .filter(|(_, tx)| tx.is_blocked())
                .fold(0, |queues, (n, _)| queues | 1 << n);
            events.blocked(blocked);
        }
    }

    /// Tell the owner of a receive queue of frames of which it could not be told at first.
    fn pay_rx(
        &mut self,
        queue: u32,
        progress: &mut Progress,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) {
        let Some((function, own)) = self.config.queue_owner(queue) else {
            return;
        };
        let place = Place {
            function,
            queue: own,
        };
        match self.rx[queue as usize].pay(place, host) {
            Ok(()) => events.cause(Kind::Rx, queue as u8),
            Err(Refusal::Fault {
                iova,
                len,
                write,
                fault,
            }) if fault.cause != FaultCause::Cancelled => {
                events.fault(fault_of(place, Kind::Rx, iova, len, write, fault));
                events.halt(halt(place, Kind::Rx, HaltReason::Fault));
            }
            Err(_) => progress.look_again(self.now.saturating_add(RETRY_NS)),
        }
    }

    fn publish_heads(&mut self, host: &mut dyn DataHost) {
        for queue in 0..QUEUE_COUNT {
            let rx = &mut self.rx[queue as usize];
            if std::mem::take(&mut rx.head_stale)
                && let Some((function, own)) = self.config.queue_owner(queue)
            {
                rx.ring.publish_head(
                    Kind::Rx,
                    Place {
                        function,
                        queue: own,
                    },
                    host,
                );
            }
        }
    }

    /// The caller is about to sleep: tell the drivers that speak the wake protocol. `false`: a
    /// doorbell rang meanwhile, run on.
    pub fn prepare_sleep(&mut self, host: &mut dyn DataHost) -> bool {
        for function in self.speaks_wake.iter() {
            host.page_store(function, Page::Tx, DOORBELL_ASLEEP, 1);
            self.asleep.insert(function);
        }
        // A driver stores its tail and then looks at the word, with a fence between: either it sees
        // the word, or we see the tail.
        fence(Ordering::SeqCst);
        let idle = (0..QUEUE_COUNT).all(|queue| !self.has_work(queue, host));
        if !idle {
            self.wake(host);
        }
        idle
    }

    fn has_work(&self, queue: u32, host: &dyn DataHost) -> bool {
        let ring = &self.tx[queue as usize].ring;
        ring.state == State::Running
            && self
                .config
                .queue_owner(queue)
                .is_some_and(|(function, own)| {
                    let place = Place {
                        function,
                        queue: own,
                    };
                    let tx = &self.tx[queue as usize];
                    self.speaks_wake.contains(function)
                        && ring
                            .available(Kind::Tx, place, host)
                            .is_none_or(|available| !tx.is_waiting(available, self.now))
                })
    }

    /// The caller is awake again.
    pub fn wake(&mut self, host: &mut dyn DataHost) {
        for function in std::mem::take(&mut self.asleep).iter() {
            host.page_store(function, Page::Tx, DOORBELL_ASLEEP, 0);
        }
    }

    /// Functions that may transmit or receive and do not speak the wake protocol: if their pages
    /// are shared, they must be polled with [`Self::sync_queues`] and [`Self::run`].
    #[must_use]
    pub fn must_poll(&self) -> FunctionSet {
        FunctionId::all()
            .filter(|function| {
                let allowed = self.config.function(*function);
                (allowed.rx || allowed.tx) && !self.speaks_wake.contains(*function)
            })
            .collect()
    }
}

fn halt(place: Place, ring: Kind, reason: HaltReason) -> Halt {
    Halt {
        function: place.function,
        queue: place.queue as u8,
        ring,
        reason,
    }
}

const _: () = assert!(HEADER_LENGTH + TAG_LENGTH <= frame::HEAD);
