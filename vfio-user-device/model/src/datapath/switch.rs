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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AddressFilter, PoolConfig, VlanFilter};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MACS: [MacAddress; 6] = [
        MacAddress([2, 0, 0, 0, 0, 1]),
        MacAddress([2, 0, 0, 0, 0, 2]),
        MacAddress([2, 0, 0, 0, 0x10, 3]),
        MacAddress([1, 0, 0x5E, 0, 0, 1]),
        MacAddress([1, 0, 0x5E, 0, 0x20, 2]),
        MacAddress::BROADCAST,
    ];
    const VIDS: [u16; 4] = [0, 1, 7, 4095];

    /// The rules once more, told one receiver at a time: does `pool` get this frame, and does it
    /// leave the card?
    struct Naive<'a> {
        config: &'a Config,
        to: MacAddress,
        tag: Option<VlanTag>,
    }

    impl Naive<'_> {
        fn in_table(&self, table: &[u32]) -> bool {
            let [.., e, f] = self.to.bytes();
            let bits = (u32::from(f) << 8 | u32::from(e))
                >> [4, 3, 2, 0][self.config.hash_offset as usize];
            let bit = bits & 0xFFF;
            table[(bit / 32) as usize] >> (bit % 32) & 1 == 1
        }

        fn anyone_exact(&self) -> bool {
            self.config
                .addresses
                .iter()
                .any(|f| f.mac == self.to && f.pools != 0)
        }

        fn exact(&self, pool: usize) -> bool {
            self.config
                .addresses
                .iter()
                .any(|f| f.mac == self.to && f.pools >> pool & 1 == 1)
        }

        fn address_wanted(&self, pool: usize) -> bool {
            let settings = &self.config.pools[pool];
            if self.exact(pool) {
                return true;
            }
            if self.to == MacAddress::BROADCAST {
                return settings.accept_broadcast;
            }
            if self.to.bytes()[0] & 1 == 1 {
                return settings.multicast_promiscuous
                    || settings.accept_multicast_hash
                        && !self.anyone_exact()
                        && self.in_table(&self.config.mta);
            }
            settings.accept_unicast_hash && !self.anyone_exact() && self.in_table(&self.config.uta)
        }

        fn vlan_allowed(&self, pool: usize) -> bool {
            if !self.config.vlan_filter {
                return true;
            }
            let Some(tag) = self.tag else {
                return self.config.pools[pool].accept_untagged;
            };
            let vid = tag.0 & 0xFFF;
            let known = self.config.vfta[usize::from(vid / 32)] >> (vid % 32) & 1 == 1;
            known
                && self
                    .config
                    .vlans
                    .iter()
                    .any(|v| v.vid == vid && v.pools >> pool & 1 == 1)
        }

        fn local(&self) -> bool {
            self.tag.is_some_and(|tag| {
                self.config
                    .vlans
                    .iter()
                    .any(|v| v.local && v.vid == tag.0 & 0xFFF)
            })
        }

        fn wanted(&self) -> Vec<usize> {
            let all: Vec<usize> = (0..8)
                .filter(|p| self.address_wanted(*p) && self.vlan_allowed(*p))
                .collect();
            if self.config.replicate {
                all
            } else if self.to.bytes()[0] & 1 == 0 {
                all.into_iter().take(1).collect()
            } else {
                let default = self.config.default_pool.map(usize::from);
                all.into_iter().filter(|p| Some(*p) == default).collect()
            }
        }
    }

    fn mask(pools: &[usize]) -> u8 {
        pools.iter().fold(0, |mask, pool| mask | 1 << pool)
    }

    fn table() -> impl Strategy<Value = [u32; 128]> {
        // The hashes and VLANs of the addresses above, each in or out.
        vec(any::<bool>(), MACS.len() * 4 + VIDS.len()).prop_map(|flags| {
            let mut table = [0u32; 128];
            let macs = MACS.iter().flat_map(|mac| (0..4).map(|mo| mac.hash(mo)));
            for (bit, _) in macs.chain(VIDS).zip(flags).filter(|(_, on)| *on) {
                table[usize::from(bit / 32)] |= 1 << (bit % 32);
            }
            table
        })
    }

    prop_compose! {
        fn pool()(flags in any::<[bool; 9]>()) -> PoolConfig {
            let [a, b, c, d, e, f, g, h, _] = flags;
            PoolConfig {
                accept_broadcast: a,
                accept_untagged: b,
                accept_multicast_hash: c,
                accept_unicast_hash: d,
                multicast_promiscuous: e,
                own_loopback: f,
                mac_antispoof: g,
                vlan_antispoof: h,
                ..PoolConfig::default()
            }
        }
    }

    prop_compose! {
        fn config()(
            pools in [(); 8].map(|()| pool()),
            addresses in vec((prop::sample::select(&MACS[..]), any::<u8>()), 0..6),
            vlans in vec((prop::sample::select(&VIDS[..]), any::<u8>(), prop::bool::weighted(0.2)), 0..5),
            (mta, uta, vfta) in (table(), table(), table()),
            hash_offset in 0u32..4,
            default_pool in prop::option::of(0u8..8),
            (replicate, vlan_filter, upe, mpe, bam) in any::<(bool, bool, bool, bool, bool)>(),
        ) -> Config {
            Config {
                pools,
                addresses: addresses
                    .into_iter()
                    .map(|(mac, pools)| AddressFilter { mac, pools })
                    .collect(),
                vlans: vlans
                    .into_iter()
                    .map(|(vid, pools, local)| VlanFilter { vid, pools, local })
                    .collect(),
                mta,
                uta,
                vfta,
                hash_offset,
                default_pool,
                replicate,
                vlan_filter,
                unicast_promiscuous: upe,
                multicast_promiscuous: mpe,
                accept_broadcast: bam,
                vmdq: true,
                loopback: true,
                ..Config::default()
            }
        }
    }

    fn tag() -> impl Strategy<Value = Option<VlanTag>> {
        prop::option::of(prop::sample::select(&VIDS[..]).prop_map(|vid| VlanTag(vid | 0x2000)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn transmitted_frames_go_where_the_rules_say(
            config in config(), source in 0u8..8, to in prop::sample::select(&MACS[..]), tag in tag(),
        ) {
            let naive = Naive { config: &config, to, tag };
            let mut wanted = naive.wanted();
            let found = (0..8).any(|p| naive.exact(p) && naive.vlan_allowed(p));
            let multicast = to.bytes()[0] & 1 == 1;
            let uplink = (multicast || !found) && !naive.local();
            if !config.pools[usize::from(source)].own_loopback {
                wanted.retain(|pool| *pool != usize::from(source));
            }
            let got = config.route_transmit(source, to, tag);
            prop_assert_eq!(got.pools, mask(&wanted));
            prop_assert_eq!(got.uplink, uplink);
            prop_assert_eq!(got.reason.is_some(), wanted.is_empty() && !uplink);
        }

        #[test]
        fn received_frames_go_where_the_rules_say(
            config in config(), to in prop::sample::select(&MACS[..]), tag in tag(),
        ) {
            let naive = Naive { config: &config, to, tag };
            let multicast = to.bytes()[0] & 1 == 1;
            let listed = config.addresses.iter().any(|f| f.mac == to);
            let port = listed
                || match (to == MacAddress::BROADCAST, multicast) {
                    (true, _) => config.accept_broadcast,
                    (_, true) => config.multicast_promiscuous || naive.in_table(&config.mta),
                    _ => config.unicast_promiscuous || naive.in_table(&config.uta),
                };
            let vlan_known = !config.vlan_filter
                || tag.is_none_or(|tag| {
                    let vid = tag.0 & 0xFFF;
                    config.vfta[usize::from(vid / 32)] >> (vid % 32) & 1 == 1
                });
            let admitted = !naive.local() && vlan_known;
            let mut want = if admitted { naive.wanted() } else { vec![] };
            if want.is_empty() && admitted && port {
                want.extend(config.default_pool.map(usize::from));
            }
            let got = config.route_receive(to, tag);
            prop_assert_eq!(got.pools, mask(&want));
            prop_assert!(!got.uplink);
            prop_assert_eq!(got.reason.is_some(), want.is_empty());
        }

        #[test]
        fn spoof_checks_ask_for_membership(
            config in config(), source in 0u8..8, from in prop::sample::select(&MACS[..]), tag in tag(),
        ) {
            let pool = usize::from(source);
            let mac = config.addresses.iter().any(|f| f.mac == from && f.pools >> pool & 1 == 1);
            let vlan = match tag {
                None => config.pools[pool].accept_untagged,
                Some(tag) => {
                    config.vlans.iter().any(|v| v.vid == tag.0 & 0xFFF && v.pools >> pool & 1 == 1)
                }
            };
            let want = if config.pools[pool].mac_antispoof && !mac {
                Err(DropReason::SpoofedMac)
            } else if config.pools[pool].vlan_antispoof && !vlan {
                Err(DropReason::SpoofedVlan)
            } else {
                Ok(())
            };
            prop_assert_eq!(config.check_spoof(source, from, tag), want);
        }
    }
}
