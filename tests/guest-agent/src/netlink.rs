//! Just enough rtnetlink to change links and addresses: messages are built
//! as bytes, so no ioctl is needed.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};
use std::os::fd::AsFd;

/// Values of linux/netlink.h and linux/rtnetlink.h.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const RTMGRP_LINK: u32 = 1;
const HEADER: usize = 16;

/// A request under construction.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Starts a request of `kind` with its fixed part.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = flags | NLM_F_REQUEST | NLM_F_ACK;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&1u32.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends an attribute that holds the attributes `fill` appends.
    pub(crate) fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self = fill(self.attribute(kind, &[]));
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }

    /// Sends the request and waits for the kernel's verdict.
    pub(crate) fn send(self) -> Result<()> {
        let socket = open(0)?;
        send(socket.as_raw_fd(), &self.finish(), MsgFlags::empty()).context("send to rtnetlink")?;
        let mut answer = [0u8; 4096];
        let count = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())
            .context("receive from rtnetlink")?;
        verdict(&answer[..count])
    }
}

/// Reads an acknowledgement.
fn verdict(answer: &[u8]) -> Result<()> {
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok());
    let code = answer
        .get(HEADER..HEADER + 4)
        .and_then(|b| b.try_into().ok());
    let (Some(kind), Some(code)) = (kind.map(u16::from_ne_bytes), code.map(i32::from_ne_bytes))
    else {
        bail!("rtnetlink answered {} bytes", answer.len());
    };
    match (kind, code) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, code) => Err(Errno::from_raw(code.saturating_neg()).into()),
        (kind, _) => bail!("rtnetlink answered with a message of type {kind}"),
    }
}

fn open(groups: u32) -> Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .context("open rtnetlink")?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).context("bind rtnetlink")?;
    Ok(socket)
}

/// Tells of any change of any link.
pub(crate) struct LinkEvents(OwnedFd);

impl LinkEvents {
    /// Starts to listen; changes from now on are not missed.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self(open(RTMGRP_LINK)?))
    }

    /// Waits for a change; false when `timeout` passed without one.
    pub(crate) fn wait(&self, timeout: PollTimeout) -> Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for link events"),
        }
        let mut sink = [0u8; 8192];
        // What changed is read from sysfs; ENOBUFS only says that much did.
        match recv(self.0.as_raw_fd(), &mut sink, MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno).context("receive link events"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested_lengths_cover_their_content() {
        let bytes = Message::new(RTM_NEWLINK, 0, &[0; 16])
            .attribute(3, b"abc\0\0")
            .nested(18, |m| m.attribute(1, b"vlan"))
            .finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(
            bytes[0..4],
            u32::try_from(bytes.len()).unwrap().to_ne_bytes()
        );
        // 16 header + 16 fixed, then 4 + 5 padded to 12.
        assert_eq!(bytes[32..34], 9u16.to_ne_bytes());
        assert_eq!(bytes[44..46], 12u16.to_ne_bytes());
        assert_eq!(bytes[48..50], 8u16.to_ne_bytes());
        assert_eq!(bytes.len(), 56);
    }

    #[test]
    fn verdicts_carry_the_kernels_error() {
        let mut answer = [0u8; 36];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert!(verdict(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-19i32).to_ne_bytes());
        assert!(format!("{:#}", verdict(&answer).unwrap_err()).contains("ENODEV"));
        assert!(verdict(&answer[..10]).is_err());
    }
}
