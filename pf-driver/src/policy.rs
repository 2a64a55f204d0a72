//! What the administrator allows each VF: a file of defaults and exceptions, and the settings of one
//! VF that `ip link set PF vf N ...` changes at run time.

use std::collections::BTreeMap;
use std::path::Path;

use igb::frame::MacAddress;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::PfError;

/// Smallest MTU that IPv4 allows (RFC 791).
pub const MIN_MTU: u32 = 68;
/// Largest MTU: with header, tag and FCS it stays below the card's longest packet.
pub const MAX_MTU: u32 = 9216;
/// MTU of Ethernet, which every VF may use.
pub const DEFAULT_MTU: u32 = 1500;

/// How a VF sees the link: `ip link set PF vf N state ...`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// As the port's link is.
    #[default]
    Auto,
    /// Up, whatever the port's link is: VFs reach each other.
    Enable,
    /// Down, and no traffic.
    Disable,
}

/// A port VLAN: `ip link set PF vf N vlan VID qos PRIORITY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortVlan {
    /// VLAN id, 1 to 4094.
    pub vid: u16,
    /// Priority (PCP), 0 to 7.
    #[serde(default)]
    pub qos: u8,
}

/// The settings of one VF that the administrator owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VfPolicy {
    /// The address the VF must use unless it is trusted; `None`: it may choose.
    #[serde(with = "optional_mac")]
    pub mac: Option<MacAddress>,
    /// A VF whose address nobody set is given one. Otherwise a mailbox driver is told that it has
    /// none, as Linux's igb does it, and chooses one at random.
    #[serde(default = "yes")]
    pub assign_mac: bool,
    /// The VF's frames are tagged with this VLAN and it sees no other.
    pub vlan: Option<PortVlan>,
    /// VLANs the VF may join; `None`: any.
    pub allowed_vlans: Option<Vec<u16>>,
    /// How many VLANs it may join at once. The card has 32 for all.
    pub max_vlans: u8,
    /// How many addresses it may have besides its own. The card has 16 for all.
    pub max_mac_filters: u8,
    /// Largest MTU it may use, in bytes; `None`: the PF's.
    pub max_mtu: Option<u32>,
    /// A trusted VF may replace an address that the administrator set, and receive unknown unicast.
    pub trust: bool,
    /// Frames it sends with a source address or VLAN not its own are dropped.
    pub spoofchk: bool,
    /// How it sees the link.
    pub link_state: LinkState,
    /// Limit on what it sends, in Mbit/s; 0: none.
    pub max_tx_rate: u32,
}

/// State files of before have no word for it.
fn yes() -> bool {
    true
}

impl Default for VfPolicy {
    fn default() -> Self {
        Self {
            mac: None,
            assign_mac: true,
            vlan: None,
            allowed_vlans: None,
            max_vlans: 4,
            max_mac_filters: 2,
            max_mtu: None,
            trust: false,
            spoofchk: true,
            link_state: LinkState::Auto,
            max_tx_rate: 0,
        }
    }
}

/// A part of a [`VfPolicy`]: only what is named differs from what it is laid over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VfRules {
    /// See [`VfPolicy::mac`].
    #[serde(with = "optional_mac", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// See [`VfPolicy::assign_mac`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assign_mac: Option<bool>,
    /// See [`VfPolicy::vlan`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<PortVlan>,
    /// See [`VfPolicy::allowed_vlans`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_vlans: Option<Vec<u16>>,
    /// See [`VfPolicy::max_vlans`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_vlans: Option<u8>,
    /// See [`VfPolicy::max_mac_filters`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_mac_filters: Option<u8>,
    /// See [`VfPolicy::max_mtu`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_mtu: Option<u32>,
    /// See [`VfPolicy::trust`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// See [`VfPolicy::spoofchk`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spoofchk: Option<bool>,
    /// See [`VfPolicy::link_state`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_state: Option<LinkState>,
    /// See [`VfPolicy::max_tx_rate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tx_rate: Option<u32>,
}

impl VfRules {
    fn over(&self, mut below: VfPolicy) -> VfPolicy {
        if let Some(mac) = self.mac {
            below.mac = Some(mac);
        }
        if let Some(vlan) = self.vlan {
            below.vlan = Some(vlan);
        }
        if let Some(allowed) = &self.allowed_vlans {
            below.allowed_vlans = Some(allowed.clone());
        }
        if let Some(mtu) = self.max_mtu {
            below.max_mtu = Some(mtu);
        }
        below.assign_mac = self.assign_mac.unwrap_or(below.assign_mac);
        below.max_vlans = self.max_vlans.unwrap_or(below.max_vlans);
        below.max_mac_filters = self.max_mac_filters.unwrap_or(below.max_mac_filters);
        below.trust = self.trust.unwrap_or(below.trust);
        below.spoofchk = self.spoofchk.unwrap_or(below.spoofchk);
        below.link_state = self.link_state.unwrap_or(below.link_state);
        below.max_tx_rate = self.max_tx_rate.unwrap_or(below.max_tx_rate);
        below
    }
}

/// The policy file: what holds for every VF, and what differs for some.
///
/// ```json
/// { "defaults": { "max_mtu": 1500 },
///   "vfs": { "0": { "mac": "02:00:00:00:00:10", "trust": true }, "1": { "vlan": { "vid": 10 } } } }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// For every VF.
    pub defaults: VfRules,
    /// For VF n, laid over the defaults.
    pub vfs: BTreeMap<u8, VfRules>,
}

impl Policy {
    /// Reads a policy file and checks that it makes sense.
    ///
    /// # Errors
    ///
    /// [`PfError::PolicyRead`], [`PfError::PolicyParse`] or [`PfError::PolicyValue`].
    pub fn load(path: &Path) -> Result<Self, PfError> {
        let text = std::fs::read_to_string(path).map_err(|source| PfError::PolicyRead {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Parses a policy and checks that it makes sense.
    ///
    /// # Errors
    ///
    /// [`PfError::PolicyParse`] or [`PfError::PolicyValue`].
    pub fn parse(text: &str) -> Result<Self, PfError> {
        let policy: Self = serde_json::from_str(text).map_err(PfError::PolicyParse)?;
        if policy.defaults.mac.is_some() {
            return Err(PfError::PolicyValue(
                "defaults.mac: an address belongs to one VF",
            ));
        }
        // Rules for a VF that can never be are meant for another one.
        if policy.vfs.keys().any(|vf| *vf >= crate::vport::MAX_VFS) {
            return Err(PfError::PolicyValue("vfs: VFs are numbered 0 to 6"));
        }
        let mut macs = Vec::new();
        for rules in std::iter::once(&policy.defaults).chain(policy.vfs.values()) {
            rules.over(VfPolicy::default()).check()?;
            if let Some(mac) = rules.mac {
                if macs.contains(&mac) {
                    return Err(PfError::PolicyValue("mac: two VFs have the same address"));
                }
                macs.push(mac);
            }
        }
        Ok(policy)
    }

    /// What holds for VF `vf`.
    #[must_use]
    pub fn of(&self, vf: u8) -> VfPolicy {
        let below = self.defaults.over(VfPolicy::default());
        match self.vfs.get(&vf) {
            Some(rules) => rules.over(below),
            None => below,
        }
    }
}

impl VfPolicy {
    /// Whether every value is one that the card can hold.
    ///
    /// # Errors
    ///
    /// [`PfError::PolicyValue`] names the one that is not.
    pub fn check(&self) -> Result<(), PfError> {
        if self.mac.is_some_and(|mac| !mac.is_valid_unicast()) {
            return Err(PfError::PolicyValue("mac: zero, multicast or broadcast"));
        }
        if let Some(vlan) = self.vlan {
            vlan.check()?;
        }
        if let Some(allowed) = &self.allowed_vlans
            && !allowed.iter().all(|vid| (1..4095).contains(vid))
        {
            return Err(PfError::PolicyValue(
                "allowed_vlans: a VLAN id is 1 to 4094",
            ));
        }
        if self
            .max_mtu
            .is_some_and(|mtu| !(MIN_MTU..=MAX_MTU).contains(&mtu))
        {
            return Err(PfError::PolicyValue("max_mtu: 68 to 9216"));
        }
        if self.max_tx_rate > crate::vport::LINK_MBITS {
            return Err(PfError::PolicyValue("max_tx_rate: 0 to 1000 Mbit/s"));
        }
        Ok(())
    }
}

impl PortVlan {
    /// Whether the id is 1 to 4094 and the priority 0 to 7.
    ///
    /// # Errors
    ///
    /// [`PfError::PolicyValue`] names the one that is not.
    pub fn check(self) -> Result<(), PfError> {
        if !(1..4095).contains(&self.vid) {
            return Err(PfError::PolicyValue("vlan: a VLAN id is 1 to 4094"));
        }
        if self.qos > 7 {
            return Err(PfError::PolicyValue("qos: 0 to 7"));
        }
        Ok(())
    }
}

/// An address as text, `02:00:00:00:00:01`.
pub(crate) mod mac {
    use super::{Deserialize, Deserializer, MacAddress, Serializer};

    pub(crate) fn serialize<S: Serializer>(mac: &MacAddress, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(mac)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MacAddress, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is no MAC address")))
    }
}

/// An address as text, or null.
pub(crate) mod optional_mac {
    use super::{Deserialize, Deserializer, MacAddress, Serialize, Serializer, mac};

    #[derive(Serialize, Deserialize)]
    struct Text(#[serde(with = "mac")] MacAddress);

    pub(crate) fn serialize<S: Serializer>(
        mac: &Option<MacAddress>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        mac.map(Text).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<MacAddress>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|text| text.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_lie_over_defaults() {
        let policy = Policy::parse(
            r#"{ "defaults": { "max_mtu": 1400, "spoofchk": false },
                 "vfs": { "0": { "assign_mac": false },
                          "1": { "mac": "02:00:00:00:00:10", "spoofchk": true,
                                 "vlan": { "vid": 10, "qos": 3 } } } }"#,
        )
        .unwrap();
        assert_eq!(policy.of(0).max_mtu, Some(1400));
        assert!(!policy.of(0).spoofchk);
        assert_eq!(policy.of(0).mac, None);
        assert!(!policy.of(0).assign_mac && policy.of(1).assign_mac);
        assert_eq!(policy.of(1).max_mtu, Some(1400));
        assert!(policy.of(1).spoofchk);
        assert_eq!(policy.of(1).vlan, Some(PortVlan { vid: 10, qos: 3 }));
        assert_eq!(policy.of(1).mac, "02:00:00:00:00:10".parse().ok());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            r#"{ "vfs": { "0": { "mac": "01:00:00:00:00:10" } } }"#,
            r#"{ "vfs": { "0": { "mac": "00:00:00:00:00:00" } } }"#,
            r#"{ "vfs": { "0": { "vlan": { "vid": 4095 } } } }"#,
            r#"{ "vfs": { "0": { "vlan": { "vid": 0 } } } }"#,
            r#"{ "vfs": { "0": { "vlan": { "vid": 1, "qos": 8 } } } }"#,
            r#"{ "defaults": { "allowed_vlans": [4095] } }"#,
            r#"{ "vfs": { "7": { "max_mtu": 1400 } } }"#,
            r#"{ "defaults": { "max_mtu": 67 } }"#,
            r#"{ "defaults": { "max_tx_rate": 1001 } }"#,
            r#"{ "defaults": { "mac": "02:00:00:00:00:10" } }"#,
            r#"{ "defaults": { "trusted": true } }"#,
            r#"{ "vfs": { "0": { "mac": "02:00:00:00:00:10" }, "1": { "mac": "02:00:00:00:00:10" } } }"#,
        ] {
            assert!(Policy::parse(text).is_err(), "{text}");
        }
    }
}
