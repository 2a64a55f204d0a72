//! A driver as smoltcp's `phy::Device`: a short queue of received frames, and transmission that
//! never loses a frame to a full ring.

use std::collections::{BTreeMap, VecDeque};

use igb_driver::netdev::{MacAddress, NetDevice, XmitError};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::stack::is_announcement;

/// Frames of this ethertype (IEEE 802 local experimental 1) are counted, for tests of who gets what.
pub const TEST_ETHERTYPE: u16 = 0x88B5;
/// The most (source, destination) pairs of test frames that are told apart.
const MOST_SEEN: usize = 64;
/// Received frames are taken from the driver in rounds of this size.
pub const RECEIVE_BUDGET: usize = 64;

const ADDRESSES: usize = 12;
const ETHERNET_HEADER: usize = 14;

/// Buffers between a driver and the stack. They outlive the driver, which may come and go.
#[derive(Debug, Default)]
pub struct Buffers {
    received: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    /// A frame that found the ring full; it goes first as soon as there is room.
    held: Option<Vec<u8>>,
    scratch: Vec<u8>,
    seen: BTreeMap<(MacAddress, MacAddress), u64>,
    lost: u64,
    /// A neighbour has announced that its address moved.
    announced: bool,
}

impl Buffers {
    /// Take up to [`RECEIVE_BUDGET`] frames from the driver; `true` if there may be more.
    pub fn receive_from(&mut self, device: &mut dyn NetDevice) -> bool {
        let room = RECEIVE_BUDGET.saturating_sub(self.received.len());
        if room == 0 {
            return true;
        }
        device.poll(room, &mut |frame| self.push(frame)) == room
    }

    fn push(&mut self, frame: &[u8]) {
        if let Some((addresses, rest)) = frame.split_first_chunk::<ADDRESSES>()
            && rest.starts_with(&TEST_ETHERTYPE.to_be_bytes())
        {
            let (destination, source) = addresses.split_at(ADDRESSES / 2);
            let address = |bytes: &[u8]| MacAddress(bytes.try_into().expect("six bytes"));
            let key = (address(source), address(destination));
            if self.seen.len() < MOST_SEEN || self.seen.contains_key(&key) {
                *self.seen.entry(key).or_default() += 1;
            }
            return;
        }
        self.announced |= is_announcement(frame);
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        self.received.push_back(buffer);
    }

    /// The test frames seen, by (source, destination).
    pub fn seen(&self) -> &BTreeMap<(MacAddress, MacAddress), u64> {
        &self.seen
    }

    /// Count test frames anew.
    pub fn forget_seen(&mut self) {
        self.seen.clear();
    }

    /// Whether a neighbour has announced its address since the last call.
    pub(crate) fn take_announced(&mut self) -> bool {
        std::mem::take(&mut self.announced)
    }

    /// Whether received frames wait for the stack.
    pub fn is_waiting(&self) -> bool {
        !self.received.is_empty()
    }

    /// Send a frame, or hold it until the ring has room. `false` if one is held already.
    pub fn send(&mut self, device: &mut dyn NetDevice, frame: &[u8]) -> bool {
        if !self.release(device) {
            return false;
        }
        match device.xmit(frame) {
            Ok(()) => {}
            Err(XmitError::Full) => self.held = Some(frame.to_vec()),
            Err(error) => {
                // As a cable would: the protocols above notice the loss.
                self.lost += 1;
                log::debug!("a frame of {} bytes was not sent: {error}", frame.len());
            }
        }
        true
    }

    /// Try to send the held frame; `true` if none is held any more.
    pub fn release(&mut self, device: &mut dyn NetDevice) -> bool {
        let Some(frame) = self.held.take() else {
            return true;
        };
        match device.xmit(&frame) {
            Err(XmitError::Full) => {
                self.held = Some(frame);
                false
            }
            Ok(()) => true,
            Err(error) => {
                self.lost += 1;
                log::debug!("a held frame was not sent: {error}");
                true
            }
        }
    }

    /// The driver is gone: what waited for it or came from it is of no use.
    pub fn clear(&mut self) {
        self.received.clear();
        self.held = None;
    }

    /// Frames that the driver refused for another reason than a full ring.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// A driver and its buffers, for one round of the stack.
pub struct Port<'a> {
    /// The driver.
    pub device: &'a mut dyn NetDevice,
    /// Its buffers.
    pub buffers: &'a mut Buffers,
}

impl Device for Port<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Sender<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sender<'_>)> {
        // An answer must find room: no receive token without it.
        if !self.buffers.release(self.device) {
            return None;
        }
        let frame = self.buffers.received.pop_front()?;
        let Buffers {
            spare,
            held,
            scratch,
            lost,
            ..
        } = &mut *self.buffers;
        Some((
            Received { frame, spare },
            Sender {
                device: self.device,
                held,
                scratch,
                lost,
            },
        ))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        if !self.buffers.release(self.device) {
            return None;
        }
        let Buffers {
            held,
            scratch,
            lost,
            ..
        } = &mut *self.buffers;
        Some(Sender {
            device: self.device,
            held,
            scratch,
            lost,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.device.mtu() as usize + ETHERNET_HEADER;
        capabilities.checksum.ipv4 = Checksum::Both;
        capabilities
    }
}

/// A received frame on its way into the stack.
pub struct Received<'a> {
    frame: Vec<u8>,
    spare: &'a mut Vec<Vec<u8>>,
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.frame);
        if self.spare.len() < RECEIVE_BUDGET {
            self.spare.push(self.frame);
        }
        result
    }
}

/// Room for one frame out of the stack.
pub struct Sender<'a> {
    device: &'a mut dyn NetDevice,
    held: &'a mut Option<Vec<u8>>,
    scratch: &'a mut Vec<u8>,
    lost: &'a mut u64,
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.scratch.clear();
        self.scratch.resize(len, 0);
        let result = f(self.scratch);
        match self.device.xmit(self.scratch) {
            Ok(()) => {}
            Err(XmitError::Full) if self.held.is_none() => *self.held = Some(self.scratch.clone()),
            Err(error) => {
                *self.lost += 1;
                log::debug!("a frame of {len} bytes was not sent: {error}");
            }
        }
        result
    }
}
