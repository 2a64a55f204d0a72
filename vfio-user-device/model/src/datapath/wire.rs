//! Frames from the wire, and those that a loopback of the MAC or the PHY turns round.

use std::sync::Arc;

use igb::frame::MAX_JUMBO_LENGTH;

use super::DataPath;
use super::deliver::Origin;
use super::frame::Frame;
use crate::config::Config;
use crate::drops::DropReason;
use crate::events::{Direction, Events, Port, size_class};
use crate::host::DataHost;

impl DataPath {
    /// A frame (without FCS) came in from the wire.
    pub fn uplink_receive(&mut self, bytes: &[u8], host: &mut dyn DataHost, events: &mut Events) {
        self.begin(events);
        if self.config.receive.loopback_mac {
            return events.drop_frame(Port::Uplink, DropReason::Loopback);
        }
        if !self.config.link_up {
            return events.drop_frame(Port::Uplink, DropReason::LinkDown);
        }
        if bytes.len() > MAX_JUMBO_LENGTH {
            return events.drop_frame(Port::Uplink, DropReason::Oversize);
        }
        let config = Arc::clone(&self.config);
        let Some(frame) = Frame::parse(bytes, None, config.vlan_ethertype, config.outer_ethertype)
        else {
            return events.drop_frame(Port::Uplink, DropReason::Runt);
        };
        if host.capturing() {
            host.capture(Port::Uplink, Direction::Ingress, bytes);
        }
        self.arrive(&config, &frame, host, events);
        self.publish_heads(host);
    }

    /// What was sent to the wire comes back from it.
    pub(super) fn come_back(
        &mut self,
        frame: &Frame<'_>,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) {
        let config = Arc::clone(&self.config);
        self.arrive(&config, frame, host, events);
    }

    fn arrive(
        &mut self,
        config: &Config,
        frame: &Frame<'_>,
        host: &mut dyn DataHost,
        events: &mut Events,
    ) {
        let destination = frame.destination();
        let port = events.port_mut(Port::Uplink);
        let bytes = frame.len() as u64;
        let broadcast = u64::from(destination.is_broadcast());
        let multicast = u64::from(destination.is_multicast()) - broadcast;
        port.tx_packets += 1;
        port.tx_bytes += bytes;
        port.tx_broadcast += broadcast;
        port.tx_multicast += multicast;
        events.wire_rx_sizes[size_class(frame.len())] += 1;
        let route = config.route_receive(destination, frame.tag);
        if let Some(reason) = route.reason {
            return events.drop_frame(Port::Uplink, reason);
        }
        let good = &mut events.wire_good;
        good.packets += 1;
        good.bytes += bytes;
        good.broadcast += broadcast;
        good.multicast += multicast;
        let stamped = self.stamp(config, frame);
        let frame = &Frame { stamped, ..*frame };
        // A frame from the wire is in one piece, and has no sender whose memory could fail.
        let _ = self.deliver(config, frame, route.pools, Origin::Wire, host, events);
    }
}
