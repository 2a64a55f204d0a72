//! ICMP echo requests over a raw socket.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest_agent::protocol::PingResult;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Marks our echo requests; the guest has no other sender of any.
const IDENTIFIER: u16 = 0x5444;
/// Largest payload of an IPv4 datagram less the ICMP header.
const MAX_PAYLOAD: u16 = 65_507;

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn request(sequence: u16, size: u16) -> Vec<u8> {
    let mut packet = vec![ECHO_REQUEST, 0, 0, 0];
    packet.extend_from_slice(&IDENTIFIER.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend((0..size.min(MAX_PAYLOAD)).map(|at| at as u8));
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Whether `datagram` (with its IPv4 header) answers `request`, byte for byte.
fn answers(datagram: &[u8], from: Ipv4Addr, request: &[u8]) -> bool {
    let Some(&first) = datagram.first() else {
        return false;
    };
    let header = usize::from(first & 0xf) * 4;
    let (Some(source), Some(icmp)) = (datagram.get(12..16), datagram.get(header..)) else {
        return false;
    };
    source == from.octets()
        && icmp.first() == Some(&ECHO_REPLY)
        && checksum(icmp) == 0
        && icmp.get(4..) == request.get(4..)
}

/// Sends `count` requests to `addr`, each as soon as the one before it is settled, and times the
/// answers.
pub(crate) fn run(addr: Ipv4Addr, count: u16, timeout: Duration, size: u16) -> Result<PingResult> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )
    .context("open a raw ICMP socket")?;
    let to = SockaddrIn::from(SocketAddrV4::new(addr, 0));
    let mut result = PingResult {
        sent: 0,
        received: 0,
        rtts_us: Vec::new(),
    };
    for sequence in 0..count {
        let packet = request(sequence, size);
        let start = Instant::now();
        sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty())
            .with_context(|| format!("send to {addr}"))?;
        result.sent += 1;
        if wait(&socket, addr, &packet, start + timeout)? {
            result.received += 1;
            let rtt = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            result.rtts_us.push(rtt);
        }
    }
    Ok(result)
}

/// Waits for the answer to `request`, past whatever else arrives.
fn wait(socket: &OwnedFd, from: Ipv4Addr, request: &[u8], deadline: Instant) -> Result<bool> {
    let mut datagram = vec![0u8; usize::from(u16::MAX)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno).context("wait for an answer"),
        }
        let count = recv(socket.as_raw_fd(), &mut datagram, MsgFlags::empty())
            .context("receive an answer")?;
        if answers(&datagram[..count], from, request) {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(request: &[u8]) -> Vec<u8> {
        let mut icmp = request.to_vec();
        icmp[0] = ECHO_REPLY;
        icmp[2..4].fill(0);
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut datagram = vec![0u8; 20];
        datagram[0] = 0x45;
        datagram[12..16].copy_from_slice(&[10, 0, 0, 1]);
        datagram.extend(icmp);
        datagram
    }

    #[test]
    fn only_the_intact_answer_counts() {
        let from = Ipv4Addr::new(10, 0, 0, 1);
        let request = request(3, 57);
        assert_eq!(checksum(&request), 0);
        let good = reply(&request);
        assert!(answers(&good, from, &request));
        assert!(!answers(&good, Ipv4Addr::LOCALHOST, &request));
        assert!(!answers(&good, from, &super::request(4, 57)));
        assert!(!answers(&good[..20], from, &request));
        assert!(!answers(&[], from, &request));
        let mut corrupt = good;
        corrupt[60] ^= 1;
        assert!(!answers(&corrupt, from, &request));
    }
}
