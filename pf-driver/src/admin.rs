//! What the administrator does: the words of `ip link set dev PF vf N ...`, `ip link show` and
//! `ethtool -S`.

use igb::frame::MacAddress;
use igb_driver::netdev::Counters;
use serde::Serialize;

use crate::driver::PfDriver;
use crate::error::PfError;
use crate::policy::{LinkState, PortVlan, VfPolicy, mac, optional_mac};
use crate::vport::{NicSwitch, Owner, Phase};

/// A VF as `ip link show` has it, and what it has been granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VfConfig {
    /// Which VF.
    pub vf: u8,
    /// The address in force.
    #[serde(with = "mac")]
    pub mac: MacAddress,
    /// The address the administrator set.
    #[serde(with = "optional_mac")]
    pub admin_mac: Option<MacAddress>,
    /// Port VLAN.
    pub vlan: Option<PortVlan>,
    /// Limit on what it sends, in Mbit/s; 0: none.
    pub max_tx_rate: u32,
    /// Guaranteed rate, which an 82576 does not have: 0.
    pub min_tx_rate: u32,
    /// Source addresses and VLANs are checked.
    pub spoofchk: bool,
    /// Trusted.
    pub trust: bool,
    /// How it sees the link.
    pub link_state: LinkState,
    /// Whether its link is up.
    pub link_up: bool,
    /// How far its driver has come.
    pub phase: Phase,
    /// Its generation on the channel.
    pub generation: u32,
    /// MTU in force.
    pub mtu: u32,
    /// Largest MTU it may use.
    pub max_mtu: u32,
    /// Additional addresses, as text.
    pub extra_macs: Vec<String>,
    /// VLANs it is in, the port VLAN included.
    pub vlans: Vec<u16>,
    /// How many multicast hashes it receives.
    pub multicast: usize,
    /// It receives unknown unicast.
    pub promisc_unicast: bool,
    /// It receives every multicast.
    pub promisc_multicast: bool,
}

/// What the card and the arbiter counted for a VF.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VfStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Multicast frames received.
    pub rx_multicast: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Times the card reported frames with a source not the VF's own.
    pub tx_spoofed: u64,
    /// Requests granted.
    pub granted: u64,
    /// Requests refused, by reason.
    pub refused: std::collections::BTreeMap<String, u64>,
}

/// Changes of the switch by the administrator: whole or not at all.
impl NicSwitch {
    fn set_vf_mac(&mut self, vf: u8, mac: MacAddress) -> Result<(), PfError> {
        let vport = self.vport(vf).ok_or(PfError::NoSuchVf(vf.into()))?;
        if mac.is_zero() {
            let assigned = vport.assigned_mac;
            let free = self
                .owner(assigned)
                .is_none_or(|owner| owner == Owner::Vf(vf));
            if let Some(vport) = self.vport_mut(vf) {
                vport.policy.mac = None;
                if free {
                    vport.mac = assigned;
                }
            }
            return Ok(());
        }
        if !mac.is_valid_unicast() {
            return Err(PfError::InvalidMac(mac));
        }
        if self.owner(mac).is_some_and(|owner| owner != Owner::Vf(vf)) {
            return Err(PfError::MacInUse(mac));
        }
        self.macs.remove(vf, mac);
        if let Some(vport) = self.vport_mut(vf) {
            vport.policy.mac = Some(mac);
            vport.mac = mac;
            if !vport.policy.trust {
                // It could not ask for another from now on, so it keeps none from before.
                self.macs.clear(vf);
            }
        }
        Ok(())
    }

    /// Puts a VF that runs under another policy, and takes back what that does not grant.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], [`PfError::MacInUse`], [`PfError::VlanTableFull`]; the switch is then of
    /// no use.
    pub(crate) fn judge_anew(&mut self, vf: u8, policy: VfPolicy) -> Result<(), PfError> {
        policy.check()?;
        let max_mtu = self.max_mtu(&policy);
        let vport = self.vport_mut(vf).ok_or(PfError::NoSuchVf(vf.into()))?;
        let before = std::mem::replace(&mut vport.policy, policy.clone());
        vport.mtu = vport.mtu.min(max_mtu);
        vport.promisc_unicast &= policy.trust;
        if policy.mac != before.mac || policy.trust != before.trust {
            match policy.mac {
                // A trusted VF that chose another address chooses again.
                Some(mac) => self.set_vf_mac(vf, mac)?,
                None if before.mac.is_some() => self.set_vf_mac(vf, MacAddress::ZERO)?,
                None => {}
            }
        }
        if policy.vlan != before.vlan {
            self.set_vf_vlan(vf, policy.vlan)?;
        }
        let extra: Vec<_> = self.macs.of(vf).collect();
        for mac in extra.iter().skip(policy.max_mac_filters.into()) {
            self.macs.remove(vf, *mac);
        }
        if policy.vlan.is_none() {
            let allowed = |vid: &u16| {
                let list = policy.allowed_vlans.as_ref();
                list.is_none_or(|list| list.contains(vid))
            };
            let (kept, mut lost): (Vec<u16>, Vec<u16>) = self.vlans.of(vf).partition(allowed);
            lost.extend(kept.iter().skip(policy.max_vlans.into()));
            for vid in lost {
                self.vlans.leave(vf, vid);
            }
        }
        Ok(())
    }

    fn set_vf_vlan(&mut self, vf: u8, vlan: Option<PortVlan>) -> Result<(), PfError> {
        self.vport(vf).ok_or(PfError::NoSuchVf(vf.into()))?;
        if let Some(vlan) = vlan {
            vlan.check()?;
        }
        // Those that the VF joined itself go too: it is in one VLAN from now on, or begins anew.
        self.vlans.leave_all(vf);
        if let Some(vport) = self.vport_mut(vf) {
            vport.policy.vlan = vlan;
        }
        self.set_filters(vf)
    }

    /// Gives VF `vf` the address, MTU and filters that it had in `before`; nothing changes, and the
    /// answer is `false`, where another function has taken any of them since.
    pub(crate) fn restore_vf(&mut self, vf: u8, before: &Self) -> bool {
        let Some(old) = before.vport(vf) else {
            return false;
        };
        let mut next = self.clone();
        next.macs.clear(vf);
        next.vlans.leave_all(vf);
        let free = |mac: MacAddress| next.owner(mac).is_none_or(|owner| owner == Owner::Vf(vf));
        if !free(old.mac) || !before.macs.of(vf).all(free) {
            return false;
        }
        let added = before
            .macs
            .of(vf)
            .try_for_each(|mac| next.macs.add(vf, mac));
        let joined = before
            .vlans
            .of(vf)
            .try_for_each(|vid| next.vlans.join(vf, vid));
        let Some(vport) = next.vport_mut(vf) else {
            return false;
        };
        // The administrator's settings are never taken back.
        let policy = std::mem::take(&mut vport.policy);
        *vport = old.clone();
        vport.policy = policy;
        if added.is_err() || joined.is_err() || vport.policy != old.policy {
            return false;
        }
        *self = next;
        true
    }
}

impl PfDriver {
    fn administer(
        &mut self,
        vf: u16,
        change: impl FnOnce(&mut NicSwitch, u8) -> Result<(), PfError>,
    ) -> Result<u8, PfError> {
        let number = u8::try_from(vf).map_err(|_| PfError::NoSuchVf(vf))?;
        let mut next = self.arbiter.switch.clone();
        if next.vport(number).is_none() {
            return Err(PfError::NoSuchVf(vf));
        }
        change(&mut next, number)?;
        if next != self.arbiter.switch {
            self.arbiter.switch = next;
            self.commit()?;
            self.announce(number)?;
        }
        Ok(number)
    }

    fn set_policy(&mut self, vf: u16, change: impl FnOnce(&mut VfPolicy)) -> Result<u8, PfError> {
        self.administer(vf, |switch, number| {
            if let Some(vport) = switch.vport_mut(number) {
                change(&mut vport.policy);
                vport.policy.check()?;
            }
            Ok(())
        })
    }

    /// Sets the address of a VF, which the VF cannot change unless it is trusted. The zero address
    /// takes that back.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], [`PfError::InvalidMac`], [`PfError::MacInUse`].
    pub fn set_vf_mac(&mut self, vf: u16, mac: MacAddress) -> Result<(), PfError> {
        self.administer(vf, |switch, vf| switch.set_vf_mac(vf, mac))?;
        Ok(())
    }

    /// Puts a VF into a VLAN with a priority, in which the card tags and untags for it; VLAN 0 takes
    /// it out.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], [`PfError::PolicyValue`], [`PfError::VlanTableFull`].
    pub fn set_vf_vlan(&mut self, vf: u16, vid: u16, qos: u8) -> Result<(), PfError> {
        if vid == 0 && qos != 0 {
            return Err(PfError::PolicyValue("qos: needs a VLAN"));
        }
        let vlan = (vid != 0).then_some(PortVlan { vid, qos });
        self.administer(vf, |switch, vf| switch.set_vf_vlan(vf, vlan))?;
        Ok(())
    }

    /// Limits what a VF sends, in Mbit/s; 0 ends it.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], [`PfError::PolicyValue`] beyond the link's rate, [`PfError::CardLacks`].
    pub fn set_vf_rate(&mut self, vf: u16, max_tx_rate: u32) -> Result<(), PfError> {
        if max_tx_rate != 0 && !self.gaps.rate_limits {
            self.get_vf_config(vf)?;
            return Err(PfError::CardLacks("rate limits"));
        }
        self.set_policy(vf, |policy| policy.max_tx_rate = max_tx_rate)?;
        Ok(())
    }

    /// Guarantees a VF a rate: no 82576 can.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`]; [`PfError::NotSupported`] for any rate but 0.
    pub fn set_vf_min_rate(&mut self, vf: u16, min_tx_rate: u32) -> Result<(), PfError> {
        self.get_vf_config(vf)?;
        if min_tx_rate == 0 {
            return Ok(());
        }
        Err(PfError::NotSupported("guaranteed rates (min_tx_rate)"))
    }

    /// Turns the check of source addresses and VLANs of a VF on or off.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], [`PfError::CardLacks`].
    pub fn set_vf_spoofchk(&mut self, vf: u16, on: bool) -> Result<(), PfError> {
        if on && !self.gaps.spoof_check {
            self.get_vf_config(vf)?;
            return Err(PfError::CardLacks("spoof check"));
        }
        self.set_policy(vf, |policy| policy.spoofchk = on)?;
        Ok(())
    }

    /// Trusts a VF, or no longer: then what only a trusted one may have is taken back.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`].
    pub fn set_vf_trust(&mut self, vf: u16, on: bool) -> Result<(), PfError> {
        self.administer(vf, |switch, vf| {
            let Some(vport) = switch.vport_mut(vf) else {
                return Ok(());
            };
            vport.policy.trust = on;
            if on {
                return Ok(());
            }
            vport.promisc_unicast = false;
            if let Some(admin) = vport.policy.mac {
                vport.mac = admin;
                switch.macs.clear(vf);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Sets how a VF sees the link. A disabled one has no traffic either.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`].
    pub fn set_vf_link_state(&mut self, vf: u16, state: LinkState) -> Result<(), PfError> {
        let vf = self.set_policy(vf, |policy| policy.link_state = state)?;
        self.announce_link(vf)
    }

    /// A VF's settings and what it has been granted.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`].
    pub fn get_vf_config(&self, vf: u16) -> Result<VfConfig, PfError> {
        let number = u8::try_from(vf).map_err(|_| PfError::NoSuchVf(vf))?;
        let switch = &self.arbiter.switch;
        let vport = switch.vport(number).ok_or(PfError::NoSuchVf(vf))?;
        let policy = &vport.policy;
        Ok(VfConfig {
            vf: number,
            mac: vport.mac,
            admin_mac: policy.mac,
            vlan: policy.vlan,
            max_tx_rate: policy.max_tx_rate,
            min_tx_rate: 0,
            spoofchk: policy.spoofchk,
            trust: policy.trust,
            link_state: policy.link_state,
            link_up: self.arbiter.link_of(number, self.port_up()),
            phase: vport.phase,
            generation: vport.generation,
            mtu: vport.mtu,
            max_mtu: switch.max_mtu(policy),
            extra_macs: switch.macs.of(number).map(|mac| mac.to_string()).collect(),
            vlans: switch.vlans.of(number).collect(),
            multicast: vport.multicast.len(),
            promisc_unicast: vport.promisc_unicast,
            promisc_multicast: vport.promisc_multicast,
        })
    }

    /// What was counted for a VF, up to now.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], or the card is gone.
    pub fn get_vf_stats(&mut self, vf: u16) -> Result<VfStats, PfError> {
        let number = u8::try_from(vf).map_err(|_| PfError::NoSuchVf(vf))?;
        if self.arbiter.switch.vport(number).is_none() {
            return Err(PfError::NoSuchVf(vf));
        }
        self.vf_counters.update(&self.regs, number)?;
        Ok(self.vf_stats(number))
    }

    fn vf_stats(&self, vf: u8) -> VfStats {
        let card = self.vf_counters.of(vf);
        let tally = self.arbiter.tally(vf.into()).cloned().unwrap_or_default();
        VfStats {
            rx_packets: card.rx_packets,
            rx_bytes: card.rx_bytes,
            rx_multicast: card.rx_multicast,
            tx_packets: card.tx_packets,
            tx_bytes: card.tx_bytes,
            tx_spoofed: card.tx_spoofed,
            granted: tally.granted,
            refused: tally.refused,
        }
    }

    /// The PF's MTU changed: VFs that use more are taken down to it, and told.
    pub(crate) fn change_pf_mtu(&mut self, mtu: u32) -> Result<(), PfError> {
        self.arbiter.switch.pf_mtu = mtu;
        let vfs: Vec<u8> = self.arbiter.switch.vports().map(|(vf, _)| vf).collect();
        for vf in &vfs {
            if let Some(vport) = self.arbiter.switch.vport_mut(*vf) {
                vport.mtu = vport.mtu.min(mtu);
            }
        }
        self.commit()?;
        for vf in vfs {
            self.announce(vf)?;
        }
        Ok(())
    }

    pub(crate) fn append_vf_counters(&self, counters: &mut Counters) {
        for (vf, _) in self.arbiter.switch.vports() {
            let stats = self.vf_stats(vf);
            for (name, value) in [
                ("rx_packets", stats.rx_packets),
                ("rx_bytes", stats.rx_bytes),
                ("rx_multicast", stats.rx_multicast),
                ("tx_packets", stats.tx_packets),
                ("tx_bytes", stats.tx_bytes),
                ("tx_spoofed", stats.tx_spoofed),
                ("granted", stats.granted),
            ] {
                counters.push(format!("vf{vf}_{name}"), value);
            }
            for (reason, count) in stats.refused {
                counters.push(format!("vf{vf}_refused_{reason}"), count);
            }
        }
        if let Some(tally) = self.arbiter.strangers() {
            for (reason, count) in &tally.refused {
                counters.push(format!("unknown_vf_refused_{reason}"), *count);
            }
        }
    }
}
