//! The 1588 clock and time stamps, as a driver uses them.

use igb::descriptor::{RxStatus, TxCommand};
use igb::frame::ETHERTYPE_PTP;
use igb::*;

use crate::world::*;

const SECOND: u64 = 1_000_000_000;
/// Units of SYSTIM per nanosecond, as Linux sets TIMINCA.
const SHIFT: u32 = 19;

fn at(w: &mut World, now: u64) {
    w.control.advance(now, &mut w.host);
    w.path.advance(now);
}

fn systim(w: &mut World) -> u64 {
    let low = w.get::<SYSTIML>(PF).raw();
    u64::from(w.get::<SYSTIMH>(PF).raw()) << 32 | u64::from(low)
}

fn clocked() -> World {
    let mut w = World::open(1);
    let nominal = Value::<TIMINCA>::default()
        .with(TIMINCA::IP, 1)
        .with(TIMINCA::IV, 16 << SHIFT);
    w.set(PF, nominal);
    w
}

fn sync(to: MacAddress, sequence: u8) -> Vec<u8> {
    let mut bytes = frame(to, MacAddress([2, 9, 9, 9, 9, 9]), 60);
    bytes[12..14].copy_from_slice(&ETHERTYPE_PTP.to_be_bytes());
    let message = &mut bytes[14..];
    message[0] = 0;
    message[1] = 2;
    message[22..][..6].copy_from_slice(&[0xA, 0xB, 0xC, 0xD, 0xE, 0xF]);
    message[30..][..2].copy_from_slice(&[1, sequence]);
    bytes
}

#[test]
fn it_runs_is_set_and_is_adjusted() {
    let mut w = clocked();
    at(&mut w, 3 * SECOND);
    assert_eq!(systim(&mut w), (3 * SECOND) << SHIFT);
    // The high half belongs to the low half that was read before it.
    w.get::<SYSTIML>(PF);
    let high = (((3 * SECOND) << SHIFT) >> 32) as u32;
    at(&mut w, 3_000 * SECOND);
    assert_eq!(w.get::<SYSTIMH>(PF).raw(), high);
    w.set(PF, Value::<SYSTIML>::from_raw(7));
    w.set(PF, Value::<SYSTIMH>::from_raw(1));
    assert_eq!(systim(&mut w), 1 << 32 | 7);
    w.set(PF, Value::<TIMADJL>::from_raw(5));
    w.set(PF, Value::<TIMADJH>::from_raw(2));
    assert_eq!(systim(&mut w), 3 << 32 | 12);
    w.set(
        PF,
        Value::<TIMADJH>::default()
            .with(TIMADJH::OFFSET, 3)
            .set(TIMADJH::SIGN),
    );
    assert_eq!(systim(&mut w), 7);
    w.set(PF, Value::<CTRL>::default().set(CTRL::RST));
    at(&mut w, 3_001 * SECOND);
    assert_eq!(systim(&mut w), 0, "a reset stops and clears it");
}

#[test]
fn a_frame_that_asks_for_it_is_stamped_as_it_leaves() {
    let mut w = clocked();
    at(&mut w, SECOND);
    let bytes = frame(MacAddress([2, 9, 9, 9, 9, 9]), mac_of(PF), 60);
    let send = |w: &mut World, extra| {
        w.queue_tx(PF, &bytes, extra);
        w.ring_tx(PF);
        w.run();
        w.get::<TSYNCTXCTL>(PF).has(TSYNCTXCTL::TXTT)
    };
    assert!(!send(&mut w, TxCommand::TSTAMP), "not enabled");
    w.set(PF, Value::<TSYNCTXCTL>::default().set(TSYNCTXCTL::EN));
    assert!(!send(&mut w, TxCommand::empty()), "not asked for");
    assert!(send(&mut w, TxCommand::TSTAMP));
    at(&mut w, 2 * SECOND);
    assert!(send(&mut w, TxCommand::TSTAMP));
    let low = w.get::<TXSTMPL>(PF).raw();
    assert!(w.get::<TSYNCTXCTL>(PF).has(TSYNCTXCTL::TXTT), "half read");
    let high = w.get::<TXSTMPH>(PF).raw();
    assert_eq!(
        u64::from(high) << 32 | u64::from(low),
        SECOND << SHIFT,
        "the first"
    );
    assert!(!w.get::<TSYNCTXCTL>(PF).has(TSYNCTXCTL::TXTT));
}

#[test]
fn a_vf_cannot_take_the_stamp() {
    let mut w = clocked();
    w.set(PF, Value::<TSYNCTXCTL>::default().set(TSYNCTXCTL::EN));
    let bytes = frame(MacAddress([2, 9, 9, 9, 9, 9]), mac_of(vf(0)), 60);
    w.queue_tx(vf(0), &bytes, TxCommand::TSTAMP);
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.host.wire.len(), 1);
    assert!(!w.get::<TSYNCTXCTL>(PF).has(TSYNCTXCTL::TXTT));
}

#[test]
fn a_message_is_stamped_as_it_arrives() {
    let mut w = clocked();
    w.set(
        PF,
        Value::<TSYNCRXCTL>::default()
            .set(TSYNCRXCTL::EN)
            .with(TSYNCRXCTL::TYPE, 5),
    );
    let filter = Value::<ETQF>::default()
        .with(ETQF::ETYPE, ETHERTYPE_PTP.into())
        .set(ETQF::FILTER_ENABLE)
        .set(ETQF::TIME_STAMP_1588);
    w.set_at(PF, 3, filter);
    let stamped = |w: &mut World, bytes: &[u8]| {
        w.wire_sends(bytes);
        let (done, _) = w.take_descriptor(PF).expect("it arrives");
        done.status().contains(RxStatus::TS)
    };
    at(&mut w, 5 * SECOND);
    assert!(!stamped(&mut w, &frame(mac_of(PF), mac_of(vf(0)), 60)));
    assert!(stamped(&mut w, &sync(mac_of(PF), 1)));
    at(&mut w, 6 * SECOND);
    assert!(!stamped(&mut w, &sync(mac_of(PF), 2)), "one at a time");
    assert!(w.get::<TSYNCRXCTL>(PF).has(TSYNCRXCTL::RXTT));
    assert_eq!(w.get::<RXSATRH>(PF).get(RXSATRH::SEQUENCE_ID), 0x101);
    assert_eq!(w.get::<RXSATRL>(PF).raw(), 0x0C0D_0E0F);
    let low = w.get::<RXSTMPL>(PF).raw();
    let high = w.get::<RXSTMPH>(PF).raw();
    assert_eq!(
        u64::from(high) << 32 | u64::from(low),
        (5 * SECOND) << SHIFT
    );
    assert!(!w.get::<TSYNCRXCTL>(PF).has(TSYNCRXCTL::RXTT));
    assert!(stamped(&mut w, &sync(mac_of(PF), 3)));
    // A VF's copy of a stamp that it cannot read is not marked.
    w.get::<RXSTMPH>(PF);
    w.wire_sends(&sync(mac_of(vf(0)), 4));
    let (done, _) = w.take_descriptor(vf(0)).expect("it arrives");
    assert!(!done.status().contains(RxStatus::TS));
}
