//! The rate limit of a transmit queue: credit that grows with time and that frames use up.

/// Bytes that a limited queue may send at once after a pause: a few frames.
const LEAST_BURST: u64 = 16 * 1024;
/// Of a second: what a limited queue may save up.
const BURST_FRACTION: u64 = 1_000;
const NS_PER_SECOND: u128 = 1_000_000_000;

/// Credit of a queue, in bytes on the wire.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    bytes: i64,
    since: u64,
    /// The limit it was saved up under; 0 is none.
    rate: u64,
}

impl Credit {
    /// Whether a queue limited to `rate` bytes per second may send now; if not, when.
    pub(super) fn allows(&mut self, rate: Option<u64>, now: u64) -> Result<(), u64> {
        let Some(rate) = rate.map(|rate| rate.max(1)) else {
            *self = Self::default();
            return Ok(());
        };
        let most = (rate / BURST_FRACTION).max(LEAST_BURST);
        if self.rate != rate {
            *self = Self {
                bytes: most as i64,
                since: now,
                rate,
            };
        }
        let elapsed = now.saturating_sub(self.since);
        let earned = u128::from(rate) * u128::from(elapsed) / NS_PER_SECOND;
        if earned > 0 {
            let bytes = i128::from(self.bytes) + earned as i128;
            self.bytes = bytes.min(i128::from(most)) as i64;
            self.since = now;
        }
        if self.bytes > 0 {
            return Ok(());
        }
        let missing = u128::from(self.bytes.unsigned_abs()) + 1;
        let wait = (missing * NS_PER_SECOND).div_ceil(u128::from(rate));
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        Err(self.since.saturating_add(wait))
    }

    /// A frame of so many bytes was sent.
    pub(super) fn spend(&mut self, bytes: usize) {
        if self.rate != 0 {
            self.bytes -= bytes as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_queue_sends_at_its_rate() {
        let mut credit = Credit::default();
        let rate = Some(1_000_000);
        let (mut now, mut sent) = (0, 0u64);
        while now < 1_000_000_000 {
            match credit.allows(rate, now) {
                Ok(()) => {
                    credit.spend(1000);
                    sent += 1000;
                }
                Err(when) => {
                    assert!(when > now);
                    now = when;
                }
            }
        }
        assert!(
            (1_000_000..=1_000_000 + 2 * LEAST_BURST).contains(&sent),
            "{sent}"
        );
        assert_eq!(credit.allows(None, now), Ok(()));
    }
}
