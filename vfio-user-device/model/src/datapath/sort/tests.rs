use super::*;
use crate::config::{PoolConfig, RSS_KEY, RSS_TABLE, ReceiveConfig, RssConfig, SynFilter};
use igb::descriptor::PacketType;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::packet::{Ipv4, Transport, UDP};

const ADDRESSES: [[u8; 4]; 2] = [[10, 0, 0, 1], [10, 0, 0, 2]];
const PORTS: [u16; 2] = [80, 319];
const ETHERTYPES: [u16; 2] = [0x0800, 0x88F7];

fn one_of<T: Clone + std::fmt::Debug>(values: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(values)
}

prop_compose! {
    fn tuple()(
        protocol in prop::option::of(one_of(&[TCP, UDP])),
        source in prop::option::of(one_of(&ADDRESSES)),
        destination in prop::option::of(one_of(&ADDRESSES)),
        source_port in prop::option::of(one_of(&PORTS)),
        destination_port in prop::option::of(one_of(&PORTS)),
        flags in prop::option::weighted(0.3, 0u8..0x40),
        pool in prop::option::of(0u8..8), queue in prop::option::of(0u8..16),
    ) -> TupleFilter {
        TupleFilter {
            protocol, source, destination, source_port, destination_port, flags, pool, queue,
            stamp: false,
        }
    }
}

prop_compose! {
    fn ethertype()(
        number in 0u8..8, ethertype in one_of(&ETHERTYPES), queue in prop::option::of(0u8..8),
    ) -> EthertypeFilter {
        EthertypeFilter { number, ethertype, queue, stamp: false }
    }
}

prop_compose! {
    fn config()(
        vmdq in any::<bool>(), rss in any::<bool>(), pools_rss in any::<u8>(),
        entries in vec(any::<u8>(), RSS_TABLE), default_queue in 0u8..8,
        ethertypes in vec(ethertype(), 0..3), tuples in vec(tuple(), 0..5),
        syn in prop::option::of((0u8..8, any::<bool>())),
        priorities in vec(prop::option::of(0u8..8), 8),
    ) -> Config {
        Config {
            vmdq,
            pools: std::array::from_fn(|pool| PoolConfig {
                rss: pools_rss >> pool & 1 == 1,
                ..PoolConfig::default()
            }),
            receive: ReceiveConfig {
                rss: rss.then(|| RssConfig {
                    mrqc: 0,
                    key: [0; RSS_KEY],
                    table: entries.try_into().unwrap(),
                }),
                default_queue,
                ethertypes,
                tuples,
                syn: syn.map(|(queue, first)| SynFilter { queue, first }),
                vlan_priorities: priorities.try_into().unwrap(),
                ..ReceiveConfig::default()
            },
            ..Config::default()
        }
    }
}

prop_compose! {
    fn packet()(
        is_ip in prop::bool::weighted(0.9), protocol in one_of(&[TCP, UDP, 1]),
        source in one_of(&ADDRESSES), destination in one_of(&ADDRESSES),
        source_port in one_of(&PORTS), destination_port in one_of(&PORTS), flags in 0u8..0x40,
    ) -> Packet {
        let transport = Transport {
            protocol, at: 0, payload: 0, end: 0, source_port, destination_port,
            flags: if protocol == TCP { flags } else { 0 },
        };
        let ip = Ipv4 {
            at: 0, payload: 0, end: 0, source, destination, id: 0, protocol, fragment: None,
        };
        Packet {
            kind: PacketType::empty(),
            ipv4: is_ip.then_some(ip),
            ipv6: None,
            transport: Some(transport).filter(|_| is_ip && protocol != 1),
        }
    }
}

/// The rules once more, as a list of whoever may decide, in their order.
fn naive(config: &Config, pool: u8, frame: &Sortable<'_>) -> u32 {
    let receive = &config.receive;
    let mut deciders: Vec<Option<u8>> = Vec::new();
    deciders.push(frame.ethertype.and_then(|filter| filter.queue));
    let packet = frame.packet;
    let is_syn = matches!(packet.transport, Some(t) if t.protocol == TCP && t.flags & 2 == 2);
    let syn = |first| match receive.syn {
        Some(syn) if is_syn && syn.first == first => Some(syn.queue),
        _ => None,
    };
    let tuple = receive.tuples.iter().find(|filter| {
        let Some(ip) = packet.ipv4 else { return false };
        let port =
            |wanted: Option<u16>, found: fn(&Transport) -> u16| match (wanted, packet.transport) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(wanted), Some(transport)) => found(&transport) == wanted,
            };
        filter.queue.is_some()
            && (filter.protocol.is_none() || filter.protocol == Some(ip.protocol))
            && (filter.source.is_none() || filter.source == Some(ip.source))
            && (filter.destination.is_none() || filter.destination == Some(ip.destination))
            && port(filter.source_port, |t| t.source_port)
            && port(filter.destination_port, |t| t.destination_port)
            && (filter.flags.is_none()
                || packet
                    .transport
                    .is_some_and(|t| t.protocol == TCP && t.flags & filter.flags.unwrap() != 0))
            && (!config.vmdq || filter.pool.is_none() || filter.pool == Some(pool))
    });
    let tuple = tuple.and_then(|filter| filter.queue);
    // One of the three decides, and only then is it asked whose the queue is.
    deciders.push(syn(true).or(tuple).or(syn(false)));
    let hash = *frame.hash.get().expect("given by the test");
    let entry = hash.and_then(|(_, hash)| receive.rss.map(|rss| rss.table[(hash & 127) as usize]));
    if !config.vmdq {
        let priority = frame.tag.map(|tag| tag.0 >> 13);
        deciders.push(priority.and_then(|n| receive.vlan_priorities[usize::from(n)]));
        deciders.push(entry.map(|entry| entry & 15));
        let first = deciders.into_iter().flatten().next();
        return u32::from(first.unwrap_or(receive.default_queue));
    }
    let own = [pool, pool + 8];
    let filtered = deciders
        .into_iter()
        .flatten()
        .find(|queue| own.contains(queue));
    let second = entry.is_some_and(|entry| entry & 8 == 8) && config.pools[usize::from(pool)].rss;
    u32::from(filtered.unwrap_or(own[usize::from(second)]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_frame_goes_to_the_queue_that_the_rules_say(
        config in config(), packet in packet(), pool in 0u8..8, ethertype in one_of(&ETHERTYPES),
        tag in prop::option::of(any::<u16>()), hash in prop::option::of(any::<u32>()),
    ) {
        // Whatever the hash is: what it is made of is tested where it is made.
        let frame = Sortable {
            hash: OnceCell::from(hash.map(|hash| (RssType::Ipv4, hash))),
            ..Sortable::new(&config, tag.map(VlanTag), &packet, config.ethertype_filter(ethertype))
        };
        let pool = if config.vmdq { pool } else { 0 };
        let queue = config.receive_queue(pool, &frame);
        prop_assert_eq!(queue, naive(&config, pool, &frame));
        // No filter leads from one pool into another's queue.
        prop_assert!(!config.vmdq || queue % 8 == u32::from(pool));
        prop_assert!(queue < 16);
    }

    #[test]
    fn ethertype_filters_choose_the_pool(
        config in config(), packet in packet(), pools in any::<u8>(), ethertype in one_of(&ETHERTYPES),
    ) {
        let filter = config.receive.ethertypes.iter().find(|filter| filter.ethertype == ethertype);
        let frame = Sortable::new(&config, None, &packet, config.ethertype_filter(ethertype));
        let want = match filter.and_then(|filter| filter.queue) {
            Some(queue) if config.vmdq && pools != 0 => 1 << queue,
            _ => pools,
        };
        prop_assert_eq!(config.redirected(pools, &frame), want);
    }
}
