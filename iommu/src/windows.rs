//! Which DMA windows of a function are open.

use std::collections::BTreeMap;

use nix::errno::Errno;

/// Windows by first address; no two overlap.
#[derive(Debug, Default)]
pub struct Windows {
    /// Their bytes, none of which is 0.
    by_address: BTreeMap<u64, usize>,
    /// All of them may be as many as there are addresses.
    bytes: u128,
}

fn last(first: u64, size: usize) -> u64 {
    first + (size as u64 - 1)
}

impl Windows {
    /// Whether a window touches `first ..= last`.
    pub fn overlap(&self, first: u64, end: u64) -> bool {
        let below = self.by_address.range(..=end).next_back();
        below.is_some_and(|(&at, &size)| last(at, size) >= first)
    }

    /// Open one of `size` bytes, which are not 0 and [touch](Self::overlap) no other window.
    pub fn insert(&mut self, first: u64, size: usize) {
        self.by_address.insert(first, size);
        self.bytes += size as u128;
    }

    /// Close the one that begins at `first`, if there is one.
    pub fn remove(&mut self, first: u64) {
        if let Some(size) = self.by_address.remove(&first) {
            self.bytes -= size as u128;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Bytes in all windows.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(u64::MAX)
    }

    /// The windows inside `first ..= end`, each with its size.
    ///
    /// # Errors
    /// `EINVAL`: a window reaches over an end of the range.
    pub fn inside(&self, first: u64, end: u64) -> Result<Vec<(u64, usize)>, Errno> {
        let cut = |(&at, &size): (&u64, &usize)| at < first && last(at, size) >= first;
        if self.by_address.range(..first).next_back().is_some_and(cut) {
            return Err(Errno::EINVAL);
        }
        let inside: Vec<(u64, usize)> = self
            .by_address
            .range(first..=end)
            .map(|(&at, &size)| (at, size))
            .collect();
        match self.by_address.range(..=end).next_back() {
            Some((&at, &size)) if last(at, size) > end => Err(Errno::EINVAL),
            _ => Ok(inside),
        }
    }

    /// All windows, each with its size, lowest first.
    pub fn all(&self) -> Vec<(u64, usize)> {
        self.by_address
            .iter()
            .map(|(&at, &size)| (at, size))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Windows are as a list of them would be.
        #[test]
        fn windows_are_like_a_list(
            steps in prop::collection::vec((any::<bool>(), 0u64..40, 1usize..12), 0..80),
        ) {
            let mut windows = Windows::default();
            let mut list: Vec<(u64, usize)> = Vec::new();
            for (open, first, size) in steps {
                let end = last(first, size);
                let touches = |&(at, size): &(u64, usize)| at <= end && first <= last(at, size);
                let whole = |&(at, size): &(u64, usize)| first <= at && last(at, size) <= end;
                if open {
                    let overlap = list.iter().any(touches);
                    prop_assert_eq!(windows.overlap(first, end), overlap);
                    if !overlap {
                        windows.insert(first, size);
                        list.push((first, size));
                    }
                } else {
                    let cut = list.iter().any(|window| touches(window) && !whole(window));
                    let inside = windows.inside(first, end);
                    prop_assert_eq!(inside.is_err(), cut);
                    for (at, _) in inside.unwrap_or_default() {
                        windows.remove(at);
                    }
                    if !cut {
                        list.retain(|window| !whole(window));
                    }
                }
                list.sort_unstable();
                prop_assert_eq!(windows.all(), list.clone());
                let bytes: u64 = list.iter().map(|(_, size)| *size as u64).sum();
                prop_assert_eq!(windows.bytes(), bytes);
            }
        }
    }

    #[test]
    fn as_many_bytes_as_there_are_addresses_can_be_counted() {
        let mut windows = Windows::default();
        windows.insert(0, usize::MAX);
        windows.insert(u64::MAX, 1);
        assert_eq!(windows.bytes(), u64::MAX);
        windows.remove(0);
        assert_eq!(windows.bytes(), 1);
    }

    #[test]
    fn a_range_names_whole_windows_only() {
        let mut windows = Windows::default();
        for (first, size) in [(0x1000, 0x1000), (0x2000, 0x2000), (0x8000, 0x1000)] {
            assert!(!windows.overlap(first, last(first, size)));
            windows.insert(first, size);
        }
        assert!(windows.overlap(0x3FFF, 0x3FFF));
        assert!(windows.overlap(0, u64::MAX));
        assert!(!windows.overlap(0x4000, 0x7FFF));
        assert!(!windows.overlap(0, 0xFFF));

        assert_eq!(windows.inside(0x1000, 0x1FFF), Ok(vec![(0x1000, 0x1000)]));
        let both = vec![(0x1000, 0x1000), (0x2000, 0x2000)];
        assert_eq!(windows.inside(0, 0x7FFF), Ok(both));
        assert_eq!(
            windows.inside(0, 0x2FFF),
            Err(Errno::EINVAL),
            "cuts the last"
        );
        assert_eq!(
            windows.inside(0x3000, 0x9000),
            Err(Errno::EINVAL),
            "cuts the first"
        );
        assert_eq!(
            windows.inside(0x2800, 0x2FFF),
            Err(Errno::EINVAL),
            "lies in one"
        );
        assert_eq!(windows.inside(0x4000, 0x7FFF), Ok(vec![]));
        assert_eq!(windows.inside(0x9000, u64::MAX), Ok(vec![]));
        assert_eq!(windows.inside(0, u64::MAX).map(|all| all.len()), Ok(3));
        assert_eq!(windows.bytes(), 0x4000);
        windows.remove(0x2000);
        assert_eq!(windows.all(), [(0x1000, 0x1000), (0x8000, 0x1000)]);
    }
}
