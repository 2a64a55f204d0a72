//! Where a frame goes (datasheet 7.10.3): the pools that want it, and the uplink. Pure functions of
//! the configuration and the frame's addresses and tag.

use igb::{MacAddress, VlanTag};

use crate::config::Config;
use crate::drops::DropReason;

/// Where a frame goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Destinations {
    pub(super) pools: u8,
    pub(super) uplink: bool,
    /// Why it goes nowhere, if it does.
    pub(super) reason: Option<DropReason>,
}

impl Destinations {
    fn nowhere(reason: DropReason) -> Self {
        Self {
            pools: 0,
            uplink: false,
            reason: Some(reason),
        }
    }
}

/// What the address filters say of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddressMatch {
    /// Pools by exact match.
    exact: u8,
    /// Pools by table, broadcast and promiscuous modes.
    other: u8,
    /// It passes the filters of the port, whatever the pools say.
    passes: bool,
}

impl Config {
    /// Where a frame from pool `source` goes.
    pub(super) fn route_transmit(
        &self,
        source: u8,
        destination: MacAddress,
        tag: Option<VlanTag>,
    ) -> Destinations {
        let local_vlan = self.is_local_vlan(tag);
        if !self.loopback || !self.vmdq {
            return if local_vlan {
                Destinations::nowhere(DropReason::NoDestination)
            } else {
                Destinations {
                    uplink: true,
                    ..Destinations::default()
                }
            };
        }
        let members = self.vlan_members(tag);
        let found = self.match_address(destination);
        let exact = found.exact & members;
        let wanted = self.replicated(destination, (found.exact | found.other) & members);
        let sender = 1u8 << (source & 7);
        let own = self.pools[usize::from(source & 7)].own_loopback;
        let pools = if own { wanted } else { wanted & !sender };
        // A unicast address that a pool has in its VLAN is inside the card; all else goes out too.
        let uplink = (destination.is_multicast() || exact == 0) && !local_vlan;
        let reason = match (pools, uplink) {
            (0, false) if wanted & sender != 0 => Some(DropReason::SourceOnly),
            (0, false) => Some(DropReason::NoDestination),
            _ => None,
        };
        Destinations {
            pools,
            uplink,
            reason,
        }
    }

    /// Where a frame from the wire goes.
    pub(super) fn route_receive(
        &self,
        destination: MacAddress,
        tag: Option<VlanTag>,
    ) -> Destinations {
        let found = self.match_address(destination);
        if !found.passes && found.exact | found.other == 0 {
            return Destinations::nowhere(DropReason::FilterMac);
        }
        if self.is_local_vlan(tag) || !self.passes_vfta(tag) {
            return Destinations::nowhere(DropReason::FilterVlan);
        }
        if !self.vmdq {
            // Outside VMDq everything is the PF's: its first queue.
            return Destinations {
                pools: 1,
                ..Destinations::default()
            };
        }
        let wanted = found.exact | found.other;
        let members = self.vlan_members(tag);
        let pools = self.replicated(destination, wanted & members);
        if pools != 0 {
            return Destinations {
                pools,
                ..Destinations::default()
            };
        }
        match self.default_pool {
            Some(pool) if found.passes => Destinations {
                pools: 1 << (pool & 7),
                ..Destinations::default()
            },
            _ if wanted & !members != 0 => Destinations::nowhere(DropReason::FilterVlan),
            _ => Destinations::nowhere(DropReason::FilterMac),
        }
    }

    /// Steps 1 to 5 of the pool selection (7.10.3.3), and the filters of the port.
    fn match_address(&self, destination: MacAddress) -> AddressMatch {
        let mut listed = false;
        let mut exact = 0;
        for filter in self
            .addresses
            .iter()
            .filter(|filter| filter.mac == destination)
        {
            listed = true;
            exact |= filter.pools;
        }
        let select = |wants: fn(&crate::config::PoolConfig) -> bool| {
            (0..8)
                .filter(|pool| wants(&self.pools[*pool]))
                .fold(0u8, |pools, n| pools | 1 << n)
        };
        if destination.is_broadcast() {
            let other = select(|pool| pool.accept_broadcast);
            return AddressMatch {
                exact,
                other,
                passes: listed || self.accept_broadcast,
            };
        }
        let hash = usize::from(destination.hash(self.hash_offset));
        let hit = |table: &[u32]| table[hash / 32] & 1 << (hash % 32) != 0;
        if destination.is_multicast() {
            let hit = hit(&self.mta);
            let mut other = select(|pool| pool.multicast_promiscuous);
            if hit && exact == 0 {
                other |= select(|pool| pool.accept_multicast_hash);
            }
            return AddressMatch {
                exact,
                other,
                passes: listed || hit || self.multicast_promiscuous,
            };
        }
        let hit = hit(&self.uta);
        let other = if hit && exact == 0 {
            select(|pool| pool.accept_unicast_hash)
        } else {
            0
        };
        AddressMatch {
            exact,
            other,
            passes: listed || hit || self.unicast_promiscuous,
        }
    }

    /// Step 6: the pools that may have frames of this VLAN, or untagged ones.
    fn vlan_members(&self, tag: Option<VlanTag>) -> u8 {
        if !self.vlan_filter {
            return u8::MAX;
        }
        match tag {
            Some(_) if !self.passes_vfta(tag) => 0,
            Some(tag) => self.vlan_pools(tag),
            None => (0..8)
                .filter(|pool| self.pools[*pool].accept_untagged)
                .fold(0, |pools, n| pools | 1 << n),
        }
    }

    fn vlan_pools(&self, tag: VlanTag) -> u8 {
        self.vlans
            .iter()
            .filter(|vlan| vlan.vid == tag.vid())
            .fold(0, |pools, vlan| pools | vlan.pools)
    }

    fn passes_vfta(&self, tag: Option<VlanTag>) -> bool {
        let Some(tag) = tag.filter(|_| self.vlan_filter) else {
            return true;
        };
        let vid = usize::from(tag.vid());
        self.vfta[vid / 32] & 1 << (vid % 32) != 0
    }

    fn is_local_vlan(&self, tag: Option<VlanTag>) -> bool {
        tag.is_some_and(|tag| {
            self.vlans
                .iter()
                .any(|vlan| vlan.local && vlan.vid == tag.vid())
        })
    }

    /// Without replication a frame reaches one pool: a unicast frame the first that wants it, any
    /// other the default pool.
    fn replicated(&self, destination: MacAddress, pools: u8) -> u8 {
        if self.replicate {
            return pools;
        }
        if !destination.is_multicast() {
            return pools & pools.wrapping_neg();
        }
        self.default_pool.map_or(0, |pool| pools & 1 << (pool & 7))
    }

    /// Whether a frame that pool `source` sends is what the pool may send (7.10.3.9).
    pub(super) fn check_spoof(
        &self,
        source: u8,
        address: MacAddress,
        tag: Option<VlanTag>,
    ) -> Result<(), DropReason> {
        let pool = &self.pools[usize::from(source & 7)];
        let bit = 1 << (source & 7);
        let owned = || {
            self.addresses
                .iter()
                .any(|filter| filter.mac == address && filter.pools & bit != 0)
        };
        if pool.mac_antispoof && !owned() {
            return Err(DropReason::SpoofedMac);
        }
        let member = || match tag {
            Some(tag) => self.vlan_pools(tag) & bit != 0,
            None => pool.accept_untagged,
        };
        if pool.vlan_antispoof && !member() {
            return Err(DropReason::SpoofedVlan);
        }
        Ok(())
    }
}
