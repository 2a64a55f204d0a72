//! From a transmit ring through the switch into receive rings and out of the uplink.

use std::sync::Arc;

use igb::descriptor;
use igb::frame::{ETHERTYPE_MAC_CONTROL, FCS_LENGTH, MIN_LENGTH, TAG_LENGTH};
use igb::function::POOL_COUNT;
use igb::{FunctionId, MacAddress, VlanTag};

use super::checksum;
use super::deliver::count_rx;
use super::frame::{Frame, HEAD, Segment, Tail};
use super::ring::{Place, State};
use super::switch::Destinations;
use super::tx::{Checksum, FRAME_DESCRIPTORS, Item, Request};
use super::{DataPath, Progress, halt};
use crate::config::{Config, VlanInsert};
use crate::drops::DropReason;
use crate::events::{
    Direction, Events, Fault, HaltReason, Port, PortEvents, Ring as Kind, size_class,
};
use crate::host::{DataHost, DmaFault, FaultCause};

/// Frames taken from a queue before the next queue has its turn.
const BURST: u32 = 32;
/// Times that a queue's descriptors are fetched in one turn.
const FETCHES: u32 = 4;
/// When DMA that was cancelled is tried again. A client cancels it by accident when it has the card
/// wait for what its own access asked for, and that passes soon.
pub(super) const RETRY_NS: u64 = 1_000_000;
/// Preamble and gap, which count against a rate limit.
const WIRE_OVERHEAD: usize = 20;

/// Buffers that every frame reuses.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    request: Request,
    /// The frame as one piece, where it is needed so.
    whole: Vec<u8>,
    /// The local part of a frame as a receiver gets it.
    pub(super) local: Vec<u8>,
}

/// The last route looked up in a burst: frames come in runs.
#[derive(Default)]
struct RouteCache(Option<(MacAddress, Option<VlanTag>, Destinations)>);

/// Why a frame did not go out, and what becomes of its queue.
enum Unsent {
    Drop(DropReason),
    /// The sender's memory failed: its queue is halted.
    Fault {
        iova: u64,
        len: u64,
        fault: DmaFault,
    },
}

impl From<DropReason> for Unsent {
    fn from(reason: DropReason) -> Self {
        Unsent::Drop(reason)
    }
}

/// Who sends, and by what configuration.
struct Sender<'a> {
    config: &'a Config,
    place: Place,
    pool: u8,
}

impl DataPath {
    pub(super) fn run_queue(
        &mut self,
        queue: u32,
        progress: &mut Progress,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) {
        self.look_tx(queue, host);
        for halt in self.halts.drain(..) {
            events.halt(halt);
        }
        let config = Arc::clone(&self.config);
        let at = queue as usize;
        let Some((function, own)) = config.queue_owner(queue) else {
            return;
        };
        if self.tx[at].ring.state != State::Running {
            return;
        }
        let place = Place {
            function,
            queue: own,
        };
        let pool = (queue % POOL_COUNT) as u8;
        let sender = Sender {
            config: &config,
            place,
            pool,
        };
        let mut cache = RouteCache::default();
        let mut frames = 0;
        let mut fetches = 0;
        let mut completed = false;
        let head = self.tx[at].ring.head;
        let rate = config.rates[at];

        'burst: while frames < BURST && fetches < FETCHES {
            fetches += 1;
            match self.tx[at].pay(place, host) {
                Ok(reported) => completed |= reported,
                Err((iova, len, fault)) => {
                    self.tx_fault(at, place, (iova, len, true), fault, progress, events);
                    break;
                }
            }
            if let Err(when) = self.tx[at].may_send(rate, self.now) {
                progress.look_again(when);
                break;
            }
            let Some(available) = self.tx[at].ring.available(Kind::Tx, place, host) else {
                self.stop_tx(at, place, HaltReason::Tail, events);
                break;
            };
            if available == 0 {
                break;
            }
            if !host.has_turn(function) {
                progress.more = true;
                break;
            }
            let mut raw = [[0; descriptor::SIZE]; FRAME_DESCRIPTORS];
            let raw = &mut raw[..(available as usize).min(FRAME_DESCRIPTORS)];
            if let Err((iova, len, fault)) = self.tx[at].ring.fetch(place, 0, raw, host) {
                self.tx_fault(at, place, (iova, len, false), fault, progress, events);
                break;
            }
            let mut done = 0;
            while done < raw.len() && frames < BURST && (done == 0 || host.has_turn(function)) {
                let mut request = std::mem::take(&mut self.scratch.request);
                let item = self.tx[at].parse(&raw[done..], &mut request);
                let (taken, outcome) = match item {
                    Item::Incomplete => {
                        self.scratch.request = request;
                        if done == 0 {
                            // The rest of the frame has no descriptors yet.
                            self.tx[at].wait_for_more(available);
                            break 'burst;
                        }
                        break;
                    }
                    Item::Pass(taken) => (taken, Ok(())),
                    Item::Drop(taken, reason) => (taken, Err(Unsent::Drop(reason))),
                    Item::Frame(taken) => {
                        frames += 1;
                        (
                            taken,
                            self.send(&sender, &request, &mut cache, host, events),
                        )
                    }
                };
                if matches!(item, Item::Frame(_)) {
                    self.tx[at].spend(request.len + FCS_LENGTH + WIRE_OVERHEAD);
                }
                self.scratch.request = request;
                let mut cancelled = false;
                match outcome {
                    Ok(()) => {}
                    Err(Unsent::Drop(reason)) => {
                        if matches!(reason, DropReason::SpoofedMac | DropReason::SpoofedVlan) {
                            events.wvbr |= 1 << queue;
                        }
                        events.drop_frame(Port::Function(function), reason);
                    }
                    Err(Unsent::Fault { iova, len, fault }) => {
                        events.drop_frame(Port::Function(function), DropReason::TxFault);
                        events.fault(fault_of(place, Kind::Tx, iova, len, false, fault));
                        if fault.cause != FaultCause::Cancelled {
                            self.stop_tx(at, place, HaltReason::Fault, events);
                            break 'burst;
                        }
                        // The frame is lost, its queue is not.
                        cancelled = true;
                    }
                }
                let taken_raw = &raw[done..done + taken];
                match self.tx[at].complete(place, taken_raw, host) {
                    Ok(reported) => completed |= reported,
                    Err((iova, len, fault)) => {
                        if fault.cause == FaultCause::Cancelled {
                            self.tx[at].owe(taken_raw);
                        }
                        self.tx_fault(at, place, (iova, len, true), fault, progress, events);
                        break 'burst;
                    }
                }
                if cancelled {
                    self.retry_tx(at, progress);
                    break 'burst;
                }
                done += taken;
                if self.tx[at].may_send(rate, self.now).is_err() {
                    break;
                }
            }
        }
        let tx = &self.tx[at];
        if tx.ring.head != head {
            tx.ring.publish_head(Kind::Tx, place, host);
        }
        if completed {
            events.cause(Kind::Tx, queue as u8);
        }
        progress.frames += frames;
        progress.more |= tx.ring.state == State::Running && (frames == BURST || fetches == FETCHES);
    }

    fn stop_tx(&mut self, at: usize, place: Place, reason: HaltReason, events: &mut Events) {
        self.tx[at].ring.halt();
        events.halt(halt(place, Kind::Tx, reason));
    }

    /// A queue's own DMA failed: of descriptors, not of frames. One that was cancelled is tried
    /// again.
    fn tx_fault(
        &mut self,
        at: usize,
        place: Place,
        (iova, len, write): (u64, u64, bool),
        fault: DmaFault,
        progress: &mut Progress,
        events: &mut Events,
    ) {
        if fault.cause == FaultCause::Cancelled {
            return self.retry_tx(at, progress);
        }
        events.fault(fault_of(place, Kind::Tx, iova, len, write, fault));
        self.stop_tx(at, place, HaltReason::Fault, events);
    }

    fn retry_tx(&mut self, at: usize, progress: &mut Progress) {
        let when = self.now.saturating_add(RETRY_NS);
        self.tx[at].wait_until(when);
        progress.look_again(when);
    }

    /// Send one frame.
    fn send(
        &mut self,
        sender: &Sender<'_>,
        request: &Request,
        cache: &mut RouteCache,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) -> Result<(), Unsent> {
        let Sender {
            config,
            place,
            pool,
        } = *sender;
        let vlan = config.vlan_ethertype;
        let mut head = [0; HEAD];
        let head = &mut head[..request.len.min(HEAD)];
        read(place.function, &request.segments, head, host)?;
        let tail = Some(Tail {
            function: place.function,
            segments: &request.segments,
            skip: head.len(),
            len: request.len - head.len(),
        })
        .filter(|tail| tail.len != 0);
        let mut frame =
            Frame::parse(head, tail, vlan, config.outer_ethertype).ok_or(DropReason::Runt)?;
        // Bytes of a tag that the frame had in it and the frame's copy has not.
        let mut removed = if frame.tag.is_some() { TAG_LENGTH } else { 0 };
        match (config.pools[usize::from(pool & 7)].insert, request.insert) {
            (VlanInsert::Always(_), _) if frame.tag.is_some() => {
                return Err(DropReason::TagNotAllowed.into());
            }
            (VlanInsert::Always(tag), _) => frame.tag = Some(VlanTag(tag)),
            (VlanInsert::Descriptor, Some(tag)) => {
                // A tag that is in the frame becomes the inner one.
                frame.rest = &head[frame.prefix_len()..];
                frame.tag = Some(tag);
                removed = 0;
            }
            (VlanInsert::Descriptor, None) | (VlanInsert::Never, _) => {}
        }
        if place.function.is_vf() && frame.ethertype() == ETHERTYPE_MAC_CONTROL {
            return Err(DropReason::PauseFrame.into());
        }
        config.check_spoof(pool, frame.source(), frame.tag)?;
        let destination = frame.destination();
        let route = match cache.0 {
            Some((to, tag, route)) if to == destination && tag == frame.tag => route,
            _ => {
                let route = config.route_transmit(pool, destination, frame.tag);
                cache.0 = Some((destination, frame.tag, route));
                route
            }
        };
        if let Some(reason) = route.reason {
            return Err(reason.into());
        }
        let uplink = route.uplink && (config.link_up || config.receive.loopback_mac);
        if route.uplink && !uplink && route.pools == 0 {
            return Err(DropReason::LinkDown.into());
        }

        let mut whole = std::mem::take(&mut self.scratch.whole);
        let short = config.pad_short && frame.untagged_len() < MIN_LENGTH;
        let asks = !matches!(request.checksum, Checksum::None);
        let mut result = Ok(());
        if uplink || short || asks || host.capturing() {
            result = gather(&frame, &mut whole, host)
                .and_then(|()| insert_checksum(request, &mut whole, removed).map_err(Unsent::Drop));
            if short {
                whole.resize(whole.len().max(MIN_LENGTH), 0);
            }
            if result.is_ok() {
                let tag = frame.tag;
                // `whole` has no tag in it, and one that it seems to have is payload.
                let prefix = frame.prefix_len();
                frame = Frame {
                    tag,
                    rest: &whole[prefix..],
                    tail: None,
                    ..frame
                };
                self.show(
                    &frame,
                    vlan,
                    Port::Function(place.function),
                    Direction::Ingress,
                    host,
                );
            }
        }
        if result.is_ok() {
            result = self
                .deliver(config, &frame, route.pools, Some(pool), host, events)
                .map_err(|(iova, len, fault)| Unsent::Fault { iova, len, fault });
        }
        if result.is_ok() {
            if uplink {
                self.send_out(&frame, vlan, host, events);
                // The registers of stamps are the PF's.
                if request.stamp && !place.function.is_vf() {
                    events.tx_timestamp(self.now);
                }
            }
            let port = events.port_mut(Port::Function(place.function));
            count_tx(port, &frame, route.pools != 0);
        }
        self.scratch.whole = whole;
        result
    }

    /// Out of the card, a frame that is one local piece.
    fn send_out(
        &mut self,
        frame: &Frame<'_>,
        vlan: u16,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) {
        events.wire_tx_sizes[size_class(frame.len())] += 1;
        count_rx(events.port_mut(Port::Uplink), frame, true);
        if self.config.receive.loopback_mac {
            return self.come_back(frame, host, events);
        }
        frame.write_local(true, vlan, &mut self.scratch.local);
        let bytes = &self.scratch.local;
        host.uplink_send(bytes);
        if host.capturing() {
            host.capture(Port::Uplink, Direction::Egress, bytes);
        }
    }

    /// Let a capture see a frame.
    pub(super) fn show(
        &mut self,
        frame: &Frame<'_>,
        vlan: u16,
        port: Port,
        direction: Direction,
        host: &mut dyn DataHost,
    ) {
        // Frames are in one piece while somebody captures.
        if host.capturing() && frame.tail.is_none() {
            frame.write_local(true, vlan, &mut self.scratch.local);
            host.capture(port, direction, &self.scratch.local);
        }
    }
}

/// Read the first bytes of a frame.
fn read(
    function: FunctionId,
    segments: &[Segment],
    mut into: &mut [u8],
    host: &mut dyn DataHost,
) -> Result<(), Unsent> {
    for segment in segments {
        let (part, rest) = into.split_at_mut(segment.len.min(into.len()));
        if part.is_empty() {
            break;
        }
        host.dma_read(function, segment.iova, part)
            .map_err(|fault| Unsent::Fault {
                iova: segment.iova,
                len: part.len() as u64,
                fault,
            })?;
        into = rest;
    }
    Ok(())
}

/// The frame without its tag as one piece: the trusted header, and the rest read once.
fn gather(frame: &Frame<'_>, whole: &mut Vec<u8>, host: &mut dyn DataHost) -> Result<(), Unsent> {
    frame.write_local(false, 0, whole);
    let Some(tail) = frame.tail else {
        return Ok(());
    };
    let mut at = whole.len();
    whole.resize(at + tail.len, 0);
    for piece in tail.pieces(0, tail.len) {
        let len = piece.len;
        host.dma_read(tail.function, piece.iova, &mut whole[at..at + len])
            .map_err(|fault| Unsent::Fault {
                iova: piece.iova,
                len: len as u64,
                fault,
            })?;
        at += len;
    }
    Ok(())
}

fn insert_checksum(request: &Request, whole: &mut [u8], removed: usize) -> Result<(), DropReason> {
    match request.checksum {
        Checksum::None => Ok(()),
        Checksum::Advanced(options, context) => checksum::insert(whole, options, context, removed),
        Checksum::Legacy { start, at } => {
            // The descriptor counts the tag that is in the frame.
            let start = start.checked_sub(removed);
            let at = at.checked_sub(removed);
            match (start, at) {
                (Some(start), Some(at)) => checksum::insert_legacy(whole, start, at),
                _ => Err(checksum::BadContext),
            }
        }
    }
    .map_err(|checksum::BadContext| DropReason::BadChecksumContext)
}

fn count_tx(port: &mut PortEvents, frame: &Frame<'_>, loopback: bool) {
    let (bytes, to) = (frame.len() as u64, frame.destination());
    port.tx_packets += 1;
    port.tx_bytes += bytes;
    port.tx_broadcast += u64::from(to.is_broadcast());
    port.tx_multicast += u64::from(to.is_multicast() && !to.is_broadcast());
    if loopback {
        port.tx_loopback_packets += 1;
        port.tx_loopback_bytes += bytes;
    }
}

pub(super) fn fault_of(
    place: Place,
    ring: Kind,
    iova: u64,
    len: u64,
    write: bool,
    fault: DmaFault,
) -> Fault {
    Fault {
        function: place.function,
        queue: place.queue as u8,
        ring,
        iova,
        len,
        write,
        cause: fault.cause,
    }
}
