//! Resets reach what they should, and nothing else.

use igb::pci::{command, express, header, offset, sriov};
use igb::queue_page::QueueRegister;
use igb::*;
use igb_model::*;

use crate::world::*;

const FLR: u16 = express::INITIATE_FLR;
const DEVICE_CONTROL: u16 = offset::EXPRESS + express::DEVICE_CONTROL;

#[test]
fn a_vf_resets_only_itself() {
    for flr in [false, true] {
        let mut w = World::open(3);
        let before = [vf(0), vf(2)].map(|f| w.control.digest(f));
        w.set(vf(1), Value::<vf::VTEIMS>::from_raw(7));
        w.set_at(vf(1), 0, Value::<vf::VTEITR>::from_raw(0x100));
        let effects = if flr {
            w.set_config16(vf(1), DEVICE_CONTROL, FLR)
        } else {
            w.set(vf(1), Value::<vf::VTCTRL>::default().set(PVTCTRL::RST))
        };
        let only = FunctionSet::only(vf(1));
        assert_eq!(
            (effects.clear_pages, effects.reset_done, effects.vfs),
            (only, only, None)
        );
        assert!(effects.publish && effects.sync.contains(vf(1)));
        assert_eq!([vf(0), vf(2)].map(|f| w.control.digest(f)), before);
        assert_eq!(w.get::<VFLRE>(PF).raw(), 0b010);
        assert_eq!(w.get::<VFRE>(PF).raw(), 0b101);
        assert_eq!(w.get::<VFTE>(PF).raw(), 0b101);
        assert_eq!(w.get::<vf::VTEIMS>(vf(1)).raw(), 0);
        assert_eq!(w.get_at::<vf::VTEITR>(vf(1), 0).raw(), 0);
        assert_eq!(w.get_queue(vf(1), QueueRegister::RDLEN), 0);
        let master = w.config16(vf(1), header::COMMAND) & command::BUS_MASTER != 0;
        assert_eq!(master, !flr, "configuration space is for FLR");
        assert_eq!(w.config16(vf(1), DEVICE_CONTROL) & FLR, 0);
        // The VF is deaf until the PF enables it again.
        w.open_queue(vf(1));
        w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
        assert!(w.take(vf(1)).is_empty());
        w.set_config16(vf(1), header::COMMAND, command::BUS_MASTER);
        w.set(PF, Value::<VFRE>::from_raw(7));
        w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
        assert_eq!(w.take(vf(1)).len(), 1);
    }
}

#[test]
fn the_pf_can_reset_a_vf() {
    let mut w = World::open(2);
    let effects = w.set_at(PF, 1, Value::<PVTCTRL>::default().set(PVTCTRL::RST));
    assert_eq!(effects.reset_done, FunctionSet::only(vf(1)));
    assert_eq!(
        w.set_at(PF, 5, Value::<PVTCTRL>::from_raw(u32::MAX)),
        Effects::NONE
    );
}

#[test]
fn vfs_see_a_pf_reset_as_rsti_then_rstd() {
    let mut w = World::open(2);
    w.get::<vf::V2PMAILBOX>(vf(0));
    let effects = w.set(PF, Value::<CTRL>::default().set(CTRL::RST));
    assert_eq!(
        effects.clear_pages,
        [PF, vf(0), vf(1)].into_iter().collect()
    );
    assert_eq!((effects.vfs, w.control.num_vfs_enabled()), (None, 2));
    for _ in 0..2 {
        assert!(w.get::<vf::V2PMAILBOX>(vf(0)).has(V2PMAILBOX::RSTI));
    }
    assert_eq!(w.get::<VFRE>(PF).raw() | w.get::<VFTE>(PF).raw(), 0);
    w.set(PF, Value::<CTRL_EXT>::default().set(CTRL_EXT::PFRSTD));
    assert!(!w.get::<CTRL_EXT>(PF).has(CTRL_EXT::PFRSTD));
    let v2p = w.get::<vf::V2PMAILBOX>(vf(0));
    assert!(v2p.has(V2PMAILBOX::RSTD) && !v2p.has(V2PMAILBOX::RSTI));
    assert_eq!(w.get::<vf::V2PMAILBOX>(vf(0)).raw(), 0);
    assert!(
        w.get::<vf::V2PMAILBOX>(vf(1)).has(V2PMAILBOX::RSTD),
        "each VF its own"
    );
}

#[test]
fn flr_of_the_pf_takes_the_vfs_away() {
    let mut w = World::open(3);
    let effects = w.set_config16(PF, DEVICE_CONTROL, FLR);
    assert_eq!(effects.vfs, Some(0));
    assert_eq!(effects.reset_done, FunctionId::all().take(4).collect());
    assert_eq!(w.config16(PF, offset::SRIOV + sriov::CONTROL), 0);
    assert_eq!(w.config16(PF, offset::SRIOV + sriov::NUM_VFS), 0);
    assert_eq!(w.config16(PF, header::COMMAND), 0);
    let effects = w.control.reset_function(vf(0), &mut w.host);
    assert_eq!(effects, Effects::NONE, "it is gone");
    // And it comes up again.
    w.init_pf();
    w.enable_vfs(2);
    for f in [PF, vf(0), vf(1)] {
        w.open_queue(f);
    }
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.send(vf(0), &sent);
    assert_eq!(w.take(vf(1)), [sent]);
}

#[test]
fn surprise_removal_is_told_once() {
    let mut w = World::open(3);
    let effects = w.control.stop_sriov(&mut w.host);
    assert_eq!(effects.vfs, Some(0));
    w.apply(effects);
    assert_eq!(w.control.stop_sriov(&mut w.host), Effects::NONE);
    assert!(!w.control.is_enabled(vf(0)) && w.control.is_enabled(PF));
    assert!(!w.get::<STATUS>(PF).has(STATUS::IOV_MODE));
}

#[test]
fn nothing_is_left_for_the_next_tenant() {
    let mut w = World::with(CardSettings {
        mailbox: MailboxMode::Open,
        ..settings()
    });
    w.init_pf();
    w.enable_vfs(2);
    let fresh = {
        let mut fresh = World::with(CardSettings {
            mailbox: MailboxMode::Open,
            ..settings()
        });
        fresh.init_pf();
        fresh.enable_vfs(2);
        window(&mut fresh)
    };
    for at in (0..igb::vf::BAR0_SIZE).step_by(4).filter(|at| *at != 0) {
        w.write32(vf(1), at, 0x5A5A_5A5A);
    }
    w.open_queue(vf(1));
    w.write(vf(1), CardRegion::Msix, 0, &[0x5A; 48]);
    w.send(vf(1), &frame(MacAddress::BROADCAST, mac_of(vf(1)), 60));
    assert_ne!(window(&mut w), fresh);
    w.set_config16(vf(1), DEVICE_CONTROL, FLR);
    assert_eq!(window(&mut w), fresh);
    let mut table = [0; 48];
    w.read(vf(1), CardRegion::Msix, 0, &mut table);
    assert!(table.iter().all(|byte| *byte <= 1), "only masks");
}

/// All that VF1 can read.
fn window(w: &mut World) -> Vec<u32> {
    w.get::<vf::V2PMAILBOX>(vf(1));
    (0..igb::vf::BAR0_SIZE)
        .step_by(4)
        .map(|at| w.read32(vf(1), at))
        .collect()
}

#[test]
fn flr_in_flight_ends_dma_at_once() {
    let mut w = World::open(2);
    for _ in 0..10 {
        let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 600);
        w.queue_tx(vf(0), &sent, igb::descriptor::TxCommand::empty());
    }
    w.ring_tx(vf(0));
    // The doorbell rang, nothing ran yet, and the reset comes first.
    w.set_config16(vf(0), DEVICE_CONTROL, FLR);
    w.host.reads.clear();
    w.run();
    assert!(w.host.reads.is_empty());
    assert!(w.take(vf(1)).is_empty());
    // The receiver is reset between two rounds: its prefetched descriptors are void.
    let mut w = World::open(2);
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
    assert_eq!(w.take(vf(1)).len(), 1);
    w.set_config16(vf(1), DEVICE_CONTROL, FLR);
    let memory = w.host.memory[vf(1).slot()].clone();
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
    assert!(w.host.memory[vf(1).slot()] == memory);
    assert_eq!(w.dropped(vf(1), DropReason::RxDisabled), 1);
}

#[test]
fn what_the_data_path_did_before_a_reset_does_not_interrupt_after_it() {
    let mut w = World::open(2);
    w.queue_tx(
        vf(0),
        &frame(mac_of(vf(1)), mac_of(vf(0)), 60),
        igb::descriptor::TxCommand::empty(),
    );
    w.ring_tx(vf(0));
    w.path.run(&mut w.host, &mut w.events);
    // VF1 is reset and set up again before the events are absorbed.
    w.set(vf(1), Value::<vf::VTCTRL>::default().set(PVTCTRL::RST));
    w.set(vf(1), Value::<vf::VTIVAR>::from_raw(0x8080_8080));
    w.set(vf(1), Value::<vf::VTEIMS>::from_raw(7));
    w.absorb();
    assert!(w.host.interrupts.is_empty());
    assert_eq!(w.get::<vf::VFGPRC>(vf(1)).raw(), 0);
    assert_eq!(
        w.report(vf(1)).rx_packets,
        1,
        "a report counts it all the same"
    );
}

#[test]
fn an_older_configuration_is_ignored() {
    let mut w = World::open(2);
    let old = w.control.config();
    w.set(PF, Value::<VFTE>::default());
    let new = w.control.config();
    assert!(new.version() > old.version());
    w.path.configure(old);
    w.send(vf(0), &frame(mac_of(vf(1)), mac_of(vf(0)), 60));
    assert!(w.take(vf(1)).is_empty());
}

#[test]
fn a_reset_that_the_data_path_sees_late_still_voids_its_state() {
    let mut w = World::open(2);
    let sent = frame(mac_of(vf(1)), mac_of(vf(0)), 60);
    w.send(vf(0), &sent);
    w.send(vf(1), &frame(mac_of(vf(0)), mac_of(vf(1)), 60));
    assert_eq!((w.take(vf(0)).len(), w.take(vf(1)).len()), (1, 1));
    // Reset and enabled again before the data path learns of either.
    for f in [vf(0), vf(1)] {
        let at = u64::from(vf::VTCTRL::OFFSET);
        let reset = PVTCTRL::RST.mask().to_le_bytes();
        let _ = w
            .control
            .write(f, CardRegion::Bar0, at, &reset, &mut w.host);
    }
    for at in [VFRE::OFFSET, VFTE::OFFSET] {
        let _ = w
            .control
            .write(PF, CardRegion::Bar0, at.into(), &[3, 0, 0, 0], &mut w.host);
    }
    for f in [vf(0), vf(1)] {
        w.host.pages[f.slot()] = [[0; 1024]; 2];
    }
    w.path.configure(w.control.config());
    for f in [vf(0), vf(1)] {
        w.host.reads.clear();
        w.open_queue(f);
    }
    for (from, to) in [(vf(0), vf(1)), (vf(1), vf(0))] {
        let sent = frame(mac_of(to), mac_of(from), 77);
        w.send(from, &sent);
        assert_eq!(
            w.take(to),
            [sent],
            "the rings start at their first descriptors"
        );
    }
}

#[test]
fn a_queue_that_changes_hands_starts_anew() {
    let mut w = World::new();
    w.init_pf();
    w.open_queue(PF);
    let peer = MacAddress([2, 8, 8, 8, 8, 8]);
    w.send(PF, &frame(peer, mac_of(PF), 60));
    w.wire_sends(&frame(mac_of(PF), peer, 60));
    assert_eq!(w.take(PF).len(), 1);
    // Queue 0 was the PF's and becomes VF0's, whose rings are elsewhere.
    w.enable_vfs(1);
    w.open_queue(vf(0));
    w.host.reads.clear();
    let sent = frame(peer, mac_of(vf(0)), 60);
    w.send(vf(0), &sent);
    assert_eq!(w.host.wire.last(), Some(&sent));
    let back = frame(mac_of(vf(0)), peer, 60);
    w.wire_sends(&back);
    assert_eq!(w.take(vf(0)), [back]);
    assert!(w.host.reads.iter().all(|(f, _, _)| *f == vf(0)));
}
