//! DMA that a client cancels, as one does that has the card wait while it waits for the card, costs a
//! frame at most and no queue.

use igb::descriptor::{RxStatus, SIZE, TxCommand, TxWriteBack};
use igb::queue_page::{DOORBELL_WAKE, QueueRegister, VF_TX};
use igb::*;

use crate::world::*;

const FRAMES: usize = 3;

/// VF0 sends, each frame of two receive buffers, and one access of `whose` memory is cancelled. VF1
/// gets the frames that are not lost, in order and with an interrupt.
fn one_cancelled(whose: FunctionId, nth: usize, head_write_back: bool) {
    let mut w = World::open(2);
    for n in 0..2 {
        let vmolr = w.get_at::<VMOLR>(PF, n).set(VMOLR::LPE);
        w.set_at(PF, n, vmolr.with(VMOLR::RLPML, 9000));
    }
    let ivar = Value::<VTIVAR>::default().set(VTIVAR::RXQ0_VALID);
    w.set_at(PF, 1, ivar);
    if head_write_back {
        w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
        w.set_queue(
            vf(0),
            QueueRegister::TDWBAL,
            0x9000 | TDWBAL::HEAD_WB_EN.mask(),
        );
        w.open_queue(vf(0));
    }
    let sent: Vec<_> = (0..FRAMES)
        .map(|n| frame(mac_of(vf(1)), mac_of(vf(0)), 3000 + n))
        .collect();
    for sent in &sent {
        w.queue_tx(vf(0), sent, TxCommand::empty());
    }
    w.ring_tx(vf(0));
    w.host.cancel = Some((whose, nth));
    let mut got = Vec::new();
    let mut part = Vec::new();
    for turn in 1..4 {
        w.path.advance(turn * 10_000_000);
        let told = w.get_at::<PVTEICR>(PF, 1).raw() != 0;
        assert!(!told);
        w.run();
        let mut new = Vec::new();
        while let Some((done, data)) = w.take_descriptor(vf(1)) {
            part.extend_from_slice(&data);
            if done.status().contains(RxStatus::EOP) {
                new.push(std::mem::take(&mut part));
            }
        }
        let told = w.get::<EICR>(vf(1)).raw() != 0;
        assert!(
            new.is_empty() || told,
            "access {nth}: frames without an interrupt"
        );
        got.extend(new);
    }
    assert!(
        got.len() + 1 >= sent.len(),
        "access {nth}: {} frames",
        got.len()
    );
    let mut left = sent.iter();
    assert!(
        got.iter().all(|got| left.any(|sent| sent == got)),
        "access {nth}: order"
    );
    for f in [vf(0), vf(1)] {
        assert_eq!(w.report(f).halts, 0, "access {nth}");
    }
    if head_write_back {
        assert_eq!(w.peek(vf(0), 0x9000, 4), (FRAMES as u32).to_le_bytes());
    } else {
        for n in 0..FRAMES {
            let bytes: [u8; SIZE] = w
                .peek(vf(0), TX_RING + (n * SIZE) as u64, SIZE)
                .try_into()
                .unwrap();
            assert!(
                TxWriteBack::from_bytes(&bytes).is_done(),
                "access {nth}: descriptor {n}"
            );
        }
    }
    assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), FRAMES as u32);
    w.host.cancel = None;
    // Both queues go on, at the right place.
    let last = frame(mac_of(vf(1)), mac_of(vf(0)), 100);
    w.send(vf(0), &last);
    assert_eq!(w.take(vf(1)), [last], "access {nth}");
}

#[test]
fn a_sender_loses_a_frame_at_most() {
    for nth in 0..16 {
        one_cancelled(vf(0), nth, false);
        one_cancelled(vf(0), nth, true);
    }
}

#[test]
fn a_receiver_loses_a_frame_at_most() {
    for nth in 0..24 {
        one_cancelled(vf(1), nth, false);
    }
}

#[test]
fn a_ring_set_up_anew_forgets_half_a_frame_of_the_old_one() {
    let mut w = World::open(2);
    w.write32(vf(0), VF_TX + DOORBELL_WAKE, 1);
    let half = igb::descriptor::TxData::new(TX_BUFFERS, 30, TxCommand::empty());
    w.push_tx(vf(0), half.to_bytes());
    w.ring_tx(vf(0));
    w.run();
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    w.open_queue(vf(0));
    // As many descriptors as lay there before, and the tail stored, not written: the card sees them
    // before it sleeps.
    w.queue_tx(
        vf(0),
        &frame(mac_of(vf(1)), mac_of(vf(0)), 60),
        TxCommand::empty(),
    );
    let (_, at) = igb::queue_page::slot(FunctionKind::Virtual, 0, QueueRegister::TDT).unwrap();
    w.host.pages[vf(0).slot()][1][at as usize / 4] = 1;
    assert!(!w.path.prepare_sleep(&mut w.host));
}
