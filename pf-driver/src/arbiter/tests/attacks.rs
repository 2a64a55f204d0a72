//! What a certification of the pair tries; the numbers are those of the attack catalogue.

use super::*;

#[test]
fn attack_6_8_9_malformed_blocks_are_refused() {
    let mut arbiter = begun();
    let before = arbiter.switch.clone();
    for (id, data, reason) in [
        (block::CONTROL, &[][..], Refusal::Malformed),
        (block::CONTROL, &[0xFF; 128][..], Refusal::Malformed),
        (block::REQUEST, &[0xFF; 128][..], Refusal::Malformed),
        (
            block::REQUEST,
            &[0xFF, 0, 0, 0][..],
            Refusal::UnknownMessage,
        ),
        (block::REQUEST, &[1, 0, 0, 0, 0][..], Refusal::Malformed),
        (block::REQUEST, &[1, 1, 0, 0][..], Refusal::Malformed),
        (block::CONFIG, &[0; 28][..], Refusal::BlockAccess),
        (block::STATS, &[0; 64][..], Refusal::BlockAccess),
        (3, &[0; 4][..], Refusal::UnknownBlock),
        (u32::MAX, &[0; 4][..], Refusal::UnknownBlock),
    ] {
        assert_eq!(
            arbiter.write_block(0, id, data),
            Err(reason),
            "{id} {data:?}"
        );
    }
    assert_eq!(arbiter.switch, before);
}

#[test]
fn attack_13_an_mtu_beyond_the_pfs_or_the_policys_is_refused() {
    let mut arbiter = begun();
    for mtu in [0, 67] {
        refused(&mut arbiter, 0, &Ask::SetMtu(mtu), Refusal::MtuTooSmall);
    }
    for mtu in [1501, MAX_MTU, MAX_MTU + 1, u32::MAX] {
        refused(&mut arbiter, 0, &Ask::SetMtu(mtu), Refusal::MtuTooLarge);
    }
    refused(&mut arbiter, 1, &Ask::SetMtu(1001), Refusal::MtuTooLarge);
    arbiter.ask(1, &Ask::SetMtu(1000)).unwrap();
    arbiter.switch.pf_mtu = 9000;
    arbiter.ask(0, &Ask::SetMtu(9000)).unwrap();
}

#[test]
fn attack_14_group_and_zero_addresses_are_refused() {
    let mut arbiter = begun();
    for address in [
        MacAddress::ZERO,
        MacAddress::BROADCAST,
        MacAddress([1, 0, 0x5E, 0, 0, 1]),
        MacAddress([3, 0, 0, 0, 0, 0]),
    ] {
        refused(&mut arbiter, 0, &Ask::SetMac(address), Refusal::InvalidMac);
        refused(&mut arbiter, 0, &Ask::AddMac(address), Refusal::InvalidMac);
        refused(&mut arbiter, 2, &Ask::SetMac(address), Refusal::InvalidMac);
    }
}

#[test]
fn attack_15_what_the_administrator_set_stays() {
    let mut arbiter = begun();
    refused(&mut arbiter, 1, &Ask::SetMac(mac(1)), Refusal::AdminMac);
    refused(&mut arbiter, 1, &Ask::AddMac(mac(1)), Refusal::AdminMac);
    refused(&mut arbiter, 1, &Ask::DelMac(ADMIN_MAC), Refusal::AdminMac);
    refused(&mut arbiter, 1, &Ask::AddVlan(78), Refusal::PortVlan);
    refused(&mut arbiter, 1, &Ask::AddVlan(77), Refusal::PortVlan);
    refused(&mut arbiter, 1, &Ask::AddVlan(0), Refusal::PortVlan);
    refused(&mut arbiter, 1, &Ask::DelVlan(77), Refusal::PortVlan);
    // What changes nothing is granted: a stock driver asks for the address it was given.
    arbiter.ask(1, &Ask::SetMac(ADMIN_MAC)).unwrap();
    arbiter.ask(1, &Ask::ClearMacs).unwrap();
    let vport = arbiter.switch.vport(1).unwrap();
    assert_eq!(vport.mac, ADMIN_MAC);
    assert_eq!(arbiter.switch.vlans.of(1).collect::<Vec<_>>(), [77]);
}

#[test]
fn attack_16_nobody_trusts_itself() {
    let mut arbiter = begun();
    for multicast in [false, true] {
        let unicast = Ask::SetPromisc {
            unicast: true,
            multicast,
        };
        refused(&mut arbiter, 0, &unicast, Refusal::PromiscNotTrusted);
    }
    let both = Ask::SetPromisc {
        unicast: true,
        multicast: true,
    };
    arbiter.ask(2, &both).unwrap();
    let multicast = Ask::SetPromisc {
        unicast: false,
        multicast: true,
    };
    arbiter.ask(0, &multicast).unwrap();
}

#[test]
fn attack_17_one_vf_cannot_exhaust_the_filters() {
    let mut arbiter = begun();
    for n in 0..2 {
        arbiter.ask(0, &Ask::AddMac(mac(n))).unwrap();
    }
    refused(&mut arbiter, 0, &Ask::AddMac(mac(2)), Refusal::MacLimit);
    for vid in 1..=4 {
        arbiter.ask(0, &Ask::AddVlan(vid)).unwrap();
    }
    refused(&mut arbiter, 0, &Ask::AddVlan(5), Refusal::VlanLimit);
    let too_many = Ask::SetMulticast {
        append: false,
        hashes: (0..=MAX_MULTICAST as u16).collect(),
    };
    refused(&mut arbiter, 0, &too_many, Refusal::MulticastLimit);
    let all = Ask::SetMulticast {
        append: false,
        hashes: (0..MAX_MULTICAST as u16).collect(),
    };
    arbiter.ask(0, &all).unwrap();
    let one_more = Ask::SetMulticast {
        append: true,
        hashes: vec![4000],
    };
    refused(&mut arbiter, 0, &one_more, Refusal::MulticastLimit);
    // Whatever one took, every other one still gets its share.
    for vf in 3..u16::from(MAX_VFS) {
        for n in 0..2 {
            let own = MacAddress([2, 0, 0, 0, 1 + vf as u8, n]);
            arbiter.ask(vf, &Ask::AddMac(own)).unwrap();
        }
        for vid in 0..4 {
            arbiter.ask(vf, &Ask::AddVlan(100 * vf + vid)).unwrap();
        }
    }
}

#[test]
fn full_tables_refuse_even_where_a_policy_allows_more() {
    let mut arbiter = begun();
    for vf in [0, 3] {
        let policy = &mut arbiter.switch.vport_mut(vf).unwrap().policy;
        policy.max_mac_filters = 255;
        policy.max_vlans = 255;
    }
    let mut macs = 0;
    while arbiter.ask(0, &Ask::AddMac(mac(macs))).is_ok() {
        macs += 1;
    }
    assert_eq!(usize::from(macs), crate::filters::EXTRA_MACS);
    let mac = MacAddress([2, 0, 0, 0, 9, 9]);
    refused(&mut arbiter, 3, &Ask::AddMac(mac), Refusal::MacTableFull);
    let mut vid = 100;
    while arbiter.ask(0, &Ask::AddVlan(vid)).is_ok() {
        vid += 1;
    }
    assert_eq!(
        arbiter.switch.vlans.iter().count(),
        crate::filters::VLAN_FILTERS
    );
    refused(&mut arbiter, 3, &Ask::AddVlan(4000), Refusal::VlanTableFull);
    // A VLAN that is there takes one more member.
    arbiter.ask(3, &Ask::AddVlan(100)).unwrap();
}

#[test]
fn attack_18_a_duplicate_takes_no_second_entry() {
    let mut arbiter = begun();
    for _ in 0..100 {
        arbiter.ask(0, &Ask::AddMac(mac(1))).unwrap();
        arbiter.ask(0, &Ask::AddVlan(5)).unwrap();
    }
    assert_eq!(arbiter.switch.macs.of(0).count(), 1);
    assert_eq!(arbiter.switch.vlans.of(0).count(), 1);
    arbiter.ask(0, &Ask::DelVlan(5)).unwrap();
    arbiter.ask(0, &Ask::DelMac(mac(1))).unwrap();
    refused(&mut arbiter, 0, &Ask::DelVlan(5), Refusal::NoSuchVlan);
    refused(&mut arbiter, 0, &Ask::DelMac(mac(1)), Refusal::NoSuchMac);
}

#[test]
fn attack_20_24_vfs_that_do_not_exist_get_nothing() {
    let mut arbiter = begun();
    for vf in [u16::from(MAX_VFS), 8, 255, 256, u16::MAX] {
        refused(&mut arbiter, vf, &Ask::Init, Refusal::NoSuchVf);
        let (verdict, reply) = arbiter.mailbox(vf, &VfMessage::Reset.encode());
        assert_eq!(verdict, Err(Refusal::NoSuchVf));
        assert!(reply.encode()[0] & NACK != 0);
        let read = arbiter.read_block(vf, block::CONFIG, true, &Stats::default());
        assert_eq!(read, Err(Refusal::NoSuchVf));
    }
}

#[test]
fn attack_25_before_the_beginning_nothing_is_granted() {
    let mut arbiter = arbiter();
    for ask in [
        Ask::SetMac(mac(1)),
        Ask::AddVlan(5),
        Ask::SetMtu(1000),
        Ask::ClearMacs,
    ] {
        refused(&mut arbiter, 0, &ask, Refusal::NotInitialized);
    }
    let (verdict, reply) = arbiter.mailbox(0, &VfMessage::SetLpe(1500).encode());
    assert_eq!(verdict, Err(Refusal::NotInitialized));
    assert_eq!(reply.encode()[0] & CTS, 0, "not clear to send");
    for id in [block::CONFIG, block::STATS] {
        let read = arbiter.read_block(0, id, true, &Stats::default());
        assert_eq!(read, Err(Refusal::NotInitialized));
    }
    // No VPort, no request at all.
    let mut switch = NicSwitch::new(PF_MAC);
    switch.create_switch().unwrap();
    switch.allocate_vf().unwrap();
    refused(&mut Arbiter::new(switch), 0, &Ask::Init, Refusal::NoSuchVf);
}

#[test]
fn attack_26_27_the_switch_is_taken_down_in_order_and_once() {
    let mut switch = begun().switch;
    let before = switch.clone();
    assert!(switch.delete_switch().is_err());
    assert!(switch.free_vf(0).is_err(), "its VPort is attached");
    assert!(switch.delete_vport(1).is_err(), "it has a VLAN filter");
    assert!(switch.create_vport(0, VfPolicy::default()).is_err());
    assert!(switch.create_switch().is_err());
    assert!(switch.allocate_vf().is_err());
    assert_eq!(switch, before);
    for vf in (0..MAX_VFS).rev() {
        switch.clear_filters(vf);
        switch.delete_vport(vf).unwrap();
        assert!(switch.delete_vport(vf).is_err());
        switch.free_vf(vf).unwrap();
        assert!(switch.free_vf(vf).is_err());
    }
    switch.delete_switch().unwrap();
    assert!(switch.delete_switch().is_err());
    assert_eq!(switch, NicSwitch::new(PF_MAC));
}

#[test]
fn attack_30_features_are_settled_once() {
    let mut arbiter = arbiter();
    let init = VfRequest::Init.encode();
    let write = |arbiter: &mut Arbiter, id, data: &[u8]| arbiter.write_block(0, id, data);
    assert_eq!(
        write(&mut arbiter, block::REQUEST, &init),
        Err(Refusal::NotNegotiated)
    );
    let other = Accept {
        version: block::VERSION + 1,
        features: OFFERED,
    };
    let verdict = write(&mut arbiter, block::CONTROL, &other.encode());
    assert_eq!(verdict, Err(Refusal::UnknownVersion));
    write(&mut arbiter, block::CONTROL, &accept(Features::MTU)).unwrap();
    write(&mut arbiter, block::REQUEST, &init).unwrap();
    let again = write(&mut arbiter, block::CONTROL, &accept(OFFERED));
    assert_eq!(again, Err(Refusal::AlreadyNegotiated));
    // A second beginning does not open it again, and what was not accepted is not there.
    write(&mut arbiter, block::REQUEST, &init).unwrap();
    let again = write(&mut arbiter, block::CONTROL, &accept(OFFERED));
    assert_eq!(again, Err(Refusal::AlreadyNegotiated));
    let vlan = VfRequest::AddVlan(5).encode();
    let verdict = write(&mut arbiter, block::REQUEST, &vlan);
    assert_eq!(verdict, Err(Refusal::FeatureNotAccepted));
    let stats = arbiter.read_block(0, block::STATS, true, &Stats::default());
    assert_eq!(stats, Err(Refusal::FeatureNotAccepted));
    let mtu = VfRequest::SetMtu(1400).encode();
    write(&mut arbiter, block::REQUEST, &mtu).unwrap();
    // A reset does.
    arbiter.switch.reset_vf(0);
    write(&mut arbiter, block::CONTROL, &accept(OFFERED)).unwrap();
    let control = arbiter.read_block(0, block::CONTROL, true, &Stats::default());
    let control = Control::parse(&control.unwrap()).unwrap();
    assert_eq!((control.offered, control.accepted), (OFFERED, OFFERED));
}
