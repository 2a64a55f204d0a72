//! Our client against our server.

mod recorder;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::EventFd;
use recorder::*;
use vfio_user::client::{Client, ClientError, ClientOptions, Lost};
use vfio_user::device::{Device, DmaAccess, IrqFlags, RegionFlags, irq, region};
use vfio_user::server::{Ended, Error, Listener, ServerOptions, Stop};

fn refused(result: Result<(), ClientError>) -> Errno {
    match result {
        Err(ClientError::Refused { errno, .. }) => errno,
        other => panic!("not refused: {other:?}"),
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let patience = u16::try_from(PATIENCE.as_millis()).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], patience).unwrap() > 0
}

#[test]
fn describes_device_regions_and_interrupts() {
    let (_served, client) = connect();
    assert_eq!(client.capabilities().max_msg_fds, 16);
    assert_eq!(client.capabilities().max_data_xfer_size, 1 << 20);

    let info = client.device_info().unwrap();
    assert!(info.resettable && info.pci);
    assert_eq!((info.regions, info.irqs), (region::COUNT, irq::COUNT));

    let bar0 = client.region(region::BAR0).unwrap();
    assert_eq!((bar0.size, bar0.flags), (BAR0_SIZE, RegionFlags::all()));
    assert_eq!(bar0.sparse, [SPARSE]);
    // The file that came is the device's own.
    let file = std::fs::File::from(bar0.fd.unwrap());
    assert_eq!(file.metadata().unwrap().len(), BAR0_SIZE);

    let config = client.region(region::CONFIG).unwrap();
    assert_eq!((config.size, config.fd.is_none()), (4096, true));
    assert_eq!(client.region(region::BAR5).unwrap().size, 0);
    assert_eq!(
        refused(client.region(region::COUNT).map(drop)),
        Errno::EINVAL
    );

    let msix = client.irq(irq::MSIX).unwrap();
    assert_eq!(
        (msix.count, msix.flags),
        (VECTORS, IrqFlags::EVENTFD | IrqFlags::NORESIZE)
    );
    assert_eq!(refused(client.irq(irq::COUNT).map(drop)), Errno::EINVAL);
}

#[test]
fn shared_pages_are_shared() {
    let (served, client) = connect();
    let ours = std::fs::File::from(client.region(region::BAR0).unwrap().fd.unwrap());
    let theirs = std::fs::File::from(served.device.region(region::BAR0).fd.unwrap());
    ours.write_all_at(b"doorbell", SPARSE.offset).unwrap();
    let mut seen = [0; 8];
    theirs.read_exact_at(&mut seen, SPARSE.offset).unwrap();
    assert_eq!(&seen, b"doorbell");
}

#[test]
fn registers_read_back_acknowledged_and_posted_writes() {
    let (_served, client) = connect();
    client
        .region_write(region::BAR0, 0x10, &[1, 2, 3, 4])
        .unwrap();
    for value in 0..1000u32 {
        client
            .region_post(region::BAR0, 0x20, &value.to_ne_bytes())
            .unwrap();
    }
    // In order behind the posted ones.
    let mut word = [0; 4];
    client.region_read(region::BAR0, 0x20, &mut word).unwrap();
    assert_eq!(u32::from_ne_bytes(word), 999);
    client.region_read(region::BAR0, 0x10, &mut word).unwrap();
    assert_eq!(word, [1, 2, 3, 4]);
}

#[test]
fn accesses_outside_a_region_are_refused_and_the_connection_goes_on() {
    let (_served, client) = connect();
    let mut word = [0; 4];
    for (index, offset) in [
        (region::BAR0, BAR0_SIZE),
        (region::BAR0, BAR0_SIZE - 3),
        (region::BAR0, u64::MAX - 8),
        (region::BAR5, 0),
        (region::COUNT, 0),
        (u32::MAX, 0),
    ] {
        assert_eq!(
            refused(client.region_read(index, offset, &mut word)),
            Errno::EINVAL
        );
        assert_eq!(
            refused(client.region_write(index, offset, &word)),
            Errno::EINVAL
        );
        // Nothing comes back, so nothing may be left over for the next request.
        client.region_post(index, offset, &word).unwrap();
    }
    assert_eq!(
        refused(client.region_write(region::ROM, 0, &word)),
        Errno::EINVAL
    );
    assert_eq!(
        refused(client.region_read(region::BAR0, FAULTY, &mut word)),
        Errno::EIO
    );
    client.region_post(region::BAR0, FAULTY, &word).unwrap();
    client
        .region_read(region::BAR0, BAR0_SIZE - 4, &mut word)
        .unwrap();
    assert!(!client.is_closed());
}

#[test]
fn long_transfers_are_split() {
    let (_served, client) = connect();
    let mut rom = vec![0; 2 << 20];
    client.region_read(region::ROM, 0, &mut rom).unwrap();
    assert!(rom.iter().all(|&byte| byte == 0xa5));
}

#[test]
fn dma_windows_come_with_and_without_a_file() {
    let (served, client) = connect();
    let file = memfd(0x10000);
    file.write_all_at(&[77], 0x3000).unwrap();
    let all = DmaAccess::all();
    client
        .dma_map(0x10_0000, 0x2000, all, Some((file.as_fd(), 0x3000)))
        .unwrap();
    served
        .events
        .expect("map 0x100000+0x2000 rw file@0x3000=77");
    client
        .dma_map(0xfffc_0000, 0x4_0000, DmaAccess::READ, None)
        .unwrap();
    served.events.expect("map 0xfffc0000+0x40000 r- none");

    assert_eq!(refused(client.dma_map(0, 0, all, None)), Errno::EINVAL);
    assert_eq!(
        refused(client.dma_map(u64::MAX, 2, all, None)),
        Errno::EINVAL
    );
    assert_eq!(
        refused(client.dma_map(0, 1, DmaAccess::empty(), None)),
        Errno::EINVAL
    );
    let wraps = Some((file.as_fd(), u64::MAX));
    assert_eq!(refused(client.dma_map(0, 4096, all, wraps)), Errno::EINVAL);

    assert_eq!(refused(client.dma_unmap(0x10_0000, 0x1000)), Errno::ENOENT);
    served.events.expect("unmap 0x100000+0x1000");
    client.dma_unmap(0x10_0000, 0x2000).unwrap();
    served.events.expect("unmap 0x100000+0x2000");
    client.dma_unmap_all().unwrap();
    served.events.expect("unmap all");
    client.reset().unwrap();
    served.events.expect("reset");
    served.events.assert_none();
}

#[test]
fn every_way_to_set_interrupts() {
    let (served, client) = connect();
    let event = EventFd::new().unwrap();
    let fd = Some(event.as_fd());

    // More than one message holds, with gaps.
    let mut list = vec![fd; 35];
    list[20] = None;
    list[21] = None;
    client.set_eventfds(irq::MSIX, 2, &list).unwrap();
    served.events.expect("irq 2.2 eventfds ++++++++++++++++");
    served.events.expect("irq 2.18 eventfds ++++");
    served.events.expect("irq 2.22 eventfds --");
    served.events.expect("irq 2.24 eventfds +++++++++++++");
    // What arrived is the same eventfd.
    let theirs = served.device.eventfds.lock().unwrap().pop().unwrap();
    nix::unistd::write(&theirs, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(event.read().unwrap(), 1);

    // "Enabled, no vector", as QEMU begins MSI-X.
    client.set_eventfds(irq::MSIX, 0, &[None]).unwrap();
    served.events.expect("irq 2.0 eventfds -");
    client.disable_irqs(irq::MSIX).unwrap();
    served.events.expect("irq 2.0 disable");
    client.trigger(irq::MSIX, 3, &[true, true]).unwrap();
    served.events.expect("irq 2.3 trigger 11");
    client.trigger(irq::MSIX, 3, &[true, false, true]).unwrap();
    served.events.expect("irq 2.3 trigger 101");
    client.mask(irq::INTX, 0, &[true]).unwrap();
    served.events.expect("irq 0.0 mask 1");
    client.mask(irq::MSIX, 0, &[false, true]).unwrap();
    served.events.expect("irq 2.0 mask 01");
    client.unmask(irq::INTX, 0, &[true]).unwrap();
    served.events.expect("irq 0.0 unmask 1");
    client.unmask(irq::MSIX, 0, &[false, true]).unwrap();
    served.events.expect("irq 2.0 unmask 01");
    client.set_unmask_eventfd(irq::INTX, 0, fd).unwrap();
    served.events.expect("irq 0.0 unmask-fd +");
    client.set_unmask_eventfd(irq::INTX, 0, None).unwrap();
    served.events.expect("irq 0.0 unmask-fd -");
    client.set_mask_eventfd(irq::INTX, 0, fd).unwrap();
    served.events.expect("irq 0.0 mask-fd +");
    client.set_eventfds(irq::ERR, 0, &[fd]).unwrap();
    served.events.expect("irq 3.0 eventfds +");

    let last = VECTORS - 1;
    client.set_eventfds(irq::MSIX, last, &[fd]).unwrap();
    served.events.expect("irq 2.39 eventfds +");
    assert_eq!(
        refused(client.set_eventfds(irq::MSIX, last, &[fd, fd])),
        Errno::EINVAL
    );
    assert_eq!(
        refused(client.set_eventfds(irq::MSIX, VECTORS, &[None])),
        Errno::EINVAL
    );
    assert_eq!(refused(client.trigger(irq::REQ, 0, &[true])), Errno::EINVAL);
    assert_eq!(refused(client.disable_irqs(irq::COUNT)), Errno::EINVAL);
    served.events.assert_none();
}

#[test]
fn many_threads_get_their_own_replies() {
    let (_served, client) = connect();
    std::thread::scope(|scope| {
        // More threads than there are slots.
        for thread in 0..80u64 {
            let client = &client;
            scope.spawn(move || {
                let at = thread * 8;
                for round in 0..50u64 {
                    let value = (thread << 32 | round).to_ne_bytes();
                    client.region_write(region::BAR0, at, &value).unwrap();
                    let mut seen = [0; 8];
                    client.region_read(region::BAR0, at, &mut seen).unwrap();
                    assert_eq!(seen, value);
                }
            });
        }
    });
}

#[test]
fn a_slow_answer_times_out_alone_and_late() {
    let options = ClientOptions {
        timeout: Duration::from_millis(50),
    };
    let (served, client) = connect_with(ServerOptions::default(), options);
    let mut word = [0; 4];
    assert!(matches!(
        client.region_read(region::BAR0, GATE, &mut word),
        Err(ClientError::Timeout(9))
    ));
    served.device.open_gate();
    // The late answer comes first, and must not be taken for this one.
    client.region_write(region::BAR0, 0, &[7; 4]).unwrap();
    client.region_read(region::BAR0, 0, &mut word).unwrap();
    assert_eq!(word, [7; 4]);
}

#[test]
fn a_server_that_stops_mid_request_is_noticed_at_once() {
    let (mut served, client) = connect();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| client.region_read(region::BAR0, GATE, &mut [0; 4])))
            .collect();
        served.events.expect("gate");
        served.stop.raise();
        for waiter in waiters {
            let error = waiter.join().unwrap();
            assert!(matches!(error, Err(ClientError::Closed(_))), "{error:?}");
        }
        served.device.open_gate();
    });
    assert!(readable(client.closed_fd()));
    assert_eq!(served.ended().unwrap(), Ended::Stopped);
    served.events.find("disconnected");
    assert!(matches!(client.reset(), Err(ClientError::Closed(_))));
}

#[test]
fn an_idle_client_notices_the_end() {
    let (mut served, client) = connect();
    client.region_read(region::BAR0, 0, &mut [0; 4]).unwrap();
    assert!(!client.is_closed());
    served.stop.raise();
    assert!(readable(client.closed_fd()));
    assert!(client.is_closed());
    assert_eq!(client.lost(), Some(Lost::ByServer));
    assert_eq!(served.ended().unwrap(), Ended::Stopped);
}

#[test]
fn the_device_hears_of_a_client_that_leaves() {
    let (mut served, client) = connect();
    client.dma_map(0, 4096, DmaAccess::all(), None).unwrap();
    drop(client);
    assert_eq!(served.ended().unwrap(), Ended::Disconnected);
    served.events.find("disconnected");
    assert!(served.device.windows.lock().unwrap().is_empty());
}

/// Serves a recorder on a path, and stops when dropped.
struct OnPath {
    path: std::path::PathBuf,
    events: Events,
    stop: Stop,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl OnPath {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.sock");
        let listener = Listener::bind(&path, ServerOptions::default()).unwrap();
        let (device, events) = Recorder::new();
        let stop = Stop::new().unwrap();
        let thread = {
            let (device, stop) = (device as Arc<dyn Device>, stop.clone());
            std::thread::spawn(move || listener.serve(&device, &stop).unwrap())
        };
        Self {
            path,
            events,
            stop,
            thread: Some(thread),
            _dir: dir,
        }
    }
}

impl Drop for OnPath {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn clients_come_one_after_the_other_and_registers_stay() {
    let server = OnPath::start();
    let connect = || Client::connect(&server.path, ClientOptions::default());
    let first = connect().unwrap();
    server.events.expect("connected");
    first.region_write(region::BAR0, 8, &[9; 4]).unwrap();
    std::thread::scope(|scope| {
        // Waits until the first has gone.
        let second = scope.spawn(|| {
            let second = connect().unwrap();
            let mut word = [0; 4];
            second.region_read(region::BAR0, 8, &mut word).unwrap();
            word
        });
        first.region_read(region::BAR0, 8, &mut [0; 4]).unwrap();
        drop(first);
        assert_eq!(second.join().unwrap(), [9; 4]);
    });
    server.events.expect("disconnected");
    server.events.expect("connected");
    server.events.expect("disconnected");
}

#[test]
fn a_peer_that_breaks_off_makes_way_for_the_next() {
    let server = OnPath::start();
    for _ in 0..3 {
        let stream = UnixStream::connect(&server.path).unwrap();
        let mut raw = Raw::new(stream);
        raw.version();
        raw.send(2, 9, 3, &[0; 16]);
        let client = Client::connect(&server.path, ClientOptions::default()).unwrap();
        client.device_info().unwrap();
    }
}

#[test]
fn stop_ends_the_accept_loop_and_a_live_connection() {
    let idle = OnPath::start();
    drop(idle);
    let busy = OnPath::start();
    let client = Client::connect(&busy.path, ClientOptions::default()).unwrap();
    let path = busy.path.clone();
    drop(busy);
    assert!(readable(client.closed_fd()));
    assert!(!path.exists());
}

#[test]
fn sockets_are_private_and_cleaned_up_with_care() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.sock");
    let bind = || Listener::bind(&path, ServerOptions::default());

    let listener = bind().unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(bind(), Err(Error::InUse { .. })));
    drop(listener);
    assert!(!path.exists());

    // A dead server's socket is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let old = bind().unwrap();
    // Not ours any more: must not be removed.
    std::fs::remove_file(&path).unwrap();
    let new = bind().unwrap();
    drop(old);
    assert!(path.exists());
    drop(new);
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(), Err(Error::InUse { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.sock");
    let other = nix::unistd::geteuid().as_raw() + 1;
    let options = ServerOptions {
        peer_uid: Some(other),
        ..ServerOptions::default()
    };
    let listener = Listener::bind(&path, options).unwrap();
    let (device, events) = Recorder::new();
    let (device, stop) = (device as Arc<dyn Device>, Stop::new().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| listener.serve(&device, &stop).unwrap());
        let refused = Client::connect(&path, ClientOptions::default());
        assert!(
            matches!(refused, Err(ClientError::Closed(_))),
            "{refused:?}"
        );
        stop.raise();
    });
    events.assert_none();
}
