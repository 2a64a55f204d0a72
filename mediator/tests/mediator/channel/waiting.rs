//! How long a request waits, and what becomes of one that nobody waits for any more.

use super::*;

#[test]
fn a_deadline_nacks_the_same_message_and_tells_the_pf() {
    let (mut channel, mut fake) = probed();
    ask_mailbox(&mut channel, 1 << 16 | SET_VLAN, 10 * MS, &mut fake);
    let request = fake.last();
    assert_eq!(channel.next_deadline(), Some(510 * MS));
    channel.expire(510 * MS - 1, &mut fake);
    assert_eq!(
        v2p(&mut channel),
        V2PMAILBOX::PFACK.mask(),
        "acknowledged, not answered"
    );
    channel.expire(510 * MS, &mut fake);
    assert_eq!(v2p(&mut channel), V2PMAILBOX::PFSTS.mask());
    // Without its info field, else igbvf takes it for granted.
    assert_eq!(word(&channel, 0), NACK | CTS | SET_VLAN);
    assert_eq!(
        fake.sent.last(),
        Some(&ToPf::Expired {
            vf: 3,
            generation: 1,
            id: request.id
        })
    );
    assert_eq!((fake.notified, channel.next_deadline()), (1, None));
    // The late success changes nothing for the VF.
    answer(
        &mut channel,
        request,
        Status::Ok,
        ReplyBody::Empty,
        600 * MS,
        &mut fake,
    );
    assert_eq!((word(&channel, 0) & (ACK | NACK), fake.notified), (NACK, 1));
    assert!(matches!(fake.events.last(), Some(Event::StaleReply { .. })));
    // The next request is served.
    ask_mailbox(&mut channel, SET_VLAN, 700 * MS, &mut fake);
    let request = fake.last();
    answer(
        &mut channel,
        request,
        Status::Ok,
        ReplyBody::Empty,
        701 * MS,
        &mut fake,
    );
    assert_eq!(word(&channel, 0), ACK | CTS | SET_VLAN);
}

#[test]
fn a_request_that_the_vf_did_not_wait_for_is_not_mistaken_for_the_next() {
    // igbvf sends SET_LPE and SET_MULTICAST without reading the answer.
    let (mut channel, mut fake) = probed();
    ask_mailbox(&mut channel, MessageId::SetLpe as u32, 0, &mut fake);
    let first = fake.last();
    ask_mailbox(&mut channel, SET_VLAN, 1, &mut fake);
    let second = fake.last();
    answer(
        &mut channel,
        first,
        Status::Denied,
        ReplyBody::Empty,
        2,
        &mut fake,
    );
    assert_eq!(
        v2p(&mut channel) & V2PMAILBOX::PFSTS.mask(),
        0,
        "not the answer it waits for"
    );
    assert_eq!(word(&channel, 0), SET_VLAN);
    answer(
        &mut channel,
        second,
        Status::Ok,
        ReplyBody::Empty,
        3,
        &mut fake,
    );
    assert_eq!(word(&channel, 0), ACK | CTS | SET_VLAN);
}

#[test]
fn a_superseded_request_may_still_succeed_late() {
    let (mut channel, mut fake) = probed();
    ask_mailbox(&mut channel, MessageId::SetLpe as u32, 0, &mut fake);
    let first = fake.last();
    ask_mailbox(&mut channel, SET_VLAN, MS, &mut fake);
    channel.expire(500 * MS, &mut fake);
    let expired = |m: &ToPf| matches!(m, ToPf::Expired { id, .. } if *id == first.id);
    assert!(!fake.sent.iter().any(expired), "the VF takes it as done");
    assert_eq!(channel.next_deadline(), Some(501 * MS));
}

#[test]
fn a_block_request_waits_as_long_as_its_caller_and_can_be_abandoned() {
    let (mut channel, mut fake) = channel();
    ask_block(&mut channel, Command::Read, 1, 4, 0, &mut fake);
    let request = fake.last();
    assert_eq!(
        request.body,
        RequestBody::ReadBlock {
            block: 1,
            length: 4
        }
    );
    assert_eq!(channel.next_deadline(), None);
    channel.expire(u64::MAX, &mut fake);
    assert!(status(&channel).is_busy());
    put(
        &mut channel,
        BarRegister::Command,
        Command::Abandon as u32,
        5,
        &mut fake,
    );
    assert_eq!(status(&channel).verdict(), Ok(Some(Status::TimedOut)));
    assert_eq!(
        fake.sent.last(),
        Some(&ToPf::Expired {
            vf: 3,
            generation: 1,
            id: request.id
        })
    );
    let data = ReplyBody::Block(BlockData::new(&[9; 4]).unwrap());
    answer(&mut channel, request, Status::Ok, data, 6, &mut fake);
    let mut buffer = [0; 4];
    channel.read_block(BUFFER, &mut buffer);
    assert_eq!(buffer, [0; 4], "a late answer leaves no trace");
}

#[test]
fn giving_up_makes_no_room() {
    let (mut channel, mut fake) = channel();
    for n in 0..100 {
        ask_block(&mut channel, Command::Read, 1, 4, n, &mut fake);
        put(
            &mut channel,
            BarRegister::Command,
            Command::Abandon as u32,
            n,
            &mut fake,
        );
    }
    assert_eq!(fake.requests().len(), 8);
    assert_eq!(
        status(&channel).verdict(),
        Ok(Some(Status::Invalid)),
        "nothing to abandon"
    );
    // The PF driver catches up, and there is room again.
    let first = fake.requests()[0];
    answer(
        &mut channel,
        first,
        Status::Ok,
        ReplyBody::Empty,
        100,
        &mut fake,
    );
    ask_block(&mut channel, Command::Read, 1, 4, 101, &mut fake);
    assert_eq!(fake.requests().len(), 9);
}
