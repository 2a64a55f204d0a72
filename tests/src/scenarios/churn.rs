//! Many changes, one upon the other.

use igb_driver::netdev::NetDevice;
use vf_driver::{Status, VfRequest};

use crate::frames::SHORTEST;
use crate::rig::{Rig, Setup, Station};

/// Numbers that look random and are the same in every run (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const VFS: u16 = 4;

pub(super) fn tenants_come_and_go(rig: &mut Rig) {
    rig.start(Setup::default(), VFS);
    let mut numbers = Numbers(1);
    for _ in 0..120 {
        let vf = numbers.below(VFS.into()) as u16;
        if !rig.driven().contains(&vf) {
            rig.probe(vf);
            continue;
        }
        match numbers.below(6) {
            0 => rig.remove(vf),
            1 => rig.crash(vf),
            2 => rig.vf(vf).driver.reset().expect("a reset"),
            3 => {
                let vlan = VfRequest::AddVlan(1 + vf);
                assert!(matches!(rig.request(vf, vlan), Status::Ok));
            }
            4 => {
                let target = rig.mac(Station::Pf);
                for _ in 0..20 {
                    rig.send(Station::Vf(vf), target, SHORTEST);
                }
            }
            _ => rig.reaches(Station::Vf(vf), Station::Pf),
        }
    }
    for vf in 0..VFS {
        if !rig.driven().contains(&vf) {
            rig.probe(vf);
        }
    }
    rig.all_reach_each_other();
    for vf in 0..VFS {
        assert!(!rig.vf(vf).driver.gone());
    }
}

pub(super) fn vfs_are_enabled_and_disabled(rig: &mut Rig) {
    rig.start(Setup::default(), 0);
    let mut numbers = Numbers(2);
    for _ in 0..12 {
        let count = 1 + numbers.below(7) as u16;
        rig.sriov_configure(count);
        for vf in 0..count.min(2) {
            rig.probe(vf);
        }
        rig.all_reach_each_other();
        let leaving = numbers.below(2) == 0;
        for vf in rig.driven() {
            if leaving {
                rig.remove(vf);
            } else {
                rig.crash(vf);
            }
        }
        rig.sriov_configure(0);
    }
}
