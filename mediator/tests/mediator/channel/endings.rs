//! A reset, a PF driver that is gone, a VF that is taken down, and the next tenant.

use super::*;

#[test]
fn a_reset_answers_reset_and_old_answers_are_dropped() {
    let (mut channel, mut fake) = probed();
    ask_mailbox(&mut channel, SET_VLAN, 0, &mut fake);
    let mailbox = fake.last();
    ask_block(&mut channel, Command::Read, 1, 8, 0, &mut fake);
    let block = fake.last();
    fake.events.clear();
    channel.reset(ResetCause::CtrlRst, 1, &mut fake);
    assert_eq!(
        fake.sent.last(),
        Some(&ToPf::Reset {
            vf: 3,
            generation: 2,
            cause: ResetCause::CtrlRst
        })
    );
    assert_eq!(fake.verdicts(), ["Reset", "Reset"]);
    assert_eq!(status(&channel).verdict(), Ok(Some(Status::Reset)));
    assert_eq!(
        (v2p(&mut channel), word(&channel, 0)),
        (0, 0),
        "the mailbox is as new"
    );
    fake.notified = 0;
    answer(
        &mut channel,
        mailbox,
        Status::Ok,
        mailbox_body(&[ACK | SET_VLAN]),
        2,
        &mut fake,
    );
    answer(
        &mut channel,
        block,
        Status::Ok,
        ReplyBody::Block(BlockData::new(&[1; 8]).unwrap()),
        2,
        &mut fake,
    );
    channel.invalidate(1, 2, &mut fake);
    assert_eq!(
        (v2p(&mut channel), word(&channel, 0), fake.notified),
        (0, 0, 0)
    );
    assert_eq!(channel.next_deadline(), None);
    // A request after the reset comes after it on the wire, with the new generation.
    ask_mailbox(&mut channel, RESET, 3, &mut fake);
    assert_eq!(fake.last().generation, 2);
    let reset_at = fake
        .sent
        .iter()
        .rposition(|m| matches!(m, ToPf::Reset { .. }))
        .unwrap();
    assert_eq!(reset_at, fake.sent.len() - 2);
}

#[test]
fn without_a_pf_driver_everything_is_refused_at_once() {
    let (mut channel, mut fake) = probed();
    ask_mailbox(&mut channel, SET_VLAN, 0, &mut fake);
    ask_block(&mut channel, Command::Read, 1, 8, 0, &mut fake);
    fake.pf = false;
    channel.pf_gone(1, &mut fake);
    assert_eq!(word(&channel, 0), NACK | CTS | SET_VLAN);
    assert_eq!(status(&channel).verdict(), Ok(Some(Status::PfGone)));
    ask_mailbox(&mut channel, SET_VLAN, 2, &mut fake);
    assert_eq!(word(&channel, 0), NACK | CTS | SET_VLAN);
    ask_block(&mut channel, Command::Write, 64, 8, 2, &mut fake);
    assert_eq!(status(&channel).verdict(), Ok(Some(Status::PfGone)));
    // Back, but the VF is not offered yet.
    fake.pf = true;
    let sent = fake.sent.len();
    ask_mailbox(&mut channel, SET_VLAN, 3, &mut fake);
    assert_eq!(
        fake.sent.len(),
        sent,
        "nothing to a PF driver that has not adopted the VF"
    );
    channel.pf_offered(true, &mut fake);
    assert_eq!(
        fake.sent.last(),
        Some(&ToPf::Attached {
            vf: 3,
            generation: 1
        }),
        "the generation stays"
    );
    ask_mailbox(&mut channel, SET_VLAN, 4, &mut fake);
    assert!(matches!(fake.sent.last(), Some(ToPf::Request(_))));
}

#[test]
fn teardown_answers_what_is_outstanding_and_what_comes_after() {
    let (mut channel, mut fake) = probed();
    ask_mailbox(&mut channel, SET_VLAN, 0, &mut fake);
    ask_block(&mut channel, Command::Write, 64, 8, 0, &mut fake);
    channel.tear_down(1, &mut fake);
    assert_eq!(word(&channel, 0), NACK | CTS | SET_VLAN);
    assert_eq!(status(&channel).verdict(), Ok(Some(Status::TornDown)));
    ask_block(&mut channel, Command::Write, 64, 8, 2, &mut fake);
    assert_eq!(status(&channel).verdict(), Ok(Some(Status::TornDown)));
    assert_eq!(fake.verdicts()[1..], ["TornDown"; 3]);
}

#[test]
fn the_next_tenant_finds_nothing() {
    let (mut channel, mut fake) = probed();
    channel.write_memory(0, &[0x5A; 64]);
    channel.write_block(BUFFER, &[0x5A; 128], 0, &mut fake);
    put(&mut channel, BarRegister::BlockId, 0x5A5A, 0, &mut fake);
    channel.invalidate(1, u64::MAX, &mut fake);
    channel.detach(1, &mut fake);
    channel.reset(ResetCause::Tenant, 1, &mut fake);
    let mut memory = [1; 64];
    channel.read_memory(0, &mut memory);
    assert_eq!(memory, [0; 64]);
    let mut rest = vec![1; 0x1000 - 0x10];
    channel.read_block(0x10, &mut rest);
    assert!(rest.iter().all(|&byte| byte == 0));
    assert_eq!(v2p(&mut channel), 0);
}
