//! Descriptors, mailbox messages, the EEPROM.

use igb::MacAddress;
use igb::descriptor::{
    self, ContextOptions, L4Type, LegacyRx, LegacyRxStatus, LegacyTx, LegacyTxCommand, PacketType,
    RssType, RxRead, RxStatus, RxWriteBack, TxCommand, TxContext, TxData, TxDescriptor, TxOptions,
    TxWriteBack,
};
use igb::mailbox::{ACK, CTS, Hashes, Invalid, MAX_HASHES, NACK, PfReply, VfMessage, WORDS};
use igb::nvm;
use proptest::prelude::*;

fn mac() -> impl Strategy<Value = MacAddress> {
    any::<[u8; 6]>().prop_map(MacAddress)
}

fn message() -> impl Strategy<Value = VfMessage> {
    prop_oneof![
        Just(VfMessage::Reset),
        mac().prop_map(VfMessage::SetMac),
        Just(VfMessage::ClearMacFilters),
        mac().prop_map(VfMessage::AddMacFilter),
        prop::collection::vec(any::<u16>(), 0..300)
            .prop_map(|hashes| VfMessage::SetMulticast(Hashes::new(hashes))),
        (any::<bool>(), 0..4096u16).prop_map(|(add, vid)| VfMessage::SetVlan { add, vid }),
        any::<u32>().prop_map(VfMessage::SetLpe),
        any::<(bool, bool)>()
            .prop_map(|(unicast, multicast)| VfMessage::SetPromisc { unicast, multicast }),
    ]
}

fn reply() -> impl Strategy<Value = PfReply> {
    // RESET has answers of its own.
    let request = any::<u32>()
        .prop_map(|word| word & 0x00FF_FFFF)
        .prop_filter("RESET", |word| word & 0xFFFF != 1);
    prop_oneof![
        mac().prop_map(PfReply::ResetAck),
        Just(PfReply::ResetNack),
        (request.clone(), any::<bool>()).prop_map(|(request, cts)| PfReply::Ack { request, cts }),
        (request, any::<bool>()).prop_map(|(request, cts)| PfReply::Nack { request, cts }),
        any::<bool>().prop_map(|cts| PfReply::Control { cts }),
    ]
}

proptest! {
    #[test]
    fn descriptors_round_trip_through_memory(bytes: [u8; 16]) {
        prop_assert_eq!(descriptor::to_bytes(descriptor::from_bytes(&bytes)), bytes);
        prop_assert_eq!(TxData::from_bytes(&bytes).to_bytes(), bytes);
        let low = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        prop_assert_eq!(descriptor::from_bytes(&bytes)[0], low);
    }

    #[test]
    fn rx_write_back(
        length: u16, tag: u16, hash: u32, rss in 0..10u8, header in 0..1024u16, split: bool,
        packet_type in 0..0x1000u16, ip_id: u16, checksum: u16,
    ) {
        let status = RxStatus::DD | RxStatus::EOP | RxStatus::VP | RxStatus::L4E;
        let packet_type = PacketType::from_bits_retain(packet_type);
        let rss = RssType::from_bits(rss);
        let done = RxWriteBack::new(length, status)
            .with_vlan_tag(tag)
            .with_rss(rss, hash)
            .with_packet_type(packet_type)
            .with_header(header, split);
        prop_assert!(done.is_done());
        prop_assert_eq!(done.length(), length);
        prop_assert_eq!(done.status(), status);
        prop_assert_eq!(done.vlan_tag(), Some(tag));
        prop_assert_eq!((done.rss_type(), done.rss_hash()), (rss, hash));
        prop_assert_eq!(done.packet_type(), packet_type);
        prop_assert_eq!((done.header_length(), done.is_split()), (header, split));
        let done = done.with_checksum(ip_id, checksum);
        prop_assert_eq!((done.ip_id(), done.checksum()), (ip_id, checksum));
        prop_assert_eq!((done.rss_type(), done.packet_type()), (rss, packet_type));
    }

    #[test]
    fn tx_data(address: u64, length: u16, payload in 0..1u32 << 18, index in 0..8u8) {
        let command = TxCommand::EOP | TxCommand::IFCS | TxCommand::RS | TxCommand::TSE;
        let data = TxData::new(address, length, command)
            .with_payload_length(payload)
            .with_context(index)
            .with_options(TxOptions::TXSM | TxOptions::CC);
        prop_assert_eq!(TxDescriptor::parse(data.raw()), TxDescriptor::Data(data));
        prop_assert_eq!((data.address(), data.length()), (address, length));
        prop_assert_eq!(data.command(), command | TxCommand::DEXT);
        prop_assert_eq!((data.payload_length(), data.context()), (payload, index));
        prop_assert_eq!(data.options(), TxOptions::TXSM | TxOptions::CC);
    }

    #[test]
    fn tx_context(
        index in 0..8u8, mac_length in 0..128u8, ip_length in 0..512u16, tag: u16, mss: u16,
        l4_length: u8,
    ) {
        let context = TxContext::new(index, mac_length, ip_length)
            .with_vlan_tag(tag)
            .with_options(ContextOptions::IPV4)
            .with_l4(L4Type::Tcp, l4_length)
            .with_mss(mss);
        prop_assert_eq!(TxDescriptor::parse(context.raw()), TxDescriptor::Context(context));
        prop_assert_eq!(context.index(), index);
        prop_assert_eq!((context.mac_length(), context.ip_length()), (mac_length, ip_length));
        prop_assert_eq!((context.vlan_tag(), context.mss()), (tag, mss));
        prop_assert_eq!(context.options(), ContextOptions::IPV4);
        prop_assert_eq!((context.l4_type(), context.l4_length()), (L4Type::Tcp, l4_length));
    }

    #[test]
    fn legacy(address: u64, length: u16, tag: u16, checksum: u16, start: u8, offset: u8) {
        let command = LegacyTxCommand::EOP | LegacyTxCommand::IC | LegacyTxCommand::VLE;
        let tx = LegacyTx::new(address, length, command)
            .with_checksum(start, offset)
            .with_vlan_tag(tag);
        prop_assert_eq!(TxDescriptor::parse(tx.raw()), TxDescriptor::Legacy(tx));
        prop_assert_eq!((tx.address(), tx.length(), tx.command()), (address, length, command));
        prop_assert_eq!((tx.checksum_start(), tx.checksum_offset()), (start, offset));
        prop_assert_eq!(tx.vlan_tag(), tag);
        prop_assert!(!TxWriteBack::from_raw(tx.raw()).is_done());
        prop_assert!(TxWriteBack::from_raw(tx.written_back().raw()).is_done());

        let status = LegacyRxStatus::DD | LegacyRxStatus::VP | LegacyRxStatus::IPE;
        let rx = LegacyRx::new(address).written_back(length, checksum, status, tag);
        prop_assert_eq!((rx.address(), rx.length(), rx.status()), (address, length, status));
        prop_assert_eq!((rx.checksum(), rx.vlan_tag()), (checksum, Some(tag)));
    }

    #[test]
    fn requests_round_trip(message in message(), flags in 0..8u32) {
        let mut words = message.encode();
        prop_assert_eq!(VfMessage::parse(&words), Ok(message));
        // igbvf echoes CTS; it says nothing about the request.
        words[0] |= flags << 29;
        prop_assert_eq!(VfMessage::parse(&words), Ok(message));
    }

    #[test]
    fn replies_round_trip(reply in reply()) {
        prop_assert_eq!(PfReply::parse(&reply.encode()), Ok(reply));
    }

    #[test]
    fn whatever_a_guest_writes_parses_or_not_but_never_panics(
        mut words: [u32; WORDS], id in 0..9u32, info in 0..256u32,
    ) {
        let _ = PfReply::parse(&words);
        words[0] = words[0] & 0xFF00_0000 | info << 16 | id;
        if let Ok(message) = VfMessage::parse(&words) {
            prop_assert_eq!(VfMessage::parse(&message.encode()), Ok(message));
            if let VfMessage::SetMulticast(hashes) = message {
                prop_assert!(hashes.as_slice().len() <= MAX_HASHES);
                prop_assert_eq!(hashes.overflows(), info > 30);
            }
        }
    }

    #[test]
    fn the_checksum_makes_the_sum(mut words: [u16; nvm::CHECKED_WORDS]) {
        words[nvm::CHECKSUM_WORD] = nvm::checksum(&words);
        let sum = words.iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        prop_assert_eq!(sum, 0xBABA);
    }
}

#[test]
fn rx_read_keeps_dd_clear() {
    let read = RxRead::new(0x1000, 0x2001);
    assert_eq!(read.header_address(), 0x2000);
    assert!(!RxWriteBack::from_raw(read.raw()).is_done());
}

#[test]
fn words_that_drivers_exchange() {
    // The RESET exchange and a few requests as Linux's drivers write them.
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    assert_eq!(VfMessage::Reset.encode()[0], 1);
    assert_eq!(PfReply::ResetNack.encode()[0], 0x4000_0001);
    assert_eq!(
        PfReply::ResetAck(mac).encode()[..3],
        [0x8000_0001, 0x0000_0002, 0x0100]
    );
    assert_eq!(VfMessage::ClearMacFilters.encode()[0], 0x0001_0002);
    assert_eq!(VfMessage::AddMacFilter(mac).encode()[0], 0x0002_0002);
    assert_eq!(
        VfMessage::SetVlan { add: true, vid: 7 }.encode()[..2],
        [0x0001_0004, 7]
    );
    let multicast = VfMessage::SetMulticast(Hashes::new([0x123, 0x456, 0x789]));
    assert_eq!(
        multicast.encode()[..3],
        [0x0003_0003, 0x0456_0123, 0x0000_0789]
    );
    let request = VfMessage::SetLpe(1518).encode()[0];
    let ack = PfReply::Ack { request, cts: true };
    assert_eq!(ack.encode()[0], ACK | CTS | 5);
    assert_eq!(PfReply::Control { cts: true }.encode()[0], CTS | 0x100);
}

#[test]
fn words_that_are_no_message() {
    let parse = |word0: u32, word1: u32| {
        let mut words = [0; WORDS];
        (words[0], words[1]) = (word0, word1);
        VfMessage::parse(&words)
    };
    assert_eq!(parse(0, 0), Err(Invalid::UnknownMessage(0)));
    assert_eq!(parse(0x100, 0), Err(Invalid::UnknownMessage(0x100)));
    assert_eq!(
        parse(0x0003_0002, 0),
        Err(Invalid::UnknownInfo(0x0003_0002))
    );
    assert_eq!(
        parse(0x0004_0006, 0),
        Err(Invalid::UnknownInfo(0x0004_0006))
    );
    assert_eq!(parse(4, 4096), Err(Invalid::VlanId(4096)));
    let mut words = [0; WORDS];
    words[0] = CTS | 2;
    assert_eq!(PfReply::parse(&words), Err(Invalid::NoAnswer(CTS | 2)));
    words[0] = ACK | NACK | 2;
    assert!(matches!(PfReply::parse(&words), Ok(PfReply::Nack { .. })));
}

#[test]
fn reserved_descriptor_types_are_told_apart() {
    let raw = [0, 1 << 29 | 1 << 20];
    assert_eq!(TxDescriptor::parse(raw), TxDescriptor::Reserved(raw));
}
