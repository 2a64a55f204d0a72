//! Register accesses, doorbells, descriptors and frames of all functions in any order.
//!
//! What a VF does never changes what another VF sees, and of the PF only what the two share:
//! the mailbox with its VFLRE, and statistics.

use std::sync::LazyLock;

use igb::register::RegisterId;
use igb::vf::WINDOW;
use igb::{FunctionId, Value};
use igb_model::{CardRegion, Effects, MailboxMode};

use super::card::{Card, MEMORY, region};
use super::input::Input;

/// Operations per input.
const MOST: usize = 96;

/// Runs one input: a byte of settings, then operations.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = input.u8();
    let mailbox = if settings & 1 == 0 {
        MailboxMode::Closed
    } else {
        MailboxMode::Open
    };
    let mut card = Card::new(mailbox);
    if settings & 2 != 0 {
        card.bring_up(settings >> 4 & 7);
    }
    for _ in 0..MOST {
        let Some(op) = input.next() else { break };
        step(&mut card, op, &mut input);
    }
    card.run();
}

fn function(input: &mut Input<'_>) -> FunctionId {
    FunctionId::from_slot(usize::from(input.u8()) % igb::function::FUNCTION_COUNT).expect("a slot")
}

fn step(card: &mut Card, op: u8, input: &mut Input<'_>) {
    match op % 13 {
        // Any access.
        0 => {
            let function = function(input);
            let region = region(function, input.u8());
            let (offset, length) = (
                u64::from(input.u32()) & 0x3_FFFF,
                usize::from(input.u8() % 17),
            );
            access(card, function, region, offset, Access::Read(length));
        }
        1 => {
            let function = function(input);
            let region = region(function, input.u8());
            let (offset, length) = (
                u64::from(input.u32()) & 0x3_FFFF,
                usize::from(input.u8() % 17),
            );
            let data = input.bytes(length);
            access(card, function, region, offset, Access::Write(data));
        }
        // A register by its number in the map.
        2 | 3 => {
            let function = function(input);
            let offset = register(function, input.u8(), input.u8(), input.u8());
            if op % 13 == 2 {
                access(card, function, CardRegion::Bar0, offset, Access::Read(4));
            } else {
                let value = input.u32().to_le_bytes();
                access(
                    card,
                    function,
                    CardRegion::Bar0,
                    offset,
                    Access::Write(&value),
                );
            }
        }
        // A store to a mapped queue page.
        4 => {
            let function = function(input);
            let page = if input.u8() & 1 == 0 {
                igb_model::QueuePage::Rx
            } else {
                igb_model::QueuePage::Tx
            };
            let offset = u32::from(input.u16()) & 0xFFC;
            card.world.store(function, page, offset, input.u32());
        }
        5 => {
            let function = function(input);
            card.enable_ring(function, u32::from(input.u8() % 16));
        }
        6 => card.run(),
        7 => {
            let length = usize::from(input.u16()) % 2048;
            let mut frame = input.bytes(length).to_vec();
            frame.resize(length, 0);
            card.uplink_receive(&frame);
        }
        8 => card.advance(u64::from(input.u32())),
        9 => card.set_link(input.u8() & 1 != 0),
        10 => {
            let function = function(input);
            let before = card.digests();
            card.reset_function(function);
            if function.is_vf() {
                unchanged(card, function, &before);
            }
        }
        11 => {
            let function = function(input);
            let offset = u64::from(input.u16()) % MEMORY as u64;
            let length = usize::from(input.u8()).min(MEMORY - offset as usize);
            let bytes = input.bytes(length);
            if let Ok(place) = card.world.window(function, offset, bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        _ => match input.u8() % 4 {
            0 => card.stop_sriov(),
            _ => card.bring_up(input.u8() % 9),
        },
    }
}

/// Offset of a register in the BAR0 of a function.
fn register(function: FunctionId, low: u8, high: u8, element: u8) -> u64 {
    let number = usize::from(low) | usize::from(high) << 8;
    if function.is_vf() {
        let info = &WINDOW[number % WINDOW.len()];
        return u64::from(info.offset + u32::from(element) % info.count * info.stride);
    }
    let info = RegisterId::ALL[number % RegisterId::ALL.len()].info();
    let index = u32::from(element) % info.count;
    let offset = if element & 0x80 != 0 {
        info.alias_of(index)
    } else {
        None
    };
    offset
        .or(info.offset_of(index))
        .expect("an element of the array")
        .into()
}

enum Access<'a> {
    Read(usize),
    Write(&'a [u8]),
}

fn access(
    card: &mut Card,
    function: FunctionId,
    region: CardRegion,
    offset: u64,
    access: Access<'_>,
) {
    if !function.is_vf() {
        let _ = perform(card, function, region, offset, access);
        return;
    }
    let before = card.digests();
    let elsewhere = (region != CardRegion::Bar0).then(|| card.pf_digest());
    let registers = pf_registers(card);
    let pages: Vec<_> = others(function)
        .map(|other| card.world.pages(other))
        .collect();
    let (effects, _) = perform(card, function, region, offset, access);
    unchanged(card, function, &before);
    // What a VF does to its registers the PF sees in its own; an FLR sets VFLRE.
    if let Some(before) = elsewhere
        && effects.reset_done.is_empty()
    {
        assert_eq!(
            before,
            card.pf_digest(),
            "{function} changed the state of PF"
        );
    }
    let after: Vec<_> = others(function)
        .map(|other| card.world.pages(other))
        .collect();
    assert!(
        pages == after,
        "{function} changed a queue page of another function"
    );
    assert!(
        registers == pf_registers(card),
        "{function} changed a register of the PF"
    );
    assert_eq!(effects.vfs, None, "{function} changed the number of VFs");
}

fn perform(
    card: &mut Card,
    function: FunctionId,
    region: CardRegion,
    offset: u64,
    access: Access<'_>,
) -> (Effects, usize) {
    match access {
        Access::Read(len) => {
            let mut data = [0xAA; 16];
            let effects = card.read(function, region, offset, &mut data[..len]);
            (effects, len)
        }
        Access::Write(data) => (card.write(function, region, offset, data), data.len()),
    }
}

/// Offsets of registers that no VF has a view of, and that neither the mailbox nor resets of VFs
/// nor reading them changes.
static PF_ONLY: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let moving = [
        RegisterId::MBVFICR,
        RegisterId::VFLRE,
        RegisterId::VFRE,
        RegisterId::VFTE,
        RegisterId::P2VMAILBOX,
        RegisterId::SWSM,
    ];
    let infos = RegisterId::ALL.iter().map(|id| id.info());
    let fixed = infos.filter(|info| {
        info.access == igb::Access::ReadWrite
            && !moving.contains(&info.id)
            && WINDOW.iter().all(|window| window.id != info.id)
    });
    fixed
        .flat_map(|info| (0..info.count.min(2)).filter_map(|index| info.offset_of(index)))
        .map(u64::from)
        .collect()
});

fn pf_registers(card: &mut Card) -> Vec<u32> {
    let read = |at: &u64| {
        let mut data = [0; 4];
        let _ = card.read(FunctionId::PF, CardRegion::Bar0, *at, &mut data);
        u32::from_le_bytes(data)
    };
    PF_ONLY.iter().map(read).collect()
}

fn others(function: FunctionId) -> impl Iterator<Item = FunctionId> {
    FunctionId::all().filter(move |other| *other != function)
}

fn unchanged(card: &Card, function: FunctionId, before: &[u64]) {
    let after = card.digests();
    for other in others(function).filter(|other| other.is_vf()) {
        let slot = other.slot();
        assert_eq!(
            before[slot], after[slot],
            "{function} changed the state of {other}"
        );
    }
}

/// A seed's operation that writes a register of a VF.
pub(super) fn vf_write(vf: u8, id: RegisterId, element: u8, value: u32) -> Vec<u8> {
    let number = WINDOW
        .iter()
        .position(|info| info.id == id)
        .expect("a register of the window");
    operation(3, FunctionId::vf(vf), number, element, value)
}

/// A seed's operation that writes a register of the PF.
pub(super) fn pf_write<R: igb::Register>(element: u8, value: Value<R>) -> Vec<u8> {
    let number = RegisterId::ALL
        .iter()
        .position(|id| *id == R::ID)
        .expect("a register of the map");
    operation(3, FunctionId::PF, number, element, value.raw())
}

fn operation(op: u8, function: FunctionId, number: usize, element: u8, value: u32) -> Vec<u8> {
    let mut bytes = vec![op, function.slot() as u8];
    bytes.extend((number as u16).to_le_bytes());
    bytes.push(element);
    bytes.extend(value.to_le_bytes());
    bytes
}
