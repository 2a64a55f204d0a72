//! Interrupts as eventfds: raising them without ever blocking, waiting for many at once.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd as NixEventFd};

/// Why an interrupt descriptor could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterruptError {
    /// No eventfd could be created.
    #[error("no eventfd could be created ({0}); is the descriptor limit reached?")]
    Create(#[source] Errno),
    /// What a peer sent as an interrupt is not an eventfd.
    #[error("the descriptor is not an eventfd; only eventfds can be interrupts")]
    NotAnEventFd,
    /// The descriptor could not be inspected or set up.
    #[error("the descriptor could not be set up ({0})")]
    SetUp(#[source] Errno),
    /// The set cannot hold that many.
    #[error("an interrupt set holds at most {most} of a kind")]
    TooMany {
        /// The most it holds.
        most: usize,
    },
    /// Waiting failed.
    #[error("waiting for interrupts failed ({0})")]
    Wait(#[source] Errno),
}

/// An eventfd that is never waited on in a write: a signal that would block is dropped and counted.
///
/// A signal is lost only when the counter is saturated, and then the receiver has one to see
/// anyhow. Non-blocking mode belongs to the open file, which a peer shares and could switch back:
/// a peer that does so and keeps the counter saturated can hold up the thread that signals.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
    dropped: AtomicU64,
}

impl EventFd {
    /// A new one, with nothing signalled.
    pub fn new() -> Result<Self, InterruptError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = NixEventFd::from_flags(flags).map_err(InterruptError::Create)?;
        Ok(Self {
            fd: event.into(),
            dropped: AtomicU64::new(0),
        })
    }

    /// One that a peer sent: checked to be an eventfd, and made non-blocking.
    pub fn from_peer(fd: OwnedFd) -> Result<Self, InterruptError> {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let target = nix::fcntl::readlink(link.as_str()).map_err(InterruptError::SetUp)?;
        if target != "anon_inode:[eventfd]" {
            return Err(InterruptError::NotAnEventFd);
        }
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(InterruptError::SetUp)?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&fd, FcntlArg::F_SETFL(flags)).map_err(InterruptError::SetUp)?;
        Ok(Self {
            fd,
            dropped: AtomicU64::new(0),
        })
    }

    /// Signal it. `false` if the signal had to be dropped.
    pub fn signal(&self) -> bool {
        let sent = nix::unistd::write(&self.fd, &1_u64.to_ne_bytes()).is_ok();
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Take the signals that have arrived; 0 if there is none.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        match nix::unistd::read(&self.fd, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }

    /// How many signals had to be dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What an [`InterruptSet`] found; empty if the time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready {
    /// One bit per vector.
    pub vectors: u64,
    /// One bit per watched descriptor.
    pub watched: u64,
}

impl Ready {
    /// Whether vector `n` fired.
    pub fn vector(&self, n: usize) -> bool {
        n < InterruptSet::MOST && self.vectors & (1 << n) != 0
    }

    /// Whether a watched descriptor is readable.
    pub fn is_readable(&self, watch: Watch) -> bool {
        self.watched & (1 << watch.0) != 0
    }

    /// Whether nothing happened before the time was up.
    pub fn is_empty(&self) -> bool {
        self.vectors == 0 && self.watched == 0
    }
}

/// A descriptor that an [`InterruptSet`] watches beside its vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Watch(u8);

/// The eventfds of a function's vectors, and other descriptors to wait for with them.
#[derive(Debug)]
pub struct InterruptSet {
    epoll: Epoll,
    vectors: Vec<EventFd>,
    watched: Vec<Option<OwnedFd>>,
}

const WATCH_TOKEN: u64 = 1 << 32;

impl InterruptSet {
    /// The most vectors, and the most other descriptors, in one set.
    pub const MOST: usize = 64;

    /// A set with `vectors` new eventfds.
    pub fn new(vectors: usize) -> Result<Self, InterruptError> {
        if vectors > Self::MOST {
            return Err(InterruptError::TooMany { most: Self::MOST });
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(InterruptError::Create)?;
        let vectors = (0..vectors)
            .map(|_| EventFd::new())
            .collect::<Result<Vec<_>, InterruptError>>()?;
        for (token, vector) in (0..).zip(&vectors) {
            epoll
                .add(vector, EpollEvent::new(EpollFlags::EPOLLIN, token))
                .map_err(InterruptError::SetUp)?;
        }
        Ok(Self {
            epoll,
            vectors,
            watched: Vec::new(),
        })
    }

    /// The vectors, as [`Function::set_eventfds`](crate::function::Function::set_eventfds) takes
    /// them.
    pub fn eventfds(&self) -> Vec<Option<BorrowedFd<'_>>> {
        self.vectors
            .iter()
            .map(|vector| Some(vector.as_fd()))
            .collect()
    }

    /// The eventfd of vector `n`, for a caller that fires it itself.
    pub fn vector(&self, n: usize) -> Option<&EventFd> {
        self.vectors.get(n)
    }

    /// Also wait until `fd` is readable or its other end is closed. The descriptor is duplicated.
    pub fn watch(&mut self, fd: BorrowedFd<'_>) -> Result<Watch, InterruptError> {
        let slot = match self.watched.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.watched.len() < Self::MOST => {
                self.watched.push(None);
                self.watched.len() - 1
            }
            None => return Err(InterruptError::TooMany { most: Self::MOST }),
        };
        let own = fd.try_clone_to_owned().map_err(|error| {
            InterruptError::SetUp(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        })?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, WATCH_TOKEN | slot as u64);
        self.epoll.add(&own, event).map_err(InterruptError::SetUp)?;
        self.watched[slot] = Some(own);
        Ok(Watch(slot as u8))
    }

    /// Stop waiting for a watched descriptor.
    pub fn unwatch(&mut self, watch: Watch) {
        if let Some(own) = self
            .watched
            .get_mut(usize::from(watch.0))
            .and_then(Option::take)
        {
            // The registration would outlive our duplicate, as the file has other descriptors.
            if let Err(errno) = self.epoll.delete(&own) {
                log::debug!("a watched descriptor was not registered: {errno}");
            }
        }
    }

    /// Wait until a vector fired or a watched descriptor is readable, or the time is up
    /// (`None`: no limit). The vectors reported are taken; watched descriptors stay readable until
    /// their owner reads them.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Ready, InterruptError> {
        // epoll has milliseconds: round up, so that a short wait does not become a busy loop.
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            Some(time) => {
                let millis = time.as_nanos().div_ceil(1_000_000);
                EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX))
                    .unwrap_or(EpollTimeout::NONE)
            }
        };
        let mut events = [EpollEvent::empty(); 2 * Self::MOST];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            // The caller looks at its own stop flag and comes back.
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(InterruptError::Wait(errno)),
        };
        let mut ready = Ready::default();
        for event in &events[..count] {
            let token = event.data();
            if token & WATCH_TOKEN != 0 {
                ready.watched |= 1 << (token & !WATCH_TOKEN);
            } else if let Some(vector) = self.vectors.get(token as usize) {
                vector.take();
                ready.vectors |= 1 << token;
            }
        }
        Ok(ready)
    }
}

impl AsFd for InterruptSet {
    /// Readable when [`Self::wait`] would return at once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

#[cfg(test)]
mod tests;
