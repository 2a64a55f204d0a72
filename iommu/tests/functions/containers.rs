//! Containers: one address space for several functions, some of which fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use iommu::address_space::FaultCause;
use iommu::container::{Container, ContainerError, ContainerOptions};
use iommu::function::FunctionError;
use iommu::iova::IovaError;
use iommu::memory::SharedMemory;
use nix::errno::Errno;
use vfio_user::device::DmaAccess;

use crate::device::{Connection, TestDevice};

fn container() -> Arc<Container> {
    Container::new(ContainerOptions::default())
}

fn windows(device: &TestDevice) -> usize {
    device.space.usage().windows
}

fn refuse(device: &TestDevice, errno: Option<Errno>) {
    *device.refuse_maps.lock().unwrap() = errno;
}

#[test]
fn a_buffer_is_there_for_every_function_until_it_is_dropped() {
    let (one, two) = (Connection::in_process(), Connection::over_a_socket());
    let container = container();
    container.attach(one.function().clone()).expect("attach");
    let mut buffer = container.alloc(5000).expect("alloc");
    assert_eq!(buffer.len(), 0x2000);
    buffer.as_mut_slice()[0x100..0x108].copy_from_slice(b"8 bytes!");
    let shared = buffer.share().expect("share");
    // The second comes late, and finds it.
    container.attach(two.function().clone()).expect("attach");
    let untouched = container.alloc(1).expect("alloc").share().expect("share");
    assert_ne!(untouched.iova(), shared.iova());
    for device in [&one.device, &two.device] {
        shared.write(0x108, &[0; 8]);
        device.double(shared.iova() + 0x100).expect("DMA");
        let mut data = [0; 16];
        shared.read(0x100, &mut data);
        assert_eq!(&data, b"8 bytes!8 bytes!");
        assert_eq!(windows(device), 2);
        device
            .double(shared.iova() + 0x1FF8)
            .expect_err("not beyond the buffer");
    }
    assert_eq!(shared.len(), 0x2000);
    assert_eq!(untouched.load_u64(0, Ordering::Relaxed), 0);

    let iova = shared.iova();
    let mut buffer = shared.unshare();
    assert_eq!(buffer.as_mut_slice()[0x108..0x110], *b"8 bytes!");
    for device in [&one.device, &two.device] {
        assert_eq!(
            device.double(iova).expect_err("gone").cause,
            FaultCause::NoWindow
        );
    }
    drop(untouched);
    assert_eq!((windows(&one.device), windows(&two.device)), (0, 0));
    // The address is free again.
    assert_eq!(buffer.share().expect("share").iova(), iova);
}

#[test]
fn access_is_what_the_buffer_was_shared_for() {
    let one = Connection::in_process();
    let container = container();
    container.attach(one.function().clone()).expect("attach");
    let shared = container
        .alloc(0x1000)
        .expect("alloc")
        .share_for(DmaAccess::READ)
        .expect("share");
    let fault = one.device.double(shared.iova()).expect_err("only read");
    assert_eq!(
        (fault.cause, fault.access),
        (FaultCause::Permission, DmaAccess::WRITE)
    );
}

#[test]
fn what_one_function_refuses_none_has() {
    let (one, two, three) = (
        Connection::in_process(),
        Connection::in_process(),
        Connection::in_process(),
    );
    let container = container();
    for connection in [&one, &two, &three] {
        container
            .attach(connection.function().clone())
            .expect("attach");
    }
    refuse(&two.device, Some(Errno::ENOSPC));
    let failed = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .err()
        .expect("refused");
    let ContainerError::Map {
        iova,
        size: 0x1000,
        source,
    } = failed
    else {
        panic!("{failed}")
    };
    assert!(matches!(
        source,
        FunctionError::Refused {
            errno: Errno::ENOSPC,
            ..
        }
    ));
    for connection in [&one, &two, &three] {
        assert_eq!(windows(&connection.device), 0);
    }
    refuse(&two.device, None);
    let shared = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("share");
    assert_eq!(shared.iova(), iova, "the address did not leak");
}

#[test]
fn a_function_that_fails_to_attach_is_left_with_nothing() {
    let (one, two) = (Connection::in_process(), Connection::in_process());
    let container = container();
    let first = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("without a function");
    let second = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("without a function");
    // The second mapping fails.
    let in_the_way = second.iova();
    one.function()
        .dma_map(in_the_way, 0x1000, DmaAccess::READ, None)
        .expect("map");
    let failed = container
        .attach(one.function().clone())
        .expect_err("overlap");
    assert!(matches!(failed, ContainerError::Map { iova, .. } if iova == in_the_way));
    assert_eq!(windows(&one.device), 0);
    // It is not attached: it gets nothing later, and may try again.
    let third = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("share");
    assert_eq!(windows(&one.device), 0);
    container.attach(one.function().clone()).expect("attach");
    assert_eq!(windows(&one.device), 3);
    let twice = container.attach(one.function().clone());
    assert!(matches!(twice, Err(ContainerError::AlreadyAttached)));
    assert!(matches!(
        container.detach(two.function()),
        Err(ContainerError::NotAttached)
    ));
    container.detach(one.function()).expect("detach");
    assert_eq!(windows(&one.device), 0);
    assert!(matches!(
        container.detach(one.function()),
        Err(ContainerError::NotAttached)
    ));
    drop((first, second, third));
}

#[test]
fn a_lost_function_does_not_hold_up_the_others() {
    let (one, two) = (Connection::over_a_socket(), Connection::in_process());
    let container = container();
    container.attach(one.function().clone()).expect("attach");
    container.attach(two.function().clone()).expect("attach");
    let before = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("share");
    let iova = before.iova();
    (one.unplug)();
    let after = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("share");
    two.device.double(after.iova()).expect("DMA");
    drop(before);
    assert_eq!(windows(&two.device), 1);
    let again = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("share");
    assert_eq!(again.iova(), iova, "a lost function keeps no address");
    container.detach(one.function()).expect("detach");
}

#[test]
fn an_address_that_a_function_kept_is_not_given_out_again() {
    let one = Connection::in_process();
    let container = container();
    container.attach(one.function().clone()).expect("attach");
    let shared = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("share");
    let iova = shared.iova();
    one.device.refuse_unmaps.store(true, Ordering::SeqCst);
    drop(shared);
    one.device.refuse_unmaps.store(false, Ordering::SeqCst);
    let next = container
        .alloc(0x1000)
        .expect("alloc")
        .share()
        .expect("share");
    assert_ne!(next.iova(), iova);
}

#[test]
fn a_function_that_cannot_use_the_file_is_answered_by_message() {
    for connection in [Connection::in_process(), Connection::over_a_socket()] {
        let container = container();
        container
            .attach(connection.function().clone())
            .expect("attach");
        let shared = container
            .alloc(0x2000)
            .expect("alloc")
            .share()
            .expect("share");
        let iova = shared.iova();
        // The device forgets the file, and has the address as a window without one.
        let device = &connection.device;
        device.space.unmap_all();
        connection
            .function()
            .dma_map(iova, 0x4000, DmaAccess::all(), None)
            .expect("map");
        shared.write(0x1FF0, b"8 bytes!");
        device.double(iova + 0x1FF0).expect("by message");
        let mut data = [0; 8];
        shared.read(0x1FF8, &mut data);
        assert_eq!(&data, b"8 bytes!");
        let beyond = device.double(iova + 0x1FF8).expect_err("runs over the end");
        assert_eq!(beyond.cause, FaultCause::Io);
        container.detach(connection.function()).expect("detach");
        connection
            .function()
            .dma_map(iova, 0x4000, DmaAccess::all(), None)
            .expect("map");
        device
            .double(iova)
            .expect_err("nothing of the container is left");
    }
}

#[test]
fn addresses_stay_clear_of_what_is_reserved() {
    let container = Container::new(ContainerOptions {
        // Each buffer has a page after it where nothing is.
        usable: 0xFEDF_D000..=0xFEF0_2FFF,
        reserved: vec![0xFEDF_D000..=0xFEDF_DFFF, 0xFEF0_2000..=u64::MAX],
    });
    let share = |len| container.alloc(len).and_then(|buffer| buffer.share());
    let (one, two) = (share(0x1000).expect("below"), share(0x1000).expect("above"));
    assert_eq!((one.iova(), two.iova()), (0xFEDF_E000, 0xFEF0_0000));
    let exhausted = share(0x1000).err();
    assert!(matches!(
        exhausted,
        Some(ContainerError::Iova(IovaError::Exhausted { .. }))
    ));
    for len in [0, usize::MAX] {
        let senseless = container.alloc(len).err();
        assert!(matches!(
            senseless,
            Some(ContainerError::Iova(IovaError::Invalid { .. }))
        ));
    }
    let memory = SharedMemory::create_sealed("odd", 0x1001).expect("memory");
    assert!(container.share(memory, DmaAccess::READ).is_err());
}

#[test]
fn threads_share_and_drop_at_the_same_time() {
    let connections = [Connection::in_process(), Connection::over_a_socket()];
    let container = container();
    for connection in &connections {
        container
            .attach(connection.function().clone())
            .expect("attach");
    }
    std::thread::scope(|scope| {
        for n in 1..=4_u64 {
            let (container, device) = (&container, &connections[0].device);
            scope.spawn(move || {
                for round in 0..50 {
                    let shared = container
                        .alloc(0x1000)
                        .expect("alloc")
                        .share()
                        .expect("share");
                    shared.store_u64(0, n << 32 | round, Ordering::Relaxed);
                    device.double(shared.iova()).expect("DMA");
                    // Nobody else's buffer lies there.
                    assert_eq!(shared.load_u64(8, Ordering::Relaxed), n << 32 | round);
                    if round % 2 == 0 {
                        drop(shared.unshare());
                    }
                }
            });
        }
    });
    for connection in &connections {
        assert_eq!(windows(&connection.device), 0);
    }
}
