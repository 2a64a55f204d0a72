//! Waiting for what the kernel does to devices.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// The longest time between two looks: where a network namespace or a sandbox keeps the kernel's
/// messages away, looking is all there is.
const LOOK: Duration = Duration::from_millis(50);
/// The kernel's own group of messages about devices.
const KERNEL: u32 = 1;

/// The kernel's messages about devices, from now on.
pub(super) struct Changes(Option<OwnedFd>);

fn listen() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let messages = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        flags,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(messages.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
    Ok(messages)
}

impl Changes {
    /// Begins to listen: before what shall be waited for is set going.
    pub(super) fn listen() -> Self {
        Self(listen().ok())
    }

    /// Waits until `done`, `limit` at most; whether it is.
    pub(super) fn until(&self, limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + limit;
        while !done() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut heard = Vec::new();
            if let Some(messages) = &self.0 {
                heard.push(PollFd::new(messages.as_fd(), PollFlags::POLLIN));
            }
            let pause = u16::try_from(left.min(LOOK).as_millis().max(1)).unwrap_or(1);
            // A failure means a look too early, no more.
            let _ = poll(&mut heard, PollTimeout::from(pause));
            if let Some(messages) = &self.0 {
                // What is said does not matter: that something is, does.
                let mut message = [0; 4096];
                while recv(messages.as_raw_fd(), &mut message, MsgFlags::empty()).is_ok() {}
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_it_is_done_and_at_its_limit_otherwise() {
        let changes = Changes::listen();
        let mut looks = 0;
        assert!(changes.until(Duration::from_secs(10), || {
            looks += 1;
            looks == 3
        }));
        assert!(!changes.until(Duration::from_millis(20), || false));
        let deaf = Changes(None);
        assert!(!deaf.until(Duration::from_millis(20), || false));
    }
}
