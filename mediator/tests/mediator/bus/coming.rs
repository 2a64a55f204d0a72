//! How VFs come onto the bus, and go with the card.

use super::*;

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
