//! What a receiver is told of checksums.

use igb::descriptor::*;
use igb::queue_page::QueueRegister;
use igb::*;
use proptest::prelude::*;

use crate::protocols::*;
use crate::world::*;

/// A frame, and what is wrong with it.
#[derive(Clone, Debug)]
struct Sample {
    v6: bool,
    protocol: u8,
    len: usize,
    options: usize,
    /// Extension headers of IPv6.
    extensions: usize,
    fragment: bool,
    /// The sender of UDP has left the checksum out.
    no_checksum: bool,
    bad_header: bool,
    bad_segment: bool,
}

const IP: usize = 14;

impl Sample {
    fn frame(&self, to: MacAddress, from: MacAddress) -> Vec<u8> {
        let mut segment = segment(self.protocol, PORTS, &payload(self.len));
        let addresses = if self.v6 {
            ipv6_addresses().to_vec()
        } else {
            IPV4.to_vec()
        };
        seal(self.protocol, &addresses, &mut segment);
        if self.no_checksum && self.protocol == UDP {
            segment[6..8].fill(0);
        }
        if self.bad_segment {
            *segment.last_mut().unwrap() ^= 0x10;
        }
        let mut bytes = if self.v6 {
            let mut extensions = vec![padding(60, 1); self.extensions];
            if self.fragment {
                extensions.push((44, vec![0, 0, 1, 0, 0, 0, 1]));
            }
            in_ipv6(to, from, &ipv6(self.protocol, &extensions, &segment))
        } else {
            let fragment = if self.fragment { 0x2000 } else { 0x4000 };
            let packet = ipv4(self.protocol, self.options, fragment, &segment);
            in_ipv4(to, from, &packet)
        };
        if self.bad_header && !self.v6 {
            bytes[IP + 8] ^= 1;
        }
        bytes
    }

    /// What the receiver is to be told, from how the frame was made.
    fn status(&self, rxcsum: Value<RXCSUM>, rfctl: Value<RFCTL>) -> RxStatus {
        let mut status = RxStatus::empty();
        if !self.v6 && rxcsum.has(RXCSUM::IPOFLD) {
            status |= RxStatus::IPCS;
            status.set(RxStatus::IPE, self.bad_header);
        }
        let checked = match self.protocol {
            SCTP => rxcsum.has(RXCSUM::CRCOFL),
            UDP if self.no_checksum => false,
            _ => rxcsum.has(RXCSUM::TUOFLD) && !(self.v6 && rfctl.has(RFCTL::IPV6XSUM_DIS)),
        };
        if checked && !self.fragment {
            status |= RxStatus::L4CS;
            status.set(RxStatus::UDPCS, self.protocol == UDP);
            status.set(RxStatus::L4E, self.bad_segment);
        }
        let sums = rxcsum.has(RXCSUM::IPPCSE) && !rxcsum.has(RXCSUM::PCSD);
        if sums && self.fragment && !self.v6 && self.protocol == UDP {
            status.set(RxStatus::UDPV, !self.no_checksum);
        }
        status
    }

    fn kind(&self) -> PacketType {
        let mut kind = if self.v6 {
            PacketType::IPV6
        } else {
            PacketType::IPV4
        };
        kind.set(PacketType::IPV4E, !self.v6 && self.options > 0);
        kind.set(
            PacketType::IPV6E,
            self.v6 && (self.extensions > 0 || self.fragment),
        );
        if !self.fragment {
            kind |= match self.protocol {
                TCP => PacketType::TCP,
                UDP => PacketType::UDP,
                _ => PacketType::SCTP,
            };
        }
        kind
    }
}

prop_compose! {
    fn sample()(
        (v6, fragment) in (any::<bool>(), prop::bool::weighted(0.2)),
        protocol in prop::sample::select(&[TCP, UDP, SCTP][..]),
        len in prop_oneof![1usize..60, 60usize..1300],
        options in 0usize..10, extensions in 0usize..3,
        (no_checksum, bad_header, bad_segment) in any::<(bool, bool, bool)>(),
    ) -> Sample {
        let no_checksum = no_checksum && protocol == UDP;
        let options = options * 4;
        Sample { v6, protocol, len, options, extensions, fragment, no_checksum, bad_header, bad_segment }
    }
}

const TOLD: RxStatus = RxStatus::IPCS
    .union(RxStatus::L4CS)
    .union(RxStatus::UDPCS)
    .union(RxStatus::UDPV)
    .union(RxStatus::IPE)
    .union(RxStatus::L4E);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// From the wire and from another function, of one buffer or several, status, kind and sums are
    /// what is true of the frame.
    #[test]
    fn what_is_told_is_true(
        sample in sample(), rxcsum in 0u32..0x40, no_ipv6 in any::<bool>(), local in any::<bool>(),
    ) {
        let mut w = World::open(2);
        // The switches are bits 8 to 13.
        let rxcsum = Value::<RXCSUM>::from_raw(rxcsum << 8);
        w.set(PF, rxcsum);
        let mut rfctl = Value::<RFCTL>::default();
        if no_ipv6 {
            rfctl = rfctl.set(RFCTL::IPV6XSUM_DIS);
        }
        w.set(PF, rfctl);
        let peer = if local { mac_of(vf(0)) } else { MacAddress([2, 8, 8, 8, 8, 8]) };
        let sent = sample.frame(mac_of(vf(1)), peer);
        if local {
            w.send(vf(0), &sent);
        } else {
            w.wire_sends(&sent);
        }
        let (told, data) = w.take_descriptor(vf(1)).unwrap();
        prop_assert_eq!(data, sent.clone());
        prop_assert_eq!(told.status() & TOLD, sample.status(rxcsum, rfctl));
        prop_assert_eq!(told.packet_type(), sample.kind());
        if rxcsum.has(RXCSUM::PCSD) {
            prop_assert_eq!((told.rss_type(), told.rss_hash()), (RssType::None, 0));
            return Ok(());
        }
        prop_assert_eq!(told.ip_id(), if sample.v6 { 0 } else { 0xABCD });
        let summed = rxcsum.has(RXCSUM::IPPCSE)
            && !sample.v6 && sample.fragment && sample.protocol == UDP;
        let want = if summed { sum(&sent[IP + 20 + sample.options..]) } else { 0 };
        prop_assert_eq!(told.checksum(), want);
    }
}

#[test]
fn checksums_inserted_for_one_vf_are_right_for_another() {
    let mut w = World::open(2);
    w.set(PF, Value::<RXCSUM>::RESET.set(RXCSUM::CRCOFL));
    for (protocol, kind, l4) in [
        (TCP, L4Type::Tcp, 20),
        (UDP, L4Type::Udp, 8),
        (SCTP, L4Type::Sctp, 12),
    ] {
        let whole = over_ipv4(mac_of(vf(1)), mac_of(vf(0)), protocol, 700);
        let mut sent = whole.clone();
        // As a driver leaves it to the card: no sums, but that of the pseudo header.
        sent[IP + 10..IP + 12].fill(0);
        let at = IP + 20;
        match protocol {
            SCTP => sent[at + 8..at + 12].fill(0),
            _ => {
                let field = at + if protocol == TCP { 16 } else { 6 };
                let mut pseudo = IPV4.to_vec();
                pseudo.extend_from_slice(&[0, protocol]);
                pseudo.extend_from_slice(&((sent.len() - at) as u16).to_be_bytes());
                let value = sum(&pseudo);
                sent[field..field + 2].copy_from_slice(&value.to_be_bytes());
            }
        }
        let context = TxContext::new(0, 14, 20)
            .with_options(ContextOptions::IPV4)
            .with_l4(kind, l4);
        w.push_tx(vf(0), context.to_bytes());
        let at = w.tx_buffer(vf(0));
        w.poke(vf(0), at, &sent);
        let data = TxData::new(at, sent.len() as u16, TxCommand::EOP | TxCommand::RS)
            .with_options(TxOptions::IXSM | TxOptions::TXSM);
        w.push_tx(vf(0), data.to_bytes());
        w.ring_tx(vf(0));
        w.run();
        let (told, data) = w.take_descriptor(vf(1)).unwrap();
        assert!(data == whole, "{protocol}");
        let good = RxStatus::IPCS | RxStatus::L4CS;
        assert!(told.status().contains(good), "{protocol}");
        assert!((told.status() & RxStatus::ERRORS).is_empty(), "{protocol}");
    }
}

#[test]
fn a_packet_that_goes_on_elsewhere_is_not_judged() {
    let mut w = World::open(2);
    let (to, from) = (mac_of(vf(1)), mac_of(vf(0)));
    let segment = segment(TCP, PORTS, &payload(40));
    // One hop is left of a routing header: the checksum covers another destination.
    let route = (43, [&[2, 0, 1, 0, 0, 0, 0], &[9; 16][..]].concat());
    w.send(vf(0), &in_ipv6(to, from, &ipv6(TCP, &[route], &segment)));
    let (told, _) = w.take_descriptor(vf(1)).unwrap();
    assert!(
        told.packet_type()
            .contains(PacketType::IPV6E | PacketType::TCP)
    );
    assert!((told.status() & TOLD).is_empty());
}

#[test]
fn what_is_verified_is_what_is_written() {
    // Each byte is read once from the sender, who could change it between two reads.
    for rxcsum in [Value::<RXCSUM>::RESET, Value::default()] {
        let mut w = World::open(2);
        w.set(PF, rxcsum);
        let at = w.tx_buffer(vf(0));
        w.host.reads.clear();
        let sent = over_ipv4(mac_of(vf(1)), mac_of(vf(0)), TCP, 1000);
        w.send(vf(0), &sent);
        let of_buffer = w.host.reads.iter();
        let of_buffer = of_buffer.filter(|(f, iova, _)| *f == vf(0) && *iova >= at);
        assert_eq!(of_buffer.map(|(_, _, len)| len).sum::<usize>(), sent.len());
    }
}

#[test]
fn legacy_descriptors_tell_the_sum_of_all_bytes() {
    let mut w = World::open(2);
    w.set_queue(vf(1), QueueRegister::RXDCTL, 0);
    let srrctl = Value::<SRRCTL>::default().with(SRRCTL::BSIZEPACKET, 2);
    w.set_queue(vf(1), QueueRegister::SRRCTL, srrctl.raw());
    w.set_queue(vf(1), QueueRegister::RXDCTL, RXDCTL::ENABLE.mask());
    w.set(PF, Value::<RXCSUM>::RESET.with(RXCSUM::PCSS, 14));
    for (n, protocol) in [TCP, SCTP].into_iter().enumerate() {
        let mut sent = over_ipv4(mac_of(vf(1)), mac_of(vf(0)), protocol, 300);
        if n == 0 {
            *sent.last_mut().unwrap() ^= 1;
        }
        w.send(vf(0), &sent);
        let raw = w.peek(vf(1), RX_RING + (n * SIZE) as u64, SIZE);
        let done = LegacyRx::from_bytes(&raw.try_into().unwrap());
        assert_eq!(done.checksum(), sum(&sent[14..]));
        let mut want = LegacyRxStatus::DD | LegacyRxStatus::EOP | LegacyRxStatus::IPCS;
        if n == 0 {
            want |= LegacyRxStatus::TCPCS | LegacyRxStatus::TCPE;
        }
        assert_eq!(done.status(), want);
    }
}
