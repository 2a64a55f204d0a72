//! Polls made one line: the same read with the same result, again and again.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, What};
use super::record::AccessRecord;

/// A poll is told at least this often, so that whoever follows the trace sees it.
const LONGEST: Duration = Duration::from_secs(1);

/// Holds one read back as long as nothing else happens.
#[derive(Default)]
pub(super) struct Repeats {
    held: Option<Held>,
}

struct Held {
    prefix: Arc<str>,
    record: AccessRecord,
    count: u64,
    until: Duration,
}

impl Held {
    fn entry(self) -> Entry {
        let mut entry = self.record.entry(&self.prefix);
        if let What::Access(access) = &mut entry.what
            && self.count > 1
        {
            access.repeats = self.count;
            access.until = Some(self.until);
        }
        entry
    }
}

impl Repeats {
    /// Take an access. What is to be written before it, if anything, and it, unless it is held back.
    pub(super) fn push(&mut self, prefix: &Arc<str>, record: AccessRecord) -> [Option<Entry>; 2] {
        if let Some(held) = &mut self.held
            && held.prefix == *prefix
            && held.record.repeats(&record)
            && record.at.saturating_sub(held.record.at) < LONGEST
        {
            held.count += 1;
            held.until = record.at;
            return [None, None];
        }
        let before = self.flush();
        if record.write {
            return [before, Some(record.entry(prefix))];
        }
        self.held = Some(Held {
            prefix: Arc::clone(prefix),
            record,
            count: 1,
            until: record.at,
        });
        [before, None]
    }

    /// What is held back.
    pub(super) fn flush(&mut self) -> Option<Entry> {
        self.held.take().map(Held::entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use igb::FunctionId;
    use igb_model::CardRegion;
    use proptest::prelude::*;

    fn record(n: u64, write: bool, value: u8) -> AccessRecord {
        let at = Duration::from_millis(n);
        let place = (CardRegion::Config, 0);
        AccessRecord::new(at, FunctionId::PF, write, place, &[value])
    }

    proptest! {
        /// Counts add up to what was done, writes all stand alone, and what is said about the order
        /// of values is true.
        #[test]
        fn nothing_is_lost(accesses in proptest::collection::vec((any::<bool>(), 0_u8..2), 0..100)) {
            let prefix: Arc<str> = "".into();
            let mut repeats = Repeats::default();
            let mut written = Vec::new();
            for (n, (write, value)) in accesses.iter().enumerate() {
                let entries = repeats.push(&prefix, record(n as u64, *write, *value));
                written.extend(entries.into_iter().flatten());
            }
            written.extend(repeats.flush());
            let mut told = Vec::new();
            for entry in written {
                let What::Access(access) = entry.what else { panic!("an access") };
                prop_assert_eq!(access.until.is_some(), access.repeats > 1);
                for _ in 0..access.repeats {
                    told.push((access.write, access.value));
                }
            }
            let done: Vec<_> = accesses
                .iter()
                .map(|(write, value)| (*write, Some(u64::from(*value))))
                .collect();
            prop_assert_eq!(told, done);
        }
    }

    #[test]
    fn a_long_poll_is_told_now_and_then() {
        let prefix: Arc<str> = "".into();
        let mut repeats = Repeats::default();
        let told = (0..5000)
            .flat_map(|n| repeats.push(&prefix, record(n, false, 1)))
            .flatten()
            .count();
        assert_eq!(told, 4);
    }
}
