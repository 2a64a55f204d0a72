//! The memory behind a window: which a device may have, and how the kernel finds its pages.
//!
//! The kernel wants an address of this process when a window is opened. It holds the pages from then
//! on, and asks for the address no more: only a device without an I/O MMU of its own (a mediated one)
//! would have it do so, and none is opened here. So the memory is mapped while the kernel looks, and
//! a window costs this process neither a descriptor nor a mapping, whoever asks for it and however
//! many there are. Nobody ever touches the mapping.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use vfio_user::device::DmaAccess;

use super::sys::Mapped;
use crate::function::FunctionError;
use crate::memory::{FileKind, Inspection, MapAccess, MemoryError};

/// Part of a file, to be opened to devices.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    file: BorrowedFd<'a>,
    inspection: Inspection,
    offset: u64,
    size: usize,
    access: DmaAccess,
}

fn mode(access: DmaAccess) -> MapAccess {
    if access.contains(DmaAccess::WRITE) {
        MapAccess::ReadWrite
    } else {
        MapAccess::ReadOnly
    }
}

const NO_MEMORY: &str = "a device reaches memory files only, and this is another; give it memory of \
                         memfd_create, of tmpfs or of hugetlbfs";

/// Why a file is no memory for a device: the answer, and what would be.
///
/// The rule is that of [`crate::address_space`] for what it maps. Pages of a file that another process
/// serves would hold the caller up in the kernel for as long as that process likes. A file that
/// shrinks would do this process no harm, as nobody touches the mapping here; but the device would
/// be left with pages that are no longer those of the file, and nobody would notice.
fn unfit(
    inspection: &Inspection,
    offset: u64,
    size: u64,
    mode: MapAccess,
) -> (Errno, &'static str) {
    if !matches!(inspection.kind, FileKind::Tmpfs | FileKind::Hugetlbfs) {
        return (Errno::EINVAL, NO_MEMORY);
    }
    if !inspection.permits(mode) {
        return (
            Errno::EACCES,
            "the file is not open for the access that the window has, or is sealed against it; open \
             it for reading, and for a device that writes also for writing",
        );
    }
    if offset
        .checked_add(size)
        .is_none_or(|end| end > inspection.size)
    {
        return (
            Errno::EINVAL,
            "the window reaches beyond the end of its file; make the file larger first",
        );
    }
    (
        Errno::EINVAL,
        "the file can shrink, which would take the window's pages out of it unseen; seal it with \
         F_SEAL_SHRINK, as hypervisors do with memory of memfd_create",
    )
}

impl<'a> Lent<'a> {
    /// Look at a file, which for one of somebody else's may take for ever: under no lock.
    pub(super) fn of(
        file: BorrowedFd<'a>,
        offset: u64,
        size: u64,
        access: DmaAccess,
    ) -> Result<Self, FunctionError> {
        let operation = "DMA_MAP";
        let refused = |errno| FunctionError::Refused { operation, errno };
        // First of all, as memory files alone know seals: nobody's file server is asked anything, who might
        // never answer.
        if fcntl(file, FcntlArg::F_GET_SEALS).is_err() {
            return Err(FunctionError::Memory {
                operation,
                errno: Errno::EINVAL,
                mend: NO_MEMORY,
            });
        }
        let inspection = Inspection::of(file).map_err(|error| match error {
            MemoryError::Inspect(errno) => refused(errno),
            _ => refused(Errno::EINVAL),
        })?;
        if !inspection.can_map(offset, size, mode(access)) {
            let (errno, mend) = unfit(&inspection, offset, size, mode(access));
            return Err(FunctionError::Memory {
                operation,
                errno,
                mend,
            });
        }
        Ok(Self {
            file,
            inspection,
            offset,
            size: usize::try_from(size).map_err(|_| refused(Errno::EINVAL))?,
            access,
        })
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn access(&self) -> DmaAccess {
        self.access
    }

    /// Device and inode of the file, and where in it the window begins.
    pub(super) fn place(&self) -> (u64, u64, u64) {
        let Inspection { device, inode, .. } = self.inspection;
        (device, inode, self.offset)
    }

    /// What is to be mapped for it, in whole pages of the file: where in the file that begins, its
    /// length, and how much of it lies before the window.
    fn span(&self) -> Option<(u64, usize, usize)> {
        let page = self.inspection.page_size.max(1);
        let first = self.offset - self.offset % page;
        let skip = self.offset - first;
        let length = skip
            .checked_add(self.size as u64)?
            .checked_next_multiple_of(page)?;
        Some((first, length.try_into().ok()?, skip.try_into().ok()?))
    }

    /// Map it for as long as the kernel looks.
    ///
    /// # Errors
    /// `EOVERFLOW`: this process has no room for the mapping.
    pub(super) fn mapped(&self) -> Result<Mapped, Errno> {
        let (first, length, skip) = self.span().ok_or(Errno::EINVAL)?;
        let mode = mode(self.access);
        Mapped::new(self.file, (first, length), (skip, self.size), mode).map_err(|errno| {
            match errno {
                // The kernel's own ENOMEM is about what may be locked.
                Errno::ENOMEM => Errno::EOVERFLOW,
                errno => errno,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::unistd::ftruncate;

    use super::*;
    use crate::memory::{PAGE_SIZE, SharedMemory};

    const RW: DmaAccess = DmaAccess::READ.union(DmaAccess::WRITE);

    fn unsealed(size: i64) -> OwnedFd {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create("window", flags).expect("memfd");
        ftruncate(&file, size).expect("size");
        file
    }

    fn refusal(file: BorrowedFd<'_>, offset: u64, size: u64, access: DmaAccess) -> (Errno, String) {
        match Lent::of(file, offset, size, access) {
            Err(error @ FunctionError::Memory { errno, .. }) => (errno, error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// Mappings of this process of the memory file of that name.
    fn mappings(name: &str) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let name = format!("memfd:{name} ");
        maps.lines().filter(|line| line.contains(&name)).count()
    }

    #[test]
    fn a_file_is_refused_with_what_would_do_instead() {
        let file = unsealed(0x2000);
        let (errno, text) = refusal(file.as_fd(), 0, 0x1000, RW);
        assert_eq!(errno, Errno::EINVAL);
        assert!(text.contains("F_SEAL_SHRINK"), "{text}");
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("seal");
        Lent::of(file.as_fd(), 0, 0x1000, RW).expect("sealed");
        for (offset, size) in [(0x1000, 0x1001), (0x2000, 1), (u64::MAX, 1)] {
            let (errno, text) = refusal(file.as_fd(), offset, size, RW);
            assert_eq!(errno, Errno::EINVAL);
            assert!(text.contains("beyond the end"), "{text}");
        }
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).expect("seal");
        let (errno, text) = refusal(file.as_fd(), 0, 0x1000, RW);
        assert_eq!(errno, Errno::EACCES);
        assert!(text.contains("for writing"), "{text}");
        Lent::of(file.as_fd(), 0, 0x1000, DmaAccess::READ).expect("read alone");

        let (pipe, _other) = nix::unistd::pipe().expect("pipe");
        let folder = std::fs::File::open("/proc/self").expect("folder");
        for other in [pipe.as_fd(), folder.as_fd()] {
            let (errno, text) = refusal(other, 0, 0x1000, DmaAccess::READ);
            assert_eq!(errno, Errno::EINVAL);
            assert!(text.contains("memfd_create"), "{text}");
        }
    }

    #[test]
    fn a_window_is_mapped_while_the_kernel_looks_and_no_longer() {
        let name = "lent-for-a-moment";
        let memory = SharedMemory::create_sealed(name, 0x4000).expect("memory");
        let before = mappings(name);
        let lent = Lent::of(memory.fd(), 0x1000, 0x2000, RW).expect("a window");
        assert_eq!(mappings(name), before);
        let mapped = lent.mapped().expect("a mapping");
        assert_eq!(mapped.size(), 0x2000);
        assert_eq!(mappings(name), before + 1);
        drop(mapped);
        assert_eq!(mappings(name), before);
    }

    #[test]
    fn of_a_sparse_file_the_window_alone_is_mapped() {
        // 8 EiB less a page: no address space has room for it.
        let file = unsealed(i64::MAX - 0xFFF);
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("seal");
        let far = 1 << 62;
        let lent = Lent::of(file.as_fd(), far, 0x1000, RW).expect("a window");
        assert_eq!(lent.span(), Some((far, 0x1000, 0)));
        lent.mapped().expect("a mapping");
        let lent = Lent::of(file.as_fd(), 0, 1 << 62, RW).expect("a window");
        assert_eq!(lent.mapped().map(drop), Err(Errno::EOVERFLOW));
    }

    #[test]
    fn whole_pages_of_the_file_are_mapped() {
        let memory = SharedMemory::create_sealed("window", 4 * PAGE_SIZE).expect("memory");
        let inspection = Inspection::of(memory.fd()).expect("inspection");
        let huge = 2 << 20;
        let span = |page_size, offset, size| {
            let inspection = Inspection {
                page_size,
                ..inspection
            };
            let file = memory.fd();
            let access = RW;
            let lent = Lent {
                file,
                inspection,
                offset,
                size,
                access,
            };
            lent.span()
        };
        assert_eq!(span(huge, 0x1000, 0x1000), Some((0, 2 << 20, 0x1000)));
        let over = (huge, 4 << 20, 0x1F_F000);
        assert_eq!(span(huge, 2 * huge - 0x1000, 0x2000), Some(over));
        assert_eq!(span(4096, 0x1800, 0x1000), Some((0x1000, 0x2000, 0x800)));
        assert_eq!(span(4096, u64::MAX, usize::MAX), None);
    }
}
