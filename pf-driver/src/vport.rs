//! The NIC switch: VFs, the VPort of each, and what the switch knows of them. Pure state; what it
//! means for the card's registers is in [`crate::image`].
//!
//! Order, up: switch, VF, VPort, filters. Down: filters, VPort, VF, switch. An operation out of
//! order is refused and changes nothing.

use std::collections::BTreeSet;

use igb::frame::MacAddress;
use serde::{Deserialize, Serialize};

use crate::error::PfError;
use crate::filters::{MacTable, VlanTable};
use crate::policy::{DEFAULT_MTU, VfPolicy, mac};

/// VFs that can be enabled: one pool of the card's eight stays the PF's.
pub const MAX_VFS: u8 = igb::function::VF_COUNT - 1;
/// The pool of the PF, which is also the switch's default pool.
pub const PF_POOL: u8 = igb::function::POOL_COUNT as u8 - 1;
/// Speed of the port in Mbit/s.
pub const LINK_MBITS: u32 = 1000;

/// How far a VF driver has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reset, or never started: its queues are off, and only Init is heard.
    #[default]
    Reset,
    /// Initialized: it has its queues.
    Active,
}

/// The non-default VPort of a VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VPort {
    /// What the administrator allows.
    pub policy: VfPolicy,
    /// The address it gets unless the administrator sets another.
    #[serde(with = "mac")]
    pub assigned_mac: MacAddress,
    /// The generation of the VF that the channel last named.
    pub generation: u32,
    /// How far the VF driver has come.
    pub phase: Phase,
    /// Features that the VF driver accepted since its reset; `None` before it did.
    pub accepted: Option<u32>,
    /// The address in force.
    #[serde(with = "mac")]
    pub mac: MacAddress,
    /// The MTU in force.
    pub mtu: u32,
    /// Multicast hashes it receives.
    pub multicast: BTreeSet<u16>,
    /// It receives unknown unicast.
    pub promisc_unicast: bool,
    /// It receives every multicast.
    pub promisc_multicast: bool,
}

impl VPort {
    /// The address after a reset.
    #[must_use]
    pub fn initial_mac(&self) -> MacAddress {
        self.policy.mac.unwrap_or(self.assigned_mac)
    }

    /// The address that a mailbox driver is given when it begins; `None`: it is to choose one. Until
    /// it has, the assigned one is in force.
    #[must_use]
    pub fn given_mac(&self) -> Option<MacAddress> {
        (self.policy.mac.is_some() || self.policy.assign_mac).then_some(self.mac)
    }
}

/// The switch with all that hangs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSwitch {
    /// The PF's address, on the default VPort.
    #[serde(with = "mac")]
    pub pf_mac: MacAddress,
    /// The PF's MTU, the largest that any VF may have.
    pub pf_mtu: u32,
    created: bool,
    allocated: BTreeSet<u8>,
    vports: Vec<Option<VPort>>,
    /// Additional addresses.
    pub macs: MacTable,
    /// VLAN membership of all pools.
    pub vlans: VlanTable,
}

impl NicSwitch {
    /// No switch yet; the PF has its address.
    #[must_use]
    pub fn new(pf_mac: MacAddress) -> Self {
        Self {
            pf_mac,
            pf_mtu: DEFAULT_MTU,
            created: false,
            allocated: BTreeSet::new(),
            vports: vec![None; usize::from(MAX_VFS)],
            macs: MacTable::default(),
            vlans: VlanTable::default(),
        }
    }

    /// Whether a switch read from a file can be one.
    pub(crate) fn is_sound(&self) -> bool {
        self.pf_mac.is_valid_unicast()
            && self.macs.is_sound()
            && self.vlans.is_sound()
            && self.vports.len() == usize::from(MAX_VFS)
            && self.allocated.iter().all(|vf| *vf < MAX_VFS)
            && self.vports().all(|(vf, vport)| {
                self.allocated.contains(&vf)
                    && vport.policy.check().is_ok()
                    && vport.mac.is_valid_unicast()
                    && vport.assigned_mac.is_valid_unicast()
                    && vport.mtu <= crate::policy::MAX_MTU
                    && vport.multicast.iter().all(|hash| *hash < 4096)
            })
    }

    /// Whether there is a switch.
    #[must_use]
    pub fn is_created(&self) -> bool {
        self.created
    }

    /// Creates the default switch.
    ///
    /// # Errors
    ///
    /// [`PfError::Order`] if there is one.
    pub fn create_switch(&mut self) -> Result<(), PfError> {
        if self.created {
            return Err(PfError::Order("the NIC switch exists already"));
        }
        self.created = true;
        Ok(())
    }

    /// Deletes the switch.
    ///
    /// # Errors
    ///
    /// [`PfError::Order`] while a VF is allocated.
    pub fn delete_switch(&mut self) -> Result<(), PfError> {
        if !self.allocated.is_empty() {
            return Err(PfError::Order("VFs are allocated; free them first"));
        }
        if !self.created {
            return Err(PfError::Order("there is no NIC switch"));
        }
        self.created = false;
        Ok(())
    }

    /// Allocates the VF with the lowest free number.
    ///
    /// # Errors
    ///
    /// [`PfError::Order`] without a switch, [`PfError::TooManyVfs`] when all are allocated.
    pub fn allocate_vf(&mut self) -> Result<u8, PfError> {
        if !self.created {
            return Err(PfError::Order("create the NIC switch first"));
        }
        let vf =
            (0..MAX_VFS)
                .find(|vf| !self.allocated.contains(vf))
                .ok_or(PfError::TooManyVfs {
                    asked: u16::from(MAX_VFS) + 1,
                    most: MAX_VFS.into(),
                })?;
        self.allocated.insert(vf);
        Ok(vf)
    }

    /// Frees a VF.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`] if it is not allocated, [`PfError::Order`] while it has a VPort.
    pub fn free_vf(&mut self, vf: u8) -> Result<(), PfError> {
        if self.vport(vf).is_some() {
            return Err(PfError::Order("the VF has a VPort; delete it first"));
        }
        if !self.allocated.remove(&vf) {
            return Err(PfError::NoSuchVf(vf.into()));
        }
        Ok(())
    }

    /// Creates the VPort of an allocated VF, inactive until the VF driver begins.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], [`PfError::Order`] if it has one, [`PfError::MacInUse`].
    pub fn create_vport(&mut self, vf: u8, policy: VfPolicy) -> Result<(), PfError> {
        if !self.allocated.contains(&vf) {
            return Err(PfError::NoSuchVf(vf.into()));
        }
        if self.vport(vf).is_some() {
            return Err(PfError::Order("the VF has a VPort already"));
        }
        policy.check()?;
        let assigned_mac = self.assigned_mac(vf);
        let mac = policy.mac.unwrap_or(assigned_mac);
        if self.owner(mac).is_some() {
            return Err(PfError::MacInUse(mac));
        }
        let mtu = self.initial_mtu(&policy);
        self.vports[usize::from(vf)] = Some(VPort {
            policy,
            assigned_mac,
            generation: 0,
            phase: Phase::Reset,
            accepted: None,
            mac,
            mtu,
            multicast: BTreeSet::new(),
            promisc_unicast: false,
            promisc_multicast: false,
        });
        Ok(())
    }

    /// Sets the filters that the policy wants of the start: the port VLAN. (The address is the
    /// VPort's own.)
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], [`PfError::VlanTableFull`].
    pub fn set_filters(&mut self, vf: u8) -> Result<(), PfError> {
        let vport = self.vport(vf).ok_or(PfError::NoSuchVf(vf.into()))?;
        if let Some(vlan) = vport.policy.vlan {
            self.vlans
                .join(vf, vlan.vid)
                .map_err(|_| PfError::VlanTableFull)?;
        }
        Ok(())
    }

    /// Clears every filter of a VF but the address of its VPort.
    pub fn clear_filters(&mut self, vf: u8) {
        self.macs.clear(vf);
        self.vlans.leave_all(vf);
        if let Some(vport) = self.vport_mut(vf) {
            vport.multicast.clear();
            vport.promisc_unicast = false;
            vport.promisc_multicast = false;
        }
    }

    /// Deletes the VPort of a VF.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`] if it has none, [`PfError::Order`] while it has filters.
    pub fn delete_vport(&mut self, vf: u8) -> Result<(), PfError> {
        if self.vport(vf).is_none() {
            return Err(PfError::NoSuchVf(vf.into()));
        }
        if self.macs.of(vf).next().is_some() || self.vlans.of(vf).next().is_some() {
            return Err(PfError::Order("the VPort has filters; clear them first"));
        }
        self.vports[usize::from(vf)] = None;
        Ok(())
    }

    /// Takes a VF back to where it was when its VPort was created, as every reset of it does:
    /// filters gone, address and MTU those of the policy, queues off until Init.
    pub fn reset_vf(&mut self, vf: u8) {
        if self.vport(vf).is_none() {
            return;
        }
        self.clear_filters(vf);
        // Its own entry was just given back or is shared with others: there is room.
        let _ = self.set_filters(vf);
        let Some(vport) = self.vport(vf) else { return };
        let mtu = self.initial_mtu(&vport.policy);
        let mut mac = vport.initial_mac();
        // Somebody else may have taken the assigned address while this VF used another.
        if self.owner(mac).is_some_and(|owner| owner != Owner::Vf(vf)) {
            mac = vport.mac;
        }
        if let Some(vport) = self.vport_mut(vf) {
            vport.mac = mac;
            vport.mtu = mtu;
            vport.phase = Phase::Reset;
            vport.accepted = None;
        }
    }

    /// The VPort of a VF.
    #[must_use]
    pub fn vport(&self, vf: u8) -> Option<&VPort> {
        self.vports.get(usize::from(vf))?.as_ref()
    }

    pub(crate) fn vport_mut(&mut self, vf: u8) -> Option<&mut VPort> {
        self.vports.get_mut(usize::from(vf))?.as_mut()
    }

    /// Every VF with its VPort.
    pub fn vports(&self) -> impl Iterator<Item = (u8, &VPort)> {
        (0..)
            .zip(&self.vports)
            .filter_map(|(vf, v)| Some((vf, v.as_ref()?)))
    }

    /// How many VFs are allocated.
    #[must_use]
    pub fn vf_count(&self) -> u8 {
        self.allocated.len() as u8
    }

    /// Who has an address, or is to get it back at its next reset.
    #[must_use]
    pub fn owner(&self, mac: MacAddress) -> Option<Owner> {
        if mac == self.pf_mac {
            return Some(Owner::Pf);
        }
        self.vports()
            .find_map(|(vf, vport)| (vport.mac == mac || vport.initial_mac() == mac).then_some(vf))
            .or_else(|| self.macs.owner(mac))
            .map(Owner::Vf)
    }

    /// Largest MTU a VF with this policy may have.
    #[must_use]
    pub fn max_mtu(&self, policy: &VfPolicy) -> u32 {
        policy.max_mtu.unwrap_or(self.pf_mtu).min(self.pf_mtu)
    }

    /// MTU of a VF that has not asked for another.
    pub(crate) fn initial_mtu(&self, policy: &VfPolicy) -> u32 {
        DEFAULT_MTU.min(self.max_mtu(policy))
    }

    /// An address for VF `vf`, derived from the PF's: locally administered, so that it is nobody
    /// else's, and the same in every run.
    fn assigned_mac(&self, vf: u8) -> MacAddress {
        let mut bytes = self.pf_mac.bytes();
        bytes[0] = bytes[0] & !1 | 2;
        let base = u16::from_be_bytes([bytes[4], bytes[5]]);
        (0..=u16::MAX)
            .map(|n| {
                let [high, low] = base
                    .wrapping_add(1 + u16::from(vf))
                    .wrapping_add(n)
                    .to_be_bytes();
                let [a, b, c, d, ..] = bytes;
                MacAddress([a, b, c, d, high, low])
            })
            .find(|mac| self.owner(*mac).is_none())
            .unwrap_or(self.pf_mac)
    }
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The PF.
    Pf,
    /// A VF.
    Vf(u8),
}
