//! The card in process: VFs by raw register accesses, traffic, faults, resets, tenants.

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use igb::pci::{express, header, offset};
use igb::{FunctionId, Register};
use igb_model::FaultCause;
use iommu::function::Function;
use iommu::memory::SharedMemory;
use vfio_user::device::{DmaAccess, region};
use vfio_user_device::{Card, CardOptions, Doorbell, Doorbells};

use rig::{
    Station, bring_up, broadcast, eventually, in_process, options, read_config, read_register,
    write_config, write_register,
};

const VF0: FunctionId = FunctionId::vf(0);
const VF1: FunctionId = FunctionId::vf(1);

fn card_with_vfs(vfs: u8, options: CardOptions) -> (Arc<Card>, Arc<dyn Function>) {
    let card = Card::new(options).expect("a card");
    let pf = in_process(&card, FunctionId::PF);
    bring_up(&*pf, vfs);
    (card, pf)
}

#[test]
fn vfs_come_and_go_with_vf_enable() {
    let card = Card::new(options()).expect("a card");
    let pf = in_process(&card, FunctionId::PF);
    let early = in_process(&card, VF0);
    assert_eq!(read_config(&*early, header::VENDOR_ID), 0xFFFF, "no VF yet");
    pf.sriov_configure(3).expect("VFs");
    assert_eq!(card.num_vfs(), 3);
    assert_eq!(
        read_config(&*early, header::VENDOR_ID),
        0xFFFF,
        "it stays dead"
    );
    let vf = in_process(&card, VF0);
    assert_eq!(read_config(&*vf, header::VENDOR_ID), igb::pci::VENDOR_INTEL);
    assert_eq!(read_config(&*vf, header::DEVICE_ID), igb::pci::VF_DEVICE_ID);
    let memory = SharedMemory::create_sealed("test", 4096).expect("memory");
    let map = |vf: &dyn Function| vf.dma_map(0x1000, 4096, DmaAccess::READ, Some((memory.fd(), 0)));
    map(&*vf).expect("a window");
    pf.sriov_configure(0).expect("no VFs");
    assert_eq!(read_config(&*vf, header::VENDOR_ID), 0xFFFF);
    assert!(map(&*vf).is_err());
    pf.sriov_configure(1).expect("a VF");
    assert_eq!(
        read_config(&*vf, header::VENDOR_ID),
        0xFFFF,
        "the old device stays pulled out"
    );
    let next = in_process(&card, VF0);
    map(&*next).expect("no window of the last tenant is left");
    drop(vf);
    assert!(
        card.is_connected(VF0),
        "an old tenant's end is not the new one's"
    );
}

#[test]
fn frames_reach_every_other_vf_and_not_their_sender() {
    for doorbells in ["shared", "trap"] {
        let doorbells = doorbells.parse().expect("a mode");
        let (card, _pf) = card_with_vfs(
            3,
            CardOptions {
                doorbells,
                ..options()
            },
        );
        let mut stations: Vec<_> = FunctionId::vfs()
            .take(3)
            .map(|vf| Station::open(in_process(&card, vf)))
            .collect();
        for round in 0..200_u8 {
            let frame = broadcast(0, 60 + usize::from(round), round);
            assert!(stations[0].send(&frame));
            assert_eq!(stations[1].receive(), frame);
            assert_eq!(stations[2].receive(), frame);
        }
        assert_eq!(stations[0].poll(), None);
        eventually("counters", || {
            card.snapshot().function(VF1).rx_packets == 200
        });
        assert_eq!(card.snapshot().function(VF0).tx_packets, 200);
    }
}

#[test]
fn queue_pages_are_offered_as_the_doorbell_mode_says() {
    let doorbells = Doorbells {
        pf: Doorbell::Trap,
        vf: Doorbell::Shared,
    };
    let (card, pf) = card_with_vfs(
        1,
        CardOptions {
            doorbells,
            ..options()
        },
    );
    let bar0 = pf.region(region::BAR0).expect("BAR0");
    assert_eq!(
        (bar0.size, bar0.fd.is_some()),
        (u64::from(igb::BAR0_SIZE), false)
    );
    let vf = in_process(&card, VF0);
    let bar0 = vf.region(region::BAR0).expect("BAR0");
    let areas: Vec<_> = bar0
        .sparse
        .iter()
        .map(|area| (area.offset, area.size))
        .collect();
    assert_eq!(bar0.size, u64::from(igb::vf::BAR0_SIZE));
    assert_eq!(areas, [(0x2000, 0x1000), (0x3000, 0x1000)]);
    let fd = bar0.fd.expect("the pages");
    let pages = SharedMemory::map(
        fd,
        bar0.fd_offset,
        0x4000,
        iommu::memory::MapAccess::ReadWrite,
    )
    .expect("sealed against shrinking");
    let rdt = igb::vf::RDT::offset(0);
    write_register(&*vf, rdt, 17);
    assert_eq!(
        pages.load_u32(rdt as usize, Ordering::Acquire),
        17,
        "trapped writes land there"
    );
    pages.store_u32(rdt as usize, 23, Ordering::Release);
    assert_eq!(read_register(&*vf, rdt), 23);

    // The next client gets other pages, without a trace of these.
    drop(vf);
    let next = in_process(&card, VF0);
    assert_eq!(read_register(&*next, rdt), 0);
    pages.store_u32(rdt as usize, 99, Ordering::Release);
    assert_eq!(read_register(&*next, rdt), 0);
}

#[test]
fn a_fault_names_its_function_and_the_others_go_on() {
    let (card, _pf) = card_with_vfs(3, options());
    let mut stations: Vec<_> = FunctionId::vfs()
        .take(3)
        .map(|vf| Station::open(in_process(&card, vf)))
        .collect();
    let outside = stations[0].outside();
    assert!(stations[0].send_from(outside, 60));
    eventually("a fault", || card.snapshot().function(VF0).faults > 0);
    let fault = card.snapshot().function(VF0).last_fault.expect("a fault");
    assert_eq!(
        (fault.function, fault.iova, fault.write),
        (VF0, outside, false)
    );
    assert_eq!(fault.cause, FaultCause::NoWindow);
    let frame = broadcast(1, 100, 7);
    assert!(stations[1].send(&frame));
    assert_eq!(stations[2].receive(), frame);
    assert_eq!(card.snapshot().function(VF1).faults, 0);
}

#[test]
fn without_bus_mastering_there_is_no_dma() {
    let (card, _pf) = card_with_vfs(3, options());
    let mut stations: Vec<_> = FunctionId::vfs()
        .take(3)
        .map(|vf| Station::open(in_process(&card, vf)))
        .collect();
    write_config(&*stations[0].function, header::COMMAND, 0);
    assert!(stations[0].send(&broadcast(0, 60, 1)));
    // Frames of a sibling that were sent later show that the worker has been there.
    for fill in 0..3 {
        let frame = broadcast(2, 60, fill);
        assert!(stations[2].send(&frame));
        assert_eq!(stations[1].receive(), frame);
    }
    assert_eq!(card.snapshot().function(VF0).tx_packets, 0);
    assert_eq!(stations[0].poll(), None, "nor did it receive");
}

#[test]
fn a_function_that_is_reset_while_it_sends_comes_back_clean() {
    let (card, _pf) = card_with_vfs(2, options());
    let mut receiver = Station::open(in_process(&card, VF1));
    let mut sender = Station::open(in_process(&card, VF0));
    for round in 0..100 {
        for n in 0..40 {
            sender.send(&broadcast(0, 60 + n, round));
        }
        if round % 2 == 0 {
            sender.function.reset().expect("a reset");
        } else {
            let control = offset::EXPRESS + express::DEVICE_CONTROL;
            write_config(&*sender.function, control, express::INITIATE_FLR);
        }
        let rdlen = read_register(&*sender.function, igb::vf::RDLEN::offset(0));
        let tdt = read_register(&*sender.function, igb::vf::TDT::offset(0));
        assert_eq!((rdlen, tdt), (0, 0), "pages are clear");
        sender.start();
    }
    while receiver.poll().is_some() {}
    assert!(card.snapshot().function(VF0).resets >= 100);
}

#[test]
fn a_client_that_vanishes_in_mid_traffic_takes_nobody_along() {
    let (card, _pf) = card_with_vfs(3, options());
    let mut receiver = Station::open(in_process(&card, VF1));
    let stop = Arc::new(AtomicBool::new(false));
    let sibling = thread::spawn({
        let mut sender = Station::open(in_process(&card, FunctionId::vf(2)));
        let stop = Arc::clone(&stop);
        move || {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                sent += u64::from(sender.send(&broadcast(2, 64, 2)));
            }
            sent
        }
    });
    for round in 0..50 {
        let function = in_process(&card, VF0);
        let mut victim = Station::open(Arc::clone(&function) as _);
        for _ in 0..30 {
            victim.send(&broadcast(0, 1000, round));
            while receiver.poll().is_some() {}
        }
        function.remove();
        assert!(!card.is_connected(VF0));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(sibling.join().expect("the sibling") > 0);
    // Whatever was dropped on the way, the survivors still talk.
    while receiver.poll().is_some() {}
    let mut last = Station::open(in_process(&card, VF0));
    let frame = broadcast(0, 222, 0xEE);
    assert!(last.send(&frame));
    while receiver.receive() != frame {}
}

#[test]
fn pf_and_vfs_can_be_reconfigured_while_frames_move() {
    let (card, pf) = card_with_vfs(3, options());
    let mut receiver = Station::open(in_process(&card, VF1));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let mut sender = Station::open(in_process(&card, VF0));
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                sender.send(&broadcast(0, 64, 2));
            }
        }
    });
    for round in 0..200_u32 {
        write_register(&*pf, igb::VMOLR::offset(2), round);
        card.set_link(round % 2 == 0);
        while receiver.poll().is_some() {}
    }
    card.set_link(true);
    pf.sriov_configure(0).expect("no VFs");
    stop.store(true, Ordering::Relaxed);
    sender.join().expect("the sender");
    assert_eq!(read_config(&*receiver.function, header::VENDOR_ID), 0xFFFF);
}

#[test]
fn an_unwanted_frame_is_counted_under_a_named_reason() {
    let (card, _pf) = card_with_vfs(2, options());
    let mut sender = Station::open(in_process(&card, VF0));
    card.set_link(false);
    let mut frame = broadcast(0, 60, 1);
    frame[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    assert!(sender.send(&frame));
    eventually("a drop", || {
        let snapshot = card.snapshot();
        snapshot.function(VF0).drops.total() + snapshot.uplink.drops.total() > 0
    });
}
