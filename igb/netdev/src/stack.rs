//! The TCP/IP stack of a function: smoltcp with an address, answering pings, a TCP echo and a sink
//! that hashes.

use std::time::{Duration, Instant};

use igb_driver::netdev::{MacAddress, NetDevice};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, HardwareAddress, IpCidr, Ipv4Address,
};

use crate::jobs::Job;
use crate::port::{Buffers, Port};
use crate::stream::{DIGEST, ECHO_PORT, HEADER, Hash, SINK_PORT};

/// Bytes of each direction's buffer of a TCP socket: the most in flight, and less than a ring of
/// 256 full frames holds, so that no transfer overruns the receiver's ring.
pub const TCP_BUFFER: usize = 192 * 1024;
/// How many connections the sink and the echo service each take at once.
const LISTENERS: usize = 4;
/// The largest transfer that the sink takes.
const MOST_BYTES: u64 = 1 << 40;

/// A listening service on one socket.
#[derive(Debug)]
enum Service {
    Echo,
    Sink(Sink),
}

/// One transfer into the sink.
#[derive(Debug, Default)]
struct Sink {
    header: Vec<u8>,
    left: Option<u64>,
    hash: Hash,
    answered: usize,
}

/// The stack, its sockets, and the jobs that use them.
pub struct Stack {
    interface: Option<Interface>,
    mtu: u32,
    address: Option<IpCidr>,
    pub(crate) sockets: SocketSet<'static>,
    services: Vec<(SocketHandle, Service)>,
    /// Buffers between driver and stack.
    pub buffers: Buffers,
    pub(crate) jobs: Vec<Job>,
    epoch: Instant,
}

pub(crate) fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

impl Stack {
    /// A stack with that address; without one it answers nothing, and can only send raw frames.
    pub fn new(address: Option<IpCidr>) -> Self {
        let mut sockets = SocketSet::new(Vec::new());
        let mut services = Vec::new();
        if address.is_some() {
            for _ in 0..LISTENERS {
                services.push((sockets.add(tcp_socket()), Service::Echo));
                services.push((sockets.add(tcp_socket()), Service::Sink(Sink::default())));
            }
        }
        let epoch = Instant::now();
        let (buffers, jobs) = (Buffers::default(), Vec::new());
        Self {
            interface: None,
            mtu: 0,
            address,
            sockets,
            services,
            buffers,
            jobs,
            epoch,
        }
    }

    /// The address that it was given.
    pub fn address(&self) -> Option<IpCidr> {
        self.address
    }

    pub(crate) fn now(&self) -> smoltcp::time::Instant {
        let micros = self.epoch.elapsed().as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// One round: frames in, services and jobs, frames out. `true` if it should be called again
    /// without waiting.
    pub fn poll(&mut self, device: &mut dyn NetDevice) -> bool {
        let now = self.now();
        let hardware = HardwareAddress::Ethernet(EthernetAddress(device.mac().0));
        let address = self.address;
        if self.mtu != device.mtu() {
            // smoltcp reads the device's capabilities once.
            self.mtu = device.mtu();
            self.interface = None;
        }
        let announce = self.interface.as_ref().map(Interface::hardware_addr) != Some(hardware);
        let mut port = Port {
            device,
            buffers: &mut self.buffers,
        };
        let interface = self.interface.get_or_insert_with(|| {
            let mut interface = Interface::new(Config::new(hardware), &mut port, now);
            if let Some(address) = address {
                interface.update_ip_addrs(|addresses| {
                    addresses.push(address).expect("room for one address");
                });
            }
            interface
        });
        if interface.hardware_addr() != hardware {
            interface.set_hardware_addr(hardware);
        }
        if announce && let Some(IpCidr::Ipv4(own)) = address {
            let frame = announcement(port.device.mac(), own.address());
            port.buffers.send(port.device, &frame);
        }
        if port.buffers.take_announced() {
            // smoltcp forgets its neighbours only together with a look at its addresses.
            interface.update_ip_addrs(|_| {});
        }
        interface.poll(now, &mut port, &mut self.sockets);
        let mut moved = serve(&mut self.services, &mut self.sockets);
        let mut jobs = std::mem::take(&mut self.jobs);
        for job in &mut jobs {
            moved |= job.advance(interface, &mut self.sockets);
        }
        self.jobs = jobs;
        if moved {
            let mut port = Port {
                device,
                buffers: &mut self.buffers,
            };
            interface.poll(now, &mut port, &mut self.sockets);
        }
        self.buffers.is_waiting()
    }

    /// Another driver is below: the interface is made anew.
    pub fn device_changed(&mut self) {
        self.interface = None;
    }

    /// How long until the stack wants to be polled although nothing arrived.
    pub fn next_timeout(&mut self) -> Option<Duration> {
        let now = self.now();
        let stack = self
            .interface
            .as_mut()
            .and_then(|interface| interface.poll_delay(now, &self.sockets))
            .map(Duration::from);
        let jobs = self.jobs.iter().filter_map(Job::next_timeout).min();
        [stack, jobs].into_iter().flatten().min()
    }
}

/// An ARP announcement (RFC 5227 section 2.3): this address is here from now on.
fn announcement(mac: MacAddress, address: Ipv4Address) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    let header = EthernetRepr {
        src_addr: EthernetAddress(mac.0),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; header.buffer_len() + repr.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    header.emit(&mut frame);
    repr.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// Whether a frame is such an announcement, of whatever address.
pub(crate) fn is_announcement(frame: &[u8]) -> bool {
    let Ok(frame) = EthernetFrame::new_checked(frame) else {
        return false;
    };
    if frame.ethertype() != EthernetProtocol::Arp {
        return false;
    }
    let arp = ArpPacket::new_checked(frame.payload()).and_then(|packet| ArpRepr::parse(&packet));
    matches!(
        arp,
        Ok(ArpRepr::EthernetIpv4 { source_protocol_addr, target_protocol_addr, .. })
            if source_protocol_addr == target_protocol_addr
    )
}

/// Advance the listening services; `true` if any of them moved bytes.
fn serve(services: &mut [(SocketHandle, Service)], sockets: &mut SocketSet<'_>) -> bool {
    let mut moved = false;
    for (handle, service) in services {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
        if !socket.is_open() {
            let port = match service {
                Service::Echo => ECHO_PORT,
                Service::Sink(sink) => {
                    *sink = Sink::default();
                    SINK_PORT
                }
            };
            if let Err(error) = socket.listen(port) {
                log::warn!("port {port} cannot be listened on: {error}");
            }
            continue;
        }
        match service {
            Service::Echo => moved |= echo(socket),
            Service::Sink(sink) => moved |= sink.advance(socket),
        }
        // The client has said all; what of it still waits here is answered first.
        if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
            socket.close();
            moved = true;
        }
    }
    moved
}

fn echo(socket: &mut tcp::Socket<'_>) -> bool {
    let room = socket.send_capacity() - socket.send_queue();
    if !socket.can_recv() || room == 0 {
        return false;
    }
    let mut chunk = [0; 4096];
    let most = room.min(chunk.len());
    let taken = socket.recv_slice(&mut chunk[..most]).unwrap_or(0);
    // What was taken fits: the room was looked at first.
    socket.send_slice(&chunk[..taken]).is_ok() && taken > 0
}

impl Sink {
    fn advance(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let mut moved = false;
        while socket.can_recv() && self.left != Some(0) {
            let taken = socket.recv(|bytes| {
                let wanted = match self.left {
                    None => HEADER - self.header.len(),
                    Some(left) => usize::try_from(left).unwrap_or(usize::MAX),
                };
                let taken = &bytes[..wanted.min(bytes.len())];
                match &mut self.left {
                    None => self.header.extend_from_slice(taken),
                    Some(left) => {
                        self.hash.update(taken);
                        *left -= taken.len() as u64;
                    }
                }
                (taken.len(), taken.len())
            });
            moved |= taken.unwrap_or(0) > 0;
            if self.left.is_none()
                && let Ok(length) = <[u8; HEADER]>::try_from(self.header.as_slice())
            {
                let length = u64::from_le_bytes(length);
                if length > MOST_BYTES {
                    socket.abort();
                    return true;
                }
                self.left = Some(length);
            }
        }
        if self.left == Some(0) && self.answered < DIGEST && socket.can_send() {
            let digest = self.hash.digest();
            self.answered += socket.send_slice(&digest[self.answered..]).unwrap_or(0);
            if self.answered == DIGEST {
                socket.close();
            }
            moved = true;
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::phy::{Loopback, Medium};
    use smoltcp::time::{Duration, Instant};

    use super::*;

    fn socket(receive: usize, send: usize) -> tcp::Socket<'static> {
        tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; receive]),
            tcp::SocketBuffer::new(vec![0; send]),
        )
    }

    #[test]
    fn a_client_that_has_said_all_is_still_echoed_what_it_said() {
        let mut device = Loopback::new(Medium::Ethernet);
        let mut now = Instant::ZERO;
        let own = EthernetAddress([2, 0, 0, 0, 0, 1]);
        let mut interface = Interface::new(Config::new(own.into()), &mut device, now);
        let address = Ipv4Address::new(10, 0, 0, 1);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(address.into(), 24))
                .expect("room for one");
        });
        let mut sockets = SocketSet::new(Vec::new());
        // What the service has taken in is far more than it can give back at once.
        let mut services = [(sockets.add(socket(1 << 16, 512)), Service::Echo)];
        let client = sockets.add(socket(1 << 16, 1 << 16));
        serve(&mut services, &mut sockets);
        sockets
            .get_mut::<tcp::Socket<'_>>(client)
            .connect(interface.context(), (address, ECHO_PORT), 50_000)
            .expect("a way there");
        let sent: Vec<u8> = (0..50_000u32).map(|n| (n % 251) as u8).collect();
        let (mut left, mut back) = (&sent[..], Vec::new());
        for _ in 0..20_000 {
            now += Duration::from_millis(1);
            interface.poll(now, &mut device, &mut sockets);
            serve(&mut services, &mut sockets);
            let socket = sockets.get_mut::<tcp::Socket<'_>>(client);
            if socket.can_send() && !left.is_empty() {
                left = &left[socket.send_slice(left).expect("it can")..];
                if left.is_empty() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                let piece = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
                back.extend(piece.expect("it can"));
            }
            if back.len() == sent.len() || !socket.is_open() {
                break;
            }
        }
        assert!(
            back == sent,
            "{} of {} bytes came back",
            back.len(),
            sent.len()
        );
    }
}
