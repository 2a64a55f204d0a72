//! What runs inside a namespace to use the kernel's stack there: this program, started again. Each
//! prints one line of JSON.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use netif::{Header, Headers, Interface, Kind, Spec};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(20);
/// Ethertype of frames sent and seen by `raw` and `seen` (IEEE 802 local experimental 1).
pub(crate) const TEST_ETHERTYPE: u16 = 0x88B5;

/// What to do inside.
#[derive(Debug, Clone, Subcommand)]
pub enum Inside {
    /// Take TCP connections, and answer each with the SHA-256 of what it sent
    Sink {
        /// The port
        port: u16,
    },
    /// Send a file to a sink
    Send {
        /// The file
        file: PathBuf,
        /// The sink's address
        address: Ipv4Addr,
        /// The sink's port
        port: u16,
    },
    /// Send ICMP echo requests, one after the other's reply
    Ping {
        /// To whom
        address: Ipv4Addr,
        /// How many
        #[arg(long, default_value_t = 3)]
        count: u16,
        /// Bytes of payload
        #[arg(long, default_value_t = 56)]
        size: usize,
        /// How long to wait for each reply
        #[arg(long, default_value_t = 1000)]
        timeout_ms: u64,
    },
    /// Send a frame as it is
    Raw {
        /// On which interface
        interface: String,
        /// The frame in hex
        frame: String,
    },
    /// Say "ready", then wait for test frames; prints each in hex
    Seen {
        /// On which interface
        interface: String,
        /// For how long at most
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
        /// For how many at most
        #[arg(long, default_value_t = 1)]
        most: usize,
    },
}

/// Do it.
pub fn run(what: &Inside) -> anyhow::Result<()> {
    let answer = match what {
        Inside::Sink { port } => return sink(*port),
        Inside::Send {
            file,
            address,
            port,
        } => send(file, SocketAddrV4::new(*address, *port))?,
        Inside::Ping {
            address,
            count,
            size,
            timeout_ms,
        } => ping(*address, *count, *size, Duration::from_millis(*timeout_ms))?,
        Inside::Raw { interface, frame } => raw(interface, frame)?,
        Inside::Seen {
            interface,
            timeout_ms,
            most,
        } => seen(interface, Duration::from_millis(*timeout_ms), *most)?,
    };
    println!("{answer}");
    Ok(())
}

/// Until it is killed.
fn sink(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .with_context(|| format!("listening on port {port}"))?;
    // Who started this waits for the line.
    eprintln!("listening");
    for stream in listener.incoming() {
        let stream = stream.context("taking a connection")?;
        std::thread::spawn(move || {
            if let Err(error) = take(stream) {
                eprintln!("a transfer failed: {error:#}");
            }
        });
    }
    Ok(())
}

fn take(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            read => hash.update(&chunk[..read]),
        }
    }
    stream.write_all(&hash.finalize())?;
    Ok(())
}

fn send(file: &PathBuf, to: SocketAddrV4) -> anyhow::Result<Value> {
    let mut file = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(to), STALL)
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let began = Instant::now();
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        stream
            .write_all(&chunk[..read])
            .with_context(|| format!("after {bytes} bytes"))?;
        bytes += read;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut peer = [0; 32];
    stream.read_exact(&mut peer).context("the sink's hash")?;
    Ok(json!({
        "bytes": bytes,
        "seconds": began.elapsed().as_secs_f64(),
        "same": hash.finalize().as_slice() == peer,
    }))
}

fn ping(to: Ipv4Addr, count: u16, size: usize, timeout: Duration) -> anyhow::Result<Value> {
    let icmp = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )
    .context("opening a raw socket, which takes CAP_NET_RAW")?;
    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
    let id = (std::process::id() & 0xFFFF) as u16;
    let mut received = 0;
    let mut buffer = vec![0; 64 * 1024];
    for sequence in 0..count {
        let request = echo(id, sequence, size);
        sendto(icmp.as_raw_fd(), &request, &to, MsgFlags::empty()).context("sending")?;
        let end = Instant::now() + timeout;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let wait = TimeVal::microseconds((left.as_micros() as i64).max(1));
            setsockopt(&icmp, sockopt::ReceiveTimeout, &wait)?;
            match recvfrom::<SockaddrIn>(icmp.as_raw_fd(), &mut buffer) {
                Ok((len, Some(from))) if from.ip() == to.ip() => {
                    if is_reply(&buffer[..len], &request) {
                        received += 1;
                        break;
                    }
                }
                Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error).context("waiting for a reply"),
            }
        }
    }
    Ok(json!({"sent": count, "received": received}))
}

/// An echo request (RFC 792).
fn echo(id: u16, sequence: u16, size: usize) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0];
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend((0..size).map(|at| at as u8));
    let done = netif::offload::complete(&mut message, 0, 2);
    debug_assert!(done);
    message
}

/// Whether an IPv4 packet is the reply to `request`: the same but for type and checksum.
fn is_reply(packet: &[u8], request: &[u8]) -> bool {
    let header = packet
        .first()
        .map_or(0, |first| usize::from(first & 0xF) * 4);
    packet.get(header..).is_some_and(|message| {
        message.len() >= 4 && message[0] == 0 && message[4..] == request[4..]
    })
}

fn packet_socket(interface: &str) -> anyhow::Result<Interface> {
    let spec = Spec {
        kind: Kind::Packet,
        name: interface.parse()?,
    };
    Ok(Interface::open(&spec, Headers::Off)?)
}

fn raw(interface: &str, frame: &str) -> anyhow::Result<Value> {
    let frame = unhex(frame)?;
    packet_socket(interface)?
        .send(Header::default(), &frame)
        .with_context(|| format!("sending on {interface}"))?;
    Ok(json!({"bytes": frame.len()}))
}

fn seen(interface: &str, timeout: Duration, most: usize) -> anyhow::Result<Value> {
    let socket = packet_socket(interface)?;
    eprintln!("ready");
    let end = Instant::now() + timeout;
    let mut frames = Vec::new();
    let mut buffer = vec![0; netif::MAX_FRAME];
    while frames.len() < most {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], wait)?;
        while let Some((len, _)) = socket.receive(&mut buffer)? {
            let frame = &buffer[..len];
            let untagged = frame.get(12..14) == Some(&TEST_ETHERTYPE.to_be_bytes()[..]);
            let tagged = frame.get(12..14) == Some(&[0x81, 0])
                && frame.get(16..18) == Some(&TEST_ETHERTYPE.to_be_bytes()[..]);
            if untagged || tagged {
                frames.push(hex(frame));
            }
        }
    }
    Ok(json!({"frames": frames}))
}

/// Bytes as hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        bail!("a frame is pairs of hex digits");
    }
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?))
        .collect()
}
