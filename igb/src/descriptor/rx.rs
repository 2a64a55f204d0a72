//! Receive descriptors: advanced (datasheet 7.1.5) and legacy (7.1.4).

use core::fmt;

use bitflags::bitflags;

use super::{bits, descriptor, with_bits};

bitflags! {
    /// Status and errors of a received packet: the third dword of a write-back.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct RxStatus: u32 {
        /// The descriptor is done.
        const DD = 1 << 0;
        /// Last descriptor of the packet.
        const EOP = 1 << 1;
        /// The tag matched VET and was stripped into the descriptor.
        const VP = 1 << 3;
        /// UDP checksum, or the packet checksum field, is valid.
        const UDPCS = 1 << 4;
        /// TCP, UDP or SCTP checksum was checked.
        const L4CS = 1 << 5;
        /// IPv4 header checksum was checked.
        const IPCS = 1 << 6;
        /// Passed an inexact filter (a hash table).
        const PIF = 1 << 7;
        /// An outer tag was found.
        const VEXT = 1 << 9;
        /// UDP checksum field is not 0.
        const UDPV = 1 << 10;
        /// The packet caused a low latency interrupt.
        const LLINT = 1 << 11;
        /// A 1588 event whose stamp is in RXSTMP.
        const TS = 1 << 16;
        /// Security processing was done.
        const SECP = 1 << 17;
        /// The packet came from another pool of this card.
        const LB = 1 << 18;
        /// Header is longer than the header buffer.
        const HBO = 1 << 23;
        /// TCP, UDP or SCTP checksum is wrong.
        const L4E = 1 << 29;
        /// IPv4 header checksum is wrong.
        const IPE = 1 << 30;
        /// The MAC saw an error in the frame.
        const RXE = 1 << 31;
    }

    /// What was recognised in a packet (datasheet 7.1.5.2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PacketType: u16 {
        /// IPv4.
        const IPV4 = 1 << 0;
        /// IPv4 with options.
        const IPV4E = 1 << 1;
        /// IPv6.
        const IPV6 = 1 << 2;
        /// IPv6 with extension headers.
        const IPV6E = 1 << 3;
        /// TCP.
        const TCP = 1 << 4;
        /// UDP.
        const UDP = 1 << 5;
        /// SCTP.
        const SCTP = 1 << 6;
        /// NFS.
        const NFS = 1 << 7;
        /// IPsec ESP.
        const ESP = 1 << 8;
        /// IPsec AH.
        const AH = 1 << 9;
        /// MACsec.
        const LINKSEC = 1 << 10;
        /// An ETQF filter matched: bits 2:0 are its number, not the flags above.
        const L2 = 1 << 11;
    }

    /// Status and errors of a legacy receive descriptor: status in 7:0, errors in 15:8.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LegacyRxStatus: u16 {
        /// The descriptor is done.
        const DD = 1 << 0;
        /// Last descriptor of the packet.
        const EOP = 1 << 1;
        /// The tag matched VET and was stripped into the descriptor.
        const VP = 1 << 3;
        /// UDP checksum was checked.
        const UDPCS = 1 << 4;
        /// TCP or UDP checksum was checked.
        const TCPCS = 1 << 5;
        /// IPv4 header checksum was checked.
        const IPCS = 1 << 6;
        /// Passed an inexact filter.
        const PIF = 1 << 7;
        /// TCP or UDP checksum is wrong.
        const TCPE = 1 << 13;
        /// IPv4 header checksum is wrong.
        const IPE = 1 << 14;
        /// The MAC saw an error in the frame.
        const RXE = 1 << 15;
    }
}

impl RxStatus {
    /// The bits that report an error.
    pub const ERRORS: RxStatus = RxStatus::HBO
        .union(RxStatus::L4E)
        .union(RxStatus::IPE)
        .union(RxStatus::RXE);
}

/// What the RSS hash of a packet was computed over (datasheet 7.1.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RssType {
    /// No hash.
    #[default]
    None = 0,
    /// IPv4 addresses and TCP ports.
    TcpIpv4 = 1,
    /// IPv4 addresses.
    Ipv4 = 2,
    /// IPv6 addresses and TCP ports.
    TcpIpv6 = 3,
    /// IPv6 addresses, extension headers looked into.
    Ipv6Ex = 4,
    /// IPv6 addresses.
    Ipv6 = 5,
    /// IPv6 addresses, extension headers looked into, and TCP ports.
    TcpIpv6Ex = 6,
    /// IPv4 addresses and UDP ports.
    UdpIpv4 = 7,
    /// IPv6 addresses and UDP ports.
    UdpIpv6 = 8,
    /// IPv6 addresses, extension headers looked into, and UDP ports.
    UdpIpv6Ex = 9,
}

impl RssType {
    /// The type of a 4-bit field; reserved values are `None`.
    #[must_use]
    pub const fn from_bits(bits: u8) -> RssType {
        match bits {
            1 => RssType::TcpIpv4,
            2 => RssType::Ipv4,
            3 => RssType::TcpIpv6,
            4 => RssType::Ipv6Ex,
            5 => RssType::Ipv6,
            6 => RssType::TcpIpv6Ex,
            7 => RssType::UdpIpv4,
            8 => RssType::UdpIpv6,
            9 => RssType::UdpIpv6Ex,
            _ => RssType::None,
        }
    }
}

/// An advanced receive descriptor as the driver gives it to the card: two buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxRead([u64; 2]);

impl RxRead {
    /// A descriptor of a packet buffer and, for header split, a header buffer (else 0), which must be
    /// even: its bit 0 is DD of the write-back and is cleared.
    #[must_use]
    pub const fn new(packet: u64, header: u64) -> Self {
        RxRead([packet, header & !1])
    }

    /// IOVA of the packet buffer.
    #[must_use]
    pub const fn packet_address(self) -> u64 {
        self.0[0]
    }

    /// IOVA of the header buffer.
    #[must_use]
    pub const fn header_address(self) -> u64 {
        self.0[1] & !1
    }
}

/// An advanced receive descriptor as the card writes it back.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RxWriteBack([u64; 2]);

impl RxWriteBack {
    /// A write-back of `length` bytes in the packet buffer.
    #[must_use]
    pub const fn new(length: u16, status: RxStatus) -> Self {
        RxWriteBack([0, status.bits() as u64 | (length as u64) << 32])
    }

    /// With a stripped tag; the caller sets VP.
    #[must_use]
    pub const fn with_vlan_tag(self, tag: u16) -> Self {
        RxWriteBack([self.0[0], with_bits(self.0[1], 48, 16, tag as u64)])
    }

    /// With an RSS hash (RXCSUM.PCSD set).
    #[must_use]
    pub const fn with_rss(self, rss: RssType, hash: u32) -> Self {
        let low = with_bits(self.0[0], 0, 4, rss as u64);
        RxWriteBack([with_bits(low, 32, 32, hash as u64), self.0[1]])
    }

    /// With the IP identification and the packet checksum (RXCSUM.PCSD clear).
    #[must_use]
    pub const fn with_checksum(self, ip_id: u16, checksum: u16) -> Self {
        let low = with_bits(self.0[0], 32, 16, ip_id as u64);
        RxWriteBack([with_bits(low, 48, 16, checksum as u64), self.0[1]])
    }

    /// With what was recognised.
    #[must_use]
    pub const fn with_packet_type(self, packet_type: PacketType) -> Self {
        RxWriteBack([
            with_bits(self.0[0], 4, 12, packet_type.bits() as u64),
            self.0[1],
        ])
    }

    /// With a header of `length` bytes (below 1024); `split` says that it is in the header buffer.
    #[must_use]
    pub const fn with_header(self, length: u16, split: bool) -> Self {
        let low = with_bits(self.0[0], 21, 10, length as u64);
        RxWriteBack([with_bits(low, 31, 1, split as u64), self.0[1]])
    }

    /// Status and errors.
    #[must_use]
    pub const fn status(self) -> RxStatus {
        RxStatus::from_bits_retain(self.0[1] as u32)
    }

    /// DD: the card has written the descriptor.
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.status().contains(RxStatus::DD)
    }

    /// Bytes in the packet buffer.
    #[must_use]
    pub const fn length(self) -> u16 {
        bits(self.0[1], 32, 16) as u16
    }

    /// The stripped tag, if VP says that there is one.
    #[must_use]
    pub const fn vlan_tag(self) -> Option<u16> {
        if self.status().contains(RxStatus::VP) {
            Some(bits(self.0[1], 48, 16) as u16)
        } else {
            None
        }
    }

    /// What the hash was computed over.
    #[must_use]
    pub const fn rss_type(self) -> RssType {
        RssType::from_bits(bits(self.0[0], 0, 4) as u8)
    }

    /// The RSS hash.
    #[must_use]
    pub const fn rss_hash(self) -> u32 {
        bits(self.0[0], 32, 32) as u32
    }

    /// IP identification, where there is no hash.
    #[must_use]
    pub const fn ip_id(self) -> u16 {
        bits(self.0[0], 32, 16) as u16
    }

    /// Packet checksum, where there is no hash.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        bits(self.0[0], 48, 16) as u16
    }

    /// What was recognised.
    #[must_use]
    pub const fn packet_type(self) -> PacketType {
        PacketType::from_bits_retain(bits(self.0[0], 4, 12) as u16)
    }

    /// Bytes of the header.
    #[must_use]
    pub const fn header_length(self) -> u16 {
        bits(self.0[0], 21, 10) as u16
    }

    /// SPH: the header is in the header buffer.
    #[must_use]
    pub const fn is_split(self) -> bool {
        bits(self.0[0], 31, 1) != 0
    }
}

impl fmt::Debug for RxWriteBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxWriteBack")
            .field("length", &self.length())
            .field("status", &self.status())
            .field("packet_type", &self.packet_type())
            .field("rss_type", &self.rss_type())
            .field("rss_hash", &self.rss_hash())
            .field("vlan_tag", &self.vlan_tag())
            .field("header_length", &self.header_length())
            .field("split", &self.is_split())
            .finish()
    }
}

/// A legacy receive descriptor (SRRCTL.DESCTYPE 0): the write-back keeps the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegacyRx([u64; 2]);

impl LegacyRx {
    /// A free descriptor.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        LegacyRx([address, 0])
    }

    /// The same descriptor as the card writes it back.
    #[must_use]
    pub const fn written_back(
        self,
        length: u16,
        checksum: u16,
        status: LegacyRxStatus,
        vlan_tag: u16,
    ) -> Self {
        LegacyRx([
            self.0[0],
            length as u64
                | (checksum as u64) << 16
                | (status.bits() as u64) << 32
                | (vlan_tag as u64) << 48,
        ])
    }

    /// IOVA of the buffer.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0[0]
    }

    /// Bytes in the buffer.
    #[must_use]
    pub const fn length(self) -> u16 {
        self.0[1] as u16
    }

    /// Packet checksum.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        bits(self.0[1], 16, 16) as u16
    }

    /// Status and errors.
    #[must_use]
    pub const fn status(self) -> LegacyRxStatus {
        LegacyRxStatus::from_bits_retain(bits(self.0[1], 32, 16) as u16)
    }

    /// The stripped tag, if VP says that there is one.
    #[must_use]
    pub const fn vlan_tag(self) -> Option<u16> {
        if self.status().contains(LegacyRxStatus::VP) {
            Some(bits(self.0[1], 48, 16) as u16)
        } else {
            None
        }
    }
}

descriptor!(RxRead RxWriteBack LegacyRx);
