//! One client's connection: receives commands, answers each in order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::errno::Errno;
use zerocopy::IntoBytes;

use super::dma::DmaHub;
use super::{Error, ServerOptions};
use crate::device::{Device, DmaWindow, IrqAction, RegionFlags, irq, region};
use crate::frame::{Fill, Frame, Receiver, Sender};
use crate::wire::{
    Capabilities, DeviceInfo, HEADER_SIZE, Header, IrqInfo, IrqRequest, Kind, MINOR, RegionAccess,
    Request, VersionBody, WireError, command, encode_region,
};

/// Serve one client to its end.
pub(super) fn serve(
    stream: UnixStream,
    device: &dyn Device,
    options: &ServerOptions,
) -> Result<(), Error> {
    let sender = Arc::new(Sender::new(stream, options.send_timeout).map_err(Error::Socket)?);
    let mut receiver = Receiver::new();
    let Some((header, client)) = handshake(&sender, &mut receiver, options)? else {
        return Ok(());
    };

    let hub = Arc::new(DmaHub::new(
        Arc::clone(&sender),
        &client,
        options.dma_timeout,
    ));
    let _connected = Connected::new(device, &hub);
    let mut connection = Connection {
        device,
        sender,
        hub: Arc::clone(&hub),
        regions: [Bounds::default(); region::COUNT as usize],
        reply: Vec::new(),
        passes_fds: client.max_msg_fds > 0,
    };
    for index in 0..region::COUNT {
        connection.learn_region(index, &device.region(index));
    }
    connection.accept_version(&header, options)?;
    connection.run(&mut receiver)
}

/// Tells the device when the client has gone, however that came about.
struct Connected<'a> {
    device: &'a dyn Device,
    hub: &'a DmaHub,
}

impl<'a> Connected<'a> {
    fn new(device: &'a dyn Device, hub: &'a Arc<DmaHub>) -> Self {
        device.connected(Arc::clone(hub) as _);
        Self { device, hub }
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        // First: the device may have workers that wait for DMA answers.
        self.hub.close();
        self.device.disconnected();
    }
}

/// Receive the VERSION command. `None` if the client left instead.
fn handshake(
    sender: &Sender,
    receiver: &mut Receiver,
    options: &ServerOptions,
) -> Result<Option<(Header, Capabilities)>, Error> {
    let stream = sender.stream();
    stream.set_nonblocking(false).map_err(Error::Socket)?;
    // Clients wait behind this one, so it may not be silent for ever.
    stream
        .set_read_timeout(Some(options.send_timeout))
        .map_err(Error::Socket)?;
    let frame = loop {
        if let Some(frame) = receiver.next_frame()? {
            break frame;
        }
        match receiver.fill(stream, false)? {
            Fill::More => {}
            Fill::End => return Ok(None),
            Fill::Nothing => return Err(Error::VersionTimeout),
        }
    };
    let header = frame.header;
    // The peer gets a reason before the connection ends; whether it arrives does not matter.
    let refuse = |errno| {
        let _ = sender.send_header(&header.error_reply(errno));
    };
    if header.command != command::VERSION {
        refuse(Errno::EINVAL);
        return Err(Error::VersionMissing(header.command));
    }
    if header.no_reply() {
        return Err(Error::Version(WireError::Type(header.flags)));
    }
    match Request::parse(receiver.bytes(&frame), frame.fds.len()) {
        Ok(Request::Version { capabilities, .. }) => {
            stream.set_read_timeout(None).map_err(Error::Socket)?;
            Ok(Some((header, capabilities)))
        }
        Ok(_) => Err(Error::VersionMissing(header.command)),
        Err(error) => {
            refuse(error.errno());
            Err(Error::Version(error))
        }
    }
}

/// What a region access is checked against. Asked of the device once, since describing a region
/// duplicates its file.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    size: u64,
    read: bool,
    write: bool,
}

struct Connection<'a> {
    device: &'a dyn Device,
    sender: Arc<Sender>,
    hub: Arc<DmaHub>,
    regions: [Bounds; region::COUNT as usize],
    /// The reply under construction: room for the header, then the body. Kept, so that register
    /// accesses do not allocate.
    reply: Vec<u8>,
    /// Whether the client takes descriptors.
    passes_fds: bool,
}

impl Connection<'_> {
    fn accept_version(&mut self, header: &Header, options: &ServerOptions) -> Result<(), Error> {
        self.start_reply();
        // At most the client's minor version, and ours is the lowest.
        self.push(&VersionBody {
            major: 0,
            minor: MINOR,
        });
        self.reply
            .extend_from_slice(&Capabilities::own(options.max_dma_maps).encode());
        self.finish_reply(header, None)
    }

    fn run(&mut self, receiver: &mut Receiver) -> Result<(), Error> {
        loop {
            while let Some(frame) = receiver.next_frame()? {
                self.dispatch(receiver, frame)?;
            }
            match receiver.fill(self.sender.stream(), false)? {
                Fill::More | Fill::Nothing => {}
                // Maybe because a worker could not send.
                Fill::End => {
                    return self
                        .sender
                        .failure()
                        .map_or(Ok(()), |e| Err(Error::Send(e)));
                }
            }
        }
    }

    fn dispatch(&mut self, receiver: &Receiver, mut frame: Frame) -> Result<(), Error> {
        let header = frame.header;
        if header.kind().map_err(Error::Malformed)? == Kind::Reply {
            return self.hub.answer(&header, receiver.body(&frame));
        }
        if header.command == command::VERSION {
            let _ = self.sender.send_header(&header.error_reply(Errno::EINVAL));
            return Err(Error::VersionTwice);
        }
        self.start_reply();
        let fds = std::mem::take(&mut frame.fds);
        let outcome = if frame.fds_lost {
            log::warn!(
                "{}: no room for its file descriptors",
                command::name(header.command)
            );
            Err(Errno::EMFILE)
        } else {
            match Request::parse(receiver.bytes(&frame), fds.len()) {
                Ok(request) => self.execute(request, fds),
                Err(error) => {
                    // Before the reply: the client may count on it.
                    drop(fds);
                    log::debug!("refused: {error}");
                    Err(error.errno())
                }
            }
        };
        if let (Err(errno), true) = (&outcome, header.no_reply()) {
            log::debug!("posted {} failed: {errno}", command::name(header.command));
        }
        match outcome {
            _ if header.no_reply() => Ok(()),
            Ok(fd) => self.finish_reply(&header, fd),
            Err(errno) => self
                .sender
                .send_header(&header.error_reply(errno))
                .map_err(Error::Send),
        }
    }

    /// Do what the client asks for, and build the body of the reply. The descriptor in the result
    /// goes along with it; those in `fds` that are not used are closed.
    fn execute(
        &mut self,
        request: Request<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<OwnedFd>, Errno> {
        match request {
            Request::Version { .. } => return Err(Errno::EINVAL),
            Request::DmaMap {
                iova,
                size,
                access,
                offset,
            } => {
                let file = fds.into_iter().next().map(|fd| (fd, offset));
                self.device.dma_map(DmaWindow {
                    iova,
                    size,
                    access,
                    file,
                })?;
            }
            Request::DmaUnmap(unmap) => {
                let closing = self.hub.begin_closing(unmap.address, unmap.size);
                self.device.dma_unmap(unmap.address, unmap.size)?;
                drop(closing);
                self.push(&unmap);
            }
            Request::DmaUnmapAll(unmap) => {
                let closing = self.hub.begin_closing(0, u64::MAX);
                self.device.dma_unmap_all();
                drop(closing);
                self.push(&unmap);
            }
            Request::Reset => {
                let closing = self.hub.begin_closing(0, u64::MAX);
                self.device.reset();
                drop(closing);
            }
            Request::DeviceInfo => self.push(&DeviceInfo {
                argsz: size_of::<DeviceInfo>() as u32,
                flags: DeviceInfo::RESET | DeviceInfo::PCI,
                num_regions: region::COUNT,
                num_irqs: irq::COUNT,
            }),
            Request::RegionInfo { index, argsz } => return self.region_info(index, argsz),
            Request::IrqInfo { index } => {
                if index >= irq::COUNT {
                    return Err(Errno::EINVAL);
                }
                let irq = self.device.irq(index);
                self.push(&IrqInfo {
                    argsz: size_of::<IrqInfo>() as u32,
                    flags: irq.flags.bits(),
                    index,
                    count: irq.count,
                });
            }
            Request::SetIrqs {
                index,
                start,
                count,
                request,
            } => {
                self.set_irqs(index, start, count, request, fds)?;
            }
            Request::RegionRead {
                region,
                offset,
                count,
            } => {
                self.bounds(region, offset, count, |bounds| bounds.read)?;
                self.push(&RegionAccess {
                    offset,
                    region,
                    count: count as u32,
                });
                let data = self.reply.len();
                self.reply.resize(data + count, 0);
                self.device
                    .region_read(region, offset, &mut self.reply[data..])?;
            }
            Request::RegionWrite {
                region,
                offset,
                data,
            } => {
                self.bounds(region, offset, data.len(), |bounds| bounds.write)?;
                self.device.region_write(region, offset, data)?;
                self.push(&RegionAccess {
                    offset,
                    region,
                    count: data.len() as u32,
                });
            }
        }
        Ok(None)
    }

    fn region_info(&mut self, index: u32, argsz: u32) -> Result<Option<OwnedFd>, Errno> {
        if index >= region::COUNT {
            return Err(Errno::EINVAL);
        }
        let mut region = self.device.region(index);
        self.learn_region(index, &region);
        let fd = region
            .fd
            .take()
            .filter(|_| self.passes_fds && region.flags.contains(RegionFlags::MMAP));
        encode_region(&region, index, argsz, fd.is_some(), &mut self.reply);
        Ok(fd)
    }

    fn learn_region(&mut self, index: u32, region: &crate::device::Region) {
        if let Some(bounds) = self.regions.get_mut(index as usize) {
            *bounds = Bounds {
                size: region.size,
                read: region.flags.contains(RegionFlags::READ),
                write: region.flags.contains(RegionFlags::WRITE),
            };
        }
    }

    fn bounds(
        &self,
        region: u32,
        offset: u64,
        count: usize,
        may: impl Fn(&Bounds) -> bool,
    ) -> Result<(), Errno> {
        let bounds = self.regions.get(region as usize).ok_or(Errno::EINVAL)?;
        let inside = offset
            .checked_add(count as u64)
            .is_some_and(|end| end <= bounds.size);
        if inside && may(bounds) {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn set_irqs(
        &self,
        index: u32,
        start: u32,
        count: u32,
        request: IrqRequest<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Errno> {
        if index >= irq::COUNT {
            return Err(Errno::EINVAL);
        }
        // Bounds the count before anything is allocated for it.
        let vectors = self.device.irq(index).count;
        if start.checked_add(count).is_none_or(|end| end > vectors) {
            return Err(Errno::EINVAL);
        }
        let action = match request {
            IrqRequest::Disable => IrqAction::Disable,
            IrqRequest::Trigger(which) => IrqAction::Trigger(which.to_flags(count)),
            IrqRequest::Mask(which) => IrqAction::Mask(which.to_flags(count)),
            IrqRequest::Unmask(which) => IrqAction::Unmask(which.to_flags(count)),
            IrqRequest::Eventfds { assign: true } => {
                IrqAction::SetEventfds(fds.into_iter().map(Some).collect())
            }
            IrqRequest::Eventfds { assign: false } => {
                IrqAction::SetEventfds((0..count).map(|_| None).collect())
            }
            IrqRequest::UnmaskEventfd { .. } => IrqAction::SetUnmaskEventfd(fds.into_iter().next()),
            IrqRequest::MaskEventfd { .. } => IrqAction::SetMaskEventfd(fds.into_iter().next()),
        };
        self.device.set_irqs(index, start, action)
    }

    fn start_reply(&mut self) {
        self.reply.clear();
        self.reply.resize(HEADER_SIZE, 0);
    }

    fn push<T: IntoBytes + zerocopy::Immutable>(&mut self, value: &T) {
        self.reply.extend_from_slice(value.as_bytes());
    }

    fn finish_reply(&mut self, request: &Header, fd: Option<OwnedFd>) -> Result<(), Error> {
        let header = request.reply(self.reply.len() - HEADER_SIZE);
        self.reply[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        let fd: Option<BorrowedFd<'_>> = fd.as_ref().map(AsFd::as_fd);
        self.sender
            .send(&self.reply, &[], fd.as_slice())
            .map_err(Error::Send)
    }
}
