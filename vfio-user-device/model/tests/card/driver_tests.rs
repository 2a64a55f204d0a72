//! What a driver's own tests of the card (`ethtool -t`, `-d`, `-s`, `-S`) rely on.

use igb::phy::{self, control};
use igb::*;
use igb_model::*;

use crate::world::*;

fn pf() -> World {
    let mut w = World::new();
    w.init_pf();
    w
}

const PATTERNS: [u32; 4] = [0x5A5A_5A5A, 0xA5A5_A5A5, 0, u32::MAX];

/// Every element takes every pattern in the bits of `mask`.
fn keeps<R: Register>(w: &mut World, mask: u32) {
    for n in 0..R::COUNT {
        for pattern in PATTERNS {
            w.set_at(PF, n, Value::<R>::from_raw(pattern & mask));
            let read = w.get_at::<R>(PF, n).raw() & mask;
            assert_eq!(read, pattern & mask, "{}[{n}]", R::NAME);
        }
    }
}

#[test]
fn registers_keep_patterns() {
    let w = &mut pf();
    keeps::<FCAL>(w, u32::MAX);
    keeps::<FCAH>(w, 0xFFFF);
    keeps::<FCT>(w, 0xFFFF);
    keeps::<VET>(w, u32::MAX);
    keeps::<RDBAL>(w, 0xFFFF_FF80);
    keeps::<RDBAH>(w, u32::MAX);
    keeps::<RDLEN>(w, 0xF_FFF0);
    for queue in 0..RXDCTL::COUNT {
        w.set_at(PF, queue, Value::<RXDCTL>::default().set(RXDCTL::ENABLE));
    }
    keeps::<RDT>(w, 0xFFFF);
    keeps::<FCRTH0>(w, 0xFFF0);
    keeps::<FCTTV>(w, 0xFFFF);
    keeps::<TIPG>(w, 0x3FFF_FFFF);
    keeps::<TDBAL>(w, 0xFFFF_FF80);
    keeps::<TDBAH>(w, u32::MAX);
    keeps::<TDLEN>(w, 0xF_FFF0);
    keeps::<RCTL>(w, 0x04CF_B0FE);
    keeps::<TCTL>(w, u32::MAX);
    keeps::<RAL>(w, u32::MAX);
    keeps::<RAH>(w, 0x83FF_FFFF);
    keeps::<MTA>(w, u32::MAX);
    // Nothing of STATUS changes by writing to it.
    let status = w.get::<STATUS>(PF);
    w.set(PF, Value::<STATUS>::from_raw(0x7FFF_F3FF));
    assert_eq!(w.get::<STATUS>(PF), status);
}

/// Each cause in turn, as the interrupt test has it; `message` counts the interrupts delivered.
fn every_cause_interrupts(w: &mut World, message: impl Fn(&[(FunctionId, Signal)]) -> usize) {
    w.set(PF, Value::<GPIE>::default());
    w.set(PF, Value::<IMC>::from_raw(u32::MAX));
    for bit in 0..31 {
        let mask = 1 << bit;
        let delivered = |w: &mut World, unmask: u32, cause: u32| {
            w.set(PF, Value::<ICR>::from_raw(u32::MAX));
            w.set(PF, Value::<IMC>::from_raw(u32::MAX));
            w.set(PF, Value::<IMS>::from_raw(unmask));
            w.host.interrupts.clear();
            w.set(PF, Value::<ICS>::from_raw(cause));
            let count = message(&w.host.interrupts);
            assert_eq!(w.get::<ICS>(PF).raw(), cause, "looking clears nothing");
            let seen = w.get::<ICR>(PF).raw() & !ICR::INTA.mask();
            assert_eq!(seen, cause);
            count
        };
        assert_eq!(delivered(w, 0, mask), 0, "bit {bit} masked");
        assert_eq!(delivered(w, mask, mask), 1, "bit {bit}");
        let others = !mask & !ICR::INTA.mask();
        assert_eq!(delivered(w, mask, others), 0, "bit {bit} is not among them");
    }
}

#[test]
fn every_cause_interrupts_by_line_by_message_and_by_vector() {
    let mut w = pf();
    every_cause_interrupts(&mut w, |seen| {
        seen.iter()
            .filter(|(_, signal)| *signal == Signal::Intx { asserted: true })
            .count()
    });
    let mut w = pf();
    w.set_config16(PF, pci::offset::MSI + pci::msi::CONTROL, pci::msi::ENABLE);
    every_cause_interrupts(&mut w, |seen| {
        assert!(seen.iter().all(|(_, signal)| *signal == Signal::Msi));
        seen.len()
    });
    let mut w = pf();
    w.set_config16(
        PF,
        pci::offset::MSIX + pci::msix::CONTROL,
        pci::msix::ENABLE,
    );
    every_cause_interrupts(&mut w, |seen| {
        assert!(seen.iter().all(|(_, signal)| *signal == Signal::Msix(0)));
        seen.len()
    });
}

#[test]
fn looking_at_an_interrupt_masks_what_iam_names() {
    let mut w = pf();
    w.set(PF, Value::<GPIE>::default());
    w.set_config16(PF, pci::offset::MSI + pci::msi::CONTROL, pci::msi::ENABLE);
    let causes = IMS::LSC.mask() | IMS::RXDW.mask();
    w.set(PF, Value::<IAM>::from_raw(IMS::RXDW.mask()));
    w.set(PF, Value::<IMS>::from_raw(causes));
    w.get::<ICR>(PF);
    assert_eq!(w.get::<IMS>(PF).raw(), causes, "there was no interrupt");
    w.set(PF, Value::<ICS>::from_raw(causes));
    w.get::<ICR>(PF);
    assert_eq!(w.get::<IMS>(PF).raw(), IMS::LSC.mask());
    w.set(PF, Value::<ICS>::from_raw(IMS::RXDW.mask()));
    assert_eq!(w.host.interrupts.len(), 1);
    w.set(PF, Value::<IMS>::from_raw(causes));
    assert_eq!(w.host.interrupts.len(), 2, "what came meanwhile");
}

fn write_phy(w: &mut World, register: u8, value: u16) -> Applied {
    let command = Value::<MDIC>::default()
        .with(MDIC::OP, phy::OP_WRITE)
        .with(MDIC::PHYADD, phy::ADDRESS)
        .with(MDIC::REGADD, register.into())
        .with(MDIC::DATA, value.into());
    w.set(PF, command)
}

#[test]
fn the_link_follows_cable_and_phy() {
    let mut w = pf();
    w.set(PF, Value::<GPIE>::default());
    w.set(PF, Value::<IMS>::default().set(IMS::LSC));
    let changed = |w: &mut World| w.get::<ICR>(PF).has(ICR::LSC);
    assert_eq!(w.get::<STATUS>(PF).get(STATUS::SPEED), 2);
    write_phy(&mut w, phy::PCTRL, control::POWER_DOWN);
    assert!(changed(&mut w) && !w.get::<STATUS>(PF).has(STATUS::LU));
    assert!(!w.control.snapshot().link_up);
    let effects = w.control.set_link(false, &mut w.host);
    w.apply(effects);
    assert!(!changed(&mut w), "nobody can see that");
    let effects = w.control.set_link(true, &mut w.host);
    w.apply(effects);
    let hundred = control::SPEED_100 | control::FULL_DUPLEX;
    write_phy(&mut w, phy::PCTRL, hundred);
    let status = w.get::<STATUS>(PF);
    assert!(changed(&mut w) && status.has(STATUS::LU) && status.has(STATUS::FD));
    assert_eq!(status.get(STATUS::SPEED), 1);
    // Negotiating again is seen even if the result is the same.
    let restart = control::AUTONEG_ENABLE | control::RESTART_AUTONEG;
    write_phy(&mut w, phy::PCTRL, restart);
    assert!(changed(&mut w));
    write_phy(&mut w, phy::PCTRL, restart);
    assert!(changed(&mut w));
    assert_eq!(w.get::<STATUS>(PF).get(STATUS::SPEED), 2);
    // A reset of the MAC leaves the PHY alone, one of the PHY does not.
    write_phy(&mut w, phy::PCTRL, control::POWER_DOWN);
    w.set(PF, Value::<CTRL>::default().set(CTRL::RST));
    assert!(!w.get::<STATUS>(PF).has(STATUS::LU));
    w.set(PF, Value::<CTRL>::default().set(CTRL::PHY_RST));
    assert!(w.get::<STATUS>(PF).has(STATUS::LU));
    assert!(!w.get::<CTRL>(PF).has(CTRL::PHY_RST));
}

#[test]
fn loopback_of_the_phy_is_a_link_without_a_cable() {
    let mut w = pf();
    let effects = w.control.set_link(false, &mut w.host);
    w.apply(effects);
    assert!(!w.get::<STATUS>(PF).has(STATUS::LU));
    let looped = control::LOOPBACK | control::SPEED_1000 | control::FULL_DUPLEX;
    assert!(write_phy(&mut w, phy::PCTRL, looped).publish);
    assert!(w.get::<STATUS>(PF).has(STATUS::LU));
    assert!(write_phy(&mut w, phy::PCTRL, control::AUTONEG_ENABLE).publish);
    assert!(!w.get::<STATUS>(PF).has(STATUS::LU));
}

#[test]
fn what_the_filters_refuse_is_no_good_octet() {
    let mut w = World::open(0);
    let other = MacAddress([2, 8, 8, 8, 8, 8]);
    w.wire_sends(&frame(mac_of(PF), other, 100));
    w.wire_sends(&frame(other, mac_of(PF), 500));
    assert_eq!((w.get::<TPR>(PF).raw(), w.get::<GPRC>(PF).raw()), (2, 1));
    assert_eq!(w.get::<GORCL>(PF).raw(), 104);
    assert_eq!(w.get::<GORCH>(PF).raw(), 0);
    assert_eq!(w.get::<GORCL>(PF).raw(), 0, "read");
    assert_eq!(w.get::<TORL>(PF).raw(), 608);
}

#[test]
fn wake_up_is_offered() {
    let mut w = pf();
    let command = Value::<EERD>::default().with(EERD::ADDR, nvm::INIT_CONTROL_3_PORT_0 as u32);
    w.set(PF, command.set(EERD::START));
    let word = w.get::<EERD>(PF).get(EERD::DATA) as u16;
    assert_ne!(word & nvm::APM_ENABLE, 0);
}
