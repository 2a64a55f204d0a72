//! Whatever VF and PF driver do, in any order.

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Mailbox(u32),
    V2p(u32),
    Block(u64, Vec<u8>),
    Answer {
        back: usize,
        status: Status,
        words: Vec<u32>,
    },
    Expire,
    Reset,
    PfGone,
    PfBack,
    Invalidate(u64),
    Link(bool),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u32>().prop_map(Step::Mailbox),
        2 => (0u32..256).prop_map(Step::V2p),
        4 => (0u64..0x110, prop::collection::vec(any::<u8>(), 0..12)).prop_map(|(at, data)| Step::Block(at & !3, data)),
        2 => (1u32..4).prop_map(|command| Step::Block(BarRegister::Command.offset(), command.to_le_bytes().to_vec())),
        2 => (1u32..130).prop_map(|length| Step::Block(BarRegister::Length.offset(), length.to_le_bytes().to_vec())),
        4 => (0usize..6, prop::sample::select(Status::ALL), prop::collection::vec(any::<u32>(), 1..5))
            .prop_map(|(back, status, words)| Step::Answer { back, status, words }),
        1 => Just(Step::Expire),
        1 => Just(Step::Reset),
        1 => Just(Step::PfGone),
        1 => Just(Step::PfBack),
        1 => any::<u64>().prop_map(Step::Invalidate),
        1 => any::<bool>().prop_map(Step::Link),
        2 => (0u64..1000 * MS).prop_map(Step::Later),
    ]
}

proptest! {
    /// Whatever VF and PF driver do: what is outstanding is bounded, each request that the PF driver
    /// got is recorded exactly once in the end, BUSY means outstanding, and no answer of the
    /// mediator's own passes for a grant.
    #[test]
    fn every_request_ends_exactly_once(steps in prop::collection::vec(step(), 0..150)) {
        let limits = Limits { outstanding: 4, burst: 50, ..Limits::default() };
        let (mut channel, mut fake) = channel_with(limits);
        let mut now = 0;
        for step in steps {
            match step {
                Step::Mailbox(word0) => ask_mailbox(&mut channel, word0, now, &mut fake),
                Step::V2p(value) => channel.write_v2p(value, now, &mut fake),
                Step::Block(at, data) => channel.write_block(at, &data, now, &mut fake),
                Step::Answer { back, status, words } => {
                    let requests = fake.requests();
                    if let Some(request) = requests.len().checked_sub(back + 1).map(|n| requests[n]) {
                        let mut words = words;
                        if let RequestBody::Mailbox(asked) = request.body {
                            words[0] = words[0] & !ID_MASK | asked[0] & ID_MASK;
                        }
                        answer(&mut channel, request, status, mailbox_body(&words), now, &mut fake);
                    }
                }
                Step::Expire => channel.expire(now, &mut fake),
                Step::Reset => channel.reset(ResetCause::Flr, now, &mut fake),
                Step::PfGone => {
                    fake.pf = false;
                    channel.pf_gone(now, &mut fake);
                }
                Step::PfBack => {
                    fake.pf = true;
                    channel.pf_offered(true, &mut fake);
                }
                Step::Invalidate(mask) => channel.invalidate(channel.generation(), mask, &mut fake),
                Step::Link(up) => channel.link(up, 1000, &mut fake),
                Step::Later(by) => now += by,
            }
            prop_assert!(channel.outstanding() <= 4);
        }
        channel.tear_down(now, &mut fake);
        prop_assert!(!status(&channel).is_busy());
        prop_assert_eq!(channel.outstanding(), 0);
        prop_assert_eq!(channel.next_deadline(), None);
        for request in fake.requests() {
            let ended = fake.events.iter().filter(|e| matches!(e, Event::Request { id, .. } if *id == request.id)).count();
            prop_assert_eq!(ended, 1, "request {}", request.id);
        }
    }
}
