//! The mailbox: messages, and the mediator's channel of one VF with a guest on one side and a PF
//! driver on the other, both hostile.
//!
//! Input: 64 bytes that are taken as mailbox words, then operations, see [`Step`].

use std::collections::HashSet;

use igb::V2PMAILBOX;
use igb::mailbox::{PfReply, VfMessage, WORDS};
use mediator::audit::Event;
use mediator::channel::{Channel, Host};
use mediator::limits::Limits;
use mediator_protocol::{
    BlockData, MailboxWords, Reply, ReplyBody, Request, RequestBody, ResetCause, Status, ToPf, bar,
};

use super::court::Court;
use super::input::Input;

const VF: u16 = 3;
const LIMITS: Limits = Limits {
    requests_per_second: 1000,
    burst: 8,
    outstanding: 4,
    mailbox_deadline_ms: 500,
    slots: 8,
    // Of no use here: what is mapped is not the channel's.
    dma_mib: 1,
};
/// Operations per input.
const MOST: usize = 512;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    messages(&mut input);
    let mut bench = Bench::new();
    for _ in 0..MOST {
        let Some(op) = input.next() else { break };
        bench.step(op, &mut input);
        bench.check();
    }
    bench.finish();
}

/// Any words parse or do not, and what parses means the same after a round trip.
fn messages(input: &mut Input<'_>) {
    let words: [u32; WORDS] = std::array::from_fn(|_| input.u32());
    if let Ok(message) = VfMessage::parse(&words) {
        assert_eq!(VfMessage::parse(&message.encode()), Ok(message));
        if let VfMessage::SetMulticast(hashes) = message {
            assert!(hashes.as_slice().len() <= igb::mailbox::MAX_HASHES);
        }
    }
    // Before and after its beginning, in the name of every VF and of some that there are not.
    let mut court = Court::new();
    for began in [false, true] {
        for vf in [0, 1, 2, 3, 4, 7, 8, 255, u16::MAX] {
            court.mailbox(vf, &words);
        }
        if !began {
            court = Court::new();
            court.begin();
        }
    }
    if let Ok(reply) = PfReply::parse(&words) {
        assert_eq!(PfReply::parse(&reply.encode()), Ok(reply));
        assert!((1..=WORDS).contains(&reply.len()));
    }
}

/// The world around the channel.
#[derive(Default)]
struct World {
    connected: bool,
    ids: u64,
    asked: Vec<Request>,
    sent: Vec<ToPf>,
    court: Option<Court>,
    notified: u64,
    recorded: u64,
    requests: u64,
}

impl Host for World {
    fn send(&mut self, message: ToPf) -> bool {
        if let (true, ToPf::Request(request)) = (self.connected, message) {
            self.asked.push(request);
            self.requests += 1;
            if let Some(court) = &mut self.court {
                court.hear(&request);
            }
        }
        self.sent.push(message);
        self.connected
    }

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn notify(&mut self) {
        self.notified += 1;
    }

    fn record(&mut self, event: Event) {
        self.recorded += 1;
        if let Event::Request { slot, .. } = event {
            assert_eq!(slot, VF);
        }
    }
}

struct Bench {
    channel: Channel,
    world: World,
    now: u64,
    /// The guest holds the mailbox memory.
    vfu: bool,
    /// The VF is on its way out: its channel keeps the last answers and is never used again.
    torn_down: bool,
    seen: HashSet<u64>,
}

impl Bench {
    fn new() -> Self {
        Self {
            channel: Channel::new(VF, 1, LIMITS, 0),
            world: World {
                court: Some(Court::new()),
                ..World::default()
            },
            now: 0,
            vfu: false,
            torn_down: false,
            seen: HashSet::new(),
        }
    }

    fn memory(&self) -> [u8; 64] {
        let mut memory = [0; 64];
        self.channel.read_memory(0, &mut memory);
        memory
    }

    fn status(&self) -> bar::StatusRegister {
        let mut status = [0; 4];
        self.channel
            .read_block(bar::Register::Status.offset(), &mut status);
        bar::StatusRegister(u32::from_le_bytes(status))
    }

    fn step(&mut self, op: u8, input: &mut Input<'_>) {
        let (channel, world) = (&mut self.channel, &mut self.world);
        let held = self.vfu.then(|| {
            let mut memory = [0; 64];
            channel.read_memory(0, &mut memory);
            memory
        });
        match op % 20 {
            // The guest.
            0 => {
                let (offset, length) = (usize::from(input.u8()), usize::from(input.u8()));
                channel.write_memory(offset, input.bytes(length));
                return;
            }
            1 => {
                let value = u32::from(input.u8());
                channel.write_v2p(value, self.now, world);
                self.vfu = value & V2PMAILBOX::VFU.mask() != 0;
                return;
            }
            2 => {
                let (downstream, seen) = (u32::from(input.u8()), input.u32());
                let value = channel.read_v2p(downstream, seen);
                assert_eq!(value & V2PMAILBOX::VFU.mask() != 0, self.vfu);
            }
            3 => {
                let (offset, length) = (input.u16(), usize::from(input.u8()));
                let data = input.bytes(length);
                channel.write_block(offset.into(), data, self.now, world);
            }
            4 => {
                let mut data = [0xAA; 300];
                let (offset, length) = (input.u16(), usize::from(input.u8()));
                channel.read_block(offset.into(), &mut data[..length]);
            }
            // A whole request by config block.
            5 => {
                let (command, block, length) = (input.u8(), input.u8(), input.u8());
                let registers = [
                    (bar::Register::BlockId, block),
                    (bar::Register::Length, length),
                    (bar::Register::Command, command),
                ];
                for (register, value) in registers {
                    channel.write_block(
                        register.offset(),
                        &u32::from(value).to_le_bytes(),
                        self.now,
                        world,
                    );
                }
            }
            // A whole request by mailbox.
            6 => {
                channel.write_v2p(V2PMAILBOX::VFU.mask(), self.now, world);
                channel.write_memory(0, &u32::from(input.u8()).to_le_bytes());
                channel.write_v2p(V2PMAILBOX::REQ.mask(), self.now, world);
                self.vfu = false;
                return;
            }
            // The PF driver: an answer to something that it was asked, or to nothing.
            7..=9 => {
                let reply = Self::reply(op % 20, world, input);
                channel.reply(&reply, self.now, world);
            }
            10 => channel.invalidate(input.u32(), input.u64(), world),
            11 => channel.invalidate(channel.generation(), input.u64(), world),
            12 => channel.link(input.u8() & 1 != 0, input.u32(), world),
            13 => {
                world.connected = true;
                channel.pf_offered(input.u8() & 1 != 0, world);
            }
            14 => {
                world.connected = false;
                channel.pf_gone(self.now, world);
                assert_eq!(channel.outstanding(), 0, "nobody is left to answer");
            }
            // Time and the life of the VF.
            15 => self.now += u64::from(input.u16()) * 1_000_000,
            16 => channel.expire(self.now, world),
            17 => {
                let cause = ResetCause::ALL[usize::from(input.u8()) % ResetCause::ALL.len()];
                let before = channel.generation();
                channel.reset(cause, self.now, world);
                assert_ne!(channel.generation(), before);
                assert_eq!(channel.outstanding(), 0, "a reset answers what waits");
                self.vfu = false;
                let mut memory = [0xAA; 64];
                channel.read_memory(0, &mut memory);
                if self.torn_down {
                    self.vfu = channel.read_v2p(0, 0) & V2PMAILBOX::VFU.mask() != 0;
                } else {
                    assert_eq!(memory, [0; 64], "the mailbox survived a reset");
                }
                return;
            }
            18 => {
                if input.u8() & 1 != 0 {
                    channel.attach(world);
                } else {
                    channel.detach(self.now, world);
                }
            }
            _ => {
                channel.tear_down(self.now, world);
                self.torn_down = true;
            }
        }
        if let Some(before) = held
            && op % 20 != 2
        {
            assert_eq!(
                self.memory(),
                before,
                "the memory changed while the guest held it"
            );
        }
    }

    fn reply(op: u8, world: &World, input: &mut Input<'_>) -> Reply {
        let status = Status::ALL[usize::from(input.u8()) % Status::ALL.len()];
        let pick = usize::from(input.u8());
        let asked = world.asked.get(pick % world.asked.len().max(1));
        let (mut id, mut generation) =
            asked.map_or((77, 1), |request| (request.id, request.generation));
        let mut body = match asked.map(|request| request.body) {
            Some(RequestBody::Mailbox(words)) => {
                let word0 = words[0] & igb::mailbox::ID_MASK | igb::mailbox::ACK;
                ReplyBody::Mailbox(MailboxWords::new(&[word0]).expect("one word"))
            }
            Some(RequestBody::ReadBlock { length, .. }) => {
                let data = [0x5A; 128];
                let length = usize::from(length).min(data.len());
                ReplyBody::Block(BlockData::new(&data[..length]).expect("a block at most"))
            }
            _ => ReplyBody::Empty,
        };
        if op == 8 {
            (id, generation) = (input.u64(), input.u32());
        }
        if op == 9 {
            body = match input.u8() % 3 {
                0 => ReplyBody::Empty,
                1 => ReplyBody::Mailbox(
                    MailboxWords::new(&[input.u32(), input.u32()]).expect("two words"),
                ),
                _ => {
                    let length = usize::from(input.u8() & 0x7F);
                    ReplyBody::Block(BlockData::new(input.bytes(length)).expect("a block at most"))
                }
            };
        }
        Reply {
            vf: VF,
            generation,
            id,
            status,
            body,
        }
    }

    fn check(&mut self) {
        let channel = &self.channel;
        assert!(channel.outstanding() <= LIMITS.outstanding as usize);
        let allowed = u64::from(LIMITS.burst)
            + self.now * u64::from(LIMITS.requests_per_second) / 1_000_000_000;
        assert!(
            self.world.requests <= allowed,
            "{} requests, {allowed} allowed",
            self.world.requests
        );
        for message in self.world.sent.drain(..) {
            match message {
                ToPf::Request(request) => {
                    assert_eq!(request.vf, VF);
                    assert!(
                        self.seen.insert(request.id),
                        "request id {} came twice",
                        request.id
                    );
                    match request.body {
                        RequestBody::Mailbox(_) => {}
                        RequestBody::ReadBlock { length, .. } => {
                            assert!((1..=128).contains(&length))
                        }
                        RequestBody::WriteBlock { data, .. } => assert!(!data.is_empty()),
                    }
                }
                ToPf::Attached { vf, .. }
                | ToPf::Detached { vf, .. }
                | ToPf::Reset { vf, .. }
                | ToPf::Expired { vf, .. } => assert_eq!(vf, VF),
                other => panic!("a channel does not say {other:?}"),
            }
        }
        let verdict = self.status().verdict();
        assert!(verdict.is_ok(), "{verdict:?}");
        if channel.outstanding() == 0 {
            assert!(!self.status().is_busy(), "BUSY, and nobody will answer");
        }
    }

    /// Whatever came before: a PF driver that goes leaves nothing waiting, and a tenant that comes
    /// finds nothing.
    fn finish(mut self) {
        self.world.connected = false;
        self.channel.pf_gone(self.now, &mut self.world);
        self.check();
        assert_eq!(self.channel.outstanding(), 0);
        if self.torn_down {
            return;
        }
        self.channel
            .reset(ResetCause::Tenant, self.now, &mut self.world);
        let mut registers = [0; 0x400];
        self.channel
            .read_block(bar::Register::BlockId.offset(), &mut registers);
        assert!(
            registers.iter().all(|&byte| byte == 0),
            "the BAR keeps something of the old tenant"
        );
        assert_eq!(
            self.memory(),
            [0; 64],
            "the mailbox keeps something of the old tenant"
        );
        assert_eq!(self.channel.read_v2p(0, u32::MAX), 0);
    }
}
