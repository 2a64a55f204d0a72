//! A driver joined to an interface of the kernel: its network stack uses the function as it would use a
//! network card of its own.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::Context as _;
use igb_driver::netdev::{Counters, MacAddress, NetDevice, XmitError};
use igb_driver::offload::{RxChecksum, TxChecksum, TxOffload};
use netif::offload::{Accepted, Checksum, Segments, complete};
use netif::{Header, Headers, Interface, Kind, Loss, Spec};

/// Frames of one round, each way.
const BUDGET: usize = 64;

/// What the interface was told of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    mac: MacAddress,
    mtu: u32,
    carrier: bool,
}

/// What was lost between the two, and what was done in software for the card.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Received frames that found the interface down.
    host_down: u64,
    /// Received frames for which the kernel had no room.
    host_full: u64,
    /// Received frames that the kernel refused.
    host_refused: u64,
    /// Frames to be split in a way that the card cannot.
    unsplit: u64,
    /// Frames that the driver refused.
    refused: u64,
    /// Checksums that the card cannot do.
    software: u64,
}

/// An interface of the kernel as what stands above a driver.
#[derive(Debug)]
pub struct Joined {
    interface: Interface,
    spec: Spec,
    /// The frame under way to the card.
    frame: Vec<u8>,
    /// It found the ring full: its length and what is left to do for it.
    held: Option<(usize, TxOffload)>,
    told: Option<Told>,
    counts: Counts,
}

/// The interface is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed;

impl Joined {
    /// Attach to the interface.
    ///
    /// # Errors
    ///
    /// It is not there, or this user may not.
    pub fn open(spec: Spec) -> anyhow::Result<Self> {
        Ok(Self {
            interface: Interface::open(&spec, Headers::On)?,
            spec,
            frame: vec![0; netif::MAX_FRAME],
            held: None,
            told: None,
            counts: Counts::default(),
        })
    }

    /// The interface, as the user named it.
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// Readable when [`Self::exchange`] has something to take from the kernel; `None` while it would
    /// not, as a frame waits for room in the ring.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.held.is_none().then(|| self.interface.as_fd())
    }

    /// Give the interface the driver's address, MTU and link state, where they have changed.
    ///
    /// # Errors
    ///
    /// The kernel refused one of them; the error says what to do by hand. It is not tried again until
    /// the next change.
    pub fn follow(&mut self, driver: &dyn NetDevice) -> anyhow::Result<()> {
        let now = Told {
            mac: driver.mac(),
            mtu: driver.mtu(),
            carrier: driver.carrier(),
        };
        let before = self.told.replace(now);
        if before == Some(now) {
            return Ok(());
        }
        let name = self.interface.name();
        if before.is_none() {
            let offloads = driver.offloads();
            self.interface
                .set_offloads(Accepted {
                    checksum: offloads.checksum,
                    tcp_segments: offloads.segmentation >= netif::MAX_FRAME,
                })
                .with_context(|| format!("telling {name} what the card does for it"))?;
        }
        let differs = |told: fn(Told) -> u64| before.map(told) != Some(told(now));
        if differs(|told| told.carrier.into()) {
            self.interface
                .set_carrier(now.carrier)
                .with_context(|| format!("setting the carrier of {name}"))?;
        }
        if differs(|told| told.mtu.into()) {
            self.set_mtu(now.mtu)?;
        }
        if before.map(|told| told.mac) != Some(now.mac) {
            self.set_mac(now.mac)?;
        }
        Ok(())
    }

    fn set_mtu(&self, mtu: u32) -> anyhow::Result<()> {
        let name = self.interface.name();
        if self.interface.mtu().ok() == Some(mtu) {
            return Ok(());
        }
        self.interface.set_mtu(mtu).with_context(|| {
            format!("{name} must have the function's MTU: ip link set dev {name} mtu {mtu}")
        })
    }

    fn set_mac(&self, mac: MacAddress) -> anyhow::Result<()> {
        let name = self.interface.name();
        match self.interface.kind() {
            Kind::Tap if self.interface.mac().ok() == Some(mac.0) => Ok(()),
            Kind::Tap => self.interface.set_mac(mac.0).with_context(|| {
                format!(
                    "{name} must have the function's address: ip link set dev {name} address {mac}"
                )
            }),
            Kind::Packet => {
                // The other end may be in a namespace that this process does not see.
                log::info!(
                    "the other end of {name} must have the function's address and MTU: \
                     ip link set dev PEER address {mac} mtu {}",
                    self.told.map_or(0, |told| told.mtu)
                );
                Ok(())
            }
        }
    }

    /// The driver is gone: the interface has no carrier until there is another, and what was on its
    /// way is lost.
    pub fn driver_gone(&mut self) {
        self.held = None;
        self.told = None;
        if let Err(error) = self.interface.set_carrier(false) {
            log::warn!("{}: the carrier stays: {error}", self.interface.name());
        }
    }

    /// Move frames both ways, a bounded number; `true` if there may be more.
    ///
    /// # Errors
    ///
    /// [`Removed`]
    pub fn exchange(&mut self, driver: &mut dyn NetDevice) -> Result<bool, Removed> {
        let received = self.receive_from(driver)?;
        let sent = self.send_to(driver)?;
        Ok(received || sent)
    }

    /// Frames from the card to the kernel.
    ///
    /// # Errors
    ///
    /// [`Removed`]
    pub fn receive_from(&mut self, driver: &mut dyn NetDevice) -> Result<bool, Removed> {
        let Self {
            interface, counts, ..
        } = self;
        let mut removed = false;
        let polled = driver.poll_verified(BUDGET, &mut |frame, checksum| {
            let header = match checksum {
                RxChecksum::Valid => Header::VALID,
                RxChecksum::Unknown => Header::default(),
            };
            match interface.send(header, frame) {
                Ok(()) => {}
                Err(Loss::Down) => counts.host_down += 1,
                Err(Loss::Full) => counts.host_full += 1,
                Err(Loss::Removed) => removed = true,
                Err(loss @ Loss::Refused(_)) => {
                    counts.host_refused += 1;
                    log::debug!("a frame of {} bytes: {loss}", frame.len());
                }
            }
        });
        if removed {
            return Err(Removed);
        }
        Ok(polled == BUDGET)
    }

    /// Frames from the kernel to the card.
    fn send_to(&mut self, driver: &mut dyn NetDevice) -> Result<bool, Removed> {
        if let Some((len, offload)) = self.held.take()
            && !self.transmit(driver, len, offload)
        {
            return Ok(false);
        }
        for _ in 0..BUDGET {
            match self.interface.receive(&mut self.frame) {
                Ok(Some((len, header))) => {
                    let Some(offload) = self.offload(len, header) else {
                        continue;
                    };
                    if !self.transmit(driver, len, offload) {
                        return Ok(false);
                    }
                }
                Ok(None) => return Ok(false),
                Err(Loss::Removed) => return Err(Removed),
                // Said once when the interface goes down; frames come again when it is up.
                Err(loss) => log::debug!("{}: {loss}", self.interface.name()),
            }
        }
        Ok(true)
    }

    /// What is left to the card in the frame just taken; `None` if nobody can do it.
    fn offload(&mut self, len: usize, header: Header) -> Option<TxOffload> {
        let segment = match header.segments {
            None => None,
            Some(Segments::Tcp(payload)) => Some(payload),
            Some(Segments::Other) => {
                self.cannot_split(len);
                return None;
            }
        };
        let checksum = match header.checksum {
            Checksum::Unknown | Checksum::Valid => None,
            Checksum::Partial { start, offset } => Some(TxChecksum { start, offset }),
        };
        Some(TxOffload { checksum, segment })
    }

    /// Put `len` bytes of the buffer on the ring; `false` if they wait for room.
    fn transmit(&mut self, driver: &mut dyn NetDevice, len: usize, mut offload: TxOffload) -> bool {
        let mut outcome = driver.xmit_offloaded(&self.frame[..len], offload);
        if outcome == Err(XmitError::Offload) {
            if offload.segment.is_some() {
                self.cannot_split(len);
                return true;
            }
            let frame = &mut self.frame[..len];
            if let Some(TxChecksum { start, offset }) = offload.checksum
                && complete(frame, start, offset)
            {
                self.counts.software += 1;
                offload = TxOffload::NONE;
                outcome = driver.xmit(frame);
            }
        }
        match outcome {
            Ok(()) => true,
            Err(XmitError::Full) => {
                self.held = Some((len, offload));
                false
            }
            Err(error) => {
                self.counts.refused += 1;
                log::debug!("a frame of {len} bytes was not sent: {error}");
                true
            }
        }
    }

    fn cannot_split(&mut self, len: usize) {
        self.counts.unsplit += 1;
        if self.counts.unsplit == 1 {
            log::warn!(
                "{}: a frame of {len} bytes to be split was dropped, as the card does not split it; \
                 tell the kernel with: ip link set dev PEER gso_max_segs 1",
                self.interface.name()
            );
        }
    }

    /// What was lost on the way, for the program's counters.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters::new();
        for (name, value) in [
            ("host_down", self.counts.host_down),
            ("host_full", self.counts.host_full),
            ("host_refused", self.counts.host_refused),
            ("tx_unsplit", self.counts.unsplit),
            ("tx_not_taken", self.counts.refused),
            ("tx_csum_software", self.counts.software),
        ] {
            counters.push(name, value);
        }
        counters
    }
}
