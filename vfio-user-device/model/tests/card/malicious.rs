//! Drivers whose descriptors make no sense: dropped by name, and blocked if the PF wants it so
//! (DTXCTL.MDP_EN).

use igb::descriptor::*;
use igb::queue_page::QueueRegister;
use igb::*;
use igb_model::*;

use crate::world::*;

const END: TxCommand = TxCommand::EOP.union(TxCommand::RS);

/// Nonsense, its reason, and the cause that is latched for it.
fn nonsense() -> Vec<(Vec<[u8; SIZE]>, DropReason, igb::Field<LVMMC>)> {
    let data = |len, command| TxData::new(TX_BUFFERS, len, command);
    let reserved = LegacyTx::from_raw([0, u64::from((TxCommand::DEXT | END).bits()) | 1 << 20]);
    vec![
        (
            vec![reserved.to_bytes()],
            DropReason::BadDescriptor,
            LVMMC::DESCRIPTOR,
        ),
        (
            vec![
                data(60, TxCommand::empty()).to_bytes(),
                TxContext::new(0, 14, 20).to_bytes(),
                data(60, END).to_bytes(),
            ],
            DropReason::BadDescriptor,
            LVMMC::DESCRIPTOR,
        ),
        (
            vec![data(13, END).to_bytes()],
            DropReason::Runt,
            LVMMC::SIZE,
        ),
        (
            vec![data(9725, END).to_bytes()],
            DropReason::Oversize,
            LVMMC::SIZE,
        ),
        (
            vec![
                TxContext::new(0, 14, 500).to_bytes(),
                data(60, END).with_options(TxOptions::TXSM).to_bytes(),
            ],
            DropReason::BadChecksumContext,
            LVMMC::CONTEXT,
        ),
        (
            vec![
                TxContext::new(0, 14, 20).to_bytes(),
                data(60, END | TxCommand::TSE).to_bytes(),
            ],
            DropReason::BadSegmentation,
            LVMMC::CONTEXT,
        ),
    ]
}

fn misbehave(w: &mut World, raw: &[[u8; SIZE]]) {
    for raw in raw {
        w.push_tx(vf(0), *raw);
    }
    w.ring_tx(vf(0));
    w.run();
}

fn is_heard(w: &mut World, f: FunctionId) -> bool {
    let sent = frame(mac_of(vf(2)), mac_of(f), 99);
    w.send(f, &sent);
    let got = w.take(vf(2));
    assert!(got.is_empty() || got == [sent]);
    !got.is_empty()
}

#[test]
fn nonsense_costs_no_more_than_itself_while_nobody_wants_more() {
    for (raw, reason, _) in nonsense() {
        let mut w = World::open(3);
        misbehave(&mut w, &raw);
        assert_eq!(w.dropped(vf(0), reason), 1);
        assert!(is_heard(&mut w, vf(0)), "{reason:?}");
        assert_eq!(w.get::<WVBR>(PF).raw(), 0);
        assert_eq!(w.get::<LVMMC>(PF).raw(), 0);
        assert_eq!(w.get::<MDFB>(PF).raw(), 0);
    }
}

#[test]
fn its_queue_is_blocked_until_the_pf_frees_it() {
    for (raw, reason, cause) in nonsense() {
        let mut w = World::open(3);
        let dtxctl = w
            .get::<DTXCTL>(PF)
            .set(DTXCTL::MDP_EN)
            .clear(DTXCTL::SPOOF_INT);
        w.set(PF, dtxctl);
        w.set(PF, Value::<IMS>::from_raw(ICR::DOUTSYNC.mask()));
        misbehave(&mut w, &raw);
        assert_eq!(w.dropped(vf(0), reason), 1);
        assert_eq!(
            w.report(vf(0)).last_halt.unwrap().reason,
            HaltReason::Malicious
        );
        assert!(w.get::<ICR>(PF).has(ICR::DOUTSYNC), "{reason:?}");
        let lvmmc = w.get::<LVMMC>(PF);
        assert!(lvmmc.has(cause), "{reason:?}");
        assert_eq!((lvmmc.get(LVMMC::LAST_Q), w.get::<LVMMC>(PF).raw()), (0, 0));
        let wvbr = w.get::<WVBR>(PF);
        assert_eq!((wvbr.get(WVBR::BLOCKED), wvbr.get(WVBR::QUEUES)), (1, 0));
        assert_eq!(w.get::<WVBR>(PF).raw(), 0);
        assert_eq!(w.get::<MDFB>(PF).raw(), 1);

        assert!(!is_heard(&mut w, vf(0)) && is_heard(&mut w, vf(1)));
        // The VF cannot help itself.
        w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
        w.open_queue(vf(0));
        assert!(!is_heard(&mut w, vf(0)));
        assert_eq!(w.get::<MDFB>(PF).raw(), 1);
        // Freeing others does nothing.
        w.set(PF, Value::<MDFB>::from_raw(0xFFFE));
        assert!(!is_heard(&mut w, vf(0)));
        w.set(PF, Value::<MDFB>::from_raw(1));
        assert_eq!(w.get::<MDFB>(PF).raw(), 0);
        w.run();
        w.take(vf(2));
        assert!(is_heard(&mut w, vf(0)), "{reason:?}");
        assert_eq!(w.get::<MDFB>(PF).raw(), 0);
    }
}

#[test]
fn a_reset_or_a_vf_that_may_not_send_ends_a_block() {
    for reset in [false, true] {
        let mut w = World::open(3);
        w.driver(vf(0)).queue = 1;
        let dtxctl = w.get::<DTXCTL>(PF).set(DTXCTL::MDP_EN);
        w.set(PF, dtxctl);
        misbehave(&mut w, &nonsense()[0].0);
        assert_eq!(
            w.get::<MDFB>(PF).raw(),
            0,
            "its second queue is not enabled"
        );
        w.open_queue(vf(0));
        misbehave(&mut w, &nonsense()[0].0);
        assert_eq!(w.get::<MDFB>(PF).raw(), 1);
        if reset {
            let effects = w.control.reset_function(vf(0), &mut w.host);
            w.apply(effects);
            w.set_config16(
                vf(0),
                igb::pci::header::COMMAND,
                igb::pci::command::BUS_MASTER,
            );
            w.set(PF, Value::<VFRE>::from_raw(0b111));
        } else {
            w.set(PF, Value::<VFTE>::from_raw(0b110));
        }
        w.run();
        assert_eq!(w.get::<MDFB>(PF).raw(), 0);
        w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
        w.set(PF, Value::<VFTE>::from_raw(0b111));
        w.open_queue(vf(0));
        assert!(is_heard(&mut w, vf(0)));
    }
}

#[test]
fn a_spoofing_vf_is_told_of_and_not_blocked() {
    let mut w = World::open(3);
    let dtxctl = w.get::<DTXCTL>(PF).set(DTXCTL::MDP_EN);
    w.set(PF, dtxctl);
    let dtxswc = w
        .get::<DTXSWC>(PF)
        .with(DTXSWC::MACAS, 0b111)
        .with(DTXSWC::VLANAS, 0b111);
    w.set(PF, dtxswc);
    w.send(vf(1), &frame(mac_of(vf(0)), mac_of(vf(2)), 60));
    let lvmmc = w.get::<LVMMC>(PF);
    assert!(lvmmc.has(LVMMC::MAC_SPOOF) && lvmmc.get(LVMMC::LAST_Q) == 1);
    w.send(vf(1), &tagged(&frame(mac_of(vf(0)), mac_of(vf(1)), 60), 9));
    assert!(w.get::<LVMMC>(PF).has(LVMMC::VLAN_SPOOF));
    let wvbr = w.get::<WVBR>(PF);
    assert_eq!((wvbr.get(WVBR::QUEUES), wvbr.get(WVBR::BLOCKED)), (2, 0));
    assert_eq!(w.get::<MDFB>(PF).raw(), 0);
    assert!(is_heard(&mut w, vf(1)));
}

/// What a checksum overwrites is looked at afterwards, by the one who decides.
#[test]
fn a_checksum_cannot_change_what_was_checked() {
    let mut w = World::open(2);
    let dtxswc = w.get::<DTXSWC>(PF).with(DTXSWC::MACAS, 0b11);
    w.set(PF, dtxswc);
    // A legacy checksum over the last two bytes, put where the caller says.
    let send = |w: &mut World, bytes: &[u8], at: u8| {
        let place = w.tx_buffer(vf(0));
        w.poke(vf(0), place, bytes);
        let command = LegacyTxCommand::EOP | LegacyTxCommand::RS | LegacyTxCommand::IC;
        let data = LegacyTx::new(place, bytes.len() as u16, command);
        let start = bytes.len() as u8 - 2;
        w.push_tx(vf(0), data.with_checksum(start, at).to_bytes());
        w.ring_tx(vf(0));
        w.run();
    };
    let with_end = |mut bytes: Vec<u8>, sum: u16| {
        let at = bytes.len() - 2;
        bytes[at..].copy_from_slice(&(!sum).to_be_bytes());
        bytes
    };
    let good = frame(MacAddress([2, 9, 9, 9, 9, 9]), mac_of(vf(0)), 60);
    // A pause frame.
    let mut pause = with_end(good.clone(), igb::frame::ETHERTYPE_MAC_CONTROL);
    pause[..6].copy_from_slice(&[1, 0x80, 0xC2, 0, 0, 1]);
    send(&mut w, &pause, 12);
    assert_eq!(w.dropped(vf(0), DropReason::PauseFrame), 1);
    // Somebody else's address.
    send(&mut w, &with_end(good.clone(), 0x0102), 10);
    assert_eq!(w.dropped(vf(0), DropReason::SpoofedMac), 1);
    assert!(w.host.wire.is_empty());
    // Another destination, which then is where it goes.
    send(&mut w, &with_end(good, 0x0102), 4);
    assert_eq!(w.host.wire.len(), 1);
    assert_eq!(w.host.wire[0][..6], [2, 9, 9, 9, 1, 2]);
}
