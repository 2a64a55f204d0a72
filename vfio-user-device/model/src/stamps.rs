//! The time stamps of 1588 frames (datasheet 7.9.4): one slot for each direction. That of received
//! frames is filled by the data path before software can see the frame, that of sent ones when control
//! hears of it; software's read of the high half frees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The two slots, shared between control and data path. Clones are the same slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stamps(Arc<Slots>);

#[derive(Debug, Default)]
struct Slots {
    tx: Slot,
    rx: Slot,
    /// RXSATRL and RXSATRH.
    attributes: [AtomicU32; 2],
}

/// One side fills it, and only control frees it.
#[derive(Debug, Default)]
struct Slot {
    full: AtomicBool,
    /// When, on the card's clock. It stays readable after the slot is free.
    when: AtomicU64,
}

impl Slot {
    fn fill(&self, when: u64) -> bool {
        let free = !self.full.load(Ordering::Acquire);
        if free {
            self.when.store(when, Ordering::Relaxed);
            self.full.store(true, Ordering::Release);
        }
        free
    }
}

/// Which slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Tx,
    Rx,
}

/// Who sent a received message and which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) source: [u8; 6],
    pub(crate) sequence: u16,
}

impl Stamps {
    fn slot(&self, side: Side) -> &Slot {
        match side {
            Side::Tx => &self.0.tx,
            Side::Rx => &self.0.rx,
        }
    }

    /// A frame that asked for a stamp left. `false`: the slot holds an earlier frame's.
    pub(crate) fn sent(&self, when: u64) -> bool {
        self.0.tx.fill(when)
    }

    /// A message that is to be stamped arrived. `false`: the slot holds an earlier one's.
    pub(crate) fn received(&self, when: u64, attributes: Attributes) -> bool {
        if self.is_full(Side::Rx) {
            return false;
        }
        let [a, b, c, d, e, f] = attributes.source;
        let high = u32::from(u16::from_be_bytes([a, b])) | u32::from(attributes.sequence) << 16;
        let low = u32::from_be_bytes([c, d, e, f]);
        for (word, value) in self.0.attributes.iter().zip([low, high]) {
            word.store(value, Ordering::Relaxed);
        }
        self.0.rx.fill(when)
    }

    /// Whether a slot holds a stamp that software has not read.
    pub(crate) fn is_full(&self, side: Side) -> bool {
        self.slot(side).full.load(Ordering::Acquire)
    }

    /// When the frame of the latest stamp passed.
    pub(crate) fn when(&self, side: Side) -> u64 {
        self.slot(side).when.load(Ordering::Relaxed)
    }

    /// RXSATRL (0) or RXSATRH (1).
    pub(crate) fn attribute(&self, half: usize) -> u32 {
        self.0
            .attributes
            .get(half)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The next frame may be stamped.
    pub(crate) fn free(&self, side: Side) {
        self.slot(side).full.store(false, Ordering::Release);
    }
}

impl PartialEq for Stamps {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Stamps {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_stays_until_it_is_read() {
        let stamps = Stamps::default();
        let data_path = stamps.clone();
        let message = |sequence| Attributes {
            source: [1, 2, 3, 4, 5, 6],
            sequence,
        };
        assert!(data_path.received(10, message(7)));
        assert!(
            !data_path.received(20, message(8)),
            "nobody has read the first"
        );
        assert_eq!(stamps.when(Side::Rx), 10);
        assert_eq!(stamps.attribute(1), 0x0007_0102);
        assert_eq!(stamps.attribute(0), 0x0304_0506);
        assert!(data_path.sent(15), "the other direction has its own");
        stamps.free(Side::Rx);
        assert!(data_path.received(30, message(9)));
        assert_eq!((stamps.when(Side::Rx), stamps.when(Side::Tx)), (30, 15));
    }
}
