//! A guest that does what it likes: its function's registers and BARs without a driver's manners.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;
use std::{fs::File, os::fd::OwnedFd};

use igb::descriptor::{RING_ALIGNMENT, TxCommand, TxData};
use igb::{Register, vf};
use iommu::function::Function;
use mediator_protocol::bar::{self, Command, StatusRegister};
use mediator_protocol::{BlockData, Status};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vfio_user::device::{DmaAccess, region};

use crate::rig::PATIENCE;

/// A VF, seen raw.
#[derive(Clone)]
pub struct Raw(pub Arc<dyn Function>);

/// Where the ring of [`Raw::transmit_from`] lies: far from what a container allots.
const RING: u64 = 0x70_0000_0000;
const PAGE: u64 = 0x1000;

impl Raw {
    /// Read a dword of a region.
    ///
    /// # Panics
    ///
    /// If the function refuses, as everything here does.
    #[must_use]
    pub fn read(&self, region: u32, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.0.read(region, offset, &mut data).expect("a read");
        u32::from_le_bytes(data)
    }

    /// Write a dword of a region.
    pub fn write(&self, region: u32, offset: u64, value: u32) {
        self.0
            .write(region, offset, &value.to_le_bytes())
            .expect("a write");
    }

    /// Write a register of BAR0.
    pub fn set<R: Register>(&self, index: u32, value: u32) {
        self.write(region::BAR0, R::offset(index).into(), value);
    }

    /// Read a register of BAR0.
    #[must_use]
    pub fn get<R: Register>(&self, index: u32) -> u32 {
        self.read(region::BAR0, R::offset(index).into())
    }

    // ---- the mediator's BAR ----

    /// Read a register of the mediator's BAR.
    #[must_use]
    pub fn bar(&self, register: bar::Register) -> u32 {
        self.read(bar::INDEX, register.offset())
    }

    /// Write a register of the mediator's BAR.
    pub fn set_bar(&self, register: bar::Register, value: u32) {
        self.write(bar::INDEX, register.offset(), value);
    }

    /// Start a command, whatever it is.
    pub fn start(&self, command: u32, block: u32, length: u32) {
        self.set_bar(bar::Register::BlockId, block);
        self.set_bar(bar::Register::Length, length);
        self.set_bar(bar::Register::Command, command);
    }

    /// STATUS as it is now.
    #[must_use]
    pub fn status(&self) -> StatusRegister {
        StatusRegister(self.bar(bar::Register::Status))
    }

    /// How the command that was started ends.
    #[must_use]
    pub fn verdict(&self) -> Status {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.status().verdict().expect("a status that exists") {
                return status;
            }
            assert!(
                Instant::now() < end,
                "no answer: STATUS {:#x}",
                self.status().0
            );
            std::thread::yield_now();
        }
    }

    /// A command with its verdict.
    #[must_use]
    pub fn command(&self, command: u32, block: u32, length: u32) -> Status {
        self.start(command, block, length);
        self.verdict()
    }

    /// Write a block.
    #[must_use]
    pub fn write_block(&self, block: u32, data: &[u8]) -> Status {
        self.0
            .write(bar::INDEX, bar::BUFFER, data)
            .expect("a write");
        self.command(Command::Write as u32, block, data.len() as u32)
    }

    /// Write a message to a block.
    #[must_use]
    pub fn say(&self, block: u32, message: &BlockData) -> Status {
        self.write_block(block, message)
    }

    // ---- DMA ----

    /// Have the card fetch a frame of `length` bytes from `address`, over a ring of its own in the
    /// place of the driver's, whose queues must be stopped. The page below `RING` is mapped too, and
    /// its address returned, for the edge between it and nothing.
    pub fn transmit_from(&self, address: impl FnOnce(u64) -> u64, length: u16) -> u64 {
        let memory = sealed(PAGE);
        self.0
            .dma_map(RING, PAGE, DmaAccess::all(), Some((memory.as_fd(), 0)))
            .expect("a window");
        let address = address(RING);
        let command = TxCommand::EOP | TxCommand::IFCS | TxCommand::RS;
        let descriptor = TxData::new(address, length, command).with_payload_length(length.into());
        File::from(memory)
            .write_all_at(&descriptor.to_bytes(), 0)
            .expect("memory");
        self.set::<vf::TXDCTL>(0, 0);
        self.set::<vf::TDBAL>(0, RING as u32);
        self.set::<vf::TDBAH>(0, (RING >> 32) as u32);
        self.set::<vf::TDLEN>(0, RING_ALIGNMENT);
        self.set::<vf::TDH>(0, 0);
        self.set::<vf::TDT>(0, 0);
        self.set::<vf::TXDCTL>(0, igb::TXDCTL::ENABLE.mask());
        self.set::<vf::TDT>(0, 1);
        address
    }

    /// Take the window of [`Self::transmit_from`] back.
    pub fn unmap_ring(&self) {
        self.0.dma_unmap(RING, PAGE).expect("the window");
    }
}

/// A memfd as guests give it to the card.
fn sealed(size: u64) -> OwnedFd {
    let file = File::from(
        memfd_create(c"raw", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("a memfd"),
    );
    file.set_len(size).expect("memory");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).expect("a seal");
    file.into()
}
