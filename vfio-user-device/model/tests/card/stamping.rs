//! Which messages are stamped, for each kind that TSYNCRXCTL knows, over Ethernet and over UDP.

use igb::descriptor::RxStatus;
use igb::frame::ETHERTYPE_PTP;
use igb::*;

use crate::protocols::*;
use crate::world::*;

const EVENT_PORT: u16 = 319;
/// Message types of V2, and control fields of V1.
const SYNC: u8 = 0;
const DELAY_REQUEST: u8 = 1;
const ANNOUNCE: u8 = 0xB;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Ethernet,
    Udp,
}

fn message(version: u8, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; 44];
    bytes[1] = version;
    if version == 2 {
        // The transport's half of the byte does not count.
        bytes[0] = 0x10 | kind;
    } else {
        bytes[32] = kind;
    }
    bytes
}

fn framed(over: Over, message: &[u8], ports: (u16, u16)) -> Vec<u8> {
    let (to, from) = (mac_of(PF), MacAddress([2, 8, 8, 8, 8, 8]));
    match over {
        Over::Ethernet => {
            let mut bytes = frame(to, from, 14);
            bytes[12..14].copy_from_slice(&ETHERTYPE_PTP.to_be_bytes());
            bytes.extend_from_slice(message);
            bytes
        }
        Over::Udp => {
            let mut segment = segment(UDP, ports, message);
            seal(UDP, &IPV4, &mut segment);
            in_ipv4(to, from, &ipv4(UDP, 0, 0, &segment))
        }
    }
}

/// The filters as Linux sets them for the 82576.
fn world(kind: u32, wanted: u8) -> World {
    let mut w = World::new();
    w.init_pf();
    w.open_queue(PF);
    let control = Value::<TSYNCRXCTL>::default()
        .set(TSYNCRXCTL::EN)
        .with(TSYNCRXCTL::TYPE, kind);
    w.set(PF, control);
    let which = Value::<TSYNCRXCFG>::default()
        .with(TSYNCRXCFG::CTRLT, wanted.into())
        .with(TSYNCRXCFG::MSGT, wanted.into());
    w.set(PF, which);
    let etqf = Value::<ETQF>::default()
        .with(ETQF::ETYPE, ETHERTYPE_PTP.into())
        .set(ETQF::FILTER_ENABLE)
        .set(ETQF::TIME_STAMP_1588);
    w.set_at(PF, 3, etqf);
    let port = u32::from(EVENT_PORT.swap_bytes());
    w.set_at(PF, 3, Value::<IMIR>::from_raw(port));
    let more = Value::<IMIREXT>::default()
        .set(IMIREXT::SIZE_BP)
        .set(IMIREXT::CTRL_BP);
    w.set_at(PF, 3, more);
    w.set_at(PF, 3, Value::<SPQF>::from_raw(port));
    let ftqf = Value::<FTQF>::default()
        .with(FTQF::PROTOCOL, UDP.into())
        .set(FTQF::VF_MASK)
        .set(FTQF::TIME_STAMP_1588)
        .set(FTQF::MASK_SOURCE)
        .set(FTQF::MASK_DESTINATION);
    w.set_at(PF, 3, ftqf);
    w
}

fn is_stamped(w: &mut World, sent: &[u8]) -> bool {
    w.wire_sends(sent);
    let (done, data) = w.take_descriptor(PF).expect("it arrives");
    assert_eq!(data, sent);
    // Room for the next.
    w.get::<RXSTMPH>(PF);
    w.get::<RXSATRH>(PF);
    done.status().contains(RxStatus::TS)
}

#[test]
fn each_kind_stamps_its_messages() {
    let ports = (EVENT_PORT, EVENT_PORT);
    for kind in 0..8 {
        for (over, version, found) in [
            (Over::Ethernet, 2, SYNC),
            (Over::Ethernet, 2, DELAY_REQUEST),
            (Over::Ethernet, 2, ANNOUNCE),
            (Over::Udp, 2, SYNC),
            (Over::Udp, 2, DELAY_REQUEST),
            (Over::Udp, 1, SYNC),
            (Over::Udp, 1, DELAY_REQUEST),
        ] {
            let mut w = world(kind, DELAY_REQUEST);
            let same = found == DELAY_REQUEST;
            let want = match kind {
                0 => version == 2 && over == Over::Ethernet && same,
                1 => version == 1 && same,
                2 => version == 2 && same,
                5 => version == 2 && found < 8,
                _ => false,
            };
            let sent = framed(over, &message(version, found), ports);
            for _ in 0..2 {
                let got = is_stamped(&mut w, &sent);
                assert_eq!(got, want, "type {kind}: {over:?} V{version} {found}");
            }
        }
    }
}

#[test]
fn what_is_no_event_is_not_stamped() {
    let mut w = world(5, SYNC);
    let sync = message(2, SYNC);
    for (over, message, ports) in [
        (Over::Udp, &sync[..], (EVENT_PORT, 320)),
        (Over::Udp, &sync[..], (320, EVENT_PORT)),
        (Over::Udp, &sync[..20], (EVENT_PORT, EVENT_PORT)),
        (Over::Ethernet, &sync[..32], (0, 0)),
    ] {
        assert!(!is_stamped(&mut w, &framed(over, message, ports)));
    }
    let good = framed(Over::Udp, &sync, (EVENT_PORT, EVENT_PORT));
    assert!(is_stamped(&mut w, &good));
    let off = w.get::<TSYNCRXCTL>(PF).clear(TSYNCRXCTL::EN);
    w.set(PF, off);
    assert!(!is_stamped(&mut w, &good));
}
