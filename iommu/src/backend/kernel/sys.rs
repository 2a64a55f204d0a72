//! The system calls of kernel VFIO that `vfio-ioctls` lacks, or does without telling why they failed.
//!
//! `vfio-ioctls` opens and checks the container and unmaps without a bitmap; its `VfioDevice` is not used: it takes
//! no VF token, reads and writes without reporting an error, and panics when the device has gone.
//! Numbers and layouts are those of `linux/vfio.h`.

use std::ffi::CStr;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use iommufd_bindings::iommufd;
use iommufd_ioctls::IommufdError;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use vfio_bindings::bindings::vfio as kernel;
use vfio_ioctls::{VfioContainer, VfioIommufd};
use vfio_user::device::DmaAccess;
use vm_memory::{MmapRegion, VolatileMemory};
use zerocopy::IntoBytes;

use super::address::VfToken;
use super::dirty::Piece;
use crate::memory::MapAccess;

/// Number of the first of them; none encodes a size.
const fn number(n: u32) -> libc::Ioctl {
    nix::request_code_none!(kernel::VFIO_TYPE, kernel::VFIO_BASE + n)
}

nix::ioctl_write_int_bad!(set_iommu, number(2));
nix::ioctl_read_bad!(group_get_status, number(3), kernel::vfio_group_status);
nix::ioctl_write_ptr_bad!(group_set_container, number(4), RawFd);
nix::ioctl_write_ptr_bad!(group_get_device_fd, number(6), libc::c_char);
nix::ioctl_readwrite_bad!(device_get_info, number(7), kernel::vfio_device_info);
nix::ioctl_readwrite_bad!(device_get_region_info, number(8), kernel::vfio_region_info);
nix::ioctl_readwrite_bad!(device_get_irq_info, number(9), kernel::vfio_irq_info);
nix::ioctl_write_ptr_bad!(device_set_irqs, number(10), kernel::vfio_irq_set);
nix::ioctl_none_bad!(device_reset, number(11));
nix::ioctl_readwrite_bad!(iommu_get_info, number(12), kernel::vfio_iommu_type1_info);
nix::ioctl_write_ptr_bad!(iommu_map_dma, number(13), kernel::vfio_iommu_type1_dma_map);
nix::ioctl_readwrite_bad!(iommu_unmap_dma, number(14), UnmapDirty);
nix::ioctl_write_ptr_bad!(
    iommu_dirty_pages,
    number(17),
    kernel::vfio_iommu_type1_dirty_bitmap
);
nix::ioctl_readwrite_bad!(
    device_bind_iommufd,
    number(18),
    kernel::vfio_device_bind_iommufd
);
nix::ioctl_readwrite_bad!(
    device_attach_iommufd_pt,
    number(19),
    kernel::vfio_device_attach_iommufd_pt
);
nix::ioctl_readwrite_bad!(
    ioas_iova_ranges,
    nix::request_code_none!(iommufd::IOMMUFD_TYPE, iommufd::IOMMUFD_CMD_IOAS_IOVA_RANGES),
    iommufd::iommu_ioas_iova_ranges
);
nix::ioctl_write_ptr_bad!(
    hwpt_set_dirty_tracking,
    nix::request_code_none!(
        iommufd::IOMMUFD_TYPE,
        iommufd::IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING
    ),
    iommufd::iommu_hwpt_set_dirty_tracking
);
nix::ioctl_write_ptr_bad!(
    hwpt_get_dirty_bitmap,
    nix::request_code_none!(
        iommufd::IOMMUFD_TYPE,
        iommufd::IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP
    ),
    iommufd::iommu_hwpt_get_dirty_bitmap
);

/// DMA_UNMAP with what follows it where a bitmap is asked for.
#[repr(C)]
struct UnmapDirty {
    unmap: kernel::vfio_iommu_type1_dma_unmap,
    bitmap: kernel::vfio_bitmap,
}

/// DIRTY_PAGES with what follows it where a bitmap is asked for.
#[repr(C)]
struct DirtyPagesOf {
    head: kernel::vfio_iommu_type1_dirty_bitmap,
    range: kernel::vfio_iommu_type1_dirty_bitmap_get,
}

/// A description that outgrows this is none of a PCI function or of an I/O MMU.
const MOST: u32 = 64 << 10;

/// `argsz` of a structure.
fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

/// The container's descriptor.
pub(super) fn borrow(container: &VfioContainer) -> BorrowedFd<'_> {
    // SAFETY: the container owns the descriptor for as long as the borrow of it lasts.
    unsafe { BorrowedFd::borrow_raw(container.as_raw_fd()) }
}

/// Flags of a group.
pub(super) fn group_flags(group: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut status = kernel::vfio_group_status {
        argsz: argsz::<kernel::vfio_group_status>(),
        flags: 0,
    };
    // SAFETY: the kernel writes at most `argsz` bytes, which `status` has, and it lives meanwhile.
    unsafe { group_get_status(group.as_raw_fd(), &raw mut status) }?;
    Ok(status.flags)
}

/// Put a group into a container.
pub(super) fn join(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), Errno> {
    let container = container.as_raw_fd();
    // SAFETY: the kernel reads one descriptor number, which lives through the call.
    unsafe { group_set_container(group.as_raw_fd(), &raw const container) }.map(drop)
}

/// Choose the container's kind of I/O MMU: type 1, version 2.
pub(super) fn choose_type1v2(container: BorrowedFd<'_>) -> Result<(), Errno> {
    let kind = kernel::VFIO_TYPE1v2_IOMMU.cast_signed();
    // SAFETY: the argument is a number, no address.
    unsafe { set_iommu(container.as_raw_fd(), kind) }.map(drop)
}

/// The device that `name` names: its address, and options after it.
pub(super) fn device(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: `name` ends with a NUL byte and lives through the call, which only reads it.
    let fd = unsafe { group_get_device_fd(group.as_raw_fd(), name.as_ptr()) }?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Flags and counts of a device.
pub(super) fn device_info(device: BorrowedFd<'_>) -> Result<kernel::vfio_device_info, Errno> {
    let mut info = kernel::vfio_device_info {
        argsz: argsz::<kernel::vfio_device_info>(),
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `argsz` bytes, which `info` has, and it lives meanwhile.
    unsafe { device_get_info(device.as_raw_fd(), &raw mut info) }?;
    Ok(info)
}

/// Flags and count of an interrupt index.
pub(super) fn irq_info(device: BorrowedFd<'_>, index: u32) -> Result<(u32, u32), Errno> {
    let mut info = kernel::vfio_irq_info {
        argsz: argsz::<kernel::vfio_irq_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `argsz` bytes, which `info` has, and it lives meanwhile.
    unsafe { device_get_irq_info(device.as_raw_fd(), &raw mut info) }?;
    Ok((info.flags, info.count))
}

/// Ask with room for the fixed part, then with as much room as the kernel says it needs. The words
/// begin with `argsz`, whatever is asked for, and are no fewer than that.
fn described(
    fixed: u32,
    index: Option<u32>,
    mut ask: impl FnMut(&mut [u64]) -> Result<(), Errno>,
) -> Result<Vec<u8>, Errno> {
    let mut room = fixed;
    for _ in 0..3 {
        // Words of 8 bytes, as the structures are aligned.
        let mut words = vec![0_u64; room.div_ceil(8) as usize];
        let bytes = words.as_mut_bytes();
        bytes[..4].copy_from_slice(&room.to_ne_bytes());
        if let Some(index) = index {
            bytes[8..12].copy_from_slice(&index.to_ne_bytes());
        }
        ask(&mut words)?;
        let bytes = words.as_bytes();
        let need = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if need <= room {
            return Ok(bytes[..room as usize].to_vec());
        }
        if need > MOST {
            break;
        }
        room = need;
    }
    Err(Errno::E2BIG)
}

/// A region's description with its capabilities, as the kernel lays it out.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> Result<Vec<u8>, Errno> {
    let fd = device.as_raw_fd();
    described(argsz::<kernel::vfio_region_info>(), Some(index), |words| {
        // SAFETY: `words` has the `argsz` bytes that stand at its beginning, aligned to 8, and the
        // kernel writes no more than that.
        unsafe { device_get_region_info(fd, words.as_mut_ptr().cast()) }.map(drop)
    })
}

/// The container's description with its capabilities, as the kernel lays it out.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let fd = container.as_raw_fd();
    described(argsz::<kernel::vfio_iommu_type1_info>(), None, |words| {
        // SAFETY: as in `region_info`.
        unsafe { iommu_get_info(fd, words.as_mut_ptr().cast()) }.map(drop)
    })
}

/// What SET_IRQS carries after its fixed part.
pub(super) enum Vectors<'a> {
    /// The action holds for the index as a whole.
    None,
    /// The vectors for which the action holds.
    Flags(&'a [bool]),
    /// An eventfd for each; `None` takes one away.
    Eventfds(&'a [Option<BorrowedFd<'a>>]),
}

/// The request in words, as the kernel reads it.
fn irq_words(action: u32, index: u32, start: u32, vectors: &Vectors<'_>) -> Vec<u32> {
    let (kind, count, data) = match vectors {
        Vectors::None => (kernel::VFIO_IRQ_SET_DATA_NONE, 0, Vec::new()),
        Vectors::Flags(flags) => {
            let bytes: Vec<u8> = flags.iter().map(|&flag| flag.into()).collect();
            let words = bytes.chunks(4).map(|chunk| {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                u32::from_ne_bytes(word)
            });
            (
                kernel::VFIO_IRQ_SET_DATA_BOOL,
                flags.len(),
                words.collect::<Vec<_>>(),
            )
        }
        Vectors::Eventfds(fds) => {
            let number = |fd: &Option<BorrowedFd<'_>>| fd.map_or(-1, |fd| fd.as_raw_fd());
            let words = fds.iter().map(|fd| number(fd).cast_unsigned());
            (
                kernel::VFIO_IRQ_SET_DATA_EVENTFD,
                fds.len(),
                words.collect(),
            )
        }
    };
    let size = argsz::<kernel::vfio_irq_set>() + 4 * data.len() as u32;
    let mut words = vec![size, kind | action, index, start, count as u32];
    words.extend(data);
    words
}

/// Change vectors of an interrupt index.
pub(super) fn set_irqs(
    device: BorrowedFd<'_>,
    action: u32,
    index: u32,
    start: u32,
    vectors: &Vectors<'_>,
) -> Result<(), Errno> {
    let words = irq_words(action, index, start, vectors);
    // SAFETY: the words are a vfio_irq_set with its data, `argsz` bytes long, aligned to 4, and only
    // read; the descriptors in it are borrowed until the call has returned.
    unsafe { device_set_irqs(device.as_raw_fd(), words.as_ptr().cast()) }.map(drop)
}

/// Reset the function.
pub(super) fn reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: there is no argument.
    unsafe { device_reset(device.as_raw_fd()) }.map(drop)
}

/// Open `memory` to the container's devices at `iova`.
pub(super) fn map(
    container: BorrowedFd<'_>,
    iova: u64,
    memory: &Mapped,
    access: DmaAccess,
) -> Result<(), Errno> {
    let mut flags = 0;
    if access.contains(DmaAccess::READ) {
        flags |= kernel::VFIO_DMA_MAP_FLAG_READ;
    }
    if access.contains(DmaAccess::WRITE) {
        flags |= kernel::VFIO_DMA_MAP_FLAG_WRITE;
    }
    let request = kernel::vfio_iommu_type1_dma_map {
        argsz: argsz::<kernel::vfio_iommu_type1_dma_map>(),
        flags,
        vaddr: memory.address(),
        iova,
        size: memory.size() as u64,
    };
    // SAFETY: `request` is whole and only read. It opens pages of a file, which nobody reaches through
    // `memory`, and this process otherwise by copies and atomics alone (SharedMemory has no other
    // access), so that a device may write them at any time. The kernel holds the pages, not the
    // address, for as long as the window lasts.
    unsafe { iommu_map_dma(container.as_raw_fd(), &raw const request) }.map(drop)
}

/// Have the container note which pages are written, or no longer.
pub(super) fn track_dirty(container: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    let request = kernel::vfio_iommu_type1_dirty_bitmap {
        argsz: argsz::<kernel::vfio_iommu_type1_dirty_bitmap>(),
        flags: if on {
            kernel::VFIO_IOMMU_DIRTY_PAGES_FLAG_START
        } else {
            kernel::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
        },
        ..Default::default()
    };
    // SAFETY: `request` is whole and only read.
    unsafe { iommu_dirty_pages(container.as_raw_fd(), &raw const request) }.map(drop)
}

/// Where the kernel writes the bits of a piece.
fn bits_of(piece: &mut Piece) -> kernel::vfio_bitmap {
    kernel::vfio_bitmap {
        pgsize: piece.page_size,
        size: size_of_val(piece.words.as_slice()) as u64,
        data: piece.words.as_mut_ptr(),
    }
}

/// Set the bits of the pages that the container has seen written, and forget them.
pub(super) fn dirty_bitmap(container: BorrowedFd<'_>, piece: &mut Piece) -> Result<(), Errno> {
    let request = DirtyPagesOf {
        head: kernel::vfio_iommu_type1_dirty_bitmap {
            argsz: argsz::<DirtyPagesOf>(),
            flags: kernel::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
            ..Default::default()
        },
        range: kernel::vfio_iommu_type1_dirty_bitmap_get {
            iova: piece.iova,
            size: piece.size,
            bitmap: bits_of(piece),
        },
    };
    // SAFETY: the kernel reads `argsz` bytes, which `request` has. It writes at most `size` bytes to
    // where `piece`, which is borrowed until the call has returned, has as many in its words; it
    // refuses a size that has not a bit for each page.
    unsafe { iommu_dirty_pages(container.as_raw_fd(), (&raw const request).cast()) }.map(drop)
}

/// Close the window that a piece is about, and set the bits of the pages that were written until then.
pub(super) fn unmap_dirty(container: BorrowedFd<'_>, piece: &mut Piece) -> Result<(), Errno> {
    let mut request = UnmapDirty {
        unmap: kernel::vfio_iommu_type1_dma_unmap {
            argsz: argsz::<UnmapDirty>(),
            flags: kernel::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
            iova: piece.iova,
            size: piece.size,
            ..Default::default()
        },
        bitmap: bits_of(piece),
    };
    // SAFETY: as in `dirty_bitmap`; the kernel writes to the fixed part of `request` too, which is ours.
    unsafe { iommu_unmap_dma(container.as_raw_fd(), &raw mut request) }?;
    match request.unmap.size {
        closed if closed == piece.size => Ok(()),
        // Nothing, or not the window.
        _ => Err(Errno::ENOENT),
    }
}

/// Have an I/O page table note which pages are written, or no longer.
pub(super) fn hwpt_track_dirty(space: &VfioIommufd, table: u32, on: bool) -> Result<(), Errno> {
    let request = iommufd::iommu_hwpt_set_dirty_tracking {
        size: argsz::<iommufd::iommu_hwpt_set_dirty_tracking>(),
        flags: if on {
            iommufd::iommufd_hwpt_set_dirty_tracking_flags_IOMMU_HWPT_DIRTY_TRACKING_ENABLE
        } else {
            0
        },
        hwpt_id: table,
        ..Default::default()
    };
    // SAFETY: `request` is whole and only read.
    unsafe { hwpt_set_dirty_tracking(space.iommufd().as_raw_fd(), &raw const request) }.map(drop)
}

/// Set the bits of the pages that an I/O page table has seen written, and forget them if asked to.
pub(super) fn hwpt_dirty_bitmap(
    space: &VfioIommufd,
    table: u32,
    piece: &mut Piece,
    forget: bool,
) -> Result<(), Errno> {
    let bits = bits_of(piece);
    if bits.size * 8 < piece.size.div_ceil(piece.page_size) {
        return Err(Errno::EINVAL);
    }
    let request = iommufd::iommu_hwpt_get_dirty_bitmap {
        size: argsz::<iommufd::iommu_hwpt_get_dirty_bitmap>(),
        hwpt_id: table,
        flags: if forget {
            0
        } else {
            iommufd::iommufd_hwpt_get_dirty_bitmap_flags_IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
        },
        iova: piece.iova,
        length: piece.size,
        page_size: piece.page_size,
        data: bits.data.addr() as u64,
        ..Default::default()
    };
    // SAFETY: the kernel reads `size` bytes, which `request` has, and sets bits for the pages of the
    // range, for each of which the words have one, as was checked; they are borrowed until the call
    // has returned.
    unsafe { hwpt_get_dirty_bitmap(space.iommufd().as_raw_fd(), &raw const request) }.map(drop)
}

/// Bind a device to an iommufd, with the token that it may want; the number that the device has there.
pub(super) fn bind_iommufd(
    device: BorrowedFd<'_>,
    space: &VfioIommufd,
    token: Option<&VfToken>,
) -> Result<u32, Errno> {
    let mut request = kernel::vfio_device_bind_iommufd {
        argsz: argsz::<kernel::vfio_device_bind_iommufd>(),
        iommufd: space.iommufd().as_raw_fd(),
        ..Default::default()
    };
    match token {
        Some(token) => {
            request.flags = kernel::VFIO_DEVICE_BIND_FLAG_TOKEN;
            request.token_uuid_ptr = token.bytes().as_ptr().addr() as u64;
        }
        // Kernels that know no token want the structure as it was before.
        None => request.argsz = offset_of!(kernel::vfio_device_bind_iommufd, token_uuid_ptr) as u32,
    }
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which `request` has, and reads the 16
    // bytes of the token, which is borrowed until the call has returned.
    unsafe { device_bind_iommufd(device.as_raw_fd(), &raw mut request) }?;
    Ok(request.out_devid)
}

/// Attach a bound device to an address space, or to a page table in one.
pub(super) fn attach(device: BorrowedFd<'_>, to: u32) -> Result<(), Errno> {
    let mut request = kernel::vfio_device_attach_iommufd_pt {
        // Without a PASID, as the structure was before.
        argsz: offset_of!(kernel::vfio_device_attach_iommufd_pt, pasid) as u32,
        pt_id: to,
        ..Default::default()
    };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which `request` has.
    unsafe { device_attach_iommufd_pt(device.as_raw_fd(), &raw mut request) }.map(drop)
}

/// The addresses that can be mapped in an address space, and how they must be aligned.
pub(super) fn ioas_ranges(space: &VfioIommufd) -> Result<(Vec<RangeInclusive<u64>>, u64), Errno> {
    /// More holes than any machine has.
    const MOST: u32 = 4096;
    let mut room = 16;
    for _ in 0..2 {
        let mut ranges = vec![iommufd::iommu_iova_range::default(); room as usize];
        let mut request = iommufd::iommu_ioas_iova_ranges {
            size: argsz::<iommufd::iommu_ioas_iova_ranges>(),
            ioas_id: space.ioas().id(),
            num_iovas: room,
            allowed_iovas: ranges.as_mut_ptr().addr() as u64,
            ..Default::default()
        };
        // SAFETY: the kernel writes `size` bytes to `request`, and at most `num_iovas` ranges to where
        // `ranges` has as many, which is not touched meanwhile.
        let asked = unsafe { ioas_iova_ranges(space.iommufd().as_raw_fd(), &raw mut request) };
        match asked {
            Ok(_) => {
                ranges.truncate(request.num_iovas as usize);
                let list = ranges
                    .iter()
                    .map(|range| range.start..=range.last)
                    .collect();
                return Ok((list, request.out_iova_alignment));
            }
            Err(Errno::EMSGSIZE) if request.num_iovas <= MOST => room = request.num_iovas,
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EMSGSIZE)
}

/// Open `memory` to the address space's devices at `iova`.
pub(super) fn ioas_map(
    space: &VfioIommufd,
    iova: u64,
    memory: &Mapped,
    access: DmaAccess,
) -> Result<(), Errno> {
    let mut flags = iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA;
    if access.contains(DmaAccess::READ) {
        flags |= iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE;
    }
    if access.contains(DmaAccess::WRITE) {
        flags |= iommufd::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE;
    }
    let request = iommufd::iommu_ioas_map {
        size: argsz::<iommufd::iommu_ioas_map>(),
        flags,
        ioas_id: space.ioas().id(),
        user_va: memory.address(),
        length: memory.size() as u64,
        iova,
        ..Default::default()
    };
    // As in `map`: nobody reaches the memory by this mapping, and the kernel holds its pages.
    space
        .iommufd()
        .map_iommu_ioas(&request)
        .map_err(|error| match error {
            IommufdError::IommuIoasMap(error) => Errno::from_raw(error.errno()),
            _ => Errno::EIO,
        })
}

/// A mapping of a file, which ends with it. What it maps is reached in one of the ways below only.
#[derive(Debug)]
struct Mapping(MmapRegion<()>);

impl Mapping {
    fn new(
        file: BorrowedFd<'_>,
        offset: u64,
        size: usize,
        access: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, Errno> {
        let length = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory there is.
        let at = unsafe { mmap(None, length, access, flags, file, offset) }?;
        // SAFETY: the mapping just made has `size` bytes from `at` on, and stays until the drop below.
        let region =
            unsafe { MmapRegion::build_raw(at.as_ptr().cast(), size, access.bits(), flags.bits()) };
        region.map(Self).map_err(|_| Errno::EINVAL)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (at, size) = (self.0.as_ptr(), self.0.size());
        if let Some(at) = NonNull::new(at.cast()) {
            // SAFETY: `new` made exactly this mapping, and nothing can reach into it any more.
            let unmapped = unsafe { munmap(at, size) };
            if let Err(errno) = unmapped {
                log::error!("a mapping stays: {errno}");
            }
        }
    }
}

/// Memory of a file, mapped so that the kernel can find its pages. There is no access to it.
#[derive(Debug)]
pub(super) struct Mapped {
    mapping: Mapping,
    skip: usize,
    size: usize,
}

impl Mapped {
    /// Map `size` bytes of a file, which begin `skip` bytes after `offset`; the mapping has `length`.
    /// No huge page is set aside for it: that is done when a device gets one.
    pub(super) fn new(
        file: BorrowedFd<'_>,
        (offset, length): (u64, usize),
        (skip, size): (usize, usize),
        access: MapAccess,
    ) -> Result<Self, Errno> {
        if skip.checked_add(size).is_none_or(|end| end > length) {
            return Err(Errno::EINVAL);
        }
        let access = match access {
            MapAccess::ReadOnly => ProtFlags::PROT_READ,
            MapAccess::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        let mapping = Mapping::new(file, offset, length, access, flags)?;
        Ok(Self {
            mapping,
            skip,
            size,
        })
    }

    fn address(&self) -> u64 {
        self.mapping.0.as_ptr() as u64 + self.skip as u64
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }
}

/// Registers of a device in this process's address space. Loads and stores of 1, 2, 4 and 8 bytes
/// reach the device as such; there is no other access.
#[derive(Debug)]
pub(super) struct Registers(Mapping);

impl Registers {
    /// Map `size` bytes at `offset` of a device.
    pub(super) fn map(device: BorrowedFd<'_>, offset: u64, size: usize) -> Result<Self, Errno> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Mapping::new(device, offset, size, access, MapFlags::MAP_SHARED).map(Self)
    }

    /// Load `data.len()` bytes at `offset`, if that is one access that fits.
    pub(super) fn load(&self, offset: usize, data: &mut [u8]) -> Option<()> {
        let order = Ordering::Acquire;
        match data.len() {
            1 => data.copy_from_slice(&self.cell::<AtomicU8>(offset)?.load(order).to_ne_bytes()),
            2 => data.copy_from_slice(&self.cell::<AtomicU16>(offset)?.load(order).to_ne_bytes()),
            4 => data.copy_from_slice(&self.cell::<AtomicU32>(offset)?.load(order).to_ne_bytes()),
            8 => data.copy_from_slice(&self.cell::<AtomicU64>(offset)?.load(order).to_ne_bytes()),
            _ => return None,
        }
        Some(())
    }

    /// Store `data` at `offset`, if that is one access that fits.
    pub(super) fn store(&self, offset: usize, data: &[u8]) -> Option<()> {
        let order = Ordering::Release;
        match *data {
            [a] => self.cell::<AtomicU8>(offset)?.store(a, order),
            [a, b] => {
                let value = u16::from_ne_bytes([a, b]);
                self.cell::<AtomicU16>(offset)?.store(value, order);
            }
            [a, b, c, d] => {
                let value = u32::from_ne_bytes([a, b, c, d]);
                self.cell::<AtomicU32>(offset)?.store(value, order);
            }
            _ => {
                let value = u64::from_ne_bytes(data.try_into().ok()?);
                self.cell::<AtomicU64>(offset)?.store(value, order);
            }
        }
        Some(())
    }

    fn cell<T: vm_memory::AtomicInteger>(&self, offset: usize) -> Option<&T> {
        self.0.0.get_atomic_ref(offset).ok()
    }
}

#[cfg(test)]
mod tests;
