//! Transmit descriptors: advanced data and context (datasheet 7.2.2.2, 7.2.2.3), legacy (7.2.2.1).

use bitflags::bitflags;

use super::{Raw, bits, descriptor, with_bits};

const DTYP_CONTEXT: u64 = 2;
const DTYP_DATA: u64 = 3;

bitflags! {
    /// Commands of an advanced data descriptor: bits of its third dword.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct TxCommand: u32 {
        /// MACsec.
        const LINKSEC = 1 << 18;
        /// Stamp the packet's departure (IEEE 1588).
        const TSTAMP = 1 << 19;
        /// Last descriptor of the packet.
        const EOP = 1 << 24;
        /// Append the FCS.
        const IFCS = 1 << 25;
        /// Write the descriptor back.
        const RS = 1 << 27;
        /// An advanced descriptor.
        const DEXT = 1 << 29;
        /// Insert the context's VLAN tag.
        const VLE = 1 << 30;
        /// Segment.
        const TSE = 1 << 31;
    }

    /// Options of an advanced data descriptor: bits of its last dword.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct TxOptions: u32 {
        /// Check context: the context is used.
        const CC = 1 << 7;
        /// Insert the IPv4 header checksum.
        const IXSM = 1 << 8;
        /// Insert the TCP, UDP or SCTP checksum.
        const TXSM = 1 << 9;
        /// IPsec.
        const IPSEC = 1 << 10;
    }

    /// What a context descriptor says of the headers: bits of its third dword.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ContextOptions: u32 {
        /// The frame has a SNAP header.
        const SNAP = 1 << 9;
        /// IPv4; else IPv6.
        const IPV4 = 1 << 10;
    }

    /// Commands of a legacy descriptor: bits of its third dword.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LegacyTxCommand: u32 {
        /// Last descriptor of the packet.
        const EOP = 1 << 24;
        /// Append the FCS.
        const IFCS = 1 << 25;
        /// Insert a checksum at CSO, computed from CSS.
        const IC = 1 << 26;
        /// Write the descriptor back.
        const RS = 1 << 27;
        /// Insert the VLAN tag.
        const VLE = 1 << 30;
    }
}

/// The protocol above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum L4Type {
    /// UDP.
    Udp = 0,
    /// TCP.
    Tcp = 1,
    /// SCTP.
    Sctp = 2,
    /// Nothing the card knows.
    Reserved = 3,
}

impl L4Type {
    const fn from_bits(bits: u64) -> L4Type {
        match bits {
            0 => L4Type::Udp,
            1 => L4Type::Tcp,
            2 => L4Type::Sctp,
            _ => L4Type::Reserved,
        }
    }
}

/// A transmit descriptor of whichever format it says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxDescriptor {
    /// Advanced, with a buffer.
    Data(TxData),
    /// Advanced, with what the data descriptors after it refer to.
    Context(TxContext),
    /// Without DEXT.
    Legacy(LegacyTx),
    /// Advanced, of a reserved type.
    Reserved(Raw),
}

impl TxDescriptor {
    /// Tells the format by DEXT and DTYP.
    #[must_use]
    pub const fn parse(raw: Raw) -> TxDescriptor {
        if raw[1] & TxCommand::DEXT.bits() as u64 == 0 {
            return TxDescriptor::Legacy(LegacyTx(raw));
        }
        match bits(raw[1], 20, 4) {
            DTYP_DATA => TxDescriptor::Data(TxData(raw)),
            DTYP_CONTEXT => TxDescriptor::Context(TxContext(raw)),
            _ => TxDescriptor::Reserved(raw),
        }
    }
}

/// An advanced data descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxData(Raw);

impl TxData {
    /// A descriptor of `length` bytes at IOVA `address`. DEXT need not be given.
    #[must_use]
    pub const fn new(address: u64, length: u16, command: TxCommand) -> Self {
        let command = command.union(TxCommand::DEXT).bits();
        TxData([address, length as u64 | DTYP_DATA << 20 | command as u64])
    }

    /// With the bytes of the whole packet, header left out where it is segmented (18 bits).
    #[must_use]
    pub const fn with_payload_length(self, length: u32) -> Self {
        TxData([self.0[0], with_bits(self.0[1], 46, 18, length as u64)])
    }

    /// With a reference to context `index` of the queue, 0 or 1. The caller sets CC.
    #[must_use]
    pub const fn with_context(self, index: u8) -> Self {
        TxData([self.0[0], with_bits(self.0[1], 36, 3, index as u64)])
    }

    /// With these options and those that it has.
    #[must_use]
    pub const fn with_options(self, options: TxOptions) -> Self {
        TxData([self.0[0], self.0[1] | (options.bits() as u64) << 32])
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

    /// The commands.
    #[must_use]
    pub const fn command(self) -> TxCommand {
        TxCommand::from_bits_truncate(self.0[1] as u32)
    }

    /// The options.
    #[must_use]
    pub const fn options(self) -> TxOptions {
        TxOptions::from_bits_truncate((self.0[1] >> 32) as u32)
    }

    /// Bytes of the whole packet, header left out where it is segmented.
    #[must_use]
    pub const fn payload_length(self) -> u32 {
        bits(self.0[1], 46, 18) as u32
    }

    /// The context it refers to (3 bits; the 82576 has 2 per queue and looks at the lowest).
    #[must_use]
    pub const fn context(self) -> u8 {
        bits(self.0[1], 36, 3) as u8
    }
}

/// A context descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxContext(Raw);

impl TxContext {
    /// Context `index` (0 or 1), of a frame whose MAC header, outer tags included, has `mac_length`
    /// bytes (below 128) and whose IP header has `ip_length` bytes (below 512).
    #[must_use]
    pub const fn new(index: u8, mac_length: u8, ip_length: u16) -> Self {
        let low = with_bits(
            with_bits(0, 0, 9, ip_length as u64),
            9,
            7,
            mac_length as u64,
        );
        let high = DTYP_CONTEXT << 20 | TxCommand::DEXT.bits() as u64;
        TxContext([low, with_bits(high, 36, 3, index as u64)])
    }

    /// With the tag that VLE inserts.
    #[must_use]
    pub const fn with_vlan_tag(self, tag: u16) -> Self {
        TxContext([with_bits(self.0[0], 16, 16, tag as u64), self.0[1]])
    }

    /// With these options and those that it has.
    #[must_use]
    pub const fn with_options(self, options: ContextOptions) -> Self {
        TxContext([self.0[0], self.0[1] | options.bits() as u64])
    }

    /// With the protocol above IP and the bytes of its header.
    #[must_use]
    pub const fn with_l4(self, l4: L4Type, length: u8) -> Self {
        let high = with_bits(self.0[1], 11, 2, l4 as u64);
        TxContext([self.0[0], with_bits(high, 40, 8, length as u64)])
    }

    /// With the payload bytes of a segment.
    #[must_use]
    pub const fn with_mss(self, mss: u16) -> Self {
        TxContext([self.0[0], with_bits(self.0[1], 48, 16, mss as u64)])
    }

    /// Which context it fills (3 bits; the 82576 has 2 per queue and looks at the lowest).
    #[must_use]
    pub const fn index(self) -> u8 {
        bits(self.0[1], 36, 3) as u8
    }

    /// Bytes of the MAC header.
    #[must_use]
    pub const fn mac_length(self) -> u8 {
        bits(self.0[0], 9, 7) as u8
    }

    /// Bytes of the IP header.
    #[must_use]
    pub const fn ip_length(self) -> u16 {
        bits(self.0[0], 0, 9) as u16
    }

    /// The tag that VLE inserts.
    #[must_use]
    pub const fn vlan_tag(self) -> u16 {
        bits(self.0[0], 16, 16) as u16
    }

    /// What it says of the headers.
    #[must_use]
    pub const fn options(self) -> ContextOptions {
        ContextOptions::from_bits_truncate(self.0[1] as u32)
    }

    /// The protocol above IP.
    #[must_use]
    pub const fn l4_type(self) -> L4Type {
        L4Type::from_bits(bits(self.0[1], 11, 2))
    }

    /// Bytes of the header above IP.
    #[must_use]
    pub const fn l4_length(self) -> u8 {
        bits(self.0[1], 40, 8) as u8
    }

    /// Payload bytes of a segment.
    #[must_use]
    pub const fn mss(self) -> u16 {
        bits(self.0[1], 48, 16) as u16
    }
}

/// A transmit descriptor as the card writes it back: DD in its last dword, all else without meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxWriteBack(Raw);

impl TxWriteBack {
    /// The write-back of an advanced descriptor.
    pub const DONE: TxWriteBack = TxWriteBack([0, 1 << 32]);

    /// DD: the card has sent it and no longer needs the buffer.
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.0[1] & Self::DONE.0[1] != 0
    }
}

/// A legacy descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegacyTx(Raw);

impl LegacyTx {
    /// A descriptor of `length` bytes at IOVA `address`.
    #[must_use]
    pub const fn new(address: u64, length: u16, command: LegacyTxCommand) -> Self {
        LegacyTx([address, length as u64 | command.bits() as u64])
    }

    /// With a checksum computed from byte `start` of the packet on and put at byte `offset`; the
    /// caller sets IC.
    #[must_use]
    pub const fn with_checksum(self, start: u8, offset: u8) -> Self {
        let high = with_bits(self.0[1], 16, 8, offset as u64);
        LegacyTx([self.0[0], with_bits(high, 40, 8, start as u64)])
    }

    /// With the tag that VLE inserts.
    #[must_use]
    pub const fn with_vlan_tag(self, tag: u16) -> Self {
        LegacyTx([self.0[0], with_bits(self.0[1], 48, 16, tag as u64)])
    }

    /// The same descriptor as the card writes it back, with DD.
    #[must_use]
    pub const fn written_back(self) -> Self {
        LegacyTx([self.0[0], self.0[1] | TxWriteBack::DONE.0[1]])
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

    /// The commands.
    #[must_use]
    pub const fn command(self) -> LegacyTxCommand {
        LegacyTxCommand::from_bits_truncate(self.0[1] as u32)
    }

    /// Where the checksum is computed from (CSS).
    #[must_use]
    pub const fn checksum_start(self) -> u8 {
        bits(self.0[1], 40, 8) as u8
    }

    /// Where the checksum is put (CSO).
    #[must_use]
    pub const fn checksum_offset(self) -> u8 {
        bits(self.0[1], 16, 8) as u8
    }

    /// The tag that VLE inserts.
    #[must_use]
    pub const fn vlan_tag(self) -> u16 {
        bits(self.0[1], 48, 16) as u16
    }
}

descriptor!(TxData TxContext TxWriteBack LegacyTx);
