//! Servers that break the protocol: our client gets an error, never a hang, and keeps to itself.

mod recorder;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use recorder::*;
use vfio_user::client::{Client, ClientError, ClientOptions, Lost};
use vfio_user::wire::WireError;

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

/// A server that answers VERSION and then what the test says.
fn false_server() -> (Client, Raw) {
    false_server_with(ClientOptions::default())
}

fn false_server_with(options: ClientOptions) -> (Client, Raw) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = std::thread::spawn(move || Client::from_stream(ours, options));
    let mut raw = Raw::new(theirs);
    let (id, command, ..) = raw.receive();
    raw.send(id, command, 1, &version_body(b"{}\0"));
    (client.join().unwrap().unwrap(), raw)
}

#[test]
fn clients_survive_malformed_answers() {
    let (client, mut raw) = false_server();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut reply = |body: &[u8]| {
                let (id, command, ..) = raw.receive();
                raw.send(id, command, 1, body);
            };
            reply(&[]);
            reply(&access(0, 0, 4));
            reply(&[access(0, 0, u32::MAX), vec![0; 4]].concat());
            reply(&[access(4, 0, 4), vec![0; 4]].concat());
            reply(&[0; 12]);
            reply(&words(&[16, 0, 1, 0]));
            reply(&words(&[32, 0, 5, 0, 0, 0, 0, 0]));
            raw
        });
        for _ in 0..4 {
            let result = client.region_read(0, 0, &mut [0; 4]);
            assert!(
                matches!(result, Err(ClientError::BadReply(_))),
                "{result:?}"
            );
        }
        assert!(matches!(
            client.device_info(),
            Err(ClientError::BadReply(_))
        ));
        assert!(matches!(client.irq(0), Err(ClientError::BadReply(_))));
        assert!(matches!(client.region(0), Err(ClientError::BadReply(_))));
        assert!(!client.is_closed());
        let mut raw = server.join().unwrap();
        // An error without a number, as the crate `vfio_user` sends.
        let server = scope.spawn(move || {
            let (id, command, ..) = raw.receive();
            raw.send(id, command, 0x21, &[]);
            raw
        });
        let result = client.reset();
        assert!(matches!(
            result,
            Err(ClientError::Refused {
                errno: Errno::EIO,
                ..
            })
        ));
        drop(server.join().unwrap());
    });
}

#[test]
fn clients_leave_servers_that_break_the_protocol() {
    type Expected = fn(Lost) -> bool;
    let cases: [(Vec<u8>, Expected); 5] = [
        (message(500, 9, 1, &[]), |lost| {
            lost == Lost::UnexpectedReply(9)
        }),
        (header(3, 9, 1), |lost| {
            matches!(lost, Lost::Malformed(WireError::SizeBelowHeader(3)))
        }),
        (header(u32::MAX, 9, 1), |lost| {
            matches!(lost, Lost::Malformed(_))
        }),
        (header(16, 9, 7), |lost| {
            matches!(lost, Lost::Malformed(WireError::Type(7)))
        }),
        (vec![0; 5], |lost| lost == Lost::Truncated),
    ];
    for (bytes, expected) in cases {
        // While somebody waits for a reply, and while nobody does.
        for waiting in [true, false] {
            let (client, mut raw) = false_server();
            std::thread::scope(|scope| {
                let waiter = waiting.then(|| scope.spawn(|| client.reset()));
                if waiting {
                    raw.receive();
                }
                raw.0.write_all(&bytes).unwrap();
                raw.0.shutdown(Shutdown::Write).unwrap();
                if let Some(waiter) = waiter {
                    let result = waiter.join().unwrap();
                    assert!(matches!(result, Err(ClientError::Closed(_))), "{result:?}");
                }
            });
            let mut rest = [0];
            assert_eq!(raw.0.read(&mut rest).unwrap_or(0), 0);
            let lost = client.lost().expect("still connected");
            assert!(expected(lost), "{lost:?}");
        }
    }
}

#[test]
fn a_reply_to_another_command_is_no_reply() {
    let (client, mut raw) = false_server();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| client.reset());
        let (id, ..) = raw.receive();
        raw.send(id, 9, 1, &[]);
        let result = waiter.join().unwrap();
        assert!(matches!(
            result,
            Err(ClientError::Closed(Lost::UnexpectedReply(9)))
        ));
    });
}

#[test]
fn the_servers_commands_are_checked() {
    struct Never;
    impl vfio_user::client::DmaHandler for Never {
        fn dma_read(&self, _: u64, _: usize, _: vfio_user::client::DmaReply) {
            panic!("not checked");
        }
        fn dma_write(&self, _: u64, _: &[u8], _: vfio_user::client::DmaReply) {
            panic!("not checked");
        }
    }
    let (client, mut raw) = false_server();
    client.set_dma_handler(Arc::new(Never));
    let dma = |address: u64, count: u64| [address, count].map(u64::to_ne_bytes).concat();
    let bad = [
        (11, vec![]),
        (11, dma(0, 0)),
        (11, dma(0, (1 << 20) + 1)),
        (11, dma(u64::MAX, 2)),
        (12, dma(0, 1)),
        (12, dma(0, u64::MAX)),
    ];
    for (command, body) in bad {
        raw.send(3, command, 0, &body);
        let (id, answered, flags, errno, _) = raw.receive();
        assert_eq!(
            (id, answered, flags, errno),
            (3, command, 0x21, Errno::EINVAL as u32)
        );
    }
    raw.send(3, 2, 0, &[]);
    assert_eq!(raw.receive().3, Errno::ENOTSUP as u32);
    assert!(!client.is_closed());
}

#[test]
fn error_replies_to_posted_writes_are_put_up_with_as_often_as_there_are_any() {
    let (client, mut raw) = false_server();
    client.region_post(0, 0, &[0; 4]).unwrap();
    let (id, command, flags, ..) = raw.receive();
    assert_eq!(flags, 0x10);
    raw.send(id, command, 0x21, &[]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| client.reset());
        let (reset, ..) = raw.receive();
        raw.send(reset, 13, 1, &[]);
        waiter.join().unwrap().unwrap();
    });
    raw.send(id, command, 0x21, &[]);
    assert_eq!(raw.0.read(&mut [0]).unwrap(), 0);
    assert_eq!(client.lost(), Some(Lost::UnexpectedReply(10)));
}

#[test]
fn a_server_that_refuses_the_version_or_vanishes_fails_the_connect() {
    for reply in [
        Some((1, &b"\x01\0\0\0"[..])),
        Some((0x21, &[])),
        Some((1, b"")),
        None,
    ] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let client = std::thread::spawn(|| Client::from_stream(ours, ClientOptions::default()));
        let mut raw = Raw::new(theirs);
        let (id, command, ..) = raw.receive();
        if let Some((flags, body)) = reply {
            raw.send(id, command, flags, body);
        } else {
            drop(raw);
        }
        assert!(client.join().unwrap().is_err());
    }
    // A server that takes nothing in does not hold the client for ever.
    let timeout = Duration::from_millis(100);
    let (client, _raw) = false_server_with(ClientOptions { timeout });
    let result = loop {
        if let Err(error) = client.region_post(0, 0, &[0; 65536]) {
            break error;
        }
    };
    assert!(
        matches!(result, ClientError::Closed(Lost::Send(Errno::ETIMEDOUT))),
        "{result:?}"
    );
}

#[test]
fn whoever_has_its_reply_lets_another_receive() {
    let (client, mut raw) = false_server();
    std::thread::scope(|scope| {
        // Each sends before the next one starts: the first receives, the others wait for it.
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let waiter = scope.spawn(|| client.reset());
                (waiter, raw.receive().0)
            })
            .collect();
        for (waiter, id) in waiting {
            raw.send(id, 13, 1, &[]);
            waiter.join().unwrap().unwrap();
        }
    });
    // And nobody has left the socket unwatched.
    raw.send(3, 2, 0, &[]);
    assert_eq!(raw.receive().3, Errno::ENOTSUP as u32);
}
