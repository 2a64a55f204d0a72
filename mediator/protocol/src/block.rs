//! What VF driver and PF driver say to each other inside config blocks.
//!
//! | block | read | write | invalidated |
//! |---|---|---|---|
//! | [`CONTROL`] | [`Control`] | [`Accept`] | when the offer changes |
//! | [`CONFIG`] | [`Config`] | - | on every change |
//! | [`STATS`] | [`Stats`] | - | never |
//! | [`REQUEST`] | - | [`VfRequest`] | - |
//!
//! The verdict of a write is the request's [`crate::Status`]. Blocks 0 to 63 can be invalidated,
//! the others cannot. A VF driver begins with: read CONTROL, write CONTROL (accept), write
//! REQUEST ([`VfRequest::Init`]), read CONFIG.

use crate::wire::{Reader, flags};
use crate::{BlockData, Invalid, MAX_BLOCK};

/// Block id of [`Control`] and [`Accept`].
pub const CONTROL: u32 = 0;
/// Block id of [`Config`].
pub const CONFIG: u32 = 1;
/// Block id of [`Stats`].
pub const STATS: u32 = 2;
/// Block id of [`VfRequest`].
pub const REQUEST: u32 = 64;

/// Version of the messages in this module.
pub const VERSION: u16 = 1;
/// Most multicast addresses in one [`VfRequest::SetMulticast`].
pub const MAX_MULTICAST: usize = (MAX_BLOCK - HEADER) / 6;
/// Bytes before the payload of a [`VfRequest`].
const HEADER: usize = 4;

/// An Ethernet address in wire order.
pub type Mac = [u8; 6];

/// The bit of a block in an invalidation mask; `None` for blocks that cannot be invalidated.
pub fn invalidation_bit(block: u32) -> Option<u64> {
    1u64.checked_shl(block)
}

bitflags::bitflags! {
    /// What PF and VF driver agree on. The PF offers, the VF accepts a part of it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Features: u32 {
        /// [`VfRequest::AddMac`] and [`VfRequest::DelMac`].
        const EXTRA_MACS = 1;
        /// [`VfRequest::AddVlan`] and [`VfRequest::DelVlan`].
        const VLANS = 1 << 1;
        /// [`VfRequest::SetMulticast`] with exact addresses.
        const MULTICAST = 1 << 2;
        /// [`VfRequest::SetMtu`].
        const MTU = 1 << 3;
        /// [`VfRequest::SetPromisc`].
        const PROMISC = 1 << 4;
        /// [`Stats`] can be read.
        const STATS = 1 << 5;
    }

    /// Flags in [`Config`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ConfigFlags: u16 {
        /// The MAC was set by the administrator; the VF may not change it.
        const MAC_BY_ADMIN = 1;
        /// The VLAN was set by the administrator (port VLAN): frames are tagged for the VF.
        const VLAN_BY_ADMIN = 1 << 1;
        /// Link up.
        const LINK_UP = 1 << 2;
        /// The administrator trusts the VF.
        const TRUSTED = 1 << 3;
        /// Source MAC and VLAN of sent frames are checked.
        const SPOOFCHK = 1 << 4;
        /// Unicast promiscuous mode is granted and on.
        const PROMISC_UNICAST = 1 << 5;
        /// Multicast promiscuous mode is granted and on.
        const PROMISC_MULTICAST = 1 << 6;
    }
}

/// Block [`CONTROL`] as the VF reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// The PF driver's [`VERSION`].
    pub version: u16,
    /// What the PF driver offers.
    pub offered: Features,
    /// What this VF has accepted since its last reset.
    pub accepted: Features,
}

impl Control {
    /// Parse a block's content.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut r = Reader::new(bytes);
        let version = r.u16()?;
        r.reserved(2, "CONTROL")?;
        // A newer PF may offer what we do not know: it is only an offer.
        let offered = Features::from_bits_truncate(r.u32()?);
        let accepted = flags(r.u32()?, "CONTROL accepted")?;
        r.finish()?;
        Ok(Self {
            version,
            offered,
            accepted,
        })
    }

    /// The block's content.
    pub fn encode(&self) -> BlockData {
        let mut out = Vec::with_capacity(12);
        out.extend(self.version.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.offered.bits().to_le_bytes());
        out.extend(self.accepted.bits().to_le_bytes());
        bounded(&out)
    }
}

/// Block [`CONTROL`] as the VF writes it, once after each reset. The PF driver refuses a second
/// one, another version, and features that it did not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept {
    /// The VF driver's [`VERSION`].
    pub version: u16,
    /// What it will use.
    pub features: Features,
}

impl Accept {
    /// Parse a block's content.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut r = Reader::new(bytes);
        let version = r.u16()?;
        r.reserved(2, "CONTROL")?;
        let features = flags(r.u32()?, "CONTROL accepted")?;
        r.finish()?;
        Ok(Self { version, features })
    }

    /// The block's content.
    pub fn encode(&self) -> BlockData {
        let mut out = Vec::with_capacity(8);
        out.extend(self.version.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.features.bits().to_le_bytes());
        bounded(&out)
    }
}

/// Block [`CONFIG`]: what the PF has decided for this VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// The VF's MAC; zero: none assigned, the VF picks one and asks for it.
    pub mac: Mac,
    /// See [`ConfigFlags`].
    pub flags: ConfigFlags,
    /// Port VLAN, 0 for none.
    pub vlan: u16,
    /// Priority of the port VLAN.
    pub qos: u8,
    /// MTU in force, bytes.
    pub mtu: u32,
    /// Largest MTU that the VF may ask for, bytes.
    pub max_mtu: u32,
    /// Link speed, Mb/s.
    pub speed: u32,
    /// Transmit rate limit, Mb/s; 0 for none.
    pub max_tx_rate: u32,
}

impl Config {
    /// Parse a block's content.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut r = Reader::new(bytes);
        let mac = r.array()?;
        let flags = flags(r.u16()?, "CONFIG flags")?;
        let vlan = vlan_id(&mut r)?;
        let qos = match r.u8()? {
            qos @ 0..=7 => qos,
            value => {
                return Err(Invalid::Value {
                    field: "QoS",
                    value: value.into(),
                });
            }
        };
        r.reserved(1, "CONFIG")?;
        let config = Self {
            mac,
            flags,
            vlan,
            qos,
            mtu: r.u32()?,
            max_mtu: r.u32()?,
            speed: r.u32()?,
            max_tx_rate: r.u32()?,
        };
        r.finish()?;
        Ok(config)
    }

    /// The block's content.
    pub fn encode(&self) -> BlockData {
        let mut out = Vec::with_capacity(28);
        out.extend(self.mac);
        out.extend(self.flags.bits().to_le_bytes());
        out.extend(self.vlan.to_le_bytes());
        out.extend([self.qos, 0]);
        for value in [self.mtu, self.max_mtu, self.speed, self.max_tx_rate] {
            out.extend(value.to_le_bytes());
        }
        bounded(&out)
    }
}

/// Block [`STATS`]: the card's counters for this VF, as the PF driver sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Frames delivered to the VF.
    pub rx_packets: u64,
    /// Bytes delivered to the VF.
    pub rx_bytes: u64,
    /// Multicast frames delivered to the VF.
    pub rx_multicast: u64,
    /// Frames for the VF that were dropped.
    pub rx_dropped: u64,
    /// Frames sent by the VF.
    pub tx_packets: u64,
    /// Bytes sent by the VF.
    pub tx_bytes: u64,
    /// Frames of the VF that were dropped.
    pub tx_dropped: u64,
    /// Frames of the VF that were dropped because of their source.
    pub tx_spoofed: u64,
}

impl Stats {
    /// Parse a block's content.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut r = Reader::new(bytes);
        let stats = Self {
            rx_packets: r.u64()?,
            rx_bytes: r.u64()?,
            rx_multicast: r.u64()?,
            rx_dropped: r.u64()?,
            tx_packets: r.u64()?,
            tx_bytes: r.u64()?,
            tx_dropped: r.u64()?,
            tx_spoofed: r.u64()?,
        };
        r.finish()?;
        Ok(stats)
    }

    /// The block's content.
    pub fn encode(&self) -> BlockData {
        let fields = [
            self.rx_packets,
            self.rx_bytes,
            self.rx_multicast,
            self.rx_dropped,
            self.tx_packets,
            self.tx_bytes,
            self.tx_dropped,
            self.tx_spoofed,
        ];
        let mut out = Vec::with_capacity(64);
        out.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        bounded(&out)
    }
}

/// Up to [`MAX_MULTICAST`] addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MulticastList {
    macs: [Mac; MAX_MULTICAST],
    count: u8,
}

impl MulticastList {
    /// A copy of `macs`.
    pub fn new(macs: &[Mac]) -> Result<Self, Invalid> {
        let mut all = [[0; 6]; MAX_MULTICAST];
        all.get_mut(..macs.len())
            .ok_or(Invalid::TooLong {
                length: u32::try_from(macs.len()).unwrap_or(u32::MAX),
                limit: MAX_MULTICAST as u32,
            })?
            .copy_from_slice(macs);
        Ok(Self {
            macs: all,
            count: macs.len() as u8,
        })
    }
}

impl std::ops::Deref for MulticastList {
    type Target = [Mac];
    fn deref(&self) -> &[Mac] {
        &self.macs[..usize::from(self.count)]
    }
}

/// What a VF writes to block [`REQUEST`]. Nothing here is granted by being asked: the PF driver
/// decides, and the MAC addresses are whatever the VF wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VfRequest {
    /// Begin: forget this VF's filters and enable its queues (as mailbox RESET).
    Init,
    /// Change the VF's own MAC.
    SetMac(Mac),
    /// Receive a further unicast address.
    AddMac(Mac),
    /// No longer receive it.
    DelMac(Mac),
    /// Receive and send a VLAN.
    AddVlan(u16),
    /// No longer.
    DelVlan(u16),
    /// The multicast addresses to receive. Longer lists come in several requests.
    SetMulticast {
        /// Add to the list instead of replacing it.
        append: bool,
        /// The addresses.
        list: MulticastList,
    },
    /// Change the MTU, bytes.
    SetMtu(u32),
    /// Turn promiscuous modes on or off.
    SetPromisc {
        /// Unknown unicast addresses.
        unicast: bool,
        /// All multicast addresses.
        multicast: bool,
    },
}

const OP_INIT: u8 = 1;
const OP_SET_MAC: u8 = 2;
const OP_ADD_MAC: u8 = 3;
const OP_DEL_MAC: u8 = 4;
const OP_ADD_VLAN: u8 = 5;
const OP_DEL_VLAN: u8 = 6;
const OP_SET_MULTICAST: u8 = 7;
const OP_SET_MTU: u8 = 8;
const OP_SET_PROMISC: u8 = 9;

const APPEND: u8 = 1;
const PROMISC_UNICAST: u8 = 1;
const PROMISC_MULTICAST: u8 = 1 << 1;

impl VfRequest {
    /// Parse a block's content: `{op: u8, flags: u8, count: u16}`, then the payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut r = Reader::new(bytes);
        let (op, flags, count) = (r.u8()?, r.u8()?, r.u16()?);
        let known_flags = match op {
            OP_SET_MULTICAST => APPEND,
            OP_SET_PROMISC => PROMISC_UNICAST | PROMISC_MULTICAST,
            _ => 0,
        };
        if flags & !known_flags != 0 {
            return Err(Invalid::Reserved {
                field: "request flags",
                bits: (flags & !known_flags).into(),
            });
        }
        if op != OP_SET_MULTICAST && count != 0 {
            return Err(Invalid::Reserved {
                field: "request count",
                bits: count.into(),
            });
        }
        let request = match op {
            OP_INIT => Self::Init,
            OP_SET_MAC => Self::SetMac(r.array()?),
            OP_ADD_MAC => Self::AddMac(r.array()?),
            OP_DEL_MAC => Self::DelMac(r.array()?),
            OP_ADD_VLAN => Self::AddVlan(vlan_id(&mut r)?),
            OP_DEL_VLAN => Self::DelVlan(vlan_id(&mut r)?),
            OP_SET_MULTICAST => {
                if usize::from(count) > MAX_MULTICAST {
                    return Err(Invalid::TooLong {
                        length: count.into(),
                        limit: MAX_MULTICAST as u32,
                    });
                }
                let mut macs = [[0; 6]; MAX_MULTICAST];
                for mac in &mut macs[..usize::from(count)] {
                    *mac = r.array()?;
                }
                let list = MulticastList::new(&macs[..usize::from(count)])?;
                Self::SetMulticast {
                    append: flags & APPEND != 0,
                    list,
                }
            }
            OP_SET_MTU => Self::SetMtu(r.u32()?),
            OP_SET_PROMISC => Self::SetPromisc {
                unicast: flags & PROMISC_UNICAST != 0,
                multicast: flags & PROMISC_MULTICAST != 0,
            },
            value => {
                return Err(Invalid::Value {
                    field: "request operation",
                    value: value.into(),
                });
            }
        };
        r.finish()?;
        Ok(request)
    }

    /// The block's content.
    pub fn encode(&self) -> BlockData {
        let mut out = vec![0; HEADER];
        let op = match self {
            Self::Init => OP_INIT,
            Self::SetMac(mac) => {
                out.extend(mac);
                OP_SET_MAC
            }
            Self::AddMac(mac) => {
                out.extend(mac);
                OP_ADD_MAC
            }
            Self::DelMac(mac) => {
                out.extend(mac);
                OP_DEL_MAC
            }
            Self::AddVlan(vlan) => {
                out.extend(vlan.to_le_bytes());
                OP_ADD_VLAN
            }
            Self::DelVlan(vlan) => {
                out.extend(vlan.to_le_bytes());
                OP_DEL_VLAN
            }
            Self::SetMulticast { append, list } => {
                out[1] = if *append { APPEND } else { 0 };
                out[2..4].copy_from_slice(&u16::from(list.count).to_le_bytes());
                out.extend(list.iter().flatten());
                OP_SET_MULTICAST
            }
            Self::SetMtu(mtu) => {
                out.extend(mtu.to_le_bytes());
                OP_SET_MTU
            }
            Self::SetPromisc { unicast, multicast } => {
                out[1] = if *unicast { PROMISC_UNICAST } else { 0 }
                    | if *multicast { PROMISC_MULTICAST } else { 0 };
                OP_SET_PROMISC
            }
        };
        out[0] = op;
        bounded(&out)
    }

    /// Its name, as logs and reports show it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::SetMac(_) => "set-mac",
            Self::AddMac(_) => "add-mac",
            Self::DelMac(_) => "del-mac",
            Self::AddVlan(_) => "add-vlan",
            Self::DelVlan(_) => "del-vlan",
            Self::SetMulticast { .. } => "set-multicast",
            Self::SetMtu(_) => "set-mtu",
            Self::SetPromisc { .. } => "set-promisc",
        }
    }
}

/// A VLAN id: 12 bits, 4095 is reserved (IEEE 802.1Q).
fn vlan_id(r: &mut Reader<'_>) -> Result<u16, Invalid> {
    match r.u16()? {
        vlan @ 0..=4094 => Ok(vlan),
        value => Err(Invalid::Value {
            field: "VLAN id",
            value: value.into(),
        }),
    }
}

fn bounded(bytes: &[u8]) -> BlockData {
    BlockData::new(bytes).expect("messages of this module are shorter than a block")
}
