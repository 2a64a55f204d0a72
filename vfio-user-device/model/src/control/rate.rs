//! Transmit rate limits: RTTDQSEL selects a queue, RTTBCNRC holds link rate divided by the limit as a
//! fixed-point number (datasheet 7.2.2.5, 8.12).

use igb::{RTTBCNRC, Value};

/// Bytes per second of the link.
const LINK_BYTES_PER_SECOND: u64 = 1_000_000_000 / 8;

/// The limit in bytes per second; `None` without one.
pub(super) fn bytes_per_second(rate: Value<RTTBCNRC>) -> Option<u64> {
    if !rate.has(RTTBCNRC::RS_ENA) {
        return None;
    }
    let shift = RTTBCNRC::RF_DEC.width();
    let factor =
        u64::from(rate.get(RTTBCNRC::RF_INT)) << shift | u64::from(rate.get(RTTBCNRC::RF_DEC));
    // A factor below 1 would be faster than the link.
    Some((LINK_BYTES_PER_SECOND << shift) / factor.max(1 << shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_divides_the_link_rate() {
        let rate = |int, dec| {
            bytes_per_second(
                Value::from_raw(0)
                    .set(RTTBCNRC::RS_ENA)
                    .with(RTTBCNRC::RF_INT, int)
                    .with(RTTBCNRC::RF_DEC, dec),
            )
        };
        assert_eq!(rate(10, 0), Some(12_500_000));
        assert_eq!(rate(2, 1 << 13), Some(50_000_000));
        assert_eq!(rate(0, 0), Some(LINK_BYTES_PER_SECOND));
        assert_eq!(bytes_per_second(Value::from_raw(!(1 << 31))), None);
    }
}
