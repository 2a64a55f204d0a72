//! The DMA windows of a function.

use std::collections::BTreeMap;

use nix::errno::Errno;

/// Their bytes, none of which is 0, by first address; no two overlap.
#[derive(Debug, Default)]
pub(super) struct Windows(BTreeMap<u64, usize>);

fn last(first: u64, size: usize) -> u64 {
    first + (size as u64 - 1)
}

impl Windows {
    /// Whether a window touches `first ..= last`.
    pub(super) fn overlap(&self, first: u64, end: u64) -> bool {
        let below = self.0.range(..=end).next_back();
        below.is_some_and(|(&at, &size)| last(at, size) >= first)
    }

    pub(super) fn insert(&mut self, first: u64, size: usize) {
        self.0.insert(first, size);
    }

    pub(super) fn remove(&mut self, first: u64) {
        self.0.remove(&first);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes in all windows.
    pub(super) fn bytes(&self) -> u64 {
        self.0.values().map(|&size| size as u64).sum()
    }

    /// The windows inside `first ..= end`, each with its size.
    ///
    /// # Errors
    /// `EINVAL`: a window reaches over an end of the range.
    pub(super) fn inside(&self, first: u64, end: u64) -> Result<Vec<(u64, usize)>, Errno> {
        let cut = |(&at, &size): (&u64, &usize)| at < first && last(at, size) >= first;
        if self.0.range(..first).next_back().is_some_and(cut) {
            return Err(Errno::EINVAL);
        }
        let inside: Vec<(u64, usize)> = self
            .0
            .range(first..=end)
            .map(|(&at, &size)| (at, size))
            .collect();
        match self.0.range(..=end).next_back() {
            Some((&at, &size)) if last(at, size) > end => Err(Errno::EINVAL),
            _ => Ok(inside),
        }
    }

    pub(super) fn all(&self) -> Vec<(u64, usize)> {
        self.0.iter().map(|(&at, &size)| (at, size)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
