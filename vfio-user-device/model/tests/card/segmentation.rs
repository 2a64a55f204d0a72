//! Segmentation: every frame that a request is cut into is what a slow and simple cutter makes of it.

use igb::descriptor::*;
use igb::queue_page::QueueRegister;
use igb::*;
use proptest::prelude::*;

use crate::packets::*;
use crate::world::*;

#[test]
fn a_request_of_64_kib_reaches_another_vf_and_the_wire() {
    let mut w = world(2);
    let mut packet = Packet::new(65536 - 52, 1448);
    packet.flags |= CWR;
    for to in [
        mac_of(vf(1)),
        MacAddress([2, 9, 9, 9, 9, 9]),
        MacAddress::BROADCAST,
    ] {
        packet.to = to;
        w.host.wire.clear();
        send_packet(&mut w, vf(0), &packet);
        let want = packet.frames();
        assert_eq!(want.len(), 46);
        let local = to == mac_of(vf(1));
        let got = w.take(vf(1));
        assert_eq!(
            got,
            if local || to.is_broadcast() {
                want.clone()
            } else {
                vec![]
            }
        );
        assert_eq!(w.host.wire, if local { vec![] } else { want.clone() });
        want.iter().for_each(|frame| check_with_smoltcp(frame, 14));
        w.take(PF);
    }
    // Frames are counted as they leave, requests as what they are.
    let frames = 3 * 46;
    assert_eq!(w.report(vf(0)).tx_packets, frames);
    assert_eq!(w.get::<vf::VFGPTC>(vf(0)).raw(), frames as u32);
    assert_eq!(w.get::<TSCTC>(PF).raw(), 3);
    assert_eq!(w.get::<CBRMPC>(PF).raw(), 0);
    assert_eq!(w.get::<GPTC>(PF).raw(), 2 * 46);
}

#[test]
fn software_is_told_once_and_after_the_last_frame() {
    let mut w = world(2);
    let packet = Packet::new(60_000, 1000);
    queue_packet(&mut w, vf(0), &packet, &[66, 30_000]);
    w.ring_tx(vf(0));
    let done = |w: &World, n: u64| {
        let raw: [u8; SIZE] = w.peek(vf(0), TX_RING + n * 16, SIZE).try_into().unwrap();
        TxWriteBack::from_bytes(&raw).is_done()
    };
    // More frames than a turn has.
    let progress = w.path.run(&mut w.host, &mut w.events);
    w.absorb();
    assert!(progress.more && progress.frames == 32);
    assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 1, "the context");
    assert!((0..4).all(|n| !done(&w, n)));
    w.run();
    assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 4);
    assert!(done(&w, 3) && (0..3).all(|n| !done(&w, n)));
    assert_eq!(w.take(vf(1)), packet.frames());
}

#[test]
fn siblings_have_their_turns_within_a_request() {
    let mut w = world(3);
    let packet = Packet::new(60_000, 600);
    send_queue_only(&mut w, &packet);
    let sent = frame(mac_of(vf(1)), mac_of(vf(2)), 99);
    w.queue_tx(vf(2), &sent, TxCommand::empty());
    w.ring_tx(vf(2));
    w.path.run(&mut w.host, &mut w.events);
    w.absorb();
    let got = w.take(vf(1));
    assert!(got.len() <= 33 && got.contains(&sent));
    w.run();
    assert_eq!(w.take(vf(1)).len() + got.len(), 101);
}

#[test]
fn a_rate_limit_counts_what_goes_over_the_wire() {
    let mut w = world(2);
    w.set(PF, Value::<RTTDQSEL>::from_raw(0));
    // 1.25 MB/s.
    let rate = Value::<RTTBCNRC>::default()
        .set(RTTBCNRC::RS_ENA)
        .with(RTTBCNRC::RF_INT, 100);
    w.set(PF, rate);
    let packet = Packet::new(65_000, 1000);
    let frame = packet.frames()[0].len() as u64 + 4 + 20;
    send_queue_only(&mut w, &packet);
    let mut now = 0;
    let mut turns = 0;
    while w.report(vf(0)).tx_packets < 65 {
        let progress = w.path.run(&mut w.host, &mut w.events);
        w.absorb();
        w.take(vf(1));
        now = progress.deadline_ns.unwrap_or(now).max(now);
        w.path.advance(now);
        turns += 1;
        assert!(turns < 100);
    }
    // 16 KiB were saved up.
    let least = (65 * frame - 16384 - frame) * 1_000_000_000 / 1_250_000;
    assert!((least..=least + 2_000_000).contains(&now), "{now} {least}");
}

#[test]
fn flags_are_masked_as_the_registers_say() {
    let mut w = world(2);
    let mut packet = Packet::new(300, 100);
    packet.flags = 0xFFF;
    let first_middle = Value::<DTXTCPFLGL>::default()
        .with(DTXTCPFLGL::FIRST_SEG, 0x0F1)
        .with(DTXTCPFLGL::MID_SEG, 0x0F2);
    w.set(PF, first_middle);
    w.set(
        PF,
        Value::<DTXTCPFLGH>::default().with(DTXTCPFLGH::LAST_SEG, 0x0F4),
    );
    let flags = |w: &mut World| -> Vec<u16> {
        let frames = w.take(vf(1));
        frames
            .iter()
            .map(|f| u16::from(f[46] & 0xF) << 8 | u16::from(f[47]))
            .collect()
    };
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(flags(&mut w), [0xF1, 0xF2, 0xF4]);
    packet.payload.truncate(50);
    send_packet(&mut w, vf(0), &packet);
    assert_eq!(flags(&mut w), [0xF5]);
}

#[test]
fn an_802_3_length_counts_what_follows_it() {
    let mut w = world(2);
    let packet = Packet::new(250, 100);
    let snap = |frame: &[u8], length: usize| {
        let mut bytes = frame[..12].to_vec();
        bytes.extend_from_slice(&(length as u16).to_be_bytes());
        bytes.extend_from_slice(&[0xAA, 0xAA, 3, 0, 0, 0]);
        bytes.extend_from_slice(&frame[12..]);
        bytes
    };
    let context = TxContext::new(0, 22, 20)
        .with_options(ContextOptions::IPV4 | ContextOptions::SNAP)
        .with_l4(L4Type::Tcp, packet.l4_len() as u8)
        .with_mss(100);
    w.push_tx(vf(0), context.to_bytes());
    queue_in(&mut w, vf(0), &snap(&packet.request(), 0), &[], |data| {
        data.with_options(packet.options()).with_payload_length(250)
    });
    w.ring_tx(vf(0));
    w.run();
    let want: Vec<_> = packet
        .frames()
        .iter()
        .map(|f| snap(f, f.len() - 14 + 8))
        .collect();
    assert_eq!(w.take(vf(1)), want);
}

/// A tunnel's header is part of what the context calls the IP header, and software cancels it in the
/// checksum field (Linux does so for GSO_PARTIAL).
#[test]
fn what_lies_in_the_ipv4_checksum_field_counts() {
    let mut w = world(2);
    let packet = Packet::new(200, 100);
    let mut request = packet.request();
    let tunnel = [0xDE, 0xAD, 0xBE, 0xEF, 1, 2, 3, 4];
    request.splice(34..34, tunnel);
    let surplus = !naive_sum(&[&tunnel]);
    request[24..26].copy_from_slice(&surplus.to_be_bytes());
    let context = TxContext::new(0, 14, 28)
        .with_options(ContextOptions::IPV4)
        .with_l4(L4Type::Tcp, packet.l4_len() as u8)
        .with_mss(100);
    w.push_tx(vf(0), context.to_bytes());
    queue_in(&mut w, vf(0), &request, &[], |data| {
        data.with_options(packet.options()).with_payload_length(200)
    });
    w.ring_tx(vf(0));
    w.run();
    for frame in w.take(vf(1)) {
        assert_eq!(naive_sum(&[&frame[14..34]]), 0xFFFF);
        assert_eq!(frame[34..42], tunnel);
    }
    assert_eq!(w.report(vf(0)).tx_packets, 2);
}

prop_compose! {
    fn packet()(
        (v6, tcp) in any::<(bool, bool)>(),
        (ip_options, tcp_options) in (0usize..=10, 0usize..=10),
        tags in prop::sample::select(vec![
            vec![], vec![(0x8100, 0x2000 | VID)], vec![(0x8100, VID), (0x8100, 77)],
            vec![(0x88A8, 5), (0x8100, VID)],
        ]),
        (id, sequence, flags) in (any::<u16>(), any::<u32>(), 0u16..0x200),
        (payload, mss) in prop_oneof![
            (1usize..20_000, 300usize..1500),
            (1usize..100, 1usize..20),
            (1usize..20_000, 1500usize..9000),
        ],
        seed in any::<u8>(),
    ) -> Packet {
        let ip_options = if v6 { ip_options / 4 } else { ip_options };
        let mut packet = Packet::new(payload, mss);
        packet.payload.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(seed | 1));
        Packet { v6, tcp, ip_options, tcp_options, tags, id, sequence, flags, ..packet }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever the headers, however the request lies in memory and whoever gives the tag, what comes
    /// out is what the simple cutter makes of it.
    #[test]
    fn every_frame_is_as_it_should_be(
        mut packet in packet(),
        lengths in prop::collection::vec(1usize..3000, 0..20),
        tag_by in 0..3,
        to in 0..3,
        strip in any::<bool>(),
    ) {
        let mut w = world(2);
        packet.to = match to {
            0 => mac_of(vf(1)),
            1 => MacAddress([2, 9, 9, 9, 9, 9]),
            _ => MacAddress::BROADCAST,
        };
        if strip {
            let vmolr = w.get_at::<VMOLR>(PF, 1).set(VMOLR::STRVLAN);
            w.set_at(PF, 1, vmolr);
        }
        let mut context = packet.context();
        let mut command = TxCommand::empty();
        let inserted = match tag_by {
            1 => {
                context = context.with_vlan_tag(0x4000 | VID);
                command = TxCommand::VLE;
                Some(0x4000 | VID)
            }
            2 if packet.tags.is_empty() => {
                let vmvir = Value::<VMVIR>::default()
                    .with(VMVIR::PORT_VLAN_ID, VID.into())
                    .with(VMVIR::VLANA, 1);
                w.set_at(PF, 0, vmvir);
                Some(VID)
            }
            _ => None,
        };
        w.push_tx(vf(0), context.to_bytes());
        queue_in(&mut w, vf(0), &packet.request(), &lengths, |data| {
            let [low, high] = data.raw();
            TxData::from_raw([low, high | u64::from(command.bits())])
                .with_options(packet.options())
                .with_payload_length(packet.payload.len() as u32)
        });
        w.ring_tx(vf(0));
        w.run();
        let want: Vec<_> = packet
            .frames()
            .iter()
            .map(|frame| match inserted {
                Some(tci) => tagged(frame, tci),
                None => frame.clone(),
            })
            .collect();
        for frame in packet.frames() {
            check_with_smoltcp(&frame, packet.mac_len());
        }
        // An 802.1ad tag is no tag to the card, and such frames are untagged ones.
        let has_tag = inserted.is_some() || packet.tags.first().is_some_and(|tag| tag.0 == 0x8100);
        let stripped = |frame: &Vec<u8>| {
            if strip && has_tag { [&frame[..12], &frame[16..]].concat() } else { frame.clone() }
        };
        let received: Vec<_> = want.iter().map(stripped).collect();
        let local = to != 1;
        prop_assert_eq!(w.take(vf(1)), if local { received } else { vec![] });
        prop_assert_eq!(&w.host.wire, &if to == 0 { vec![] } else { want.clone() });
        prop_assert_eq!(w.report(vf(0)).tx_packets, want.len() as u64);
        prop_assert_eq!(w.report(vf(0)).drops.total(), 0);
    }

    /// No context, no lengths make the card do more than its turn, or anything but a drop by name.
    #[test]
    fn any_context_ends(
        low in any::<u64>(), high in any::<u64>(), payload in 0u32..1 << 18, len in 14usize..6000,
        options in any::<u32>(), agree in any::<bool>(),
    ) {
        let mut w = world(2);
        let context = TxContext::from_raw([low, high & !(0xF << 20)]);
        let context = TxContext::from_raw([
            context.raw()[0],
            context.raw()[1] | 2 << 20 | u64::from(TxCommand::DEXT.bits()),
        ]);
        let header = usize::from(context.mac_length())
            + usize::from(context.ip_length())
            + usize::from(context.l4_length());
        let payload = if agree { len.saturating_sub(header) as u32 } else { payload };
        w.push_tx(vf(0), context.to_bytes());
        queue_in(&mut w, vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), len), &[], |data| {
            data.with_options(TxOptions::from_bits_truncate(options))
                .with_context(context.index())
                .with_payload_length(payload)
        });
        w.ring_tx(vf(0));
        for _ in 0..6000 / 32 + 2 {
            let progress = w.path.run(&mut w.host, &mut w.events);
            prop_assert!(progress.frames <= 32);
            w.absorb();
            w.take(vf(1));
            if !progress.more {
                break;
            }
        }
        prop_assert_eq!(w.get_queue(vf(0), QueueRegister::TDH), 2);
        prop_assert_eq!(w.report(vf(0)).halts, 0);
    }
}
