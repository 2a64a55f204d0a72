//! The accesses by which igb and igbvf recognise the card.

use igb::*;
use igb_model::*;

use crate::world::*;

fn pf() -> World {
    let mut w = World::new();
    w.init_pf();
    w
}

#[test]
fn igb_finds_eeprom_phy_and_semaphores() {
    let mut w = pf();
    let eecd = w.get::<EECD>(PF);
    assert!(eecd.has(EECD::EE_PRES) && eecd.has(EECD::AUTO_RD));
    assert_eq!(eecd.get(EECD::EE_SIZE_EX), 2);
    let mut sum = 0u16;
    for word in 0..nvm::CHECKED_WORDS as u32 {
        w.set(
            PF,
            Value::<EERD>::default()
                .with(EERD::ADDR, word)
                .set(EERD::START),
        );
        let value = w.get::<EERD>(PF);
        assert!(value.has(EERD::DONE));
        sum = sum.wrapping_add(value.get(EERD::DATA) as u16);
    }
    assert_eq!(sum, nvm::CHECKSUM);

    // A read of SWSM takes the semaphore.
    assert!(!w.get::<SWSM>(PF).has(SWSM::SMBI));
    assert!(w.get::<SWSM>(PF).has(SWSM::SMBI));
    w.set(PF, Value::<SWSM>::default().set(SWSM::SWESMBI));
    assert!(w.get::<SWSM>(PF).has(SWSM::SWESMBI));
    w.set(PF, Value::<SWSM>::default());
    assert!(!w.get::<SWSM>(PF).has(SWSM::SMBI));

    let mdic = Value::<MDIC>::default()
        .with(MDIC::PHYADD, phy::ADDRESS)
        .with(MDIC::REGADD, phy::PHY_ID1.into())
        .with(MDIC::OP, phy::OP_READ);
    w.set(PF, mdic);
    let answer = w.get::<MDIC>(PF);
    assert!(answer.has(MDIC::READY) && !answer.has(MDIC::ERROR));
    assert_eq!(answer.get(MDIC::DATA), phy::ID1.into());

    assert!(w.get::<EEMNGCTL>(PF).has(EEMNGCTL::CFG_DONE0));
    assert_eq!(w.get::<FWSM>(PF).raw(), 0);
    assert_eq!(w.get::<RXPBS>(PF).raw(), 0x40);
    let mac = MacAddress::from_words(
        w.get_at::<RAL>(PF, 0).raw(),
        w.get_at::<RAH>(PF, 0).get(RAH::RAH) as u16,
    );
    assert_eq!(mac, mac_of(PF));
    assert!(w.get_at::<RAH>(PF, 0).has(RAH::AV));
    let status = w.get::<STATUS>(PF);
    assert!(status.has(STATUS::FD) && status.has(STATUS::LU));
    assert!(status.has(STATUS::GIO_MASTER_EN));
    assert_eq!(status.get(STATUS::LAN_ID), 0);
    let ctrl = w.get::<CTRL>(PF).set(CTRL::GIO_MASTER_DISABLE);
    w.set(PF, ctrl);
    assert!(!w.get::<STATUS>(PF).has(STATUS::GIO_MASTER_EN));
}

#[test]
fn reset_clears_itself_and_reloads_the_address() {
    let mut w = pf();
    w.add_filter(0, MacAddress([2, 4, 4, 4, 4, 4]), 0);
    w.set(PF, Value::<RCTL>::from_raw(u32::MAX));
    let effects = w.set(PF, Value::<CTRL>::default().set(CTRL::RST));
    assert!(effects.clear_pages.contains(PF) && effects.reset_done.contains(PF));
    assert_eq!(w.get::<CTRL>(PF), Value::RESET);
    assert_eq!(w.get::<RCTL>(PF).raw(), 0);
    assert_eq!(w.get_at::<RAL>(PF, 0).raw(), mac_of(PF).to_words().0);
}

#[test]
fn registers_behave_by_their_kind() {
    let mut w = pf();
    // STATUS is read-only, the masks set and clear bit by bit.
    let before = w.get::<STATUS>(PF);
    w.set(PF, Value::<STATUS>::from_raw(!before.raw()));
    assert_eq!(w.get::<STATUS>(PF), before);
    w.set(PF, Value::<EIMS>::from_raw(0b1010));
    w.set(PF, Value::<EIMS>::from_raw(0b0101));
    w.set(PF, Value::<EIMC>::from_raw(0b0011));
    assert_eq!(w.get::<EIMS>(PF).raw(), 0b1100);
    assert_eq!(w.get::<EIMC>(PF).raw(), 0);
    // Queues 0 to 3 have a second place.
    let alias = RDT::ID.info().alias_of(2).unwrap();
    w.write32(PF, alias, 9);
    assert_eq!(w.get_at::<RDT>(PF, 2).raw(), 9);
    assert_eq!(
        w.host.pages[0][0][(0x2 * 0x40 + 0x18) / 4],
        9,
        "it lies in the page"
    );
}

#[test]
fn igbvf_resets_and_waits_for_the_pf() {
    let mut w = pf();
    w.enable_vfs(1);
    w.set(vf(0), Value::<vf::VTCTRL>::default().set(PVTCTRL::RST));
    assert_eq!(w.get::<vf::VTCTRL>(vf(0)).raw(), 0);
    let v2p = w.get::<vf::V2PMAILBOX>(vf(0));
    assert!(!v2p.has(V2PMAILBOX::RSTI) && !v2p.has(V2PMAILBOX::RSTD));
    let status = w.get::<vf::VTSTATUS>(vf(0));
    assert!(status.has(STATUS::LU) && !status.has(STATUS::IOV_MODE));
}

#[test]
fn a_message_through_an_open_mailbox() {
    let mut w = World::with(CardSettings {
        mailbox: MailboxMode::Open,
        ..settings()
    });
    w.init_pf();
    w.enable_vfs(2);
    w.set(PF, Value::<IMS>::default().set(IMS::VMMB));
    w.set(
        PF,
        Value::<IVAR_MISC>::default()
            .with(IVAR_MISC::OTHER, 1)
            .set(IVAR_MISC::OTHER_VALID),
    );
    w.set(PF, Value::<EIMS>::from_raw(2));
    w.set(PF, Value::<EIAC>::from_raw(2));
    let misc = Value::<vf::VTIVAR_MISC>::default().set(VTIVAR_MISC::MAILBOX_VALID);
    w.set(vf(1), misc);
    w.set(vf(1), Value::<vf::VTEIMS>::from_raw(1));
    w.get::<vf::V2PMAILBOX>(vf(1));

    w.set(
        vf(1),
        Value::<vf::V2PMAILBOX>::default().set(V2PMAILBOX::VFU),
    );
    let request = mailbox::VfMessage::Reset.encode();
    for (n, word) in request.iter().enumerate() {
        w.set_at(vf(1), n as u32, Value::<vf::VMBMEM>::from_raw(*word));
    }
    w.set(
        vf(1),
        Value::<vf::V2PMAILBOX>::default().set(V2PMAILBOX::REQ),
    );
    assert_eq!(w.host.interrupts, [(PF, Signal::Msix(1))]);
    assert_eq!(w.get::<MBVFICR>(PF).get(MBVFICR::VFREQ), 0b10);
    w.set(PF, Value::<MBVFICR>::default().with(MBVFICR::VFREQ, 0b10));
    assert_eq!(w.get::<MBVFICR>(PF).raw(), 0);
    assert_eq!(w.get_at::<VMBMEM>(PF, 16).raw(), request[0]);
    assert_eq!(w.get_at::<VMBMEM>(PF, 0).raw(), 0);
    w.host.interrupts.clear();
    w.set_at(
        PF,
        1,
        Value::<P2VMAILBOX>::default()
            .set(P2VMAILBOX::STS)
            .set(P2VMAILBOX::ACK),
    );
    assert_eq!(w.host.interrupts, [(vf(1), Signal::Msix(0))]);
    let v2p = w.get::<vf::V2PMAILBOX>(vf(1));
    assert!(v2p.has(V2PMAILBOX::PFSTS) && v2p.has(V2PMAILBOX::PFACK));
    // Without the VF's bit in MBVFIMR its message does not interrupt.
    w.host.interrupts.clear();
    w.set(PF, Value::<MBVFIMR>::default());
    w.set(
        vf(1),
        Value::<vf::V2PMAILBOX>::default().set(V2PMAILBOX::REQ),
    );
    assert!(w.host.interrupts.is_empty());
    assert_ne!(w.get::<MBVFICR>(PF).raw(), 0);
}

#[test]
fn the_mailbox_is_closed_by_default() {
    let mut w = World::open(1);
    for n in 0..16 {
        w.set_at(vf(0), n, Value::<vf::VMBMEM>::from_raw(u32::MAX));
        assert_eq!(w.get_at::<vf::VMBMEM>(vf(0), n).raw(), 0);
        assert_eq!(w.get_at::<VMBMEM>(PF, n).raw(), 0);
    }
    w.get::<vf::V2PMAILBOX>(vf(0));
    w.set(vf(0), Value::<vf::V2PMAILBOX>::from_raw(u32::MAX));
    assert_eq!(w.get::<vf::V2PMAILBOX>(vf(0)).raw(), 0);
    assert_eq!(w.get::<MBVFICR>(PF).raw(), 0);
}
