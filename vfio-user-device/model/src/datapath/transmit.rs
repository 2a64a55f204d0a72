//! Turns of the transmit queues: descriptors fetched, frames sent, software told.

use std::sync::Arc;

use igb::descriptor;
use igb::frame::FCS_LENGTH;
use igb::function::POOL_COUNT;

use super::ring::{Place, State};
use super::segment::{HEADER_MOST, Plan, Segmenter};
use super::send::{RouteCache, Sender, Unsent};
use super::tx::{Cut, FRAME_DESCRIPTORS, Item, Request};
use super::whole::SenderFault;
use super::{DataPath, Progress, halt};
use crate::drops::DropReason;
use crate::events::{Events, Fault, HaltReason, Misbehavior, Port, Ring as Kind};
use crate::host::{DataHost, DmaFault, FaultCause};

/// Frames taken from a queue before the next queue has its turn. Those that one request is cut into
/// count as what they are.
const BURST: u32 = 32;
/// Times that a queue's descriptors are fetched in one turn.
const FETCHES: u32 = 4;
/// When DMA that was cancelled is tried again. A client cancels it by accident when it has the card
/// wait for what its own access asked for, and that passes soon.
pub(super) const RETRY_NS: u64 = 1_000_000;
/// Preamble and gap, which count against a rate limit.
const WIRE_OVERHEAD: usize = 20;

type Raw = [u8; descriptor::SIZE];

/// A queue's turn, and what it reaches.
struct Turn<'a> {
    sender: Sender<'a>,
    /// The card's number of the queue.
    queue: usize,
    rate: Option<u64>,
    cache: RouteCache,
    frames: u32,
    /// Software asked to be told of a descriptor, and was.
    completed: bool,
    progress: &'a mut Progress,
    host: &'a mut dyn DataHost,
    events: &'a mut Events,
}

/// Whether a queue goes on in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    /// It waits, is halted, or has had its turn.
    Rest,
}

impl DataPath {
    pub(super) fn run_queue(
        &mut self,
        queue: u32,
        progress: &mut Progress,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) {
        self.look_tx(queue, host);
        for halt in self.halts.drain(..) {
            events.halt(halt);
        }
        let config = Arc::clone(&self.config);
        let at = queue as usize;
        let Some((function, own)) = config.queue_owner(queue) else {
            return;
        };
        if self.tx[at].ring.state != State::Running {
            return;
        }
        let place = Place {
            function,
            queue: own,
        };
        let mut turn = Turn {
            sender: Sender {
                config: &config,
                place,
                pool: (queue % POOL_COUNT) as u8,
            },
            queue: at,
            rate: config.rates[at],
            cache: RouteCache::default(),
            frames: 0,
            completed: false,
            progress,
            host,
            events,
        };
        let head = self.tx[at].ring.head;
        let mut fetches = 0;
        while turn.frames < BURST && fetches < FETCHES {
            fetches += 1;
            if self.fetch(&mut turn) == Then::Rest {
                break;
            }
        }
        let tx = &self.tx[at];
        if tx.ring.head != head {
            tx.ring.publish_head(Kind::Tx, place, turn.host);
        }
        if turn.completed {
            turn.events.cause(Kind::Tx, queue as u8);
        }
        turn.progress.frames += turn.frames;
        turn.progress.more |=
            tx.ring.state == State::Running && (turn.frames >= BURST || fetches == FETCHES);
    }

    /// Fetch descriptors once, and send what they describe.
    fn fetch(&mut self, turn: &mut Turn<'_>) -> Then {
        let at = turn.queue;
        let place = turn.sender.place;
        match self.tx[at].pay(place, turn.host) {
            Ok(reported) => turn.completed |= reported,
            Err((iova, len, fault)) => {
                return self.tx_fault(turn, (iova, len, true), fault);
            }
        }
        if let Err(when) = self.tx[at].may_send(turn.rate, self.now) {
            turn.progress.look_again(when);
            return Then::Rest;
        }
        if let Some(cut) = self.tx[at].cut.take()
            && self.go_on_cutting(cut, turn) == Then::Rest
        {
            return Then::Rest;
        }
        let Some(available) = self.tx[at].ring.available(Kind::Tx, place, turn.host) else {
            return self.stop_tx(turn, HaltReason::Tail);
        };
        if available == 0 {
            return Then::Rest;
        }
        if !turn.host.has_turn(place.function) {
            turn.progress.more = true;
            return Then::Rest;
        }
        let mut raw = [[0; descriptor::SIZE]; FRAME_DESCRIPTORS];
        let raw = &mut raw[..(available as usize).min(FRAME_DESCRIPTORS)];
        if let Err((iova, len, fault)) = self.tx[at].ring.fetch(place, 0, raw, turn.host) {
            return self.tx_fault(turn, (iova, len, false), fault);
        }
        let mut done = 0;
        while done < raw.len()
            && turn.frames < BURST
            && (done == 0 || turn.host.has_turn(place.function))
        {
            let mut request = std::mem::take(&mut self.scratch.request);
            let item = self.tx[at].parse(&raw[done..], &mut request);
            let (taken, then) = match item {
                Item::Incomplete => {
                    self.scratch.request = request;
                    if done == 0 {
                        // The rest of the frame has no descriptors yet.
                        self.tx[at].wait_for_more(available);
                        return Then::Rest;
                    }
                    break;
                }
                Item::Frame(taken) => {
                    let raw = &raw[done..done + taken];
                    let then = match request.plan {
                        Some(plan) => self.begin_cutting(plan, request, raw, turn),
                        None => {
                            let then = self.one(&request, raw, turn);
                            self.scratch.request = request;
                            then
                        }
                    };
                    (taken, then)
                }
                Item::Pass(taken) | Item::Drop(taken, _) => {
                    self.scratch.request = request;
                    let raw = &raw[done..done + taken];
                    let then = match item {
                        Item::Drop(_, reason) => {
                            if reason == DropReason::BadSegmentation {
                                turn.events.segmentation_failed += 1;
                            }
                            self.refuse(reason, 1, raw, turn)
                        }
                        _ => self.complete(raw, turn),
                    };
                    (taken, then)
                }
            };
            if then == Then::Rest {
                return Then::Rest;
            }
            done += taken;
            if self.tx[at].may_send(turn.rate, self.now).is_err() {
                break;
            }
        }
        Then::GoOn
    }

    /// Send a frame that goes out as one.
    fn one(&mut self, request: &Request, raw: &[Raw], turn: &mut Turn<'_>) -> Then {
        turn.frames += 1;
        let (bytes, result) = self.send(
            &turn.sender,
            request,
            &mut turn.cache,
            turn.host,
            turn.events,
        );
        self.tx[turn.queue].spend(bytes + FCS_LENGTH + WIRE_OVERHEAD);
        match result {
            Ok(()) => self.complete(raw, turn),
            Err(Unsent::Drop(reason)) => self.refuse(reason, 1, raw, turn),
            Err(Unsent::Fault { iova, len, fault }) => {
                // If by accident, the frame is lost and its queue is not.
                if self.lose(turn, (iova, len), fault, 1) == Then::GoOn
                    && self.complete(raw, turn) == Then::GoOn
                {
                    self.retry_tx(turn);
                }
                Then::Rest
            }
        }
    }

    /// Send a frame that goes out as many.
    fn begin_cutting(
        &mut self,
        plan: Plan,
        request: Request,
        raw: &[Raw],
        turn: &mut Turn<'_>,
    ) -> Then {
        let mut header = [0; HEADER_MOST];
        let header = &mut header[..plan.header_len()];
        if let Err(SenderFault { iova, len, fault }) =
            request.read_head(turn.sender.place.function, header, turn.host)
        {
            self.scratch.request = request;
            if fault.cause == FaultCause::Cancelled {
                // Nothing has been sent of it: it is read again.
                return self.retry_tx(turn);
            }
            let segmenter = Segmenter::new(plan, header);
            return self.lose(turn, (iova, len), fault, segmenter.frames_left());
        }
        let cut = Cut {
            segmenter: Segmenter::new(plan, header),
            request,
            raw: raw.to_vec(),
        };
        self.go_on_cutting(Box::new(cut), turn)
    }

    /// Send as many of the frames that a request is cut into as the queue's turn allows.
    fn go_on_cutting(&mut self, mut cut: Box<Cut>, turn: &mut Turn<'_>) -> Then {
        let at = turn.queue;
        let function = turn.sender.place.function;
        let masks = turn.sender.config.flag_masks;
        let mut outcome = Ok(());
        while cut.segmenter.frames_left() != 0 {
            let when = self.tx[at].may_send(turn.rate, self.now);
            let has_turn = turn.host.has_turn(function);
            if turn.frames >= BURST || when.is_err() || !has_turn {
                if let Err(when) = when {
                    turn.progress.look_again(when);
                }
                turn.progress.more |= when.is_ok() && !has_turn;
                self.tx[at].cut = Some(cut);
                return Then::Rest;
            }
            let left = cut.segmenter.frames_left();
            let Some(piece) = cut.segmenter.advance(masks) else {
                break;
            };
            turn.frames += 1;
            let (bytes, result) = self.send_piece(
                &turn.sender,
                &cut,
                piece,
                &mut turn.cache,
                turn.host,
                turn.events,
            );
            self.tx[at].spend(bytes + FCS_LENGTH + WIRE_OVERHEAD);
            match result {
                Ok(()) => {}
                Err(Unsent::Drop(reason)) => {
                    // They all have the same header.
                    outcome = Err((reason, left));
                    break;
                }
                Err(Unsent::Fault { iova, len, fault }) => {
                    let cancelled = fault.cause == FaultCause::Cancelled;
                    let lost = if cancelled { 1 } else { left };
                    if self.lose(turn, (iova, len), fault, lost) == Then::Rest {
                        turn.events.segmentation_failed += 1;
                        return Then::Rest;
                    }
                    // One frame is lost, the others are not.
                    self.tx[at].cut = Some(cut);
                    return self.retry_tx(turn);
                }
            }
        }
        let Cut { request, raw, .. } = *cut;
        self.scratch.request = request;
        match outcome {
            Ok(()) => {
                turn.events.segmented += 1;
                self.complete(&raw, turn)
            }
            Err((reason, left)) => {
                turn.events.segmentation_failed += 1;
                self.refuse(reason, left, &raw, turn)
            }
        }
    }

    /// Tell software of descriptors that have been dealt with.
    fn complete(&mut self, raw: &[Raw], turn: &mut Turn<'_>) -> Then {
        let tx = &mut self.tx[turn.queue];
        match tx.complete(turn.sender.place, raw, turn.host) {
            Ok(reported) => {
                turn.completed |= reported;
                Then::GoOn
            }
            Err((iova, len, fault)) => {
                if fault.cause == FaultCause::Cancelled {
                    tx.owe(raw);
                }
                self.tx_fault(turn, (iova, len, true), fault)
            }
        }
    }

    /// Frames are not sent, for a reason that the sender may have to answer for.
    fn refuse(
        &mut self,
        reason: DropReason,
        frames: u64,
        raw: &[Raw],
        turn: &mut Turn<'_>,
    ) -> Then {
        let function = turn.sender.place.function;
        turn.events
            .drop_frames(Port::Function(function), reason, frames);
        let misbehavior = match reason {
            DropReason::SpoofedMac => Some(Misbehavior::SpoofedMac),
            DropReason::SpoofedVlan => Some(Misbehavior::SpoofedVlan),
            _ => (reason.malformed())
                .filter(|_| turn.sender.config.block_malicious)
                .map(Misbehavior::Malformed),
        };
        if let Some(misbehavior) = misbehavior {
            turn.events.misbehavior(turn.queue as u8, misbehavior);
        }
        if let Some(Misbehavior::Malformed(_)) = misbehavior {
            self.tx[turn.queue].block(raw.len());
            self.blocks_changed = true;
            return self.stop_tx(turn, HaltReason::Malicious);
        }
        self.complete(raw, turn)
    }

    /// The sender's memory failed, which costs it these frames. Unless that was by accident its queue
    /// is halted.
    fn lose(
        &mut self,
        turn: &mut Turn<'_>,
        (iova, len): (u64, u64),
        fault: DmaFault,
        frames: u64,
    ) -> Then {
        let place = turn.sender.place;
        turn.events
            .drop_frames(Port::Function(place.function), DropReason::TxFault, frames);
        turn.events
            .fault(fault_of(place, Kind::Tx, iova, len, false, fault));
        if fault.cause == FaultCause::Cancelled {
            return Then::GoOn;
        }
        self.stop_tx(turn, HaltReason::Fault)
    }

    fn stop_tx(&mut self, turn: &mut Turn<'_>, reason: HaltReason) -> Then {
        self.tx[turn.queue].halt();
        turn.events.halt(halt(turn.sender.place, Kind::Tx, reason));
        Then::Rest
    }

    /// A queue's own DMA failed: of descriptors, not of frames. One that was cancelled is tried
    /// again.
    fn tx_fault(
        &mut self,
        turn: &mut Turn<'_>,
        (iova, len, write): (u64, u64, bool),
        fault: DmaFault,
    ) -> Then {
        if fault.cause == FaultCause::Cancelled {
            return self.retry_tx(turn);
        }
        let place = turn.sender.place;
        turn.events
            .fault(fault_of(place, Kind::Tx, iova, len, write, fault));
        self.stop_tx(turn, HaltReason::Fault)
    }

    fn retry_tx(&mut self, turn: &mut Turn<'_>) -> Then {
        let when = self.now.saturating_add(RETRY_NS);
        self.tx[turn.queue].wait_until(when);
        turn.progress.look_again(when);
        Then::Rest
    }
}

pub(super) fn fault_of(
    place: Place,
    ring: Kind,
    iova: u64,
    len: u64,
    write: bool,
    fault: DmaFault,
) -> Fault {
    Fault {
        function: place.function,
        queue: place.queue as u8,
        ring,
        iova,
        len,
        write,
        cause: fault.cause,
    }
}
