//! What a network stack sees of a driver: the kernel's `net_device` with NAPI, for one thread that
//! owns the device and waits for its events.

use std::borrow::Cow;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use igb::frame::MacAddress;

use crate::DriverError;
use crate::offload::{Offloads, RxChecksum, TxOffload};

/// A network device, as PF driver and VF driver both are.
///
/// One thread owns it and runs a loop: wait for [`Self::event_fds`] or [`Self::next_timeout`]; then
/// [`Self::service`], then [`Self::poll`], then send with [`Self::xmit`] and end the burst with
/// [`Self::flush`]. No call blocks but [`Self::open`] and [`Self::stop`], which wait for the queues to
/// start and stop, for a bounded time.
pub trait NetDevice {
    /// The address that the device receives under, and sends from.
    fn mac(&self) -> MacAddress;

    /// Bytes of a frame's payload: the frame without its Ethernet header, VLAN tag and FCS.
    fn mtu(&self) -> u32;

    /// Changes the MTU. An open device is stopped and opened again.
    ///
    /// # Errors
    ///
    /// [`DriverError::Mtu`] when the device or the policy does not allow it.
    fn set_mtu(&mut self, mtu: u32) -> Result<(), DriverError>;

    /// Whether the link is up, as far as this function may know it.
    fn carrier(&self) -> bool;

    /// Speed of the link in Mbit/s; `None` while it is down.
    fn speed(&self) -> Option<u32>;

    /// Starts the queues and unmasks the interrupts. Opening an open device does nothing.
    ///
    /// # Errors
    ///
    /// The device is gone, no memory for the rings is left, or a queue did not start.
    fn open(&mut self) -> Result<(), DriverError>;

    /// Stops the queues and masks the interrupts; frames under way are dropped. Never fails: of a
    /// device that is gone only the memory is given back.
    fn stop(&mut self);

    /// Puts one frame, without FCS, on the transmit ring. The card may not see it before
    /// [`Self::flush`].
    ///
    /// # Errors
    ///
    /// See [`XmitError`]; the frame was not sent.
    fn xmit(&mut self, frame: &[u8]) -> Result<(), XmitError>;

    /// What a stack may leave to the card.
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    /// As [`Self::xmit`], for a frame in which something is left to the card.
    ///
    /// # Errors
    ///
    /// [`XmitError::Offload`] where the card cannot do it for this frame, though for others; the
    /// caller does it then.
    fn xmit_offloaded(&mut self, frame: &[u8], offload: TxOffload) -> Result<(), XmitError> {
        if offload == TxOffload::NONE {
            self.xmit(frame)
        } else {
            Err(XmitError::Offload)
        }
    }

    /// Tells the card about every frame since the last call: one doorbell for all of them.
    fn flush(&mut self);

    /// Gives up to `budget` received frames to `receive`, and returns how many. When it returns less
    /// than `budget`, nothing was left in the ring and what comes next fires the queue's interrupt; when
    /// it returns `budget`, it must be called again without waiting.
    fn poll(&mut self, budget: usize, receive: &mut dyn FnMut(&[u8])) -> usize;

    /// As [`Self::poll`], with what the card says of each frame's checksums.
    fn poll_verified(
        &mut self,
        budget: usize,
        receive: &mut dyn FnMut(&[u8], RxChecksum),
    ) -> usize {
        self.poll(budget, &mut |frame| receive(frame, RxChecksum::Unknown))
    }

    /// With `true`, the queue's interrupt is masked: for a caller that polls in a loop and waits for
    /// nothing.
    fn set_busy_poll(&mut self, on: bool);

    /// Handles everything that is no frame: link changes, mailbox, channel, resets. Returns what
    /// changed for the stack above.
    fn service(&mut self) -> Changes;

    /// File descriptors that become readable when [`Self::poll`] or [`Self::service`] has something
    /// to do. The set may change after each [`Self::service`].
    fn event_fds(&self) -> Vec<BorrowedFd<'_>>;

    /// How long a wait for [`Self::event_fds`] may last before [`Self::service`] wants to be called
    /// anyway; `None` for any time.
    fn next_timeout(&self) -> Option<Duration>;

    /// Whether the function is lost (its card is gone, or the VF was taken away): nothing works any
    /// more, [`Self::stop`] and dropping it are all that is left.
    fn gone(&self) -> bool;

    /// The counters, as `ethtool -S` lists them.
    fn stats(&self) -> Counters;
}

/// What [`NetDevice::service`] found changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// The link went up or down, or its speed changed.
    pub link: bool,
    /// The address changed.
    pub mac: bool,
    /// The MTU, or the largest one allowed, changed.
    pub mtu: bool,
    /// The function was reset and started again; frames were lost.
    pub reset: bool,
    /// The function is gone.
    pub gone: bool,
}

impl Changes {
    /// Whether anything changed.
    #[must_use]
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// Both sets of changes.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            link: self.link | other.link,
            mac: self.mac | other.mac,
            mtu: self.mtu | other.mtu,
            reset: self.reset | other.reset,
            gone: self.gone | other.gone,
        }
    }
}

/// Why a frame was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XmitError {
    /// The ring is full; its interrupt tells when there is room.
    #[error("the transmit ring is full")]
    Full,
    /// The frame is shorter than an Ethernet header.
    #[error("a frame of {len} bytes has no Ethernet header")]
    Short {
        /// Bytes of the frame.
        len: usize,
    },
    /// The frame is longer than the MTU allows.
    #[error("a frame of {len} bytes is longer than {max}; raise the MTU")]
    Long {
        /// Bytes of the frame.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The card cannot do for this frame what was left to it.
    #[error("the card cannot do for this frame what was left to it")]
    Offload,
    /// The device is not open.
    #[error("the device is not open")]
    Down,
    /// The function is gone.
    #[error("the function is gone")]
    Gone,
}

/// A list of named counts, in the order in which they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    entries: Vec<(Cow<'static, str>, u64)>,
}

impl Counters {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a counter.
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: u64) {
        self.entries.push((name.into(), value));
    }

    /// Appends all of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.entries.append(&mut other.entries);
    }

    /// The count of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.entries
            .iter()
            .find_map(|(n, value)| (n == name).then_some(*value))
    }

    /// Every name with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_ref(), *value))
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter() {
            writeln!(f, "{name}: {value}")?;
        }
        Ok(())
    }
}
