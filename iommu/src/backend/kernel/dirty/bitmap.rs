//! Bitmaps of dirty pages: what each is about, and how it is read.

use std::ops::RangeInclusive;

use super::{DirtyError, DirtyTracking};

/// Bytes of a bitmap that is about several windows.
const PIECE: u64 = 64 << 10;
/// Pages between two windows over which one bitmap goes, so that it is not mostly about nothing.
const HOLE: u64 = 4096;

/// First and last address of windows that follow one another; there is at least one.
fn extent(windows: &[(u64, usize)]) -> (u64, u64) {
    let first = windows.first().map_or(0, |(first, _)| *first);
    let last = windows
        .last()
        .map_or(0, |(first, size)| first + (*size as u64 - 1));
    (first, last)
}

fn pages((first, last): (u64, u64), page_size: u64) -> u64 {
    // Of a window that does not end with a page, that page counts.
    ((last - first) / page_size).saturating_add(1)
}

/// Bytes of a bitmap about these windows and what lies between them.
pub(super) fn bytes(windows: &[(u64, usize)], page_size: u64) -> u64 {
    pages(extent(windows), page_size).div_ceil(64) * 8
}

/// The windows, which are sorted, in runs about each of which the kernel is asked at once. A run begins
/// and ends with a window, as the kernel tells of whole ones only.
///
/// # Errors
/// [`DirtyError::WindowTooLarge`].
pub(super) fn pieces<'a>(
    windows: &'a [(u64, usize)],
    offered: &DirtyTracking,
) -> Result<Vec<&'a [(u64, usize)]>, DirtyError> {
    let page = offered.page_size;
    let hole = if offered.over_holes { HOLE * page } else { 0 };
    let together = PIECE.min(offered.most);
    let mut parts = Vec::new();
    let mut begin = 0;
    for (at, &(iova, size)) in windows.iter().enumerate() {
        if bytes(&windows[at..=at], page) > offered.most {
            return Err(DirtyError::WindowTooLarge {
                iova,
                size: size as u64,
                most: offered.most,
            });
        }
        if at > begin {
            let (_, before) = extent(&windows[begin..at]);
            let near = iova - before - 1 <= hole;
            if !near || bytes(&windows[begin..=at], page) > together {
                parts.push(&windows[begin..at]);
                begin = at;
            }
        }
    }
    if begin < windows.len() {
        parts.push(&windows[begin..]);
    }
    Ok(parts)
}

/// A bitmap of pages that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Piece {
    pub(in super::super) iova: u64,
    /// Bytes that it is about.
    pub(in super::super) size: u64,
    pub(in super::super) page_size: u64,
    /// The lowest bit of the first is the first page.
    pub(in super::super) words: Vec<u64>,
}

impl Piece {
    /// One that is clean, about the extent of windows.
    pub(super) fn about(windows: &[(u64, usize)], page_size: u64) -> Self {
        let (first, last) = extent(windows);
        let words = pages((first, last), page_size).div_ceil(64);
        Self {
            iova: first,
            size: (last - first).saturating_add(1),
            page_size,
            // One whose bytes are no usize has been refused.
            words: vec![0; words as usize],
        }
    }

    fn set(&self, page: u64) -> bool {
        let word = self.words.get((page / 64) as usize);
        word.is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// Clear the pages `from .. to`.
    fn clear(&mut self, from: u64, to: u64) {
        let (head, tail) = ((from / 64) as usize, (to / 64) as usize);
        for at in head..self.words.len().min(tail + 1) {
            let mut gone = u64::MAX;
            if at == head {
                gone &= u64::MAX << (from % 64);
            }
            if at == tail {
                gone &= !(u64::MAX << (to % 64));
            }
            self.words[at] &= !gone;
        }
    }

    /// Forget what lies in none of these windows, which are those that it was made for: between them
    /// may be some of other functions.
    pub(super) fn keep_only(&mut self, windows: &[(u64, usize)]) {
        let mut next = 0;
        for &(first, size) in windows {
            let from = (first - self.iova) / self.page_size;
            let to = from + pages((first, first + (size as u64 - 1)), self.page_size);
            self.clear(next, from);
            next = to;
        }
        self.clear(next, self.words.len() as u64 * 64);
    }

    /// Runs of dirty pages as addresses.
    fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        let end = self.words.len() as u64 * 64;
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.find(next, end, true)?;
            let last = self.find(first, end, false).unwrap_or(end) - 1;
            next = last + 1;
            let address = |page: u64| self.iova + page * self.page_size;
            Some(address(first)..=address(last) + (self.page_size - 1))
        })
    }

    /// The first page from `from` on that is dirty, or that is not.
    fn find(&self, from: u64, end: u64, dirty: bool) -> Option<u64> {
        let mut at = from;
        while at < end {
            let word = self.words[(at / 64) as usize];
            let sought = (if dirty { word } else { !word }) >> (at % 64);
            if sought != 0 {
                return Some(at + u64::from(sought.trailing_zeros()));
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

/// Pages that a function has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyPages {
    page_size: u64,
    /// By address.
    pieces: Vec<Piece>,
}

impl DirtyPages {
    pub(super) fn new(page_size: u64) -> Self {
        let pieces = Vec::new();
        Self { page_size, pieces }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        let words = self.pieces.iter().flat_map(|piece| &piece.words);
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether the page of an address is one of them.
    pub fn contains(&self, iova: u64) -> bool {
        let after = self.pieces.partition_point(|piece| piece.iova <= iova);
        let piece = after.checked_sub(1).map(|at| &self.pieces[at]);
        piece.is_some_and(|piece| piece.set((iova - piece.iova) / self.page_size))
    }

    /// Their addresses, lowest first; those that follow one another in one window are one range.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.pieces.iter().flat_map(Piece::ranges)
    }
}

#[cfg(test)]
mod tests;
