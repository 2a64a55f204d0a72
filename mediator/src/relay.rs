//! A slot as its client sees it: the card's VF, with page 0, configuration space and BAR2 mediated.
//!
//! BAR0's page 0 holds the mailbox, STATUS and CTRL, which are looked at one dword at a time. All
//! other pages pass; queue pages do so as the card's own memory, without a message. Writes to memory
//! BARs are posted downstream in order, as PCI has it. What waits for the card: a reset, and a write to
//! a page that the client can also store to, which would overtake a posted one.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard};

use igb::queue_page::Page;
use igb::{FunctionKind, PVTCTRL, Register, STATUS, Value, vf};
use iommu::function::{Function, FunctionError};
use iommu::interrupt::EventFd;
use mediator_protocol::{ResetCause, bar};
use nix::errno::Errno;
use vfio_user::device::{
    Device, DmaClient, DmaWindow, Irq, IrqAction, IrqFlags, Region, RegionFlags, borrow_all, irq,
    region,
};

use crate::channel::{Channel, Host};
use crate::config_space::ConfigWrite;
use crate::mailbox::MEMORY;
use crate::slot::{Leave, Slot};

/// Bytes of page 0, where accesses are looked at.
const PAGE: u64 = 0x1000;
const MEMORY_FIRST: u64 = vf::VMBMEM::OFFSET as u64;
const MEMORY_END: u64 = MEMORY_FIRST + MEMORY as u64;
const CTRL: u64 = vf::VTCTRL::OFFSET as u64;
const STATUS_AT: u64 = vf::VTSTATUS::OFFSET as u64;
const V2P: u64 = vf::V2PMAILBOX::OFFSET as u64;
const IVAR_MISC: u64 = vf::VTIVAR_MISC::OFFSET as u64;

/// What a byte of page 0 belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Ctrl,
    Status,
    MailboxMemory,
    V2p,
    Pass,
    /// No register of a VF's: what a card has there (an alias of CTRL, a register of the whole card) is
    /// not the VF's to reach.
    Nothing,
}

impl Part {
    fn at(offset: u64) -> Self {
        match offset & !3 {
            CTRL => Self::Ctrl,
            STATUS_AT => Self::Status,
            V2P => Self::V2p,
            MEMORY_FIRST..MEMORY_END => Self::MailboxMemory,
            offset if vf::window_at(offset as u32).is_none() => Self::Nothing,
            _ => Self::Pass,
        }
    }
}

/// Cuts an access into pieces that each belong to one part; registers are cut at their end too.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (Part, u64, std::ops::Range<usize>)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= len {
            return None;
        }
        let at = offset + start as u64;
        let part = if at < PAGE { Part::at(at) } else { Part::Pass };
        let end = match part {
            Part::Pass | Part::Nothing | Part::MailboxMemory => (start + 1..len)
                .find(|&n| {
                    let next = offset + n as u64;
                    (if next < PAGE {
                        Part::at(next)
                    } else {
                        Part::Pass
                    }) != part
                })
                .unwrap_or(len),
            _ => (start + 4 - (at & 3) as usize).min(len),
        };
        let range = start..end;
        start = end;
        Some((part, at, range))
    })
}

/// The bits of a register that an access of `len` bytes at `offset` covers.
fn covered(offset: u64, len: usize) -> u32 {
    let mut bytes = [0; 4];
    let first = (offset & 3) as usize;
    bytes[first..(first + len).min(4)].fill(0xFF);
    u32::from_le_bytes(bytes)
}

/// The register's value that a write of `data` at `offset` amounts to, other bytes 0.
fn widened(offset: u64, data: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    for (place, byte) in bytes[(offset & 3) as usize..].iter_mut().zip(data) {
        *place = *byte;
    }
    u32::from_le_bytes(bytes)
}

fn errno(error: FunctionError) -> Errno {
    match error {
        FunctionError::Lost => Errno::ENODEV,
        FunctionError::Refused { errno, .. }
        | FunctionError::Limit { errno, .. }
        | FunctionError::Memory { errno, .. } => errno,
        FunctionError::TimedOut { .. } => Errno::ETIMEDOUT,
        _ => Errno::EIO,
    }
}

type Downstream<'a> = RwLockReadGuard<'a, Option<Arc<dyn Function>>>;

impl Slot {
    fn downstream(&self) -> Downstream<'_> {
        self.function.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call the card's VF; `ENODEV` if it is not there.
    fn call<T>(
        &self,
        act: impl FnOnce(&dyn Function) -> Result<T, FunctionError>,
    ) -> Result<T, Errno> {
        let function = self.downstream();
        act(function.as_deref().ok_or(Errno::ENODEV)?).map_err(errno)
    }

    /// Have the card reset the VF. Not before it has completed that does the new generation begin,
    /// and not before that is anything else of this VF relayed.
    fn reset_downstream(
        &self,
        cause: ResetCause,
        act: impl FnOnce(&dyn Function) -> Result<(), FunctionError>,
    ) -> Result<(), Errno> {
        let result = self.call(act);
        match result {
            Ok(()) => self.after_reset(cause),
            Err(errno) => {
                // The VF is in no known state: nothing more of it may reach the PF driver.
                log::error!("VF {}: the card did not complete a reset: {errno}", self.vf);
                self.leave(Leave::ResetFailed);
            }
        }
        result
    }

    fn read_bar0(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        for (part, at, range) in pieces(offset, data.len()) {
            let data = &mut data[range];
            match part {
                Part::Pass | Part::Ctrl => {
                    self.call(|function| function.read(region::BAR0, at, data))?
                }
                Part::Nothing => data.fill(0),
                Part::MailboxMemory => {
                    self.channel(|channel, _, _| {
                        channel.read_memory((at - MEMORY_FIRST) as usize, data)
                    });
                }
                Part::Status => {
                    let status = Value::<STATUS>::from_raw(self.read_register(STATUS_AT)?);
                    let up = self.channel(|channel, _, _| channel.link_up());
                    let status = if up {
                        status.set(STATUS::LU)
                    } else {
                        status.clear(STATUS::LU)
                    };
                    copy_register(status.raw(), at, data);
                }
                Part::V2p => {
                    let downstream = self.read_register(V2P)?;
                    let seen = covered(at, data.len());
                    let value = self.channel(|channel, _, _| channel.read_v2p(downstream, seen));
                    copy_register(value, at, data);
                }
            }
        }
        Ok(())
    }

    fn write_bar0(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        for (part, at, range) in pieces(offset, data.len()) {
            let data = &data[range];
            match part {
                Part::Pass => {
                    let mapped = Page::at(FunctionKind::Virtual, at as u32).is_some()
                        && self.pages_mapped.load(Ordering::Relaxed);
                    if mapped {
                        self.call(|function| function.write(region::BAR0, at, data))?;
                    } else {
                        self.call(|function| function.post(region::BAR0, at, data))?;
                    }
                    if at < IVAR_MISC + 4 && at + data.len() as u64 > IVAR_MISC {
                        let whole = (at == IVAR_MISC && data.len() == 4).then(|| widened(at, data));
                        self.saw_ivar_misc(whole);
                    }
                }
                // RO in the card.
                Part::Status | Part::Nothing => {}
                Part::Ctrl => {
                    if Value::<PVTCTRL>::from_raw(widened(at, data)).has(PVTCTRL::RST) {
                        self.reset_downstream(ResetCause::CtrlRst, |function| {
                            function.write(region::BAR0, at, data)
                        })?;
                    } else {
                        self.call(|function| function.post(region::BAR0, at, data))?;
                    }
                }
                Part::MailboxMemory => {
                    self.channel(|channel, _, _| {
                        channel.write_memory((at - MEMORY_FIRST) as usize, data)
                    });
                }
                Part::V2p => {
                    // All the bits that can be written are in the low byte.
                    if at == V2P {
                        let value = widened(at, data);
                        self.channel(|channel, now, host| channel.write_v2p(value, now, host));
                    }
                }
            }
        }
        Ok(())
    }

    fn read_register(&self, offset: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.call(|function| function.read(region::BAR0, offset, &mut bytes))?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn bar2(&self, act: impl FnOnce(&mut Channel, u64, &mut dyn Host)) {
        self.channel(act);
    }
}

fn copy_register(value: u32, at: u64, data: &mut [u8]) {
    let bytes = value.to_le_bytes();
    let first = (at & 3) as usize;
    data.copy_from_slice(&bytes[first..first + data.len()]);
}

/// The card's BAR0 may be mapped, but never page 0.
fn fence(mut region: Region) -> Region {
    let open = |region: &Region| region.flags.contains(RegionFlags::MMAP);
    if open(&region)
        && (region.sparse.is_empty() || region.sparse.iter().any(|area| area.offset < PAGE))
    {
        region.sparse.retain(|area| area.offset >= PAGE);
        if region.sparse.is_empty() {
            region.flags -= RegionFlags::MMAP;
            region.fd = None;
        }
    }
    region
}

impl Device for Slot {
    fn connected(&self, dma: Arc<dyn DmaClient>) {
        // A client in process may come after the VF has left: it finds nothing here.
        if self.stop.is_raised() {
            return;
        }
        log::info!("VF {}: a guest has attached", self.vf);
        self.forwarder.set_client(Some(dma));
        self.channel(|channel, _, host| channel.attach(host));
    }

    fn disconnected(&self) {
        log::info!("VF {}: its guest has left", self.vf);
        self.forwarder.set_client(None);
        self.recycle();
    }

    fn region(&self, index: u32) -> Region {
        match index {
            bar::INDEX => Region::trapped(bar::SIZE),
            region::BAR0 => {
                let region = self
                    .call(|function| function.region(index))
                    .map_or_else(|_| Region::absent(), fence);
                let mapped = region.flags.contains(RegionFlags::MMAP);
                self.pages_mapped.store(mapped, Ordering::Relaxed);
                region
            }
            _ => self
                .call(|function| function.region(index))
                .unwrap_or_else(|_| Region::absent()),
        }
    }

    fn irq(&self, index: u32) -> Irq {
        match index {
            irq::REQ => Irq {
                flags: IrqFlags::EVENTFD,
                count: 1,
            },
            _ => self.call(|function| function.irq(index)).unwrap_or(Irq {
                flags: IrqFlags::empty(),
                count: 0,
            }),
        }
    }

    fn region_read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        match index {
            bar::INDEX => {
                self.bar2(|channel, _, _| channel.read_block(offset, data));
                Ok(())
            }
            region::BAR0 if offset < PAGE => self.read_bar0(offset, data),
            region::CONFIG => {
                self.call(|function| function.read(index, offset, data))?;
                self.config.overlay(offset, data);
                Ok(())
            }
            _ => self.call(|function| function.read(index, offset, data)),
        }
    }

    fn region_write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        match index {
            bar::INDEX => {
                self.bar2(|channel, now, host| channel.write_block(offset, data, now, host));
                Ok(())
            }
            region::BAR0 => self.write_bar0(offset, data),
            region::CONFIG => match self.config.write(offset, data) {
                ConfigWrite::Plain => self.call(|function| function.write(index, offset, data)),
                // Asked for as a reset: the kernel's VFIO does not tell of an FLR that it could not do.
                ConfigWrite::Flr => self.reset_downstream(ResetCause::Flr, |function| {
                    let rest = self.config.without_flr(offset, data);
                    function.write(index, offset, &rest)?;
                    function.reset()
                }),
            },
            _ => self.call(|function| function.post(index, offset, data)),
        }
    }

    fn dma_map(&self, window: DmaWindow) -> Result<(), Errno> {
        let file = window
            .file
            .as_ref()
            .map(|(fd, offset)| (fd.as_fd(), *offset));
        self.call(|function| function.dma_map(window.iova, window.size, window.access, file))
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), Errno> {
        self.call(|function| function.dma_unmap(iova, size))
    }

    fn dma_unmap_all(&self) {
        if let Err(errno) = self.call(|function| function.dma_unmap_all()) {
            log::debug!("VF {}: windows not closed: {errno}", self.vf);
        }
    }

    fn set_irqs(&self, index: u32, start: u32, action: IrqAction) -> Result<(), Errno> {
        if index == irq::REQ {
            return self.set_req(action);
        }
        self.call(|function| match &action {
            IrqAction::SetEventfds(fds) => function.set_eventfds(index, start, &borrow_all(fds)),
            IrqAction::Disable => function.disable_irqs(index),
            IrqAction::Trigger(vectors) => function.trigger_irqs(index, start, vectors),
            IrqAction::Mask(vectors) => function.mask_irqs(index, start, vectors),
            IrqAction::Unmask(vectors) => function.unmask_irqs(index, start, vectors),
            IrqAction::SetUnmaskEventfd(fd) => {
                function.set_unmask_eventfd(index, start, fd.as_ref().map(AsFd::as_fd))
            }
            IrqAction::SetMaskEventfd(_) => Err(FunctionError::Refused {
                operation: "masking by eventfd",
                errno: Errno::ENOTSUP,
            }),
        })
    }

    fn reset(&self) {
        let _ = self.reset_downstream(ResetCause::Device, |function| function.reset());
    }
}

impl Slot {
    /// The REQ index is the mediator's own: it asks the client to release the device.
    fn set_req(&self, action: IrqAction) -> Result<(), Errno> {
        match action {
            IrqAction::SetEventfds(fds) => {
                let event = fds
                    .into_iter()
                    .next()
                    .flatten()
                    .map(EventFd::from_peer)
                    .transpose();
                self.set_req_event(event.map_err(|_| Errno::EINVAL)?);
                Ok(())
            }
            IrqAction::Disable => {
                self.set_req_event(None);
                Ok(())
            }
            IrqAction::Trigger(_) => Ok(()),
            _ => Err(Errno::ENOTSUP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vfio_user::device::SparseArea;

    proptest! {
        /// Pieces cover an access exactly once and in order, and a register's piece stays in it.
        #[test]
        fn pieces_cover_an_access(offset in 0u64..0x1010, len in 0usize..64) {
            let mut next = 0;
            for (part, at, range) in pieces(offset, len) {
                prop_assert_eq!(range.start, next);
                prop_assert_eq!(at, offset + range.start as u64);
                prop_assert!(range.end > range.start);
                if matches!(part, Part::Ctrl | Part::Status | Part::V2p) {
                    prop_assert!((at & 3) as usize + range.len() <= 4);
                }
                for n in range.clone() {
                    let byte = offset + n as u64;
                    let expected = if byte < PAGE { Part::at(byte) } else { Part::Pass };
                    prop_assert!(expected == part);
                }
                next = range.end;
            }
            prop_assert_eq!(next, len);
        }
    }

    #[test]
    fn page_0_is_never_mapped() {
        let file = || Some(std::fs::File::open("/dev/null").unwrap().into());
        let area = |offset| SparseArea { offset, size: PAGE };
        let mmap = RegionFlags::READ | RegionFlags::MMAP;
        let whole = Region {
            size: 0x4000,
            flags: mmap,
            sparse: vec![],
            fd: file(),
            fd_offset: 0,
        };
        let fenced = fence(whole);
        assert!(fenced.fd.is_none() && fenced.flags == RegionFlags::READ);
        let with_page_0 = Region {
            size: 0x4000,
            flags: mmap,
            sparse: vec![area(0), area(0x2000)],
            fd: file(),
            fd_offset: 0,
        };
        assert_eq!(fence(with_page_0).sparse, [area(0x2000)]);
        let pages = Region {
            size: 0x4000,
            flags: mmap,
            sparse: vec![area(0x2000), area(0x3000)],
            fd: file(),
            fd_offset: 0,
        };
        let fenced = fence(pages);
        assert!(fenced.fd.is_some() && fenced.sparse.len() == 2);
    }

    #[test]
    fn narrow_writes_know_their_place() {
        assert_eq!(widened(CTRL + 3, &[0x04]), PVTCTRL::RST.mask());
        assert_eq!(covered(V2P + 1, 2), 0x00FF_FF00);
        assert_eq!(covered(V2P, 4), u32::MAX);
    }
}
