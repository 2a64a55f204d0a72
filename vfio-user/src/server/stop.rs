//! Ends servers from another thread.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Error;
use crate::frame::lock;

/// Ends every [`super::Listener::serve`] and every connection that it was given to, at once. Clones
/// are the same stop.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raised: AtomicBool,
    event: EventFd,
    /// Live connections. A thread that waits in a receive is woken by shutting its stream down, so
    /// it need not poll for the stop as well.
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    streams: Vec<(u64, UnixStream)>,
}

impl Stop {
    /// A stop that is not raised yet.
    pub fn new() -> Result<Self, Error> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(Error::Eventfd)?;
        Ok(Self(Arc::new(Inner {
            raised: AtomicBool::new(false),
            event,
            live: Mutex::default(),
        })))
    }

    /// End everything that obeys this stop. It stays raised.
    pub fn raise(&self) {
        let live = lock(&self.0.live);
        self.0.raised.store(true, Ordering::SeqCst);
        // Fails only if the counter is full, and then it is readable.
        let _ = self.0.event.write(1);
        for (_, stream) in &live.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether it has been raised.
    pub fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Have `stream` shut down when this is raised; at once, if it has been.
    pub(super) fn register(&self, stream: &UnixStream) -> io::Result<Registration<'_>> {
        let stream = stream.try_clone()?;
        let mut live = lock(&self.0.live);
        if self.is_raised() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        live.next += 1;
        let id = live.next;
        live.streams.push((id, stream));
        Ok(Registration { stop: self, id })
    }
}

impl AsFd for Stop {
    /// An eventfd that becomes and stays readable when this is raised. Do not read it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

/// Keeps a stream registered.
pub(super) struct Registration<'a> {
    stop: &'a Stop,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        lock(&self.stop.0.live)
            .streams
            .retain(|(id, _)| *id != self.id);
    }
}
