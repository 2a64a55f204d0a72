//! DMA outside what a VF may reach.

use std::sync::Arc;

use igb_driver::netdev::NetDevice;
use igb_model::FaultCause;
use vfio_user::device::DmaAccess;

use crate::raw::Raw;
use crate::rig::{Rig, Station};

const VF0: Station = Station::Vf(0);
/// Bytes of the frame that the card is told to fetch.
const LENGTH: u16 = 64;

/// The fault is VF 0's, it alone stands still, and a reset brings it back.
fn faulted(rig: &mut Rig, address: u64, cause: FaultCause) {
    rig.wait("the fault", |rig| rig.report(VF0).faults > 0);
    let fault = rig.report(VF0).last_fault.expect("the fault");
    let expected = (igb::FunctionId::vf(0), cause);
    assert_eq!((fault.function, fault.cause), expected, "{fault:?}");
    assert!((fault.iova..fault.iova + fault.len.max(1)).contains(&address) || fault.iova == address, "{fault:?}");
    for other in [Station::Vf(1), Station::Vf(2), Station::Pf] {
        assert_eq!(rig.report(other).faults, 0, "{other:?} faulted");
    }
    rig.reaches(Station::Vf(1), Station::Vf(2));
    rig.reaches(Station::Vf(2), Station::Pf);
    rig.vf(0).driver.reset().expect("a reset");
    rig.all_reach_each_other();
}

pub(super) fn a_descriptor_outside_faults_only_there(rig: &mut Rig) {
    rig.start_with_drivers(3);
    let address = rig.vf(0).driver.post_descriptor_outside().expect("a descriptor");
    faulted(rig, address, FaultCause::NoWindow);
}

/// VF 0 with its driver's queues out of the way.
fn raw(rig: &mut Rig) -> Raw {
    rig.start_with_drivers(3);
    rig.all_reach_each_other();
    let vf = rig.vf(0);
    vf.driver.stop();
    let raw = Raw(Arc::clone(&vf.function));
    vf.driver.open().expect("it opens");
    vf.driver.stop();
    raw
}

fn fetch(rig: &mut Rig, address: impl FnOnce(u64) -> u64, cause: FaultCause) {
    let raw = raw(rig);
    let address = raw.transmit_from(address, LENGTH);
    rig.wait("the fault", |rig| rig.report(VF0).faults > 0);
    raw.unmap_ring();
    rig.vf(0).driver.open().expect("it opens");
    faulted(rig, address, cause);
}

pub(super) fn dma_into_the_msi_window_faults(rig: &mut Rig) {
    fetch(rig, |_| 0xFEE0_0000, FaultCause::Msi);
}

pub(super) fn dma_across_an_edge_faults(rig: &mut Rig) {
    fetch(rig, |ring| ring + 0x1000 - 32, FaultCause::Edge);
}

pub(super) fn dma_after_unmap_faults(rig: &mut Rig) {
    let raw = raw(rig);
    raw.transmit_from(|ring| ring + 0x100, LENGTH);
    rig.wait("the frame", |rig| {
        let report = rig.report(VF0);
        report.drops.total() > 0 || report.tx_packets > 0
    });
    assert_eq!(rig.report(VF0).faults, 0);
    raw.unmap_ring();
    // The next descriptor lies where nothing is any more.
    raw.set::<igb::vf::TDT>(0, 2);
    rig.wait("the fault", |rig| rig.report(VF0).faults > 0);
    assert_eq!(rig.report(VF0).last_fault.map(|fault| fault.cause), Some(FaultCause::NoWindow));
    rig.vf(0).driver.open().expect("it opens");
    rig.vf(0).driver.reset().expect("a reset");
    rig.all_reach_each_other();
}

pub(super) fn the_msi_window_cannot_be_mapped(rig: &mut Rig) {
    rig.start_with_drivers(2);
    let function = Arc::clone(&rig.vf(0).function);
    for (iova, size) in [
        (0xFEE0_0000, 0x1000),
        (0xFEEF_F000, 0x1000),
        (0xFED0_0000, 0x40_0000),
        (u64::MAX - 0xFFF, 0x1000),
        (u64::MAX - 0xFFF, 0x2000),
        (0x1_0000_0000, 0),
    ] {
        let mapped = function.dma_map(iova, size, DmaAccess::all(), None);
        // The last page of all ends where the address space does, which is no fault.
        if iova.checked_add(size).is_some() || mapped.is_err() {
            assert!(mapped.is_err(), "{iova:#x}+{size:#x} was mapped");
        }
    }
    rig.all_reach_each_other();
}
