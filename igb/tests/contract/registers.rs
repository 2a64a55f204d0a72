//! The map of the PF's BAR0.

use std::collections::HashMap;

use igb::register::RegisterId;
use igb::{
    Access, BAR0_SIZE, CTRL, Decoded, EITR, Field, RAH, RAL, RDT, REGISTERS, RXDCTL, Register,
    Value, decode,
};
use proptest::prelude::*;

fn places() -> impl Iterator<Item = (u32, Decoded)> {
    REGISTERS.iter().flat_map(|info| {
        (0..info.count).flat_map(move |index| {
            let decoded = Decoded { id: info.id, index };
            info.offset_of(index)
                .into_iter()
                .chain(info.alias_of(index))
                .map(move |offset| (offset, decoded))
        })
    })
}

#[test]
fn table_is_indexed_by_id() {
    for (id, info) in RegisterId::ALL.iter().zip(&REGISTERS) {
        assert_eq!(*id, info.id);
        assert_eq!(id.info().name, info.name);
        assert_eq!(format!("{id:?}"), info.name);
    }
}

#[test]
fn no_two_registers_overlap() {
    let mut seen = HashMap::new();
    for (offset, decoded) in places() {
        assert_eq!(offset % 4, 0, "{decoded}");
        assert!(offset < BAR0_SIZE, "{decoded}");
        if let Some(other) = seen.insert(offset, decoded) {
            panic!("{decoded} and {other} both lie at {offset:#x}");
        }
    }
}

#[test]
fn every_place_decodes_to_its_register() {
    for (offset, decoded) in places() {
        assert_eq!(decode(offset), Some(decoded), "{offset:#x}");
    }
}

#[test]
fn what_is_no_place_decodes_to_nothing() {
    let seen: HashMap<u32, Decoded> = places().collect();
    for offset in (0..2 * BAR0_SIZE).step_by(4) {
        assert_eq!(decode(offset), seen.get(&offset).copied(), "{offset:#x}");
    }
    assert_eq!(decode(u32::MAX - 3), None);
}

#[test]
fn fields_lie_inside_and_do_not_overlap() {
    for info in &REGISTERS {
        let mut taken = 0u32;
        for field in info.fields {
            assert!(
                field.lo <= field.hi && field.hi < 32,
                "{}.{}",
                info.name,
                field.name
            );
            assert_eq!(taken & field.mask(), 0, "{}.{}", info.name, field.name);
            taken |= field.mask();
        }
    }
}

#[test]
fn every_register_is_described() {
    for info in &REGISTERS {
        assert!(info.doc.ends_with('.'), "{}: {:?}", info.name, info.doc);
        assert!(info.section.starts_with("8."), "{}", info.name);
    }
}

#[test]
fn known_places() {
    // Independent of the map: what drivers of the 82576 access.
    for (offset, name, index) in [
        (0x0000, "CTRL", 0),
        (0x0008, "STATUS", 0),
        (0x0014, "EERD", 0),
        (0x00C0, "ICR", 0),
        (0x0100, "RCTL", 0),
        (0x0840, "VMBMEM", 16),
        (0x0C04, "P2VMAILBOX", 1),
        (0x0C80, "MBVFICR", 0),
        (0x0C88, "VFLRE", 0),
        (0x1010, "EEMNGCTL", 0),
        (0x1524, "EIMS", 0),
        (0x16E0, "EITR", 24),
        (0x171C, "IVAR", 7),
        (0x1740, "IVAR_MISC", 0),
        (0x2408, "QDE", 0),
        (0x2818, "RDT", 0),
        (0x2B28, "RXDCTL", 3),
        (0x3500, "DTXSWC", 0),
        (0x3604, "RTTDQSEL", 0),
        (0x3700, "VMVIR", 0),
        (0x3918, "TDT", 1),
        (0x4074, "GPRC", 0),
        (0x53FC, "MTA", 127),
        (0x547C, "RAH", 15),
        (0x5480, "PSRTYPE", 0),
        (0x54E0, "RAL", 16),
        (0x551C, "RAH", 23),
        (0x57FC, "VFTA", 127),
        (0x5818, "MRQC", 0),
        (0x5AD0, "VMOLR", 0),
        (0x5B50, "SWSM", 0),
        (0x5C7C, "RETA", 31),
        (0x5CA4, "RSSRK", 9),
        (0x5D7C, "VLVF", 31),
        (0xA1FC, "UTA", 127),
        (0xC3D8, "RDT", 15),
        (0xE018, "TDT", 0),
        (0x1_0310, "PVFGPRC", 3),
        (0x1_0724, "PVTEIMS", 7),
        (0x1_171C, "VTIVAR", 7),
        (0x1_1720, "VTIVAR_MISC", 0),
    ] {
        let decoded = decode(offset).unwrap_or_else(|| panic!("nothing at {offset:#x}"));
        assert_eq!((decoded.id.info().name, decoded.index), (name, index));
    }
}

#[test]
fn typed_registers_agree_with_the_table() {
    fn check<R: Register>() {
        let info = R::ID.info();
        assert_eq!(R::NAME, info.name);
        assert_eq!(
            (R::COUNT, R::ACCESS, R::RESET),
            (info.count, info.access, info.reset)
        );
        for index in 0..R::COUNT {
            assert_eq!(Some(R::offset(index)), info.offset_of(index));
        }
        assert_eq!(info.offset_of(R::COUNT), None);
    }
    check::<CTRL>();
    check::<EITR>();
    check::<RAL>();
    check::<RAH>();
    check::<RDT>();
    assert_eq!(CTRL::ACCESS, Access::ReadWrite);
    assert_eq!(RegisterId::RDT.info().alias_of(3), Some(0x2B18));
    assert_eq!(RegisterId::RDT.info().alias_of(4), None);
}

#[test]
fn values_print_their_fields_by_name() {
    let ctrl = Value::<CTRL>::default().set(CTRL::RST).with(CTRL::SPEED, 2);
    assert_eq!(format!("{ctrl:?}"), "CTRL 0x04000200 {SPEED=0x2 RST}");
    assert_eq!(format!("{:?}", Value::<CTRL>::default()), "CTRL 0x00000000");
    assert_eq!(
        format!("{}", CTRL::ID.info().describe(1)),
        "0x00000001 {FD}"
    );
    assert_eq!(format!("{}", decode(0x2918).unwrap()), "RDT[1]");
    assert_eq!(format!("{}", decode(0).unwrap()), "CTRL");
}

proptest! {
    #[test]
    fn a_field_changes_only_itself(raw: u32, value: u32) {
        let field: Field<RXDCTL> = RXDCTL::WTHRESH;
        let before = Value::<RXDCTL>::from_raw(raw);
        let after = before.with(field, value);
        prop_assert_eq!(after.get(field), value & 0x1F);
        prop_assert_eq!(after.raw() & !field.mask(), raw & !field.mask());
        prop_assert_eq!(field.put(field.get(raw)), raw & field.mask());
        prop_assert!(before.set(field).has(field));
        prop_assert!(!before.clear(field).has(field));
    }
}
