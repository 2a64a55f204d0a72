//! The receive ring.

use std::sync::Arc;

use igb::descriptor::{RxRead, RxStatus, RxWriteBack};
use iommu::container::Container;

use super::memory::RingMemory;
use crate::DriverError;
use crate::offload::RxChecksum;

/// What came through a receive ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RxStats {
    /// Frames given to the stack.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that the card flagged as broken.
    pub errors: u64,
    /// Descriptors whose length is 0, or more than the buffer: a card that lies.
    pub length_errors: u64,
    /// Frames longer than the MTU allows, in however many buffers.
    pub over_errors: u64,
    /// Frames without a whole Ethernet header.
    pub short_errors: u64,
    /// Frames whose checksum above IP the card found right.
    pub verified: u64,
}

/// What [`RxRing::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Nothing that the card has finished.
    Nothing,
    /// A frame, which the stack got.
    Frame,
    /// A descriptor that gave no frame: a part of one, or one that was dropped and counted.
    Other,
}

/// Frames on their way from the card. A frame may lie in several buffers, one after the other.
pub struct RxRing {
    memory: RingMemory,
    /// The next descriptor that the card finishes.
    clean: u16,
    /// The frame so far, and whole frames on their way to the stack: never shared memory itself.
    frame: Vec<u8>,
    /// Bytes of `frame` that the open chain has filled.
    filled: usize,
    /// The open chain is lost; the rest of it goes too.
    discarding: bool,
    stats: RxStats,
}

impl RxRing {
    /// A ring of `entries` descriptors with buffers of `buffer_size` bytes, for frames of at most
    /// `max_frame` bytes.
    ///
    /// # Errors
    ///
    /// [`DriverError::RingSize`], or no memory.
    pub fn new(
        container: &Arc<Container>,
        entries: u16,
        buffer_size: usize,
        max_frame: usize,
    ) -> Result<Self, DriverError> {
        let ring = Self {
            memory: RingMemory::new(container, entries, buffer_size)?,
            clean: 0,
            frame: vec![0; max_frame],
            filled: 0,
            discarding: false,
            stats: RxStats::default(),
        };
        for index in 0..entries {
            ring.offer(index);
        }
        Ok(ring)
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

    /// Descriptors.
    #[must_use]
    pub fn entries(&self) -> u16 {
        self.memory.entries()
    }

    /// Bytes of a buffer.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        self.memory.buffer_size()
    }

    /// The value for the tail register: the card owns all descriptors but the one before the next
    /// to be finished, as head and tail being equal means that it owns none.
    #[must_use]
    pub fn tail(&self) -> u16 {
        self.memory.previous(self.clean)
    }

    /// What came through.
    #[must_use]
    pub fn stats(&self) -> RxStats {
        self.stats
    }

    /// Whether the card has finished a descriptor that was not yet taken.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.next_done().is_some()
    }

    /// Gives the buffer to the card.
    fn offer(&self, index: u16) {
        let address = self.memory.buffer_address(index);
        self.memory.put(index, RxRead::new(address, 0).raw());
    }

    fn next_done(&self) -> Option<RxWriteBack> {
        let done = RxWriteBack::from_raw([0, self.memory.status_word(self.clean)]);
        done.is_done().then_some(done)
    }

    /// Takes one descriptor that the card has finished, and gives it back to the card once
    /// [`Self::tail`] is written.
    pub fn take(&mut self, receive: &mut dyn FnMut(&[u8], RxChecksum)) -> Taken {
        let Some(done) = self.next_done() else {
            return Taken::Nothing;
        };
        let taken = self.absorb(done);
        let last = done.status().contains(RxStatus::EOP);
        let length = self.filled;
        if last {
            self.filled = 0;
            self.discarding = false;
        }
        if taken == Taken::Frame {
            self.stats.packets += 1;
            self.stats.bytes += length as u64;
            let checksum = RxChecksum::of(done.status());
            self.stats.verified += u64::from(checksum == RxChecksum::Valid);
            receive(&self.frame[..length], checksum);
        }
        self.offer(self.clean);
        self.clean = self.memory.next(self.clean);
        taken
    }

    /// Copies the descriptor's part of a frame, after checking what the card says of it.
    fn absorb(&mut self, done: RxWriteBack) -> Taken {
        if self.discarding {
            return Taken::Other;
        }
        let length = usize::from(done.length());
        let status = done.status();
        let counter = if length == 0 || length > self.memory.buffer_size() {
            &mut self.stats.length_errors
        } else if self.filled + length > self.frame.len() {
            &mut self.stats.over_errors
        } else if status.contains(RxStatus::RXE) {
            &mut self.stats.errors
        } else {
            let end = self.filled + length;
            self.memory
                .drain(self.clean, &mut self.frame[self.filled..end]);
            self.filled = end;
            if !status.contains(RxStatus::EOP) {
                return Taken::Other;
            }
            if end >= igb::frame::HEADER_LENGTH {
                return Taken::Frame;
            }
            &mut self.stats.short_errors
        };
        *counter += 1;
        self.discarding = true;
        Taken::Other
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use igb::descriptor;
    use iommu::container::ContainerOptions;
    use proptest::prelude::*;

    use super::*;

    const ENTRIES: u16 = 8;
    const BUFFER: usize = 1024;
    const LONGEST: usize = 3000;

    fn ring() -> RxRing {
        let container = Container::new(ContainerOptions::default());
        RxRing::new(&container, ENTRIES, BUFFER, LONGEST).unwrap()
    }

    /// A card that fills buffers as a real one does.
    struct Card {
        head: u16,
        tail: u16,
    }

    impl Card {
        fn new(ring: &RxRing) -> Self {
            Self {
                head: 0,
                tail: ring.tail(),
            }
        }

        fn free(&self) -> usize {
            usize::from(self.tail.wrapping_sub(self.head) & (ENTRIES - 1))
        }

        fn give(&mut self, ring: &RxRing, frame: &[u8]) {
            let parts = frame.chunks(BUFFER).count();
            for (n, part) in frame.chunks(BUFFER).enumerate() {
                assert_ne!(self.head, self.tail, "the caller looked for room");
                let dma = ring.memory.dma();
                let at = usize::from(self.head) * descriptor::SIZE;
                let address = dma.load_u64(at, Ordering::Relaxed);
                dma.write((address - dma.iova()) as usize, part);
                let mut status = RxStatus::DD;
                if n + 1 == parts {
                    status |= RxStatus::EOP;
                }
                let [low, high] = RxWriteBack::new(part.len() as u16, status).raw();
                dma.store_u64(at, low, Ordering::Relaxed);
                dma.store_u64(at + descriptor::STATUS_WORD, high, Ordering::Release);
                self.head = (self.head + 1) & (ENTRIES - 1);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Frames of any number of buffers arrive whole and in order, and those too long do not.
        #[test]
        fn frames_arrive_in_order(
            frames in proptest::collection::vec((1_usize..3600, 0_usize..4), 1..100),
        ) {
            let mut ring = ring();
            let mut card = Card::new(&ring);
            let mut expected = Vec::new();
            let mut arrived = Vec::new();
            for (n, (len, takes)) in frames.into_iter().enumerate() {
                let frame = vec![n as u8; len];
                if card.free() >= len.div_ceil(BUFFER) {
                    card.give(&ring, &frame);
                    if (14..=LONGEST).contains(&len) {
                        expected.push(frame);
                    }
                }
                for _ in 0..takes {
                    ring.take(&mut |frame, _| arrived.push(frame.to_vec()));
                    card.tail = ring.tail();
                }
            }
            while ring.take(&mut |frame, _| arrived.push(frame.to_vec())) != Taken::Nothing {}
            prop_assert_eq!(ring.stats().packets, arrived.len() as u64);
            prop_assert_eq!(arrived, expected);
        }

        /// A card that writes anything into its descriptors makes no panic, no read outside a
        /// buffer, and no frame beyond the longest allowed.
        #[test]
        fn lies_do_no_harm(words in proptest::collection::vec((0_usize..16, any::<u64>()), 1..300)) {
            let mut ring = ring();
            for (place, word) in words {
                ring.memory.dma().store_u64(place * 8, word, Ordering::Relaxed);
                ring.take(&mut |frame, _| assert!((14..=LONGEST).contains(&frame.len())));
                prop_assert!(ring.tail() < ENTRIES);
            }
        }
    }

    fn lie(ring: &RxRing, index: usize, length: u16, status: RxStatus) {
        let [_, high] = RxWriteBack::new(length, status).raw();
        let at = index * descriptor::SIZE + descriptor::STATUS_WORD;
        ring.memory.dma().store_u64(at, high, Ordering::Release);
    }

    #[test]
    fn lengths_beyond_the_buffer_are_counted_and_dropped() {
        let mut ring = ring();
        let none = &mut |_: &[u8], _| panic!("no frame");
        let whole = RxStatus::DD | RxStatus::EOP;
        lie(&ring, 0, BUFFER as u16 + 1, whole);
        lie(&ring, 1, u16::MAX, whole);
        lie(&ring, 2, 0, whole);
        lie(&ring, 3, 13, whole);
        lie(&ring, 4, 64, whole | RxStatus::RXE);
        for _ in 0..5 {
            assert_eq!(ring.take(none), Taken::Other);
        }
        assert_eq!(ring.take(none), Taken::Nothing);
        let stats = ring.stats();
        assert_eq!(
            (stats.length_errors, stats.short_errors, stats.errors),
            (3, 1, 1)
        );
    }

    #[test]
    fn a_chain_without_end_is_dropped_once_and_the_next_frame_arrives() {
        let mut ring = ring();
        for index in 0..5 {
            lie(&ring, index, BUFFER as u16, RxStatus::DD);
        }
        lie(&ring, 5, 64, RxStatus::DD | RxStatus::EOP);
        lie(&ring, 6, 64, RxStatus::DD | RxStatus::EOP);
        let mut frames = 0;
        while ring.take(&mut |_, _| frames += 1) != Taken::Nothing {}
        assert_eq!(frames, 1);
        assert_eq!(ring.stats().over_errors, 1);
    }
}
