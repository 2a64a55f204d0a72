use std::io::Write;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::*;

fn new(size: usize) -> SharedMemory {
    SharedMemory::create_sealed("test", size).expect("memory")
}

fn mapped_again(memory: &SharedMemory, access: MapAccess) -> SharedMemory {
    let fd = memory.fd().try_clone_to_owned().expect("dup");
    SharedMemory::map(fd, 0, memory.len(), access).expect("map")
}

fn panics(act: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(act)).is_err()
}

#[test]
fn new_memory_is_zero_and_its_size_is_final() {
    let memory = new(0x2345);
    assert_eq!(memory.len(), 0x2345);
    let mut bytes = vec![0xFF; 0x2345];
    memory.read(0, &mut bytes);
    assert!(bytes.iter().all(|&byte| byte == 0));
    let inspection = Inspection::of(memory.fd()).expect("inspect");
    assert_eq!(
        (inspection.kind, inspection.size),
        (FileKind::Tmpfs, 0x2345)
    );
    assert_eq!(inspection.page_size, PAGE_SIZE as u64);
    assert!(inspection.shrink_sealed && inspection.grow_sealed && !inspection.write_sealed);
    for size in [0, 0x1000, 0x3000] {
        ftruncate(memory.fd(), size).expect_err("sealed");
    }
    fcntl(memory.fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).expect_err("sealed");
    assert!(matches!(
        SharedMemory::create_sealed("test", 0),
        Err(MemoryError::Empty)
    ));
    assert!(matches!(
        SharedMemory::create_sealed("test", usize::MAX),
        Err(MemoryError::TooLarge { .. })
    ));
}

#[test]
fn two_mappings_of_a_file_are_the_same_memory() {
    let memory = new(0x2000);
    let peer = mapped_again(&memory, MapAccess::ReadWrite);
    memory.write(0xFFE, b"over a page");
    let mut bytes = [0; 11];
    peer.read(0xFFE, &mut bytes);
    assert_eq!(&bytes, b"over a page");
    peer.store_u32(0x100, 0x0403_0201, Ordering::Release);
    memory.read(0x100, &mut bytes[..4]);
    assert_eq!(bytes[..4], [1, 2, 3, 4]);
    assert_eq!(memory.load_u32(0x100, Ordering::Acquire), 0x0403_0201);
    assert_eq!(memory.load_u16(0x102, Ordering::Acquire), 0x0403);
    peer.store_u64(0x108, u64::MAX - 1, Ordering::SeqCst);
    assert_eq!(memory.load_u64(0x108, Ordering::SeqCst), u64::MAX - 1);
    memory.zero();
    assert_eq!(peer.load_u64(0x108, Ordering::SeqCst), 0);
}

#[test]
fn a_part_of_a_file_can_be_mapped() {
    let memory = new(0x3000);
    let fd = memory.fd().try_clone_to_owned().expect("dup");
    let part = SharedMemory::map(fd, 0x1000, 0x1000, MapAccess::ReadWrite).expect("map");
    assert_eq!((part.len(), part.fd_offset()), (0x1000, 0x1000));
    part.write(0xFFF, &[7]);
    let mut byte = [0];
    memory.read(0x1FFF, &mut byte);
    assert_eq!(byte, [7]);
    assert!(panics(|| part.write(0xFFF, &[0; 2])));
}

#[test]
fn what_lies_outside_is_never_touched() {
    let memory = new(0x1000);
    let other = new(0x800);
    assert!(panics(|| memory.read(0x1000, &mut [0])));
    assert!(panics(|| memory.read(0xFFF, &mut [0; 2])));
    assert!(panics(|| memory.read(usize::MAX, &mut [0; 2])));
    assert!(panics(|| memory.write(0xFFF, &[0; 2])));
    assert!(panics(|| memory.zero_range(0xFFF, 2)));
    assert!(panics(|| memory.zero_range(1, usize::MAX)));
    assert!(panics(|| memory.copy_to(0x900, &other, 0, 0x701)));
    assert!(panics(|| memory.copy_to(0, &other, 0, 0x801)));
    assert!(panics(|| _ = memory.load_u32(0xFFD, Ordering::Relaxed)));
    assert!(panics(|| _ = memory.load_u32(2, Ordering::Relaxed)));
    assert!(panics(|| memory.store_u64(0xFFC, 0, Ordering::Relaxed)));
    assert!(panics(|| memory.store_u64(4, 0, Ordering::Relaxed)));
    memory.read(0x1000, &mut []);
    memory.write(0x1000, &[]);
    memory.store_u64(0xFF8, 1, Ordering::Relaxed);
}

#[test]
fn memory_that_is_mapped_read_only_is_not_stored_to() {
    let memory = new(0x1000);
    let peer = mapped_again(&memory, MapAccess::ReadOnly);
    memory.write(0, b"data");
    let mut data = [0; 4];
    peer.read(0, &mut data);
    assert_eq!(&data, b"data");
    assert!(!peer.is_writable());
    assert!(panics(|| peer.write(0, b"x")));
    assert!(panics(|| peer.zero()));
    assert!(panics(|| peer.store_u32(0, 1, Ordering::Relaxed)));
    assert!(panics(|| memory.copy_to(0, &peer, 8, 4)));
    peer.copy_to(0, &memory, 8, 4);
    assert_eq!(
        memory.load_u32(8, Ordering::Relaxed),
        memory.load_u32(0, Ordering::Relaxed)
    );
}

#[test]
fn a_file_that_could_shrink_is_not_mapped() {
    let plain =
        memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
    ftruncate(&plain, 0x1000).expect("size");
    let map = |fd: &OwnedFd, offset, size| {
        SharedMemory::map(
            fd.try_clone().expect("dup"),
            offset,
            size,
            MapAccess::ReadWrite,
        )
    };
    assert!(matches!(
        map(&plain, 0, 0x1000),
        Err(MemoryError::NotMappable)
    ));
    fcntl(&plain, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("seal");
    map(&plain, 0, 0x1000).expect("sealed");
    assert!(matches!(map(&plain, 0, 0), Err(MemoryError::Empty)));
    assert!(matches!(
        map(&plain, 0, 0x1001),
        Err(MemoryError::NotMappable)
    ));
    assert!(matches!(
        map(&plain, 0x1000, 0x1000),
        Err(MemoryError::NotMappable)
    ));
    assert!(matches!(
        map(&plain, u64::MAX, 0x1000),
        Err(MemoryError::NotMappable)
    ));

    let mut file = tempfile::tempfile().expect("file");
    file.write_all(&[0; 0x1000]).expect("write");
    let inspection = Inspection::of(file.as_fd()).expect("inspect");
    assert!(!inspection.shrink_sealed && inspection.readable && inspection.writable);
    assert!(matches!(
        map(&file.into(), 0, 0x1000),
        Err(MemoryError::NotMappable)
    ));
}

proptest! {
    #[test]
    fn copies_move_the_bytes_they_say(
        from in 0..300_usize, to in 0..300_usize, len in 0..300_usize, same in any::<bool>(),
    ) {
        let (source, target) = (new(600), new(600));
        let bytes: Vec<u8> = (0..600_u32).map(|n| (n * 31 + n / 7) as u8).collect();
        source.write(0, &bytes);
        let mut expected = if same { bytes.clone() } else { vec![0; 600] };
        expected[to..to + len].copy_from_slice(&bytes[from..from + len]);
        // Overlapping ranges of one memory are copied as if through a buffer.
        let target = if same { &source } else { &target };
        source.copy_to(from, target, to, len);
        let mut got = vec![0; 600];
        target.read(0, &mut got);
        prop_assert_eq!(&got, &expected);
        target.zero_range(to, len);
        expected[to..to + len].fill(0);
        target.read(0, &mut got);
        prop_assert_eq!(&got, &expected);
    }
}
