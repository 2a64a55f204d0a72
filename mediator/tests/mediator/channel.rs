//! The channel of one VF as a state machine: deadlines, generations, late and forged answers,
//! floods, teardown. Time is a number here.

mod answers;
mod any_order;
mod bounds;
mod endings;
mod notices;
mod waiting;

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
