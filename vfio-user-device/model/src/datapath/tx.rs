//! A transmit queue: descriptors into frames (datasheet 7.2), write-back.

use igb::descriptor::{
    self, LegacyTx, LegacyTxCommand, STATUS_WORD, TxCommand, TxContext, TxDescriptor, TxOptions,
    TxWriteBack,
};
use igb::queue_page::QueueRegister;
use igb::{TDWBAL, Value, VlanTag};

use super::checksum::BadContext;
use super::credit::Credit;
use super::frame::Segment;
use super::ring::{Look, Place, Ring, State};
use super::segment::{Plan, Segmenter};
use crate::drops::DropReason;
use crate::events::{HaltReason, Ring as Kind};
use crate::host::{DataHost, DmaFault, FaultCause};

/// Descriptors that one frame may take, its context included.
pub(super) const FRAME_DESCRIPTORS: usize = 64;
/// Longest frame that the card sends, without FCS.
pub(super) const FRAME_BYTES: usize = igb::frame::MAX_JUMBO_LENGTH - igb::frame::FCS_LENGTH;
/// Contexts of a queue.
const CONTEXTS: usize = 2;

/// A transmit queue.
#[derive(Debug, Default)]
pub(super) struct TxQueue {
    pub(super) ring: Ring,
    contexts: [TxContext; CONTEXTS],
    /// Where the head is written instead of descriptors.
    head_write_back: Option<u64>,
    /// The frame at the head is sent in many, and some of them are gone.
    pub(super) cut: Option<Box<Cut>>,
    /// Its driver sent nonsense and the PF wants such queues blocked (DTXCTL.MDP_EN). It stays so
    /// until the PF frees it (MDFB), or the function is reset or may no longer send.
    blocked: bool,
    /// A frame with too many descriptors is being thrown away up to its end.
    discarding: bool,
    credit: Credit,
    /// Descriptors between head and tail when the frame at the head had no end among them.
    incomplete: u32,
    /// The rate limit lets the queue go on at this time.
    not_before: u64,
    /// The descriptors at the head, if they have been dealt with and software could not be told yet.
    owed: Vec<[u8; descriptor::SIZE]>,
}

/// A frame that is being sent in many.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) request: Request,
    pub(super) segmenter: Segmenter,
    /// Its descriptors.
    pub(super) raw: Vec<[u8; descriptor::SIZE]>,
}

/// What a frame's descriptors say of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) segments: Vec<Segment>,
    pub(super) len: usize,
    /// The tag to insert.
    pub(super) insert: Option<VlanTag>,
    pub(super) checksum: Checksum,
    /// How to cut it (TSE).
    pub(super) plan: Option<Plan>,
    /// The frame's departure is to be stamped (IEEE 1588).
    pub(super) stamp: bool,
}

/// Checksums to insert.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Checksum {
    #[default]
    None,
    Advanced(TxOptions, TxContext),
    Legacy {
        start: usize,
        at: usize,
    },
}

/// What lies at the head of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A frame of so many descriptors, described by the request.
    Frame(usize),
    /// Descriptors to pass over: contexts.
    Pass(usize),
    /// A frame of so many descriptors that is dropped.
    Drop(usize, DropReason),
    /// A frame that goes on beyond what was fetched.
    Incomplete,
}

impl TxQueue {
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Look at the page: latch, or stop.
    pub(super) fn look(
        &mut self,
        place: Place,
        permitted: bool,
        host: &dyn DataHost,
    ) -> Option<HaltReason> {
        match (self.ring).look(Kind::Tx, place, permitted && !self.blocked, host) {
            Look::Same => {
                if self.ring.state != State::Running {
                    self.cut = None;
                }
                None
            }
            Look::Halted(reason) => Some(reason),
            Look::Latched => {
                self.contexts = Default::default();
                self.cut = None;
                self.discarding = false;
                self.incomplete = 0;
                self.not_before = 0;
                self.owed.clear();
                let low = Value::<TDWBAL>::from_raw(place.load(host, QueueRegister::TDWBAL));
                let high = place.load(host, QueueRegister::TDWBAH);
                self.head_write_back = low
                    .has(TDWBAL::HEAD_WB_EN)
                    .then(|| u64::from(high) << 32 | u64::from(low.raw() & TDWBAL::ADDRESS.mask()));
                None
            }
        }
    }

    /// Read what the next descriptors, already fetched, ask for.
    pub(super) fn parse(&mut self, raw: &[[u8; descriptor::SIZE]], request: &mut Request) -> Item {
        self.incomplete = 0;
        request.segments.clear();
        request.len = 0;
        request.insert = None;
        request.checksum = Checksum::None;
        request.plan = None;
        request.stamp = false;
        let mut refused = None;
        let mut first = true;
        let mut cut = None;
        for (n, bytes) in raw.iter().enumerate() {
            let end = match TxDescriptor::parse(descriptor::from_bytes(bytes)) {
                TxDescriptor::Context(context) if first && !self.discarding => {
                    self.contexts[usize::from(context.index()) % CONTEXTS] = context;
                    return Item::Pass(1);
                }
                // A context in the middle of a frame has no place there.
                TxDescriptor::Context(_) => {
                    refused = Some(DropReason::BadDescriptor);
                    false
                }
                TxDescriptor::Reserved(_) => {
                    refused = Some(DropReason::BadDescriptor);
                    true
                }
                TxDescriptor::Data(data) => {
                    let command = data.command();
                    if first {
                        let context = self.contexts[usize::from(data.context()) % CONTEXTS];
                        if command.contains(TxCommand::VLE) {
                            request.insert = Some(VlanTag(context.vlan_tag()));
                        }
                        request.stamp = command.contains(TxCommand::TSTAMP);
                        if command.contains(TxCommand::TSE) {
                            cut = Some((context, data.options(), data.payload_length()));
                        } else if data.options().intersects(TxOptions::IXSM | TxOptions::TXSM) {
                            request.checksum = Checksum::Advanced(data.options(), context);
                        }
                    }
                    add(request, data.address(), data.length());
                    command.contains(TxCommand::EOP)
                }
                TxDescriptor::Legacy(data) => {
                    let command = data.command();
                    let end = command.contains(LegacyTxCommand::EOP);
                    // Legacy options count in the last descriptor (datasheet 7.2.2.1.4).
                    if end && command.contains(LegacyTxCommand::VLE) {
                        request.insert = Some(VlanTag(data.vlan_tag()));
                    }
                    if end && command.contains(LegacyTxCommand::IC) {
                        request.checksum = Checksum::Legacy {
                            start: data.checksum_start().into(),
                            at: data.checksum_offset().into(),
                        };
                    }
                    add(request, data.address(), data.length());
                    end
                }
            };
            first = false;
            if end {
                if let Some((context, options, payload)) = cut.filter(|_| refused.is_none()) {
                    match Plan::new(context, options, payload, request.len) {
                        Ok(plan) => request.plan = Some(plan),
                        Err(BadContext) => refused = Some(DropReason::BadSegmentation),
                    }
                }
                return self.finish(n + 1, refused, request);
            }
        }
        if raw.len() >= FRAME_DESCRIPTORS || self.discarding {
            let report = !std::mem::replace(&mut self.discarding, true);
            return if report {
                Item::Drop(raw.len(), DropReason::TooManyDescriptors)
            } else {
                Item::Pass(raw.len())
            };
        }
        Item::Incomplete
    }

    /// The frame at the head has no end among the `available` descriptors.
    pub(super) fn wait_for_more(&mut self, available: u32) {
        self.incomplete = available;
    }

    /// Whether nothing can be done with `available` descriptors now: they were looked at already, or
    /// the rate limit forbids.
    pub(super) fn is_waiting(&self, available: u32, now: u64) -> bool {
        available == 0 || available == self.incomplete || now < self.not_before
    }

    fn finish(
        &mut self,
        descriptors: usize,
        refused: Option<DropReason>,
        request: &Request,
    ) -> Item {
        if std::mem::take(&mut self.discarding) {
            return Item::Pass(descriptors);
        }
        let too_long = request.len > FRAME_BYTES && request.plan.is_none();
        let refused = refused
            .or(too_long.then_some(DropReason::Oversize))
            .or((request.len < igb::frame::HEADER_LENGTH).then_some(DropReason::Runt));
        match refused {
            Some(reason) => Item::Drop(descriptors, reason),
            None => Item::Frame(descriptors),
        }
    }

    /// Stop until software enables the queue anew.
    pub(super) fn halt(&mut self) {
        self.ring.halt();
        self.cut = None;
    }

    /// Stop until the PF frees the queue. What stood at the head, `taken` descriptors, is passed over.
    pub(super) fn block(&mut self, taken: usize) {
        self.ring.advance(taken as u32);
        self.blocked = true;
        self.halt();
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The PF frees the queue. If it is enabled still, it starts anew with the next look at it.
    pub(super) fn free(&mut self) {
        if std::mem::take(&mut self.blocked) {
            self.ring.state = State::Off;
        }
    }

    /// Software has to be told of these descriptors at the head before anything else: telling it was
    /// cancelled.
    pub(super) fn owe(&mut self, raw: &[[u8; descriptor::SIZE]]) {
        self.owed.clear();
        self.owed.extend_from_slice(raw);
    }

    /// Tell software what it is owed, if anything. `true` if it had asked.
    pub(super) fn pay(
        &mut self,
        place: Place,
        host: &mut dyn DataHost,
    ) -> Result<bool, (u64, u64, DmaFault)> {
        if self.owed.is_empty() {
            return Ok(false);
        }
        let owed = std::mem::take(&mut self.owed);
        let result = self.complete(place, &owed, host);
        if matches!(result, Err((_, _, fault)) if fault.cause == FaultCause::Cancelled) {
            self.owed = owed;
        }
        result
    }

    /// Nothing can be done before `when`.
    pub(super) fn wait_until(&mut self, when: u64) {
        self.not_before = when;
    }

    /// Tell software of `raw`, the descriptors at the head, where they ask for it, and pass over
    /// them. `true` if one asked. After an error the head is where it was.
    pub(super) fn complete(
        &mut self,
        place: Place,
        raw: &[[u8; descriptor::SIZE]],
        host: &mut dyn DataHost,
    ) -> Result<bool, (u64, u64, DmaFault)> {
        let mut reported = false;
        for (n, bytes) in raw.iter().enumerate() {
            let [low, high] = descriptor::from_bytes(bytes);
            // RS is the same bit in every format.
            if !TxCommand::from_bits_retain(high as u32).contains(TxCommand::RS) {
                continue;
            }
            reported = true;
            if self.head_write_back.is_some() {
                continue;
            }
            let done = match TxDescriptor::parse([low, high]) {
                TxDescriptor::Legacy(legacy) => LegacyTx::written_back(legacy).raw()[1],
                _ => TxWriteBack::DONE.raw()[1],
            };
            let iova = self.ring.iova(n as u32) + STATUS_WORD as u64;
            host.dma_store_release(place.function, iova, done)
                .map_err(|fault| (iova, size_of::<u64>() as u64, fault))?;
        }
        let taken = raw.len() as u32;
        if let Some(iova) = self.head_write_back.filter(|_| reported) {
            let head = self.ring.ahead(taken).to_le_bytes();
            host.dma_write(place.function, iova, &head)
                .map_err(|fault| (iova, head.len() as u64, fault))?;
        }
        self.ring.advance(taken);
        Ok(reported)
    }

    /// Whether a queue limited to `rate` bytes per second may send now; if not, when.
    pub(super) fn may_send(&mut self, rate: Option<u64>, now: u64) -> Result<(), u64> {
        let verdict = self.credit.allows(rate, now);
        self.not_before = verdict.err().unwrap_or(0);
        verdict
    }

    /// A frame of so many bytes on the wire was sent.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.credit.spend(bytes);
    }
}

/// Add a buffer. The length of a frame stays bounded: descriptors are, and so is each of them.
fn add(request: &mut Request, iova: u64, len: u16) {
    if len != 0 {
        request.segments.push(Segment {
            iova,
            len: usize::from(len),
        });
        request.len += usize::from(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use igb::descriptor::TxData;

    fn data(len: u16, command: TxCommand) -> [u8; 16] {
        TxData::new(0x1000, len, command).to_bytes()
    }

    #[test]
    fn frames_end_with_eop_and_contexts_stand_alone() {
        let mut queue = TxQueue::default();
        let mut request = Request::default();
        let context = TxContext::new(1, 14, 20).with_vlan_tag(7).to_bytes();
        assert_eq!(queue.parse(&[context], &mut request), Item::Pass(1));
        let tagged = TxData::new(0x1000, 60, TxCommand::EOP | TxCommand::VLE).with_context(1);
        assert_eq!(
            queue.parse(&[tagged.to_bytes()], &mut request),
            Item::Frame(1)
        );
        assert_eq!(request.insert, Some(VlanTag(7)));
        let part = data(40, TxCommand::empty());
        assert_eq!(queue.parse(&[part], &mut request), Item::Incomplete);
        assert_eq!(
            queue.parse(&[part, data(20, TxCommand::EOP)], &mut request),
            Item::Frame(2)
        );
        assert_eq!(
            (request.len, request.segments.len(), request.insert),
            (60, 2, None)
        );
        assert_eq!(
            queue.parse(&[part, context, data(20, TxCommand::EOP)], &mut request),
            Item::Drop(3, DropReason::BadDescriptor)
        );
    }

    #[test]
    fn a_frame_without_end_is_thrown_away_to_its_end() {
        let mut queue = TxQueue::default();
        let mut request = Request::default();
        let parts = vec![data(10, TxCommand::empty()); FRAME_DESCRIPTORS];
        assert_eq!(
            queue.parse(&parts, &mut request),
            Item::Drop(FRAME_DESCRIPTORS, DropReason::TooManyDescriptors)
        );
        assert_eq!(queue.parse(&parts[..3], &mut request), Item::Pass(3));
        let end = [data(10, TxCommand::empty()), data(60, TxCommand::EOP)];
        assert_eq!(queue.parse(&end, &mut request), Item::Pass(2));
        assert_eq!(
            queue.parse(&[data(60, TxCommand::EOP)], &mut request),
            Item::Frame(1)
        );
    }

    #[test]
    fn sizes_and_types_that_make_no_sense_have_names() {
        let mut queue = TxQueue::default();
        let mut request = Request::default();
        let mut dropped = |raw: &[[u8; 16]]| match queue.parse(raw, &mut request) {
            Item::Drop(_, reason) => Some(reason),
            _ => None,
        };
        assert_eq!(dropped(&[data(13, TxCommand::EOP)]), Some(DropReason::Runt));
        assert_eq!(dropped(&[data(0, TxCommand::EOP)]), Some(DropReason::Runt));
        assert_eq!(
            dropped(&[data(9725, TxCommand::EOP)]),
            Some(DropReason::Oversize)
        );
        assert_eq!(dropped(&[data(9724, TxCommand::EOP)]), None);
        let tse = data(60, TxCommand::EOP | TxCommand::TSE);
        assert_eq!(dropped(&[tse]), Some(DropReason::BadSegmentation));
    }
}
