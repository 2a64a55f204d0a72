//! The arbiter: decides every request of every VF, from state and policy alone.
//!
//! Both ways of asking, mailbox words and config blocks, come down to one [`Ask`] and one set of
//! rules. A request is judged whole before anything changes; one that is refused leaves the state
//! bit-identical, but for the counter of its [`Refusal`].

mod block;
mod mailbox;
mod refusal;

use std::collections::BTreeMap;

use igb::frame::MacAddress;
use serde::{Deserialize, Serialize};

pub use block::OFFERED;
pub use refusal::Refusal;

use crate::filters::Full;
use crate::policy::MIN_MTU;
use crate::vport::{NicSwitch, Owner, Phase, VPort};

/// Most multicast hashes of one VF: as many as one mailbox message can name.
pub const MAX_MULTICAST: usize = igb::mailbox::MAX_HASHES;

/// What a VF asks for, however it said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Begin: forget the VF's filters, give it its queues.
    Init,
    /// Take this address.
    SetMac(MacAddress),
    /// Receive this address too.
    AddMac(MacAddress),
    /// Receive it no more.
    DelMac(MacAddress),
    /// Receive no additional address.
    ClearMacs,
    /// Join a VLAN.
    AddVlan(u16),
    /// Leave it.
    DelVlan(u16),
    /// Receive these groups, named by their hashes.
    SetMulticast {
        /// Besides those it receives.
        append: bool,
        /// The hashes.
        hashes: Vec<u16>,
    },
    /// Use this MTU.
    SetMtu(u32),
    /// Receive what is addressed to nobody known.
    SetPromisc {
        /// Unknown unicast.
        unicast: bool,
        /// Every multicast.
        multicast: bool,
    },
}

impl Ask {
    /// Its name in logs and counters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::SetMac(_) => "set-mac",
            Self::AddMac(_) => "add-mac",
            Self::DelMac(_) => "del-mac",
            Self::ClearMacs => "clear-macs",
            Self::AddVlan(_) => "add-vlan",
            Self::DelVlan(_) => "del-vlan",
            Self::SetMulticast { .. } => "set-multicast",
            Self::SetMtu(_) => "set-mtu",
            Self::SetPromisc { .. } => "set-promisc",
        }
    }
}

/// How often each VF was granted something, and refused for each reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests granted.
    pub granted: u64,
    /// Requests refused, by the reason's name.
    pub refused: BTreeMap<String, u64>,
}

impl Tally {
    /// Requests refused for a reason.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.get(reason.name()).copied().unwrap_or(0)
    }
}

/// The NIC switch with the one who decides about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arbiter {
    /// State of the switch. Only the arbiter and the administrator change it.
    pub switch: NicSwitch,
    tallies: BTreeMap<u16, Tally>,
}

/// Tallies are kept for numbers that can be VFs; the rest share one.
const STRANGERS: u16 = u16::MAX;

impl Arbiter {
    /// An arbiter over this state.
    #[must_use]
    pub fn new(switch: NicSwitch) -> Self {
        Self {
            switch,
            tallies: BTreeMap::new(),
        }
    }

    /// What VF `vf` was granted and refused; `None` if it never asked.
    #[must_use]
    pub fn tally(&self, vf: u16) -> Option<&Tally> {
        self.tallies.get(&vf)
    }

    /// What was asked in the name of VFs that do not exist.
    #[must_use]
    pub fn strangers(&self) -> Option<&Tally> {
        self.tallies.get(&STRANGERS)
    }

    fn count<T>(&mut self, vf: u16, what: &str, verdict: Result<T, Refusal>) -> Result<T, Refusal> {
        let known = u8::try_from(vf).is_ok_and(|vf| vf < crate::vport::MAX_VFS);
        let tally = self
            .tallies
            .entry(if known { vf } else { STRANGERS })
            .or_default();
        match &verdict {
            Ok(_) => {
                tally.granted += 1;
                log::debug!("VF {vf}: {what}: granted");
            }
            Err(refusal) => {
                *tally.refused.entry(refusal.name().to_owned()).or_default() += 1;
                log::info!("VF {vf}: {what}: refused: {}", refusal.name());
            }
        }
        verdict
    }

    /// Decides a request of VF `vf`, and carries it out if it is granted.
    ///
    /// # Errors
    ///
    /// The refusal; nothing changed.
    pub fn ask(&mut self, vf: u16, ask: &Ask) -> Result<(), Refusal> {
        let verdict = self.decide(vf, ask);
        self.count(vf, ask.name(), verdict)
    }

    fn decide(&mut self, vf: u16, ask: &Ask) -> Result<(), Refusal> {
        let (vf, vport) = self.vport(vf)?;
        if vport.phase != Phase::Active && *ask != Ask::Init {
            return Err(Refusal::NotInitialized);
        }
        match ask {
            Ask::Init => self.init(vf),
            Ask::SetMac(mac) => self.set_mac(vf, *mac),
            Ask::AddMac(mac) => self.add_mac(vf, *mac),
            Ask::DelMac(mac) => self.del_mac(vf, *mac),
            Ask::ClearMacs => {
                self.switch.macs.clear(vf);
                Ok(())
            }
            Ask::AddVlan(vid) => self.add_vlan(vf, *vid),
            Ask::DelVlan(vid) => self.del_vlan(vf, *vid),
            Ask::SetMulticast { append, hashes } => self.set_multicast(vf, *append, hashes),
            Ask::SetMtu(mtu) => self.set_mtu(vf, *mtu),
            Ask::SetPromisc { unicast, multicast } => self.set_promisc(vf, *unicast, *multicast),
        }
    }

    /// The VPort of a VF that somebody named.
    fn vport(&self, vf: u16) -> Result<(u8, &VPort), Refusal> {
        let number = u8::try_from(vf).map_err(|_| Refusal::NoSuchVf)?;
        let vport = self.switch.vport(number).ok_or(Refusal::NoSuchVf)?;
        Ok((number, vport))
    }

    fn change(&mut self, vf: u8, change: impl FnOnce(&mut VPort)) -> Result<(), Refusal> {
        let vport = self.switch.vport_mut(vf).ok_or(Refusal::NoSuchVf)?;
        change(vport);
        Ok(())
    }

    fn init(&mut self, vf: u8) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        let accepted = vport.accepted;
        self.switch.reset_vf(vf);
        self.change(vf, |vport| {
            vport.accepted = accepted;
            vport.phase = Phase::Active;
        })
    }

    fn set_mac(&mut self, vf: u8, mac: MacAddress) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        if !mac.is_valid_unicast() {
            return Err(Refusal::InvalidMac);
        }
        if vport.mac == mac {
            return Ok(());
        }
        if vport.policy.mac.is_some_and(|admin| admin != mac) && !vport.policy.trust {
            return Err(Refusal::AdminMac);
        }
        match self.switch.owner(mac) {
            Some(Owner::Vf(owner)) if owner == vf => {}
            Some(_) => return Err(Refusal::MacInUse),
            None => {}
        }
        // An additional address that becomes the VF's own needs its own entry no more.
        self.switch.macs.remove(vf, mac);
        self.change(vf, |vport| vport.mac = mac)
    }

    fn add_mac(&mut self, vf: u8, mac: MacAddress) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        if !mac.is_valid_unicast() {
            return Err(Refusal::InvalidMac);
        }
        if vport.mac == mac || self.switch.macs.of(vf).any(|own| own == mac) {
            return Ok(());
        }
        if vport.policy.mac.is_some() && !vport.policy.trust {
            return Err(Refusal::AdminMac);
        }
        match self.switch.owner(mac) {
            Some(Owner::Vf(owner)) if owner == vf => {}
            Some(_) => return Err(Refusal::MacInUse),
            None => {}
        }
        if self.switch.macs.of(vf).count() >= usize::from(vport.policy.max_mac_filters) {
            return Err(Refusal::MacLimit);
        }
        let added = self.switch.macs.add(vf, mac);
        added.map_err(|Full| Refusal::MacTableFull)
    }

    fn del_mac(&mut self, vf: u8, mac: MacAddress) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        if vport.policy.mac == Some(mac) {
            return Err(Refusal::AdminMac);
        }
        if self.switch.macs.remove(vf, mac) {
            Ok(())
        } else {
            Err(Refusal::NoSuchMac)
        }
    }

    fn add_vlan(&mut self, vf: u8, vid: u16) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        if vid > igb::VlanId::MAX {
            return Err(Refusal::InvalidVlan);
        }
        if vport.policy.vlan.is_some() {
            return Err(Refusal::PortVlan);
        }
        // Untagged traffic, which stacks name so.
        if vid == 0 || self.switch.vlans.of(vf).any(|own| own == vid) {
            return Ok(());
        }
        if let Some(allowed) = &vport.policy.allowed_vlans
            && !allowed.contains(&vid)
        {
            return Err(Refusal::VlanNotAllowed);
        }
        if self.switch.vlans.of(vf).count() >= usize::from(vport.policy.max_vlans) {
            return Err(Refusal::VlanLimit);
        }
        let joined = self.switch.vlans.join(vf, vid);
        joined.map_err(|Full| Refusal::VlanTableFull)
    }

    fn del_vlan(&mut self, vf: u8, vid: u16) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        if vid > igb::VlanId::MAX {
            return Err(Refusal::InvalidVlan);
        }
        if vport.policy.vlan.is_some() {
            return Err(Refusal::PortVlan);
        }
        if vid == 0 || self.switch.vlans.leave(vf, vid) {
            Ok(())
        } else {
            Err(Refusal::NoSuchVlan)
        }
    }

    fn set_multicast(&mut self, vf: u8, append: bool, hashes: &[u16]) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        let mut wanted = if append {
            vport.multicast.clone()
        } else {
            Default::default()
        };
        for hash in hashes {
            wanted.insert(hash & igb::mailbox::HASH_MASK);
            if wanted.len() > MAX_MULTICAST {
                return Err(Refusal::MulticastLimit);
            }
        }
        self.change(vf, |vport| vport.multicast = wanted)
    }

    fn set_mtu(&mut self, vf: u8, mtu: u32) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        if mtu < MIN_MTU {
            return Err(Refusal::MtuTooSmall);
        }
        if mtu > self.switch.max_mtu(&vport.policy) {
            return Err(Refusal::MtuTooLarge);
        }
        self.change(vf, |vport| vport.mtu = mtu)
    }

    fn set_promisc(&mut self, vf: u8, unicast: bool, multicast: bool) -> Result<(), Refusal> {
        let (_, vport) = self.vport(vf.into())?;
        if unicast && !vport.policy.trust {
            return Err(Refusal::PromiscNotTrusted);
        }
        self.change(vf, |vport| {
            vport.promisc_unicast = unicast;
            vport.promisc_multicast = multicast;
        })
    }
}

#[cfg(test)]
mod tests;
