//! Into receive queues: from the switch to the queues of the pools that want a frame.

use igb::function::POOL_COUNT;

use super::frame::Frame;
use super::ring::Place;
use super::rx::{Receiver, Refusal};
use super::transmit::fault_of;
use super::{DataPath, Progress, halt};
use crate::config::Config;
use crate::drops::DropReason;
use crate::events::{Direction, Events, Port, PortEvents, Ring as Kind};
use crate::host::{DataHost, DmaFault};

impl DataPath {
    /// Into the receive queues of `pools`. The error is a fault of the sender's memory; a receiver's
    /// is the receiver's alone.
    pub(super) fn deliver(
        &mut self,
        config: &Config,
        frame: &Frame<'_>,
        pools: u8,
        sender: Option<u8>,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) -> Result<(), (u64, u64, DmaFault)> {
        let destination = frame.destination();
        for pool in (0..POOL_COUNT as u8).filter(|pool| pools & 1 << pool != 0) {
            let queue = receive_queue(pool);
            let Some((function, own)) = config.queue_owner(queue) else {
                continue;
            };
            let port = Port::Function(function);
            if !config.vmdq && function.is_vf() {
                // Without pools all belongs to the PF, but the VF has its queue.
                events.drop_frame(Port::Uplink, DropReason::RxDisabled);
                continue;
            }
            let place = Place {
                function,
                queue: own,
            };
            let settings = &config.pools[usize::from(pool)];
            let replicated = destination.is_multicast() && config.strip_replicated;
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
                drop_enable: config.drop_enable & 1 << queue != 0,
                loopback: sender.is_some(),
                stamped: frame.stamped && !function.is_vf(),
                default_buffer: config.default_buffer,
                vlan_ethertype: config.vlan_ethertype,
            };
            if !host.has_turn(function) {
                events.drop_frame(port, DropReason::SlowReceiver);
                continue;
            }
            if self.rx[queue as usize].is_owing() {
                self.pay_rx(queue, &mut Progress::default(), host, events);
            }
            let (halted, result) = self.rx[queue as usize].receive(
                frame,
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
                    count_rx(events.port_mut(port), frame, sender.is_some());
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
                Err(Refusal::Sender { iova, len, fault }) => return Err((iova, len, fault)),
            }
        }
        Ok(())
    }
}

/// The receive queue of a pool. (RSS between its two queues would be decided here.)
fn receive_queue(pool: u8) -> u32 {
    u32::from(pool)
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
