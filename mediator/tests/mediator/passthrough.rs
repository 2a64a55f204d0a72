//! VFs of hardware: what the mediator does for their clients, and what it bounds.

use std::error::Error;
use std::os::fd::AsFd;
use std::sync::Arc;

use igb::{Register, vf};
use iommu::function::{DmaAccess, Function, FunctionError, irq, region};
use iommu::interrupt::EventFd;
use iommu::memory::SharedMemory;
use mediator::limits::Limits;
use mediator::nic::Nic;
use mediator::passthrough::Passthrough;
use mediator::{Mediator, MediatorOptions};
use mediator_protocol::{Status, ToPf};
use nix::errno::Errno;

use crate::fixture::{FakeCard, FakePf, Guest, Seen};

const PAGE: u64 = 4096;
/// No VF beyond it is ever there.
const LAST: u16 = 1;

/// A card whose VFs are hardware.
struct Hardware(Arc<FakeCard>, Limits);

impl Nic for Hardware {
    fn connect(&self, vf: u16) -> Result<Arc<dyn Function>, Box<dyn Error + Send + Sync>> {
        let function = self.0.connect(vf)?;
        Ok(Arc::new(Passthrough::new(function, &self.1)))
    }

    fn serves(&self, vf: u16) -> bool {
        vf <= LAST
    }
}

fn on_hardware(limits: Limits) -> (Mediator, Arc<FakeCard>, FakePf, Guest) {
    let card = FakeCard::new(2);
    card.plug(0);
    let nic = Hardware(Arc::clone(&card), limits);
    let mut options = MediatorOptions::new(Arc::new(nic));
    options.limits = limits;
    let mediator = Mediator::start(options).unwrap();
    let mut pf = FakePf::connect(&mediator);
    pf.offer(0);
    let guest = Guest::attach(&mediator, 0);
    (mediator, card, pf, guest)
}

fn refusal(result: Result<(), FunctionError>) -> Errno {
    match result {
        Err(FunctionError::Refused { errno, .. }) => errno,
        other => panic!("{other:?}"),
    }
}

fn maps(card: &FakeCard) -> Vec<Seen> {
    let mut log = card.vf(0).log();
    log.retain(|seen| matches!(seen, Seen::Map { .. }));
    log
}

#[test]
fn memory_without_a_file_is_a_window_that_the_hardware_does_not_have() {
    let (_mediator, card, _pf, guest) = on_hardware(Limits::default());
    let function = &guest.function;
    let rom = 0xFFFC_0000;
    function
        .dma_map(rom, 4 * PAGE, DmaAccess::READ, None)
        .unwrap();
    assert_eq!(maps(&card), []);
    let memory = SharedMemory::create_sealed("window", PAGE as usize).unwrap();
    let file = Some((memory.fd(), 0));
    let twice = function.dma_map(rom + PAGE, PAGE, DmaAccess::READ, file);
    assert_eq!(refusal(twice), Errno::EEXIST);
    assert_eq!(refusal(function.dma_unmap(rom + PAGE, PAGE)), Errno::EINVAL);
    assert_eq!(
        refusal(function.dma_unmap(rom - PAGE, 2 * PAGE)),
        Errno::EINVAL
    );
    function.dma_unmap(rom, 4 * PAGE).unwrap();
    function.dma_map(rom, PAGE, DmaAccess::READ, file).unwrap();
    let seen = Seen::Map {
        iova: rom,
        size: PAGE,
        file: true,
    };
    assert_eq!(maps(&card), [seen]);
}

#[test]
fn what_a_client_has_mapped_is_bounded_and_what_it_closes_makes_room() {
    let limits = Limits {
        dma_mib: 1,
        ..Limits::default()
    };
    let (_mediator, card, _pf, guest) = on_hardware(limits);
    let function = &guest.function;
    let memory = SharedMemory::create_sealed("window", 1 << 20).unwrap();
    let open =
        |at: u64, size: u64| function.dma_map(at, size, DmaAccess::READ, Some((memory.fd(), 0)));
    open(0, (1 << 20) - PAGE).unwrap();
    assert_eq!(refusal(open(1 << 30, 2 * PAGE)), Errno::ENOMEM);
    open(1 << 30, PAGE).unwrap();
    assert_eq!(refusal(open(2 << 30, PAGE)), Errno::ENOMEM);
    // What holds no memory takes none of it.
    function
        .dma_map(4 << 30, 1 << 30, DmaAccess::READ, None)
        .unwrap();
    assert_eq!(
        maps(&card).len(),
        2,
        "what was refused did not get to the card"
    );
    function.dma_unmap(1 << 30, PAGE).unwrap();
    open(2 << 30, PAGE).unwrap();
    function.dma_unmap_all().unwrap();
    open(0, 1 << 20).unwrap();
}

#[test]
fn windows_that_hold_nothing_end_too() {
    let (_mediator, _card, _pf, guest) = on_hardware(Limits::default());
    let open = |n: u64| {
        let at = (1 << 40) + 2 * n * PAGE;
        guest.function.dma_map(at, PAGE, DmaAccess::READ, None)
    };
    for n in 0..65_535 {
        open(n).unwrap();
    }
    assert_eq!(refusal(open(65_535)), Errno::ENOSPC);
    guest.function.dma_unmap(1 << 40, PAGE).unwrap();
    open(65_535).unwrap();
}

/// Asked of it directly: a card decides before whether a client gets as far as that.
#[test]
fn the_eventfd_of_a_fatal_error_stays_the_mediators() {
    let card = FakeCard::new(1);
    card.plug(0);
    let vf = card.connect(0).unwrap();
    let vf: Arc<dyn Function> = Arc::new(Passthrough::new(vf, &Limits::default()));
    let event = EventFd::new().unwrap();
    for index in [irq::ERR, irq::MSIX] {
        vf.set_eventfds(index, 0, &[Some(event.as_fd())]).unwrap();
    }
    let log = card.vf(0).log();
    let set = log.iter().filter_map(|seen| match seen {
        Seen::Eventfds { index, .. } => Some(*index),
        _ => None,
    });
    assert_eq!(set.collect::<Vec<_>>(), [irq::MSIX]);
}

#[test]
fn a_vf_that_the_card_never_has_is_refused_at_once() {
    let (_mediator, _card, mut pf, _guest) = on_hardware(Limits::default());
    pf.offer(LAST + 1);
    let rejected = pf.until(|message| matches!(message, ToPf::Rejected { .. }));
    let status = Status::Invalid;
    assert_eq!(
        rejected,
        ToPf::Rejected {
            vf: LAST + 1,
            status
        }
    );
}

#[test]
fn windows_end_with_their_tenant() {
    let limits = Limits {
        dma_mib: 1,
        ..Limits::default()
    };
    let (mediator, _card, mut pf, guest) = on_hardware(limits);
    let memory = SharedMemory::create_sealed("window", 1 << 20).unwrap();
    let open = |guest: &Guest| {
        let file = Some((memory.fd(), 0));
        guest.function.dma_map(0, 1 << 20, DmaAccess::READ, file)
    };
    open(&guest).unwrap();
    drop(guest);
    pf.until(|message| matches!(message, ToPf::Detached { .. }));
    pf.until(|message| matches!(message, ToPf::Reset { .. }));
    open(&Guest::attach(&mediator, 0)).expect("the next tenant has as much");
}

#[test]
fn a_tenants_counters_begin_at_0_and_go_on_from_there() {
    let (mediator, card, mut pf, guest) = on_hardware(Limits::default());
    let count = |n| card.vf(0).set_register(vf::VFGPRC::OFFSET, n);
    count(0x0001_FFF0);
    assert_eq!(guest.read(vf::VFGPRC::OFFSET), 0x0001_FFF0);
    drop(guest);
    pf.until(|message| matches!(message, ToPf::Detached { .. }));
    pf.until(|message| matches!(message, ToPf::Reset { .. }));
    let guest = Guest::attach(&mediator, 0);
    assert_eq!(guest.read(vf::VFGPRC::OFFSET), 0);
    count(0x0002_0105);
    assert_eq!(guest.read(vf::VFGPRC::OFFSET), 0x115);
    // In parts, and with what stands beside it.
    let part = |offset: u32, len: usize| {
        let mut data = vec![0xAA; len];
        let at = u64::from(vf::VFGPRC::OFFSET + offset);
        guest.function.read(region::BAR0, at, &mut data).unwrap();
        data
    };
    assert_eq!(part(0, 1), [0x15]);
    assert_eq!(part(1, 2), [0x01, 0]);
    assert_eq!(part(0, 8), [0x15, 0x01, 0, 0, 0, 0, 0, 0]);
    count(5);
    assert_eq!(guest.read(vf::VFGPRC::OFFSET), 0xFFFE_0015, "they wrap");
}
