//! The PF driver's side of the mediated channel: a test plays the mediator over a socket pair, the
//! card is the emulated one in process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use igb::FunctionId;
use igb::frame::MacAddress;
use igb::mailbox::{PfReply, VfMessage};
use igb_driver::netdev::NetDevice;
use iommu::backend::InProcess;
use iommu::interrupt::InterruptSet;
use mediator_protocol::block::{self, Accept, Config, Features, VfRequest};
use mediator_protocol::{
    BlockData, Decoder, Frame, FromPf, PfFeatures, Reply, ReplyBody, Request, RequestBody,
    ResetCause, Status, ToPf, Token, VERSION,
};
use pf_driver::{PfChannel, PfDriver, PfOptions};
use vfio_user_device::{Card, CardOptions};

/// Nothing here takes this long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A mediator with a PF driver on the other end, both in one thread.
struct Pair {
    // Declared before the card, which outlives it.
    driver: PfDriver,
    socket: UnixStream,
    decoder: Decoder,
    next_id: u64,
    card: Arc<Card>,
}

impl Pair {
    fn new(vfs: u16) -> Self {
        let card = Card::new(CardOptions::default()).unwrap();
        let function = Arc::new(InProcess::new(card.function(FunctionId::PF)).unwrap());
        let options = PfOptions {
            eject_timeout: Duration::from_millis(50),
            ..PfOptions::default()
        };
        let mut driver = PfDriver::probe(function, options).unwrap();
        driver.sriov_configure(vfs).unwrap();
        let mut pair = Self {
            driver,
            socket: UnixStream::pair().unwrap().0,
            decoder: Decoder::new(),
            next_id: 1,
            card,
        };
        pair.connect();
        pair
    }

    /// A (new) mediator is there, and has welcomed the driver.
    fn connect(&mut self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.socket = ours;
        self.decoder = Decoder::new();
        let token = Token::from_secret(b"secret");
        let channel = PfChannel::over(theirs, token).unwrap();
        self.driver.attach_channel(channel).unwrap();
        let hello = FromPf::Hello {
            version: VERSION,
            features: PfFeatures::all(),
            token,
        };
        assert_eq!(self.heard(), [hello]);
        assert!(!self.driver.channel_ready());
        let heard = self.tell(&ToPf::Welcome {
            version: VERSION,
            features: PfFeatures::all(),
        });
        assert!(self.driver.channel_ready());
        let offers: Vec<_> = heard
            .iter()
            .filter_map(|message| match message {
                FromPf::Offer { vf, .. } => Some(*vf),
                _ => None,
            })
            .collect();
        assert_eq!(offers, (0..self.driver.num_vfs()).collect::<Vec<_>>());
    }

    /// What the driver has sent.
    fn heard(&mut self) -> Vec<FromPf> {
        let mut bytes = [0; 4096];
        while let Ok(n) = self.socket.read(&mut bytes) {
            if n == 0 {
                break;
            }
            self.decoder.push(&bytes[..n]);
        }
        let decoder = &mut self.decoder;
        std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
    }

    /// Sends the driver a message and gives what it says to it.
    fn tell(&mut self, message: &ToPf) -> Vec<FromPf> {
        self.socket.write_all(&message.to_bytes()).unwrap();
        self.driver.service();
        self.heard()
    }

    fn request(&mut self, vf: u16, generation: u32, body: RequestBody) -> Request {
        self.next_id += 1;
        Request {
            vf,
            generation,
            id: self.next_id,
            body,
        }
    }

    /// Asks in the name of a VF, and gives the one answer.
    fn ask(&mut self, vf: u16, generation: u32, body: RequestBody) -> Reply {
        let request = self.request(vf, generation, body);
        let heard = self.tell(&ToPf::Request(request));
        let [FromPf::Reply(reply)] = heard[..] else {
            panic!("one reply and nothing else: {heard:?}");
        };
        assert_eq!(
            (reply.vf, reply.generation, reply.id),
            (vf, generation, request.id)
        );
        reply
    }

    fn write(&mut self, vf: u16, generation: u32, block: u32, data: BlockData) -> Status {
        let reply = self.ask(vf, generation, RequestBody::WriteBlock { block, data });
        assert_eq!(reply.body, ReplyBody::Empty);
        reply.status
    }

    fn vf_request(&mut self, vf: u16, generation: u32, request: VfRequest) -> Status {
        self.write(vf, generation, block::REQUEST, request.encode())
    }

    /// A tenant comes and begins.
    fn begin(&mut self, vf: u16, generation: u32) {
        self.tell(&ToPf::Attached { vf, generation });
        self.negotiate(vf, generation);
    }

    fn negotiate(&mut self, vf: u16, generation: u32) {
        let accept = Accept {
            version: block::VERSION,
            features: Features::all(),
        };
        let status = self.write(vf, generation, block::CONTROL, accept.encode());
        assert_eq!(status, Status::Ok);
        let status = self.vf_request(vf, generation, VfRequest::Init);
        assert_eq!(status, Status::Ok);
    }

    fn config(&mut self, vf: u16, generation: u32) -> Config {
        let body = RequestBody::ReadBlock {
            block: block::CONFIG,
            length: 128,
        };
        let reply = self.ask(vf, generation, body);
        let ReplyBody::Block(data) = reply.body else {
            panic!("a block: {reply:?}");
        };
        Config::parse(&data).unwrap()
    }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0xCC, 1];

#[test]
fn a_vf_negotiates_asks_and_is_told() {
    let mut pair = Pair::new(2);
    pair.begin(0, 1);
    let assigned = pair.driver.get_vf_config(0).unwrap().mac;
    assert_eq!(pair.config(0, 1).mac, assigned.bytes());
    assert_eq!(pair.vf_request(0, 1, VfRequest::SetMac(MAC)), Status::Ok);
    assert_eq!(pair.config(0, 1).mac, MAC);
    let unicast = VfRequest::SetPromisc {
        unicast: true,
        multicast: false,
    };
    assert_eq!(pair.vf_request(0, 1, unicast), Status::Denied);
    // The administrator changes something: the VF is told to read again.
    pair.driver.set_vf_vlan(0, 42, 1).unwrap();
    let told = FromPf::Invalidate {
        vf: 0,
        generation: 1,
        mask: 1 << block::CONFIG,
    };
    assert_eq!(pair.heard(), [told]);
    assert_eq!(pair.config(0, 1).vlan, 42);
    pair.card.set_link(false);
    while !pair.driver.service().link {
        let mut set = InterruptSet::new(0).unwrap();
        set.watch(pair.driver.event_fds()[0]).unwrap();
        let ready = set.wait(Some(PATIENCE)).unwrap();
        assert!(!ready.is_empty(), "the driver hears of the link");
    }
    let heard = pair.heard();
    let down = FromPf::Link {
        vf: 0,
        up: false,
        speed: 0,
    };
    assert!(heard.contains(&down) && heard.contains(&told), "{heard:?}");
}

#[test]
fn a_mailbox_guest_gets_words_whatever_it_sent() {
    let mut pair = Pair::new(1);
    pair.tell(&ToPf::Attached {
        vf: 0,
        generation: 1,
    });
    let mac = pair.driver.get_vf_config(0).unwrap().mac;
    let mut words = |words| {
        let reply = pair.ask(0, 1, RequestBody::Mailbox(words));
        let ReplyBody::Mailbox(answer) = reply.body else {
            panic!("words: {reply:?}");
        };
        let mut all = [0; 16];
        all[..answer.len()].copy_from_slice(&answer);
        (reply.status, PfReply::parse(&all).unwrap())
    };
    let early = words(VfMessage::SetLpe(1522).encode());
    assert!(matches!(
        early,
        (Status::Reset, PfReply::Nack { cts: false, .. })
    ));
    let reset = words(VfMessage::Reset.encode());
    assert_eq!(reset, (Status::Ok, PfReply::ResetAck(mac)));
    let longest = words(VfMessage::SetLpe(1522).encode());
    assert!(matches!(
        longest,
        (Status::Ok, PfReply::Ack { cts: true, .. })
    ));
    let nonsense = words([0xFFFF_FFFF; 16]);
    assert!(matches!(
        nonsense,
        (Status::Unsupported, PfReply::Nack { .. })
    ));
}

#[test]
fn requests_of_an_earlier_life_are_refused_and_change_nothing() {
    let mut pair = Pair::new(2);
    pair.begin(0, 1);
    pair.begin(1, 1);
    assert_eq!(pair.vf_request(0, 1, VfRequest::AddVlan(5)), Status::Ok);
    let sibling = pair.driver.get_vf_config(1).unwrap();
    pair.tell(&ToPf::Reset {
        vf: 0,
        generation: 2,
        cause: ResetCause::Flr,
    });
    let config = pair.driver.get_vf_config(0).unwrap();
    assert_eq!(config.vlans, Vec::<u16>::new());
    for request in [
        VfRequest::Init,
        VfRequest::SetMac(MAC),
        VfRequest::AddVlan(6),
    ] {
        assert_eq!(pair.vf_request(0, 1, request), Status::Reset);
    }
    // Its new life has to begin, too.
    let status = pair.vf_request(0, 2, VfRequest::AddVlan(6));
    assert_eq!(status, Status::Reset);
    pair.negotiate(0, 2);
    assert_eq!(pair.vf_request(0, 2, VfRequest::AddVlan(6)), Status::Ok);
    assert_eq!(pair.driver.get_vf_config(1).unwrap(), sibling);
    // A reset whose message this driver never got.
    assert_eq!(pair.vf_request(0, 9, VfRequest::AddVlan(7)), Status::Reset);
    assert_eq!(pair.driver.get_vf_config(0).unwrap().generation, 9);
}

#[test]
fn a_vf_that_does_not_exist_gets_an_answer_and_nothing_else() {
    let mut pair = Pair::new(1);
    for vf in [1, 6, 7, 8, 255, 256, u16::MAX] {
        let status = pair.vf_request(vf, 1, VfRequest::Init);
        assert_eq!(status, Status::TornDown, "VF {vf}");
        pair.tell(&ToPf::Attached { vf, generation: 3 });
        pair.tell(&ToPf::Expired {
            vf,
            generation: 3,
            id: 1,
        });
        pair.tell(&ToPf::Ejected { vf, graceful: true });
        pair.tell(&ToPf::Detached { vf, generation: 3 });
    }
    pair.begin(0, 1);
}

#[test]
fn a_success_that_came_too_late_is_taken_back() {
    let mut pair = Pair::new(1);
    pair.begin(0, 1);
    let before = pair.driver.get_vf_config(0).unwrap();
    assert_eq!(pair.vf_request(0, 1, VfRequest::SetMac(MAC)), Status::Ok);
    let id = pair.next_id;
    let told = pair.tell(&ToPf::Expired {
        vf: 0,
        generation: 1,
        id,
    });
    assert!(matches!(
        told[..],
        [FromPf::Invalidate {
            vf: 0,
            generation: 1,
            ..
        }]
    ));
    assert_eq!(pair.driver.get_vf_config(0).unwrap(), before);
    // With another grant on top of it, it stays, and is announced.
    assert_eq!(pair.vf_request(0, 1, VfRequest::SetMac(MAC)), Status::Ok);
    let id = pair.next_id;
    assert_eq!(pair.vf_request(0, 1, VfRequest::AddVlan(5)), Status::Ok);
    let told = pair.tell(&ToPf::Expired {
        vf: 0,
        generation: 1,
        id,
    });
    assert!(matches!(told[..], [FromPf::Invalidate { .. }]));
    assert_eq!(pair.driver.get_vf_config(0).unwrap().mac, MacAddress(MAC));
}

#[test]
fn a_lost_mediator_disturbs_nobody_and_is_welcome_again() {
    let mut pair = Pair::new(2);
    pair.begin(0, 5);
    assert_eq!(pair.vf_request(0, 5, VfRequest::AddVlan(5)), Status::Ok);
    let before = pair.driver.get_vf_config(0).unwrap();
    pair.socket = UnixStream::pair().unwrap().0;
    pair.driver.service();
    assert!(!pair.driver.channel_ready());
    assert_eq!(pair.driver.get_vf_config(0).unwrap(), before);
    // The same mediator, with the VF as it was.
    pair.connect();
    assert_eq!(pair.vf_request(0, 5, VfRequest::AddVlan(6)), Status::Ok);
    // Another one, which counts from the beginning: whoever is there has to begin, too.
    pair.connect();
    assert_eq!(pair.vf_request(0, 1, VfRequest::AddVlan(7)), Status::Reset);
    pair.negotiate(0, 1);
    assert_eq!(
        pair.driver.get_vf_config(0).unwrap().vlans,
        Vec::<u16>::new()
    );
}

#[test]
fn vfs_are_taken_off_the_bus_before_they_go() {
    let mut pair = Pair::new(2);
    pair.begin(0, 1);
    let left = ToPf::Ejected {
        vf: 0,
        graceful: true,
    };
    pair.socket.write_all(&left.to_bytes()).unwrap();
    pair.driver.sriov_configure(0).unwrap();
    let heard = pair.heard();
    let asked: Vec<_> = heard
        .iter()
        .filter_map(|message| match message {
            FromPf::Eject { vf, .. } => Some(*vf),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [0, 1]);
    // VF 1 did not let go in time.
    assert!(heard.contains(&FromPf::Revoke { vf: 1 }));
    assert!(!heard.contains(&FromPf::Revoke { vf: 0 }));
    assert_eq!(pair.card.num_vfs(), 0);
    assert_eq!(pair.vf_request(0, 1, VfRequest::Init), Status::TornDown);
}

#[test]
fn a_flood_of_nonsense_ends_the_channel_and_not_the_driver() {
    let mut pair = Pair::new(1);
    pair.begin(0, 1);
    pair.socket.write_all(&[0xA5; 4000]).unwrap();
    pair.driver.service();
    assert!(!pair.driver.channel_ready());
    assert!(pair.driver.get_vf_config(0).is_ok());
    assert_eq!(pair.driver.stats().get("channel_losses"), Some(1));
    pair.connect();
    assert_eq!(pair.vf_request(0, 1, VfRequest::AddVlan(6)), Status::Ok);
}
