//! The configuration of the data path, read off the registers.

use igb::function::{POOL_COUNT, QUEUE_COUNT};
use igb::{
    CTRL, CTRL_EXT, DTXCTL, DTXSWC, DTXTCPFLGH, DTXTCPFLGL, FunctionId, MRQC, MTA, MacAddress, QDE,
    RAH, RAL, RCTL, RLPML, RPLOLR, RegisterId, TCTL, UTA, VET, VFRE, VFTA, VFTE, VLVF, VMOLR,
    VMVIR, VT_CTL, Value, frame, pci,
};

use super::Control;
use super::rate;
use super::receive;
use crate::config::{
    AddressFilter, Config, FlagMasks, FunctionConfig, PoolConfig, TABLE_WORDS, VlanFilter,
    VlanInsert,
};

/// Whether the data path works by a register.
pub(super) fn concerns_data_path(id: RegisterId) -> bool {
    matches!(
        id,
        RegisterId::CTRL
            | RegisterId::RCTL
            | RegisterId::TCTL
            | RegisterId::RLPML
            | RegisterId::VET
            | RegisterId::MTA
            | RegisterId::UTA
            | RegisterId::VFTA
            | RegisterId::RAL
            | RegisterId::RAH
            | RegisterId::VLVF
            | RegisterId::VMOLR
            | RegisterId::RPLOLR
            | RegisterId::VMVIR
            | RegisterId::VT_CTL
            | RegisterId::MRQC
            | RegisterId::DTXSWC
            | RegisterId::DTXCTL
            | RegisterId::DTXTCPFLGL
            | RegisterId::DTXTCPFLGH
            | RegisterId::QDE
            | RegisterId::VFRE
            | RegisterId::VFTE
    ) || receive::concerns_data_path(id)
}

/// VMVIR.VLANA.
const VLANA_ALWAYS: u32 = 1;
const VLANA_NEVER: u32 = 2;

impl Control {
    /// The configuration as the registers are now.
    pub(super) fn build_config(&self, version: u64) -> Config {
        let bank = &self.bank;
        let rctl = bank.get::<RCTL>();
        let vt_ctl = bank.get::<VT_CTL>();
        let multiple = bank.get::<MRQC>().get(MRQC::MULTIPLE_RECEIVE_QUEUES);
        let max_frame = |long: bool, length: u32| {
            if long {
                length
            } else {
                (frame::MAX_LENGTH + frame::FCS_LENGTH) as u32
            }
        };
        Config {
            version,
            vfs: self.vfs,
            functions: std::array::from_fn(|slot| {
                FunctionId::from_slot(slot)
                    .map(|function| self.function_config(function))
                    .unwrap_or_default()
            }),
            pools: std::array::from_fn(|pool| self.pool_config(pool as u32)),
            rates: std::array::from_fn(|queue| rate::bytes_per_second(self.rates[queue])),
            drop_enable: bank.get::<QDE>().get(QDE::QUEUES) as u16,
            vmdq: matches!(multiple, MODE_VMDQ | MODE_VMDQ_RSS),
            default_pool: (!vt_ctl.has(VT_CTL::DIS_DEF_POOL))
                .then(|| vt_ctl.get(VT_CTL::DEF_PL) as u8),
            replicate: vt_ctl.has(VT_CTL::REPL_EN),
            loopback: bank.get::<DTXSWC>().has(DTXSWC::LOOPBACK_EN),
            link_up: self.is_link_up(),
            unicast_promiscuous: rctl.has(RCTL::UPE),
            multicast_promiscuous: rctl.has(RCTL::MPE),
            accept_broadcast: rctl.has(RCTL::BAM),
            vlan_filter: rctl.has(RCTL::VFE),
            hash_offset: rctl.get(RCTL::MO),
            strip: bank.get::<CTRL>().has(CTRL::VME),
            strip_replicated: bank.get::<RPLOLR>().has(RPLOLR::STRVLAN),
            max_frame: max_frame(rctl.has(RCTL::LPE), bank.get::<RLPML>().get(RLPML::RLPML)),
            default_buffer: BSIZE_LARGEST >> rctl.get(RCTL::BSIZE),
            pad_short: bank.get::<TCTL>().has(TCTL::PSP),
            block_malicious: bank.get::<DTXCTL>().has(DTXCTL::MDP_EN),
            freed: self.freed,
            flag_masks: FlagMasks {
                first: bank.get::<DTXTCPFLGL>().get(DTXTCPFLGL::FIRST_SEG) as u16,
                middle: bank.get::<DTXTCPFLGL>().get(DTXTCPFLGL::MID_SEG) as u16,
                last: bank.get::<DTXTCPFLGH>().get(DTXTCPFLGH::LAST_SEG) as u16,
            },
            vlan_ethertype: bank.get::<VET>().get(VET::VET) as u16,
            outer_ethertype: bank
                .get::<CTRL_EXT>()
                .has(CTRL_EXT::EXT_VLAN)
                .then(|| bank.get::<VET>().get(VET::VET_EXT) as u16),
            receive: self.receive_config(),
            addresses: self.address_filters(),
            vlans: self.vlan_filters(),
            mta: std::array::from_fn(|word| bank.get_at::<MTA>(word as u32).raw()),
            uta: std::array::from_fn(|word| bank.get_at::<UTA>(word as u32).raw()),
            vfta: std::array::from_fn(|word| bank.get_at::<VFTA>(word as u32).raw()),
        }
    }

    fn function_config(&self, function: FunctionId) -> FunctionConfig {
        let command = self.config_of(function).u16(pci::header::COMMAND);
        let mut dma = command & pci::command::BUS_MASTER != 0;
        let (rx, tx) = match function.vf_index() {
            None => {
                let power = self.pf_config.u16(pci::offset::PM + pci::pm::CONTROL);
                dma &= power & pci::pm::POWER_STATE == 0;
                dma &= !self.bank.get::<CTRL>().has(CTRL::GIO_MASTER_DISABLE);
                (
                    self.bank.get::<RCTL>().has(RCTL::RXEN),
                    self.bank.get::<TCTL>().has(TCTL::EN),
                )
            }
            Some(vf) => {
                dma &= vf < self.vfs;
                let enabled = |bits: u32| bits & 1 << vf != 0;
                (
                    enabled(self.bank.get::<VFRE>().get(VFRE::VFRE)),
                    enabled(self.bank.get::<VFTE>().get(VFTE::VFTE)),
                )
            }
        };
        FunctionConfig {
            rx: rx && dma,
            tx: tx && dma,
            epoch: self.epochs[function.slot()],
        }
    }

    fn pool_config(&self, pool: u32) -> PoolConfig {
        let vmolr = self.bank.get_at::<VMOLR>(pool);
        let vmvir = self.bank.get_at::<VMVIR>(pool);
        let dtxswc = self.bank.get::<DTXSWC>();
        let bit = |bits: u32| bits & 1 << pool != 0;
        PoolConfig {
            accept_broadcast: vmolr.has(VMOLR::BAM),
            accept_untagged: vmolr.has(VMOLR::AUPE),
            accept_multicast_hash: vmolr.has(VMOLR::ROMPE),
            accept_unicast_hash: vmolr.has(VMOLR::ROPE),
            multicast_promiscuous: vmolr.has(VMOLR::MPME),
            strip: vmolr.has(VMOLR::STRVLAN),
            max_frame: if vmolr.has(VMOLR::LPE) {
                vmolr.get(VMOLR::RLPML)
            } else {
                (frame::MAX_LENGTH + frame::FCS_LENGTH) as u32
            },
            mac_antispoof: bit(dtxswc.get(DTXSWC::MACAS)),
            vlan_antispoof: bit(dtxswc.get(DTXSWC::VLANAS)),
            rss: vmolr.has(VMOLR::RSSE),
            own_loopback: bit(dtxswc.get(DTXSWC::LLE)),
            insert: match vmvir.get(VMVIR::VLANA) {
                VLANA_ALWAYS => VlanInsert::Always(vmvir.get(VMVIR::PORT_VLAN_ID) as u16),
                VLANA_NEVER => VlanInsert::Never,
                _ => VlanInsert::Descriptor,
            },
        }
    }

    fn address_filters(&self) -> Vec<AddressFilter> {
        (0..<RAL as igb::Register>::COUNT)
            .filter_map(|n| {
                let high = self.bank.get_at::<RAH>(n);
                let low = self.bank.get_at::<RAL>(n).raw();
                // ASEL other than 0 compares the source address, which the card does not offer.
                (high.has(RAH::AV) && high.get(RAH::ASEL) == 0).then(|| AddressFilter {
                    mac: MacAddress::from_words(low, high.get(RAH::RAH) as u16),
                    pools: high.get(RAH::POOLSEL) as u8,
                })
            })
            .collect()
    }

    fn vlan_filters(&self) -> Vec<VlanFilter> {
        (0..<VLVF as igb::Register>::COUNT)
            .map(|n| self.bank.get_at::<VLVF>(n))
            .filter(|entry| entry.has(VLVF::VI_EN))
            .map(|entry: Value<VLVF>| VlanFilter {
                vid: entry.get(VLVF::VLAN_ID) as u16,
                pools: entry.get(VLVF::POOLSEL) as u8,
                local: entry.has(VLVF::LVLAN),
            })
            .collect()
    }
}

/// MRQC modes with pools.
const MODE_VMDQ: u32 = 3;
const MODE_VMDQ_RSS: u32 = 5;
/// RCTL.BSIZE 0.
const BSIZE_LARGEST: u32 = 2048;

const _: () = assert!(TABLE_WORDS == <MTA as igb::Register>::COUNT as usize);
const _: () = assert!(
    POOL_COUNT == 8 && QUEUE_COUNT == 16,
    "queue bits are u16, pool bits u8"
);
