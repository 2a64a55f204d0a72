//! What stock igbvf asks for, and how it hears of a refusal.

use super::*;

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
