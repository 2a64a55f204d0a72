//! System calls on the socket: bytes together with file descriptors.
//!
//! The one place where a number from the kernel becomes an owned descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::MAX_FDS;

/// `struct cmsghdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ControlHeader {
    len: usize,
    level: i32,
    kind: i32,
}

const CONTROL_HEADER: usize = size_of::<ControlHeader>();
const CONTROL_WORDS: usize =
    (CONTROL_HEADER + MAX_FDS * size_of::<RawFd>()).div_ceil(size_of::<u64>());

/// Room for the control data of one receive: [`MAX_FDS`] descriptors, so that the kernel itself
/// closes what a peer sends beyond them. Aligned as the kernel's structure is.
pub(crate) struct ControlBuffer([u64; CONTROL_WORDS]);

impl ControlBuffer {
    pub(crate) fn new() -> Self {
        Self([0; CONTROL_WORDS])
    }
}

/// What one receive brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes; 0 at the end of the stream.
    pub(crate) bytes: usize,
    /// Descriptors were lost: the peer sent too many, or this process can hold no more.
    pub(crate) truncated: bool,
}

/// Receive into `buffer`, and append the descriptors that came along to `fds`.
pub(crate) fn receive(
    socket: &UnixStream,
    buffer: &mut [u8],
    control: &mut ControlBuffer,
    dont_wait: bool,
    fds: &mut Vec<OwnedFd>,
) -> Result<Received, Errno> {
    // The kernel leaves the buffer alone when there is no control data.
    control.0[0] = 0;
    let mut flags = MsgFlags::MSG_CMSG_CLOEXEC;
    flags.set(MsgFlags::MSG_DONTWAIT, dont_wait);
    let received = loop {
        let mut iov = [IoSliceMut::new(buffer)];
        let space = Some(control.0.as_mut_bytes());
        match recvmsg::<()>(socket.as_raw_fd(), &mut iov, space, flags) {
            Ok(message) => {
                break Received {
                    bytes: message.bytes,
                    truncated: message.flags.contains(MsgFlags::MSG_CTRUNC),
                };
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    take_fds(control, fds);
    Ok(received)
}

/// Own the descriptors that the kernel has just put into the control buffer. Also done when it
/// could not deliver all of them, or those that it did deliver would leak.
fn take_fds(control: &ControlBuffer, fds: &mut Vec<OwnedFd>) {
    let bytes = control.0.as_bytes();
    let Ok((header, _)) = ControlHeader::read_from_prefix(bytes) else {
        return;
    };
    let rights = header.level == libc::SOL_SOCKET && header.kind == libc::SCM_RIGHTS;
    let Some(data) = bytes.get(CONTROL_HEADER..header.len.min(bytes.len())) else {
        return;
    };
    if !rights {
        return;
    }
    for raw in data.chunks_exact(size_of::<RawFd>()) {
        let Ok(raw) = RawFd::read_from_bytes(raw) else {
            continue;
        };
        // SAFETY: the kernel has just installed `raw` for this process as part of a SCM_RIGHTS
        // message (the length word was zeroed before the call, so this is no left-over), and
        // nothing else knows of it.
        fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
    }
}

/// Send `head` and `body` as one message with `fds`, all in one system call unless the socket's
/// buffer is too full for that. `limit` bounds the whole; a send that fails midway leaves the stream
/// unusable.
pub(crate) fn send(
    socket: &UnixStream,
    head: &[u8],
    body: &[u8],
    fds: &[BorrowedFd<'_>],
    limit: Duration,
) -> Result<(), Errno> {
    let mut raw = [0; MAX_FDS];
    let raw = raw.get_mut(..fds.len()).ok_or(Errno::EINVAL)?;
    for (raw, fd) in raw.iter_mut().zip(fds) {
        *raw = fd.as_raw_fd();
    }
    let total = head.len() + body.len();
    let mut sent = 0;
    let mut deadline = None;
    loop {
        let iov = [
            IoSlice::new(head.get(sent..).unwrap_or_default()),
            IoSlice::new(
                body.get(sent.saturating_sub(head.len())..)
                    .unwrap_or_default(),
            ),
        ];
        let rights = [ControlMessage::ScmRights(raw)];
        let control = if sent == 0 && !raw.is_empty() {
            &rights[..]
        } else {
            &[]
        };
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &iov,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(bytes) => sent += bytes,
            Err(Errno::EINTR) => {}
            // The socket's send timeout.
            Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT),
            Err(errno) => return Err(errno),
        }
        if sent >= total {
            return Ok(());
        }
        // Each partial send starts the socket's timeout anew; a peer that reads a byte now and then
        // must not hold us for ever.
        let now = Instant::now();
        if now >= *deadline.get_or_insert(now + limit) {
            return Err(Errno::ETIMEDOUT);
        }
    }
}
