//! Into receive queues: from the switch to the queues of the pools that want a frame.

use igb::function::POOL_COUNT;

use super::frame::Frame;
use super::inspect::Inspection;
use super::layout::header_end;
use super::packet::Packet;
use super::ring::Place;
use super::rx::{Receiver, Refusal};
use super::sort::Sortable;
use super::transmit::fault_of;
use super::whole::{SenderFault, Whole};
use super::{DataPath, Progress, halt};
use crate::config::Config;
use crate::drops::DropReason;
use crate::events::{Direction, Events, Port, PortEvents, Ring as Kind};
use crate::host::DataHost;

/// Where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Wire,
    /// Another pool.
    Pool,
}

impl DataPath {
    /// Into the receive queues of `pools`. The error is a fault of the sender's memory; a receiver's
    /// is the receiver's alone.
    pub(super) fn deliver(
        &mut self,
        config: &Config,
        frame: &Frame<'_>,
        pools: u8,
        origin: Origin,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) -> Result<(), SenderFault> {
        if pools == 0 {
            return Ok(());
        }
        let packet = Packet::of(frame);
        let ethertype = config.ethertype_filter(frame.ethertype());
        let sortable = Sortable::new(config, frame.tag, &packet, ethertype);
        let pools = config.redirected(pools, &sortable);
        let queues: QueueSet = (0..POOL_COUNT as u8)
            .filter(|pool| pools & 1 << pool != 0)
            .map(|pool| (pool, config.receive_queue(pool, &sortable)))
            .collect();

        let mut whole = std::mem::take(&mut self.scratch.gathered);
        let result = self
            .gathered(config, frame, &packet, &queues, &mut whole, host)
            .and_then(|frame| {
                let found = Found {
                    packet: &packet,
                    told: Inspection::of(config, &frame, &sortable),
                    loopback: origin == Origin::Pool,
                };
                queues.iter().try_for_each(|(pool, queue)| {
                    self.deliver_to(config, &frame, &found, (*pool, *queue), host, events)
                })
            });
        self.scratch.gathered = whole;
        result
    }

    /// The frame in one piece, where more of it than its headers is to be looked at.
    fn gathered<'a>(
        &self,
        config: &Config,
        frame: &Frame<'a>,
        packet: &Packet,
        queues: &QueueSet,
        whole: &'a mut Whole,
        host: &mut dyn DataHost,
    ) -> Result<Frame<'a>, SenderFault> {
        let checksum = &config.receive.checksum;
        let summed = |queue: u32| !checksum.hash_instead && self.rx[queue as usize].is_legacy();
        let reads = || checksum.reads(packet) || queues.iter().any(|(_, queue)| summed(*queue));
        let Some(tail) = frame.tail.filter(|_| reads()) else {
            return Ok(*frame);
        };
        whole.clear();
        whole.extend(frame.rest.len()).copy_from_slice(frame.rest);
        whole.read(tail.function, tail.pieces(0, tail.len), host)?;
        Ok(Frame {
            rest: whole.bytes(),
            tail: None,
            ..*frame
        })
    }

    fn deliver_to(
        &mut self,
        config: &Config,
        frame: &Frame<'_>,
        found: &Found<'_>,
        (pool, queue): (u8, u32),
        host: &mut dyn DataHost,
        events: &mut Events,
    ) -> Result<(), SenderFault> {
        let Some((function, own)) = config.queue_owner(queue) else {
            return Ok(());
        };
        let port = Port::Function(function);
        if !config.vmdq && function.is_vf() {
            // Without pools all belongs to the PF, but the VF has its queue.
            events.drop_frame(Port::Uplink, DropReason::RxDisabled);
            return Ok(());
        }
        let place = Place {
            function,
            queue: own,
        };
        let settings = &config.pools[usize::from(pool)];
        let replicated = frame.destination().is_multicast() && config.strip_replicated;
        let receiver = Receiver {
            place,
            permitted: config.function(function).rx,
            max_frame: if config.vmdq {
                settings.max_frame
            } else {
                config.max_frame
            },
            strip: if config.vmdq {
                settings.strip || replicated
            } else {
                config.strip
            },
            header_end: header_end(
                found.packet,
                config.receive.split_types[(queue % POOL_COUNT) as usize],
                config.receive.keep_fragments_whole,
            ),
            drop_enable: config.drop_enable & 1 << queue != 0,
            loopback: found.loopback,
            stamped: frame.stamped && !function.is_vf(),
            default_buffer: config.default_buffer,
            vlan_ethertype: config.vlan_ethertype,
        };
        if !host.has_turn(function) {
            events.drop_frame(port, DropReason::SlowReceiver);
            return Ok(());
        }
        if self.rx[queue as usize].is_owing() {
            self.pay_rx(queue, &mut Progress::default(), host, events);
        }
        let (halted, result) = self.rx[queue as usize].receive(
            frame,
            &found.told,
            &receiver,
            self.round,
            &mut self.scratch.local,
            host,
        );
        if let Some(reason) = halted {
            events.halt(halt(place, Kind::Rx, reason));
        }
        match result {
            Ok(()) => {
                count_rx(events.port_mut(port), frame, found.loopback);
                // Software that is not told yet has its interrupt when it is.
                if !self.rx[queue as usize].is_owing() {
                    events.cause(Kind::Rx, queue as u8);
                }
                let tag = frame.tag.filter(|_| !receiver.strip);
                let delivered = Frame { tag, ..*frame };
                self.show(
                    &delivered,
                    config.vlan_ethertype,
                    port,
                    Direction::Egress,
                    host,
                );
            }
            Err(Refusal::Drop(reason)) => events.drop_frame(port, reason),
            Err(Refusal::Fault {
                iova,
                len,
                write,
                fault,
            }) => {
                events.drop_frame(port, DropReason::RxFault);
                events.fault(fault_of(place, Kind::Rx, iova, len, write, fault));
            }
            Err(Refusal::Sender(fault)) => return Err(fault),
        }
        Ok(())
    }
}

/// Pools and the queue of each that gets the frame.
type QueueSet = smallvec::SmallVec<[(u8, u32); POOL_COUNT as usize]>;

/// What was found out about a frame.
struct Found<'a> {
    packet: &'a Packet,
    told: Inspection,
    /// It comes from another pool.
    loopback: bool,
}

pub(super) fn count_rx(port: &mut PortEvents, frame: &Frame<'_>, loopback: bool) {
    let (bytes, to) = (frame.len() as u64, frame.destination());
    port.rx_packets += 1;
    port.rx_bytes += bytes;
    port.rx_broadcast += u64::from(to.is_broadcast());
    port.rx_multicast += u64::from(to.is_multicast() && !to.is_broadcast());
    if loopback {
        port.rx_loopback_packets += 1;
        port.rx_loopback_bytes += bytes;
    }
}
