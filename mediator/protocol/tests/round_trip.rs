//! Every message survives encoding; nothing malformed parses; no input panics.

use mediator_protocol::block::{
    self, Accept, Config, ConfigFlags, Control, Features, MulticastList, Stats, VfRequest,
};
use mediator_protocol::frame::HEADER;
use mediator_protocol::*;
use proptest::prelude::*;

fn status() -> impl Strategy<Value = Status> {
    prop::sample::select(Status::ALL)
}

fn data(min: usize) -> impl Strategy<Value = BlockData> {
    prop::collection::vec(any::<u8>(), min..=MAX_BLOCK)
        .prop_map(|bytes| BlockData::new(&bytes).unwrap())
}

fn request() -> impl Strategy<Value = Request> {
    let body = prop_oneof![
        any::<[u32; MAILBOX_WORDS]>().prop_map(RequestBody::Mailbox),
        (any::<u32>(), 1..=MAX_BLOCK as u8)
            .prop_map(|(block, length)| RequestBody::ReadBlock { block, length }),
        (any::<u32>(), data(1)).prop_map(|(block, data)| RequestBody::WriteBlock { block, data }),
    ];
    (any::<u16>(), any::<u32>(), any::<u64>(), body).prop_map(|(vf, generation, id, body)| {
        Request {
            vf,
            generation,
            id,
            body,
        }
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let body = prop_oneof![
        Just(ReplyBody::Empty),
        prop::collection::vec(any::<u32>(), 1..=MAILBOX_WORDS)
            .prop_map(|words| ReplyBody::Mailbox(MailboxWords::new(&words).unwrap())),
        data(0).prop_map(ReplyBody::Block),
    ];
    (request(), status(), body)
        .prop_map(|(request, status, body)| Reply::to(&request, status, body))
}

fn to_pf() -> impl Strategy<Value = ToPf> {
    let (vf, generation) = (any::<u16>, any::<u32>);
    prop_oneof![
        (any::<u16>(), any::<u32>()).prop_map(|(version, bits)| ToPf::Welcome {
            version,
            features: PfFeatures::from_bits_truncate(bits)
        }),
        prop::sample::select(RefuseReason::ALL).prop_map(|reason| ToPf::Refused { reason }),
        (vf(), generation()).prop_map(|(vf, generation)| ToPf::Attached { vf, generation }),
        (vf(), generation()).prop_map(|(vf, generation)| ToPf::Detached { vf, generation }),
        (vf(), generation(), prop::sample::select(ResetCause::ALL)).prop_map(
            |(vf, generation, cause)| ToPf::Reset {
                vf,
                generation,
                cause
            }
        ),
        request().prop_map(ToPf::Request),
        (vf(), generation(), any::<u64>()).prop_map(|(vf, generation, id)| ToPf::Expired {
            vf,
            generation,
            id
        }),
        (vf(), any::<bool>()).prop_map(|(vf, graceful)| ToPf::Ejected { vf, graceful }),
        (vf(), status()).prop_map(|(vf, status)| ToPf::Rejected { vf, status }),
    ]
}

fn from_pf() -> impl Strategy<Value = FromPf> {
    let vf = any::<u16>;
    prop_oneof![
        (any::<u16>(), any::<u32>(), any::<[u8; 32]>()).prop_map(|(version, bits, token)| {
            FromPf::Hello {
                version,
                features: PfFeatures::from_bits_truncate(bits),
                token: Token(token),
            }
        }),
        (vf(), any::<u64>(), any::<bool>(), any::<Option<[u8; 6]>>()).prop_map(
            |(vf, serial, link_up, mac)| FromPf::Offer {
                vf,
                serial,
                link_up,
                mac
            }
        ),
        (vf(), any::<u32>()).prop_map(|(vf, timeout_ms)| FromPf::Eject { vf, timeout_ms }),
        vf().prop_map(|vf| FromPf::Revoke { vf }),
        reply().prop_map(FromPf::Reply),
        (vf(), any::<u32>(), 1..=u64::MAX).prop_map(|(vf, generation, mask)| FromPf::Invalidate {
            vf,
            generation,
            mask
        }),
        (vf(), any::<bool>(), any::<u32>()).prop_map(|(vf, up, speed)| FromPf::Link {
            vf,
            up,
            speed
        }),
    ]
}

fn vf_request() -> impl Strategy<Value = VfRequest> {
    let mac = any::<[u8; 6]>;
    prop_oneof![
        Just(VfRequest::Init),
        mac().prop_map(VfRequest::SetMac),
        mac().prop_map(VfRequest::AddMac),
        mac().prop_map(VfRequest::DelMac),
        (0u16..4095).prop_map(VfRequest::AddVlan),
        (0u16..4095).prop_map(VfRequest::DelVlan),
        (
            any::<bool>(),
            prop::collection::vec(mac(), 0..=block::MAX_MULTICAST)
        )
            .prop_map(|(append, macs)| VfRequest::SetMulticast {
                append,
                list: MulticastList::new(&macs).unwrap()
            }),
        any::<u32>().prop_map(VfRequest::SetMtu),
        any::<(bool, bool)>()
            .prop_map(|(unicast, multicast)| VfRequest::SetPromisc { unicast, multicast }),
    ]
}

/// A stream of frames, cut anywhere, gives the same messages; a lengthened, shortened or
/// kind-shifted payload does not parse.
fn check_frames<T: Frame + PartialEq + std::fmt::Debug>(messages: &[T], cut: usize) {
    let mut stream = Vec::new();
    for message in messages {
        message.encode(&mut stream);
    }
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    for piece in stream.chunks(cut) {
        decoder.push(piece);
        while let Some(message) = decoder.next_frame::<T>().unwrap() {
            seen.push(message);
        }
    }
    assert_eq!(seen, messages);
    assert_eq!(decoder.pending(), 0);
}

proptest! {
    #[test]
    fn frames_to_the_pf(messages in prop::collection::vec(to_pf(), 1..8), cut in 1usize..200) {
        check_frames(&messages, cut);
    }

    #[test]
    fn frames_from_the_pf(messages in prop::collection::vec(from_pf(), 1..8), cut in 1usize..200) {
        check_frames(&messages, cut);
    }

    #[test]
    fn a_payload_cut_short_or_grown_is_refused(message in from_pf(), by in 1usize..6) {
        let bytes = message.to_bytes();
        let (kind, payload) = (message.kind(), &bytes[HEADER..]);
        let cut = &payload[..payload.len().saturating_sub(by)];
        // A block's length is the frame's: shorter content is another, valid block.
        if !matches!(message, FromPf::Reply(Reply { body: ReplyBody::Block(_), .. })) {
            prop_assert!(FromPf::parse(kind, cut).is_err());
            let mut grown = payload.to_vec();
            grown.resize(payload.len() + by, 0);
            prop_assert!(FromPf::parse(kind, &grown).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in any::<u16>()) {
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_frame::<FromPf>() {}
        let _ = FromPf::parse(kind, &bytes);
        let _ = ToPf::parse(kind & 0xF, &bytes);
        let _ = FromPf::parse(0x80 | kind & 0xF, &bytes);
        let _ = Control::parse(&bytes);
        let _ = Config::parse(&bytes);
        let _ = Stats::parse(&bytes);
        let _ = Accept::parse(&bytes);
        let _ = VfRequest::parse(&bytes);
    }

    #[test]
    fn what_parses_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64), op in 0u8..12) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() { *first = op; }
        if let Some(flags) = bytes.get_mut(1) { *flags &= 3; }
        if let Some(count) = bytes.get_mut(2..4) { count.copy_from_slice(&[0, 0]); }
        if let Ok(request) = VfRequest::parse(&bytes) {
            prop_assert_eq!(&request.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn vf_requests(request in vf_request()) {
        prop_assert_eq!(VfRequest::parse(&request.encode()), Ok(request));
    }

    #[test]
    fn config_blocks(mac in any::<[u8; 6]>(), bits in any::<u16>(), vlan in 0u16..4095, qos in 0u8..8, numbers in any::<[u32; 4]>()) {
        let [mtu, max_mtu, speed, max_tx_rate] = numbers;
        let config = Config { mac, flags: ConfigFlags::from_bits_truncate(bits), vlan, qos, mtu, max_mtu, speed, max_tx_rate };
        prop_assert_eq!(Config::parse(&config.encode()), Ok(config));
    }

    #[test]
    fn control_blocks(version in any::<u16>(), bits in any::<(u32, u32)>()) {
        let (offered, accepted) = (Features::from_bits_truncate(bits.0), Features::from_bits_truncate(bits.1));
        let control = Control { version, offered, accepted };
        prop_assert_eq!(Control::parse(&control.encode()), Ok(control));
        let accept = Accept { version, features: accepted };
        prop_assert_eq!(Accept::parse(&accept.encode()), Ok(accept));
    }

    #[test]
    fn stats_blocks(n in any::<[u64; 8]>()) {
        let stats = Stats {
            rx_packets: n[0], rx_bytes: n[1], rx_multicast: n[2], rx_dropped: n[3],
            tx_packets: n[4], tx_bytes: n[5], tx_dropped: n[6], tx_spoofed: n[7],
        };
        prop_assert_eq!(Stats::parse(&stats.encode()), Ok(stats));
    }
}

#[test]
fn header_faults_are_refused_before_anything_is_read() {
    let parse = |header: [u8; HEADER]| {
        let mut decoder = Decoder::new();
        decoder.push(&header);
        decoder.next_frame::<FromPf>()
    };
    assert_eq!(
        parse([0x84, 0, 1, 0, 2, 0, 0, 0]),
        Err(Invalid::Reserved {
            field: "frame flags",
            bits: 1
        })
    );
    assert_eq!(
        parse([0x84, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
        Err(Invalid::TooLong {
            length: u32::MAX,
            limit: 512
        })
    );
    assert_eq!(
        parse([0x84, 0, 0, 0, 1, 2, 0, 0]),
        Err(Invalid::TooLong {
            length: 513,
            limit: 512
        })
    );
    assert_eq!(
        parse([0x01, 0, 0, 0, 0, 0, 0, 0]),
        Err(Invalid::UnknownKind(1))
    );
    assert_eq!(parse([0x84, 0, 0, 0, 2, 0, 0, 0]), Ok(None));
}

#[test]
fn block_lengths_have_bounds() {
    assert!(BlockData::new(&[0; 128]).is_ok());
    assert!(BlockData::new(&[0; 129]).is_err());
    assert!(MailboxWords::new(&[]).is_err());
    assert!(MailboxWords::new(&[0; 17]).is_err());
    assert!(MulticastList::new(&[[1; 6]; block::MAX_MULTICAST + 1]).is_err());
}

#[test]
fn hostile_vf_requests_are_refused() {
    for bytes in [
        &[][..],
        &[0, 0, 0, 0],                   // no such operation
        &[10, 0, 0, 0],                  // nor this
        &[1, 1, 0, 0],                   // reserved flag
        &[1, 0, 1, 0],                   // a count where none belongs
        &[1, 0, 0, 0, 0],                // trailing byte
        &[2, 0, 0, 0, 1, 2, 3, 4, 5],    // MAC cut short
        &[5, 0, 0, 0, 0xFF, 0x0F],       // VLAN 4095
        &[7, 0, 0xFF, 0xFF],             // count * 6 beyond everything
        &[7, 0, 2, 0, 1, 0, 0, 0, 0, 0], // two announced, one there
        &[9, 4, 0, 0],                   // a promiscuous mode that does not exist
    ] {
        assert!(VfRequest::parse(bytes).is_err(), "{bytes:02x?}");
    }
}

#[test]
fn invalidation_covers_the_first_64_blocks() {
    assert_eq!(block::invalidation_bit(block::CONFIG), Some(2));
    assert_eq!(block::invalidation_bit(63), Some(1 << 63));
    assert_eq!(block::invalidation_bit(block::REQUEST), None);
}
