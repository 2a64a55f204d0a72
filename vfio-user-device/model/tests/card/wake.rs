//! The wake protocol.

use igb::descriptor::TxCommand;
use igb::queue_page::{DOORBELL_ASLEEP, DOORBELL_WAKE, VF_TX};
use igb_model::*;

use crate::world::*;

fn asleep(w: &World, f: igb::FunctionId) -> u32 {
    w.host.pages[f.slot()][1][DOORBELL_ASLEEP as usize / 4]
}

#[test]
fn a_driver_that_speaks_it_sees_the_card_asleep() {
    let mut w = World::open(2);
    assert!(w.path.must_poll().contains(vf(0)));
    w.write32(vf(0), VF_TX + DOORBELL_WAKE, 1);
    assert!(!w.path.must_poll().contains(vf(0)));
    assert!(w.path.must_poll().contains(vf(1)), "it does not speak");
    assert!(w.path.prepare_sleep(&mut w.host));
    assert_eq!((asleep(&w, vf(0)), asleep(&w, vf(1))), (1, 0));
    w.path.wake(&mut w.host);
    assert_eq!(asleep(&w, vf(0)), 0);
}

#[test]
fn a_tail_written_meanwhile_keeps_the_card_awake() {
    let mut w = World::open(2);
    w.write32(vf(0), VF_TX + DOORBELL_WAKE, 1);
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.queue_tx(vf(0), &sent, TxCommand::empty());
    w.ring_tx(vf(0));
    assert!(!w.path.prepare_sleep(&mut w.host));
    assert_eq!(asleep(&w, vf(0)), 0);
    w.run();
    assert_eq!(w.take(vf(1)), [sent]);
    assert!(w.path.prepare_sleep(&mut w.host));
}

#[test]
fn half_a_frame_lets_the_card_sleep() {
    let mut w = World::open(2);
    w.write32(vf(0), VF_TX + DOORBELL_WAKE, 1);
    let half = igb::descriptor::TxData::new(TX_BUFFERS, 30, TxCommand::empty());
    w.push_tx(vf(0), half.to_bytes());
    w.ring_tx(vf(0));
    assert!(!w.path.prepare_sleep(&mut w.host));
    w.run();
    assert!(w.path.prepare_sleep(&mut w.host));
}

#[test]
fn a_reset_ends_it() {
    let mut w = World::open(1);
    w.write32(vf(0), VF_TX + DOORBELL_WAKE, 1);
    w.path.prepare_sleep(&mut w.host);
    let effects = w.control.reset_function(vf(0), &mut w.host);
    w.apply(effects);
    w.path.wake(&mut w.host);
    assert_eq!(asleep(&w, vf(0)), 0);
    assert_eq!(w.path.must_poll(), FunctionSet::only(PF));
}
