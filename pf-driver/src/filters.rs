//! The card's receive filters that functions share: which entry belongs to whom.
//!
//! Entries stay where they are until they go, so that a change for one VF rewrites nothing of
//! another.

use igb::frame::MacAddress;
use serde::{Deserialize, Serialize};

use crate::policy::mac;

/// Receive address entries of the card (datasheet 8.10: RAL and RAH).
pub(crate) const RAR_COUNT: u32 = <igb::RAL as igb::Register>::COUNT;
/// Entry of the PF's own address.
pub(crate) const RAR_PF: u32 = 0;
/// First entry for additional addresses of VFs.
pub(crate) const RAR_EXTRA: u32 = 1;
/// Entries for additional addresses, whatever the number of VFs.
pub const EXTRA_MACS: usize = (RAR_COUNT - crate::vport::MAX_VFS as u32 - RAR_EXTRA) as usize;
/// VLAN filters of the card (datasheet 8.14: VLVF).
pub const VLAN_FILTERS: usize = <igb::VLVF as igb::Register>::COUNT as usize;

/// Entry of the address of VF `vf`: from the end, as Linux places them.
pub(crate) const fn rar_of_vf(vf: u8) -> u32 {
    RAR_COUNT - 1 - vf as u32
}

/// An additional address of a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraMac {
    /// The address.
    #[serde(with = "mac")]
    pub mac: MacAddress,
    /// Who receives it.
    pub vf: u8,
}

/// Additional addresses of the VFs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacTable {
    entries: Vec<Option<ExtraMac>>,
}

impl Default for MacTable {
    fn default() -> Self {
        Self {
            entries: vec![None; EXTRA_MACS],
        }
    }
}

/// No entry is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl MacTable {
    /// Whether a table read from a file has the right shape.
    pub(crate) fn is_sound(&self) -> bool {
        self.entries.len() == EXTRA_MACS
            && self
                .iter()
                .all(|(_, entry)| entry.vf < crate::vport::MAX_VFS && entry.mac.is_valid_unicast())
    }

    /// Every entry in use, with its place.
    pub fn iter(&self) -> impl Iterator<Item = (u32, ExtraMac)> {
        (0..)
            .zip(&self.entries)
            .filter_map(|(n, e)| Some((n, (*e)?)))
    }

    /// The addresses of VF `vf`.
    pub fn of(&self, vf: u8) -> impl Iterator<Item = MacAddress> {
        self.iter()
            .filter(move |(_, entry)| entry.vf == vf)
            .map(|(_, entry)| entry.mac)
    }

    /// Who has this address.
    #[must_use]
    pub fn owner(&self, mac: MacAddress) -> Option<u8> {
        self.iter()
            .find_map(|(_, entry)| (entry.mac == mac).then_some(entry.vf))
    }

    pub(crate) fn add(&mut self, vf: u8, mac: MacAddress) -> Result<(), Full> {
        let free = self.entries.iter_mut().find(|e| e.is_none()).ok_or(Full)?;
        *free = Some(ExtraMac { mac, vf });
        Ok(())
    }

    /// Whether there was one.
    pub(crate) fn remove(&mut self, vf: u8, mac: MacAddress) -> bool {
        let entry = Some(ExtraMac { mac, vf });
        match self.entries.iter_mut().find(|e| **e == entry) {
            Some(place) => {
                *place = None;
                true
            }
            None => false,
        }
    }

    pub(crate) fn clear(&mut self, vf: u8) {
        for entry in &mut self.entries {
            if entry.is_some_and(|entry| entry.vf == vf) {
                *entry = None;
            }
        }
    }
}

/// A VLAN and the pools in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanFilter {
    /// VLAN id.
    pub vid: u16,
    /// One bit per pool.
    pub pools: u8,
}

/// Membership of pools in VLANs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanTable {
    entries: Vec<Option<VlanFilter>>,
}

impl Default for VlanTable {
    fn default() -> Self {
        Self {
            entries: vec![None; VLAN_FILTERS],
        }
    }
}

impl VlanTable {
    /// Whether a table read from a file has the right shape.
    pub(crate) fn is_sound(&self) -> bool {
        self.entries.len() == VLAN_FILTERS
            && self
                .iter()
                .all(|(_, entry)| (1..4095).contains(&entry.vid) && entry.pools != 0)
    }

    /// Every entry in use, with its place.
    pub fn iter(&self) -> impl Iterator<Item = (u32, VlanFilter)> {
        (0..)
            .zip(&self.entries)
            .filter_map(|(n, e)| Some((n, (*e)?)))
    }

    /// The VLANs that `pool` is in.
    pub fn of(&self, pool: u8) -> impl Iterator<Item = u16> {
        self.iter()
            .filter(move |(_, entry)| entry.pools & 1 << pool != 0)
            .map(|(_, entry)| entry.vid)
    }

    pub(crate) fn join(&mut self, pool: u8, vid: u16) -> Result<(), Full> {
        if let Some(entry) = self.entries.iter_mut().flatten().find(|e| e.vid == vid) {
            entry.pools |= 1 << pool;
            return Ok(());
        }
        let free = self.entries.iter_mut().find(|e| e.is_none()).ok_or(Full)?;
        *free = Some(VlanFilter {
            vid,
            pools: 1 << pool,
        });
        Ok(())
    }

    /// Whether `pool` was in it.
    pub(crate) fn leave(&mut self, pool: u8, vid: u16) -> bool {
        let mut was_in = false;
        for place in &mut self.entries {
            if let Some(entry) = place
                && entry.vid == vid
            {
                was_in = entry.pools & 1 << pool != 0;
                entry.pools &= !(1 << pool);
                if entry.pools == 0 {
                    *place = None;
                }
            }
        }
        was_in
    }

    pub(crate) fn leave_all(&mut self, pool: u8) {
        for place in &mut self.entries {
            if let Some(entry) = place {
                entry.pools &= !(1 << pool);
                if entry.pools == 0 {
                    *place = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_stays_in_place_when_others_go() {
        let mut table = VlanTable::default();
        table.join(0, 10).unwrap();
        table.join(1, 20).unwrap();
        table.join(2, 10).unwrap();
        assert!(table.leave(0, 10));
        assert!(!table.leave(0, 10));
        let entries: Vec<_> = table.iter().collect();
        assert_eq!(
            entries,
            [
                (0, VlanFilter { vid: 10, pools: 4 }),
                (1, VlanFilter { vid: 20, pools: 2 })
            ]
        );
        table.leave_all(2);
        assert_eq!(table.iter().map(|(n, _)| n).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn tables_end() {
        let mut macs = MacTable::default();
        for n in 0..EXTRA_MACS as u8 {
            macs.add(0, MacAddress([2, 0, 0, 0, 0, n])).unwrap();
        }
        assert_eq!(macs.add(1, MacAddress([2, 0, 0, 0, 1, 0])), Err(Full));
        macs.clear(0);
        assert_eq!(macs.iter().count(), 0);
    }
}
