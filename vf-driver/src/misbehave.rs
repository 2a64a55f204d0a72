//! Test aids: what no driver does on purpose, to see what comes of it.

use std::time::{Duration, Instant};

use igb::descriptor::{self, RING_ALIGNMENT, RxRead, RxStatus, TxCommand, TxData};
use igb::{Value, vf};
use igb_driver::DriverError;
use iommu::container::ContainerError;
use iommu::function::DmaAccess;
use iommu::memory::{MapAccess, SharedMemory};

use crate::driver::VfDriver;
use crate::error::VfError;

/// Frames that have to arrive, before and after a window is closed.
const FRAMES: usize = 8;
/// How long they may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Descriptors of a ring in one page.
const ENTRIES: usize = 256;
/// A receive buffer, as SRRCTL counts it when it is zero: 2 KiB.
const BUFFER: usize = 2048;

/// What [`VfDriver::unmap_in_flight`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Frames that the card had received when the window was closed.
    pub before: usize,
    /// Frames that it received into the closed window.
    pub after: usize,
    /// The memory changed after closing the window had returned.
    pub changed: bool,
}

impl VfDriver {
    /// A test aid: have the card read a descriptor that points outside this VF's memory. The queues
    /// stand still afterwards, until [`Self::reset`].
    ///
    /// # Errors
    ///
    /// The function is gone, or no memory is left.
    pub fn post_descriptor_outside(&mut self) -> Result<u64, VfError> {
        const OUTSIDE: u64 = 0x00DE_AD00_0000;
        const FRAME: u16 = 64;
        self.port.stop(&self.regs, &mut self.interrupts);
        let mut ring = self.container.alloc(RING_ALIGNMENT as usize)?;
        let command = TxCommand::EOP | TxCommand::IFCS | TxCommand::RS;
        let descriptor = TxData::new(OUTSIDE, FRAME, command).with_payload_length(FRAME.into());
        let bytes = descriptor.to_bytes();
        ring.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        let ring = ring.share()?;
        let base = ring.iova();
        self.regs
            .write_trapped::<vf::TDBAL>(0, Value::from_raw(base as u32))?;
        self.regs
            .write_trapped::<vf::TDBAH>(0, Value::from_raw((base >> 32) as u32))?;
        self.regs
            .write_trapped::<vf::TDLEN>(0, Value::from_raw(RING_ALIGNMENT))?;
        self.regs.write_trapped::<vf::TDH>(0, Value::from_raw(0))?;
        self.regs.write_trapped::<vf::TDT>(0, Value::from_raw(0))?;
        let enable = Value::<vf::TXDCTL>::default().set(igb::TXDCTL::ENABLE);
        self.regs.write_trapped::<vf::TXDCTL>(0, enable)?;
        self.regs.write_trapped::<vf::TDT>(0, Value::from_raw(1))?;
        // The card stops this queue when the driver does, in `reset`; until then it may look.
        self.stray_ring = Some(ring);
        Ok(OUTSIDE)
    }

    /// A test aid: close the window of all receive buffers while frames arrive into them, and see
    /// whether the memory changes once that is done. The queues stand still afterwards, until
    /// [`Self::reset`]. Somebody must send frames to this VF meanwhile.
    ///
    /// # Errors
    ///
    /// The function is gone, no memory is left, or no frames arrive.
    pub fn unmap_in_flight(&mut self) -> Result<InFlight, VfError> {
        self.port.stop(&self.regs, &mut self.interrupts);
        let memory = SharedMemory::create_sealed("window", ENTRIES * BUFFER);
        let memory = memory.map_err(ContainerError::from)?;
        let file = memory.fd().try_clone_to_owned().map_err(|_| NO_FILE)?;
        let view = SharedMemory::map(file, memory.fd_offset(), memory.len(), MapAccess::ReadOnly);
        let view = view.map_err(ContainerError::from)?;
        let window = self.container.share(memory, DmaAccess::WRITE)?;
        let mut ring = self.container.alloc(ENTRIES * descriptor::SIZE)?;
        for (at, entry) in ring
            .as_mut_slice()
            .chunks_exact_mut(descriptor::SIZE)
            .take(ENTRIES)
            .enumerate()
        {
            let descriptor = RxRead::new(window.iova() + (at * BUFFER) as u64, 0);
            entry.copy_from_slice(&descriptor.to_bytes());
        }
        let ring = ring.share()?;
        let (base, regs) = (ring.iova(), &self.regs);
        regs.write_trapped::<vf::RDBAL>(0, Value::from_raw(base as u32))?;
        regs.write_trapped::<vf::RDBAH>(0, Value::from_raw((base >> 32) as u32))?;
        let length = (ENTRIES * descriptor::SIZE) as u32;
        regs.write_trapped::<vf::RDLEN>(0, Value::from_raw(length))?;
        let kind = Value::<igb::SRRCTL>::from_raw(0)
            .with(igb::SRRCTL::BSIZEPACKET, 2)
            .with(igb::SRRCTL::DESCTYPE, 1);
        regs.write_trapped::<vf::SRRCTL>(0, Value::from_raw(kind.raw()))?;
        regs.write_trapped::<vf::RDH>(0, Value::from_raw(0))?;
        regs.write_trapped::<vf::RDT>(0, Value::from_raw(0))?;
        let enable = Value::<vf::RXDCTL>::default().set(igb::RXDCTL::ENABLE);
        regs.write_trapped::<vf::RXDCTL>(0, enable)?;
        regs.write_trapped::<vf::RDT>(0, Value::from_raw(ENTRIES as u32 - 1))?;
        // The first bytes of the second half of a descriptor are its status once it is written back.
        let done = || {
            (0..ENTRIES)
                .take_while(|at| {
                    let mut status = [0; 4];
                    ring.read(at * descriptor::SIZE + 8, &mut status);
                    u32::from_le_bytes(status) & RxStatus::DD.bits() != 0
                })
                .count()
        };
        if !within(PATIENCE, || done() >= FRAMES) {
            return Err(DriverError::State("no frames arrived to close a window under").into());
        }
        drop(window);
        let mut then = vec![0; view.len()];
        view.read(0, &mut then);
        let before = done();
        // A card that stops at the first fault receives none.
        within(PATIENCE / 10, || done() >= before + FRAMES);
        let mut now = vec![0; view.len()];
        view.read(0, &mut now);
        let after = done() - before;
        self.stray_ring = Some(ring);
        Ok(InFlight {
            before,
            after,
            changed: then != now,
        })
    }
}

const NO_FILE: DriverError = DriverError::State("no file descriptor is left");

fn within(limit: Duration, done: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}
