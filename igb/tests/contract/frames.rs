//! Ethernet names.

use igb::{MacAddress, VlanId, VlanTag};
use proptest::prelude::*;

proptest! {
    #[test]
    fn addresses_round_trip(bytes: [u8; 6]) {
        let mac = MacAddress(bytes);
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        let (low, high) = mac.to_words();
        prop_assert_eq!(MacAddress::from_words(low, high), mac);
        prop_assert_eq!(mac.is_multicast(), bytes[0] & 1 == 1);
        for mo in 0..4 {
            prop_assert!(mac.hash(mo) < 4096);
        }
    }

    #[test]
    fn parsing_never_panics(text in "\\PC{0,24}") {
        if let Ok(mac) = text.parse::<MacAddress>() {
            prop_assert_eq!(mac.to_string(), text.to_lowercase().replace('-', ":"));
        }
        let _ = text.parse::<VlanId>();
    }
}

#[test]
fn addresses_that_are_none() {
    for text in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:01:02",
        "2:00:00:00:00:01",
        "+2:00:00:00:00:01",
        "0g:00:00:00:00:01",
        "02:00:00:00:00:01 ",
    ] {
        assert!(text.parse::<MacAddress>().is_err(), "{text:?}");
    }
    assert!(!MacAddress::ZERO.is_valid_unicast());
    assert!(!MacAddress::BROADCAST.is_valid_unicast());
    assert!(MacAddress([2, 0, 0, 0, 0, 1]).is_valid_unicast());
}

#[test]
fn the_words_are_those_of_ral_and_rah() {
    let mac = MacAddress([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
    assert_eq!(mac.to_words(), (0x3322_1102, 0x5544));
    assert_eq!(MacAddress::from_slice(&[1, 2, 3]), None);
}

#[test]
fn hashes_follow_the_multicast_offset() {
    // Datasheet 7.1.3: MO 0 takes bits 47:36, MO 3 bits 43:32, byte 5 being 47:40.
    let mac = MacAddress([0x01, 0, 0x5E, 0, 0x34, 0x12]);
    assert_eq!(mac.hash(0), 0x123);
    assert_eq!(mac.hash(1), 0x246);
    assert_eq!(mac.hash(2), 0x48D);
    assert_eq!(mac.hash(3), 0x234);
}

#[test]
fn vlan_ids() {
    assert_eq!(VlanId::new(0), None);
    assert_eq!(VlanId::new(4095), None);
    assert_eq!("4094".parse::<VlanId>().map(VlanId::get), Ok(4094));
    assert!("70000".parse::<VlanId>().is_err());
    let tag = VlanTag::new(VlanId::new(100).unwrap(), 5);
    assert_eq!((tag.0, tag.vid(), tag.priority()), (0xA064, 100, 5));
    assert!(!tag.dei());
    assert_eq!(VlanTag(0xA000).vlan(), None);
}
