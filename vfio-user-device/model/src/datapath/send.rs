//! A frame of a function on its way: checksums, tags, what its pool may send, and then to the switch
//! and out of the uplink.

use igb::frame::{ETHERTYPE_MAC_CONTROL, MIN_LENGTH};
use igb::{FunctionId, MacAddress, VlanTag};

use super::DataPath;
use super::checksum::{self, BadContext};
use super::deliver::{Origin, count_rx};
use super::frame::{Frame, HEAD, Tail};
use super::ring::Place;
use super::segment::Piece;
use super::switch::Destinations;
use super::tx::{Checksum, Cut, Request};
use super::whole::{SenderFault, Whole};
use crate::config::{Config, VlanInsert};
use crate::drops::DropReason;
use crate::events::{Direction, Events, Port, PortEvents, size_class};
use crate::host::{DataHost, DmaFault};

/// Buffers that every frame reuses.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) request: Request,
    whole: Whole,
    /// The local part of a frame as a receiver gets it.
    pub(super) local: Vec<u8>,
    /// What follows its addresses and tags in one piece, where a receiver is told a checksum of it.
    pub(super) gathered: Whole,
}

/// The last route looked up in a burst: frames come in runs.
#[derive(Default)]
pub(super) struct RouteCache(Option<(MacAddress, Option<VlanTag>, Destinations)>);

/// Why a frame did not go out, and what becomes of its queue.
pub(super) enum Unsent {
    Drop(DropReason),
    /// The sender's memory failed: its queue is halted.
    Fault {
        iova: u64,
        len: u64,
        fault: DmaFault,
    },
}

impl From<SenderFault> for Unsent {
    fn from(SenderFault { iova, len, fault }: SenderFault) -> Self {
        Unsent::Fault { iova, len, fault }
    }
}

impl From<DropReason> for Unsent {
    fn from(reason: DropReason) -> Self {
        Unsent::Drop(reason)
    }
}

/// Who sends, and by what configuration.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) config: &'a Config,
    pub(super) place: Place,
    pub(super) pool: u8,
}

impl Request {
    /// What of the request lies behind its first `skip` bytes, in the sender's memory.
    fn tail(&self, function: FunctionId, skip: usize) -> Tail<'_> {
        Tail {
            function,
            segments: &self.segments,
            skip,
            len: self.len - skip,
        }
    }

    /// Read its first bytes.
    pub(super) fn read_head(
        &self,
        function: FunctionId,
        mut into: &mut [u8],
        host: &mut dyn DataHost,
    ) -> Result<(), SenderFault> {
        for piece in self.tail(function, 0).pieces(0, into.len()) {
            let (part, rest) = into.split_at_mut(piece.len);
            host.dma_read(function, piece.iova, part)
                .map_err(|fault| SenderFault {
                    iova: piece.iova,
                    len: piece.len as u64,
                    fault,
                })?;
            into = rest;
        }
        Ok(())
    }
}

impl DataPath {
    /// Send the frame that a request describes. Returns its bytes on the wire, without FCS.
    pub(super) fn send(
        &mut self,
        sender: &Sender<'_>,
        request: &Request,
        cache: &mut RouteCache,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) -> (usize, Result<(), Unsent>) {
        let function = sender.place.function;
        let mut whole = std::mem::take(&mut self.scratch.whole);
        whole.clear();
        let asks = !matches!(request.checksum, Checksum::None);
        let local = if asks {
            request.len
        } else {
            request.len.min(HEAD)
        };
        let mut wire = request.len;
        let result = whole
            .read(function, request.tail(function, 0).pieces(0, local), host)
            .map_err(Unsent::from)
            .and_then(|()| insert_checksum(request.checksum, whole.bytes_mut()))
            .and_then(|()| {
                let tail = Some(request.tail(function, local)).filter(|tail| tail.len != 0);
                self.forward(
                    sender, &mut whole, tail, request, &mut wire, cache, host, events,
                )
            });
        self.scratch.whole = whole;
        (wire, result)
    }

    /// Send the next of the frames that a request is cut into. Returns its bytes on the wire, without
    /// FCS.
    pub(super) fn send_piece(
        &mut self,
        sender: &Sender<'_>,
        cut: &Cut,
        piece: Piece,
        cache: &mut RouteCache,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) -> (usize, Result<(), Unsent>) {
        let function = sender.place.function;
        let mut whole = std::mem::take(&mut self.scratch.whole);
        whole.clear();
        let header = cut.segmenter.header();
        whole.extend(header.len()).copy_from_slice(header);
        let payload = cut.request.tail(function, header.len());
        let mut wire = header.len() + piece.len;
        let result = whole
            .read(function, payload.pieces(piece.offset, piece.len), host)
            .map_err(Unsent::from)
            .and_then(|()| {
                cut.segmenter.insert_checksums(whole.bytes_mut());
                self.forward(
                    sender,
                    &mut whole,
                    None,
                    &cut.request,
                    &mut wire,
                    cache,
                    host,
                    events,
                )
            });
        self.scratch.whole = whole;
        (wire, result)
    }

    /// Send a frame that begins with `whole` and goes on with `tail`. All that is checked of it is
    /// checked here, after whatever changes its bytes.
    #[expect(clippy::too_many_arguments, reason = "the pieces of one frame")]
    fn forward(
        &mut self,
        sender: &Sender<'_>,
        whole: &mut Whole,
        mut tail: Option<Tail<'_>>,
        request: &Request,
        wire: &mut usize,
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
        let mut frame = Frame::parse(whole.bytes(), tail, vlan, config.outer_ethertype)
            .ok_or(DropReason::Runt)?;
        match (config.pools[usize::from(pool & 7)].insert, request.insert) {
            (VlanInsert::Always(_), _) if frame.tag.is_some() => {
                return Err(DropReason::TagNotAllowed.into());
            }
            (VlanInsert::Always(tag), _) => frame.tag = Some(VlanTag(tag)),
            (VlanInsert::Descriptor, Some(tag)) => {
                // A tag that is in the frame becomes the inner one.
                frame.rest = &whole.bytes()[frame.prefix_len()..];
                frame.tag = Some(tag);
            }
            (VlanInsert::Descriptor, None) | (VlanInsert::Never, _) => {}
        }
        *wire = frame.len().max(MIN_LENGTH);
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

        let short = config.pad_short && frame.untagged_len() < MIN_LENGTH;
        let padding = MIN_LENGTH.saturating_sub(frame.untagged_len());
        let Frame {
            addresses,
            outer,
            tag,
            rest,
            ..
        } = frame;
        let begin = whole.len() - rest.len();
        if uplink || short || host.capturing() {
            if let Some(tail) = tail.take() {
                whole.read(tail.function, tail.pieces(0, tail.len), host)?;
            }
            if short {
                whole.extend(padding).fill(0);
            }
        }
        let frame = Frame {
            addresses,
            outer,
            tag,
            rest: &whole.bytes()[begin..],
            tail,
            stamped: false,
        };
        let port = Port::Function(place.function);
        self.show(&frame, vlan, port, Direction::Ingress, host);
        self.deliver(config, &frame, route.pools, Origin::Pool, host, events)?;
        if uplink {
            self.send_out(&frame, vlan, host, events);
            // The registers of stamps are the PF's.
            if request.stamp && !place.function.is_vf() {
                events.tx_timestamp(self.now);
            }
        }
        count_tx(events.port_mut(port), &frame, route.pools != 0);
        Ok(())
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

fn insert_checksum(checksum: Checksum, frame: &mut [u8]) -> Result<(), Unsent> {
    match checksum {
        Checksum::None => Ok(()),
        Checksum::Advanced(options, context) => checksum::insert(frame, options, context),
        Checksum::Legacy { start, at } => checksum::insert_legacy(frame, start, at),
    }
    .map_err(|BadContext| DropReason::BadChecksumContext.into())
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
