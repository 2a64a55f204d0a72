//! Memory that somebody else can write: mapped files, accessed by copy and by atomics only.
//!
//! [`SharedMemory`] never hands out a reference or a pointer. Its accessors panic on a range that
//! lies outside, as slice indexing does; ranges that a peer chose are checked against
//! [`SharedMemory::len`] first. Integers are little-endian, as devices and PCI have them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC,
    XFS_SUPER_MAGIC, fstatfs,
};
use nix::unistd::ftruncate;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// Bytes of a page: the granularity of mappings and DMA windows.
pub const PAGE_SIZE: usize = 4096;

/// Why memory could not be created, inspected or mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Nothing to map.
    #[error("memory of 0 bytes cannot be mapped")]
    Empty,
    /// The size or offset is not one that a file can have.
    #[error("{size} bytes at {offset} lie beyond what a file can hold")]
    TooLarge {
        /// Offset in the file.
        offset: u64,
        /// Bytes.
        size: usize,
    },
    /// `memfd_create` failed.
    #[error("no memory file could be created ({0}); is the descriptor limit reached?")]
    Create(#[source] Errno),
    /// The new file could not be given its size.
    #[error("a memory file could not be sized to {size} bytes ({errno})")]
    Resize {
        /// Bytes wanted.
        size: usize,
        /// Why not.
        #[source]
        errno: Errno,
    },
    /// The new file could not be sealed.
    #[error("a memory file could not be sealed against resizing ({0})")]
    Seal(#[source] Errno),
    /// The descriptor could not be inspected.
    #[error("the descriptor could not be inspected ({0})")]
    Inspect(#[source] Errno),
    /// The file could shrink under the mapping, which would kill this process.
    #[error(
        "the file is not a memory file sealed against shrinking, large enough and open for the access"
    )]
    NotMappable,
    /// `mmap` failed.
    #[error("{size} bytes could not be mapped")]
    Map {
        /// Bytes wanted.
        size: usize,
        /// Why not.
        #[source]
        source: MmapRegionError,
    },
}

/// How a mapping is used by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MapAccess {
    /// Loads only.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// What lies behind a descriptor, as far as it decides how the file may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Shared memory: memfd or tmpfs.
    Tmpfs,
    /// Huge pages.
    Hugetlbfs,
    /// A regular file on a local file system, whose I/O no other process can hold up.
    Local,
    /// Everything else: network and user-space file systems (and what may lie on top of one),
    /// devices, pipes. Its I/O may never end.
    Other,
}

/// A descriptor that somebody else sent, inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// What kind of file it is.
    pub kind: FileKind,
    /// Device number of the file system.
    pub device: u64,
    /// Inode in it.
    pub inode: u64,
    /// Bytes in the file at this moment.
    pub size: u64,
    /// Bytes of its pages, which a mapping takes whole: more than [`PAGE_SIZE`] where they are huge.
    pub page_size: u64,
    /// The file can never become smaller.
    pub shrink_sealed: bool,
    /// The file can never become larger.
    pub grow_sealed: bool,
    /// Stores into the file are sealed off.
    pub write_sealed: bool,
    /// The descriptor is open for reading.
    pub readable: bool,
    /// The descriptor is open for writing.
    pub writable: bool,
}

impl Inspection {
    /// Inspect `fd`.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self, MemoryError> {
        let stat = fstat(fd).map_err(MemoryError::Inspect)?;
        let regular = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        let kind = if regular == SFlag::S_IFREG {
            Self::kind_of(fstatfs(fd).map_err(MemoryError::Inspect)?.filesystem_type())
        } else {
            FileKind::Other
        };
        let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(MemoryError::Inspect)?;
        let flags = OFlag::from_bits_retain(flags);
        // A path descriptor reports the mode of a readable one, but can be neither read nor mapped.
        let mode = (!flags.contains(OFlag::O_PATH)).then_some(flags & OFlag::O_ACCMODE);
        // Files that know no seals answer EINVAL.
        let seals =
            fcntl(fd, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_retain);
        Ok(Self {
            kind,
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            page_size: match kind {
                FileKind::Hugetlbfs => u64::try_from(stat.st_blksize).unwrap_or(0),
                _ => PAGE_SIZE as u64,
            },
            shrink_sealed: seals.contains(SealFlag::F_SEAL_SHRINK),
            grow_sealed: seals.contains(SealFlag::F_SEAL_GROW),
            write_sealed: seals.contains(SealFlag::F_SEAL_WRITE)
                || seals.bits() & libc::F_SEAL_FUTURE_WRITE != 0,
            readable: mode == Some(OFlag::O_RDONLY) || mode == Some(OFlag::O_RDWR),
            writable: mode == Some(OFlag::O_WRONLY) || mode == Some(OFlag::O_RDWR),
        })
    }

    fn kind_of(filesystem: FsType) -> FileKind {
        match filesystem {
            TMPFS_MAGIC => FileKind::Tmpfs,
            HUGETLBFS_MAGIC => FileKind::Hugetlbfs,
            EXT4_SUPER_MAGIC | XFS_SUPER_MAGIC | BTRFS_SUPER_MAGIC | F2FS_SUPER_MAGIC => {
                FileKind::Local
            }
            _ => FileKind::Other,
        }
    }

    /// Whether the descriptor permits `access` at all.
    pub fn permits(&self, access: MapAccess) -> bool {
        match access {
            MapAccess::ReadOnly => self.readable,
            MapAccess::ReadWrite => self.readable && self.writable && !self.write_sealed,
        }
    }

    /// Whether a mapping of `offset .. offset + size` can be used for `access` without the risk
    /// that the file is truncated under it, which would be a fatal signal here. What a seal cannot
    /// prevent: that a page which a peer has punched out cannot be had again, because the huge page
    /// pool or a strict commit limit (`vm.overcommit_memory` 2) is used up.
    pub fn can_map(&self, offset: u64, size: u64, access: MapAccess) -> bool {
        matches!(self.kind, FileKind::Tmpfs | FileKind::Hugetlbfs)
            && self.shrink_sealed
            && self.permits(access)
            && offset.checked_add(size).is_some_and(|end| end <= self.size)
    }
}

/// A shared mapping of a file.
#[derive(Debug)]
pub struct SharedMemory {
    region: MmapRegion<()>,
    access: MapAccess,
}

impl SharedMemory {
    /// New zeroed memory of `size` bytes in a file that can neither shrink nor grow, so that a peer
    /// may map it without fear and nobody can hide anything behind it. `name` shows in
    /// `/proc/PID/maps`.
    pub fn create_sealed(name: &str, size: usize) -> Result<Self, MemoryError> {
        if size == 0 {
            return Err(MemoryError::Empty);
        }
        let length = i64::try_from(size).map_err(|_| MemoryError::TooLarge { offset: 0, size })?;
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(MemoryError::Create)?;
        ftruncate(&fd, length).map_err(|errno| MemoryError::Resize { size, errno })?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(MemoryError::Seal)?;
        Self::map_unchecked(fd, 0, size, MapAccess::ReadWrite, false)
    }

    /// Map `offset .. offset + size` of a file that came from elsewhere. Refused unless the file
    /// can never shrink ([`Inspection::can_map`]).
    pub fn map(
        file: OwnedFd,
        offset: u64,
        size: usize,
        access: MapAccess,
    ) -> Result<Self, MemoryError> {
        let inspection = Inspection::of(file.as_fd())?;
        Self::map_inspected(file, &inspection, offset, size, access)
    }

    /// As [`Self::map`], with the inspection done.
    pub(crate) fn map_inspected(
        file: OwnedFd,
        inspection: &Inspection,
        offset: u64,
        size: usize,
        access: MapAccess,
    ) -> Result<Self, MemoryError> {
        if size == 0 {
            return Err(MemoryError::Empty);
        }
        if !inspection.can_map(offset, size as u64, access) {
            return Err(MemoryError::NotMappable);
        }
        // Huge pages are reserved when mapped: without a reservation a later touch could fail
        // fatally.
        let reserve = inspection.kind == FileKind::Hugetlbfs;
        Self::map_unchecked(file, offset, size, access, reserve)
    }

    fn map_unchecked(
        file: OwnedFd,
        offset: u64,
        size: usize,
        access: MapAccess,
        reserve: bool,
    ) -> Result<Self, MemoryError> {
        let mut protection = libc::PROT_READ;
        if access == MapAccess::ReadWrite {
            protection |= libc::PROT_WRITE;
        }
        let mut flags = libc::MAP_SHARED;
        if !reserve {
            flags |= libc::MAP_NORESERVE;
        }
        let file = FileOffset::new(File::from(file), offset);
        let region = MmapRegion::build(Some(file), size, protection, flags)
            .map_err(|source| MemoryError::Map { size, source })?;
        Ok(Self { region, access })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.region.size()
    }

    /// Whether nothing is mapped; never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether stores are possible.
    pub fn is_writable(&self) -> bool {
        self.access == MapAccess::ReadWrite
    }

    /// The file, to be sent to a peer.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file_offset().file().as_fd()
    }

    /// Where in the file the mapping begins.
    pub fn fd_offset(&self) -> u64 {
        self.file_offset().start()
    }

    fn file_offset(&self) -> &FileOffset {
        self.region
            .file_offset()
            .expect("every mapping here is of a file")
    }

    /// The bytes `offset .. offset + len`, if they all exist.
    #[inline]
    pub(crate) fn slice(&self, offset: usize, len: usize) -> Option<VolatileSlice<'_>> {
        self.region.get_slice(offset, len).ok()
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> VolatileSlice<'_> {
        match self.slice(offset, len) {
            Some(slice) => slice,
            None => self.out_of_range(offset, len),
        }
    }

    #[inline]
    fn at_mut(&self, offset: usize, len: usize) -> VolatileSlice<'_> {
        assert!(
            self.is_writable(),
            "store into memory that is mapped read-only"
        );
        self.at(offset, len)
    }

    #[cold]
    fn out_of_range(&self, offset: usize, len: usize) -> ! {
        panic!(
            "{len} bytes at {offset:#x} of shared memory that has {:#x}",
            self.len()
        )
    }

    /// Copy out of the memory.
    ///
    /// # Panics
    /// If the range lies outside.
    #[inline]
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        self.at(offset, data.len()).copy_to(data);
    }

    /// Copy into the memory.
    ///
    /// # Panics
    /// If the range lies outside, or the mapping is read-only.
    #[inline]
    pub fn write(&self, offset: usize, data: &[u8]) {
        self.at_mut(offset, data.len()).copy_from(data);
    }

    /// Copy straight into other shared memory (or elsewhere in the same); the ranges may overlap.
    ///
    /// # Panics
    /// If a range lies outside, or `to` is read-only.
    #[inline]
    pub fn copy_to(&self, offset: usize, to: &SharedMemory, to_offset: usize, len: usize) {
        self.at(offset, len)
            .copy_to_volatile_slice(to.at_mut(to_offset, len));
    }

    /// Clear a range.
    ///
    /// # Panics
    /// If the range lies outside, or the mapping is read-only.
    pub fn zero_range(&self, offset: usize, len: usize) {
        static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let target = self.at_mut(offset, len);
        for at in (0..len).step_by(PAGE_SIZE) {
            let part = target
                .subslice(at, PAGE_SIZE.min(len - at))
                .expect("inside the range");
            part.copy_from(&ZEROS[..part.len()]);
        }
    }

    /// Clear all of it.
    ///
    /// # Panics
    /// If the mapping is read-only.
    pub fn zero(&self) {
        self.zero_range(0, self.len());
    }
}

macro_rules! atomics {
    ($($atomic:ty, $int:ty, $load:ident, $store:ident;)*) => {
        impl SharedMemory {
            $(
                /// Atomic load of a little-endian integer.
                ///
                /// # Panics
                /// If it lies outside or is not aligned to its size, or `order` is not one for a
                /// load.
                #[inline]
                pub fn $load(&self, offset: usize, order: Ordering) -> $int {
                    match self.region.get_atomic_ref::<$atomic>(offset) {
                        Ok(cell) => <$int>::from_le(cell.load(order)),
                        Err(_) => self.out_of_range(offset, size_of::<$int>()),
                    }
                }

                /// Atomic store of a little-endian integer.
                ///
                /// # Panics
                /// If it lies outside or is not aligned to its size, the mapping is read-only, or
                /// `order` is not one for a store.
                #[inline]
                pub fn $store(&self, offset: usize, value: $int, order: Ordering) {
                    assert!(self.is_writable(), "store into memory that is mapped read-only");
                    match self.region.get_atomic_ref::<$atomic>(offset) {
                        Ok(cell) => cell.store(value.to_le(), order),
                        Err(_) => self.out_of_range(offset, size_of::<$int>()),
                    }
                }
            )*
        }
    };
}

atomics! {
    AtomicU16, u16, load_u16, store_u16;
    AtomicU32, u32, load_u32, store_u32;
    AtomicU64, u64, load_u64, store_u64;
}

#[cfg(test)]
mod tests;
