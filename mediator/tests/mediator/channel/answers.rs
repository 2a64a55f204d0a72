//! Answers that do not fit, and answers to what was never asked.

use super::*;

#[test]
fn answers_that_do_not_fit_are_refusals() {
    let block_data = |length| ReplyBody::Block(BlockData::new(&vec![7; length]).unwrap());
    for body in [
        mailbox_body(&[ACK | RESET]),    // of another message
        mailbox_body(&[SET_VLAN]),       // no verdict
        mailbox_body(&[CTS | SET_VLAN]), // no verdict
        block_data(4),                   // of another kind
    ] {
        let (mut channel, mut fake) = probed();
        ask_mailbox(&mut channel, SET_VLAN, 0, &mut fake);
        let request = fake.last();
        answer(&mut channel, request, Status::Ok, body, 1, &mut fake);
        assert_eq!(word(&channel, 0), NACK | CTS | SET_VLAN);
        assert!(
            fake.events
                .iter()
                .any(|e| matches!(e, Event::MalformedReply { .. }))
        );
    }
    for body in [
        block_data(5),
        block_data(0),
        ReplyBody::Empty,
        mailbox_body(&[ACK]),
    ] {
        let (mut channel, mut fake) = channel();
        ask_block(&mut channel, Command::Read, 1, 4, 0, &mut fake);
        let request = fake.last();
        answer(&mut channel, request, Status::Ok, body, 1, &mut fake);
        assert_eq!(status(&channel).verdict(), Ok(Some(Status::Invalid)));
    }
    let (mut channel, mut fake) = channel();
    ask_block(&mut channel, Command::Write, 64, 4, 0, &mut fake);
    let request = fake.last();
    answer(
        &mut channel,
        request,
        Status::Ok,
        block_data(4),
        1,
        &mut fake,
    );
    assert_eq!(
        status(&channel).verdict(),
        Ok(Some(Status::Invalid)),
        "data for a write"
    );
}

#[test]
fn forged_ids_and_generations_reach_nothing() {
    let (mut channel, mut fake) = channel();
    ask_block(&mut channel, Command::Read, 1, 4, 0, &mut fake);
    let real = fake.last();
    let body = ReplyBody::Block(BlockData::new(&[7; 4]).unwrap());
    for forged in [
        Request {
            id: real.id + 1,
            ..real
        },
        Request { id: 0, ..real },
        Request {
            generation: real.generation + 1,
            ..real
        },
        Request {
            generation: 0,
            ..real
        },
    ] {
        answer(&mut channel, forged, Status::Ok, body, 1, &mut fake);
        assert!(status(&channel).is_busy());
    }
    answer(&mut channel, real, Status::Ok, body, 1, &mut fake);
    assert_eq!(status(&channel).verdict(), Ok(Some(Status::Ok)));
    answer(
        &mut channel,
        real,
        Status::Denied,
        ReplyBody::Empty,
        1,
        &mut fake,
    );
    assert_eq!(
        status(&channel).verdict(),
        Ok(Some(Status::Ok)),
        "a replayed answer"
    );
}
