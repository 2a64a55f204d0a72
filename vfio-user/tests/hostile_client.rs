//! Clients that break the protocol: each ends alone, and for a reason that has a name.

mod recorder;

use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use recorder::*;
use vfio_user::device::{DmaAccess, irq, region};
use vfio_user::server::{Ended, Error, ServerOptions};
use vfio_user::wire::{Capabilities, MAX_MESSAGE, WireError};

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn access(offset: u64, region: u32, count: u32) -> Vec<u8> {
    [&offset.to_ne_bytes()[..], &words(&[region, count])].concat()
}

fn header(size: u32, command: u16, flags: u32) -> Vec<u8> {
    let mut bytes = message(1, command, flags, &[]);
    bytes[4..8].copy_from_slice(&size.to_ne_bytes());
    bytes
}

fn send_with_fds(stream: &UnixStream, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    assert_eq!(sent, Ok(bytes.len()));
}

fn begun() -> (Served, Raw) {
    let (served, stream) = Served::start();
    let mut raw = Raw::new(stream);
    raw.version();
    served.events.expect("connected");
    (served, raw)
}

/// Say `bytes` to a server that has just accepted a connection, and see how it ends. Another
/// function served in the same process must not notice.
fn end_of(version_first: bool, bytes: &[u8], fds: &[RawFd]) -> Error {
    let (neighbour, neighbours) = connect();
    neighbours.dma_map(0, 4096, DmaAccess::all(), None).unwrap();
    let (mut served, stream) = Served::start();
    let mut raw = Raw::new(stream);
    if version_first {
        raw.version();
    }
    if fds.is_empty() {
        raw.0.write_all(bytes).unwrap();
    } else {
        send_with_fds(&raw.0, bytes, fds);
    }
    // For faults that only the end of the stream brings out.
    raw.0.shutdown(Shutdown::Write).unwrap();
    let error = served.ended().expect_err("the server put up with it");
    if version_first {
        served.events.expect("connected");
        served.events.find("disconnected");
    } else {
        served.events.assert_none();
    }
    // The peer sees the end.
    let mut rest = Vec::new();
    if let Err(error) = raw.0.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    neighbour.events.expect("map 0x0+0x1000 rw none");
    neighbours
        .region_read(region::BAR0, 0, &mut [0; 4])
        .unwrap();
    neighbour.events.assert_none();
    error
}

#[test]
fn broken_framing_ends_the_connection() {
    for size in [0, 1, 15] {
        let error = end_of(true, &header(size, 4, 0), &[]);
        assert!(
            matches!(error, Error::Malformed(WireError::SizeBelowHeader(_))),
            "{error:?}"
        );
    }
    for size in [MAX_MESSAGE as u32 + 1, 1 << 31, u32::MAX] {
        let error = end_of(true, &header(size, 10, 0), &[]);
        assert!(
            matches!(error, Error::Malformed(WireError::SizeAboveLimit(_))),
            "{error:?}"
        );
    }
    for kind in [2, 3, 15] {
        let error = end_of(true, &header(16, 13, kind), &[]);
        assert!(
            matches!(error, Error::Malformed(WireError::Type(_))),
            "{error:?}"
        );
    }
    // The reply to nothing, also where a command is due.
    let error = end_of(true, &header(16, 9, 1), &[]);
    assert!(
        matches!(error, Error::UnexpectedReply { command: 9, id: 1 }),
        "{error:?}"
    );
    // Cut short in the header, and in the body.
    assert!(matches!(end_of(true, &[0; 7], &[]), Error::Truncated));
    let error = end_of(true, &[header(4096, 10, 0), vec![0; 100]].concat(), &[]);
    assert!(matches!(error, Error::Truncated), "{error:?}");
}

#[test]
fn a_bad_version_ends_the_connection() {
    let version = |body: &[u8]| end_of(false, &message(1, 1, 0, body), &[]);
    let is = |error: Error, wire: WireError| {
        assert!(
            matches!(&error, Error::Version(got) if *got == wire),
            "{error:?}"
        );
    };
    is(version(&version_body(b"{}")), WireError::VersionText);
    is(
        version(&version_body(b"nonsense\0")),
        WireError::VersionJson,
    );
    is(version(&version_body(b"[1]\0")), WireError::VersionJson);
    is(
        version(&version_body(b"\xff\xfe\0")),
        WireError::VersionJson,
    );
    let number = b"{\"capabilities\":{\"max_msg_fds\":-1}}\0";
    is(version(&version_body(number)), WireError::VersionJson);
    let tiny = b"{\"capabilities\":{\"max_data_xfer_size\":0}}\0";
    is(version(&version_body(tiny)), WireError::VersionJson);
    let deep = [vec![b'['; 4000], vec![0]].concat();
    is(version(&version_body(&deep)), WireError::VersionJson);
    is(
        version(&version_body(&vec![b' '; 5000])),
        WireError::VersionText,
    );
    is(version(&[1, 0, 0, 0]), WireError::Major(1));
    assert!(matches!(
        version(&[0]),
        Error::Version(WireError::BodyTooShort { .. })
    ));

    assert!(matches!(
        end_of(false, &message(1, 13, 0, &[]), &[]),
        Error::VersionMissing(13)
    ));
    assert!(matches!(
        end_of(false, &message(1, 99, 0, &[]), &[]),
        Error::VersionMissing(99)
    ));
    let twice = message(1, 1, 0, &version_body(QEMU_CAPS));
    assert!(matches!(end_of(true, &twice, &[]), Error::VersionTwice));
    // VERSION without a wish for an answer makes no sense.
    let silent = message(1, 1, 16, &version_body(QEMU_CAPS));
    assert!(matches!(end_of(false, &silent, &[]), Error::Version(_)));
}

#[test]
fn the_version_reply_suits_old_clients() {
    let (_served, stream) = Served::start();
    let mut raw = Raw::new(stream);
    let request = message(1, 1, 0, &version_body(QEMU_CAPS));
    raw.0.write_all(&request).unwrap();
    let (_, _, _, _, body) = raw.receive();
    assert!(16 + body.len() <= request.len());
    assert_eq!(body[..4], [0; 4]);
    let caps = Capabilities::parse(&body[4..]).unwrap();
    assert_eq!(caps, Capabilities::own(65535));
    // A higher minor version is answered with ours, and no capabilities are all defaults.
    let (_served, stream) = Served::start();
    let mut raw = Raw::new(stream);
    raw.send(1, 1, 0, &[0, 0, 7, 0]);
    assert_eq!(raw.receive().4[..4], [0; 4]);
}

#[test]
fn a_client_that_never_says_version_does_not_block_the_next() {
    let options = ServerOptions {
        send_timeout: Duration::from_millis(50),
        ..ServerOptions::default()
    };
    let (mut served, _stream) = Served::start_with(options);
    assert!(matches!(served.ended(), Err(Error::VersionTimeout)));
    let (mut served, stream) = Served::start();
    drop(stream);
    assert_eq!(served.ended().unwrap(), Ended::Disconnected);
    served.events.assert_none();
}

#[test]
fn malformed_bodies_are_refused_and_the_connection_goes_on() {
    let (mut served, mut raw) = begun();
    let set =
        |flags: u32, index: u32, start: u32, count: u32| words(&[20, flags, index, start, count]);
    let map = |flags: u32, offset: u64, iova: u64, size: u64| {
        let tail = [offset, iova, size].map(u64::to_ne_bytes).concat();
        [words(&[32, flags]), tail].concat()
    };
    let unmap = |flags: u32, iova: u64, size: u64| {
        [
            words(&[24, flags]),
            [iova, size].map(u64::to_ne_bytes).concat(),
        ]
        .concat()
    };
    let (msix, none) = (irq::MSIX, irq::COUNT);
    let bad: Vec<(u16, Vec<u8>)> = vec![
        (2, vec![]),
        (2, vec![0; 31]),
        (2, map(0, 0, 0, 4096)),
        (2, map(0x13, 0, 0, 4096)),
        (2, map(3, 0, 0, 0)),
        (2, map(3, 0, u64::MAX - 5, 4096)),
        (3, vec![0; 23]),
        (3, unmap(2, 0, 4096)),
        (3, unmap(3, 0, 0)),
        (3, unmap(4, 0, 4096)),
        (3, unmap(0, 0, 0)),
        (4, words(&[15, 0, 0, 0])),
        (4, vec![0; 15]),
        (5, words(&[31, 0, 0, 0, 0, 0, 0, 0])),
        (5, words(&[32, 0, 9, 0, 0, 0, 0, 0])),
        (7, words(&[16, 0, none, 0])),
        (7, words(&[16, 0])),
        (8, vec![0; 19]),
        (8, set(0x21, msix, 0, VECTORS + 1)),
        (8, set(0x21, msix, 1, VECTORS)),
        (8, set(0x21, msix, u32::MAX, 2)),
        (8, set(0x24, msix, 0, u32::MAX)),
        (8, set(0x22, msix, 0, u32::MAX)),
        // More flags announced than sent.
        (8, [set(0x22, msix, 0, 3), vec![1, 1]].concat()),
        (8, set(0x22, msix, 0, 0)),
        (8, set(0x24, msix, 0, 0)),
        (8, set(0x21, none, 0, 0)),
        // No action, two actions, two kinds of data, none, an unknown bit.
        (8, set(0x01, msix, 0, 1)),
        (8, set(0x31, msix, 0, 1)),
        (8, set(0x23, msix, 0, 1)),
        (8, set(0x20, msix, 0, 1)),
        (8, set(0x61, msix, 0, 1)),
        (8, set(0x09, msix, 0, 0)),
        (8, set(0x14, msix, 0, 2)),
        (9, vec![0; 15]),
        (9, access(0, region::BAR0, u32::MAX)),
        (9, access(0, region::ROM, (1 << 20) + 1)),
        (9, access(0, region::BAR0, 0)),
        (9, access(u64::MAX, region::BAR0, 4)),
        (9, access(0, u32::MAX, 4)),
        (10, access(0, region::BAR0, 4)),
        (10, [access(0, region::BAR0, 5), vec![0; 4]].concat()),
        (10, [access(0, region::BAR0, 0), vec![0; 4]].concat()),
    ];
    for (id, (command, body)) in (100..).zip(&bad) {
        raw.send(id, *command, 0, body);
        let (reply, answered, flags, errno, rest) = raw.receive();
        assert_eq!(
            (reply, answered, flags),
            (id, *command, 0x21),
            "{command} {body:x?}"
        );
        assert_eq!(errno, Errno::EINVAL as u32, "{command} {body:x?}");
        assert!(rest.is_empty());
        // The same without a wish for a reply gets none.
        raw.send(id, *command, 0x10, body);
    }
    // What is not offered: unknown commands, those of the other direction, dirty pages.
    let not_offered = [
        (0, vec![]),
        (6, vec![0; 16]),
        (11, vec![0; 16]),
        (15, vec![]),
        (99, vec![]),
    ];
    for (command, body) in not_offered.into_iter().chain([(3, unmap(1, 0, 4096))]) {
        raw.send(5, command, 0, &body);
        let (_, answered, flags, errno, _) = raw.receive();
        assert_eq!(
            (answered, flags, errno),
            (command, 0x21, Errno::ENOTSUP as u32)
        );
    }
    served.events.assert_none();
    raw.send(6, 9, 0, &access(0, region::BAR0, 4));
    assert_eq!(raw.receive().2, 1);
    drop(raw);
    assert_eq!(served.ended().unwrap(), Ended::Disconnected);
}

#[test]
fn messages_may_come_in_any_pieces_padded_and_in_heaps() {
    let (mut served, mut raw) = begun();
    let write = |value: u8| {
        message(
            9,
            10,
            0,
            &[access(0, region::BAR0, 4), vec![value; 4]].concat(),
        )
    };
    // Every split in two, then byte by byte.
    let bytes = write(1);
    for at in 1..bytes.len() {
        raw.0.write_all(&bytes[..at]).unwrap();
        raw.0.write_all(&bytes[at..]).unwrap();
        assert_eq!(raw.receive().2, 1);
    }
    for byte in &bytes {
        raw.0.write_all(&[*byte]).unwrap();
    }
    assert_eq!(raw.receive().2, 1);
    // Longer than needed.
    let padding = vec![0xee; 4000];
    let padded = [access(0, region::BAR0, 4), vec![2; 4], padding].concat();
    raw.send(1, 10, 0, &padded);
    assert_eq!(raw.receive().2, 1);
    // Many in one, with a long one among them that outgrows the buffer.
    let long = message(
        9,
        10,
        0,
        &[access(0, region::BAR0, 0x3000), vec![5; 0x3000]].concat(),
    );
    let heap = [write(3).repeat(300), long, write(4).repeat(300)].concat();
    std::thread::scope(|scope| {
        let mut writer = raw.0.try_clone().unwrap();
        scope.spawn(move || writer.write_all(&heap).unwrap());
        for _ in 0..601 {
            assert_eq!(raw.receive().2, 1);
        }
    });
    raw.send(1, 9, 0, &access(2, region::BAR0, 4));
    assert_eq!(raw.receive().4[16..], [4, 4, 5, 5]);
    raw.0.shutdown(Shutdown::Both).unwrap();
    assert_eq!(served.ended().unwrap(), Ended::Disconnected);
}

/// How many descriptors of this process refer to the same pipe as `fd`.
fn holders(fd: RawFd) -> usize {
    let link = |path: std::path::PathBuf| std::fs::read_link(path).ok();
    let ours = link(format!("/proc/self/fd/{fd}").into()).unwrap();
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    all.filter_map(|entry| link(entry.ok()?.path()))
        .filter(|path| *path == ours)
        .count()
}

#[test]
fn descriptors_are_taken_used_or_closed_but_never_kept() {
    // The other end would count as well.
    let (_, writer) = nix::unistd::pipe().unwrap();
    let fd = writer.as_raw_fd();
    let (mut served, mut raw) = begun();
    let set = |count: u32| words(&[20, 0x24, irq::MSIX, 0, count]);
    // 16 are fine, and arrive; also when they come ahead of the rest of the message.
    let bytes = message(1, 8, 0, &set(16));
    send_with_fds(&raw.0, &bytes, &[fd; 16]);
    assert_eq!(raw.receive().2, 1);
    send_with_fds(&raw.0, &bytes[..3], &[fd; 10]);
    send_with_fds(&raw.0, &bytes[3..], &[fd; 6]);
    assert_eq!(raw.receive().2, 1);
    assert_eq!(served.device.eventfds.lock().unwrap().len(), 32);
    served.device.eventfds.lock().unwrap().clear();
    // A number that does not fit, descriptors that nothing wants, a command that is refused.
    for (command, body) in [
        (8, set(15)),
        (8, words(&[20, 0x21, 2, 0, 0])),
        (13, vec![]),
        (99, vec![]),
    ] {
        send_with_fds(&raw.0, &message(2, command, 0, &body), &[fd; 16]);
        raw.receive();
    }
    let map = [
        words(&[32, 3]),
        [0u64, 0, 4096].map(u64::to_ne_bytes).concat(),
    ]
    .concat();
    send_with_fds(&raw.0, &message(2, 2, 0, &map), &[fd; 2]);
    assert_eq!(raw.receive().3, Errno::EINVAL as u32);
    assert_eq!(holders(fd), 1);

    // Two messages with descriptors each, read in one go or not: each gets its own.
    send_with_fds(&raw.0, &message(3, 8, 0, &set(2)), &[fd; 2]);
    raw.send(4, 9, 0, &access(0, region::BAR0, 4));
    send_with_fds(&raw.0, &message(5, 8, 0, &set(3)), &[fd; 3]);
    for id in 3..=5 {
        let (got, _, flags, ..) = raw.receive();
        assert_eq!((got, flags), (id, 1));
    }
    served.events.find("irq 2.0 eventfds ++");
    served.events.find("irq 2.0 eventfds +++");

    raw.0.shutdown(Shutdown::Both).unwrap();
    served.ended().unwrap();
    assert_eq!(holders(fd), 1);

    // Too many with one message, with pieces of it, and with a message that never ends.
    for fds in [17, 200] {
        let error = end_of(true, &bytes, &vec![fd; fds]);
        assert!(matches!(error, Error::TooManyFds), "{error:?}");
        assert_eq!(holders(fd), 1);
    }
    let (mut served, raw) = begun();
    send_with_fds(&raw.0, &bytes[..10], &[fd; 16]);
    send_with_fds(&raw.0, &bytes[10..], &[fd; 1]);
    raw.0.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(served.ended(), Err(Error::TooManyFds)));
    let (mut served, raw) = begun();
    for _ in 0..3 {
        send_with_fds(&raw.0, &header(MAX_MESSAGE as u32, 10, 0)[..5], &[fd; 16]);
    }
    assert!(matches!(served.ended(), Err(Error::TooManyFds)));
    assert_eq!(holders(fd), 1);
}

#[test]
fn a_flood_of_replies_ends_at_the_first() {
    let flood = message(1, 11, 1, &[0; 20]).repeat(1000);
    let error = end_of(true, &flood, &[]);
    assert!(
        matches!(error, Error::UnexpectedReply { command: 11, .. }),
        "{error:?}"
    );
}
