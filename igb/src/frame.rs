//! Ethernet frames: lengths, addresses, VLAN tags.

use core::fmt;
use core::str::FromStr;

/// Bytes of a MAC address.
pub const ADDRESS_LENGTH: usize = 6;
/// Bytes of an Ethernet header: two addresses and the EtherType.
pub const HEADER_LENGTH: usize = 14;
/// Bytes of a VLAN tag.
pub const TAG_LENGTH: usize = 4;
/// Bytes of the frame check sequence.
pub const FCS_LENGTH: usize = 4;
/// Shortest frame without FCS.
pub const MIN_LENGTH: usize = 60;
/// Longest frame without tag and FCS, when long packets are off.
pub const MAX_LENGTH: usize = 1514;
/// MTU of standard Ethernet.
pub const STANDARD_MTU: usize = 1500;
/// Longest frame the 82576 handles, FCS included: 9.5 KiB (RLPML, VMOLR.RLPML).
pub const MAX_JUMBO_LENGTH: usize = 0x2600;
/// Where the EtherType of an untagged frame lies.
pub const ETHERTYPE_OFFSET: usize = 12;

/// Smallest EtherType; below it the field is a length (IEEE 802.3).
pub const MIN_ETHERTYPE: u16 = 0x0600;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86DD;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad outer tag.
pub const ETHERTYPE_QINQ: u16 = 0x88A8;
/// EtherType of pause frames.
pub const ETHERTYPE_MAC_CONTROL: u16 = 0x8808;
/// EtherType of PTP over Ethernet.
pub const ETHERTYPE_PTP: u16 = 0x88F7;
/// EtherType for local experiments (IEEE 802).
pub const ETHERTYPE_EXPERIMENTAL: u16 = 0x88B5;

/// A MAC address, in the order of the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; ADDRESS_LENGTH]);

impl MacAddress {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: MacAddress = MacAddress([0xFF; ADDRESS_LENGTH]);
    /// 00:00:00:00:00:00, which no station has: "none assigned".
    pub const ZERO: MacAddress = MacAddress([0; ADDRESS_LENGTH]);

    /// The address with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; ADDRESS_LENGTH]) -> Self {
        MacAddress(bytes)
    }

    /// The bytes, in the order of the wire.
    #[must_use]
    pub const fn bytes(self) -> [u8; ADDRESS_LENGTH] {
        self.0
    }

    /// The address at the start of `bytes`; `None` if there are fewer than six.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(MacAddress)
    }

    /// A group address, broadcast included.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The broadcast address.
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        self.to_u64() == Self::BROADCAST.to_u64()
    }

    /// All zeros.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.to_u64() == 0
    }

    /// An address a station can have: neither a group nor zero.
    #[must_use]
    pub const fn is_valid_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// Administered locally, not by a manufacturer.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0[0] & 2 != 0
    }

    /// As two register words: RAL (byte 0 lowest), and bytes 4 and 5 as in RAH. A mailbox message
    /// carries an address in the same form.
    #[must_use]
    pub const fn to_words(self) -> (u32, u16) {
        let b = self.0;
        (
            u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            u16::from_le_bytes([b[4], b[5]]),
        )
    }

    /// The inverse of [`MacAddress::to_words`].
    #[must_use]
    pub const fn from_words(low: u32, high: u16) -> Self {
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f] = high.to_le_bytes();
        MacAddress([a, b, c, d, e, f])
    }

    /// As a number, byte 0 lowest: a key that compares in one operation.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        let (low, high) = self.to_words();
        low as u64 | (high as u64) << 32
    }

    /// Which of the 4096 bits of MTA or UTA the address selects, for an RCTL.MO of 0 to 3.
    #[must_use]
    pub const fn hash(self, mo: u32) -> u16 {
        let top = self.to_u64() >> 32;
        let shift = match mo & 3 {
            0 => 4,
            1 => 3,
            2 => 2,
            _ => 0,
        };
        (top >> shift & 0xFFF) as u16
    }
}

impl From<[u8; ADDRESS_LENGTH]> for MacAddress {
    fn from(bytes: [u8; ADDRESS_LENGTH]) -> Self {
        MacAddress(bytes)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMacAddress;

impl fmt::Display for InvalidMacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: write it as 02:00:00:00:00:01")
    }
}

impl core::error::Error for InvalidMacAddress {}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; ADDRESS_LENGTH];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or(InvalidMacAddress)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(InvalidMacAddress);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMacAddress)?;
        }
        match parts.next() {
            None => Ok(MacAddress(bytes)),
            Some(_) => Err(InvalidMacAddress),
        }
    }
}

/// A VLAN that frames can belong to: 1 to 4094.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(u16);

impl VlanId {
    /// The highest.
    pub const MAX: u16 = 4094;

    /// VLAN `id`; `None` unless it is in 1 to 4094.
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        if id == 0 || id > Self::MAX {
            None
        } else {
            Some(VlanId(id))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = InvalidVlanId;

    fn try_from(id: u16) -> Result<Self, Self::Error> {
        VlanId::new(id).ok_or(InvalidVlanId)
    }
}

impl FromStr for VlanId {
    type Err = InvalidVlanId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<u16>()
            .ok()
            .and_then(VlanId::new)
            .ok_or(InvalidVlanId)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Not a VLAN id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVlanId;

impl fmt::Display for InvalidVlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a VLAN id: use 1 to 4094")
    }
}

impl core::error::Error for InvalidVlanId {}

/// The 16 bits of a VLAN tag after its EtherType: VID, DEI, priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VlanTag(pub u16);

impl VlanTag {
    /// The tag of a VLAN with a priority of 0 to 7.
    #[must_use]
    pub const fn new(vlan: VlanId, priority: u8) -> Self {
        VlanTag(vlan.0 | ((priority & 7) as u16) << 13)
    }

    /// The VLAN id, 0 to 4095; 0 carries a priority only.
    #[must_use]
    pub const fn vid(self) -> u16 {
        self.0 & 0xFFF
    }

    /// The VLAN, unless the id is 0 or 4095.
    #[must_use]
    pub const fn vlan(self) -> Option<VlanId> {
        VlanId::new(self.vid())
    }

    /// The priority.
    #[must_use]
    pub const fn priority(self) -> u8 {
        (self.0 >> 13) as u8
    }

    /// Drop eligible.
    #[must_use]
    pub const fn dei(self) -> bool {
        self.0 & 0x1000 != 0
    }
}
