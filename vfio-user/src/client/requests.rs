//! The client's requests, one method per command.

use std::os::fd::BorrowedFd;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Client, ClientError, DeviceInfo};
use crate::device::{DmaAccess, Irq, IrqFlags, Region};
use crate::wire::{
    self, Capabilities, DmaMap, DmaUnmap, HEADER_SIZE, IrqInfo, MAX_FDS, RegionAccess, RegionInfo,
    SetIrqs, VersionBody, WireError, command, decode_region,
};

/// Room for a region's capabilities in the first request; a second follows if it does not suffice.
const REGION_INFO_ROOM: u32 = 1024;
/// Most room that is granted in the second.
const REGION_INFO_ROOM_MAX: u32 = 64 << 10;

/// Header and fixed part of a request, in one buffer without an allocation.
struct Head {
    bytes: [u8; HEADER_SIZE + size_of::<DmaMap>()],
    len: usize,
}

impl Head {
    /// Leaves the header for the link to fill in.
    fn new<T: IntoBytes + Immutable>(body: &T) -> Self {
        let mut bytes = [0; HEADER_SIZE + size_of::<DmaMap>()];
        let len = HEADER_SIZE + size_of::<T>();
        bytes[HEADER_SIZE..len].copy_from_slice(body.as_bytes());
        Self { bytes, len }
    }

    fn empty() -> Self {
        Self::new(&[0u8; 0])
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// The fixed part of a reply.
fn fixed<T: FromBytes>(command: u16, body: &[u8]) -> Result<(T, &[u8]), WireError> {
    T::read_from_prefix(body).map_err(|_| WireError::BodyTooShort {
        command,
        have: body.len(),
        need: size_of::<T>(),
    })
}

impl Client {
    /// A request whose reply has nothing to say.
    fn request(
        &self,
        command: u16,
        mut head: Head,
        data: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        self.link
            .transact(command, head.bytes(), data, fds, |_, _| Ok(()))
    }

    pub(super) fn negotiate(&self) -> Result<Capabilities, ClientError> {
        let command = command::VERSION;
        let mut head = Head::new(&VersionBody {
            major: wire::MAJOR,
            minor: wire::MINOR,
        });
        let text = Capabilities::own(u16::MAX).encode();
        self.link
            .transact(command, head.bytes(), &text, &[], |body, _| {
                let (version, text) = fixed::<VersionBody>(command, body)?;
                if version.major != wire::MAJOR {
                    return Err(WireError::Major(version.major));
                }
                Capabilities::parse(text)
            })
    }

    /// DEVICE_GET_INFO.
    pub fn device_info(&self) -> Result<DeviceInfo, ClientError> {
        let command = command::DEVICE_GET_INFO;
        let argsz = size_of::<wire::DeviceInfo>() as u32;
        let mut head = Head::new(&wire::DeviceInfo {
            argsz,
            ..Default::default()
        });
        self.link
            .transact(command, head.bytes(), &[], &[], |body, _| {
                let (info, _) = fixed::<wire::DeviceInfo>(command, body)?;
                Ok(DeviceInfo {
                    resettable: info.flags & wire::DeviceInfo::RESET != 0,
                    pci: info.flags & wire::DeviceInfo::PCI != 0,
                    regions: info.num_regions,
                    irqs: info.num_irqs,
                })
            })
    }

    /// DEVICE_GET_REGION_INFO, with the file and the list of mappable areas, if there are any.
    pub fn region(&self, index: u32) -> Result<Region, ClientError> {
        let (region, need) = self.region_info(index, REGION_INFO_ROOM)?;
        if need <= REGION_INFO_ROOM {
            return Ok(region);
        }
        let (region, still) = self.region_info(index, need.min(REGION_INFO_ROOM_MAX))?;
        if still > REGION_INFO_ROOM_MAX {
            // Without its list the region would look mappable as a whole.
            let at = size_of::<RegionInfo>();
            return Err(ClientError::BadReply(WireError::RegionCapability(at)));
        }
        Ok(region)
    }

    fn region_info(&self, index: u32, argsz: u32) -> Result<(Region, u32), ClientError> {
        let command = command::DEVICE_GET_REGION_INFO;
        let mut head = Head::new(&RegionInfo {
            argsz,
            index,
            ..Default::default()
        });
        self.link
            .transact(command, head.bytes(), &[], &[], |body, fds| {
                let fd = if fds.is_empty() {
                    None
                } else {
                    Some(fds.swap_remove(0))
                };
                decode_region(body, index, fd)
            })
    }

    /// DEVICE_GET_IRQ_INFO.
    pub fn irq(&self, index: u32) -> Result<Irq, ClientError> {
        let command = command::DEVICE_GET_IRQ_INFO;
        let argsz = size_of::<IrqInfo>() as u32;
        let mut head = Head::new(&IrqInfo {
            argsz,
            index,
            ..Default::default()
        });
        self.link
            .transact(command, head.bytes(), &[], &[], |body, _| {
                let (info, _) = fixed::<IrqInfo>(command, body)?;
                if info.index != index {
                    return Err(WireError::Count {
                        command,
                        count: info.index.into(),
                    });
                }
                Ok(Irq {
                    flags: IrqFlags::from_bits_truncate(info.flags),
                    count: info.count,
                })
            })
    }

    /// REGION_READ. More than the server takes in one message becomes several.
    pub fn region_read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), ClientError> {
        let command = command::REGION_READ;
        let mut at = offset;
        for chunk in data.chunks_mut(self.max_transfer()) {
            let access = region_access(command, index, at, chunk.len())?;
            let mut head = Head::new(&access);
            self.link
                .transact(command, head.bytes(), &[], &[], |body, _| {
                    let (answer, data) = fixed::<RegionAccess>(command, body)?;
                    let bad = WireError::Count {
                        command,
                        count: answer.count.into(),
                    };
                    if answer != access {
                        return Err(bad);
                    }
                    chunk.copy_from_slice(data.get(..chunk.len()).ok_or(bad)?);
                    Ok(())
                })?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// REGION_WRITE, acknowledged by the server.
    pub fn region_write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let command = command::REGION_WRITE;
        let mut at = offset;
        for chunk in data.chunks(self.max_transfer()) {
            let head = Head::new(&region_access(command, index, at, chunk.len())?);
            self.request(command, head, chunk, &[])?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// REGION_WRITE without a reply: returns when the message is in the socket, which keeps it in
    /// order with everything sent later. What becomes of it is not reported.
    pub fn region_post(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let command = command::REGION_WRITE;
        let mut at = offset;
        for chunk in data.chunks(self.max_transfer()) {
            let mut head = Head::new(&region_access(command, index, at, chunk.len())?);
            self.link.post(command, head.bytes(), chunk)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// DMA_MAP: open `iova .. iova + size` to the device. `file` is what backs it and the offset of
    /// `iova` in it; without one the server asks for the memory by message.
    pub fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), ClientError> {
        let head = Head::new(&DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags: access.bits(),
            offset: file.map_or(0, |(_, offset)| offset),
            address: iova,
            size,
        });
        let fd = file.map(|(fd, _)| fd);
        self.request(command::DMA_MAP, head, &[], fd.as_slice())
    }

    /// DMA_UNMAP of exactly this window. When it returns, the device no longer touches it.
    pub fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), ClientError> {
        self.unmap(0, iova, size)
    }

    /// DMA_UNMAP of every window.
    pub fn dma_unmap_all(&self) -> Result<(), ClientError> {
        self.unmap(DmaUnmap::ALL, 0, 0)
    }

    fn unmap(&self, flags: u32, address: u64, size: u64) -> Result<(), ClientError> {
        let argsz = size_of::<DmaUnmap>() as u32;
        let head = Head::new(&DmaUnmap {
            argsz,
            flags,
            address,
            size,
        });
        self.request(command::DMA_UNMAP, head, &[], &[])
    }

    /// SET_IRQS: from vector `start` on, assign these eventfds, and take away those that are `None`.
    /// Goes out as several messages, since one can only assign or only take away, and carries few
    /// descriptors.
    pub fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), ClientError> {
        let max_fds = (self.capabilities().max_msg_fds as usize).clamp(1, MAX_FDS);
        let flags = SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_TRIGGER;
        let mut first = start;
        for run in fds.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let assign = run.first().is_some_and(Option::is_some);
            for part in run.chunks(if assign { max_fds } else { run.len() }) {
                let part_fds: Vec<_> = part.iter().flatten().copied().collect();
                let count = vector_count(part.len())?;
                self.set_irqs(flags, index, first, count, &[], &part_fds)?;
                first = first
                    .checked_add(count)
                    .ok_or(ClientError::Argument(command::DEVICE_SET_IRQS))?;
            }
        }
        Ok(())
    }

    /// SET_IRQS: disable the whole index; every eventfd goes.
    pub fn disable_irqs(&self, index: u32) -> Result<(), ClientError> {
        self.set_irqs(
            SetIrqs::DATA_NONE | SetIrqs::ACTION_TRIGGER,
            index,
            0,
            0,
            &[],
            &[],
        )
    }

    /// SET_IRQS: fire the vectors from `start` on whose flag is set.
    pub fn trigger(&self, index: u32, start: u32, which: &[bool]) -> Result<(), ClientError> {
        self.set_bools(SetIrqs::ACTION_TRIGGER, index, start, which)
    }

    /// SET_IRQS: mask the vectors from `start` on whose flag is set.
    pub fn mask(&self, index: u32, start: u32, which: &[bool]) -> Result<(), ClientError> {
        self.set_bools(SetIrqs::ACTION_MASK, index, start, which)
    }

    /// SET_IRQS: unmask the vectors from `start` on whose flag is set.
    pub fn unmask(&self, index: u32, start: u32, which: &[bool]) -> Result<(), ClientError> {
        self.set_bools(SetIrqs::ACTION_UNMASK, index, start, which)
    }

    /// SET_IRQS: assign the eventfd that unmasks a vector (INTx resample), or take it away.
    pub fn set_unmask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), ClientError> {
        let flags = SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_UNMASK;
        self.set_irqs(flags, index, vector, 1, &[], fd.as_slice())
    }

    /// SET_IRQS: assign the eventfd that masks a vector, or take it away.
    pub fn set_mask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), ClientError> {
        let flags = SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_MASK;
        self.set_irqs(flags, index, vector, 1, &[], fd.as_slice())
    }

    fn set_bools(
        &self,
        action: u32,
        index: u32,
        start: u32,
        which: &[bool],
    ) -> Result<(), ClientError> {
        let count = vector_count(which.len())?;
        if count == 0 {
            return Ok(());
        }
        // For all of them the shorter form does, which every server knows.
        if which.iter().all(|&set| set) {
            return self.set_irqs(SetIrqs::DATA_NONE | action, index, start, count, &[], &[]);
        }
        let flags: Vec<u8> = which.iter().map(|&set| set.into()).collect();
        self.set_irqs(
            SetIrqs::DATA_BOOL | action,
            index,
            start,
            count,
            &flags,
            &[],
        )
    }

    fn set_irqs(
        &self,
        flags: u32,
        index: u32,
        start: u32,
        count: u32,
        data: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let argsz = (size_of::<SetIrqs>() + data.len()) as u32;
        let head = Head::new(&SetIrqs {
            argsz,
            flags,
            index,
            start,
            count,
        });
        self.request(command::DEVICE_SET_IRQS, head, data, fds)
    }

    /// DEVICE_RESET.
    pub fn reset(&self) -> Result<(), ClientError> {
        self.request(command::DEVICE_RESET, Head::empty(), &[], &[])
    }

    fn max_transfer(&self) -> usize {
        (self.capabilities().max_data_xfer_size as usize).clamp(1, wire::MAX_TRANSFER)
    }
}

fn region_access(
    command: u16,
    region: u32,
    offset: u64,
    len: usize,
) -> Result<RegionAccess, ClientError> {
    offset
        .checked_add(len as u64)
        .ok_or(ClientError::Argument(command))?;
    Ok(RegionAccess {
        offset,
        region,
        count: len as u32,
    })
}

/// A list of vectors this long fits a message.
fn vector_count(len: usize) -> Result<u32, ClientError> {
    if len > 4096 {
        return Err(ClientError::Argument(command::DEVICE_SET_IRQS));
    }
    Ok(len as u32)
}
