//! The card behind its sockets: life of the VF sockets, grace, several cards, broken clients.

mod rig;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use igb::FunctionId;
use igb::pci::header;
use iommu::function::{Function, FunctionError};
use iommu::memory::SharedMemory;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tempfile::TempDir;
use vfio_user::device::{DmaAccess, region};
use vfio_user_device::sockets::{SocketDir, Sockets, SocketsError};
use vfio_user_device::{Card, CardOptions};

use rig::{
    Station, bring_up, broadcast, connect, eventually, options, read_config, vf_enable, vf_socket,
};

struct Served {
    sockets: Sockets,
    card: Arc<Card>,
    dir: TempDir,
}

fn serve(options: CardOptions) -> Served {
    let dir = tempfile::tempdir().expect("a directory");
    let card = Card::new(options).expect("a card");
    let claim = SocketDir::claim(dir.path()).expect("the directory");
    let sockets = Sockets::serve(&card, claim).expect("sockets");
    Served { sockets, card, dir }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn wait_until_lost(function: &dyn Function) {
    let mut fds = [PollFd::new(function.lost_event(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(rig::LONG.as_millis()).expect("a timeout");
    assert_eq!(
        poll(&mut fds, timeout),
        Ok(1),
        "the connection should have been ended"
    );
    assert!(function.lost());
}

#[test]
fn a_vf_socket_lives_as_long_as_its_vf_and_takes_its_client_along() {
    let served = serve(options());
    let dir = served.dir.path();
    let pf = connect(&served.sockets.pf_socket());
    assert!(!vf_socket(dir, 0).exists());
    pf.sriov_configure(2).expect("VFs");
    assert!(is_socket(&vf_socket(dir, 0)) && is_socket(&vf_socket(dir, 1)));
    assert!(!vf_socket(dir, 2).exists());
    let vf = connect(&vf_socket(dir, 0));
    assert_eq!(read_config(&*vf, header::DEVICE_ID), igb::pci::VF_DEVICE_ID);
    pf.sriov_configure(0).expect("no VFs");
    assert!(!vf_socket(dir, 0).exists() && !vf_socket(dir, 1).exists());
    wait_until_lost(&*vf);
    assert_eq!(
        vf.write(region::CONFIG, 4, &[0])
            .expect_err("gone")
            .to_string(),
        FunctionError::Lost.to_string()
    );

    // At once again, while the last thread may still be on its way out.
    for _ in 0..20 {
        pf.sriov_configure(8).expect("VFs");
        let vf = connect(&vf_socket(dir, 7));
        assert_eq!(read_config(&*vf, header::VENDOR_ID), igb::pci::VENDOR_INTEL);
        pf.sriov_configure(0).expect("no VFs");
    }
    drop(served.sockets);
    assert_eq!(
        fs::read_dir(dir).expect("the directory").count(),
        0,
        "every socket is removed"
    );
}

#[test]
fn doorbells_in_shared_pages_are_noticed_with_and_without_the_wake_protocol() {
    let served = serve(options());
    let pf = connect(&served.sockets.pf_socket());
    bring_up(&*pf, 3);
    let dir = served.dir.path();
    let mut stations: Vec<_> = (0..3)
        .map(|n| Station::open(connect(&vf_socket(dir, n))))
        .collect();
    stations[0].ring_by_store();
    stations[1].ring_and_wake();
    for fill in 0..100 {
        for sender in 0..2 {
            let frame = broadcast(sender, 70, fill);
            assert!(stations[usize::from(sender)].send(&frame));
            // Waiting for each lets the card fall asleep again and again.
            assert_eq!(stations[2].receive(), frame);
            assert_eq!(stations[1 - usize::from(sender)].receive(), frame);
        }
    }
}

#[test]
fn a_pf_that_comes_back_in_time_finds_its_vfs_and_their_traffic() {
    let served = serve(options());
    let pf = connect(&served.sockets.pf_socket());
    bring_up(&*pf, 2);
    let mut sender = Station::open(connect(&vf_socket(served.dir.path(), 0)));
    let mut receiver = Station::open(connect(&vf_socket(served.dir.path(), 1)));
    drop(pf);
    eventually("the PF's client is gone", || {
        !served.card.is_connected(FunctionId::PF)
    });
    let frame = broadcast(0, 90, 5);
    assert!(sender.send(&frame));
    assert_eq!(receiver.receive(), frame, "the data path goes on");
    let pf = connect(&served.sockets.pf_socket());
    assert!(vf_enable(&*pf));
    assert_eq!(served.card.num_vfs(), 2);
    assert!(!sender.function.lost());
}

#[test]
fn without_a_pf_the_vfs_go_after_the_grace_period() {
    let served = serve(CardOptions {
        pf_grace: Duration::from_millis(50),
        ..options()
    });
    let pf = connect(&served.sockets.pf_socket());
    pf.sriov_configure(2).expect("VFs");
    let vf = connect(&vf_socket(served.dir.path(), 1));
    drop(pf);
    wait_until_lost(&*vf);
    assert!(!vf_socket(served.dir.path(), 0).exists());
    let pf = connect(&served.sockets.pf_socket());
    assert!(!vf_enable(&*pf));
    pf.sriov_configure(1).expect("VFs again");
    connect(&vf_socket(served.dir.path(), 0));
}

#[test]
fn cards_do_not_know_each_other_and_a_directory_has_one() {
    let first = serve(options());
    let second = serve(options());
    let pf = connect(&first.sockets.pf_socket());
    pf.sriov_configure(1).expect("a VF");
    assert_eq!((first.card.num_vfs(), second.card.num_vfs()), (1, 0));
    assert!(!vf_socket(second.dir.path(), 0).exists());
    let again = SocketDir::claim(first.dir.path());
    assert!(matches!(again, Err(SocketsError::Served(_))));
}

#[test]
fn what_a_dead_card_left_is_replaced_and_what_lives_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["pf.sock", "vf3.sock"] {
        drop(UnixListener::bind(dir.path().join(name)).expect("a socket"));
    }
    let card = Card::new(options()).expect("a card");
    let claim = SocketDir::claim(dir.path()).expect("the directory");
    let sockets = Sockets::serve(&card, claim).expect("sockets");
    assert!(!vf_socket(dir.path(), 3).exists());
    drop(sockets);
    let _foreign = UnixListener::bind(vf_socket(dir.path(), 3)).expect("a socket");
    let claim = SocketDir::claim(dir.path()).expect("the directory");
    assert!(matches!(
        Sockets::serve(&card, claim),
        Err(SocketsError::Socket { .. })
    ));
    assert!(
        vf_socket(dir.path(), 3).exists(),
        "somebody else's socket stays"
    );
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
    assert!(matches!(
        SocketDir::claim(dir.path()),
        Err(SocketsError::NotPrivate(_))
    ));
    let made = dir.path().join("new");
    let _claim = SocketDir::claim(&made).expect("a directory");
    assert_eq!(
        fs::metadata(&made).expect("it").permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn files_that_could_shrink_are_used_without_being_mapped() {
    let served = serve(options());
    let pf = connect(&served.sockets.pf_socket());
    bring_up(&*pf, 3);
    let dir = served.dir.path();
    let mut stations: Vec<_> = (1..3)
        .map(|n| Station::open(connect(&vf_socket(dir, n))))
        .collect();
    let hostile = connect(&vf_socket(dir, 0));
    let access = DmaAccess::READ | DmaAccess::WRITE;
    let unsealed = memfd_create("unsealed", MFdFlags::MFD_CLOEXEC).expect("a file");
    nix::unistd::ftruncate(&unsealed, 0x80000).expect("a size");
    hostile
        .dma_map(0x1000_0000, 0x80000, access, Some((unsealed.as_fd(), 0)))
        .expect("a window");
    // The file shrinks under the card; the queues that lie in it are opened all the same.
    nix::unistd::ftruncate(&unsealed, 0).expect("a size");
    let tail = SharedMemory::create_sealed("short", 4096).expect("memory");
    let beyond = hostile.dma_map(0x2000_0000, 0x2000, access, Some((tail.fd(), 0)));
    assert!(beyond.is_err(), "a window beyond the end of its file");
    let null = File::open("/dev/null").expect("a file");
    let _ = hostile.dma_map(
        0x3000_0000,
        0x1000,
        DmaAccess::READ,
        Some((null.as_fd(), 0)),
    );
    let mut hostile = Station::over(hostile);
    hostile.start();
    let outside = hostile.outside() - 0x10000;
    hostile.send_from(outside, 60);
    for fill in 0..20 {
        let frame = broadcast(1, 80, fill);
        assert!(stations[0].send(&frame));
        assert_eq!(stations[1].receive(), frame);
    }
    eventually("a fault", || {
        served.card.snapshot().function(FunctionId::vf(0)).faults > 0
    });
}

#[test]
fn a_function_without_files_works_by_message_and_a_silent_one_harms_only_itself() {
    let served = serve(options());
    let pf = connect(&served.sockets.pf_socket());
    bring_up(&*pf, 3);
    let dir = served.dir.path();
    let by_message = connect(&vf_socket(dir, 0));
    let (mut slow, memory) = Station::open_by_message(Arc::clone(&by_message) as _);
    let mut fast: Vec<_> = (1..3)
        .map(|n| Station::open(connect(&vf_socket(dir, n))))
        .collect();
    let frame = broadcast(0, 300, 0xAB);
    assert!(slow.send(&frame));
    assert_eq!(fast[0].receive(), frame);
    assert_eq!(fast[1].receive(), frame);
    let frame = broadcast(1, 333, 0xCD);
    assert!(fast[0].send(&frame));
    assert_eq!(fast[1].receive(), frame);
    assert_eq!(slow.receive(), frame);

    memory.be_silent();
    for fill in 0..50 {
        slow.send(&broadcast(0, 300, fill));
        let frame = broadcast(1, 100, fill);
        assert!(fast[0].send(&frame));
        while fast[1].receive() != frame {}
    }
    // Nobody waits for the silent client in the end.
    by_message.reset().expect("a reset");
    by_message.dma_unmap_all().expect("no windows");
}

#[test]
fn a_window_may_not_touch_the_msi_range_and_interrupts_must_be_eventfds() {
    let served = serve(options());
    let pf = connect(&served.sockets.pf_socket());
    let memory = SharedMemory::create_sealed("test", 0x2000).expect("memory");
    let file = Some((memory.fd(), 0));
    let refused = |result: Result<(), FunctionError>, expected: Errno| match result {
        Err(FunctionError::Refused { errno, .. }) => assert_eq!(errno, expected),
        other => panic!("{other:?}"),
    };
    refused(
        pf.dma_map(0xFEE0_0000, 0x1000, DmaAccess::READ, file),
        Errno::EINVAL,
    );
    pf.dma_map(0x1000, 0x1000, DmaAccess::READ, file)
        .expect("a window");
    refused(
        pf.dma_map(0x1000, 0x1000, DmaAccess::READ, file),
        Errno::EEXIST,
    );
    pf.dma_unmap(0x3000, 0x1000).expect("nothing to close");
    refused(pf.dma_unmap(0x1000, 0x800), Errno::EINVAL);
    pf.dma_map(0x2000, 0x1000, DmaAccess::READ, None)
        .expect("one beside it, by message");
    pf.dma_unmap(0, 0x10_0000).expect("both at once");
    pf.dma_map(0x1000, 0x2000, DmaAccess::READ, file)
        .expect("the room is free");
    let index = vfio_user::device::irq::MSIX;
    refused(
        pf.set_eventfds(index, 0, &[Some(memory.fd())]),
        Errno::EINVAL,
    );
}
