//! The transmit ring.

use std::collections::VecDeque;
use std::sync::Arc;

use igb::descriptor::{TxCommand, TxContext, TxData, TxOptions, TxWriteBack};
use iommu::container::Container;

use super::memory::{BUFFER_ALIGNMENT, RingMemory};
use crate::DriverError;
use crate::offload::{Plan, Split, without_length};

/// Buffers of one frame: the card drops a frame with more than 64 descriptors, its context included.
const MOST_BUFFERS: usize = 63;
/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// Longest frame that a ring of `entries` descriptors has split, whatever its buffers' size.
pub(crate) fn least_split(entries: u16) -> usize {
    split_buffers(entries) * BUFFER_ALIGNMENT
}

fn split_buffers(entries: u16) -> usize {
    usize::from((entries / 2).saturating_sub(1)).min(MOST_BUFFERS)
}

/// The ring has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What went through a transmit ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxStats {
    /// Frames put on the ring.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often there was no room.
    pub full: u64,
    /// Frames whose checksum the card inserts.
    pub checksums: u64,
    /// Frames that the card splits.
    pub splits: u64,
}

/// Frames on their way to the card: one descriptor each, one more where the card is told anew what to
/// do with them, and several where it splits them.
///
/// Buffers are copied into, so nothing waits for a completion but the room itself: only every few
/// descriptors ask to be written back.
pub struct TxRing {
    memory: RingMemory,
    /// The next descriptor to fill.
    head: u16,
    /// The first descriptor that the card may still own.
    clean: u16,
    /// Those between `clean` and `head` that ask for a write-back, in order.
    reports: VecDeque<u16>,
    /// Write-backs that came.
    reported: u64,
    report_every: u16,
    /// Descriptors since the last that asks.
    unreported: u16,
    max_frame: usize,
    /// The context that the card has.
    context: Option<TxContext>,
    stats: TxStats,
}

impl TxRing {
    /// A ring of `entries` descriptors for frames of at most `max_frame` bytes.
    ///
    /// # Errors
    ///
    /// [`DriverError::RingSize`], or no memory.
    pub fn new(
        container: &Arc<Container>,
        entries: u16,
        max_frame: usize,
    ) -> Result<Self, DriverError> {
        Ok(Self {
            memory: RingMemory::new(
                container,
                entries,
                max_frame.next_multiple_of(BUFFER_ALIGNMENT),
            )?,
            head: 0,
            clean: 0,
            reports: VecDeque::with_capacity(8),
            reported: 0,
            report_every: entries / 8,
            // The first frame asks.
            unreported: entries / 8 - 1,
            max_frame,
            context: None,
            stats: TxStats::default(),
        })
    }

    /// Where the card finds the descriptors.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.memory.base()
    }

    /// Bytes of all descriptors.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.memory.length()
    }

    /// The value for the tail register: one past the last descriptor filled.
    #[must_use]
    pub fn tail(&self) -> u16 {
        self.head
    }

    /// Longest frame.
    #[must_use]
    pub fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// Longest frame that is split by the card: half a ring of it, so that one fits while another is
    /// on its way, and no more buffers than the card takes for one.
    #[must_use]
    pub fn max_split(&self) -> usize {
        split_buffers(self.memory.entries()) * self.memory.buffer_size()
    }

    /// What went through.
    #[must_use]
    pub fn stats(&self) -> TxStats {
        self.stats
    }

    /// Frames that the card may still own.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.head.wrapping_sub(self.clean) & (self.memory.entries() - 1)
    }

    /// Puts a frame on the ring; the card does not know of it before it gets [`Self::tail`].
    ///
    /// # Errors
    ///
    /// [`Full`]; the frame is not on the ring.
    ///
    /// # Panics
    ///
    /// If the frame is longer than [`Self::max_frame`], or with a plan that splits it than
    /// [`Self::max_split`].
    pub(crate) fn push(&mut self, frame: &[u8], plan: Option<&Plan>) -> Result<(), Full> {
        let split = plan.and_then(|plan| plan.split);
        let most = split.map_or(self.max_frame, |_| self.max_split());
        assert!(frame.len() <= most, "the caller checks lengths");
        // The card keeps a context: frames of one connection need it once.
        let context = plan
            .map(|plan| plan.context)
            .filter(|context| self.context != Some(*context));
        let buffers = frame.len().div_ceil(self.memory.buffer_size());
        let needed = buffers + usize::from(context.is_some());
        if self.room() < needed {
            self.reclaim();
            if self.room() < needed {
                self.stats.full += 1;
                return Err(Full);
            }
        }
        if let Some(context) = context {
            self.memory.put(self.head, context.raw());
            self.head = self.memory.next(self.head);
            self.unreported += 1;
            self.context = Some(context);
        }
        let mut command = TxCommand::IFCS;
        let mut payload = frame.len();
        if let Some(split) = split {
            command |= TxCommand::TSE;
            payload -= split.headers;
            self.stats.splits += 1;
        }
        let options = plan.map_or(TxOptions::empty(), |plan| plan.options);
        let first = self.head;
        let mut parts = frame.chunks(self.memory.buffer_size()).peekable();
        while let Some(part) = parts.next() {
            let mut command = command;
            self.unreported += 1;
            if parts.peek().is_none() {
                command |= TxCommand::EOP;
                if self.unreported >= self.report_every {
                    self.unreported = 0;
                    command |= TxCommand::RS;
                    self.reports.push_back(self.head);
                }
            }
            self.memory.fill(self.head, part);
            if let Some(split) = split
                && self.head == first
            {
                self.prepare_headers(frame, split);
            }
            let address = self.memory.buffer_address(self.head);
            let descriptor = TxData::new(address, part.len() as u16, command)
                .with_payload_length(payload as u32)
                .with_options(options);
            self.memory.put(self.head, descriptor.raw());
            self.head = self.memory.next(self.head);
        }
        self.stats.packets += 1;
        self.stats.bytes += frame.len() as u64;
        self.stats.checksums += u64::from(plan.is_some());
        Ok(())
    }

    /// Of a frame that is split: the pseudo header's sum without the length, which the card adds for
    /// each part, and no checksum of IP's header.
    fn prepare_headers(&self, frame: &[u8], split: Split) {
        let at = split.checksum_at;
        let transport = frame.len() - (at - TCP_CHECKSUM);
        let sum = without_length([frame[at], frame[at + 1]], transport);
        // The headers lie in the first buffer: they are much shorter than any.
        self.memory.fill_from(self.head, at, &sum);
        if let Some(at) = split.ip_checksum_at {
            self.memory.fill_from(self.head, at, &[0; 2]);
        }
    }

    /// Descriptors that can be filled now.
    fn room(&self) -> usize {
        usize::from(self.memory.entries() - 1 - self.in_flight())
    }

    /// Whether the card owes a write-back, and then how many came before it: a number that stays is a
    /// queue that stands still.
    #[must_use]
    pub fn owed(&self) -> Option<u64> {
        (!self.reports.is_empty()).then_some(self.reported)
    }

    /// Takes back what the card has written back. It can claim only what it was given: the shadow
    /// says which descriptors those are, and in which order.
    pub fn reclaim(&mut self) {
        while let Some(&report) = self.reports.front() {
            let status = self.memory.status_word(report);
            if !TxWriteBack::from_raw([0, status]).is_done() {
                break;
            }
            self.reports.pop_front();
            self.reported += 1;
            self.clean = self.memory.next(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use igb::descriptor::{self, TxDescriptor};
    use iommu::container::ContainerOptions;
    use proptest::prelude::*;

    use super::*;
    use crate::offload::{TxChecksum, TxOffload};

    /// A card that carries out, or lies about, what is on the ring.
    struct Card {
        head: u16,
        context: Option<TxContext>,
    }

    impl Card {
        fn new() -> Self {
            Self {
                head: 0,
                context: None,
            }
        }

        fn take(&mut self, ring: &TxRing) -> Option<Vec<u8>> {
            self.take_with_options(ring).map(|(frame, _)| frame)
        }

        /// The next frame, of however many descriptors, with what its first one says.
        fn take_with_options(&mut self, ring: &TxRing) -> Option<(Vec<u8>, TxData)> {
            let memory = ring.memory.dma();
            let mut frame = Vec::new();
            let mut first = None;
            while self.head != ring.tail() {
                let mut raw = [0; descriptor::SIZE];
                let at = usize::from(self.head) * descriptor::SIZE;
                memory.read(at, &mut raw);
                self.head = ring.memory.next(self.head);
                let data = match TxDescriptor::parse(descriptor::from_bytes(&raw)) {
                    TxDescriptor::Data(data) => data,
                    TxDescriptor::Context(context) if frame.is_empty() => {
                        self.context = Some(context);
                        continue;
                    }
                    other => panic!("{other:?}"),
                };
                let mut part = vec![0; data.length().into()];
                memory.read((data.address() - memory.iova()) as usize, &mut part);
                frame.extend_from_slice(&part);
                let first = *first.get_or_insert(data);
                if data.command().contains(TxCommand::RS) {
                    let done = TxWriteBack::DONE.raw()[1];
                    memory.store_u64(at + descriptor::STATUS_WORD, done, Ordering::Release);
                }
                if data.command().contains(TxCommand::EOP) {
                    return Some((frame, first));
                }
            }
            assert!(first.is_none(), "a frame without end");
            None
        }
    }

    fn ring(entries: u16) -> TxRing {
        TxRing::new(&Container::new(ContainerOptions::default()), entries, 2048).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Every frame comes out once, in order, whatever the interleaving.
        #[test]
        fn frames_come_out_in_order(
            steps in proptest::collection::vec((any::<bool>(), 14_usize..2048), 1..400),
        ) {
            let mut ring = ring(16);
            let mut card = Card::new();
            let mut expected = VecDeque::new();
            for (n, (send, len)) in steps.into_iter().enumerate() {
                if send {
                    let frame = vec![n as u8; len];
                    match ring.push(&frame, None) {
                        Ok(()) => expected.push_back(frame),
                        // Two report intervals may be open at most when the card is done.
                        Err(Full) => prop_assert!(expected.len() >= 16 - 1 - 2),
                    }
                } else {
                    prop_assert_eq!(card.take(&ring), expected.pop_front());
                }
                prop_assert!(ring.in_flight() < 16);
            }
        }

        /// A card that writes anything anywhere in its descriptors makes no panic, and no frame more
        /// than the ring holds.
        #[test]
        fn lies_do_no_harm(words in proptest::collection::vec((0_usize..32, any::<u64>()), 1..200)) {
            let mut ring = ring(16);
            for (place, word) in words {
                ring.memory.dma().store_u64(place * 8, word, Ordering::Relaxed);
                let _ = ring.push(&[0; 64], None);
                ring.reclaim();
                prop_assert!(ring.in_flight() < 16);
                prop_assert!(ring.reports.len() <= 8);
            }
        }
    }

    #[test]
    fn a_full_ring_gets_room_when_the_card_is_done() {
        let mut ring = ring(8);
        let mut card = Card::new();
        for _ in 0..7 {
            ring.push(&[0; 60], None).unwrap();
        }
        assert_eq!(ring.push(&[0; 60], None), Err(Full));
        while card.take(&ring).is_some() {}
        ring.push(&[0; 60], None).unwrap();
        assert_eq!(ring.in_flight(), 1);
        assert_eq!(ring.stats().full, 1);
    }

    /// A TCP segment over IPv4, `len` bytes with its headers, and what is left to do for it.
    fn tcp(len: usize, segment: Option<u16>) -> (Vec<u8>, TxOffload) {
        let mut frame: Vec<u8> = (0..len).map(|at| at as u8).collect();
        frame[12..14].copy_from_slice(&igb::frame::ETHERTYPE_IPV4.to_be_bytes());
        frame[34 + 12] = 5 << 4;
        let checksum = Some(TxChecksum {
            start: 34,
            offset: 16,
        });
        (frame, TxOffload { checksum, segment })
    }

    #[test]
    fn frames_of_one_connection_need_one_context() {
        let mut ring = ring(64);
        let mut card = Card::new();
        let (frame, offload) = tcp(900, None);
        let plan = Plan::new(&frame, offload);
        for _ in 0..3 {
            ring.push(&frame, plan.as_ref()).unwrap();
        }
        ring.push(&frame, None).unwrap();
        ring.push(&frame, plan.as_ref()).unwrap();
        assert_eq!(ring.in_flight(), 6, "five frames and one context");
        for checksum in [true, true, true, false, true] {
            let (sent, first) = card.take_with_options(&ring).unwrap();
            assert_eq!(sent, frame);
            assert_eq!(first.options().contains(TxOptions::TXSM), checksum);
            assert_eq!(first.payload_length(), 900);
        }
        assert_eq!(card.context, plan.map(|plan| plan.context));
        assert_eq!(ring.stats().checksums, 4);
    }

    #[test]
    fn a_frame_to_split_lies_in_several_buffers() {
        let mut ring = ring(256);
        let mut card = Card::new();
        let (mut frame, offload) = tcp(60_000, Some(1448));
        let plan = Plan::new(&frame, offload);
        ring.push(&frame, plan.as_ref()).unwrap();
        let (sent, first) = card.take_with_options(&ring).unwrap();
        let sum = without_length([frame[50], frame[51]], 60_000 - 34);
        frame[50..52].copy_from_slice(&sum);
        frame[24..26].fill(0);
        assert_eq!(sent, frame);
        assert!(first.command().contains(TxCommand::TSE));
        assert_eq!(first.payload_length(), 60_000 - 54);
        assert_eq!(card.context.unwrap().mss(), 1448);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Frames of any number of descriptors come out in order, and a card that is done leaves room.
        #[test]
        fn splits_and_whole_frames_mix(
            steps in proptest::collection::vec((any::<bool>(), any::<bool>(), 60_usize..60_000), 1..200),
        ) {
            let mut ring = ring(128);
            let mut card = Card::new();
            let mut expected = VecDeque::new();
            for (send, split, len) in steps {
                if !send {
                    prop_assert_eq!(card.take(&ring).map(|frame| frame.len()), expected.pop_front());
                    continue;
                }
                let (frame, offload) = tcp(if split { len } else { len % 1900 + 60 }, split.then_some(1000));
                let plan = Plan::new(&frame, offload);
                loop {
                    match ring.push(&frame, plan.as_ref()) {
                        Ok(()) => break,
                        Err(Full) => {
                            let taken = card.take(&ring).map(|frame| frame.len());
                            prop_assert!(taken.is_some(), "full, and nothing on its way");
                            prop_assert_eq!(taken, expected.pop_front());
                        }
                    }
                }
                expected.push_back(frame.len());
            }
        }
    }

    #[test]
    fn ring_sizes_are_checked() {
        let container = Container::new(ContainerOptions::default());
        for entries in [0, 4, 24, 8192] {
            assert!(TxRing::new(&container, entries, 2048).is_err(), "{entries}");
        }
    }
}
