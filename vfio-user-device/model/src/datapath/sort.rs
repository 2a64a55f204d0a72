//! Which queue a frame goes to, once it is known which pools want it (datasheet 7.1.1 and 7.10.3):
//! filters first, then RSS, then the default.

use std::cell::OnceCell;

use igb::VlanTag;
use igb::descriptor::RssType;
use igb::function::{POOL_COUNT, QUEUE_COUNT};

use super::packet::{Packet, TCP};
use crate::config::{Config, EthertypeFilter, RssConfig, TupleFilter};

/// TCP's SYN.
const SYN: u8 = 2;
/// The bit of a number in the redirection table that says which of a pool's queues.
const SECOND_QUEUE: u32 = POOL_COUNT;

/// What of a frame decides about its queue.
#[derive(Debug)]
pub(super) struct Sortable<'a> {
    pub(super) tag: Option<VlanTag>,
    pub(super) packet: &'a Packet,
    /// The EtherType filter that matches.
    pub(super) ethertype: Option<EthertypeFilter>,
    rss: Option<&'a RssConfig>,
    hash: OnceCell<Option<(RssType, u32)>>,
}

impl<'a> Sortable<'a> {
    pub(super) fn new(
        config: &'a Config,
        tag: Option<VlanTag>,
        packet: &'a Packet,
        ethertype: Option<EthertypeFilter>,
    ) -> Self {
        Self {
            tag,
            packet,
            ethertype,
            rss: config.receive.rss.as_ref(),
            hash: OnceCell::new(),
        }
    }

    /// What RSS makes of it, computed for the first who wants to know.
    pub(super) fn hash(&self) -> Option<(RssType, u32)> {
        *self.hash.get_or_init(|| self.rss?.hash(self.packet))
    }

    /// The number of the redirection table that its hash chooses.
    fn rss_entry(&self) -> Option<u8> {
        let (_, hash) = self.hash()?;
        Some(self.rss?.entry(hash))
    }
}

impl Config {
    /// The EtherType filter that matches.
    pub(super) fn ethertype_filter(&self, ethertype: u16) -> Option<EthertypeFilter> {
        let filters = &self.receive.ethertypes;
        filters
            .iter()
            .find(|filter| filter.ethertype == ethertype)
            .copied()
    }

    /// The pools of a frame after the EtherType filters, which come last and overrule.
    pub(super) fn redirected(&self, pools: u8, frame: &Sortable<'_>) -> u8 {
        match frame.ethertype.and_then(|filter| filter.queue) {
            Some(queue) if self.vmdq && pools != 0 => 1 << (u32::from(queue) % POOL_COUNT),
            _ => pools,
        }
    }

    /// The queue of a frame that `pool` gets; without pools all of the card's queues are the PF's.
    pub(super) fn receive_queue(&self, pool: u8, frame: &Sortable<'_>) -> u32 {
        let queue = if self.vmdq {
            self.queue_of_pool(u32::from(pool), frame)
        } else {
            self.queue_without_pools(frame)
        };
        queue % QUEUE_COUNT
    }

    fn queue_without_pools(&self, frame: &Sortable<'_>) -> u32 {
        let receive = &self.receive;
        let by_priority = || {
            let tag = frame.tag?;
            receive.vlan_priorities[usize::from(tag.priority() & 7)]
        };
        let by_hash = || frame.rss_entry();
        let queue = frame
            .ethertype
            .and_then(|filter| filter.queue)
            .or_else(|| self.filtered_queue(None, frame.packet))
            .or_else(by_priority)
            .or_else(by_hash)
            .unwrap_or(receive.default_queue);
        queue.into()
    }

    /// Filters choose among the pool's own queues only.
    fn queue_of_pool(&self, pool: u32, frame: &Sortable<'_>) -> u32 {
        let own = |queue: u8| Some(u32::from(queue)).filter(|queue| queue % POOL_COUNT == pool);
        let by_hash = || {
            self.pools.get(pool as usize).filter(|pool| pool.rss)?;
            let entry = frame.rss_entry()?;
            Some(pool + (u32::from(entry) & SECOND_QUEUE))
        };
        frame
            .ethertype
            .and_then(|filter| own(filter.queue?))
            .or_else(|| own(self.filtered_queue(Some(pool as u8), frame.packet)?))
            .or_else(by_hash)
            .unwrap_or(pool)
    }

    /// The queue by five-tuple and SYN filters.
    fn filtered_queue(&self, pool: Option<u8>, packet: &Packet) -> Option<u8> {
        let is_syn = packet
            .transport
            .is_some_and(|transport| transport.protocol == TCP && transport.flags & SYN != 0);
        let syn = self.receive.syn.filter(|_| is_syn);
        let tuple = || {
            let matching = |filter: &&TupleFilter| filter.matches(pool, packet);
            let filters = self.receive.tuples.iter();
            filters
                .filter(|filter| filter.queue.is_some())
                .find(matching)?
                .queue
        };
        match syn {
            Some(syn) if syn.first => Some(syn.queue),
            _ => tuple().or(syn.map(|syn| syn.queue)),
        }
    }
}

impl TupleFilter {
    /// Whether it matches an IPv4 packet, of `pool` where there are pools.
    pub(super) fn matches(&self, pool: Option<u8>, packet: &Packet) -> bool {
        fn same<T: PartialEq>(wanted: Option<T>, found: Option<T>) -> bool {
            wanted.is_none_or(|wanted| found == Some(wanted))
        }
        let Some(ip) = packet.ipv4.as_ref() else {
            return false;
        };
        let transport = packet.transport.as_ref();
        let ports = transport.filter(|_| packet.ipv6.is_none());
        same(self.protocol, Some(ip.protocol))
            && same(self.source, Some(ip.source))
            && same(self.destination, Some(ip.destination))
            && same(self.source_port, ports.map(|ports| ports.source_port))
            && same(
                self.destination_port,
                ports.map(|ports| ports.destination_port),
            )
            && self.flags.is_none_or(|flags| {
                ports.is_some_and(|tcp| tcp.protocol == TCP && tcp.flags & flags != 0)
            })
            && (pool.is_none() || same(self.pool, pool))
    }
}

#[cfg(test)]
mod tests;
