use std::collections::BTreeSet;

use igb::mailbox::{CTS, Hashes, NACK, PfReply, VfMessage, WORDS};
use mediator_protocol::block::{self, Accept, Config, Control, Features, Stats, VfRequest};
use proptest::prelude::*;

use super::*;
use crate::image::Image;
use crate::policy::{MAX_MTU, PortVlan, VfPolicy};
use crate::vport::{MAX_VFS, PF_POOL};

const PF_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const ADMIN_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0xAD, 1]);
const PORT_VLAN: PortVlan = PortVlan { vid: 77, qos: 5 };

/// VF 0 has no restriction but the caps, VF 1 what an administrator can set, VF 2 trust and a list of
/// VLANs; the rest are like VF 0.
fn arbiter() -> Arbiter {
    let mut switch = NicSwitch::new(PF_MAC);
    switch.create_switch().unwrap();
    for n in 0..MAX_VFS {
        let vf = switch.allocate_vf().unwrap();
        assert_eq!(vf, n);
        let policy = match vf {
            1 => VfPolicy {
                mac: Some(ADMIN_MAC),
                vlan: Some(PORT_VLAN),
                max_mtu: Some(1000),
                ..VfPolicy::default()
            },
            2 => VfPolicy {
                allowed_vlans: Some(vec![10, 20]),
                trust: true,
                ..VfPolicy::default()
            },
            _ => VfPolicy::default(),
        };
        switch.create_vport(vf, policy).unwrap();
        switch.set_filters(vf).unwrap();
    }
    Arbiter::new(switch)
}

fn begun() -> Arbiter {
    let mut arbiter = arbiter();
    for vf in 0..u16::from(MAX_VFS) {
        arbiter.ask(vf, &Ask::Init).unwrap();
    }
    arbiter
}

fn mac(n: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 1, n])
}

/// The request is refused for this reason, the state is what it was, and the refusal is counted.
#[track_caller]
fn refused(arbiter: &mut Arbiter, vf: u16, ask: &Ask, reason: Refusal) {
    let before = arbiter.switch.clone();
    let known = usize::from(vf) < usize::from(MAX_VFS);
    let count = |arbiter: &Arbiter| {
        let tally = if known {
            arbiter.tally(vf)
        } else {
            arbiter.strangers()
        };
        tally.map_or(0, |tally| tally.refused(reason))
    };
    let counted = count(arbiter);
    assert_eq!(arbiter.ask(vf, ask), Err(reason), "{ask:?}");
    assert_eq!(
        arbiter.switch, before,
        "{ask:?} was refused and changed something"
    );
    assert_eq!(count(arbiter), counted + 1);
}

// The numbers are those of the attack catalogue: what a certification of the pair tries.

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

fn accept(features: Features) -> mediator_protocol::BlockData {
    Accept {
        version: block::VERSION,
        features,
    }
    .encode()
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

#[test]
fn an_address_of_somebody_else_is_refused() {
    let mut arbiter = begun();
    let other = arbiter.switch.vport(3).unwrap().mac;
    let extra = mac(9);
    arbiter.ask(3, &Ask::AddMac(extra)).unwrap();
    for taken in [PF_MAC, ADMIN_MAC, other, extra] {
        for ask in [Ask::SetMac(taken), Ask::AddMac(taken)] {
            refused(&mut arbiter, 0, &ask, Refusal::MacInUse);
            refused(&mut arbiter, 2, &ask, Refusal::MacInUse);
        }
    }
    // The address that a VF gets back at its next reset is still its own.
    arbiter.ask(3, &Ask::SetMac(mac(8))).unwrap();
    refused(&mut arbiter, 0, &Ask::SetMac(other), Refusal::MacInUse);
    arbiter.switch.reset_vf(3);
    assert_eq!(arbiter.switch.vport(3).unwrap().mac, other);
    arbiter.ask(0, &Ask::SetMac(extra)).unwrap();
}

#[test]
fn the_list_of_vlans_is_kept() {
    let mut arbiter = begun();
    arbiter.ask(2, &Ask::AddVlan(10)).unwrap();
    refused(&mut arbiter, 2, &Ask::AddVlan(11), Refusal::VlanNotAllowed);
    for vid in [4095, u16::MAX] {
        refused(&mut arbiter, 2, &Ask::AddVlan(vid), Refusal::InvalidVlan);
        refused(&mut arbiter, 2, &Ask::DelVlan(vid), Refusal::InvalidVlan);
    }
}

#[test]
fn stock_igbvf_gets_what_it_asks_for() {
    let mut arbiter = arbiter();
    let assigned = arbiter.switch.vport(0).unwrap().mac;
    let (verdict, reply) = arbiter.mailbox(0, &VfMessage::Reset.encode());
    assert_eq!((verdict, reply), (Ok(()), PfReply::ResetAck(assigned)));
    // The longest packet of MTU 1500 with a tag, as igbvf asks for it at every open.
    for message in [
        VfMessage::SetLpe(1522),
        VfMessage::SetVlan { add: true, vid: 0 },
        VfMessage::SetMac(assigned),
        VfMessage::ClearMacFilters,
        VfMessage::SetMulticast(Hashes::new([0x123, 0xFFF])),
        VfMessage::SetPromisc {
            unicast: false,
            multicast: true,
        },
    ] {
        let words = message.encode();
        let (verdict, reply) = arbiter.mailbox(0, &words);
        assert_eq!(verdict, Ok(()), "{message:?}");
        let request = words[0];
        assert_eq!(reply, PfReply::Ack { request, cts: true });
    }
    let vport = arbiter.switch.vport(0).unwrap();
    assert_eq!(vport.mtu, 1500);
    assert_eq!(vport.multicast, BTreeSet::from([0x123, 0xFFF]));
}

#[test]
fn igbvf_without_an_address_chooses_one_and_keeps_it_over_a_reset() {
    let mut arbiter = arbiter();
    arbiter.switch.vport_mut(0).unwrap().policy.assign_mac = false;
    let chosen = mac(0x77);
    for _ in 0..2 {
        let (verdict, reply) = arbiter.mailbox(0, &VfMessage::Reset.encode());
        assert_eq!((verdict, reply), (Ok(()), PfReply::ResetNack));
        let words = VfMessage::SetMac(chosen).encode();
        let (verdict, reply) = arbiter.mailbox(0, &words);
        assert_eq!(verdict, Ok(()));
        let request = words[0];
        assert_eq!(reply, PfReply::Ack { request, cts: true });
        assert_eq!(arbiter.switch.vport(0).unwrap().mac, chosen);
    }
    // An address of the administrator's is given whatever the policy says.
    arbiter.switch.vport_mut(0).unwrap().policy.mac = Some(mac(0x78));
    let (_, reply) = arbiter.mailbox(0, &VfMessage::Reset.encode());
    assert_eq!(reply, PfReply::ResetAck(mac(0x78)));
}

#[test]
fn igbvf_sees_that_a_vlan_is_refused() {
    let mut arbiter = arbiter();
    arbiter.switch.vport_mut(0).unwrap().policy.allowed_vlans = Some(vec![100]);
    let (begun, _) = arbiter.mailbox(0, &VfMessage::Reset.encode());
    assert_eq!(begun, Ok(()));
    let message = VfMessage::SetVlan {
        add: true,
        vid: 300,
    };
    let (verdict, reply) = arbiter.mailbox(0, &message.encode());
    assert_eq!(verdict, Err(Refusal::VlanNotAllowed));
    // The very word that it compares with, the info field of its request gone.
    let (cts, nack) = (igb::mailbox::CTS, igb::mailbox::NACK);
    let set_vlan = igb::mailbox::MessageId::SetVlan as u32;
    assert_eq!(reply.encode()[0] & !cts, nack | set_vlan);
}

#[test]
fn blocks_tell_what_holds() {
    let mut arbiter = begun();
    let read = |arbiter: &mut Arbiter, vf| {
        let data = arbiter.read_block(vf, block::CONFIG, true, &Stats::default());
        Config::parse(&data.unwrap()).unwrap()
    };
    let config = read(&mut arbiter, 1);
    assert_eq!(config.mac, ADMIN_MAC.bytes());
    assert_eq!((config.vlan, config.qos), (77, 5));
    assert_eq!((config.mtu, config.max_mtu), (1000, 1000));
    assert!(config.flags.contains(block::ConfigFlags::MAC_BY_ADMIN));
    assert!(config.flags.contains(block::ConfigFlags::LINK_UP));
    arbiter.switch.vport_mut(1).unwrap().policy.link_state = crate::LinkState::Disable;
    assert!(
        !read(&mut arbiter, 1)
            .flags
            .contains(block::ConfigFlags::LINK_UP)
    );
    let group = VfRequest::SetMulticast {
        append: false,
        list: block::MulticastList::new(&[[2, 0, 0, 0, 0, 9]]).unwrap(),
    };
    arbiter
        .write_block(0, block::CONTROL, &accept(OFFERED))
        .unwrap();
    let verdict = arbiter.write_block(0, block::REQUEST, &group.encode());
    assert_eq!(verdict, Err(Refusal::NotMulticast));
}

#[test]
fn a_late_success_is_taken_back_unless_somebody_has_moved_in() {
    let mut arbiter = begun();
    let before = arbiter.switch.clone();
    arbiter.ask(0, &Ask::SetMac(mac(1))).unwrap();
    arbiter.ask(3, &Ask::AddVlan(5)).unwrap();
    let sibling = arbiter.switch.vport(3).cloned();
    assert!(arbiter.switch.restore_vf(0, &before));
    assert_eq!(arbiter.switch.vport(0), before.vport(0));
    assert_eq!(arbiter.switch.vport(3), sibling.as_ref());
    assert_eq!(arbiter.switch.vlans.of(3).collect::<Vec<_>>(), [5]);

    arbiter.ask(0, &Ask::AddMac(mac(1))).unwrap();
    let with_extra = arbiter.switch.clone();
    arbiter.ask(0, &Ask::DelMac(mac(1))).unwrap();
    arbiter.ask(3, &Ask::AddMac(mac(1))).unwrap();
    let now = arbiter.switch.clone();
    assert!(!arbiter.switch.restore_vf(0, &with_extra));
    assert_eq!(arbiter.switch, now);
}

/// Requests over so small a range that they collide.
fn any_ask() -> impl Strategy<Value = Ask> {
    let mac = prop_oneof![
        Just(PF_MAC),
        Just(ADMIN_MAC),
        Just(MacAddress::ZERO),
        Just(MacAddress::BROADCAST),
        (0_u8..6).prop_map(mac),
        (1_u8..9).prop_map(|n| MacAddress([2, 0, 0, 0, 0, n])),
    ];
    let vid = prop_oneof![
        0_u16..8,
        Just(10),
        Just(77),
        Just(4094),
        Just(4095),
        any::<u16>()
    ];
    prop_oneof![
        Just(Ask::Init),
        Just(Ask::ClearMacs),
        mac.clone().prop_map(Ask::SetMac),
        mac.clone().prop_map(Ask::AddMac),
        mac.prop_map(Ask::DelMac),
        vid.clone().prop_map(Ask::AddVlan),
        vid.prop_map(Ask::DelVlan),
        (
            any::<bool>(),
            proptest::collection::vec(any::<u16>(), 0..40)
        )
            .prop_map(|(append, hashes)| Ask::SetMulticast { append, hashes }),
        prop_oneof![Just(0), 60_u32..80, 900_u32..1600, any::<u32>()].prop_map(Ask::SetMtu),
        (any::<bool>(), any::<bool>())
            .prop_map(|(unicast, multicast)| Ask::SetPromisc { unicast, multicast }),
    ]
}

/// What holds whatever VFs ask for.
fn check(switch: &NicSwitch) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::from([switch.pf_mac]);
    for (vf, vport) in switch.vports() {
        prop_assert!(vport.mac.is_valid_unicast());
        prop_assert!(
            seen.insert(vport.mac),
            "VF {} has an address twice given",
            vf
        );
        for mac in switch.macs.of(vf) {
            prop_assert!(mac.is_valid_unicast());
            prop_assert!(seen.insert(mac), "VF {} has an address twice given", vf);
        }
        prop_assert!(switch.macs.of(vf).count() <= usize::from(vport.policy.max_mac_filters));
        prop_assert!(vport.multicast.len() <= MAX_MULTICAST);
        prop_assert!(vport.mtu <= switch.max_mtu(&vport.policy) && vport.mtu >= MIN_MTU);
        prop_assert!(vport.policy.trust || !vport.promisc_unicast);
        let vlans: Vec<_> = switch.vlans.of(vf).collect();
        match vport.policy.vlan {
            Some(vlan) => prop_assert_eq!(vlans, [vlan.vid]),
            None => prop_assert!(vlans.len() <= usize::from(vport.policy.max_vlans)),
        }
        if let Some(admin) = vport.policy.mac
            && !vport.policy.trust
        {
            prop_assert_eq!(vport.mac, admin);
        }
        if vport.phase == Phase::Reset {
            prop_assert_eq!(switch.macs.of(vf).count(), 0);
            prop_assert!(vport.multicast.is_empty());
        }
    }
    prop_assert!(switch.vlans.of(PF_POOL).next().is_none());
    prop_assert!(switch.is_sound());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Any requests in any order, with resets between them: no address is two functions', no cap is
    /// passed, no untrusted VF gets rid of what the administrator set, a refusal changes nothing,
    /// and a grant changes nothing of another VF.
    #[test]
    fn no_sequence_of_requests_breaks_the_rules(
        steps in proptest::collection::vec((0_u16..9, proptest::option::weighted(0.95, any_ask())), 1..120),
    ) {
        let mut arbiter = arbiter();
        for (vf, ask) in steps {
            let before = arbiter.clone();
            let image = Image::of(&before.switch);
            let verdict = match &ask {
                Some(ask) => arbiter.ask(vf, ask),
                None => {
                    arbiter.switch.reset_vf(vf as u8);
                    Ok(())
                }
            };
            match verdict {
                Ok(()) if vf >= u16::from(MAX_VFS) => {
                    prop_assert_eq!(&arbiter.switch, &before.switch);
                }
                Ok(()) => {
                    let after = Image::of(&arbiter.switch);
                    let vf = vf as u8;
                    prop_assert_eq!(image.without_vf(vf), after.without_vf(vf), "{:?}", ask);
                    for (other, vport) in before.switch.vports() {
                        if other != vf {
                            prop_assert_eq!(arbiter.switch.vport(other), Some(vport));
                        }
                    }
                }
                Err(_) => prop_assert_eq!(&arbiter.switch, &before.switch),
            }
            check(&arbiter.switch)?;
        }
    }

    /// Mailbox words and blocks of any content: an answer always, and never a panic.
    #[test]
    fn any_bytes_get_an_answer(
        words in proptest::array::uniform16(any::<u32>()),
        id in prop_oneof![0_u32..4, Just(64), any::<u32>()],
        data in proptest::collection::vec(any::<u8>(), 0..=128),
        vf in 0_u16..9,
    ) {
        let mut arbiter = begun();
        let (verdict, reply) = arbiter.mailbox(vf, &words);
        prop_assert_eq!(verdict.is_err(), reply.encode()[0] & NACK != 0);
        // Nothing but the answer reaches the VF.
        prop_assert!(reply.encode()[reply.len()..WORDS].iter().all(|word| *word == 0));
        let _ = arbiter.write_block(vf, id, &data);
        let _ = arbiter.read_block(vf, id, true, &Stats::default());
        check(&arbiter.switch)?;
    }

    /// What is saved is what is adopted, whatever was granted before.
    #[test]
    fn every_state_survives_the_state_file(
        steps in proptest::collection::vec((0_u16..7, any_ask()), 0..40),
    ) {
        let mut arbiter = begun();
        for (vf, ask) in steps {
            let _ = arbiter.ask(vf, &ask);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        crate::state::State::of(&arbiter.switch, &Default::default()).save(&path).unwrap();
        let loaded = crate::state::State::load(&path).unwrap().unwrap().switch;
        prop_assert_eq!(Image::of(&loaded), Image::of(&arbiter.switch));
        prop_assert_eq!(loaded, arbiter.switch);
    }
}
