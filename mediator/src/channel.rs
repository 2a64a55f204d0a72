//! One VF's part of the channel, as a pure state machine: mailbox and config blocks on one side, the
//! PF driver on the other, and between them limits, deadlines, generations and teardown.
//!
//! Nothing here waits or does I/O. Time comes in as nanoseconds; what goes out goes through
//! [`Host`], whose methods must not block.

use igb::mailbox::{ACK, ID_MASK, MessageId, NACK};
use mediator_protocol::{
    MailboxWords, Reply, ReplyBody, Request, RequestBody, ResetCause, Status, ToPf,
};

use crate::audit::{Event, Kind};
use crate::config_block::{ConfigBlock, Started};
use crate::limits::{Gate, Limits};
use crate::mailbox::{Delivery, Mailbox};

const MILLISECOND: u64 = 1_000_000;
/// How long the PF driver may not hear of a reset of a VF that resets itself in a loop, unless a
/// request comes first.
const RESET_TOLD_WITHIN: u64 = 100 * MILLISECOND;
/// Resets of a VF that are told and recorded one by one, after a pause and in the long run. Each costs
/// the PF driver as much as a request; one that resets itself in a loop is told of now and then.
const RESETS: (u32, u32) = (32, 10);
/// Refusals for lack of tokens are recorded together, at most once in this time.
const REFUSALS_RECORDED_EVERY: u64 = 1000 * MILLISECOND;

/// What a [`Channel`] acts on. No method may block.
pub trait Host {
    /// Queue a message for the PF driver. False if there is no PF driver.
    fn send(&mut self, message: ToPf) -> bool;
    /// A request id that was never used before.
    fn next_id(&mut self) -> u64;
    /// Raise the VF's mailbox vector, soon.
    fn notify(&mut self);
    /// Write to the audit log.
    fn record(&mut self, event: Event);
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The mailbox; word 0 of the request.
    Mailbox {
        word0: u32,
        /// The VF has begun another request since, so it does not look at this one's answer.
        superseded: bool,
    },
    Block,
}

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    id: u64,
    origin: Origin,
    kind: Kind,
    asked_at: u64,
    deadline: Option<u64>,
}

/// One VF's channel.
#[derive(Debug)]
pub struct Channel {
    vf: u16,
    generation: u32,
    limits: Limits,
    gate: Gate,
    resets: Gate,
    mailbox: Mailbox,
    blocks: ConfigBlock,
    outstanding: Vec<Outstanding>,
    /// Requests that the PF driver has not answered, those included that nobody waits for any more:
    /// giving up or resetting makes no room, or a VF could bury the PF driver in requests.
    unanswered: Vec<u64>,
    /// A reset that the PF driver has not been told of, and when it must be.
    reset_untold: Option<(ResetCause, u64)>,
    /// The PF driver has offered this VF on its present connection.
    pf_ready: bool,
    attached: bool,
    torn_down: bool,
    link_up: bool,
    speed: u32,
    /// Refusals for lack of tokens that are not recorded yet, and when some were last.
    refusals: (u64, Option<u64>),
}

impl Channel {
    /// The channel of a VF without tenant and PF driver.
    pub fn new(vf: u16, generation: u32, limits: Limits, now: u64) -> Self {
        Self {
            vf,
            generation,
            limits,
            gate: Gate::new(&limits, now),
            resets: Gate::new(
                &Limits {
                    burst: limits.burst.min(RESETS.0),
                    requests_per_second: limits.requests_per_second.min(RESETS.1),
                    ..limits
                },
                now,
            ),
            mailbox: Mailbox::default(),
            blocks: ConfigBlock::new(generation),
            outstanding: Vec::new(),
            unanswered: Vec::new(),
            reset_untold: None,
            pf_ready: false,
            attached: false,
            torn_down: false,
            link_up: false,
            speed: 0,
            refusals: (0, None),
        }
    }

    /// The VF's generation.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Is a tenant on the VF?
    pub fn attached(&self) -> bool {
        self.attached
    }

    /// The link state that the VF sees.
    pub fn link_up(&self) -> bool {
        self.link_up
    }

    /// Link speed as the PF driver gave it, Mb/s.
    pub fn speed(&self) -> u32 {
        self.speed
    }

    /// Has the PF driver offered the VF on its present connection?
    pub fn pf_ready(&self) -> bool {
        self.pf_ready
    }

    /// Requests that wait for the PF driver.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    // ---- what the VF does ----

    /// The VF reads its mailbox memory.
    pub fn read_memory(&self, offset: usize, data: &mut [u8]) {
        self.mailbox.read_memory(offset, data);
    }

    /// The VF writes its mailbox memory.
    pub fn write_memory(&mut self, offset: usize, data: &[u8]) {
        self.mailbox.write_memory(offset, data);
    }

    /// The VF reads V2PMAILBOX; see [`Mailbox::read_v2p`].
    pub fn read_v2p(&mut self, downstream: u32, seen: u32) -> u32 {
        self.mailbox.read_v2p(downstream, seen)
    }

    /// The VF writes V2PMAILBOX.
    pub fn write_v2p(&mut self, value: u32, now: u64, host: &mut dyn Host) {
        let written = self.mailbox.write_v2p(value);
        if written.notify {
            host.notify();
        }
        let Some(words) = written.request else { return };
        for earlier in &mut self.outstanding {
            if let Origin::Mailbox { superseded, .. } = &mut earlier.origin {
                *superseded = true;
            }
        }
        let origin = Origin::Mailbox {
            word0: words[0],
            superseded: false,
        };
        self.ask(RequestBody::Mailbox(words), origin, now, host);
    }

    /// The VF reads BAR2.
    pub fn read_block(&self, offset: u64, data: &mut [u8]) {
        self.blocks.read(offset, data);
    }

    /// The VF writes BAR2.
    pub fn write_block(&mut self, offset: u64, data: &[u8], now: u64, host: &mut dyn Host) {
        match self.blocks.write(offset, data) {
            None => {}
            Some(Started::Request(body)) => self.ask(body, Origin::Block, now, host),
            Some(Started::Refused(status)) => {
                // Costs a token like any request, so that it cannot flood the log.
                if self.gate.admit(now) {
                    self.record(host, 0, Kind::Refused, status, 0);
                } else {
                    self.refused(now, host);
                }
                host.notify();
            }
            Some(Started::Abandoned) => {
                if let Some(n) = self
                    .outstanding
                    .iter()
                    .position(|o| o.origin == Origin::Block)
                {
                    let asked = self.outstanding.remove(n);
                    self.time_out(asked, now, host);
                }
            }
        }
    }

    fn ask(&mut self, body: RequestBody, origin: Origin, now: u64, host: &mut dyn Host) {
        let kind = Kind::of(&body);
        if !self.gate.admit(now) {
            self.refused(now, host);
            return self.answer(origin, Status::RateLimited, ReplyBody::Empty, host);
        }
        let refusal = if self.torn_down {
            Some(Status::TornDown)
        } else if !self.pf_ready {
            Some(Status::PfGone)
        } else if self.unanswered.len() >= self.limits.outstanding as usize {
            Some(Status::Busy)
        } else {
            None
        };
        let id = host.next_id();
        if refusal.is_none() {
            self.tell_reset(host);
        }
        let request = Request {
            vf: self.vf,
            generation: self.generation,
            id,
            body,
        };
        let refusal =
            refusal.or_else(|| (!host.send(ToPf::Request(request))).then_some(Status::PfGone));
        if let Some(status) = refusal {
            self.record(host, id, kind, status, 0);
            return self.answer(origin, status, ReplyBody::Empty, host);
        }
        self.unanswered.push(id);
        let deadline = matches!(origin, Origin::Mailbox { .. })
            .then(|| now.saturating_add(u64::from(self.limits.mailbox_deadline_ms) * MILLISECOND));
        self.outstanding.push(Outstanding {
            id,
            origin,
            kind,
            asked_at: now,
            deadline,
        });
    }

    // ---- what the PF driver does ----

    /// The PF driver offers the VF, for the first time or again.
    pub fn pf_offered(&mut self, link_up: bool, host: &mut dyn Host) {
        self.pf_ready = true;
        self.tell_reset(host);
        if self.attached {
            host.send(ToPf::Attached {
                vf: self.vf,
                generation: self.generation,
            });
        }
        self.link(link_up, self.speed, host);
    }

    /// The PF driver is gone: nobody will answer what is outstanding.
    pub fn pf_gone(&mut self, now: u64, host: &mut dyn Host) {
        self.pf_ready = false;
        self.unanswered.clear();
        self.reset_untold = None;
        self.answer_all(Status::PfGone, now, host);
    }

    /// The PF driver answers. An answer that nothing waits for is dropped.
    pub fn reply(&mut self, reply: &Reply, now: u64, host: &mut dyn Host) {
        let waiting = self.outstanding.iter().position(|o| o.id == reply.id);
        let matching = waiting.filter(|_| reply.generation == self.generation);
        // An answer in the name of another generation is none: the request still counts.
        if waiting.is_none() || matching.is_some() {
            self.unanswered.retain(|id| *id != reply.id);
        }
        let Some(n) = matching else {
            return host.record(Event::StaleReply {
                slot: self.vf,
                generation: reply.generation,
                id: reply.id,
            });
        };
        let asked = self.outstanding.remove(n);
        let Some(body) = check(asked.origin, asked.kind, reply) else {
            host.record(Event::MalformedReply {
                slot: self.vf,
                id: reply.id,
            });
            return self.finish(asked, Status::Invalid, ReplyBody::Empty, now, host);
        };
        self.finish(asked, reply.status, body, now, host);
        if matches!(asked.origin, Origin::Mailbox { word0, superseded: false } if is_reset(word0)) {
            self.mailbox.clear_to_send();
        }
    }

    /// Config blocks have changed.
    pub fn invalidate(&mut self, generation: u32, mask: u64, host: &mut dyn Host) {
        if generation != self.generation {
            return log::debug!(
                "VF {}: stale invalidation of generation {generation} dropped",
                self.vf
            );
        }
        if self.blocks.invalidate(mask) && self.blocks.in_use() {
            host.notify();
        }
        self.control(host);
    }

    /// The link state changed.
    pub fn link(&mut self, up: bool, speed: u32, host: &mut dyn Host) {
        let changed = (up, speed) != (self.link_up, self.speed);
        (self.link_up, self.speed) = (up, speed);
        if changed {
            self.control(host);
        }
    }

    /// Tell a mailbox driver to look.
    fn control(&mut self, host: &mut dyn Host) {
        if self.mailbox.in_use() && self.mailbox.control() == Delivery::Notify {
            host.notify();
        }
    }

    // ---- time ----

    /// When [`Self::expire`] has something to do, if ever.
    pub fn next_deadline(&self) -> Option<u64> {
        let requests = self.outstanding.iter().filter_map(|o| o.deadline);
        requests.chain(self.reset_untold.map(|(_, due)| due)).min()
    }

    /// Answer what has waited too long.
    pub fn expire(&mut self, now: u64, host: &mut dyn Host) {
        if self.reset_untold.is_some_and(|(_, due)| due <= now) {
            self.tell_reset(host);
        }
        let due = |o: &Outstanding| o.deadline.is_some_and(|deadline| deadline <= now);
        while let Some(n) = self.outstanding.iter().position(due) {
            let asked = self.outstanding.remove(n);
            self.time_out(asked, now, host);
        }
    }

    fn time_out(&mut self, asked: Outstanding, now: u64, host: &mut dyn Host) {
        // The VF did not wait for a superseded request and takes it as done: it may still succeed.
        if !matches!(
            asked.origin,
            Origin::Mailbox {
                superseded: true,
                ..
            }
        ) {
            host.send(ToPf::Expired {
                vf: self.vf,
                generation: self.generation,
                id: asked.id,
            });
        }
        self.finish(asked, Status::TimedOut, ReplyBody::Empty, now, host);
    }

    // ---- life of the VF ----

    /// The VF was reset and downstream has completed it: a new generation begins.
    pub fn reset(&mut self, cause: ResetCause, now: u64, host: &mut dyn Host) {
        for asked in std::mem::take(&mut self.outstanding) {
            self.record(
                host,
                asked.id,
                asked.kind,
                Status::Reset,
                now.saturating_sub(asked.asked_at),
            );
        }
        self.generation = self.generation.wrapping_add(1);
        // A VF on its way out keeps its last answers for whoever still looks; the next VF in this
        // slot has a channel of its own.
        if !self.torn_down {
            self.mailbox.reset();
            if cause == ResetCause::Tenant {
                self.blocks.forget(self.generation);
            } else {
                self.blocks.reset(self.generation);
            }
        }
        let tell = cause == ResetCause::Tenant || self.resets.admit(now);
        if tell {
            self.record_reset(cause, host);
        }
        if self.pf_ready {
            let due = self
                .reset_untold
                .map_or(now.saturating_add(RESET_TOLD_WITHIN), |(_, due)| due);
            self.reset_untold = Some((cause, due));
            if tell {
                self.tell_reset(host);
            }
        }
    }

    /// Generations between two records are those of resets that were not recorded.
    fn record_reset(&self, cause: ResetCause, host: &mut dyn Host) {
        host.record(Event::Reset {
            slot: self.vf,
            generation: self.generation,
            cause: cause.name(),
        });
    }

    fn tell_reset(&mut self, host: &mut dyn Host) {
        if let Some((cause, _)) = self.reset_untold.take() {
            host.send(ToPf::Reset {
                vf: self.vf,
                generation: self.generation,
                cause,
            });
        }
    }

    /// A tenant is on the VF.
    pub fn attach(&mut self, host: &mut dyn Host) {
        self.attached = true;
        host.record(Event::Attach {
            slot: self.vf,
            generation: self.generation,
        });
        if self.pf_ready {
            host.send(ToPf::Attached {
                vf: self.vf,
                generation: self.generation,
            });
        }
    }

    /// The tenant has left.
    pub fn detach(&mut self, now: u64, host: &mut dyn Host) {
        self.answer_all(Status::TornDown, now, host);
        self.attached = false;
        host.record(Event::Detach {
            slot: self.vf,
            generation: self.generation,
        });
        if self.pf_ready {
            self.tell_reset(host);
            host.send(ToPf::Detached {
                vf: self.vf,
                generation: self.generation,
            });
        }
    }

    /// The VF is being taken away: what is outstanding and what still comes is answered TORN_DOWN.
    pub fn tear_down(&mut self, now: u64, host: &mut dyn Host) {
        self.torn_down = true;
        self.answer_all(Status::TornDown, now, host);
    }

    fn answer_all(&mut self, status: Status, now: u64, host: &mut dyn Host) {
        for asked in std::mem::take(&mut self.outstanding) {
            self.finish(asked, status, ReplyBody::Empty, now, host);
        }
    }

    // ---- answers ----

    fn finish(
        &mut self,
        asked: Outstanding,
        status: Status,
        body: ReplyBody,
        now: u64,
        host: &mut dyn Host,
    ) {
        self.record(
            host,
            asked.id,
            asked.kind,
            status,
            now.saturating_sub(asked.asked_at),
        );
        self.answer(asked.origin, status, body, host);
    }

    fn answer(&mut self, origin: Origin, status: Status, body: ReplyBody, host: &mut dyn Host) {
        match (origin, body) {
            (
                Origin::Mailbox {
                    superseded: true, ..
                },
                _,
            ) => {}
            (Origin::Mailbox { word0, .. }, body) => {
                let words = match body {
                    ReplyBody::Mailbox(words) => words,
                    // A RESET that succeeds needs a MAC address; without one the VF picks its own.
                    _ => self
                        .mailbox
                        .verdict(word0, status == Status::Ok && !is_reset(word0)),
                };
                if self.mailbox.answer(words) == Delivery::Notify {
                    host.notify();
                }
            }
            (Origin::Block, body) => {
                let data = match &body {
                    ReplyBody::Block(data) if status == Status::Ok => Some(&data[..]),
                    _ => None,
                };
                self.blocks.finish(status, data);
                host.notify();
            }
        }
    }

    fn record(&self, host: &mut dyn Host, id: u64, kind: Kind, verdict: Status, latency: u64) {
        host.record(Event::Request {
            slot: self.vf,
            generation: self.generation,
            id,
            kind,
            verdict: verdict.name(),
            latency_us: latency / 1000,
        });
    }

    fn refused(&mut self, now: u64, host: &mut dyn Host) {
        let (count, recorded) = &mut self.refusals;
        *count += 1;
        if recorded.is_none_or(|at| now.saturating_sub(at) >= REFUSALS_RECORDED_EVERY) {
            host.record(Event::RateLimited {
                slot: self.vf,
                generation: self.generation,
                requests: *count,
            });
            self.refusals = (0, Some(now));
        }
    }
}

fn is_reset(word0: u32) -> bool {
    MessageId::of(word0) == Some(MessageId::Reset)
}

/// The body of a reply, if it fits what was asked.
fn check(origin: Origin, kind: Kind, reply: &Reply) -> Option<ReplyBody> {
    match (origin, &reply.body) {
        (_, ReplyBody::Empty) => {
            // A read that succeeds has data.
            let needs_data = reply.status == Status::Ok && matches!(kind, Kind::ReadBlock { .. });
            (!needs_data).then_some(ReplyBody::Empty)
        }
        (Origin::Mailbox { word0, .. }, ReplyBody::Mailbox(words)) => {
            fits(words, word0).then_some(ReplyBody::Mailbox(*words))
        }
        (Origin::Block, ReplyBody::Block(data)) => match kind {
            Kind::ReadBlock { length, .. }
                if !data.is_empty() && data.len() <= usize::from(length) =>
            {
                Some(ReplyBody::Block(*data))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Word 0 answers the message that was asked, with a verdict.
fn fits(words: &MailboxWords, word0: u32) -> bool {
    words[0] & ID_MASK == word0 & ID_MASK && words[0] & (ACK | NACK) != 0
}
