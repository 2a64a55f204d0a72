//! From causes to messages.

use igb::function::vf_eitr;
use igb::interrupt::{Direction as Side, Entry, eitr};
use igb::pci::{command, header, msi, msix, offset, status};
use igb::*;
use igb_model::*;

use crate::world::*;

fn open_vf_vectors(w: &mut World, f: FunctionId) {
    let mut vtivar = 0;
    for (side, vector) in [(Side::Rx, 1), (Side::Tx, 2)] {
        vtivar = Entry::of_queue(FunctionKind::Virtual, 0, side).with_vector(vtivar, Some(vector));
    }
    w.set(f, Value::<vf::VTIVAR>::from_raw(vtivar));
    let misc = Entry::of_other(FunctionKind::Virtual).with_vector(0, Some(0));
    w.set(f, Value::<vf::VTIVAR_MISC>::from_raw(misc));
    w.set(f, Value::<vf::VTEIAC>::from_raw(7));
    w.set(f, Value::<vf::VTEIAM>::from_raw(7));
    w.set(f, Value::<vf::VTEIMS>::from_raw(7));
}

#[test]
fn every_vf_gets_its_own_vectors() {
    for n in 0..7 {
        let mut w = World::open(7);
        open_vf_vectors(&mut w, vf(n));
        w.send(PF, &frame(mac_of(vf(n)), mac_of(PF), 60));
        assert_eq!(w.host.interrupts, [(vf(n), Signal::Msix(1))]);
        w.host.interrupts.clear();
        w.send(vf(n), &frame(mac_of(PF), mac_of(vf(n)), 60));
        assert_eq!(w.host.interrupts, [(vf(n), Signal::Msix(2))]);
        w.host.interrupts.clear();
        // The mediator announces a message by EICS with the vector that VTIVAR_MISC names.
        w.set(vf(n), Value::<vf::VTEICS>::from_raw(1));
        assert_eq!(w.host.interrupts, [(vf(n), Signal::Msix(0))]);
        // Bits above the VF's three are nobody's.
        w.host.interrupts.clear();
        w.set(vf(n), Value::<vf::VTEIMS>::from_raw(u32::MAX));
        w.set(vf(n), Value::<vf::VTEICS>::from_raw(!7));
        assert!(w.host.interrupts.is_empty());
    }
}

#[test]
fn a_vector_masks_itself_until_it_is_armed_again() {
    let mut w = World::open(2);
    open_vf_vectors(&mut w, vf(1));
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.send(vf(0), &sent);
    w.send(vf(0), &sent);
    assert_eq!(
        w.host.interrupts.len(),
        1,
        "masked by VTEIAM after the first"
    );
    assert_eq!(w.get::<vf::VTEIMS>(vf(1)).raw(), 0b101);
    w.set(vf(1), Value::<vf::VTEIMS>::from_raw(2));
    assert_eq!(
        w.host.interrupts.len(),
        2,
        "what came meanwhile fires at once"
    );
    w.set(vf(1), Value::<vf::VTEIMS>::from_raw(2));
    assert_eq!(w.host.interrupts.len(), 2, "and only once");
    w.send(vf(0), &sent);
    assert_eq!(w.host.interrupts.len(), 3);
}

#[test]
fn without_auto_clear_the_cause_stays() {
    let mut w = World::open(2);
    open_vf_vectors(&mut w, vf(1));
    w.set(vf(1), Value::<vf::VTEIAC>::from_raw(0));
    w.set(vf(1), Value::<vf::VTEIAM>::from_raw(0));
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.send(vf(0), &sent);
    w.send(vf(0), &sent);
    assert_eq!(w.host.interrupts.len(), 1);
    assert_eq!(
        w.get_at::<PVTEICR>(PF, 1).raw(),
        2,
        "the PF looks and clears nothing"
    );
    assert_eq!(w.get::<vf::VTEICR>(vf(1)).raw(), 2);
    assert_eq!(w.get::<vf::VTEICR>(vf(1)).raw(), 0);
    w.send(vf(0), &sent);
    assert_eq!(w.host.interrupts.len(), 2);
}

#[test]
fn throttling_delays_and_loses_nothing() {
    let mut w = World::open(2);
    open_vf_vectors(&mut w, vf(1));
    w.set(vf(1), Value::<vf::VTEIAM>::from_raw(0));
    w.set_at(vf(1), 1, Value::<vf::VTEITR>::from_raw(eitr(100)));
    assert_eq!(w.get_at::<EITR>(PF, vf_eitr(1, 1)).raw(), eitr(100));
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.control.advance(1_000_000, &mut w.host);
    w.send(vf(0), &sent);
    assert_eq!(w.host.interrupts.len(), 1);
    for _ in 0..5 {
        w.send(vf(0), &sent);
    }
    assert_eq!(w.host.interrupts.len(), 1);
    assert_eq!(w.control.next_deadline(), Some(1_100_000));
    w.control.advance(1_099_999, &mut w.host);
    assert_eq!(w.host.interrupts.len(), 1);
    w.control.advance(1_100_000, &mut w.host);
    assert_eq!(
        (w.host.interrupts.len(), w.control.next_deadline()),
        (2, None)
    );
    // A shorter interval counts at once.
    w.send(vf(0), &sent);
    assert_eq!(w.control.next_deadline(), Some(1_200_000));
    w.set_at(vf(1), 1, Value::<vf::VTEITR>::from_raw(0));
    assert_eq!(
        (w.host.interrupts.len(), w.control.next_deadline()),
        (3, None)
    );
}

#[test]
fn a_vector_nobody_listens_to_is_pending() {
    let mut w = World::open(2);
    open_vf_vectors(&mut w, vf(1));
    w.host.deaf = FunctionSet::only(vf(1));
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
    let mut pba = [0; 8];
    w.read(
        vf(1),
        CardRegion::Msix,
        pci::MSIX_PBA_OFFSET.into(),
        &mut pba,
    );
    assert_eq!(pba[0], 2);
    w.host.deaf = FunctionSet::EMPTY;
    w.control.retry_pending(vf(1), &mut w.host);
    w.control.retry_pending(vf(1), &mut w.host);
    assert_eq!(w.host.interrupts, [(vf(1), Signal::Msix(1))]);
}

fn open_pf_other(w: &mut World, vector: u32) {
    let ivar = Entry::of_other(FunctionKind::Physical).with_vector(0, Some(vector));
    w.set(PF, Value::<IVAR_MISC>::from_raw(ivar));
    w.set(PF, Value::<EIAC>::from_raw(u32::MAX));
    w.set(PF, Value::<EIMS>::from_raw(u32::MAX));
    w.set(PF, Value::<IMS>::default().set(IMS::LSC).set(IMS::VMMB));
}

#[test]
fn other_causes_go_through_ivar_misc() {
    let mut w = World::open(2);
    open_pf_other(&mut w, 4);
    let effects = w.control.set_link(false, &mut w.host);
    w.apply(effects);
    assert_eq!(w.host.interrupts, [(PF, Signal::Msix(4))]);
    let icr = w.get::<ICR>(PF);
    assert!(icr.has(ICR::LSC) && icr.has(ICR::INTA));
    assert_eq!(w.get::<ICR>(PF).raw(), 0);
    assert!(!w.get::<STATUS>(PF).has(STATUS::LU));
    assert!(!w.get::<vf::VTSTATUS>(vf(0)).has(STATUS::LU));
    // Masked, a cause waits in ICR until it is unmasked.
    w.set(PF, Value::<IMC>::from_raw(u32::MAX));
    let effects = w.control.set_link(true, &mut w.host);
    w.apply(effects);
    assert_eq!(w.host.interrupts.len(), 1);
    w.set(PF, Value::<IMS>::default().set(IMS::LSC));
    assert_eq!(w.host.interrupts.len(), 2);
    w.set(PF, Value::<ICS>::default().set(ICS::LSC));
    assert_eq!(w.host.interrupts.len(), 3);
}

#[test]
fn a_vf_reset_rings_the_pf() {
    let mut w = World::open(3);
    open_pf_other(&mut w, 0);
    w.set(vf(2), Value::<vf::VTCTRL>::default().set(PVTCTRL::RST));
    assert_eq!(w.host.interrupts, [(PF, Signal::Msix(0))]);
    assert_eq!(w.get::<VFLRE>(PF).raw(), 0b100);
    assert!(w.get::<ICR>(PF).has(ICR::VMMB));
    w.set(PF, Value::<VFLRE>::from_raw(0b100));
    assert_eq!(w.get::<VFLRE>(PF).raw(), 0);
}

#[test]
fn the_pf_has_no_hand_in_the_causes_of_vfs() {
    let mut w = World::open(7);
    open_vf_vectors(&mut w, vf(6));
    // VF6 has causes 4 to 6, which are the PF's without it.
    w.set(PF, Value::<EIMC>::from_raw(u32::MAX));
    w.set(PF, Value::<EIAC>::from_raw(0));
    assert_eq!(w.get::<vf::VTEIMS>(vf(6)).raw(), 7);
    w.set(PF, Value::<EIMS>::from_raw(u32::MAX));
    w.set(PF, Value::<EICS>::from_raw(1 << 5));
    assert!(w.host.interrupts.is_empty());
    w.set_at(PF, 6, Value::<PVTEICS>::from_raw(2));
    assert_eq!(w.host.interrupts, [(vf(6), Signal::Msix(1))]);
}

#[test]
fn a_single_interrupt_follows_configuration_space() {
    let mut w = World::new();
    w.init_pf();
    w.set(PF, Value::<GPIE>::default());
    w.set(PF, Value::<IMS>::default().set(IMS::LSC));
    let effects = w.control.set_link(false, &mut w.host);
    w.apply(effects);
    assert_eq!(w.host.interrupts, [(PF, Signal::Intx { asserted: true })]);
    assert!(w.control.intx_asserted(PF));
    w.get::<ICR>(PF);
    assert_eq!(
        w.host.interrupts.pop(),
        Some((PF, Signal::Intx { asserted: false }))
    );
    w.host.interrupts.clear();
    w.set_config16(PF, offset::MSI + msi::CONTROL, msi::ENABLE);
    w.set(PF, Value::<ICS>::default().set(ICS::LSC));
    assert_eq!(w.host.interrupts, [(PF, Signal::Msi)]);
    w.get::<ICR>(PF);
    w.set_config16(PF, offset::MSIX + msix::CONTROL, msix::ENABLE);
    w.set(PF, Value::<ICS>::default().set(ICS::LSC));
    assert_eq!(w.host.interrupts[1..], [(PF, Signal::Msix(0))]);
}

#[test]
fn status_tells_of_intx_even_where_command_disables_it() {
    let mut w = World::new();
    w.init_pf();
    w.set(PF, Value::<GPIE>::default());
    w.set(PF, Value::<IMS>::default().set(IMS::LSC));
    let told = |w: &mut World| w.config16(PF, header::STATUS) & status::INTERRUPT != 0;
    assert!(!told(&mut w));
    w.set(PF, Value::<ICS>::default().set(ICS::LSC));
    assert!(told(&mut w));
    // A driver for any device masks what it finds asserted, by one dword.
    let command = w.config16(PF, header::COMMAND);
    w.set_config16(PF, header::COMMAND, command | command::INTX_DISABLE);
    assert!(!w.control.intx_asserted(PF));
    assert!(told(&mut w));
    w.set_config16(PF, header::COMMAND, command);
    assert!(w.control.intx_asserted(PF));
    w.get::<ICR>(PF);
    assert!(!told(&mut w));
    assert!(!w.control.intx_asserted(PF));
}

#[test]
fn queue_causes_of_a_single_interrupt_are_in_icr() {
    let mut w = World::new();
    w.init_pf();
    w.set(PF, Value::<GPIE>::default());
    w.open_queue(PF);
    w.set(PF, Value::<IMS>::default().set(IMS::RXDW).set(IMS::TXDW));
    w.wire_sends(&frame(mac_of(PF), mac_of(vf(0)), 60));
    assert!(w.get::<ICR>(PF).has(ICR::RXDW));
    w.send(PF, &frame(mac_of(vf(0)), mac_of(PF), 60));
    let icr = w.get::<ICR>(PF);
    assert!(icr.has(ICR::TXDW) && !icr.has(ICR::RXDW));
}
