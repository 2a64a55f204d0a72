//! The PF driver's arbiter with four VFs: each of another standing, all of them hostile.

use std::collections::HashSet;

use igb::MacAddress;
use igb::mailbox::{PfReply, Words};
use mediator_protocol::block::{self, Accept, Features, Stats, VfRequest};
use mediator_protocol::{Request, RequestBody};
use pf_driver::arbiter::{Arbiter, Refusal};
use pf_driver::filters::{EXTRA_MACS, VLAN_FILTERS};
use pf_driver::vport::NicSwitch;
use pf_driver::{PortVlan, VfPolicy};

const VFS: u8 = 4;
const LINK_UP: bool = true;

pub(super) struct Court {
    arbiter: Arbiter,
}

fn admin_mac() -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0xAD, 0])
}

impl Court {
    pub(super) fn new() -> Self {
        let mut switch = NicSwitch::new(MacAddress::new([2, 0x82, 0x57, 0x60, 0, 0]));
        switch.create_switch().expect("the first");
        let plain = VfPolicy::default;
        let policies = [
            VfPolicy {
                mac: Some(admin_mac()),
                ..plain()
            },
            VfPolicy {
                vlan: Some(PortVlan { vid: 10, qos: 0 }),
                ..plain()
            },
            VfPolicy {
                trust: true,
                max_mac_filters: 3,
                ..plain()
            },
            VfPolicy {
                allowed_vlans: Some(vec![100]),
                ..plain()
            },
        ];
        for policy in policies {
            let vf = switch.allocate_vf().expect("a VF");
            switch.create_vport(vf, policy).expect("a VPort");
            switch.set_filters(vf).expect("room");
        }
        Self {
            arbiter: Arbiter::new(switch),
        }
    }

    /// Let every VF begin, as its driver would.
    pub(super) fn begin(&mut self) {
        let accept = Accept {
            version: block::VERSION,
            features: Features::all(),
        };
        for vf in 0..u16::from(VFS) {
            let accepted = self.write_block(vf, block::CONTROL, &accept.encode());
            assert_eq!(accepted, Ok(()));
            assert_eq!(
                self.write_block(vf, block::REQUEST, &VfRequest::Init.encode()),
                Ok(())
            );
        }
    }

    pub(super) fn hear(&mut self, request: &Request) {
        match request.body {
            RequestBody::Mailbox(words) => self.mailbox(request.vf, &words),
            RequestBody::ReadBlock { block, length } => self.read_block(request.vf, block, length),
            RequestBody::WriteBlock { block, data } => {
                let _ = self.write_block(request.vf, block, &data);
            }
        }
    }

    pub(super) fn mailbox(&mut self, vf: u16, words: &Words) {
        let before = self.arbiter.switch.clone();
        let (verdict, reply) = self.arbiter.mailbox(vf, words);
        let encoded = reply.encode();
        assert!(
            PfReply::parse(&encoded).is_ok(),
            "an answer that nobody understands"
        );
        assert!(
            encoded[reply.len()..].iter().all(|word| *word == 0),
            "more than the answer"
        );
        self.check(vf, &before, verdict.is_err());
    }

    pub(super) fn write_block(&mut self, vf: u16, id: u32, data: &[u8]) -> Result<(), Refusal> {
        let before = self.arbiter.switch.clone();
        let verdict = self.arbiter.write_block(vf, id, data);
        self.check(vf, &before, verdict.is_err());
        verdict
    }

    fn read_block(&mut self, vf: u16, id: u32, length: u8) {
        let before = self.arbiter.switch.clone();
        let read = self.arbiter.read_block(vf, id, LINK_UP, &Stats::default());
        if let Ok(data) = read {
            assert!(!data.is_empty() && vf < VFS.into());
            let _ = data.len().min(length.into());
        }
        self.check(vf, &before, true);
    }

    /// `refused`: nothing may have changed at all.
    fn check(&self, vf: u16, before: &NicSwitch, refused: bool) {
        let switch = &self.arbiter.switch;
        if refused || vf >= VFS.into() {
            assert!(
                switch == before,
                "VF {vf} was refused, and changed something"
            );
            return;
        }
        let mut addresses = HashSet::from([switch.pf_mac]);
        for (other, vport) in switch.vports() {
            if u16::from(other) != vf {
                assert_eq!(
                    Some(vport),
                    before.vport(other),
                    "VF {vf} changed VF {other}"
                );
                assert!(switch.macs.of(other).eq(before.macs.of(other)));
                assert!(switch.vlans.of(other).eq(before.vlans.of(other)));
            }
            let policy = &vport.policy;
            assert!(
                vport.mac.is_valid_unicast() && addresses.insert(vport.mac),
                "{}",
                vport.mac
            );
            for mac in switch.macs.of(other) {
                assert!(mac.is_valid_unicast() && addresses.insert(mac), "{mac}");
            }
            let extra = switch.macs.of(other).count();
            assert!(extra <= usize::from(policy.max_mac_filters));
            let vlans = switch.vlans.of(other).filter(|vid| *vid != 0);
            let own: Vec<u16> = vlans
                .filter(|vid| policy.vlan.is_none_or(|port| port.vid != *vid))
                .collect();
            assert!(own.len() <= usize::from(policy.max_vlans));
            assert!(
                policy.vlan.is_none() || own.is_empty(),
                "a VLAN besides the port VLAN"
            );
            if let Some(allowed) = &policy.allowed_vlans {
                assert!(own.iter().all(|vid| allowed.contains(vid)), "{own:?}");
            }
            assert!(vport.mtu <= switch.max_mtu(policy));
            assert!(
                policy.trust || !vport.promisc_unicast,
                "VF {other} is not trusted"
            );
            assert!(policy.trust || policy.mac.is_none_or(|mac| mac == vport.mac));
        }
        assert!(switch.macs.iter().count() <= EXTRA_MACS);
        assert!(switch.vlans.iter().count() <= VLAN_FILTERS);
        assert_eq!(switch.vf_count(), VFS);
    }
}
