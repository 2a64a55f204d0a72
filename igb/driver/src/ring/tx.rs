//! The transmit ring.

use std::collections::VecDeque;
use std::sync::Arc;

use igb::descriptor::{TxCommand, TxData, TxWriteBack};
use iommu::container::Container;

use super::memory::RingMemory;
use crate::DriverError;

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
}

/// Frames on their way to the card, one descriptor each.
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
    report_every: u16,
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
            memory: RingMemory::new(container, entries, max_frame)?,
            head: 0,
            clean: 0,
            reports: VecDeque::with_capacity(8),
            report_every: entries / 8,
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
        self.memory.buffer_size()
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
    /// If the frame is longer than [`Self::max_frame`].
    pub fn push(&mut self, frame: &[u8]) -> Result<(), Full> {
        assert!(frame.len() <= self.max_frame(), "the caller checks lengths");
        let next = self.memory.next(self.head);
        if next == self.clean {
            self.reclaim();
            if next == self.clean {
                self.stats.full += 1;
                return Err(Full);
            }
        }
        let mut command = TxCommand::EOP | TxCommand::IFCS;
        if self.head.is_multiple_of(self.report_every) {
            command |= TxCommand::RS;
            self.reports.push_back(self.head);
        }
        let length = frame.len() as u16;
        self.memory.fill(self.head, frame);
        let descriptor = TxData::new(self.memory.buffer_address(self.head), length, command)
            .with_payload_length(length.into());
        self.memory.put(self.head, descriptor.raw());
        self.head = next;
        self.stats.packets += 1;
        self.stats.bytes += u64::from(length);
        Ok(())
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

    /// A card that carries out, or lies about, what is on the ring.
    struct Card {
        head: u16,
    }

    impl Card {
        fn take(&mut self, ring: &TxRing) -> Option<Vec<u8>> {
            if self.head == ring.tail() {
                return None;
            }
            let memory = ring.memory.dma();
            let mut raw = [0; descriptor::SIZE];
            let at = usize::from(self.head) * descriptor::SIZE;
            memory.read(at, &mut raw);
            let TxDescriptor::Data(data) = TxDescriptor::parse(descriptor::from_bytes(&raw)) else {
                panic!("a data descriptor");
            };
            let mut frame = vec![0; data.length().into()];
            memory.read((data.address() - memory.iova()) as usize, &mut frame);
            assert_eq!(data.payload_length(), u32::from(data.length()));
            if data.command().contains(TxCommand::RS) {
                let done = TxWriteBack::DONE.raw()[1];
                memory.store_u64(at + descriptor::STATUS_WORD, done, Ordering::Release);
            }
            self.head = ring.memory.next(self.head);
            Some(frame)
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
            let mut card = Card { head: 0 };
            let mut expected = VecDeque::new();
            for (n, (send, len)) in steps.into_iter().enumerate() {
                if send {
                    let frame = vec![n as u8; len];
                    match ring.push(&frame) {
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
                let _ = ring.push(&[0; 64]);
                ring.reclaim();
                prop_assert!(ring.in_flight() < 16);
                prop_assert!(ring.reports.len() <= 8);
            }
        }
    }

    #[test]
    fn a_full_ring_gets_room_when_the_card_is_done() {
        let mut ring = ring(8);
        let mut card = Card { head: 0 };
        for _ in 0..7 {
            ring.push(&[0; 60]).unwrap();
        }
        assert_eq!(ring.push(&[0; 60]), Err(Full));
        while card.take(&ring).is_some() {}
        ring.push(&[0; 60]).unwrap();
        assert_eq!(ring.in_flight(), 1);
        assert_eq!(ring.stats().full, 1);
    }

    #[test]
    fn ring_sizes_are_checked() {
        let container = Container::new(ContainerOptions::default());
        for entries in [0, 4, 24, 8192] {
            assert!(TxRing::new(&container, entries, 2048).is_err(), "{entries}");
        }
    }
}
