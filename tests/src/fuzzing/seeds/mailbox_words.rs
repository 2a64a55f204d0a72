//! What VFs and a PF driver say to a mediator.

use igb::MacAddress;
use igb::mailbox::VfMessage;

use super::{Seeds, named};

/// The messages that a well-behaved VF sends, and some that none would.
fn vf_messages() -> Vec<(&'static str, igb::mailbox::Words)> {
    let mac = MacAddress::new([2, 0, 0, 0, 0, 9]);
    let mut words = vec![
        ("reset", VfMessage::Reset.encode()),
        ("set-mac", VfMessage::SetMac(mac).encode()),
        (
            "set-mac-multicast",
            VfMessage::SetMac(MacAddress::new([1, 0, 0x5E, 0, 0, 1])).encode(),
        ),
        ("add-mac", VfMessage::AddMacFilter(mac).encode()),
        ("clear-macs", VfMessage::ClearMacFilters.encode()),
        (
            "multicast",
            VfMessage::SetMulticast(igb::mailbox::Hashes::new(0..30)).encode(),
        ),
        (
            "multicast-31",
            VfMessage::SetMulticast(igb::mailbox::Hashes::new(0..31)).encode(),
        ),
        (
            "add-vlan",
            VfMessage::SetVlan {
                add: true,
                vid: 100,
            }
            .encode(),
        ),
        ("lpe", VfMessage::SetLpe(u32::MAX).encode()),
        (
            "promisc",
            VfMessage::SetPromisc {
                unicast: true,
                multicast: true,
            }
            .encode(),
        ),
    ];
    for (name, word0) in [
        ("unknown", 0x77),
        ("control", 0x100),
        ("ones", u32::MAX),
        ("vlan-info", 0x0204),
    ] {
        let mut message = [u32::MAX; igb::mailbox::WORDS];
        message[0] = word0;
        words.push((name, message));
    }
    words
}

/// Seeds of [`crate::fuzzing::mailbox_words`].
pub fn mailbox_words() -> Seeds {
    const OFFER: [u8; 2] = [13, 1];
    const ATTACH: [u8; 2] = [18, 1];
    let ring = [1, 1];
    let ask = |words: &igb::mailbox::Words| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        [&[1, 4, 0, 0, 64][..], &bytes, &ring].concat()
    };
    let mut seeds = Seeds::new();
    for (name, words) in vf_messages() {
        let first: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // Ask, be answered, read.
        let dialogue = [
            &first[..],
            &OFFER,
            &ATTACH,
            &ask(&words),
            &[7, 0, 0],
            &[2, 0, 0xFF, 0, 0, 0],
            &[1, 2],
        ]
        .concat();
        seeds.push((format!("message-{name}"), dialogue));
    }
    let blank = [0; 64];
    let reset = ask(&VfMessage::Reset.encode());
    let block = |command: u8, block: u8, length: u8| vec![5, command, block, length];
    let with = |parts: &[&[u8]]| [&blank[..], &OFFER, &ATTACH, &parts.concat()].concat();
    seeds.extend(named([
        ("no-pf", [&blank[..], &reset, &block(1, 0, 12)].concat()),
        ("block-read", with(&[&block(1, 1, 28), &[7, 0, 0]])),
        ("block-write", with(&[&block(2, 64, 10), &[7, 0, 0]])),
        ("block-length-0", with(&[&block(1, 1, 0)])),
        ("block-length-129", with(&[&block(2, 1, 129)])),
        ("block-unknown-command", with(&[&block(9, 1, 4)])),
        (
            "block-overrun-abandon",
            with(&[
                &block(1, 1, 4),
                &block(1, 1, 4),
                &block(3, 0, 0),
                &[7, 0, 0],
            ]),
        ),
        (
            "late-reply",
            with(&[&reset, &[15, 0xF5, 1], &[16], &[7, 0, 0]]),
        ),
        ("stale-generation", with(&[&reset, &[17, 0], &[7, 0, 0]])),
        ("replayed-reply", with(&[&reset, &[7, 0, 0], &[7, 0, 0]])),
        ("forged-reply", with(&[&reset, &[8, 0, 0], &[0xFF; 12]])),
        (
            "reply-of-wrong-kind",
            with(&[&block(1, 1, 4), &[9, 0, 0, 1], &[0; 8]]),
        ),
        (
            "invalidation-storm",
            with(&[
                &reset,
                &[7, 0, 0],
                &[11; 1],
                &[0xFF; 8],
                &[11],
                &[0xFF; 8],
                &[1, 2],
            ]),
        ),
        (
            "link",
            with(&[&reset, &[7, 0, 0], &[12, 1], &[0; 4], &[12, 0], &[0; 4]]),
        ),
        ("flood", with(&[&block(1, 1, 4).repeat(30)])),
        ("mailbox-flood", with(&[&reset.repeat(12)])),
        (
            "held-while-answered",
            with(&[&reset, &[1, 4], &[7, 0, 0], &[1, 0], &[1, 2]]),
        ),
        (
            "rsti",
            with(&[&reset, &[7, 0, 0], &[1, 2], &[2, 0x40], &[0xFF; 4]]),
        ),
        ("pf-gone", with(&[&reset, &block(1, 1, 4), &[14], &OFFER])),
        ("torn-down", with(&[&reset, &block(1, 1, 4), &[19], &reset])),
        ("detach", with(&[&reset, &[18, 0], &[17, 3], &ATTACH])),
    ]));
    seeds
}
