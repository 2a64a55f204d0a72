//! An uplink over an interface of the kernel: a TAP, or a packet socket on one end of a veth pair.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use netif::offload::{Checksum, complete};
use netif::{Header, Headers, Interface, Kind, Loss, Spec};

use super::{Uplink, UplinkError, UplinkLoss};

/// The interface. Its frames are whole, as those on a wire are: a TAP's come so, a packet socket's get
/// the checksum that the kernel left to an interface.
pub struct KernelInterface {
    interface: Interface,
    told: AtomicBool,
    removed: AtomicBool,
}

impl KernelInterface {
    /// Attach to the interface `name`. A TAP is created if it is not there yet and the process may do
    /// so.
    pub fn open(kind: Kind, name: &str) -> Result<Self, UplinkError> {
        let name = name.parse()?;
        let headers = match kind {
            Kind::Tap => Headers::Off,
            Kind::Packet => Headers::On,
        };
        Ok(Self {
            interface: Interface::open(&Spec { kind, name }, headers)?,
            told: AtomicBool::new(false),
            removed: AtomicBool::new(false),
        })
    }

    /// Nothing comes or goes any more. Its descriptor, which would always be ready, is waited for no
    /// longer.
    fn lost(&self) {
        if !self.removed.swap(true, Ordering::Relaxed) {
            log::error!(
                "the interface {} of the uplink was removed: the port has no cable until the card is \
                 started again",
                self.interface.name()
            );
        }
    }

    /// Whether the frame is whole, or could be made so.
    fn is_whole(&self, frame: &mut [u8], header: Header) -> bool {
        if header.segments.is_some() {
            if !self.told.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "{}: a frame of {} bytes that an interface is to split was dropped; tell the \
                     kernel that a wire does not split: ip link set dev PEER gso_max_segs 1",
                    self.interface.name(),
                    frame.len()
                );
            }
            return false;
        }
        match header.checksum {
            Checksum::Unknown | Checksum::Valid => true,
            Checksum::Partial { start, offset } => complete(frame, start, offset),
        }
    }
}

impl Uplink for KernelInterface {
    fn send(&self, frame: &[u8]) -> Result<(), UplinkLoss> {
        self.interface
            .send(Header::default(), frame)
            .map_err(|loss| match loss {
                Loss::Full => UplinkLoss::Full,
                Loss::Down => UplinkLoss::NoPeer,
                Loss::Removed => {
                    self.lost();
                    UplinkLoss::NoPeer
                }
                Loss::Refused(_) => UplinkLoss::Failed,
            })
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match self.interface.receive(buffer) {
                Ok(Some((len, header))) if self.is_whole(&mut buffer[..len], header) => {
                    return Some(len);
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(Loss::Removed) => {
                    self.lost();
                    return None;
                }
                // A packet socket says once that its interface went down.
                Err(_) => return None,
            }
        }
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        (!self.removed.load(Ordering::Relaxed)).then(|| self.interface.as_fd())
    }
}
