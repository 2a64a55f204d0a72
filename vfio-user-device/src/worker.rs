//! The worker of a card: runs the data path while there is work, and sleeps while there is none.
//!
//! An idle card has no wake-ups. Drivers that speak the wake protocol of [`igb::queue_page`] are
//! told before the worker sleeps; functions that share their pages without speaking it are looked
//! after once per [`POLL`] while they have queues enabled.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use igb::function::QUEUE_COUNT;
use igb::queue_page::{self, QueueRegister};
use igb::{FunctionId, RXDCTL};
use igb_model::{DataPath, Events, FunctionSet};

use crate::card::CardState;
use crate::host::{BurstHost, FrameFault, WireLosses, flip, frame_fault};
use crate::lock;
use crate::trace::EventRecord;
use crate::uplink::MAX_FRAME;

/// How late a doorbell may be noticed that was rung by a store only.
const POLL: Duration = Duration::from_millis(1);

/// Frames taken from the wire per round.
const UPLINK_BURST: usize = 64;

/// How long the worker rests after a panic, so that one which repeats leaves the processor to
/// others.
const AFTER_PANIC: Duration = Duration::from_millis(100);

/// Run until the card stops.
pub(crate) fn run(card: &Arc<CardState>) {
    let mut worker = Worker {
        card,
        events: Events::new(),
        buffer: vec![0; MAX_FRAME + 1],
        polled: Instant::now(),
        busy: Instant::now(),
        limited_until: None,
        playing: !card.uplink.waits(),
        counted: 0,
    };
    while !card.stopping.load(Ordering::SeqCst) {
        // What a guest put into its rings must not end the card, even if it finds a bug in it.
        if catch_unwind(AssertUnwindSafe(|| worker.turn())).is_err() {
            log::error!("{}the data path panicked; it goes on", card.prefix);
            worker.events = Events::new();
            thread::park_timeout(AFTER_PANIC);
        }
    }
}

struct Worker<'a> {
    card: &'a Arc<CardState>,
    events: Events,
    buffer: Vec<u8>,
    /// When functions without the wake protocol were last looked after.
    polled: Instant,
    /// When there last was work.
    busy: Instant,
    /// When TX rate limiting lets more through.
    limited_until: Option<u64>,
    /// The uplink has been told that somebody can receive.
    playing: bool,
    /// The last round that somebody waited for.
    counted: u64,
}

impl Worker<'_> {
    fn turn(&mut self) {
        self.card.kick.clear();
        let begun = self.card.rounds.begin();
        let more = self.round();
        self.card.end_grace();
        self.card.do_what_is_due();
        self.card.rounds.end(begun, &mut self.counted);
        if more {
            self.busy = Instant::now();
            return;
        }
        if self.busy.elapsed() < self.card.linger {
            thread::yield_now();
            return;
        }
        self.sleep();
    }

    /// One round of the data path; whether there is more to do.
    fn round(&mut self) -> bool {
        let card = self.card;
        let more;
        let losses;
        {
            let mut data = card.data.lock_last();
            data.advance(card.now());
            let mut host = card.burst();
            if self.polled.elapsed() >= POLL {
                for function in polled(card, &data).iter() {
                    data.sync_queues(function, &mut host);
                }
                self.polled = Instant::now();
            }
            let arrived = self.drain_uplink(&mut data, &mut host);
            let progress = data.run(&mut host, &mut self.events);
            self.limited_until = progress.deadline_ns;
            more = progress.more || progress.frames > 0 || arrived;
            losses = host.losses;
        }
        {
            let mut control = lock(&card.control);
            let mut registers = card.registers();
            let due = control
                .next_deadline()
                .is_some_and(|deadline| deadline <= card.now());
            if due || !self.events.is_empty() {
                control.advance(card.now(), &mut registers);
            }
            if !self.events.is_empty() {
                control.absorb(&self.events, &mut registers);
            }
        }
        for fault in self.events.faults() {
            card.watch
                .event(Some(fault.function), || EventRecord::Fault(*fault));
        }
        for halt in self.events.halts() {
            card.watch
                .event(Some(halt.function), || EventRecord::Halt(*halt));
        }
        if !self.events.is_empty() || losses != WireLosses::default() {
            lock(&card.incidents).note(card.elapsed(), &self.events, losses);
            self.events.clear();
        }
        more
    }

    /// Whether frames have come from the wire.
    fn drain_uplink(&mut self, data: &mut DataPath, host: &mut BurstHost<'_>) -> bool {
        if !self.playing && somebody_receives(self.card) {
            self.playing = true;
            self.card.uplink.begin();
        }
        let mut frames = 0;
        while frames < UPLINK_BURST {
            let Some(len) = self.card.uplink.receive(&mut self.buffer) else {
                break;
            };
            frames += 1;
            match frame_fault(&self.card.watch, len, "in") {
                None => {}
                Some(FrameFault::Lost) => {
                    host.losses.injected += 1;
                    continue;
                }
                Some(FrameFault::Corrupt(bit)) => flip(&mut self.buffer[..len], bit),
            }
            data.uplink_receive(&self.buffer[..len], host, &mut self.events);
        }
        frames > 0
    }

    fn sleep(&mut self) {
        let card = self.card;
        // From here on, whoever sets an earlier deadline rings.
        card.kick.prepare();
        let polls = {
            let mut data = card.data.lock_last();
            if !data.prepare_sleep(&mut card.burst()) {
                card.kick.awake();
                return;
            }
            !polled(card, &data).is_empty()
        };
        let deadlines = [
            lock(&card.control).next_deadline(),
            self.limited_until,
            card.uplink.next_due().map(|due| card.at(due)),
            card.grace_deadline(),
            card.faults_due(),
            polls.then(|| card.at(self.polled + POLL)),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let pf = &card.view(FunctionId::PF).interrupts;
        let resample = pf.resample();
        let others = [
            card.uplink.ready(),
            resample.as_ref().map(|event| event.as_fd()),
        ];
        let [_, resampled] = card.kick.sleep(others, deadline, card.now());
        if resampled && resample.is_some_and(|event| event.take() > 0) {
            pf.resampled();
        }
        card.data.lock_last().wake(&mut card.burst());
    }
}

/// Functions whose doorbells nobody announces.
fn polled(card: &CardState, data: &DataPath) -> FunctionSet {
    data.must_poll()
        .iter()
        .filter(|function| {
            let view = card.view(*function);
            view.is_connected() && view.shares_pages()
        })
        .collect()
}

/// Whether any function has a receive queue enabled.
fn somebody_receives(card: &CardState) -> bool {
    FunctionId::all().any(|function| {
        let pages = card.view(function).pages();
        (0..QUEUE_COUNT)
            .map_while(|queue| queue_page::slot(function.kind(), queue, QueueRegister::RXDCTL))
            .any(|(page, offset)| RXDCTL::ENABLE.get(pages.load(page, offset)) != 0)
    })
}
