//! What an address space must withstand.

mod files;
mod in_flight;
mod limits;
mod model;

use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use vfio_user::device::{DmaAccess, DmaWindow};

use super::{AddressSpace, FaultCause, Quota};
use crate::memory::SharedMemory;
use crate::pci::Rid;

const RW: DmaAccess = DmaAccess::READ.union(DmaAccess::WRITE);
const REQUESTER: Rid = Rid(0x0081);

/// A space with bus mastering on.
fn space() -> AddressSpace {
    space_with(Quota::default())
}

fn space_with(quota: Quota) -> AddressSpace {
    let space = AddressSpace::new(REQUESTER, quota);
    space.set_bus_master(true);
    space
}

fn sealed(size: usize) -> SharedMemory {
    SharedMemory::create_sealed("client", size).expect("memory")
}

/// A memory file that can be truncated.
fn unsealed(size: i64) -> OwnedFd {
    let fd = memfd_create(
        "unsealed",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .expect("memfd");
    ftruncate(&fd, size).expect("size");
    fd
}

fn seal(fd: &OwnedFd, seals: SealFlag) {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).expect("seal");
}

fn duplicate(memory: &SharedMemory) -> OwnedFd {
    memory.fd().try_clone_to_owned().expect("dup")
}

fn window(iova: u64, size: u64, access: DmaAccess, file: Option<(OwnedFd, u64)>) -> DmaWindow {
    DmaWindow {
        iova,
        size,
        access,
        file,
    }
}

/// A window over part of `memory`.
fn over(memory: &SharedMemory, iova: u64, size: u64, offset: u64) -> DmaWindow {
    window(iova, size, RW, Some((duplicate(memory), offset)))
}

/// Why an access faults; `None` if it does not. Both directions must agree.
fn cause(space: &AddressSpace, iova: u64, len: usize) -> Option<FaultCause> {
    let read = space.read(iova, &mut vec![0; len]).err();
    let write = space.write(iova, &vec![0; len]).err();
    assert_eq!(
        read.map(|fault| fault.cause),
        write.map(|fault| fault.cause)
    );
    if let Some(fault) = write {
        assert_eq!((fault.iova, fault.len), (iova, len));
        assert_eq!(
            (fault.requester, fault.access),
            (REQUESTER, DmaAccess::WRITE)
        );
    }
    read.map(|fault| fault.cause)
}
