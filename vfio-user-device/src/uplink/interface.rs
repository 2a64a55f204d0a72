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
        })
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
                Loss::Down | Loss::Removed => UplinkLoss::NoPeer,
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
                // A packet socket says once that its interface went down.
                Err(_) => return None,
            }
        }
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.interface.as_fd())
    }
}
