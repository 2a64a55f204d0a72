//! Mailbox messages between VF and PF, as igb and igbvf speak them over VMBMEM.

use core::fmt;

use crate::frame::MacAddress;

/// Words of a VF's mailbox memory.
pub const WORDS: usize = 16;
/// Most multicast hashes in one message; more are told by the count alone.
pub const MAX_HASHES: usize = 30;
/// The hash bits of a multicast hash (an index into MTA).
pub const HASH_MASK: u16 = 0xFFF;

/// A message, word 0 first.
pub type Words = [u32; WORDS];

/// In word 0 of an answer: done.
pub const ACK: u32 = 0x8000_0000;
/// In word 0 of an answer: refused.
pub const NACK: u32 = 0x4000_0000;
/// In word 0 of a message of the PF: the VF is clear to send requests.
pub const CTS: u32 = 0x2000_0000;
/// In word 0: what is being asked for or answered.
pub const ID_MASK: u32 = 0xFFFF;
/// Where the info field of word 0 starts.
pub const INFO_SHIFT: u32 = 16;
/// The info field of word 0: bits 23:16.
pub const INFO_MASK: u32 = 0xFF << INFO_SHIFT;

/// What a message is about: bits 15:0 of word 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum MessageId {
    /// The VF was reset and wants its MAC address.
    Reset = 1,
    /// A MAC address, or a change of the unicast filters.
    SetMac = 2,
    /// The multicast hashes.
    SetMulticast = 3,
    /// A VLAN filter.
    SetVlan = 4,
    /// The longest packet.
    SetLpe = 5,
    /// Promiscuous modes.
    SetPromisc = 6,
    /// PF to VF: look at the link, or at a reset.
    PfControl = 0x100,
}

impl MessageId {
    /// The id of a word 0.
    #[must_use]
    pub const fn of(word0: u32) -> Option<Self> {
        Some(match word0 & ID_MASK {
            1 => MessageId::Reset,
            2 => MessageId::SetMac,
            3 => MessageId::SetMulticast,
            4 => MessageId::SetVlan,
            5 => MessageId::SetLpe,
            6 => MessageId::SetPromisc,
            0x100 => MessageId::PfControl,
            _ => return None,
        })
    }

    const fn word(self, info: u8) -> u32 {
        self as u32 | (info as u32) << INFO_SHIFT
    }
}

const INFO_FILTER_CLEAR: u8 = 1;
const INFO_FILTER_ADD: u8 = 2;
const INFO_VLAN_ADD: u8 = 1;
const INFO_PROMISC_UNICAST: u8 = 1;
const INFO_PROMISC_MULTICAST: u8 = 2;

/// The multicast hashes of a message: a bounded list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hashes {
    count: u8,
    hashes: [u16; MAX_HASHES],
}

impl Hashes {
    /// The list of `hashes`. With more than [`MAX_HASHES`] the list holds the first ones and
    /// [`Hashes::overflows`]: the VF then wants all multicast. At most 255 are counted.
    #[must_use]
    pub fn new(hashes: impl IntoIterator<Item = u16>) -> Self {
        let mut list = Hashes {
            count: 0,
            hashes: [0; MAX_HASHES],
        };
        for hash in hashes.into_iter().take(u8::MAX as usize) {
            if let Some(place) = list.hashes.get_mut(list.count as usize) {
                *place = hash;
            }
            list.count += 1;
        }
        list
    }

    /// The hashes in the message, at most [`MAX_HASHES`].
    #[must_use]
    pub fn as_slice(&self) -> &[u16] {
        &self.hashes[..(self.count as usize).min(MAX_HASHES)]
    }

    /// Whether the VF has more groups than the message can hold.
    #[must_use]
    pub const fn overflows(&self) -> bool {
        self.count as usize > MAX_HASHES
    }

    /// How many groups the VF says it has.
    #[must_use]
    pub const fn count(&self) -> u8 {
        self.count
    }
}

impl fmt::Debug for Hashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:x?}", self.count, self.as_slice())
    }
}

/// A request of a VF. Parsing checks the form only; whether it may is the PF's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfMessage {
    /// The VF was reset; the answer carries its MAC address.
    Reset,
    /// Take this MAC address.
    SetMac(MacAddress),
    /// Drop every additional unicast filter.
    ClearMacFilters,
    /// Receive this unicast address too.
    AddMacFilter(MacAddress),
    /// Receive these multicast groups and no other.
    SetMulticast(Hashes),
    /// Join or leave a VLAN, 0 to 4095.
    SetVlan {
        /// Join.
        add: bool,
        /// The VLAN id.
        vid: u16,
    },
    /// Longest packet, in bytes, FCS included.
    SetLpe(u32),
    /// Promiscuous modes; both false ends them.
    SetPromisc {
        /// Receive every unicast frame.
        unicast: bool,
        /// Receive every multicast frame.
        multicast: bool,
    },
}

/// Why words are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Word 0 names no request; it is given.
    UnknownMessage(u32),
    /// The info field says something that the message does not know; word 0 is given.
    UnknownInfo(u32),
    /// A VLAN id above 4095; the word is given.
    VlanId(u32),
    /// Word 0 of an answer has neither ACK nor NACK; it is given.
    NoAnswer(u32),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invalid::UnknownMessage(word) => write!(f, "mailbox word {word:#010x} is no request"),
            Invalid::UnknownInfo(word) => {
                write!(f, "mailbox word {word:#010x} has an unknown info field")
            }
            Invalid::VlanId(word) => write!(f, "{word:#x} is no VLAN id"),
            Invalid::NoAnswer(word) => {
                write!(f, "mailbox word {word:#010x} is neither ACK nor NACK")
            }
        }
    }
}

impl core::error::Error for Invalid {}

const fn mac_words(mac: MacAddress) -> (u32, u32) {
    let (low, high) = mac.to_words();
    (low, high as u32)
}

const fn words_mac(words: &Words) -> MacAddress {
    MacAddress::from_words(words[1], words[2] as u16)
}

impl VfMessage {
    /// Reads a request. The flag bits of word 0 (31:24) are ignored: VFs echo CTS.
    ///
    /// # Errors
    /// The words are no request that igbvf or DPDK could have meant.
    pub fn parse(words: &Words) -> Result<Self, Invalid> {
        let word0 = words[0];
        let info = (word0 >> INFO_SHIFT) as u8;
        Ok(match MessageId::of(word0) {
            Some(MessageId::Reset) => VfMessage::Reset,
            Some(MessageId::SetMac) => match info {
                0 => VfMessage::SetMac(words_mac(words)),
                INFO_FILTER_CLEAR => VfMessage::ClearMacFilters,
                INFO_FILTER_ADD => VfMessage::AddMacFilter(words_mac(words)),
                _ => return Err(Invalid::UnknownInfo(word0)),
            },
            Some(MessageId::SetMulticast) => {
                let mut list = Hashes::new([]);
                list.count = info;
                for (n, hash) in list.hashes.iter_mut().take(info as usize).enumerate() {
                    *hash = (words[1 + n / 2] >> (16 * (n % 2))) as u16;
                }
                VfMessage::SetMulticast(list)
            }
            Some(MessageId::SetVlan) => {
                let vid = words[1];
                if vid > 0xFFF {
                    return Err(Invalid::VlanId(vid));
                }
                match info {
                    0 | INFO_VLAN_ADD => VfMessage::SetVlan {
                        add: info == INFO_VLAN_ADD,
                        vid: vid as u16,
                    },
                    _ => return Err(Invalid::UnknownInfo(word0)),
                }
            }
            Some(MessageId::SetLpe) => VfMessage::SetLpe(words[1]),
            Some(MessageId::SetPromisc) => {
                if info & !(INFO_PROMISC_UNICAST | INFO_PROMISC_MULTICAST) != 0 {
                    return Err(Invalid::UnknownInfo(word0));
                }
                VfMessage::SetPromisc {
                    unicast: info & INFO_PROMISC_UNICAST != 0,
                    multicast: info & INFO_PROMISC_MULTICAST != 0,
                }
            }
            Some(MessageId::PfControl) | None => return Err(Invalid::UnknownMessage(word0)),
        })
    }

    /// What it is about.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        match self {
            VfMessage::Reset => MessageId::Reset,
            VfMessage::SetMac(_) | VfMessage::ClearMacFilters | VfMessage::AddMacFilter(_) => {
                MessageId::SetMac
            }
            VfMessage::SetMulticast(_) => MessageId::SetMulticast,
            VfMessage::SetVlan { .. } => MessageId::SetVlan,
            VfMessage::SetLpe(_) => MessageId::SetLpe,
            VfMessage::SetPromisc { .. } => MessageId::SetPromisc,
        }
    }

    /// The words of the request; those it does not need are 0.
    #[must_use]
    pub fn encode(&self) -> Words {
        let mut words = [0; WORDS];
        let mut info = 0;
        match *self {
            VfMessage::Reset => {}
            VfMessage::SetMac(mac) => (words[1], words[2]) = mac_words(mac),
            VfMessage::ClearMacFilters => info = INFO_FILTER_CLEAR,
            VfMessage::AddMacFilter(mac) => {
                info = INFO_FILTER_ADD;
                (words[1], words[2]) = mac_words(mac);
            }
            VfMessage::SetMulticast(hashes) => {
                info = hashes.count;
                for (n, hash) in hashes.as_slice().iter().enumerate() {
                    words[1 + n / 2] |= u32::from(*hash) << (16 * (n % 2));
                }
            }
            VfMessage::SetVlan { add, vid } => {
                info = if add { INFO_VLAN_ADD } else { 0 };
                words[1] = u32::from(vid);
            }
            VfMessage::SetLpe(length) => words[1] = length,
            VfMessage::SetPromisc { unicast, multicast } => {
                if unicast {
                    info |= INFO_PROMISC_UNICAST;
                }
                if multicast {
                    info |= INFO_PROMISC_MULTICAST;
                }
            }
        }
        words[0] = self.id().word(info);
        words
    }
}

/// A message of the PF: the answer to a request, or one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PfReply {
    /// The answer to RESET: take this MAC address.
    ResetAck(MacAddress),
    /// The answer to RESET when no MAC address is assigned: the VF picks one.
    ResetNack,
    /// Done.
    Ack {
        /// Word 0 of the request.
        request: u32,
        /// The VF is clear to send.
        cts: bool,
    },
    /// Refused.
    Nack {
        /// Word 0 of the request.
        request: u32,
        /// The VF is clear to send; without it the VF must RESET first.
        cts: bool,
    },
    /// Not an answer: look at the link, or at a reset.
    Control {
        /// The VF is clear to send; without it the VF must RESET first.
        cts: bool,
    },
}

/// Bits of a request's word 0 that its answer echoes.
const ECHO: u32 = ID_MASK | INFO_MASK;

/// What a refusal echoes of word 0 of `request`. igbvf takes a refused VLAN for a granted one unless
/// the info field of the answer is 0; for the other messages it looks for the one that it sent.
#[must_use]
pub const fn refused_echo(request: u32) -> u32 {
    match MessageId::of(request) {
        Some(MessageId::SetVlan) => request & ID_MASK,
        _ => request & ECHO,
    }
}

impl PfReply {
    /// Reads a message of the PF.
    ///
    /// # Errors
    /// It is neither an answer nor a control message.
    pub fn parse(words: &Words) -> Result<Self, Invalid> {
        let word0 = words[0];
        let cts = word0 & CTS != 0;
        let id = MessageId::of(word0);
        if word0 & (ACK | NACK) == 0 {
            return match id {
                Some(MessageId::PfControl) => Ok(PfReply::Control { cts }),
                _ => Err(Invalid::NoAnswer(word0)),
            };
        }
        // A message with both bits is a refusal.
        let nack = word0 & NACK != 0;
        let request = word0 & ECHO;
        Ok(match (id, nack) {
            (Some(MessageId::Reset), false) => PfReply::ResetAck(words_mac(words)),
            (Some(MessageId::Reset), true) => PfReply::ResetNack,
            (_, false) => PfReply::Ack { request, cts },
            (_, true) => PfReply::Nack { request, cts },
        })
    }

    /// The words of the message; those it does not need are 0.
    #[must_use]
    pub fn encode(&self) -> Words {
        let mut words = [0; WORDS];
        let cts_bit = |cts: bool| if cts { CTS } else { 0 };
        words[0] = match *self {
            PfReply::ResetAck(mac) => {
                (words[1], words[2]) = mac_words(mac);
                ACK | MessageId::Reset.word(0)
            }
            PfReply::ResetNack => NACK | MessageId::Reset.word(0),
            PfReply::Ack { request, cts } => ACK | cts_bit(cts) | request & ECHO,
            PfReply::Nack { request, cts } => NACK | cts_bit(cts) | refused_echo(request),
            PfReply::Control { cts } => MessageId::PfControl.word(0) | cts_bit(cts),
        };
        words
    }

    /// How many words matter to the VF.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            PfReply::ResetAck(_) => 3,
            _ => 1,
        }
    }

    /// Never: a message has at least word 0.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }
}
