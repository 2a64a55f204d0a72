//! Frames as they are: sent and captured through packet sockets.
#![expect(unsafe_code, reason = "nix has no name for PACKET_AUXDATA")]

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_agent::protocol::{Bytes, MAX_CAPTURE};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, send, socket,
};

/// Largest frame with all its tags.
const MAX_FRAME: usize = 64 << 10;
/// Where the tag stands in a frame: after both addresses.
const TAG_OFFSET: usize = 12;
/// struct tpacket_auxdata: status, then at 16 the tag's TCI and at 18 its TPID.
const AUX_TCI: usize = 16;
const AUX_TPID: usize = 18;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
const ETH_P_8021Q: u16 = 0x8100;

fn open(iface: &str, protocol: Option<SockProtocol>) -> Result<OwnedFd> {
    let address: LinkAddr = getifaddrs()
        .context("list the interfaces")?
        .filter(|found| found.interface_name == iface)
        .find_map(|found| Some(*found.address?.as_link_addr()?))
        .with_context(|| format!("there is no interface {iface}"))?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )
    .context("open a packet socket")?;
    // The address names no protocol: the socket keeps its own.
    bind(socket.as_raw_fd(), &address).with_context(|| format!("bind to {iface}"))?;
    Ok(socket)
}

/// Sends `frames` one after the other.
pub(crate) fn send_all(iface: &str, frames: &[Bytes]) -> Result<()> {
    let socket = open(iface, None)?;
    for (at, frame) in frames.iter().enumerate() {
        loop {
            match send(socket.as_raw_fd(), &frame.0, MsgFlags::empty()) {
                Ok(_) => break,
                // The queue is full: wait until it is not.
                Err(Errno::ENOBUFS | Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut fds, PollTimeout::from(10u8)).context("wait for room")?;
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(errno).with_context(|| format!("send frame {at} on {iface}"));
                }
            }
        }
    }
    Ok(())
}

/// All captures that run.
#[derive(Default)]
pub(crate) struct Captures(Mutex<(u32, HashMap<u32, Arc<Capture>>)>);

struct Capture {
    state: Mutex<State>,
    changed: Condvar,
    stop: EventFd,
    max: usize,
}

#[derive(Default)]
struct State {
    frames: Vec<Bytes>,
    bytes: usize,
    ended: Option<Result<(), Errno>>,
}

impl Captures {
    fn table(&self) -> MutexGuard<'_, (u32, HashMap<u32, Arc<Capture>>)> {
        self.0.lock().expect("no holder panics")
    }

    /// What `iface` receives from now on is kept, up to `max` frames.
    pub(crate) fn begin(&self, iface: &str, max: usize) -> Result<u32> {
        let socket = open(iface, Some(SockProtocol::EthAll))?;
        report_tags(&socket).context("ask for VLAN tags")?;
        let capture = Arc::new(Capture {
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("make an event")?,
            max,
        });
        let running = capture.clone();
        thread::spawn(move || running.run(&socket));
        let mut table = self.table();
        table.0 += 1;
        let number = table.0;
        table.1.insert(number, capture);
        Ok(number)
    }

    /// Waits until capture `number` is full or `timeout` is over, and ends it.
    pub(crate) fn end(&self, number: u32, timeout: Duration) -> Result<Vec<Bytes>> {
        let capture = self.table().1.remove(&number);
        let capture = capture.with_context(|| format!("there is no capture {number}"))?;
        let (state, _) = capture
            .changed
            .wait_timeout_while(capture.state(), timeout, |state| state.ended.is_none())
            .expect("no holder panics");
        drop(state);
        capture.stop.write(1).context("stop the capture")?;
        let mut state = capture
            .changed
            .wait_while(capture.state(), |state| state.ended.is_none())
            .expect("no holder panics");
        if let Some(Err(errno)) = state.ended {
            return Err(errno).context("capture");
        }
        Ok(std::mem::take(&mut state.frames))
    }
}

impl Capture {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn run(&self, socket: &OwnedFd) {
        let ended = self.receive(socket);
        self.state().ended = Some(ended);
        self.changed.notify_all();
    }

    fn receive(&self, socket: &OwnedFd) -> Result<(), Errno> {
        let mut frame = vec![0; MAX_FRAME];
        loop {
            let mut fds = [
                PollFd::new(socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
            // What has arrived before the end still counts.
            match receive(socket, &mut frame) {
                Ok(Some(frame)) => {
                    let mut state = self.state();
                    state.bytes += frame.len();
                    state.frames.push(Bytes(frame));
                    if state.frames.len() >= self.max || state.bytes >= MAX_CAPTURE {
                        return Ok(());
                    }
                }
                Ok(None) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let stopped = fds[1].any().unwrap_or(true);
                    if stopped {
                        return Ok(());
                    }
                }
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// One frame with its VLAN tag, which the kernel hands over beside it; `None`
/// for one that this guest itself sent.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut control = nix::cmsg_space!([u8; 32]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let outgoing = message
        .address
        .is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
    let length = message.bytes;
    let mut tag = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Unknown(control) = control {
            tag = tag.or_else(|| parse_tag(&control.data_bytes));
        }
    }
    let mut frame = buffer[..length].to_vec();
    if let Some(tag) = tag
        && frame.len() >= TAG_OFFSET
    {
        frame.splice(TAG_OFFSET..TAG_OFFSET, tag);
    }
    Ok((!outgoing).then_some(frame))
}

/// TPID and TCI out of a `struct tpacket_auxdata`.
fn parse_tag(aux: &[u8]) -> Option<[u8; 4]> {
    let status = u32::from_ne_bytes(aux.get(..4)?.try_into().ok()?);
    let half = |at: usize| Some(u16::from_ne_bytes(aux.get(at..at + 2)?.try_into().ok()?));
    if status & TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = match status & TP_STATUS_VLAN_TPID_VALID {
        0 => ETH_P_8021Q,
        _ => half(AUX_TPID)?,
    };
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), half(AUX_TCI)?.to_be_bytes());
    Some([a, b, c, d])
}

/// Asks for `struct tpacket_auxdata` beside each frame.
fn report_tags(socket: &OwnedFd) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the option's value is an int, which lives until the call returns.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            std::ptr::from_ref(&on).cast(),
            size,
        )
    };
    Errno::result(outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aux(status: u32, tci: u16, tpid: u16) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[..4].copy_from_slice(&status.to_ne_bytes());
        bytes[AUX_TCI..AUX_TCI + 2].copy_from_slice(&tci.to_ne_bytes());
        bytes[AUX_TPID..AUX_TPID + 2].copy_from_slice(&tpid.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_tag_is_taken_only_where_the_kernel_says_there_is_one() {
        let both = TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID;
        assert_eq!(parse_tag(&aux(1, 100, 0x88a8)), None);
        assert_eq!(
            parse_tag(&aux(both, 0x2064, 0x88a8)),
            Some([0x88, 0xa8, 0x20, 0x64])
        );
        assert_eq!(
            parse_tag(&aux(TP_STATUS_VLAN_VALID, 100, 0)),
            Some([0x81, 0, 0, 100])
        );
        assert_eq!(parse_tag(&aux(both, 1, 1)[..18]), None);
    }

    #[test]
    fn an_interface_that_does_not_exist_is_named() {
        let error = send_all("nothere0", &[]).unwrap_err();
        assert!(format!("{error:#}").contains("nothere0"));
        assert!(Captures::default().begin("nothere0", 1).is_err());
        assert!(Captures::default().end(1, Duration::ZERO).is_err());
    }
}
