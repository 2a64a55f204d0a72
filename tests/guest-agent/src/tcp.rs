//! A TCP stream of known content, to see that segmentation and checksums
//! of a card leave it intact.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest_agent::protocol::TcpResult;

/// Prime, so that a lost, doubled or swapped segment shows.
const PERIOD: u64 = 251;
const CHUNK: usize = 64 << 10;

fn byte_at(position: u64) -> u8 {
    (position % PERIOD) as u8
}

/// Listens on `port`; each stream is counted up to its first wrong byte.
pub(crate) fn sink(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .with_context(|| format!("listen on TCP port {port}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                if let Err(error) = swallow(stream) {
                    println!("guest-agent: TCP sink: {error}");
                }
            });
        }
    });
    Ok(())
}

fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let mut chunk = vec![0u8; CHUNK];
    let (mut good, mut intact) = (0u64, true);
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        for &byte in &chunk[..count] {
            intact &= byte == byte_at(good);
            good += u64::from(intact);
        }
    }
    stream.write_all(&good.to_be_bytes())
}

/// Sends `bytes` bytes and asks the peer how many arrived intact.
pub(crate) fn send(addr: Ipv4Addr, port: u16, bytes: u64, timeout: Duration) -> Result<TcpResult> {
    let start = Instant::now();
    let peer = SocketAddr::from((addr, port));
    let mut stream =
        TcpStream::connect_timeout(&peer, timeout).with_context(|| format!("connect to {peer}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let pattern: Vec<u8> = (0..CHUNK as u64 + PERIOD).map(byte_at).collect();
    let mut sent = 0;
    while sent < bytes {
        let length = (bytes - sent).min(CHUNK as u64) as usize;
        let from = (sent % PERIOD) as usize;
        let chunk = &pattern[from..from + length];
        stream
            .write_all(chunk)
            .with_context(|| format!("send after {sent} bytes"))?;
        sent += length as u64;
    }
    stream.shutdown(Shutdown::Write).context("end the stream")?;
    let mut count = [0u8; 8];
    stream
        .read_exact(&mut count)
        .context("read the peer's count")?;
    Ok(TcpResult {
        sent,
        received: u64::from_be_bytes(count),
        elapsed_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve() -> (SocketAddr, thread::JoinHandle<std::io::Result<()>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        (addr, thread::spawn(move || swallow(listener.accept()?.0)))
    }

    #[test]
    fn an_intact_stream_is_counted_whole() {
        let (addr, server) = serve();
        let bytes = 3 * CHUNK as u64 + 17;
        let timeout = Duration::from_secs(10);
        let result = send(Ipv4Addr::LOCALHOST, addr.port(), bytes, timeout).unwrap();
        assert_eq!((result.sent, result.received), (bytes, bytes));
        server.join().unwrap().unwrap();
    }

    #[test]
    fn a_wrong_byte_ends_the_count() {
        let (addr, server) = serve();
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(&[0, 1, 2, 9, 4, 5]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut count = [0u8; 8];
        stream.read_exact(&mut count).unwrap();
        assert_eq!(u64::from_be_bytes(count), 3);
        server.join().unwrap().unwrap();
    }
}
