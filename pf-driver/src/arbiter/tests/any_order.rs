//! Any requests of any VFs, in any order.

use super::*;

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
