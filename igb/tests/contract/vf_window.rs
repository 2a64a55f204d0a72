//! The VF's BAR0.

use std::collections::HashMap;

use igb::function::{VF_COUNT, VF_QUEUES, VF_VECTORS};
use igb::register::RegisterId;
use igb::vf::{self, Scope, WINDOW};
use igb::{Access, Register, RegisterInfo, Value};

fn dwords() -> impl Iterator<Item = u32> {
    (0..vf::BAR0_SIZE).step_by(4)
}

/// Registers a VF may share with others: it can only read them.
const SHARED: [RegisterId; 4] = [
    RegisterId::STATUS,
    RegisterId::FRTIMER,
    RegisterId::PBRWAC,
    RegisterId::PBTWAC,
];

#[test]
fn window_entries_do_not_overlap_and_have_one_name_each() {
    let mut offsets = HashMap::new();
    let mut ids = HashMap::new();
    for info in &WINDOW {
        assert_eq!(ids.insert(info.id, info.name), None, "{}", info.name);
        for index in 0..info.count {
            let offset = info.offset + index * info.stride;
            assert!(offset < vf::BAR0_SIZE);
            assert_eq!(offsets.insert(offset, info.name), None, "{offset:#x}");
        }
    }
    for offset in dwords() {
        assert_eq!(
            vf::window_at(offset).map(|(info, _)| info.name),
            offsets.get(&offset).copied()
        );
    }
}

#[test]
fn every_offset_belongs_to_that_vf_only() {
    let mut owner = HashMap::new();
    for vf in 0..VF_COUNT {
        for offset in dwords() {
            let Some(decoded) = vf::decode(vf, offset) else {
                continue;
            };
            let info: &RegisterInfo = decoded.id.info();
            assert!(decoded.index < info.count, "VF {vf} {offset:#x} {decoded}");
            let (entry, _) = vf::window_at(offset).unwrap();
            if entry.scope == Scope::Card {
                assert!(SHARED.contains(&decoded.id), "{decoded}");
                assert_eq!(entry.access, Access::ReadOnly, "{decoded}");
                continue;
            }
            assert!(!SHARED.contains(&decoded.id), "{decoded}");
            if let Some(other) = owner.insert(decoded, (vf, offset)) {
                panic!("{decoded} belongs to VF {vf} at {offset:#x} and to {other:x?}");
            }
        }
    }
}

#[test]
fn a_vf_reaches_nothing_that_is_the_pfs_alone() {
    for vf in 0..VF_COUNT {
        for offset in dwords() {
            if let Some(decoded) = vf::decode(vf, offset) {
                match decoded.id {
                    // Vector 0 is the PF's for as many VFs as there are.
                    RegisterId::EITR => assert_ne!(decoded.index, 0),
                    RegisterId::RDT | RegisterId::TDT => {
                        assert_eq!(decoded.index % 8, u32::from(vf));
                    }
                    RegisterId::VMBMEM => assert_eq!(decoded.index / 16, u32::from(vf)),
                    _ => {}
                }
            }
        }
    }
    assert_eq!(vf::decode(VF_COUNT, 0), None);
    assert_eq!(vf::decode(u8::MAX, 0x2818), None);
    assert_eq!(vf::decode(0, vf::BAR0_SIZE), None);
    assert_eq!(vf::decode(0, 0x3F00), None);
}

#[test]
fn offset_of_is_the_inverse() {
    for info in &WINDOW {
        for index in 0..info.count {
            let offset = vf::offset_of(info.id, index).unwrap();
            let (found, at) = vf::window_at(offset).unwrap();
            assert_eq!((found.id, at), (info.id, index));
        }
        assert_eq!(vf::offset_of(info.id, info.count), None);
    }
    assert_eq!(vf::offset_of(RegisterId::RCTL, 0), None);
    assert_eq!(vf::offset_of(RegisterId::MTA, 0), None);
}

#[test]
fn known_places() {
    for (vf, offset, name, index) in [
        (0, 0x0000, "PVTCTRL", 0),
        (3, 0x0008, "STATUS", 0),
        (2, 0x083C, "VMBMEM", 47),
        (5, 0x0C40, "V2PMAILBOX", 5),
        (1, 0x0F10, "PVFGPRC", 1),
        (4, 0x1580, "PVTEICR", 4),
        (0, 0x1680, "EITR", 22),
        (0, 0x1688, "EITR", 24),
        (7, 0x1680, "EITR", 1),
        (6, 0x1700, "VTIVAR", 6),
        (6, 0x1740, "VTIVAR_MISC", 6),
        (0, 0x2818, "RDT", 0),
        (3, 0x2918, "RDT", 11),
        (7, 0x3918, "TDT", 15),
    ] {
        let decoded = vf::decode(vf, offset).unwrap();
        assert_eq!((decoded.id.info().name, decoded.index), (name, index));
    }
}

#[test]
fn typed_registers_have_the_cards_fields() {
    fn check<R: Register>(indices: u32) {
        assert_eq!(R::COUNT, indices);
        for index in 0..indices {
            assert_eq!(vf::offset_of(R::ID, index), Some(R::offset(index)));
        }
        assert_eq!(<R::Layout as Register>::ID, R::ID);
    }
    check::<vf::VTCTRL>(1);
    check::<vf::VTEITR>(VF_VECTORS);
    check::<vf::RXDCTL>(VF_QUEUES);
    check::<vf::VMBMEM>(16);
    let enabled = Value::<vf::RXDCTL>::default().set(igb::RXDCTL::ENABLE);
    assert_eq!(format!("{enabled:?}"), "RXDCTL 0x02000000 {ENABLE}");
    let reset = Value::<vf::VTCTRL>::default().set(igb::PVTCTRL::RST);
    assert_eq!(reset.raw(), 1 << 26);
}
