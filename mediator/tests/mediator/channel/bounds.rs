//! How much a VF may ask for and reset itself, and what the rest of it costs.

use super::*;

#[test]
fn the_outstanding_limit_holds_and_the_vf_gets_a_nack() {
    let (mut channel, mut fake) = channel_with(Limits {
        outstanding: 2,
        ..Limits::default()
    });
    for n in 0..5 {
        ask_mailbox(&mut channel, SET_VLAN, n, &mut fake);
    }
    assert_eq!(fake.requests().len(), 2);
    assert_eq!(word(&channel, 0), NACK | SET_VLAN);
    assert_eq!(fake.verdicts(), ["Busy"; 3]);
}

#[test]
fn a_flood_is_bounded_in_messages_and_in_the_log_and_ends() {
    let (mut channel, mut fake) = channel_with(Limits {
        requests_per_second: 10,
        burst: 4,
        ..Limits::default()
    });
    let before = fake.events.len();
    for n in 0..10_000u64 {
        ask_mailbox(&mut channel, SET_VLAN, n, &mut fake);
        if let Some(request) = fake.requests().get(n as usize).copied() {
            answer(
                &mut channel,
                request,
                Status::Ok,
                ReplyBody::Empty,
                n,
                &mut fake,
            );
        } else {
            assert_eq!(word(&channel, 0) & (ACK | NACK), NACK);
        }
    }
    assert_eq!(fake.requests().len(), 4);
    assert!(
        fake.events.len() - before <= 4 + 1,
        "refusals are counted, not listed"
    );
    // A tenth of a second later it is served again.
    ask_mailbox(&mut channel, SET_VLAN, 200 * MS, &mut fake);
    assert_eq!(fake.requests().len(), 5);
}

#[test]
fn invalid_commands_cost_tokens_but_do_not_silence() {
    let (mut channel, mut fake) = channel_with(Limits {
        requests_per_second: 10,
        burst: 4,
        ..Limits::default()
    });
    for n in 0..1000 {
        ask_block(&mut channel, Command::Read, 1, 129, n, &mut fake);
        assert_eq!(status(&channel).verdict(), Ok(Some(Status::Invalid)));
    }
    ask_block(&mut channel, Command::Read, 1, 4, 1000, &mut fake);
    assert_eq!(status(&channel).verdict(), Ok(Some(Status::RateLimited)));
    assert!(fake.requests().is_empty());
    ask_block(&mut channel, Command::Read, 1, 4, 300 * MS, &mut fake);
    assert_eq!(fake.requests().len(), 1);
}

#[test]
fn a_loop_of_resets_is_told_in_bounds_and_before_the_next_request() {
    let limits = Limits {
        requests_per_second: 10,
        burst: 4,
        ..Limits::default()
    };
    let (mut channel, mut fake) = channel_with(limits);
    let resets = |fake: &Fake| {
        fake.sent
            .iter()
            .filter(|m| matches!(m, ToPf::Reset { .. }))
            .count()
    };
    let before = resets(&fake);
    for n in 0..1000 {
        channel.reset(ResetCause::CtrlRst, n, &mut fake);
    }
    assert_eq!(resets(&fake) - before, 4);
    // Nothing else happens: it is told soon, once, with the last generation.
    let due = channel.next_deadline().expect("a reset is untold");
    channel.expire(due, &mut fake);
    let told = ToPf::Reset {
        vf: 3,
        generation: channel.generation(),
        cause: ResetCause::CtrlRst,
    };
    assert_eq!((fake.sent.last(), resets(&fake) - before), (Some(&told), 5));
    assert_eq!(channel.next_deadline(), None);
    // A request after an untold reset has it told first.
    let mut now = 1000 * MS;
    for _ in 0..20 {
        channel.reset(ResetCause::Flr, now, &mut fake);
    }
    now += 99 * MS + MS / 2;
    while fake.requests().is_empty() {
        now += MS / 4;
        ask_mailbox(&mut channel, RESET, now, &mut fake);
    }
    let [.., reset, request] = &fake.sent[..] else {
        panic!()
    };
    let generation = channel.generation();
    assert_eq!(
        reset,
        &ToPf::Reset {
            vf: 3,
            generation,
            cause: ResetCause::Flr
        }
    );
    assert!(matches!(request, ToPf::Request(request) if request.generation == generation));
}

/// With the tokens of its requests it could keep the PF driver from its siblings.
#[test]
fn a_second_of_resets_costs_the_pf_driver_little() {
    let (mut channel, mut fake) = channel_with(Limits::default());
    let before = fake.sent.len();
    for n in 0..10_000 {
        let now = n * MS / 10;
        channel.reset(ResetCause::CtrlRst, now, &mut fake);
        channel.expire(now, &mut fake);
    }
    assert!(fake.sent.len() - before <= 60, "{}", fake.sent.len());
}
