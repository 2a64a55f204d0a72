//! What requests for segmentation come to that make no sense, or whose end is near.

use igb::descriptor::*;
use igb::queue_page::QueueRegister;
use igb::*;
use igb_model::*;

use crate::packets::*;
use crate::world::*;

#[test]
fn nonsense_is_dropped_by_name_and_costs_the_queue_nothing() {
    let good = Packet::new(3000, 1000);
    let context = good.context();
    let l4 = |kind, len| context.with_l4(kind, len);
    let sized = |mac, ip| {
        TxContext::new(0, mac, ip)
            .with_options(ContextOptions::IPV4)
            .with_l4(L4Type::Tcp, 32)
            .with_mss(1000)
    };
    let len = good.payload.len() as u32;
    let cases = [
        ("mss 0", context.with_mss(0), len),
        (
            "mss above the longest frame",
            context.with_mss(u16::MAX),
            12_000,
        ),
        ("no context", TxContext::new(0, 0, 0), len),
        ("l4len 0", l4(L4Type::Tcp, 0), len),
        ("l4len 19", l4(L4Type::Tcp, 19), len + 13),
        ("l4len 255", l4(L4Type::Tcp, 255), len - 223),
        ("UDP l4len 7", l4(L4Type::Udp, 7), len),
        ("SCTP", l4(L4Type::Sctp, 32), len),
        ("reserved", l4(L4Type::Reserved, 32), len),
        ("maclen 0", sized(0, 20), len + 14),
        ("iplen 0", sized(14, 0), len + 20),
        ("iplen 511", sized(14, 511), len - 491),
        ("header beyond the frame", sized(127, 511), 0),
        ("paylen 0", context, 0),
        ("paylen too short", context, len - 1),
        ("paylen too long", context, len + 1),
        ("paylen at its most", context, (1 << 18) - 1),
    ];
    for (name, context, payload) in cases {
        let mut w = world(3);
        w.push_tx(vf(0), context.to_bytes());
        let mut bytes = good.request();
        if payload == 12_000 {
            bytes.resize(12_000 + 66, 0);
        }
        queue_in(&mut w, vf(0), &bytes, &[], |data| {
            data.with_options(good.options())
                .with_payload_length(payload)
        });
        w.ring_tx(vf(0));
        w.run();
        assert_eq!(w.dropped(vf(0), DropReason::BadSegmentation), 1, "{name}");
        assert_eq!(w.report(vf(0)).drops.total(), 1, "{name}");
        assert!(w.take(vf(1)).is_empty(), "{name}");
        assert_eq!(w.get::<CBRMPC>(PF).raw(), 1, "{name}");
        send_packet(&mut w, vf(0), &good);
        assert_eq!(w.take(vf(1)), good.frames(), "{name}");
    }
}

#[test]
fn a_request_of_very_many_frames_takes_very_many_turns() {
    let mut w = world(3);
    let packet = Packet::new(20_000, 1);
    send_queue_only(&mut w, &packet);
    let sent = frame(mac_of(vf(0)), mac_of(vf(1)), 99);
    for turn in 0..20_000 / 32 {
        let progress = w.path.run(&mut w.host, &mut w.events);
        w.absorb();
        assert_eq!((progress.frames, progress.more), (32, true), "{turn}");
        w.take(vf(1));
        if turn % 100 == 0 {
            w.queue_tx(vf(1), &sent, TxCommand::empty());
            w.ring_tx(vf(1));
            assert_eq!(w.path.run(&mut w.host, &mut w.events).frames, 33);
            w.absorb();
            assert_eq!(w.take(vf(0)), std::slice::from_ref(&sent));
            w.take(vf(1));
            if turn == 500 {
                break;
            }
        }
    }
    // The queue is taken away in the midst of it.
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    let before = w.report(vf(0)).tx_packets;
    w.run();
    assert_eq!(w.report(vf(0)).tx_packets, before);
    w.open_queue(vf(0));
    let packet = Packet::new(3000, 1000);
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(w.take(vf(1)), packet.frames());
}

#[test]
fn a_reset_in_the_midst_of_a_request_ends_it() {
    for by_pf in [false, true] {
        let mut w = world(3);
        let packet = Packet::new(60_000, 600);
        send_queue_only(&mut w, &packet);
        w.path.run(&mut w.host, &mut w.events);
        w.absorb();
        w.take(vf(1));
        if by_pf {
            let vfte = w.get::<VFTE>(PF).raw();
            w.set(PF, Value::<VFTE>::from_raw(vfte & !1));
        } else {
            let effects = w.control.reset_function(vf(0), &mut w.host);
            w.apply(effects);
        }
        w.host.reads.clear();
        w.run();
        assert!(w.take(vf(1)).is_empty());
        assert!(
            w.host.reads.iter().all(|(f, _, _)| *f != vf(0)),
            "no DMA any more"
        );
        let sent = frame(mac_of(vf(2)), mac_of(vf(1)), 500);
        w.send(vf(1), &sent);
        assert_eq!(w.take(vf(2)), [sent]);
    }
}

#[test]
fn memory_that_fails_in_the_midst_costs_the_rest() {
    let mut w = world(3);
    let packet = Packet::new(10_000, 1000);
    let bytes = packet.request();
    w.push_tx(vf(0), packet.context().to_bytes());
    w.poke(vf(0), AREA, &bytes[..4066]);
    let options = |data: TxData| {
        data.with_options(packet.options())
            .with_payload_length(10_000)
            .to_bytes()
    };
    w.push_tx(vf(0), options(TxData::new(AREA, 4066, TxCommand::TSE)));
    let end = TxCommand::TSE | TxCommand::EOP | TxCommand::RS;
    w.push_tx(vf(0), options(TxData::new(MEMORY as u64, 6000, end)));
    w.ring_tx(vf(0));
    w.run();
    assert_eq!(w.take(vf(1)), packet.frames()[..4]);
    assert_eq!(w.dropped(vf(0), DropReason::TxFault), 6);
    let report = w.report(vf(0)).clone();
    assert_eq!(
        (report.faults, report.last_halt.unwrap().reason),
        (1, HaltReason::Fault)
    );
    assert_eq!(w.get::<CBRMPC>(PF).raw(), 1);
    w.set_queue(vf(0), QueueRegister::TXDCTL, 0);
    w.open_queue(vf(0));
    let packet = Packet::new(3000, 1000);
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(w.take(vf(1)), packet.frames());
}

/// However early or late one access is cancelled, one frame is lost at most, and none comes twice.
#[test]
fn a_cancelled_access_costs_one_frame() {
    let packet = Packet::new(4500, 1000);
    let want = packet.frames();
    for whose in [vf(0), vf(1)] {
        for nth in 0..24 {
            let mut w = world(2);
            queue_packet(&mut w, vf(0), &packet, &[70, 2000]);
            w.ring_tx(vf(0));
            w.host.cancel = Some((whose, nth));
            let mut got = Vec::new();
            for turn in 1..4 {
                w.path.advance(turn * 10_000_000);
                w.run();
                got.extend(w.take(vf(1)));
            }
            assert!(got.len() + 1 >= want.len(), "{whose} {nth}: {}", got.len());
            let mut left = want.iter();
            assert!(
                got.iter().all(|got| left.any(|sent| sent == got)),
                "{whose} {nth}"
            );
            assert_eq!(w.report(vf(0)).halts, 0, "{whose} {nth}");
            assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 4, "{whose} {nth}");
            w.host.cancel = None;
            send_packet(&mut w, vf(0), &packet);
            assert_eq!(w.take(vf(1)), want, "{whose} {nth}");
        }
    }
}

#[test]
fn spoofed_requests_count_as_the_frames_they_would_have_been() {
    let mut w = world(2);
    let dtxswc = w.get::<DTXSWC>(PF).with(DTXSWC::MACAS, 1);
    w.set(PF, dtxswc);
    let mut packet = Packet::new(4500, 1000);
    packet.from = mac_of(vf(1));
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(w.dropped(vf(0), DropReason::SpoofedMac), 5);
    assert!(w.take(vf(1)).is_empty());
    assert_eq!(w.get::<WVBR>(PF).raw(), 1);
    packet.from = mac_of(vf(0));
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(w.take(vf(1)), packet.frames());
}
