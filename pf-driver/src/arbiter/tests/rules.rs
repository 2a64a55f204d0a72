//! What the arbiter grants and refuses, and what it tells of it.

use super::*;

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
