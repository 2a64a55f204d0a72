//! What control tells the data path of receiving: what is looked into, what is told, and which queue
//! a frame goes to.

use igb::function::POOL_COUNT;

use crate::stamps::Stamps;

/// Bytes of the RSS key.
pub(crate) const RSS_KEY: usize = 40;
/// Entries of the redirection table.
pub(crate) const RSS_TABLE: usize = 128;

/// How frames are received, apart from the filters of addresses and VLANs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceiveConfig {
    /// What is sent to the wire comes back as if it came from there, and nothing passes the wire: MAC
    /// loopback (RCTL.LBM), or that of the PHY.
    pub(crate) loopback_mac: bool,
    pub(crate) checksum: ChecksumConfig,
    /// RSS, in the modes of MRQC that have it.
    pub(crate) rss: Option<RssConfig>,
    /// MRQC.DEF_Q: where frames without another queue go outside VMDq.
    pub(crate) default_queue: u8,
    /// The valid EtherType filters, by their number.
    pub(crate) ethertypes: Vec<EthertypeFilter>,
    /// The valid five-tuple filters, the one of the highest priority first.
    pub(crate) tuples: Vec<TupleFilter>,
    pub(crate) syn: Option<SynFilter>,
    /// VLAPQF: the queue of each VLAN priority.
    pub(crate) vlan_priorities: [Option<u8>; 8],
    /// PSRTYPE of each pool.
    pub(crate) split_types: [u32; POOL_COUNT as usize],
    /// Headers of fragments are not split (RFCTL.IPFRSP_DIS).
    pub(crate) keep_fragments_whole: bool,
    pub(crate) stamp: StampConfig,
}

/// Which checksums are verified (RXCSUM).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChecksumConfig {
    /// IPv4 headers (IPOFLD).
    pub(crate) ip: bool,
    /// TCP and UDP (TUOFLD).
    pub(crate) l4: bool,
    /// SCTP (CRCOFL).
    pub(crate) sctp: bool,
    /// TCP and UDP over IPv6 are left alone (RFCTL.IPV6XSUM_DIS).
    pub(crate) skip_ipv6: bool,
    /// The sum of the payload of fragments is told (IPPCSE).
    pub(crate) fragments: bool,
    /// The RSS hash is told instead of sums (PCSD).
    pub(crate) hash_instead: bool,
    /// Where the packet checksum starts (PCSS).
    pub(crate) start: u8,
}

/// RSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RssConfig {
    /// MRQC: its fields say what is hashed.
    pub(crate) mrqc: u32,
    pub(crate) key: [u8; RSS_KEY],
    pub(crate) table: [u8; RSS_TABLE],
}

/// ETQF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EthertypeFilter {
    pub(crate) number: u8,
    pub(crate) ethertype: u16,
    pub(crate) queue: Option<u8>,
    /// Its frames are 1588 messages to be stamped.
    pub(crate) stamp: bool,
}

/// FTQF with SAQF, DAQF, SPQF and IMIR: what is `None` is not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TupleFilter {
    pub(crate) protocol: Option<u8>,
    pub(crate) source: Option<[u8; 4]>,
    pub(crate) destination: Option<[u8; 4]>,
    pub(crate) source_port: Option<u16>,
    pub(crate) destination_port: Option<u16>,
    /// TCP flags, one of which must be set (IMIREXT).
    pub(crate) flags: Option<u8>,
    pub(crate) pool: Option<u8>,
    pub(crate) queue: Option<u8>,
    /// Its frames are 1588 messages to be stamped.
    pub(crate) stamp: bool,
}

/// SYNQF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SynFilter {
    pub(crate) queue: u8,
    /// It goes before the five-tuple filters (RFCTL.SYNQFP).
    pub(crate) first: bool,
}

/// Which frames get a time stamp (TSYNCRXCTL, TSYNCRXCFG).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StampConfig {
    /// TSYNCRXCTL.EN.
    pub(crate) enabled: bool,
    /// TSYNCRXCTL.TYPE.
    pub(crate) kind: u8,
    /// The control field of a V1 message (TSYNCRXCFG.CTRLT).
    pub(crate) control: u8,
    /// The message type of a V2 message (TSYNCRXCFG.MSGT).
    pub(crate) message: u8,
    /// Where the stamps go.
    pub(crate) slots: Stamps,
}
