//! What one VF may ask of the PF driver: a token bucket and a bound on outstanding requests. Pure:
//! time comes in as nanoseconds.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Limits of every VF, as the JSON file of `--limits` gives them. A key that is left out has its
/// default; an unknown key is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests per second that a VF may make in the long run. Default 1000.
    pub requests_per_second: u32,
    /// Requests that a VF may make at once after a pause. Default 256: a guest restores its VLAN
    /// and multicast filters in one go.
    pub burst: u32,
    /// Requests of one VF that may wait for the PF driver. Default 8.
    pub outstanding: u32,
    /// How long the PF driver has for a mailbox request, ms. Default 500; 900 at most, because
    /// igbvf stops using its mailbox for good after 1 s without an answer.
    pub mailbox_deadline_ms: u32,
    /// Slots on the virtual bus; VFs beyond are not offered. Default 64.
    pub slots: u16,
    /// Memory that the client of a VF of hardware may have in windows, MiB: it stays in place for as
    /// long, and counts against what this process may lock. Default 16384.
    pub dma_mib: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second: 1000,
            burst: 256,
            outstanding: 8,
            mailbox_deadline_ms: 500,
            slots: 64,
            dma_mib: 16384,
        }
    }
}

/// Why limits cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The file cannot be read.
    #[error("cannot read the limits file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not JSON, an unknown key, or a value of the wrong type.
    #[error("limits file {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Names the key and the line.
        #[source]
        source: serde_json::Error,
    },
    /// A value that makes no sense.
    #[error("limits file {path}: {key} is {value}, but must be {range}")]
    Range {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: u32,
        /// What it may be.
        range: &'static str,
    },
}

impl Limits {
    /// Read a limits file.
    pub fn from_file(path: &Path) -> Result<Self, LimitsError> {
        let text = fs::read_to_string(path).map_err(|source| LimitsError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parse the content of the limits file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, LimitsError> {
        let limits: Self = serde_json::from_str(text).map_err(|source| LimitsError::Parse {
            path: path.into(),
            source,
        })?;
        let checks = [
            (
                "requests_per_second",
                limits.requests_per_second,
                1..=1_000_000,
                "1 to 1000000",
            ),
            ("burst", limits.burst, 1..=1_000_000, "1 to 1000000"),
            ("outstanding", limits.outstanding, 1..=64, "1 to 64"),
            (
                "mailbox_deadline_ms",
                limits.mailbox_deadline_ms,
                1..=900,
                "1 to 900",
            ),
            ("slots", limits.slots.into(), 1..=256, "1 to 256"),
            ("dma_mib", limits.dma_mib, 1..=1 << 24, "1 to 16777216"),
        ];
        for (key, value, allowed, range) in checks {
            if !allowed.contains(&value) {
                return Err(LimitsError::Range {
                    path: path.into(),
                    key,
                    value,
                    range,
                });
            }
        }
        Ok(limits)
    }
}

/// What a token is worth, so that fractions of one are whole numbers.
const TOKEN: u64 = 1_000_000_000;

/// The tokens of one VF. Every request costs one, a malformed one too; when they are used up the VF
/// waits for the next, and is never shut out for good.
#[derive(Debug, Clone)]
pub struct Gate {
    rate: u64,
    capacity: u64,
    tokens: u64,
    filled_at: u64,
}

impl Gate {
    /// A full bucket.
    pub fn new(limits: &Limits, now: u64) -> Self {
        let capacity = u64::from(limits.burst) * TOKEN;
        Self {
            rate: limits.requests_per_second.into(),
            capacity,
            tokens: capacity,
            filled_at: now,
        }
    }

    /// Take a token at `now` (nanoseconds); false if there is none.
    pub fn admit(&mut self, now: u64) -> bool {
        // `rate` tokens a second are `rate` billionths of a token per nanosecond.
        let elapsed = now.saturating_sub(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        self.tokens = self
            .tokens
            .saturating_add(elapsed.saturating_mul(self.rate))
            .min(self.capacity);
        if self.tokens < TOKEN {
            return false;
        }
        self.tokens -= TOKEN;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn limits(requests_per_second: u32, burst: u32) -> Limits {
        Limits {
            requests_per_second,
            burst,
            ..Limits::default()
        }
    }

    proptest! {
        /// Over any stretch of time a VF gets at most its burst plus its rate, whatever it does.
        #[test]
        fn never_more_than_burst_plus_rate(
            rate in 1u32..10_000, burst in 1u32..1000,
            steps in prop::collection::vec((0u64..SECOND / 10, 0u32..50), 1..100),
        ) {
            let mut gate = Gate::new(&limits(rate, burst), 0);
            let (mut now, mut admitted) = (0, 0u64);
            for (pause, tries) in steps {
                now += pause;
                admitted += (0..tries).filter(|_| gate.admit(now)).count() as u64;
                let most = u64::from(burst) + now * u64::from(rate) / SECOND;
                prop_assert!(admitted <= most, "{admitted} > {most}");
            }
        }

        /// However it flooded before: a VF that waits 1/rate is served again.
        #[test]
        fn a_flood_never_silences_for_good(rate in 1u32..10_000, burst in 1u32..100, flood in 0u32..1000) {
            let mut gate = Gate::new(&limits(rate, burst), 0);
            for _ in 0..flood { gate.admit(0); }
            prop_assert!(gate.admit(SECOND / u64::from(rate) + 1));
        }

        #[test]
        fn time_running_backwards_or_far_ahead_is_harmless(times in prop::collection::vec(any::<u64>(), 1..50)) {
            let mut gate = Gate::new(&limits(10, 3), 0);
            for now in times { gate.admit(now); }
        }
    }

    #[test]
    fn the_file_may_give_any_subset() {
        let path = Path::new("limits.json");
        assert_eq!(Limits::parse("{}", path).unwrap(), Limits::default());
        assert_eq!(
            Limits::parse(r#"{"burst": 3}"#, path).unwrap(),
            limits(1000, 3)
        );
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        let error = |text| {
            Limits::parse(text, Path::new("limits.json"))
                .unwrap_err()
                .to_string()
        };
        let unknown = error(r#"{"brust": 3}"#);
        assert!(
            unknown.contains("limits.json") && unknown.contains("brust"),
            "{unknown}"
        );
        let range = error(r#"{"outstanding": 0}"#);
        assert!(
            range.contains("limits.json") && range.contains("outstanding is 0"),
            "{range}"
        );
        assert!(error(r#"{"mailbox_deadline_ms": 1000}"#).contains("mailbox_deadline_ms"));
        assert!(error(r#"{"burst": -1}"#).contains("limits.json"));
        assert!(error("").contains("limits.json"));
    }
}
