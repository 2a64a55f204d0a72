//! What a VF is told without having asked.

use super::*;

#[test]
fn an_invalidation_storm_coalesces() {
    let (mut channel, mut fake) = probed();
    ask_block(&mut channel, Command::Abandon, 0, 0, 0, &mut fake);
    fake.notified = 0;
    for _ in 0..1000 {
        channel.invalidate(1, 2, &mut fake);
    }
    // One for the blocks, one for PF_CONTROL, one because the VF has not read that yet.
    assert_eq!(fake.notified, 3);
    assert_eq!(word(&channel, 0), MessageId::PfControl as u32 | CTS);
}

#[test]
fn link_changes_are_told_once_to_a_vf_that_uses_its_mailbox() {
    let (mut channel, mut fake) = channel();
    channel.link(false, 1000, &mut fake);
    assert_eq!(
        (channel.link_up(), fake.notified),
        (false, 0),
        "nobody there to tell"
    );
    let (mut channel, mut fake) = probed();
    channel.link(false, 1000, &mut fake);
    channel.link(false, 1000, &mut fake);
    assert_eq!(fake.notified, 1);
    assert_eq!(v2p(&mut channel), V2PMAILBOX::PFSTS.mask());
}

/// The contract crate and this test mean the same register.
#[test]
fn notification_registers_exist() {
    assert_eq!(PVTEICS::VECTORS.put(1 << 2), 4);
    const { assert!(vf::VTEICS::OFFSET == 0x1520) };
}
