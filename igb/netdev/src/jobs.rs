//! What a control client may have the stack do: ping an address, send a stream of bytes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, Ipv4Address};

use crate::stack::{Stack, tcp_socket};
use crate::stream::{DIGEST, Hash, SINK_PORT, Stream, hex};

/// The most echo requests of one ping.
pub const MOST_PINGS: u64 = 100_000;
/// The most bytes of one transfer.
pub const MOST_BYTES: u64 = 1 << 36;
/// A transfer that makes no progress for this long has failed.
const STALLED: Duration = Duration::from_secs(30);
const PING_PAYLOAD: usize = 56;
const CHUNK: usize = 16 * 1024;

/// A job of the stack, and whom its answer is for.
#[derive(Debug)]
pub struct Job {
    /// The control client that asked.
    pub client: u64,
    socket: SocketHandle,
    kind: Kind,
    /// The answer, once there is one.
    pub answer: Option<Result<Value, String>>,
}

#[derive(Debug)]
enum Kind {
    Ping(Ping),
    Send(Box<Send>),
}

#[derive(Debug)]
struct Ping {
    address: Ipv4Address,
    ident: u16,
    count: u64,
    timeout: Duration,
    sent: u64,
    awaited: Option<(u16, Instant)>,
    round_trips: Vec<f64>,
}

#[derive(Debug)]
struct Send {
    address: Ipv4Address,
    bytes: u64,
    stream: Stream,
    hash: Hash,
    header: Vec<u8>,
    chunk: Vec<u8>,
    produced: u64,
    digest: Vec<u8>,
    began: Instant,
    progress: Instant,
    connected: bool,
}

impl Stack {
    /// Ping `address` `count` times, one at a time, waiting at most `timeout` for each reply.
    pub fn start_ping(&mut self, client: u64, address: Ipv4Address, count: u64, timeout: Duration) {
        // Identifiers tell the pings of concurrent clients apart.
        let ident = (client as u16) ^ 0xD15C;
        let metadata = || vec![icmp::PacketMetadata::EMPTY; 8];
        let buffer = || icmp::PacketBuffer::new(metadata(), vec![0; 2048]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        let answer = socket
            .bind(icmp::Endpoint::Ident(ident))
            .err()
            .map(|error| Err(format!("the ICMP socket cannot be bound: {error}")));
        let socket = self.sockets.add(socket);
        let (sent, awaited, round_trips) = (0, None, Vec::new());
        let count = count.min(MOST_PINGS);
        let kind = Kind::Ping(Ping {
            address,
            ident,
            count,
            timeout,
            sent,
            awaited,
            round_trips,
        });
        self.jobs.push(Job {
            client,
            socket,
            kind,
            answer,
        });
    }

    /// Send `bytes` of the stream of `seed` to the sink at `address`.
    pub fn start_send(&mut self, client: u64, address: Ipv4Address, bytes: u64, seed: u64) {
        let socket = self.sockets.add(tcp_socket());
        let now = Instant::now();
        let bytes = bytes.min(MOST_BYTES);
        let kind = Kind::Send(Box::new(Send {
            address,
            bytes,
            stream: Stream::new(seed),
            hash: Hash::default(),
            header: bytes.to_le_bytes().to_vec(),
            chunk: Vec::new(),
            produced: 0,
            digest: Vec::new(),
            began: now,
            progress: now,
            connected: false,
        }));
        self.jobs.push(Job {
            client,
            socket,
            kind,
            answer: None,
        });
    }

    /// The jobs that have their answer, each with the client that asked.
    pub fn finished_jobs(&mut self) -> Vec<(u64, Result<Value, String>)> {
        let mut finished = Vec::new();
        let Self { jobs, sockets, .. } = self;
        jobs.retain_mut(|job| match job.answer.take() {
            Some(answer) => {
                sockets.remove(job.socket);
                finished.push((job.client, answer));
                false
            }
            None => true,
        });
        finished
    }

    /// The device is lost: no job can go on.
    pub fn fail_jobs(&mut self, reason: &str) {
        for job in &mut self.jobs {
            job.answer.get_or_insert_with(|| Err(reason.to_owned()));
        }
    }

    /// A client has gone: its jobs have nobody to answer.
    pub fn drop_jobs_of(&mut self, client: u64) {
        let Self { jobs, sockets, .. } = self;
        jobs.retain(|job| {
            if job.client == client {
                sockets.remove(job.socket);
            }
            job.client != client
        });
    }
}

impl Job {
    pub(crate) fn advance(
        &mut self,
        interface: &mut Interface,
        sockets: &mut SocketSet<'_>,
    ) -> bool {
        if self.answer.is_some() {
            return false;
        }
        let (moved, answer) = match &mut self.kind {
            Kind::Ping(ping) => ping.advance(sockets.get_mut(self.socket)),
            Kind::Send(send) => {
                let port = 49152 + (self.client % 16384) as u16;
                send.advance(interface, sockets.get_mut(self.socket), port)
            }
        };
        self.answer = answer;
        moved
    }

    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        match &self.kind {
            _ if self.answer.is_some() => Some(Duration::ZERO),
            Kind::Ping(Ping {
                awaited: Some((_, sent)),
                timeout,
                ..
            }) => Some(timeout.saturating_sub(sent.elapsed())),
            Kind::Ping(_) => Some(Duration::ZERO),
            Kind::Send(send) => Some(STALLED.saturating_sub(send.progress.elapsed())),
        }
    }
}

type Progress = (bool, Option<Result<Value, String>>);

impl Ping {
    fn advance(&mut self, socket: &mut icmp::Socket<'_>) -> Progress {
        let mut moved = false;
        while let Ok((payload, from)) = socket.recv() {
            let Ok(packet) = Icmpv4Packet::new_checked(payload) else {
                continue;
            };
            let Ok(reply) = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()) else {
                continue;
            };
            if let (Icmpv4Repr::EchoReply { ident, seq_no, .. }, Some((awaited, sent))) =
                (reply, self.awaited)
                && from == IpAddress::Ipv4(self.address)
                && ident == self.ident
                && seq_no == awaited
            {
                self.round_trips.push(sent.elapsed().as_secs_f64() * 1e6);
                self.awaited = None;
            }
        }
        if self
            .awaited
            .is_some_and(|(_, sent)| sent.elapsed() >= self.timeout)
        {
            self.awaited = None;
        }
        if self.awaited.is_none() {
            if self.sent == self.count {
                let received = self.round_trips.len();
                let trips = std::mem::take(&mut self.round_trips);
                let answer = json!({"sent": self.sent, "received": received, "rtt_us": trips});
                return (moved, Some(Ok(answer)));
            }
            let data = [0x5A; PING_PAYLOAD];
            let sequence = self.sent as u16;
            let request = Icmpv4Repr::EchoRequest {
                ident: self.ident,
                seq_no: sequence,
                data: &data,
            };
            match socket.send(request.buffer_len(), self.address.into()) {
                Ok(buffer) => {
                    request.emit(
                        &mut Icmpv4Packet::new_unchecked(buffer),
                        &ChecksumCapabilities::default(),
                    );
                    moved = true;
                }
                Err(icmp::SendError::Unaddressable) => {
                    let error = format!("{} cannot be pinged", self.address);
                    return (moved, Some(Err(error)));
                }
                // Those before still wait for a neighbour that does not answer: lost, as they are.
                Err(icmp::SendError::BufferFull) => {}
            }
            self.sent += 1;
            self.awaited = Some((sequence, Instant::now()));
        }
        (moved, None)
    }
}

impl Send {
    fn advance(
        &mut self,
        interface: &mut Interface,
        socket: &mut tcp::Socket<'_>,
        port: u16,
    ) -> Progress {
        if !self.connected {
            let target = (IpAddress::Ipv4(self.address), SINK_PORT);
            if let Err(error) = socket.connect(interface.context(), target, port) {
                return (
                    false,
                    Some(Err(format!("no connection to {}: {error}", self.address))),
                );
            }
            self.connected = true;
            return (true, None);
        }
        let mut moved = false;
        while socket.can_send()
            && (!self.header.is_empty() || self.produced < self.bytes || !self.chunk.is_empty())
        {
            let pending = if self.header.is_empty() {
                &mut self.chunk
            } else {
                &mut self.header
            };
            if pending.is_empty() {
                let left = usize::try_from(self.bytes - self.produced).unwrap_or(usize::MAX);
                pending.resize(CHUNK.min(left), 0);
                self.stream.fill(pending);
                self.hash.update(pending);
                self.produced += pending.len() as u64;
            }
            let taken = socket.send_slice(pending).unwrap_or(0);
            pending.drain(..taken);
            moved |= taken > 0;
        }
        while socket.can_recv() && self.digest.len() < DIGEST {
            let mut bytes = [0; DIGEST];
            let wanted = DIGEST - self.digest.len();
            let taken = socket.recv_slice(&mut bytes[..wanted]).unwrap_or(0);
            self.digest.extend_from_slice(&bytes[..taken]);
            moved = true;
        }
        if moved || socket.send_queue() > 0 && socket.can_send() {
            self.progress = Instant::now();
        }
        let answer = if self.digest.len() == DIGEST {
            socket.close();
            Some(Ok(json!({
                "bytes": self.produced,
                "sha256_sent": hex(&self.hash.digest()),
                "sha256_peer": hex(&self.digest),
                "seconds": self.began.elapsed().as_secs_f64(),
            })))
        } else if !socket.is_active() {
            Some(Err(format!(
                "{} ended the connection after {} bytes",
                self.address, self.produced
            )))
        } else if self.progress.elapsed() >= STALLED {
            Some(Err(format!(
                "no progress for {} s after {} of {} bytes",
                STALLED.as_secs(),
                self.produced,
                self.bytes
            )))
        } else {
            None
        };
        (moved, answer)
    }
}
