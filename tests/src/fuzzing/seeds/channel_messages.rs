//! The bytes of the channel between mediator and PF driver, and of the config blocks in it.

use igb::mailbox::VfMessage;
use mediator_protocol::block::{
    Accept, Config, ConfigFlags, Control, Features, MulticastList, Stats, VERSION, VfRequest,
};
use mediator_protocol::{
    BlockData, Frame, FromPf, MailboxWords, PfFeatures, RefuseReason, Reply, ReplyBody, Request,
    RequestBody, ResetCause, Status, ToPf, Token,
};

use super::{Seeds, named};

/// Seeds of [`crate::fuzzing::channel_messages`].
pub fn channel_messages() -> Seeds {
    let data = BlockData::new(&[0x5A; 128]).expect("a block");
    let request = |body| {
        ToPf::Request(Request {
            vf: 3,
            generation: 2,
            id: 9,
            body,
        })
    };
    let answer = |status, body| {
        FromPf::Reply(Reply {
            vf: 3,
            generation: 2,
            id: 9,
            status,
            body,
        })
    };
    let words = MailboxWords::new(&[0x8000_0001, 0x3322_1100, 0x5544]).expect("three words");
    let to_pf = [
        ToPf::Welcome {
            version: mediator_protocol::VERSION,
            features: PfFeatures::all(),
        },
        ToPf::Refused {
            reason: RefuseReason::Token,
        },
        ToPf::Attached {
            vf: 1,
            generation: 1,
        },
        ToPf::Detached {
            vf: 1,
            generation: 1,
        },
        ToPf::Reset {
            vf: 1,
            generation: 2,
            cause: ResetCause::Flr,
        },
        request(RequestBody::Mailbox(VfMessage::Reset.encode())),
        request(RequestBody::ReadBlock {
            block: 1,
            length: 28,
        }),
        request(RequestBody::WriteBlock { block: 64, data }),
        ToPf::Expired {
            vf: 1,
            generation: 2,
            id: 9,
        },
        ToPf::Ejected {
            vf: 1,
            graceful: true,
        },
        ToPf::Rejected {
            vf: 300,
            status: Status::Invalid,
        },
    ];
    let from_pf = [
        FromPf::Hello {
            version: mediator_protocol::VERSION,
            features: PfFeatures::all(),
            token: Token([7; 32]),
        },
        FromPf::Offer {
            vf: 0,
            serial: 1,
            link_up: true,
            mac: Some([2, 0, 0, 0, 0, 1]),
        },
        FromPf::Eject {
            vf: 0,
            timeout_ms: 60_000,
        },
        FromPf::Revoke { vf: 0 },
        answer(Status::Ok, ReplyBody::Mailbox(words)),
        answer(Status::Ok, ReplyBody::Block(data)),
        answer(Status::Denied, ReplyBody::Empty),
        FromPf::Invalidate {
            vf: 0,
            generation: 1,
            mask: 2,
        },
        FromPf::Link {
            vf: 0,
            up: false,
            speed: 1000,
        },
    ];
    let mut seeds = Seeds::new();
    let all_to_pf: Vec<u8> = to_pf.iter().flat_map(Frame::to_bytes).collect();
    let all_from_pf: Vec<u8> = from_pf.iter().flat_map(Frame::to_bytes).collect();
    let one_by_one = to_pf
        .iter()
        .map(Frame::to_bytes)
        .chain(from_pf.iter().map(Frame::to_bytes));
    for (n, bytes) in one_by_one.enumerate() {
        let kind = bytes[0];
        let mut longer = bytes.clone();
        // Header length and packet differ by 4.
        longer[4] = longer[4].wrapping_add(4);
        // A message of each kind, then cut short, then with a length that lies, then without frame.
        seeds.push((
            format!("message-{n:02}-kind-{kind:02x}"),
            [&[1], &bytes[..]].concat(),
        ));
        seeds.push((
            format!("message-{n:02}-kind-{kind:02x}-short"),
            [&[0], &bytes[..bytes.len() - 1]].concat(),
        ));
        seeds.push((
            format!("message-{n:02}-kind-{kind:02x}-length"),
            [&[0], &longer[..], &[0; 8]].concat(),
        ));
    }
    seeds.extend(named([
        ("to-pf", [&[7], &all_to_pf[..]].concat()),
        ("from-pf", [&[3], &all_from_pf[..]].concat()),
        ("huge", [0, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF].to_vec()),
        ("flags", [0, 1, 0, 1, 0, 0, 0, 0, 0].to_vec()),
    ]));
    for (name, block) in blocks() {
        seeds.push((format!("block-{name}"), [&[0], &block[..]].concat()));
    }
    seeds
}

fn blocks() -> Vec<(&'static str, BlockData)> {
    let mac = [2, 0, 0, 0, 0, 9];
    let list = MulticastList::new(&[[0x33, 0x33, 0, 0, 0, 1]; 20]).expect("20 addresses");
    vec![
        (
            "control",
            Control {
                version: VERSION,
                offered: Features::all(),
                accepted: Features::empty(),
            }
            .encode(),
        ),
        (
            "accept",
            Accept {
                version: VERSION,
                features: Features::all(),
            }
            .encode(),
        ),
        (
            "config",
            Config {
                mac,
                flags: ConfigFlags::LINK_UP,
                vlan: 10,
                mtu: 1500,
                max_mtu: 9216,
                ..Default::default()
            }
            .encode(),
        ),
        (
            "stats",
            Stats {
                rx_packets: 1,
                tx_spoofed: 2,
                ..Default::default()
            }
            .encode(),
        ),
        ("init", VfRequest::Init.encode()),
        ("set-mac", VfRequest::SetMac(mac).encode()),
        ("add-mac", VfRequest::AddMac(mac).encode()),
        ("add-vlan", VfRequest::AddVlan(100).encode()),
        (
            "set-multicast",
            VfRequest::SetMulticast { append: true, list }.encode(),
        ),
        ("set-mtu", VfRequest::SetMtu(u32::MAX).encode()),
        (
            "set-promisc",
            VfRequest::SetPromisc {
                unicast: true,
                multicast: true,
            }
            .encode(),
        ),
    ]
}
