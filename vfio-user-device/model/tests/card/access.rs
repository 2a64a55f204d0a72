//! Accesses of every offset, size and function: no panic, and nothing of a sibling changes.

use igb::*;
use igb_model::*;
use proptest::prelude::*;

use crate::world::*;

fn region() -> impl Strategy<Value = CardRegion> {
    prop_oneof![
        4 => Just(CardRegion::Bar0),
        1 => Just(CardRegion::Flash),
        1 => Just(CardRegion::Io),
        2 => Just(CardRegion::Msix),
        2 => Just(CardRegion::Config),
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0u64..0x4010).prop_map(|at| at & !3),
        4 => (0u64..0x2_0010).prop_map(|at| at & !3),
        2 => 0u64..0x2_0010,
        1 => any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn a_vf_changes_nothing_of_its_siblings(
        accesses in prop::collection::vec(
            (region(), offset(), prop::collection::vec(any::<u8>(), 0..17), any::<bool>()), 1..200
        ),
        open in any::<bool>(),
    ) {
        let mailbox = if open { MailboxMode::Open } else { MailboxMode::Closed };
        let mut w = World::with(CardSettings { mailbox, ..settings() });
        w.init_pf();
        w.enable_vfs(3);
        for f in [PF, vf(0), vf(1), vf(2)] {
            w.open_queue(f);
        }
        let siblings = [vf(0), vf(2)];
        let before = siblings.map(|f| w.control.digest(f));
        let pages = [PF, vf(0), vf(2)].map(|f| w.host.pages[f.slot()]);
        for (region, at, mut data, write) in accesses {
            if write {
                w.write(vf(1), region, at, &data);
            } else {
                w.read(vf(1), region, at, &mut data);
            }
        }
        prop_assert_eq!(siblings.map(|f| w.control.digest(f)), before);
        prop_assert!([PF, vf(0), vf(2)].map(|f| w.host.pages[f.slot()]) == pages);
        // Whatever it set up, it moves only its own data, and siblings still talk.
        w.run();
        let sent = frame(mac_of(vf(2)), mac_of(vf(0)), 60);
        w.send(vf(0), &sent);
        prop_assert_eq!(w.take(vf(2)), [sent]);
    }

    /// The PF may do anything, but nothing makes the card panic or hang.
    #[test]
    fn any_sequence_of_any_function_is_survived(
        accesses in prop::collection::vec(
            (0usize..10, region(), offset(), prop::collection::vec(any::<u8>(), 0..17), 0u8..8),
            1..200,
        ),
    ) {
        let mut w = World::open(7);
        for (slot, region, at, mut data, kind) in accesses {
            let f = FunctionId::from_slot(slot).unwrap_or(PF);
            match kind {
                0..4 => {
                    w.write(f, region, at, &data);
                }
                4..6 => w.read(f, region, at, &mut data),
                6 => {
                    w.path.run(&mut w.host, &mut w.events);
                    w.absorb();
                }
                _ => w.wire_sends(&data),
            }
        }
        for _ in 0..4 {
            w.path.run(&mut w.host, &mut w.events);
            w.absorb();
        }
    }
}

#[test]
fn what_a_vf_has_no_register_for_reads_0_and_ignores_writes() {
    let mut w = World::open(2);
    let before = [PF, vf(0), vf(1)].map(|f| w.control.digest(f));
    for at in (0..igb::vf::BAR0_SIZE)
        .step_by(4)
        .filter(|at| igb::vf::decode(0, *at).is_none())
    {
        let extension = queue_page::VF_TX + queue_page::EXTENSION;
        if at < extension {
            assert_eq!(w.read32(vf(0), at), 0, "{at:#x}");
            w.write32(vf(0), at, u32::MAX);
            assert_eq!(w.read32(vf(0), at), 0, "{at:#x}");
        }
    }
    assert_eq!([PF, vf(0), vf(1)].map(|f| w.control.digest(f)), before);
}

#[test]
fn parts_of_a_dword_can_be_read_but_not_written() {
    let mut w = World::open(1);
    let status = w.get::<STATUS>(PF).raw().to_le_bytes();
    for (at, byte) in status.iter().enumerate() {
        let mut data = [0; 1];
        w.read(
            PF,
            CardRegion::Bar0,
            u64::from(STATUS::OFFSET) + at as u64,
            &mut data,
        );
        assert_eq!(data[0], *byte);
    }
    w.set(PF, Value::<FCTTV>::from_raw(0x1234));
    w.write(PF, CardRegion::Bar0, FCTTV::OFFSET.into(), &[0xFF, 0xFF]);
    assert_eq!(w.get::<FCTTV>(PF).raw(), 0x1234);
    // Eight bytes are two registers.
    w.write(
        PF,
        CardRegion::Bar0,
        RAL::offset(5).into(),
        &[1, 2, 3, 4, 5, 6, 0, 0x80],
    );
    assert_eq!(w.get_at::<RAL>(PF, 5).raw(), 0x0403_0201);
    assert_eq!(w.get_at::<RAH>(PF, 5).raw(), 0x8000_0605);
}
