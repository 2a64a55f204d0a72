//! Transmit and receive rings.
//!
//! A ring moves frames between slices and DMA memory, and knows no hardware beyond descriptors.
//! What the card may write (descriptors, buffers) is read once into a local and believed only within
//! bounds: positions come from the ring's own shadow, lengths are checked against the buffer. So a
//! card that lies can garble frames, and nothing else.
//!
//! Every descriptor has a buffer of its own for the life of the ring, so nothing a card does can
//! make two of them share one.

mod memory;
mod rx;
mod tx;

pub use memory::{MAX_ENTRIES, MIN_ENTRIES};
pub use rx::{RxRing, RxStats, Taken};
pub(crate) use tx::least_split;
pub use tx::{Full, TxRing, TxStats};
