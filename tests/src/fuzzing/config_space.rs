//! Configuration space of every function, written at random.
//!
//! Input: operations `{kind, function, offset: u16, length, bytes}`.

use std::sync::LazyLock;

use igb::FunctionId;
use igb::function::FUNCTION_COUNT;
use igb::pci::{self, capability, express, header, id, offset, sriov};
use igb_model::{CardRegion, MailboxMode};

use super::card::Card;
use super::input::Input;

/// Operations per input.
const MOST: usize = 128;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut card = Card::new(MailboxMode::Closed);
    for _ in 0..MOST {
        let Some(op) = input.next() else { break };
        let function =
            FunctionId::from_slot(usize::from(input.u8()) % FUNCTION_COUNT).expect("a slot");
        let at = u64::from(input.u16());
        let length = usize::from(input.u8());
        match op % 4 {
            0 => read(&mut card, function, at, length % 65),
            1 | 2 => write(&mut card, function, at % 0x1100, input.bytes(length % 9)),
            _ => card.reset_function(function),
        }
    }
    let vfs = card.control.num_vfs_enabled();
    for function in FunctionId::all() {
        if function.vf_index().is_some_and(|vf| vf >= vfs) {
            assert_eq!(
                config(&mut card, function, 0),
                [0xFF; 4],
                "{function} does not exist"
            );
            continue;
        }
        check_identity(&mut card, function);
        check_lists(&mut card, function);
    }
    check_sriov(&mut card);
}

fn config<const N: usize>(card: &mut Card, function: FunctionId, at: u64) -> [u8; N] {
    let mut data = [0xAA; N];
    let _ = card.read(function, CardRegion::Config, at, &mut data);
    data
}

fn config16(card: &mut Card, function: FunctionId, at: u16) -> u16 {
    u16::from_le_bytes(config(card, function, at.into()))
}

/// A read of many bytes is the same as many reads of a byte, and changes nothing.
fn read(card: &mut Card, function: FunctionId, at: u64, length: usize) {
    let before = card.digests();
    let mut whole = [0xAA; 64];
    let _ = card.read(function, CardRegion::Config, at, &mut whole[..length]);
    for (n, byte) in whole[..length].iter().enumerate() {
        let [single] = config(card, function, at + n as u64);
        assert_eq!(single, *byte, "{function} {at:#x}+{n:#x}");
    }
    assert_eq!(
        before,
        card.digests(),
        "a read of configuration space changed something"
    );
}

fn write(card: &mut Card, function: FunctionId, at: u64, data: &[u8]) {
    if !function.is_vf() {
        let _ = card.write(function, CardRegion::Config, at, data);
        return;
    }
    let (before, pf) = (card.digests(), card.pf_digest());
    let effects = card.write(function, CardRegion::Config, at, data);
    assert_eq!(effects.vfs, None, "{function} changed the number of VFs");
    let after = card.digests();
    for other in FunctionId::vfs().filter(|other| *other != function) {
        let slot = other.slot();
        assert_eq!(before[slot], after[slot], "{function} changed {other}");
    }
    // An FLR sets VFLRE.
    if effects.reset_done.is_empty() {
        assert_eq!(pf, card.pf_digest(), "{function} changed the PF");
    }
}

/// What never changes.
const FIXED: [u16; 7] = [
    header::VENDOR_ID,
    header::DEVICE_ID,
    header::REVISION_ID,
    header::CLASS_CODE,
    header::SUBSYSTEM_VENDOR_ID,
    header::SUBSYSTEM_ID,
    header::CAPABILITIES,
];

/// [`FIXED`] of every function of a card that nobody has touched.
static IDENTITIES: LazyLock<Vec<[u16; FIXED.len()]>> = LazyLock::new(|| {
    let mut card = Card::new(MailboxMode::Closed);
    card.bring_up(igb::function::VF_COUNT);
    FunctionId::all()
        .map(|function| FIXED.map(|at| config16(&mut card, function, at)))
        .collect()
});

/// Nothing changes what the function is.
fn check_identity(card: &mut Card, function: FunctionId) {
    let identity = FIXED.map(|at| config16(card, function, at));
    assert_eq!(identity, IDENTITIES[function.slot()], "{function}");
    let control = config16(card, function, offset::EXPRESS + express::DEVICE_CONTROL);
    assert_eq!(control & express::INITIATE_FLR, 0, "reads 0");
}

/// Both capability lists end, and lead to the same capabilities as ever.
fn check_lists(card: &mut Card, function: FunctionId) {
    let mut at = u16::from(config::<1>(card, function, header::CAPABILITIES.into())[0]);
    let mut express = false;
    for _ in 0..pci::CONFIG_SIZE / 4 {
        if at == 0 {
            break;
        }
        express |= config::<1>(card, function, (at + capability::ID).into())[0] == id::EXPRESS;
        at = config::<1>(card, function, (at + capability::NEXT).into())[0].into();
    }
    assert_eq!(at, 0, "{function}: the capability list does not end");
    assert!(express, "{function}: lost its PCI Express capability");
    let mut at = 0x100;
    for _ in 0..pci::EXTENDED_CONFIG_SIZE / 4 {
        if at == 0 {
            return;
        }
        at = u32::from_le_bytes(config(card, function, at.into())) >> 20;
    }
    panic!("{function}: the extended capability list does not end");
}

fn check_sriov(card: &mut Card) {
    let pf = FunctionId::PF;
    let enabled = card.control.num_vfs_enabled();
    let total = config16(card, pf, offset::SRIOV + sriov::TOTAL_VFS);
    let num = config16(card, pf, offset::SRIOV + sriov::NUM_VFS);
    let control = config16(card, pf, offset::SRIOV + sriov::CONTROL);
    assert!(
        u16::from(enabled) <= total,
        "{enabled} of {total} VFs enabled"
    );
    if control & sriov::VF_ENABLE == 0 {
        assert_eq!(enabled, 0);
    } else {
        assert!(
            num <= total && u16::from(enabled) == num,
            "NumVFs {num}, enabled {enabled}"
        );
    }
}
