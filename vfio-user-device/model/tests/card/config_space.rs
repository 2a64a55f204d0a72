//! Configuration space: what a bus, a BIOS and a kernel find there.

use igb::pci::{self, command, express, header, id, msix, offset, pm, sriov};
use igb::*;
use igb_model::*;
use proptest::prelude::*;

use crate::world::*;

fn config32(w: &mut World, f: FunctionId, at: u16) -> u32 {
    let mut data = [0; 4];
    w.read(f, CardRegion::Config, at.into(), &mut data);
    u32::from_le_bytes(data)
}

fn capabilities(w: &mut World, f: FunctionId) -> Vec<u8> {
    let mut at = w.config16(f, header::CAPABILITIES) & 0xFF;
    let mut found = Vec::new();
    while at != 0 {
        let head = w.config16(f, at);
        found.push(head as u8);
        at = head >> 8;
        assert!(found.len() < 20);
    }
    found
}

fn extended(w: &mut World, f: FunctionId) -> Vec<(u16, u16)> {
    let mut at = 0x100;
    let mut found = Vec::new();
    while at != 0 {
        let head = config32(w, f, at);
        found.push((head as u16, at));
        at = (head >> 20) as u16;
        assert!(found.len() < 20);
    }
    found
}

#[test]
fn both_kinds_have_their_ids_and_capabilities() {
    let mut w = World::open(1);
    assert_eq!(w.config16(PF, header::VENDOR_ID), pci::VENDOR_INTEL);
    assert_eq!(w.config16(PF, header::DEVICE_ID), pci::PF_DEVICE_ID);
    assert_eq!(w.config16(vf(0), header::DEVICE_ID), pci::VF_DEVICE_ID);
    assert_eq!(
        capabilities(&mut w, PF),
        [id::PM, id::MSI, id::MSIX, id::EXPRESS]
    );
    assert_eq!(capabilities(&mut w, vf(0)), [id::MSIX, id::EXPRESS]);
    assert_eq!(
        extended(&mut w, PF),
        [
            (id::AER, offset::AER),
            (id::ARI, offset::ARI),
            (id::SRIOV, offset::SRIOV)
        ]
    );
    assert_eq!(
        extended(&mut w, vf(0)),
        [(id::AER, offset::AER), (id::ARI, offset::ARI)]
    );
    for (f, vectors) in [(PF, 10), (vf(0), 3)] {
        let control = w.config16(f, offset::MSIX + msix::CONTROL);
        assert_eq!(control & msix::TABLE_SIZE, vectors - 1);
        let caps = config32(&mut w, f, offset::EXPRESS + express::DEVICE_CAPABILITIES);
        assert_ne!(caps & express::FLR_CAPABLE, 0);
    }
}

#[test]
fn bars_tell_their_size() {
    let mut w = World::open(1);
    for (f, first, bars) in [
        (PF, header::BAR0, &pci::PF_BARS[..]),
        (vf(0), header::BAR0, &pci::VF_BARS[..]),
        (PF, offset::SRIOV + sriov::VF_BAR0, &pci::VF_BARS[..]),
    ] {
        for bar in bars {
            let at = first + 4 * bar.index as u16;
            w.write(f, CardRegion::Config, at.into(), &[0xFF; 4]);
            let value = config32(&mut w, f, at);
            let flags = if bar.kind == pci::BarKind::Io { 3 } else { 15 };
            assert_eq!((!(value & !flags)).wrapping_add(1), bar.size, "{f} {bar:?}");
        }
    }
}

#[test]
fn sriov_takes_only_what_it_has() {
    let (control, num) = (
        offset::SRIOV + sriov::CONTROL,
        offset::SRIOV + sriov::NUM_VFS,
    );
    let mut w = World::new();
    w.init_pf();
    assert_eq!(w.config16(PF, offset::SRIOV + sriov::TOTAL_VFS), 8);
    assert_eq!(w.config16(PF, offset::SRIOV + sriov::FIRST_VF_OFFSET), 0x80);
    assert_eq!(w.config16(PF, offset::SRIOV + sriov::VF_STRIDE), 2);
    w.set_config16(PF, num, 3);
    for refused in [9, 0x100, 0xFFFF] {
        w.set_config16(PF, num, refused);
        assert_eq!(w.config16(PF, num), 3);
    }
    let effects = w.set_config16(PF, control, sriov::VF_ENABLE | sriov::VF_MSE);
    assert_eq!((effects.vfs, effects.publish), (Some(3), true));
    assert_eq!(effects.clear_pages, FunctionId::vfs().take(3).collect());
    assert_eq!(w.get::<STATUS>(PF).get(STATUS::NUM_VFS), 3);
    w.set_config16(PF, num, 5);
    assert_eq!((w.config16(PF, num), w.control.num_vfs_enabled()), (3, 3));
    // Enabling again changes nothing.
    let effects = w.set_config16(PF, control, sriov::VF_ENABLE | sriov::VF_MSE);
    assert_eq!(effects, Effects::NONE);
    // A VF cannot reach SR-IOV: it has none.
    w.set_config16(vf(0), control, 0);
    w.set_config16(vf(0), num, 7);
    assert_eq!(w.control.num_vfs_enabled(), 3);
    assert_eq!(w.config16(vf(0), control), 0);
    w.set_config16(PF, control, 0);
    assert_eq!(w.vfs_seen, [3, 0]);
    assert_eq!(w.config16(vf(0), header::VENDOR_ID), 0xFFFF, "it is gone");
}

#[test]
fn bars_respond_only_when_enabled() {
    let mut w = World::open(1);
    assert_ne!(w.get::<vf::VTSTATUS>(vf(0)).raw(), u32::MAX);
    w.set_config16(PF, offset::SRIOV + sriov::CONTROL, sriov::VF_ENABLE);
    assert_eq!(w.get::<vf::VTSTATUS>(vf(0)).raw(), u32::MAX);
    w.set_config16(PF, header::COMMAND, command::BUS_MASTER);
    assert_eq!(w.get::<STATUS>(PF).raw(), u32::MAX);
    w.set(PF, Value::<RCTL>::default());
    w.set_config16(PF, header::COMMAND, command::MEMORY | command::IO);
    assert_ne!(w.get::<RCTL>(PF).raw(), 0, "a write nobody answered");
    // The I/O window reaches the same registers.
    let io = |at: u32| u64::from(at);
    w.write(
        PF,
        CardRegion::Io,
        io(pci::IOADDR),
        &STATUS::OFFSET.to_le_bytes(),
    );
    let mut data = [0; 4];
    w.read(PF, CardRegion::Io, io(pci::IODATA), &mut data);
    assert_eq!(u32::from_le_bytes(data), w.get::<STATUS>(PF).raw());
    w.write(PF, CardRegion::Io, io(pci::IOADDR), &[0xFF; 4]);
    w.read(PF, CardRegion::Io, io(pci::IODATA), &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn power_states_that_do_not_exist_are_refused() {
    let mut w = World::open(1);
    let at = offset::PM + pm::CONTROL;
    for (written, read) in [(3, 3), (1, 3), (2, 3), (0, 0), (1, 0)] {
        w.set_config16(PF, at, written);
        assert_eq!(w.config16(PF, at) & pm::POWER_STATE, read);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Nothing written changes what is read-only, and a reset brings everything back.
    #[test]
    fn read_only_bits_stay(
        pf_side in any::<bool>(),
        writes in prop::collection::vec(
            (0u64..4100, prop::collection::vec(any::<u8>(), 1..9)), 1..40
        ),
    ) {
        let mut w = World::new();
        w.init_pf();
        w.enable_vfs(2);
        let f = if pf_side { PF } else { vf(1) };
        let mut fresh = World::new();
        fresh.init_pf();
        fresh.enable_vfs(2);
        // What a write of all ones, then of all zeros, cannot change is read-only. A sample of the
        // space is enough in each case.
        let sampled: Vec<u64> = (writes[0].0 % 64..4096).step_by(64).collect();
        let writable: Vec<u8> = sampled
            .iter()
            .map(|at| {
                let mut probe = fresh.control.clone();
                let [ones, zeros] = [0xFF, 0].map(|byte| {
                    let mut data = [0];
                    let _ = probe.write(f, CardRegion::Config, *at, &[byte], &mut fresh.host);
                    let _ = probe.read(f, CardRegion::Config, *at, &mut data, &mut fresh.host);
                    data[0]
                });
                ones ^ zeros
            })
            .collect();
        let mut before = vec![0; 4096];
        w.read(f, CardRegion::Config, 0, &mut before);
        for (at, data) in writes {
            // A VF Enable that goes away takes the VF with it.
            let sriov = u64::from(offset::SRIOV + sriov::CONTROL);
            if !(pf_side && at <= sriov && sriov < at + data.len() as u64) {
                w.write(f, CardRegion::Config, at, &data);
            }
        }
        let mut after = vec![0; 4096];
        w.read(f, CardRegion::Config, 0, &mut after);
        for (at, writable) in sampled.into_iter().zip(writable) {
            let changed = before[at as usize] ^ after[at as usize];
            prop_assert_eq!(changed & !writable, 0, "byte {:#x}", at);
        }
    }

    /// No write to one VF's configuration space reaches another's state.
    #[test]
    fn a_vf_writes_only_its_own(
        writes in prop::collection::vec(
            (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)), 1..40
        ),
    ) {
        let mut w = World::open(3);
        let siblings = [vf(0), vf(2)];
        let before = siblings.map(|f| w.control.digest(f));
        for (at, data) in writes {
            w.write(vf(1), CardRegion::Config, at % 5000, &data);
            w.write(vf(1), CardRegion::Config, at, &data);
        }
        prop_assert_eq!(siblings.map(|f| w.control.digest(f)), before);
        prop_assert_eq!(w.control.num_vfs_enabled(), 3);
    }
}
