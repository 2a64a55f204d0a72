//! What clients hand in as memory.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use vfio_user::device::DmaAccess;

use super::*;
use crate::memory::{FileKind, Inspection};

/// The same file through a new descriptor.
fn reopen(fd: impl AsRawFd, write: bool, flags: i32) -> OwnedFd {
    std::fs::OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags)
        .open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .expect("reopen")
        .into()
}

#[test]
fn a_file_is_mapped_once_however_many_windows_lie_in_it() {
    let memory = SharedMemory::create_sealed("mapped-once", 1 << 20).expect("memory");
    let (maps, fds) = (mappings("mapped-once"), descriptors("mapped-once"));
    let space = space();
    for n in 0..10_000 {
        // Each window comes with its own descriptor, and they lie anywhere in the file.
        let offset = (n * 7919) % ((1 << 20) - 64);
        space
            .map(over(&memory, 0x10_0000 + n * 64, 64, offset))
            .expect("map");
    }
    assert_eq!(mappings("mapped-once"), maps + 1);
    assert_eq!(descriptors("mapped-once"), fds + 1);
    assert_eq!(space.usage().windows, 10_000);
    space
        .write(0x10_0000 + 5000 * 64, &[0x5A])
        .expect("in the middle");
    let mut byte = [0];
    memory.read((5000 * 7919) % ((1 << 20) - 64), &mut byte);
    assert_eq!(byte, [0x5A]);
    for n in 0..10_000 {
        space.unmap(0x10_0000 + n * 64, 64).expect("unmap");
    }
    assert_eq!(mappings("mapped-once"), maps);
    assert_eq!(descriptors("mapped-once"), fds);
}

#[test]
fn mapping_and_unmapping_leaks_nothing() {
    let memory = SharedMemory::create_sealed("leak-check", 0x1000).expect("memory");
    let (maps, fds) = (mappings("leak-check"), descriptors("leak-check"));
    let space = space();
    for _ in 0..10_000 {
        space.map(over(&memory, 0x1000, 0x1000, 0)).expect("map");
        // Refusals must not keep the descriptor either.
        space
            .map(over(&memory, 0x1000, 0x1000, 0))
            .expect_err("overlap");
        space
            .map(over(&memory, 0x8000, 0x2000, 0))
            .expect_err("beyond the file");
        space.unmap(0x1000, 0x1000).expect("unmap");
    }
    assert_eq!(
        (mappings("leak-check"), descriptors("leak-check")),
        (maps, fds)
    );
    space.map(over(&memory, 0x1000, 0x1000, 0)).expect("map");
    space.disconnect();
    assert_eq!(
        (mappings("leak-check"), descriptors("leak-check")),
        (maps, fds)
    );
    space.map(over(&memory, 0x1000, 0x1000, 0)).expect("map");
    drop(space);
    assert_eq!(
        (mappings("leak-check"), descriptors("leak-check")),
        (maps, fds)
    );
}

/// Mappings of this process of the memory file of that name.
fn mappings(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    maps.lines()
        .filter(|line| line.contains(&format!("memfd:{name} ")))
        .count()
}

/// Descriptors of this process of the memory file of that name.
fn descriptors(name: &str) -> usize {
    let prefix = format!("/memfd:{name} ");
    std::fs::read_dir("/proc/self/fd")
        .expect("fds")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|link| link.to_string_lossy().starts_with(&prefix))
        .count()
}

#[test]
fn a_file_that_is_truncated_under_its_window_faults_and_nothing_more() {
    let fd = unsealed(0x4000);
    let file = File::from(fd.try_clone().expect("dup"));
    let space = space();
    space
        .map(window(0x1_0000, 0x4000, RW, Some((fd, 0))))
        .expect("map");
    assert_eq!(
        space.usage().bytes,
        0,
        "a file that can shrink is never mapped"
    );
    space.write(0x1_3000, b"data").expect("write");
    let mut data = [0; 4];
    file.read_exact_at(&mut data, 0x3000).expect("read");
    assert_eq!(&data, b"data");

    file.set_len(0x1002).expect("truncate");
    assert_eq!(cause(&space, 0x1_3000, 4), Some(FaultCause::Io));
    assert_eq!(cause(&space, 0x1_1000, 4), Some(FaultCause::Io));
    assert_eq!(cause(&space, 0x1_1000, 2), None);
    assert_eq!(
        file.metadata().expect("metadata").len(),
        0x1002,
        "it does not grow again"
    );
    file.set_len(0).expect("truncate");
    assert_eq!(cause(&space, 0x1_0000, 1), Some(FaultCause::Io));
    assert_eq!(space.faults(FaultCause::Io), 6);
    file.set_len(0x4000).expect("grow");
    assert_eq!(cause(&space, 0x1_3000, 4), None);
}

#[test]
fn only_a_seal_against_shrinking_makes_a_file_mappable() {
    let fd = unsealed(0x2000);
    let space = space();
    let file = || Some((fd.try_clone().expect("dup"), 0));
    seal(&fd, SealFlag::F_SEAL_GROW);
    space.map(window(0x1000, 0x1000, RW, file())).expect("map");
    assert_eq!(space.usage().bytes, 0);
    seal(&fd, SealFlag::F_SEAL_SHRINK);
    space.unmap(0x1000, 0x1000).expect("unmap");
    space.map(window(0x1000, 0x1000, RW, file())).expect("map");
    assert_eq!(space.usage().bytes, 0x2000);
    nix::unistd::ftruncate(&fd, 0x1000).expect_err("sealed");
}

#[test]
fn a_file_that_grows_is_mapped_anew_for_what_was_added() {
    let fd = unsealed(0x1000);
    seal(&fd, SealFlag::F_SEAL_SHRINK);
    let space = space();
    space
        .map(window(
            0x1000,
            0x1000,
            RW,
            Some((fd.try_clone().expect("dup"), 0)),
        ))
        .expect("map");
    ftruncate(&fd, 0x2000).expect("grow");
    space
        .map(window(
            0x2000,
            0x1000,
            RW,
            Some((fd.try_clone().expect("dup"), 0x1000)),
        ))
        .expect("map");
    assert_eq!((space.usage().files, space.usage().bytes), (2, 0x3000));
    space.write(0x1FFC, b"crossing").expect("write");
    let mut data = [0; 8];
    File::from(fd)
        .read_exact_at(&mut data, 0xFFC)
        .expect("read");
    assert_eq!(&data, b"crossing");
}

#[test]
fn windows_lie_inside_their_files() {
    let memory = sealed(0x2000);
    let space = space();
    for (size, offset) in [
        (0x2001, 0),
        (0x1000, 0x1001),
        (1, 0x2000),
        (0x1000, u64::MAX - 0xFFF),
    ] {
        let refused = space.map(over(&memory, 0x1000, size, offset));
        assert_eq!(refused, Err(Errno::EINVAL), "{size:#x} at {offset:#x}");
    }
    assert_eq!(space.usage().files, 0);
}

#[test]
fn a_descriptor_permits_what_it_was_opened_for() {
    let memory = sealed(0x1000);
    let space = space();
    let read_only = reopen(memory.fd(), false, 0);
    let file = |fd: &OwnedFd| Some((fd.try_clone().expect("dup"), 0));
    assert_eq!(
        space.map(window(0x1000, 0x1000, RW, file(&read_only))),
        Err(Errno::EACCES)
    );
    // Not even when the client once sent a writable one of the same file.
    space.map(over(&memory, 0x8000, 0x1000, 0)).expect("map");
    assert_eq!(
        space.map(window(0x1000, 0x1000, RW, file(&read_only))),
        Err(Errno::EACCES)
    );
    space
        .map(window(0x1000, 0x1000, DmaAccess::READ, file(&read_only)))
        .expect("map");
    space.read(0x1000, &mut [0; 8]).expect("read");

    let fd = unsealed(0x1000);
    seal(&fd, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE);
    assert_eq!(
        space.map(window(0x2000, 0x1000, RW, file(&fd))),
        Err(Errno::EACCES)
    );
    space
        .map(window(0x2000, 0x1000, DmaAccess::READ, file(&fd)))
        .expect("map");

    let path = reopen(memory.fd(), false, nix::libc::O_PATH);
    assert_eq!(
        space.map(window(0x3000, 0x1000, DmaAccess::READ, file(&path))),
        Err(Errno::EACCES)
    );
}

#[test]
fn a_regular_file_is_never_mapped() {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(&[0x11; 0x2000]).expect("write");
    let kind = Inspection::of(file.as_fd()).expect("inspect").kind;
    let space = space();
    let fd = file.try_clone().expect("dup").into();
    space
        .map(window(0x1000, 0x1000, RW, Some((fd, 0x1000))))
        .expect("map");
    assert_eq!(space.usage().bytes, 0);
    if kind == FileKind::Other {
        // A file system that another process may be behind: asked by message, and nobody is there.
        assert_eq!(cause(&space, 0x1000, 1), Some(FaultCause::Cancelled));
        return;
    }
    space.write(0x1004, b"data").expect("write");
    space
        .store_u64_release(0x1010, 0x0807_0605_0403_0201)
        .expect("store");
    let mut data = [0; 0x18];
    file.read_exact_at(&mut data, 0x1000).expect("read");
    assert_eq!(&data[..8], b"\x11\x11\x11\x11data");
    assert_eq!(data[0x10..], [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut back = [0; 0x18];
    space.read(0x1000, &mut back).expect("read");
    assert_eq!(back, data);
    file.set_len(0).expect("truncate");
    assert_eq!(cause(&space, 0x1000, 1), Some(FaultCause::Io));
}

#[test]
fn what_is_no_file_at_all_is_not_touched() {
    let (pipe, _other) = nix::unistd::pipe().expect("pipe");
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("socket");
    let directory = File::open("/proc/self").expect("directory");
    let space = space();
    let fds = [pipe, socket.into(), directory.into()];
    for (n, fd) in (1..).zip(fds) {
        let opened = space.map(window(n * 0x1000, 0x1000, DmaAccess::READ, Some((fd, 0))));
        opened.expect("reached by message");
        // A blocking read of a pipe or socket would never end.
        let fault = space.read(n * 0x1000, &mut [0; 4]).expect_err("no client");
        assert_eq!(fault.cause, FaultCause::Cancelled);
    }
    assert_eq!(space.usage().files, 0);
}

#[test]
fn stores_are_little_endian_and_may_be_misaligned() {
    let memory = sealed(0x1000);
    let space = space();
    space.map(over(&memory, 0x1000, 0x800, 0)).expect("map");
    space.map(over(&memory, 0x1800, 0x800, 0x800)).expect("map");
    let value = 0x8877_6655_4433_2211_u64;
    for at in [0x10, 0x24, 0x39, 0x7FC] {
        space.store_u64_release(0x1000 + at, value).expect("store");
        let mut bytes = [0; 8];
        memory.read(at as usize, &mut bytes);
        assert_eq!(bytes, value.to_le_bytes());
    }
    assert_eq!(memory.load_u64(0x10, Ordering::Acquire), value);
    assert_eq!(
        space.store_u64_release(0x1FFC, 1).expect_err("edge").cause,
        FaultCause::Edge
    );
}
