//! The configuration of the receive side of the data path, read off the registers.

use igb::function::POOL_COUNT;
use igb::{
    DAQF, ETQF, FTQF, IMIR, IMIREXT, MRQC, PSRTYPE, RETA, RFCTL, RSSRK, RXCSUM, Register,
    RegisterId, SAQF, SPQF, SYNQF, TSYNCRXCFG, TSYNCRXCTL, VLAPQF, Value,
};

use super::Control;
use crate::config::{
    ChecksumConfig, EthertypeFilter, RSS_KEY, RSS_TABLE, ReceiveConfig, RssConfig, StampConfig,
    SynFilter, TupleFilter,
};

/// Whether receiving works by a register.
pub(super) fn concerns_data_path(id: RegisterId) -> bool {
    matches!(
        id,
        RegisterId::RXCSUM
            | RegisterId::RFCTL
            | RegisterId::PSRTYPE
            | RegisterId::RETA
            | RegisterId::RSSRK
            | RegisterId::ETQF
            | RegisterId::FTQF
            | RegisterId::SAQF
            | RegisterId::DAQF
            | RegisterId::SPQF
            | RegisterId::IMIR
            | RegisterId::IMIREXT
            | RegisterId::SYNQF
            | RegisterId::VLAPQF
            | RegisterId::TSYNCRXCTL
            | RegisterId::TSYNCRXCFG
    )
}

impl Control {
    pub(super) fn receive_config(&self) -> ReceiveConfig {
        let bank = &self.bank;
        let mrqc = bank.get::<MRQC>();
        let rfctl = bank.get::<RFCTL>();
        let rxcsum = bank.get::<RXCSUM>();
        let tsync = bank.get::<TSYNCRXCTL>();
        let messages = bank.get::<TSYNCRXCFG>();
        ReceiveConfig {
            loopback_mac: self.is_looped(),
            checksum: ChecksumConfig {
                ip: rxcsum.has(RXCSUM::IPOFLD),
                l4: rxcsum.has(RXCSUM::TUOFLD),
                sctp: rxcsum.has(RXCSUM::CRCOFL),
                skip_ipv6: rfctl.has(RFCTL::IPV6XSUM_DIS),
                fragments: rxcsum.has(RXCSUM::IPPCSE),
                hash_instead: rxcsum.has(RXCSUM::PCSD),
                start: rxcsum.get(RXCSUM::PCSS) as u8,
            },
            rss: self.rss_config(mrqc),
            default_queue: mrqc.get(MRQC::DEF_Q) as u8,
            ethertypes: self.ethertype_filters(),
            tuples: self.tuple_filters(),
            syn: {
                let synqf = bank.get::<SYNQF>();
                synqf.has(SYNQF::QUEUE_ENABLE).then(|| SynFilter {
                    queue: synqf.get(SYNQF::QUEUE) as u8,
                    first: rfctl.has(RFCTL::SYNQFP),
                })
            },
            vlan_priorities: vlan_priorities(bank.get()),
            split_types: std::array::from_fn(|pool| {
                bank.get_at::<PSRTYPE>(pool as u32).get(PSRTYPE::PSR_TYPE)
            }),
            keep_fragments_whole: rfctl.has(RFCTL::IPFRSP_DIS),
            stamp: StampConfig {
                enabled: tsync.has(TSYNCRXCTL::EN),
                kind: tsync.get(TSYNCRXCTL::TYPE) as u8,
                control: messages.get(TSYNCRXCFG::CTRLT) as u8,
                message: messages.get(TSYNCRXCFG::MSGT) as u8,
                slots: self.clock.stamps.clone(),
            },
        }
    }

    fn rss_config(&self, mrqc: Value<MRQC>) -> Option<RssConfig> {
        let mode = mrqc.get(MRQC::MULTIPLE_RECEIVE_QUEUES);
        matches!(mode, MODE_RSS | MODE_VMDQ_RSS).then(|| RssConfig {
            mrqc: mrqc.raw(),
            // Byte 0 is the lowest of the first register.
            key: std::array::from_fn(|n| {
                self.bank.get_at::<RSSRK>(n as u32 / 4).raw().to_le_bytes()[n % 4]
            }),
            table: std::array::from_fn(|n| {
                self.bank.get_at::<RETA>(n as u32 / 4).raw().to_le_bytes()[n % 4]
            }),
        })
    }

    fn ethertype_filters(&self) -> Vec<EthertypeFilter> {
        (0..ETQF::COUNT)
            .map(|n| (n, self.bank.get_at::<ETQF>(n)))
            .filter(|(_, etqf)| etqf.has(ETQF::FILTER_ENABLE))
            .map(|(n, etqf)| EthertypeFilter {
                number: n as u8,
                ethertype: etqf.get(ETQF::ETYPE) as u16,
                queue: etqf
                    .has(ETQF::QUEUE_ENABLE)
                    .then(|| etqf.get(ETQF::QUEUE) as u8),
                stamp: etqf.has(ETQF::TIME_STAMP_1588),
            })
            .collect()
    }

    fn tuple_filters(&self) -> Vec<TupleFilter> {
        let bank = &self.bank;
        let mut filters: Vec<_> = (0..FTQF::COUNT)
            .filter_map(|n| {
                let ftqf = bank.get_at::<FTQF>(n);
                let queue = ftqf
                    .has(FTQF::QUEUE_ENABLE)
                    .then(|| ftqf.get(FTQF::QUEUE) as u8);
                let stamp = ftqf.has(FTQF::TIME_STAMP_1588);
                if queue.is_none() && !stamp {
                    return None;
                }
                let imir = bank.get_at::<IMIR>(n);
                let more = bank.get_at::<IMIREXT>(n);
                // Ports and addresses stand in the registers as on the wire.
                let port = |raw: u32| (raw as u16).swap_bytes();
                let filter = TupleFilter {
                    protocol: (!ftqf.has(FTQF::MASK_PROTOCOL))
                        .then(|| ftqf.get(FTQF::PROTOCOL) as u8),
                    source: (!ftqf.has(FTQF::MASK_SOURCE))
                        .then(|| bank.get_at::<SAQF>(n).raw().to_le_bytes()),
                    destination: (!ftqf.has(FTQF::MASK_DESTINATION))
                        .then(|| bank.get_at::<DAQF>(n).raw().to_le_bytes()),
                    source_port: (!ftqf.has(FTQF::MASK_SOURCE_PORT))
                        .then(|| port(bank.get_at::<SPQF>(n).raw())),
                    destination_port: (!imir.has(IMIR::PORT_BP))
                        .then(|| port(imir.get(IMIR::PORT))),
                    flags: (!more.has(IMIREXT::CTRL_BP)).then(|| tcp_flags(more)),
                    pool: (!ftqf.has(FTQF::VF_MASK)).then(|| ftqf.get(FTQF::VF) as u8),
                    queue,
                    stamp,
                };
                Some((imir.get(IMIR::PRIORITY), filter))
            })
            .collect();
        // Stable: of two with one priority, that with the lower number is first.
        filters.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        filters.into_iter().map(|(_, filter)| filter).collect()
    }
}

/// The flags of IMIREXT as TCP has them, which is the other way round.
fn tcp_flags(imirext: Value<IMIREXT>) -> u8 {
    (imirext.get(IMIREXT::CTRL) as u8).reverse_bits() >> (u8::BITS - IMIREXT::CTRL.width())
}

/// VLAPQF has four bits for each priority.
fn vlan_priorities(vlapqf: Value<VLAPQF>) -> [Option<u8>; 8] {
    std::array::from_fn(|priority| {
        let entry = vlapqf.raw() >> (VLAPQF::VP1QSEL.shift() * priority as u32);
        let entry = Value::<VLAPQF>::from_raw(entry);
        entry
            .has(VLAPQF::VLANP0V)
            .then(|| entry.get(VLAPQF::VP0QSEL) as u8)
    })
}

/// MRQC modes with RSS.
const MODE_RSS: u32 = 2;
const MODE_VMDQ_RSS: u32 = 5;

const _: () = assert!(
    RSSRK::COUNT as usize * 4 == RSS_KEY
        && RETA::COUNT as usize * 4 == RSS_TABLE
        && PSRTYPE::COUNT == POOL_COUNT
);
