//! Offsets at which drivers of the whole family read, although the 82576 has no register there.

use core::ops::RangeInclusive;

/// Of BAR0; all read 0, and nobody writes them.
pub const READ_ANYHOW: [RangeInclusive<u32>; 3] = [
    // Packet buffers of older cards: here they are RXPBS, SWPBS and TXPBS.
    0x1000..=0x1000,
    0x1008..=0x1008,
    // Values of flexible filters: here they are within FHFT.
    0x9800..=0x99F8,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    #[test]
    fn the_map_has_no_register_there() {
        for offset in READ_ANYHOW.into_iter().flatten().step_by(4) {
            assert!(decode(offset).is_none(), "{offset:#x}");
        }
    }
}
