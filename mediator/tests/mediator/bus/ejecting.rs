//! How a PF driver takes a VF back.

use super::*;

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
