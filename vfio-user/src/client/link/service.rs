//! The service thread, and who receives next.

use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::{Link, Phase, State};
use crate::client::Lost;
use crate::frame::{Fill, Receiver, lock};

impl Link {
    /// After any change: if nobody leads, somebody must be ready to.
    pub(super) fn settle(&self, state: &mut State) {
        if state.receiver.is_none() {
            return;
        }
        let follower = state
            .slots
            .iter()
            .position(|slot| slot.follows && slot.phase == Phase::Waiting);
        if let Some(follower) = follower {
            self.wake[follower].notify_one();
        } else if !state.armed && state.lost.is_none() {
            state.armed = true;
            self.watch(true);
        }
    }

    pub(super) fn disarm(&self, state: &mut State) {
        if state.armed {
            state.armed = false;
            self.watch(false);
        }
    }

    pub(super) fn watch(&self, readable: bool) {
        if let Err(errno) = self
            .epoll
            .modify(self.sender.stream(), &mut interest(readable))
        {
            log::error!("cannot watch the connection: {errno}");
        }
    }

    /// The service thread: receives while nobody leads, until the connection is lost.
    pub(in crate::client) fn service(self: Arc<Self>) {
        self.settle(&mut lock(&self.state));
        let mut events = [EpollEvent::empty()];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    self.lose(&mut lock(&self.state), Lost::Receive(errno));
                    return;
                }
            }
            let mut state = lock(&self.state);
            if state.lost.is_some() {
                return;
            }
            // The event has disarmed itself; whoever leads arms it again.
            state.armed = false;
            let Some(mut receiver) = state.receiver.take() else {
                continue;
            };
            drop(state);
            let lost = self.receive_available(&mut receiver).err();
            let mut state = lock(&self.state);
            state.receiver = Some(receiver);
            if let Some(lost) = lost {
                self.lose(&mut state, lost);
                return;
            }
            self.settle(&mut state);
        }
    }

    fn receive_available(self: &Arc<Self>, receiver: &mut Receiver) -> Result<(), Lost> {
        loop {
            self.drain(receiver, None, &mut false)?;
            match receiver.fill(self.sender.stream(), true)? {
                Fill::More => {}
                Fill::Nothing => return Ok(()),
                Fill::End => return Err(Lost::ByServer),
            }
        }
    }
}

/// What epoll watches for. One-shot, so that an event wakes the service thread once and not again
/// while a leader is at work; with nothing else set, readiness does not wake it at all.
pub(super) fn interest(readable: bool) -> EpollEvent {
    let mut flags = EpollFlags::EPOLLONESHOT;
    flags.set(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, readable);
    EpollEvent::new(flags, 0)
}
