//! The virtual bus: VFs come and go, tenants change, the PF driver dies and comes back, garbage
//! arrives. Real sockets where the socket is the point.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::fixture::{FakeCard, FakePf, Guest, SOON, Seen, mediator};
use igb::Register as _;
use iommu::backend::VfioUser;
use iommu::function::Function;
use iommu::interrupt::{EventFd, InterruptSet};
use mediator::audit::Audit;
use mediator::clock::Clock;
use mediator::control::{self, ControlAnswer, ControlRequest};
use mediator::nic::Nic;
use mediator::{Mediator, MediatorOptions};
use mediator_protocol::bar::{Command, Register as BarRegister};
use mediator_protocol::*;
use nix::errno::Errno;
use std::os::fd::AsFd;
use vfio_user::client::{ClientOptions, DmaHandler, DmaReply};
use vfio_user::device::{DmaAccess, irq};

const NEVER: Duration = Duration::from_secs(3600);

fn ejected(message: &ToPf) -> bool {
    matches!(message, ToPf::Ejected { .. })
}

fn generation_of_reset(pf: &mut FakePf) -> u32 {
    match pf.until(|message| {
        matches!(
            message,
            ToPf::Reset {
                cause: ResetCause::Tenant,
                ..
            }
        )
    }) {
        ToPf::Reset { generation, .. } => generation,
        _ => unreachable!(),
    }
}

#[test]
fn a_vf_comes_when_the_card_has_it_and_the_pf_driver_offers_it() {
    let card = FakeCard::new(1);
    let mediator =
        Mediator::start(MediatorOptions::new(Arc::clone(&card) as Arc<dyn Nic>)).unwrap();
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    pf.settle();
    assert_eq!(mediator.list()[0].state, "waiting");
    card.plug(0);
    assert!(mediator.wait_for_device(0, SOON).is_some());
    assert_eq!(generation_of_reset(&mut pf), 1, "it was reset first");
    assert_eq!(mediator.list()[0].serial, "0000000000001000");
}

#[test]
fn an_offer_that_the_card_does_not_fulfil_is_rejected() {
    let card = FakeCard::new(1);
    let mut options = MediatorOptions::new(Arc::clone(&card) as Arc<dyn Nic>);
    options.offer_timeout = Duration::from_millis(30);
    let mediator = Mediator::start(options).unwrap();
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    assert_eq!(
        pf.receive(),
        Some(ToPf::Rejected {
            vf: 0,
            status: Status::TimedOut
        })
    );
    pf.offer(64);
    assert_eq!(
        pf.receive(),
        Some(ToPf::Rejected {
            vf: 64,
            status: Status::Exhausted
        })
    );
    pf.send(FromPf::Eject {
        vf: 5,
        timeout_ms: 1,
    });
    assert_eq!(
        pf.receive(),
        Some(ToPf::Rejected {
            vf: 5,
            status: Status::Invalid
        })
    );
}

/// Every tenant gets a connection, a reset and a generation of its own, and nothing of the last.
#[test]
fn tenants_follow_each_other() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let mut last = 0;
    for round in 1..=3 {
        let generation = generation_of_reset(&mut pf);
        assert!(generation > last);
        last = generation;
        let guest = Guest::attach(&mediator, 0);
        assert_eq!(pf.receive(), Some(ToPf::Attached { vf: 0, generation }));
        assert_eq!(guest.bar(BarRegister::Generation), generation);
        assert_eq!(guest.bar(BarRegister::Length), 0);
        assert_eq!(
            guest.read(igb::vf::VTIVAR_MISC::OFFSET),
            0,
            "registers were reset"
        );
        guest.route_mailbox_vector(1);
        guest.ask_block(Command::Read, 1, 99);
        let request = pf.request();
        drop(guest);
        assert_eq!(pf.receive(), Some(ToPf::Detached { vf: 0, generation }));
        // Too late: the tenant that asked is gone.
        pf.answer(
            &request,
            Status::Ok,
            ReplyBody::Block(BlockData::new(&[1; 9]).unwrap()),
        );
        card.vf(0).wait_seen(&Seen::Connect, round + 1);
    }
    let log = card.vf(0).log();
    let life: Vec<_> = log
        .iter()
        .filter(|s| matches!(s, Seen::Connect | Seen::Disconnect | Seen::Reset))
        .collect();
    for tenant in life.chunks(3) {
        assert_eq!(tenant[..2], [&Seen::Connect, &Seen::Reset], "{life:?}");
    }
}

#[test]
fn eject_asks_the_guest_and_waits_for_it() {
    let clock = Clock::manual();
    let (mediator, _card) = mediator(1, |options| options.clock = clock.clone());
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let asked = InterruptSet::new(1).unwrap();
    guest
        .function
        .set_eventfds(irq::REQ, 0, &asked.eventfds())
        .unwrap();
    pf.send(FromPf::Eject {
        vf: 0,
        timeout_ms: 60_000,
    });
    assert!(
        asked.wait(Some(SOON)).unwrap().vector(0),
        "the guest is asked"
    );
    assert_eq!(mediator.list()[0].state, "ejecting");
    // Requests still pass, so that it can shut down in order; a new offer has to wait.
    guest.ask_block(Command::Read, 1, 4);
    let request = pf.request();
    pf.answer(
        &request,
        Status::Ok,
        ReplyBody::Block(BlockData::new(&[1; 4]).unwrap()),
    );
    pf.offer(0);
    assert_eq!(
        pf.until(|m| matches!(m, ToPf::Rejected { .. })),
        ToPf::Rejected {
            vf: 0,
            status: Status::Busy
        }
    );
    drop(guest);
    assert_eq!(
        pf.until(ejected),
        ToPf::Ejected {
            vf: 0,
            graceful: true
        }
    );
    assert!(mediator.wait_absent(0, SOON));
}

#[test]
fn eject_takes_the_vf_away_when_the_time_is_up() {
    let clock = Clock::manual();
    let (mediator, card) = mediator(1, |options| options.clock = clock.clone());
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    guest.ask_block(Command::Read, 1, 4);
    pf.request();
    pf.send(FromPf::Eject {
        vf: 0,
        timeout_ms: 60_000,
    });
    pf.settle();
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(mediator.list()[0].state, "ejecting");
    clock.advance(Duration::from_millis(1));
    assert_eq!(
        pf.until(ejected),
        ToPf::Ejected {
            vf: 0,
            graceful: false
        }
    );
    // The guest's request has its answer, the VF is quiet and given back.
    assert_eq!(guest.block_status().verdict(), Ok(Some(Status::TornDown)));
    let log = card.vf(0).log();
    assert_eq!(log[log.len() - 2..], [Seen::Reset, Seen::Disconnect]);
    assert!(guest.function.read(0, 0, &mut [0; 4]).is_err());
}

#[test]
fn eject_before_set_up_is_done() {
    let card = FakeCard::new(1);
    let mediator =
        Mediator::start(MediatorOptions::new(Arc::clone(&card) as Arc<dyn Nic>)).unwrap();
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    pf.send(FromPf::Eject {
        vf: 0,
        timeout_ms: 3_600_000,
    });
    assert_eq!(
        pf.until(ejected),
        ToPf::Ejected {
            vf: 0,
            graceful: true
        }
    );
    card.plug(0);
    pf.offer(0);
    assert!(
        mediator.wait_for_device(0, SOON).is_some(),
        "it may come back"
    );
}

#[test]
fn revoke_is_immediate_and_generations_are_never_used_twice() {
    let (mediator, _card) = mediator(2, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(1);
    let other = Guest::attach(&mediator, 1);
    let mut last = 0;
    for _ in 0..3 {
        pf.offer(0);
        let generation = loop {
            match pf.receive().unwrap() {
                ToPf::Reset {
                    vf: 0, generation, ..
                } => break generation,
                _ => continue,
            }
        };
        assert!(generation > last, "the VF's identity is new each time");
        let guest = Guest::attach(&mediator, 0);
        assert_eq!(guest.bar(BarRegister::Generation), generation);
        mediator.revoke(0).unwrap();
        assert!(guest.function.read(0, 0, &mut [0; 4]).is_err());
        last = match pf.until(|m| matches!(m, ToPf::Reset { vf: 0, .. })) {
            ToPf::Reset { generation, .. } => generation,
            _ => unreachable!(),
        };
        pf.until(ejected);
    }
    assert!(
        mediator.revoke(0).is_err(),
        "twice is an error, not an accident"
    );
    assert!(mediator.revoke(9).is_err());
    assert_eq!(
        other.bar(BarRegister::Generation),
        1,
        "the sibling noticed nothing"
    );
}

#[test]
fn a_vf_that_the_card_takes_away_leaves_the_bus() {
    let (mediator, card) = mediator(2, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    pf.offer(1);
    let (guest, sibling) = (Guest::attach(&mediator, 0), Guest::attach(&mediator, 1));
    card.vf(0).unplug();
    assert_eq!(
        pf.until(ejected),
        ToPf::Ejected {
            vf: 0,
            graceful: false
        }
    );
    assert!(guest.function.read(0, 0, &mut [0; 4]).is_err());
    assert_eq!(sibling.bar(BarRegister::Magic), bar::MAGIC);
    // Without a tenant it is noticed too.
    drop(sibling);
    card.vf(1).wait_seen(&Seen::Connect, 2);
    card.vf(1).unplug();
    assert_eq!(
        pf.until(ejected),
        ToPf::Ejected {
            vf: 1,
            graceful: false
        }
    );
}

#[test]
fn the_pf_driver_goes_and_another_adopts_the_vfs() {
    let (mediator, card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let generation = guest.bar(BarRegister::Generation);
    guest.ask_block(Command::Read, 1, 4);
    pf.request();
    let connects = card.vf(0).count(&Seen::Connect);
    drop(pf);
    // A second connection is a new PF driver: by then the first one's requests have been answered.
    let mut pf = FakePf::connect(&mediator);
    assert_eq!(guest.block_status().verdict(), Ok(Some(Status::PfGone)));
    guest.ask_block(Command::Read, 1, 4);
    assert_eq!(
        guest.block_status().verdict(),
        Ok(Some(Status::PfGone)),
        "not adopted yet"
    );
    pf.offer(0);
    assert_eq!(
        pf.receive(),
        Some(ToPf::Attached { vf: 0, generation }),
        "the guest was not disturbed"
    );
    assert_eq!(card.vf(0).count(&Seen::Connect), connects);
    guest.ask_block(Command::Read, 1, 4);
    let request = pf.request();
    assert_eq!(request.generation, generation);
}

#[test]
fn only_one_pf_driver_and_only_the_right_one() {
    let token = Token::from_secret(b"83c2f1aa-0d8f-4e0c-9bb1-40de0b65ab7e");
    let (mediator, _card) = mediator(0, |options| options.token = Some(token));
    let refused = |act: &dyn Fn(&mut FakePf)| {
        let mut pf = FakePf::silent(mediator.connect_pf().unwrap());
        act(&mut pf);
        let answer = pf.receive();
        assert_eq!(pf.receive(), None, "and closed");
        answer
    };
    let reason = |reason| Some(ToPf::Refused { reason });
    assert_eq!(
        refused(&|pf| pf.hello(Token::ABSENT)),
        reason(RefuseReason::Token)
    );
    assert_eq!(
        refused(&|pf| pf.hello(Token::from_secret(b"other"))),
        reason(RefuseReason::Token)
    );
    assert_eq!(refused(&|pf| pf.offer(0)), reason(RefuseReason::Sequence));
    assert_eq!(
        refused(&|pf| pf.send_bytes(&[0xFF; 64])),
        reason(RefuseReason::Malformed)
    );
    let old = FromPf::Hello {
        version: VERSION + 1,
        features: PfFeatures::all(),
        token,
    };
    assert_eq!(refused(&|pf| pf.send(old)), reason(RefuseReason::Version));
    let mut first = FakePf::silent(mediator.connect_pf().unwrap());
    first.hello(token);
    assert!(matches!(first.receive(), Some(ToPf::Welcome { .. })));
    assert_eq!(
        refused(&|pf| pf.hello(token)),
        reason(RefuseReason::Occupied)
    );
    first.send(FromPf::Revoke { vf: 1 });
    assert!(
        matches!(first.receive(), Some(ToPf::Rejected { .. })),
        "the first is still served"
    );
}

/// Whatever a connected PF driver sends that is no message ends its connection, and no VF notices.
#[test]
fn garbage_from_the_pf_driver_ends_its_connection_only() {
    let (mediator, _card) = mediator(1, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    let generation = guest.bar(BarRegister::Generation);
    let frame = |kind: u16, length: u32, payload: &[u8]| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 2]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        bytes
    };
    let hello = FromPf::Hello {
        version: VERSION,
        features: PfFeatures::all(),
        token: Token::ABSENT,
    };
    let garbage = [
        frame(0x82, u32::MAX, &[]),  // length beyond everything
        frame(0x82, 513, &[0; 513]), // one more than allowed
        frame(0x84, 0, &[]),         // shorter than its layout
        frame(0x84, 3, &[0; 3]),     // longer than its layout
        frame(0x99, 0, &[]),         // unknown
        frame(0x06, 2, &[0; 2]),     // the mediator's own kind: a PF does not ask
        frame(0x86, 14, &[0; 14]),   // invalidation of nothing
        hello.to_bytes(),            // renegotiation in mid-session
    ];
    for bytes in garbage {
        pf.send_bytes(&bytes);
        pf.until(|m| matches!(m, ToPf::Refused { .. }));
        assert_eq!(pf.receive(), None, "{bytes:02x?}");
        pf = FakePf::connect(&mediator);
        pf.offer(0);
        assert_eq!(pf.receive(), Some(ToPf::Attached { vf: 0, generation }));
    }
    // Half a frame and silence: that connection alone waits.
    pf.send_bytes(&frame(0x84, 2, &[0]));
    guest.ask_block(Command::Read, 1, 4);
    assert!(guest.block_status().is_busy());
}

/// Whatever a VF does, giving up and resetting itself included, while the PF driver is slow: only so
/// much of it waits for the PF driver, and a sibling's request is not far behind.
#[test]
fn a_vf_cannot_bury_a_slow_pf_driver() {
    let (mediator, _card) = mediator(2, |_| {});
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    pf.offer(1);
    let (flooder, sibling) = (Guest::attach(&mediator, 0), Guest::attach(&mediator, 1));
    pf.settle();
    for n in 0..3000 {
        flooder.ask_block(Command::Read, 1, 4);
        flooder.set_bar(BarRegister::Command, Command::Abandon as u32);
        if n % 3 == 0 {
            flooder.write(igb::vf::VTCTRL::OFFSET, igb::PVTCTRL::RST.mask());
        }
    }
    sibling.ask_block(Command::Read, 1, 4);
    let mut before = 0;
    while !matches!(pf.receive(), Some(ToPf::Request(Request { vf: 1, .. }))) {
        before += 1;
    }
    // The burst, of which each request may have expired, and what came back while this ran.
    assert!(before < 2000, "{before} messages before the sibling's");
    assert!(mediator.list()[0].pf, "the connection lives");
}

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

/// Random orders of everything that can happen to a slot: no deadlock, no panic, and in the end the
/// VF can be offered again.
#[test]
fn any_order_of_events_leaves_a_working_bus() {
    for seed in 0..24u32 {
        let (mediator, card) = mediator(1, |_| {});
        let mut pf = FakePf::connect(&mediator);
        pf.offer(0);
        let mut guest = None;
        let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
        for _ in 0..12 {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            match state % 8 {
                0 => pf.offer(0),
                1 => pf.send(FromPf::Eject {
                    vf: 0,
                    timeout_ms: 1,
                }),
                2 => pf.send(FromPf::Revoke { vf: 0 }),
                3 => {
                    // One client at a time.
                    drop(guest.take());
                    guest = mediator.device(0).map(Guest::on);
                }
                4 => drop(guest.take()),
                5 => {
                    card.vf(0).unplug();
                    card.plug(0);
                }
                6 => {
                    drop(pf);
                    pf = FakePf::connect(&mediator);
                }
                _ => {
                    if let Some(guest) = &guest {
                        let _ = guest.function.write(
                            bar::INDEX,
                            BarRegister::Command.offset(),
                            &[1, 0, 0, 0],
                        );
                    }
                }
            }
        }
        drop(guest);
        // What is still on its way could take away what comes next.
        pf.settle();
        let _ = mediator.eject(0, Duration::ZERO);
        assert!(
            mediator.list().is_empty() || mediator.wait_absent(0, SOON),
            "seed {seed}"
        );
        pf.offer(0);
        assert!(mediator.wait_for_device(0, SOON).is_some(), "seed {seed}");
        assert!(Guest::attach(&mediator, 0).bar(BarRegister::Magic) == bar::MAGIC);
        let _ = mediator.eject(0, NEVER);
    }
}
