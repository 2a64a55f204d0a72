use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;

const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

/// As a peer makes it, blocking.
fn peer_eventfd(value: u64) -> OwnedFd {
    let fd: OwnedFd = NixEventFd::from_flags(EfdFlags::EFD_CLOEXEC)
        .expect("eventfd")
        .into();
    if value != 0 {
        nix::unistd::write(&fd, &value.to_ne_bytes()).expect("write");
    }
    fd
}

#[test]
fn signals_add_up_until_they_are_taken() {
    let event = EventFd::new().expect("eventfd");
    assert_eq!(event.take(), 0);
    assert!(event.signal() && event.signal());
    assert_eq!(event.take(), 2);
    assert_eq!(event.take(), 0);
}

#[test]
fn a_signal_to_a_full_eventfd_is_dropped_and_counted() {
    // A blocking descriptor whose counter is at its maximum: a plain write would never return.
    let peer = peer_eventfd(u64::MAX - 1);
    let event = EventFd::from_peer(peer.try_clone().expect("dup")).expect("eventfd");
    for n in 1..=3 {
        assert!(!event.signal());
        assert_eq!(event.dropped(), n);
    }
    assert_eq!(event.take(), u64::MAX - 1);
    assert!(event.signal());
    assert_eq!(event.dropped(), 3);
}

#[test]
fn only_an_eventfd_is_an_interrupt() {
    let (socket, _peer) = UnixStream::pair().expect("socket");
    let (pipe, _write) = nix::unistd::pipe().expect("pipe");
    let file = tempfile::tempfile().expect("file");
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    for fd in [socket.into(), pipe, file.into(), epoll.0] {
        let refused = EventFd::from_peer(fd).expect_err("no eventfd");
        assert!(matches!(refused, InterruptError::NotAnEventFd));
    }
    EventFd::from_peer(peer_eventfd(0)).expect("eventfd");
}

#[test]
fn a_set_reports_what_fired_and_takes_it() {
    let set = InterruptSet::new(InterruptSet::MOST).expect("set");
    assert!(set.wait(AT_ONCE).expect("wait").is_empty());
    // The other side has duplicates.
    let theirs: Vec<EventFd> = set
        .eventfds()
        .into_iter()
        .flatten()
        .map(|fd| EventFd::from_peer(fd.try_clone_to_owned().expect("dup")).expect("eventfd"))
        .collect();
    for n in [0, 5, 5, 63] {
        assert!(theirs[n].signal());
    }
    let ready = set.wait(None).expect("wait");
    assert_eq!(ready.vectors, 1 | 1 << 5 | 1 << 63);
    assert!(ready.vector(5) && !ready.vector(6) && !ready.vector(64) && !ready.is_empty());
    assert!(set.wait(AT_ONCE).expect("wait").is_empty());
    assert!(matches!(
        InterruptSet::new(65),
        Err(InterruptError::TooMany { most: 64 })
    ));
}

#[test]
fn other_descriptors_are_watched_until_they_are_not() {
    let mut set = InterruptSet::new(1).expect("set");
    let (ours, mut theirs) = UnixStream::pair().expect("socket");
    let socket = set.watch(ours.as_fd()).expect("watch");
    let event = EventFd::new().expect("eventfd");
    let other = set.watch(event.as_fd()).expect("watch");
    assert!(set.wait(AT_ONCE).expect("wait").is_empty());

    theirs.write_all(b"x").expect("write");
    let ready = set.wait(None).expect("wait");
    assert!(ready.is_readable(socket) && !ready.is_readable(other) && ready.vectors == 0);
    // It stays readable until it is read.
    assert!(set.wait(AT_ONCE).expect("wait").is_readable(socket));
    set.unwatch(socket);
    assert!(set.wait(AT_ONCE).expect("wait").is_empty());
    set.unwatch(socket);

    // The slot is free again; the end of a stream counts as readable.
    let (ours, theirs) = UnixStream::pair().expect("socket");
    let socket = set.watch(ours.as_fd()).expect("watch");
    drop(theirs);
    assert!(set.wait(None).expect("wait").is_readable(socket));
    event.signal();
    let ready = set.wait(None).expect("wait");
    assert!(ready.is_readable(socket) && ready.is_readable(other));

    for _ in 2..InterruptSet::MOST {
        set.watch(event.as_fd()).expect("watch");
    }
    assert!(matches!(
        set.watch(event.as_fd()),
        Err(InterruptError::TooMany { .. })
    ));
}

#[test]
fn a_wait_ends_when_another_thread_signals() {
    let set = Arc::new(InterruptSet::new(2).expect("set"));
    let waiter = {
        let set = set.clone();
        std::thread::spawn(move || set.wait(None).expect("wait"))
    };
    assert!(set.vector(1).expect("vector").signal());
    assert_eq!(waiter.join().expect("waiter").vectors, 2);
    assert!(set.vector(2).is_none());
}
