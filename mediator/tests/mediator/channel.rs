//! The channel of one VF as a state machine: deadlines, generations, late and forged answers,
//! floods, teardown. Time is a number here.

use igb::mailbox::{ACK, CTS, ID_MASK, MessageId, NACK};
use igb::{PVTEICS, Register, V2PMAILBOX, vf};
use mediator::audit::Event;
use mediator::channel::{Channel, Host};
use mediator::limits::Limits;
use mediator_protocol::bar::{BUFFER, Command, Register as BarRegister, StatusRegister};
use mediator_protocol::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const RESET: u32 = MessageId::Reset as u32;
const SET_VLAN: u32 = MessageId::SetVlan as u32;

/// Remembers what the channel said.
struct Fake {
    pf: bool,
    sent: Vec<ToPf>,
    notified: usize,
    events: Vec<Event>,
    ids: u64,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            pf: true,
            sent: Vec::new(),
            notified: 0,
            events: Vec::new(),
            ids: 0,
        }
    }
}

impl Host for Fake {
    fn send(&mut self, message: ToPf) -> bool {
        if self.pf {
            self.sent.push(message);
        }
        self.pf
    }
    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }
    fn notify(&mut self) {
        self.notified += 1;
    }
    fn record(&mut self, event: Event) {
        self.events.push(event);
    }
}

impl Fake {
    fn requests(&self) -> Vec<Request> {
        self.sent
            .iter()
            .filter_map(|m| {
                if let ToPf::Request(request) = m {
                    Some(*request)
                } else {
                    None
                }
            })
            .collect()
    }

    fn last(&self) -> Request {
        *self.requests().last().expect("a request")
    }

    fn verdicts(&self) -> Vec<&'static str> {
        let verdict = |e: &Event| {
            if let Event::Request { verdict, .. } = e {
                Some(*verdict)
            } else {
                None
            }
        };
        self.events.iter().filter_map(verdict).collect()
    }
}

fn channel_with(limits: Limits) -> (Channel, Fake) {
    let mut fake = Fake::default();
    let mut channel = Channel::new(3, 0, limits, 0);
    channel.pf_offered(true, &mut fake);
    channel.reset(ResetCause::Tenant, 0, &mut fake);
    channel.attach(&mut fake);
    (channel, fake)
}

fn channel() -> (Channel, Fake) {
    channel_with(Limits::default())
}

fn v2p(channel: &mut Channel) -> u32 {
    channel.read_v2p(0, u32::MAX)
}

fn word(channel: &Channel, n: usize) -> u32 {
    let mut bytes = [0; 4];
    channel.read_memory(4 * n, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn ask_mailbox(channel: &mut Channel, word0: u32, now: u64, fake: &mut Fake) {
    channel.write_v2p(V2PMAILBOX::VFU.mask(), now, fake);
    channel.write_memory(0, &word0.to_le_bytes());
    channel.write_v2p(V2PMAILBOX::REQ.mask(), now, fake);
}

fn put(channel: &mut Channel, register: BarRegister, value: u32, now: u64, fake: &mut Fake) {
    channel.write_block(register.offset(), &value.to_le_bytes(), now, fake);
}

fn ask_block(
    channel: &mut Channel,
    command: Command,
    block: u32,
    length: u32,
    now: u64,
    fake: &mut Fake,
) {
    put(channel, BarRegister::BlockId, block, now, fake);
    put(channel, BarRegister::Length, length, now, fake);
    put(channel, BarRegister::Command, command as u32, now, fake);
}

fn status(channel: &Channel) -> StatusRegister {
    let mut bytes = [0; 4];
    channel.read_block(BarRegister::Status.offset(), &mut bytes);
    StatusRegister(u32::from_le_bytes(bytes))
}

fn answer(
    channel: &mut Channel,
    request: Request,
    status: Status,
    body: ReplyBody,
    now: u64,
    fake: &mut Fake,
) {
    channel.reply(&Reply::to(&request, status, body), now, fake);
}

fn mailbox_body(words: &[u32]) -> ReplyBody {
    ReplyBody::Mailbox(MailboxWords::new(words).unwrap())
}

/// Brings the VF to where Linux's igbvf is after probe.
fn probed() -> (Channel, Fake) {
    let (mut channel, mut fake) = channel();
    ask_mailbox(&mut channel, RESET, 0, &mut fake);
    let request = fake.last();
    answer(
        &mut channel,
        request,
        Status::Ok,
        mailbox_body(&[RESET | ACK, 1, 2]),
        1,
        &mut fake,
    );
    v2p(&mut channel);
    channel.write_v2p(V2PMAILBOX::ACK.mask(), 1, &mut fake);
    fake.notified = 0;
    (channel, fake)
}

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

#[test]
fn an_invalidation_storm_coalesces() {
    let (mut channel, mut fake) = probed();
    ask_block(&mut channel, Command::Abandon, 0, 0, 0, &mut fake);
    fake.notified = 0;
    for _ in 0..1000 {
        channel.invalidate(1, 2, &mut fake);
    }
    // One for the blocks, one for PF_CONTROL, one because the VF has not read that yet.
    assert_eq!(fake.notified, 3);
    assert_eq!(word(&channel, 0), MessageId::PfControl as u32 | CTS);
}

#[test]
fn link_changes_are_told_once_to_a_vf_that_uses_its_mailbox() {
    let (mut channel, mut fake) = channel();
    channel.link(false, 1000, &mut fake);
    assert_eq!(
        (channel.link_up(), fake.notified),
        (false, 0),
        "nobody there to tell"
    );
    let (mut channel, mut fake) = probed();
    channel.link(false, 1000, &mut fake);
    channel.link(false, 1000, &mut fake);
    assert_eq!(fake.notified, 1);
    assert_eq!(v2p(&mut channel), V2PMAILBOX::PFSTS.mask());
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

/// The contract crate and this test mean the same register.
#[test]
fn notification_registers_exist() {
    assert_eq!(PVTEICS::VECTORS.put(1 << 2), 4);
    const { assert!(vf::VTEICS::OFFSET == 0x1520) };
}

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
