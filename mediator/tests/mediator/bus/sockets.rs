//! Real sockets, of VFs, PF and control, and memory that passes through them.

use super::*;

#[test]
fn dma_passes_with_and_without_files() {
    struct Memory;
    impl DmaHandler for Memory {
        fn dma_read(&self, iova: u64, len: usize, reply: DmaReply) {
            if iova == 0x1000 {
                reply.data(&vec![0xA5; len])
            } else {
                reply.error(Errno::EFAULT)
            }
        }
        fn dma_write(&self, _: u64, _: &[u8], reply: DmaReply) {
            reply.done();
        }
    }
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    guest.function.set_dma_handler(Arc::new(Memory));
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x1000).unwrap();
    guest
        .function
        .dma_map(0x1000, 0x1000, DmaAccess::all(), None)
        .unwrap();
    guest
        .function
        .dma_map(0x8000, 0x1000, DmaAccess::all(), Some((file.as_fd(), 0)))
        .unwrap();
    assert_eq!(
        card.vf(0).count(&Seen::Map {
            iova: 0x1000,
            size: 0x1000,
            file: false
        }),
        1
    );
    assert_eq!(
        card.vf(0).count(&Seen::Map {
            iova: 0x8000,
            size: 0x1000,
            file: true
        }),
        1
    );
    let answer = card.vf(0).dma_read(0x1000, 16);
    assert_eq!(answer.recv_timeout(SOON).unwrap(), Ok(vec![0xA5; 16]));
    let answer = card.vf(0).dma_read(0x9000, 16);
    assert_eq!(answer.recv_timeout(SOON).unwrap(), Err(Errno::EFAULT));
    guest.function.dma_unmap(0x1000, 0x1000).unwrap();
    assert_eq!(card.vf(0).count(&Seen::Unmap { iova: 0x1000 }), 1);
}

/// Over real sockets: VF, PF and control; files come and go, and the audit log tells the story.
#[test]
fn sockets_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (pf_socket, control_socket, audit) =
        (path("pf.sock"), path("ctl.sock"), path("audit.jsonl"));
    let (mediator, card) = mediator(1, |options| {
        options.socket_dir = Some(path("vm"));
        options.pf_socket = Some(pf_socket.clone());
        options.control_socket = Some(control_socket.clone());
        options.audit = Audit::to_file(&audit).unwrap();
    });
    let mut pf = FakePf::silent(UnixStream::connect(&pf_socket).unwrap());
    pf.hello(Token::ABSENT);
    assert!(matches!(pf.receive(), Some(ToPf::Welcome { .. })));
    pf.offer(0);
    assert!(mediator.wait_for_device(0, SOON).is_some());
    let vf_socket = path("vm/vf0.sock");
    let guest = VfioUser::connect(&vf_socket, ClientOptions::default()).unwrap();
    let mut magic = [0; 4];
    guest.read(bar::INDEX, 0, &mut magic).unwrap();
    assert_eq!(u32::from_le_bytes(magic), bar::MAGIC);
    // A REQ event that is none is refused; a real one is not.
    let file = tempfile::tempfile().unwrap();
    assert!(
        guest
            .set_eventfds(irq::REQ, 0, &[Some(file.as_fd())])
            .is_err()
    );
    let asked = EventFd::new().unwrap();
    guest
        .set_eventfds(irq::REQ, 0, &[Some(asked.as_fd())])
        .unwrap();

    let Ok(ControlAnswer::Slots { slots }) = control::ask(&control_socket, ControlRequest::List {})
    else {
        panic!()
    };
    assert_eq!(
        (slots[0].state.as_str(), slots[0].attached),
        ("present", true)
    );
    assert_eq!(slots[0].socket.as_deref(), Some(vf_socket.as_path()));
    let answer = control::ask(&control_socket, ControlRequest::Revoke { slot: 0 }).unwrap();
    assert_eq!(
        answer,
        ControlAnswer::Absent {
            slot: 0,
            graceful: false
        }
    );
    assert!(!vf_socket.exists());
    assert!(
        guest.read(bar::INDEX, 0, &mut magic).is_err(),
        "its connection has ended"
    );
    pf.until(ejected);
    let again = control::ask(&control_socket, ControlRequest::Revoke { slot: 0 }).unwrap();
    assert!(matches!(again, ControlAnswer::Error { .. }));

    // Back again, and left to the mediator to clean up.
    pf.offer(0);
    assert!(mediator.wait_for_device(0, SOON).is_some());
    let guest = VfioUser::connect(&vf_socket, ClientOptions::default()).unwrap();
    drop(mediator);
    assert!(guest.read(bar::INDEX, 0, &mut magic).is_err());
    pf.until(ejected);
    assert_eq!(pf.receive(), None);
    assert!(!vf_socket.exists() && !pf_socket.exists() && !control_socket.exists());
    let log = card.vf(0).log();
    assert_eq!(log.last(), Some(&Seen::Disconnect));
    let text = std::fs::read_to_string(&audit).unwrap();
    let events: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["event"]
                .as_str()
                .unwrap()
                .into()
        })
        .collect();
    for event in [
        "pf-connected",
        "reset",
        "present",
        "attach",
        "detach",
        "absent",
    ] {
        assert!(
            events.iter().any(|e| e == event),
            "{event} is missing from {events:?}"
        );
    }
}

/// The control socket takes hostile input for what it is.
#[test]
fn the_control_socket_answers_nonsense_with_an_error() {
    use std::io::{BufRead, BufReader, Write};
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ctl.sock");
    let (_mediator, _card) = mediator(0, |options| options.control_socket = Some(socket.clone()));
    for line in [
        "{}\n",
        "[]\n",
        "{\"op\":\"eject\"}\n",
        "{\"op\":\"list\",\"x\":1}\n",
        "\n",
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(
            answer.starts_with("{\"ok\":false,\"error\":"),
            "{line:?}: {answer}"
        );
    }
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(&vec![b' '; 5000]).unwrap();
    let mut answer = String::new();
    let _ = BufReader::new(stream).read_line(&mut answer);
    assert!(answer.is_empty() || answer.contains("too long"), "{answer}");
}
