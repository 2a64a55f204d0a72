//! MAC loopback: what the PF sends to the wire comes back to it.

use igb::*;
use igb_model::*;

use crate::world::*;

fn looped(mode: u32) -> World {
    let mut w = World::new();
    w.init_pf();
    w.open_queue(PF);
    let rctl = w.get::<RCTL>(PF).with(RCTL::LBM, mode);
    w.set(PF, rctl);
    w
}

#[test]
fn frames_come_back_and_do_not_leave() {
    for mode in [1, 3] {
        let mut w = looped(mode);
        // Also without a link, as the driver's own test finds it.
        let effects = w.control.set_link(false, &mut w.host);
        w.apply(effects);
        let sent = frame(MacAddress::BROADCAST, mac_of(PF), 1024);
        w.send(PF, &sent);
        assert_eq!(w.take(PF), std::slice::from_ref(&sent));
        assert!(w.host.wire.is_empty());
        assert_eq!((w.get::<GPTC>(PF).raw(), w.get::<GPRC>(PF).raw()), (1, 1));
        // The filters hold as for frames from the wire.
        w.send(PF, &frame(MacAddress([2, 9, 9, 9, 9, 9]), mac_of(PF), 60));
        assert!(w.take(PF).is_empty());
        let dropped = |w: &World, reason| w.control.snapshot().uplink.drops.get(reason);
        assert_eq!(dropped(&w, DropReason::FilterMac), 1);
        w.wire_sends(&sent);
        assert!(w.take(PF).is_empty());
        assert_eq!(dropped(&w, DropReason::Loopback), 1);
    }
}

#[test]
fn the_wire_is_back_afterwards() {
    let mut w = looped(1);
    let rctl = w.get::<RCTL>(PF).with(RCTL::LBM, 0);
    w.set(PF, rctl);
    let sent = frame(MacAddress::BROADCAST, mac_of(PF), 100);
    w.send(PF, &sent);
    assert_eq!(w.host.wire, std::slice::from_ref(&sent));
    assert!(w.take(PF).is_empty());
    w.wire_sends(&sent);
    assert_eq!(w.take(PF), [sent]);
}

#[test]
fn frames_in_pieces_and_with_inserted_tags_come_back_whole() {
    let mut w = looped(1);
    w.add_vlan(0, 5, 0);
    let sent = frame(mac_of(PF), mac_of(PF), 900);
    let context = igb::descriptor::TxContext::new(0, 14, 0).with_vlan_tag(5);
    w.push_tx(PF, context.to_bytes());
    w.queue_tx(PF, &sent, igb::descriptor::TxCommand::VLE);
    w.ring_tx(PF);
    w.run();
    assert_eq!(w.take(PF), [tagged(&sent, 5)]);
}
