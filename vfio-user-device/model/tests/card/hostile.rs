//! What a function does wrong hurts that function only, and has a name.

use igb::descriptor::{SIZE, TxCommand, TxContext, TxData};
use igb::pci::{command, header};
use igb::queue_page::QueueRegister;
use igb::*;
use igb_model::*;

use crate::world::*;

/// VF1 and VF2 still reach each other.
fn siblings_are_well(w: &mut World) {
    let sent = frame(mac_of(vf(2)), mac_of(vf(1)), 500);
    w.send(vf(1), &sent);
    assert_eq!(w.take(vf(2)), [sent]);
}

#[test]
fn a_buffer_outside_memory_faults_there_only() {
    let mut w = World::open(3);
    let command = TxCommand::EOP | TxCommand::RS;
    w.push_tx(vf(0), TxData::new(0xFEE0_0000, 60, command).to_bytes());
    w.ring_tx(vf(0));
    w.run();
    let report = w.report(vf(0)).clone();
    assert_eq!(
        (report.faults, w.dropped(vf(0), DropReason::TxFault)),
        (1, 1)
    );
    let fault = report.last_fault.unwrap();
    assert_eq!(
        (
            fault.function,
            fault.ring,
            fault.iova,
            fault.write,
            fault.cause
        ),
        (vf(0), Ring::Tx, 0xFEE0_0000, false, FaultCause::NoWindow)
    );
    assert_eq!(report.last_halt.unwrap().reason, HaltReason::Fault);
    siblings_are_well(&mut w);
    // The queue is halted until it is enabled anew.
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
    assert!(w.take(vf(1)).is_empty());
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    w.open_queue(vf(0));
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.send(vf(0), &sent);
    assert_eq!(w.take(vf(1)), [sent]);
}

#[test]
fn a_receive_buffer_outside_memory_faults_the_receiver() {
    let mut w = World::open(3);
    w.post(vf(0), 0, MEMORY as u64 - 10);
    w.send(vf(1), &frame(mac_of(vf(0)), mac_of(vf(1)), 400));
    let report = w.report(vf(0)).clone();
    assert_eq!(
        (report.faults, report.drops.get(DropReason::RxFault)),
        (1, 1)
    );
    let fault = report.last_fault.unwrap();
    assert_eq!(
        (fault.ring, fault.write, fault.cause),
        (Ring::Rx, true, FaultCause::Edge)
    );
    assert_eq!(w.report(vf(1)).faults, 0, "the sender did nothing wrong");
    assert_eq!(w.report(vf(1)).tx_packets, 1);
    w.send(vf(1), &frame(mac_of(vf(0)), mac_of(vf(1)), 400));
    assert_eq!(w.dropped(vf(0), DropReason::QueueHalted), 1);
    siblings_are_well(&mut w);
}

#[test]
fn the_tail_of_a_frame_outside_memory_is_the_senders_fault() {
    let mut w = World::open(3);
    let head = frame(mac_of(vf(1)), mac_of(vf(0)), 200);
    let at = w.tx_buffer(vf(0));
    w.poke(vf(0), at, &head);
    w.push_tx(vf(0), TxData::new(at, 200, TxCommand::empty()).to_bytes());
    w.push_tx(
        vf(0),
        TxData::new(u64::MAX - 50, 200, TxCommand::EOP | TxCommand::RS).to_bytes(),
    );
    w.ring_tx(vf(0));
    w.run();
    assert_eq!((w.report(vf(0)).faults, w.report(vf(1)).faults), (1, 0));
    assert!(w.take(vf(1)).is_empty());
    siblings_are_well(&mut w);
}

#[test]
fn malformed_rings_are_halted_by_name() {
    let cases: [(QueueRegister, u32, HaltReason); 7] = [
        (QueueRegister::TDLEN, 0, HaltReason::RingLength),
        (QueueRegister::TDLEN, 100, HaltReason::RingLength),
        (QueueRegister::TDLEN, u32::MAX, HaltReason::RingLength),
        (QueueRegister::TDLEN, 0x10_0000, HaltReason::RingLength),
        (QueueRegister::TDH, 16, HaltReason::Head),
        (QueueRegister::TDT, 16, HaltReason::Tail),
        (QueueRegister::TDT, u32::MAX, HaltReason::Tail),
    ];
    for (register, value, reason) in cases {
        let mut w = World::open(3);
        w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
        w.set_queue(vf(0), register, value);
        w.set_queue(vf(0), QueueRegister::TXDCTL, TXDCTL::ENABLE.mask());
        w.run();
        let report = w.report(vf(0)).clone();
        assert_eq!(
            report.last_halt.map(|halt| halt.reason),
            Some(reason),
            "{register:?}"
        );
        w.run();
        assert_eq!(w.report(vf(0)).halts, 1, "once");
        siblings_are_well(&mut w);
    }
    let mut w = World::open(3);
    w.set_queue(vf(0), QueueRegister::RDT, 16);
    w.send(vf(1), &frame(mac_of(vf(0)), mac_of(vf(1)), 60));
    assert_eq!(w.report(vf(0)).last_halt.unwrap().reason, HaltReason::Tail);
    siblings_are_well(&mut w);
    w.set_queue(vf(0), QueueRegister::RXDCTL, 0);
    w.set_queue(vf(0), QueueRegister::RDBAH, u32::MAX);
    w.set_queue(vf(0), QueueRegister::RDBAL, 0xFFFF_FF80);
    w.set_queue(vf(0), QueueRegister::RXDCTL, RXDCTL::ENABLE.mask());
    w.run();
    assert_eq!(
        w.report(vf(0)).last_halt.unwrap().reason,
        HaltReason::RingBase
    );
}

#[test]
fn a_descriptor_ring_outside_memory_faults() {
    let mut w = World::open(3);
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    w.set_queue(vf(0), QueueRegister::TDBAH, 5);
    w.set_queue(vf(0), QueueRegister::TXDCTL, TXDCTL::ENABLE.mask());
    w.set_queue(vf(0), QueueRegister::TDT, 3);
    w.run();
    assert_eq!(w.report(vf(0)).last_fault.unwrap().iova, 5 << 32 | TX_RING);
    siblings_are_well(&mut w);
}

#[test]
fn spoofed_frames_are_dropped_and_told() {
    let mut w = World::open(3);
    let dtxswc = w
        .get::<DTXSWC>(PF)
        .with(DTXSWC::MACAS, 0b111)
        .with(DTXSWC::VLANAS, 0b111);
    w.set(PF, dtxswc);
    w.add_vlan(0, 7, 0b010);
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(2)), 60));
    assert_eq!(w.dropped(vf(0), DropReason::SpoofedMac), 1);
    w.send(vf(0), &tagged(&frame(mac_of(vf(1)), mac_of(vf(0)), 60), 7));
    assert_eq!(w.dropped(vf(0), DropReason::SpoofedVlan), 1);
    assert!(w.take(vf(1)).is_empty());
    assert!(w.host.wire.is_empty());
    assert_eq!(w.get::<WVBR>(PF).raw(), 1);
    assert_eq!(w.get::<WVBR>(PF).raw(), 0);
    assert_eq!(w.get::<SSVPC>(PF).raw(), 2);
    // The queue goes on, and what is allowed passes.
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
    assert_eq!(w.take(vf(1)).len(), 1);
    siblings_are_well(&mut w);
}

#[test]
fn pause_frames_of_a_vf_do_not_pass() {
    let mut w = World::open(2);
    let mut pause = frame(MacAddress([1, 0x80, 0xC2, 0, 0, 1]), mac_of(vf(0)), 60);
    pause[12..14].copy_from_slice(&igb::frame::ETHERTYPE_MAC_CONTROL.to_be_bytes());
    w.send(vf(0), &pause);
    assert_eq!(w.dropped(vf(0), DropReason::PauseFrame), 1);
    assert!(w.host.wire.is_empty());
}

#[test]
fn no_descriptors_drops_with_the_reason_that_qde_says() {
    let mut w = World::open(3);
    let sent = frame(mac_of(vf(0)), mac_of(vf(1)), 60);
    for _ in 0..20 {
        w.send(vf(1), &sent);
    }
    assert_eq!(w.dropped(vf(0), DropReason::NoDescriptorNoDropEn), 5);
    w.set(PF, Value::<QDE>::from_raw(1));
    w.send(vf(1), &sent);
    assert_eq!(w.dropped(vf(0), DropReason::NoDescriptor), 1);
    assert_eq!(w.get::<RNBC>(PF).raw(), 6);
    assert_eq!(w.take(vf(0)).len(), 15);
    w.send(vf(1), &sent);
    assert_eq!(w.take(vf(0)).len(), 1);
}

#[test]
fn frames_of_endless_descriptors_end() {
    let mut w = World::open(2);
    // A ring of 256 so that the limit is met before the ring is full.
    w.driver(vf(0)).entries = 256;
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    w.set_queue(vf(0), QueueRegister::TDLEN, 256 * SIZE as u32);
    w.set_queue(vf(0), QueueRegister::TXDCTL, TXDCTL::ENABLE.mask());
    for n in 0..100 {
        let end = if n == 99 {
            TxCommand::EOP | TxCommand::RS
        } else {
            TxCommand::empty()
        };
        w.push_tx(vf(0), TxData::new(TX_BUFFERS, 10, end).to_bytes());
    }
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.dropped(vf(0), DropReason::TooManyDescriptors), 1);
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    // Behind it the queue works.
    let at = TX_BUFFERS + 0x1000;
    w.poke(vf(0), at, &sent);
    w.push_tx(
        vf(0),
        TxData::new(at, 60, TxCommand::EOP | TxCommand::RS).to_bytes(),
    );
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.take(vf(1)), [sent]);
}

#[test]
fn a_flood_of_contexts_is_bounded() {
    let mut w = World::open(2);
    for _ in 0..15 {
        w.push_tx(vf(0), TxContext::new(0, 14, 20).to_bytes());
    }
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 15);
}

#[test]
fn without_bus_master_there_is_no_dma() {
    let mut w = World::open(2);
    w.set_config16(vf(0), header::COMMAND, 0);
    w.host.reads.clear();
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
    w.send(vf(1), &frame(mac_of(vf(0)), mac_of(vf(1)), 60));
    assert!(w.host.reads.iter().all(|(f, _, _)| *f != vf(0)));
    assert!(w.take(vf(0)).is_empty());
    assert_eq!(w.dropped(vf(0), DropReason::RxDisabled), 1);
    w.set_config16(vf(0), header::COMMAND, command::BUS_MASTER);
    w.run();
    assert_eq!(w.take(vf(1)).len(), 1, "the frame was waiting");
}

#[test]
fn enable_toggles_latch_anew() {
    let mut w = World::open(2);
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.send(vf(0), &sent);
    assert_eq!(w.take(vf(1)).len(), 1);
    for _ in 0..3 {
        w.set_queue(vf(1), QueueRegister::RXDCTL, 0);
        w.send(vf(0), &sent);
        assert!(w.take(vf(1)).is_empty());
        w.open_queue(vf(1));
        w.send(vf(0), &sent);
        assert_eq!(w.take(vf(1)).len(), 1);
    }
    assert_eq!(w.dropped(vf(1), DropReason::RxDisabled), 3);
    // A base written while the ring runs is not seen before it is enabled again, but a toggle that
    // nobody looked at between is.
    let page = |register| {
        let (page, at) = queue_page::slot(FunctionKind::Virtual, 0, register).unwrap();
        (usize::from(page == QueuePage::Tx), at as usize / 4)
    };
    let (tx, base) = page(QueueRegister::TDBAL);
    w.host.pages[vf(0).slot()][tx][base] = 0x5000;
    let (_, head) = page(QueueRegister::TDH);
    w.host.pages[vf(0).slot()][tx][head] = 0;
    let (_, tail) = page(QueueRegister::TDT);
    w.host.pages[vf(0).slot()][tx][tail] = 1;
    let at = TX_BUFFERS;
    w.poke(vf(0), at, &sent);
    w.poke(
        vf(0),
        0x5000,
        &TxData::new(at, 60, TxCommand::EOP | TxCommand::RS).to_bytes(),
    );
    w.run();
    assert_eq!(w.take(vf(1)), [sent]);
}

#[test]
fn buffers_fetched_before_a_disable_are_not_used_after_it() {
    let mut w = World::open(2);
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.send(vf(0), &sent);
    w.set_queue(vf(1), QueueRegister::RXDCTL, 0);
    w.open_queue(vf(1));
    let elsewhere = RX_BUFFERS + 0x2_0000;
    w.post(vf(1), 0, elsewhere);
    let old = w.peek(vf(1), RX_BUFFERS, ENTRIES as usize * BUFFER as usize);
    w.send(vf(0), &sent);
    assert_eq!(w.peek(vf(1), elsewhere, 60), sent);
    assert!(w.peek(vf(1), RX_BUFFERS, old.len()) == old);
}

#[test]
fn the_header_is_read_once() {
    let mut w = World::open(3);
    let vmolr = w
        .get_at::<VMOLR>(PF, 1)
        .set(VMOLR::LPE)
        .with(VMOLR::RLPML, 0x2600);
    w.set_at(PF, 1, vmolr);
    for (to, len) in [(vf(1), 60), (vf(1), 128), (vf(1), 129), (vf(1), 4000)] {
        let at = w.tx_buffer(vf(0));
        w.host.reads.clear();
        w.send(vf(0), &frame(mac_of(to), mac_of(vf(0)), len));
        let mut seen = vec![0; len];
        for (_, iova, len) in w
            .host
            .reads
            .iter()
            .filter(|(f, iova, _)| *f == vf(0) && *iova >= at)
        {
            for byte in *iova..*iova + *len as u64 {
                seen[(byte - at) as usize] += 1;
            }
        }
        assert!(seen.iter().all(|times| *times == 1), "{len}: {seen:?}");
        w.take(to);
    }
}

#[test]
fn a_sender_with_slow_memory_waits_for_its_next_turn() {
    let mut w = World::open(3);
    for n in 0..10 {
        w.queue_tx(
            vf(0),
            &frame(mac_of(vf(1)), mac_of(vf(0)), 60 + n),
            TxCommand::empty(),
        );
    }
    w.ring_tx(vf(0));
    let sent = frame(mac_of(vf(1)), mac_of(vf(2)), 100);
    w.queue_tx(vf(2), &sent, TxCommand::empty());
    w.ring_tx(vf(2));
    w.host.turns = vec![(vf(0), 1)];
    let progress = w.path.run(&mut w.host, &mut w.events);
    assert!(progress.more);
    let got = w.take(vf(1));
    assert_eq!(got.len(), 2, "one frame of it and that of the other");
    assert!(got.contains(&sent));
    let reads = w.host.reads.len();
    assert!(w.path.run(&mut w.host, &mut w.events).more);
    assert_eq!(w.host.reads.len(), reads, "its memory is left alone");
    w.host.turns.clear();
    w.run();
    assert_eq!(w.take(vf(1)).len(), 9, "nothing is lost");
}

#[test]
fn a_receiver_with_slow_memory_loses_frames() {
    let mut w = World::open(3);
    w.host.turns = vec![(vf(0), 1)];
    for n in 0..4 {
        w.queue_tx(
            vf(2),
            &frame(mac_of(vf(0)), mac_of(vf(2)), 60 + n),
            TxCommand::empty(),
        );
    }
    w.ring_tx(vf(2));
    w.run();
    assert_eq!(w.take(vf(0)).len(), 1);
    assert_eq!(w.dropped(vf(0), DropReason::SlowReceiver), 3);
    assert_eq!(w.report(vf(2)).tx_packets, 4);
    siblings_are_well(&mut w);
}
