//! What control tells the data path: one snapshot of all that forwarding depends on.

use igb::function::{FUNCTION_COUNT, POOL_COUNT, QUEUE_COUNT, VF_COUNT, queue_of_vf};
use igb::{FunctionId, MacAddress};

mod receive;

pub(crate) use receive::*;

/// Words of MTA, UTA and VFTA.
pub(crate) const TABLE_WORDS: usize = 128;

/// A version of the card's configuration, for the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub(crate) version: u64,
    /// VFs enabled.
    pub(crate) vfs: u8,
    pub(crate) functions: [FunctionConfig; FUNCTION_COUNT],
    pub(crate) pools: [PoolConfig; POOL_COUNT as usize],
    /// Longest credit per second of each transmit queue, in bytes; `None` is unlimited.
    pub(crate) rates: [Option<u64>; QUEUE_COUNT as usize],
    /// Receive queues that drop when they have no descriptor (QDE).
    pub(crate) drop_enable: u16,
    /// Pools are in use (MRQC); else the PF's first queue receives all.
    pub(crate) vmdq: bool,
    /// The pool that gets what passed the filters and matched no pool.
    pub(crate) default_pool: Option<u8>,
    /// Multicast and broadcast go to every pool that wants them.
    pub(crate) replicate: bool,
    /// Frames pass between pools inside the card.
    pub(crate) loopback: bool,
    pub(crate) link_up: bool,
    /// RCTL.UPE, MPE, BAM, VFE.
    pub(crate) unicast_promiscuous: bool,
    pub(crate) multicast_promiscuous: bool,
    pub(crate) accept_broadcast: bool,
    pub(crate) vlan_filter: bool,
    /// RCTL.MO.
    pub(crate) hash_offset: u32,
    /// Strip tags outside VMDq (CTRL.VME), and of replicated frames (RPLOLR.STRVLAN).
    pub(crate) strip: bool,
    pub(crate) strip_replicated: bool,
    /// Longest frame outside VMDq, with FCS and without tag.
    pub(crate) max_frame: u32,
    /// Receive buffer where SRRCTL leaves it to RCTL, in bytes.
    pub(crate) default_buffer: u32,
    /// Pad short frames (TCTL.PSP).
    pub(crate) pad_short: bool,
    /// Queues of drivers that send nonsense are blocked (DTXCTL.MDP_EN).
    pub(crate) block_malicious: bool,
    /// How often the PF has freed each transmit queue of such a block (MDFB).
    pub(crate) freed: [u32; QUEUE_COUNT as usize],
    pub(crate) flag_masks: FlagMasks,
    /// EtherType of a tag.
    pub(crate) vlan_ethertype: u16,
    /// EtherType of the outer tag, if frames have one (CTRL_EXT.EXT_VLAN).
    pub(crate) outer_ethertype: Option<u16>,
    pub(crate) receive: ReceiveConfig,
    /// The valid address filters.
    pub(crate) addresses: Vec<AddressFilter>,
    /// The valid VLAN pool filters.
    pub(crate) vlans: Vec<VlanFilter>,
    pub(crate) mta: [u32; TABLE_WORDS],
    pub(crate) uta: [u32; TABLE_WORDS],
    pub(crate) vfta: [u32; TABLE_WORDS],
}

/// What a function may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FunctionConfig {
    /// It may receive: it exists, masters the bus, and RCTL.RXEN (PF) or VFRE (VF) is set.
    pub(crate) rx: bool,
    /// It may transmit, likewise.
    pub(crate) tx: bool,
    /// Changes when the function was reset: state from before is void.
    pub(crate) epoch: u64,
}

/// A pool's offloads and filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolConfig {
    pub(crate) accept_broadcast: bool,
    pub(crate) accept_untagged: bool,
    pub(crate) accept_multicast_hash: bool,
    pub(crate) accept_unicast_hash: bool,
    pub(crate) multicast_promiscuous: bool,
    pub(crate) strip: bool,
    /// Longest frame, with FCS and without tag.
    pub(crate) max_frame: u32,
    pub(crate) mac_antispoof: bool,
    pub(crate) vlan_antispoof: bool,
    /// May get its own frames back.
    pub(crate) own_loopback: bool,
    pub(crate) insert: VlanInsert,
    /// RSS between its two queues (RSSE).
    pub(crate) rss: bool,
}

/// What VMVIR says of the tags of a pool's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VlanInsert {
    /// As the descriptor says.
    #[default]
    Descriptor,
    /// Always this one.
    Always(u16),
    /// Never.
    Never,
}

/// What of the TCP flags goes into which segment of a frame (DTXTCPFLGL, DTXTCPFLGH).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlagMasks {
    pub(crate) first: u16,
    pub(crate) middle: u16,
    pub(crate) last: u16,
}

impl FlagMasks {
    /// The mask of a segment. One that is first and last has what either may have.
    pub(crate) fn of(self, first: bool, last: bool) -> u16 {
        match (first, last) {
            (true, true) => self.first | self.last,
            (true, false) => self.first,
            (false, true) => self.last,
            (false, false) => self.middle,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressFilter {
    pub(crate) mac: MacAddress,
    pub(crate) pools: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VlanFilter {
    pub(crate) vid: u16,
    pub(crate) pools: u8,
    /// Its frames stay inside the card.
    pub(crate) local: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 0,
            vfs: 0,
            functions: Default::default(),
            pools: Default::default(),
            rates: [None; QUEUE_COUNT as usize],
            drop_enable: 0,
            vmdq: false,
            default_pool: None,
            replicate: false,
            loopback: false,
            link_up: false,
            unicast_promiscuous: false,
            multicast_promiscuous: false,
            accept_broadcast: false,
            vlan_filter: false,
            hash_offset: 0,
            strip: false,
            strip_replicated: false,
            max_frame: 0,
            default_buffer: 0,
            pad_short: false,
            block_malicious: false,
            freed: [0; QUEUE_COUNT as usize],
            flag_masks: FlagMasks::default(),
            vlan_ethertype: igb::frame::ETHERTYPE_VLAN,
            outer_ethertype: None,
            receive: ReceiveConfig::default(),
            addresses: Vec::new(),
            vlans: Vec::new(),
            mta: [0; TABLE_WORDS],
            uta: [0; TABLE_WORDS],
            vfta: [0; TABLE_WORDS],
        }
    }
}

impl Config {
    /// Grows with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// VFs enabled.
    #[must_use]
    pub fn num_vfs(&self) -> u8 {
        self.vfs
    }

    /// Whose queue it is, and the function's own number of it. A queue that no card has is nobody's.
    pub(crate) fn queue_owner(&self, queue: u32) -> Option<(FunctionId, u32)> {
        let (vf, own) = queue_of_vf(queue)?;
        if vf < self.vfs.min(VF_COUNT) {
            Some((FunctionId::vf(vf), own))
        } else {
            Some((FunctionId::PF, queue))
        }
    }

    pub(crate) fn function(&self, function: FunctionId) -> &FunctionConfig {
        &self.functions[function.slot()]
    }
}
