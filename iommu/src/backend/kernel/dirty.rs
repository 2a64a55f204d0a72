//! Which pages the function has written, where the kernel offers to tell.
//!
//! Tracking belongs to the container or I/O address space, and one function of it at a time asks for
//! it; it asks about its own windows. A window that is closed takes what is known of it along, unless
//! it is closed by [`KernelVfio::dma_unmap_dirty`].

mod bitmap;

use std::sync::{Arc, MutexGuard, PoisonError};

use nix::errno::Errno;

pub use self::bitmap::DirtyPages;
pub(super) use self::bitmap::Piece;
use self::bitmap::pieces;
use super::KernelVfio;
use crate::iova::last_address;
use crate::windows::Windows;

/// Bytes of bitmaps that one answer may have: 8 TiB in pages of 4 KiB.
const MOST_AT_ONCE: u64 = 256 << 20;

/// What counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Every page of a window, each time it is asked for: a container does not see what a device does,
    /// and every page of a window is open to it.
    EveryMappedPage,
    /// The pages that the device wrote since the last time: the I/O MMU notes them.
    WrittenPages,
}

/// The dirty tracking that the kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyTracking {
    /// Bytes of a page, each of which is dirty or not as a whole.
    pub page_size: u64,
    /// What counts as written.
    pub granularity: Granularity,
    /// Bytes that one bitmap of the kernel's may have.
    pub(super) most: u64,
    /// A bitmap may be about addresses that are in no window.
    pub(super) over_holes: bool,
}

/// Why a step of dirty tracking was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// The kernel does not offer it.
    #[error(
        "the kernel offers no dirty tracking here; take every page of a window for written. \
         Containers have it since Linux 5.8, iommufd where every device's IOMMU notes what is written"
    )]
    NotOffered,
    /// Somebody asks already.
    #[error(
        "dirty pages are tracked already, for this function or one in the same container; stop that \
         first"
    )]
    AlreadyStarted,
    /// Nobody asked.
    #[error("dirty pages are not tracked for this function; start that first")]
    NotStarted,
    /// No bytes, or more than there are addresses.
    #[error("{size:#x} bytes at IOVA {iova:#x} are no range; name one of whole windows")]
    NoRange {
        /// First I/O virtual address.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// No window is there.
    #[error(
        "no window of this function lies in {size:#x} bytes at IOVA {iova:#x}; ask for windows that \
         are open"
    )]
    NoWindow {
        /// First I/O virtual address.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// A window reaches over an end of the range.
    #[error(
        "a window reaches over an end of {size:#x} bytes at IOVA {iova:#x}; ask for whole windows"
    )]
    PartOfWindow {
        /// First I/O virtual address.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// The kernel has no bitmap as large as the window needs.
    #[error(
        "the window of {size:#x} bytes at IOVA {iova:#x} needs a larger bitmap than the {most} bytes \
         that there may be; open its memory as several windows"
    )]
    WindowTooLarge {
        /// First I/O virtual address.
        iova: u64,
        /// Bytes.
        size: u64,
        /// Bytes of a bitmap at most.
        most: u64,
    },
    /// The answer would take too much memory.
    #[error(
        "the answer would take {bytes} bytes, and may have {most}; ask for fewer windows at a time"
    )]
    TooMuchAtOnce {
        /// Bytes of the bitmaps.
        bytes: u64,
        /// Bytes at most.
        most: u64,
    },
    /// The kernel did not start.
    #[error(
        "the kernel does not start to track dirty pages ({0}); it needs memory, 2 bits for each page \
         of a window: close windows, or take every page for written"
    )]
    Start(#[source] Errno),
    /// The kernel did not tell.
    #[error(
        "the kernel does not tell the dirty pages ({0}); what it told before it failed is lost, so \
         take every page of the range for written"
    )]
    Read(#[source] Errno),
    /// The kernel did not close a window.
    #[error(
        "the kernel does not close the window at IOVA {iova:#x} ({errno}); it and those above it are \
         still open, and those below it are closed: take every page of the range for written"
    )]
    Unmap {
        /// First I/O virtual address.
        iova: u64,
        /// Its answer.
        #[source]
        errno: Errno,
    },
    /// The kernel did not stop.
    #[error(
        "the kernel does not stop tracking dirty pages ({0}); release the function to have it stop"
    )]
    Stop(#[source] Errno),
}

impl KernelVfio {
    /// What the kernel offers.
    ///
    /// # Errors
    /// [`DirtyError::NotOffered`].
    pub fn dirty_tracking(&self) -> Result<DirtyTracking, DirtyError> {
        self.space.dirty_tracking().ok_or(DirtyError::NotOffered)
    }

    fn tracked(&self) -> MutexGuard<'_, Option<DirtyTracking>> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begin to track; windows that are opened later are tracked too.
    ///
    /// # Errors
    /// [`DirtyError::NotOffered`]; [`DirtyError::AlreadyStarted`]; [`DirtyError::WindowTooLarge`] for
    /// one that is open; [`DirtyError::Start`].
    pub fn start_dirty_tracking(&self) -> Result<DirtyTracking, DirtyError> {
        let mut tracked = self.tracked();
        if tracked.is_some() {
            return Err(DirtyError::AlreadyStarted);
        }
        let offered = self.dirty_tracking()?;
        let windows = self.windows();
        for window in windows.all() {
            pieces(&[window], &offered)?;
        }
        self.space.start_tracking().map_err(|errno| match errno {
            Errno::EALREADY => DirtyError::AlreadyStarted,
            errno => DirtyError::Start(errno),
        })?;
        *tracked = Some(offered);
        Ok(offered)
    }

    /// The windows inside a range, of which there are some.
    fn whole_windows(
        &self,
        windows: &Windows,
        iova: u64,
        size: u64,
    ) -> Result<Vec<(u64, usize)>, DirtyError> {
        let last = last_address(iova, size).ok_or(DirtyError::NoRange { iova, size })?;
        let inside = windows
            .inside(iova, last)
            .map_err(|_| DirtyError::PartOfWindow { iova, size })?;
        if inside.is_empty() {
            return Err(DirtyError::NoWindow { iova, size });
        }
        Ok(inside)
    }

    /// The pages of the windows in `iova .. iova + size` that were written since they were last asked
    /// for, or since tracking began; from now on they count as clean, where the kernel sees what is
    /// written at all ([`Granularity`]).
    ///
    /// # Errors
    /// [`DirtyError::NotStarted`]; [`DirtyError::NoRange`], [`DirtyError::NoWindow`] or
    /// [`DirtyError::PartOfWindow`] for a range that is not one of whole windows;
    /// [`DirtyError::WindowTooLarge`] or [`DirtyError::TooMuchAtOnce`] for one that is too large;
    /// [`DirtyError::Read`].
    pub fn dirty_pages(&self, iova: u64, size: u64) -> Result<DirtyPages, DirtyError> {
        let tracked = self.tracked();
        let offered = tracked.as_ref().ok_or(DirtyError::NotStarted)?;
        // Held until the kernel has answered: no window closes meanwhile.
        let windows = self.windows();
        let inside = self.whole_windows(&windows, iova, size)?;
        let mut pages = DirtyPages::new(offered.page_size);
        for part in affordable(&inside, offered)? {
            let mut piece = Piece::about(part, offered.page_size);
            self.space
                .dirty_bitmap(&mut piece)
                .map_err(DirtyError::Read)?;
            piece.keep_only(part);
            pages.push(piece);
        }
        Ok(pages)
    }

    /// Close every window inside `iova .. iova + size` as `dma_unmap` does, and tell the pages that
    /// were written up to that moment. Through iommufd the function must be at rest: there, what it
    /// writes between the telling and the closing is not told.
    ///
    /// # Errors
    /// As [`Self::dirty_pages`]; [`DirtyError::Unmap`].
    pub fn dma_unmap_dirty(&self, iova: u64, size: u64) -> Result<DirtyPages, DirtyError> {
        let tracked = self.tracked();
        let offered = tracked.as_ref().ok_or(DirtyError::NotStarted)?;
        let mut windows = self.windows();
        let inside = self.whole_windows(&windows, iova, size)?;
        affordable(&inside, offered)?;
        let mut pages = DirtyPages::new(offered.page_size);
        for window in &inside {
            let mut piece = Piece::about(std::slice::from_ref(window), offered.page_size);
            let (iova, size) = *window;
            self.space
                .unmap_dirty(iova, size, &mut piece)
                .map_err(|errno| DirtyError::Unmap { iova, errno })?;
            windows.remove(iova);
            piece.keep_only(std::slice::from_ref(window));
            pages.push(piece);
        }
        Ok(pages)
    }

    /// Track no longer; what was not asked for is forgotten.
    ///
    /// # Errors
    /// [`DirtyError::NotStarted`]; [`DirtyError::Stop`].
    pub fn stop_dirty_tracking(&self) -> Result<(), DirtyError> {
        let mut tracked = self.tracked();
        if tracked.is_none() {
            return Err(DirtyError::NotStarted);
        }
        self.space.stop_tracking().map_err(DirtyError::Stop)?;
        *tracked = None;
        Ok(())
    }

    /// A function that goes asks no more; with the last one all of the address space goes.
    pub(super) fn abandon_tracking(&self) {
        let asked = self.tracked().is_some();
        if asked
            && Arc::strong_count(&self.space) > 1
            && let Err(error) = self.stop_dirty_tracking()
        {
            log::warn!("functions beside one that went are still tracked: {error}");
        }
    }
}

/// The windows in the pieces in which they are asked for, if the answer is not too large.
fn affordable<'a>(
    windows: &'a [(u64, usize)],
    offered: &DirtyTracking,
) -> Result<Vec<&'a [(u64, usize)]>, DirtyError> {
    let parts = pieces(windows, offered)?;
    let bytes: u64 = parts
        .iter()
        .map(|part| bitmap::bytes(part, offered.page_size))
        .sum();
    if bytes > MOST_AT_ONCE {
        let most = MOST_AT_ONCE;
        return Err(DirtyError::TooMuchAtOnce { bytes, most });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_would_take_too_much_memory_is_refused_before_it_is_made() {
        let offered = DirtyTracking {
            page_size: 4096,
            granularity: Granularity::EveryMappedPage,
            most: MOST_AT_ONCE,
            over_holes: true,
        };
        let large: Vec<_> = (0..3_u64).map(|n| (n << 50, 4 << 40)).collect();
        assert_eq!(
            affordable(&large[..2], &offered).map(|all| all.len()).ok(),
            Some(2)
        );
        let text = affordable(&large, &offered)
            .expect_err("12 TiB")
            .to_string();
        assert!(text.contains("402653184"), "{text}");
        assert!(text.contains("fewer windows at a time"), "{text}");
    }

    #[test]
    fn an_error_says_what_to_do() {
        let (iova, size) = (0x1000, 0x2000);
        for (error, part) in [
            (DirtyError::NotOffered, "take every page"),
            (DirtyError::AlreadyStarted, "stop that first"),
            (DirtyError::NotStarted, "start that first"),
            (
                DirtyError::NoRange { iova, size },
                "name one of whole windows",
            ),
            (
                DirtyError::NoWindow { iova, size },
                "ask for windows that are open",
            ),
            (
                DirtyError::PartOfWindow { iova, size },
                "ask for whole windows",
            ),
            (DirtyError::Start(Errno::ENOMEM), "close windows"),
            (DirtyError::Read(Errno::EFAULT), "for written"),
            (
                DirtyError::Unmap {
                    iova,
                    errno: Errno::EINVAL,
                },
                "still open",
            ),
            (DirtyError::Stop(Errno::EINVAL), "release the function"),
        ] {
            let text = error.to_string();
            assert!(text.contains(part), "{text}");
        }
    }
}
