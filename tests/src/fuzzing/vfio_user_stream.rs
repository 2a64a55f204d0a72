//! Hostile peers of the vfio-user server and client.
//!
//! Input: a mode byte, then chunks `{fds: u8, length: u16, bytes}`, each sent in one call with that
//! many file descriptors. The descriptors are ends of a pipe, so that one which is not closed shows.

use std::io::{IoSlice, PipeReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use vfio_user::client::{Client, ClientOptions};
use vfio_user::device::{
    Device, DmaAccess, DmaClient, DmaWindow, Irq, IrqAction, IrqFlags, Region, RegionFlags, irq,
    region,
};
use vfio_user::server::{ServerOptions, Stop, serve_connection};
use vfio_user::wire::{
    Capabilities, Header, HeaderFlags, Request, VersionBody, command, decode_region,
};
use zerocopy::IntoBytes;

use super::input::Input;

/// More replies than these bytes can ask for would fill the socket, which nobody reads meanwhile.
const MOST: usize = 2048;
const BAR_SIZE: u64 = 64;
const CONFIG_SIZE: u64 = 256;
const VECTORS: u32 = 3;

/// Modes of the first byte: who is attacked.
pub(super) const SERVER_AFTER_VERSION: u8 = 0;
pub(super) const SERVER: u8 = 1;
pub(super) const CLIENT: u8 = 2;

/// Runs one input.
pub fn run(data: &[u8]) {
    let data = &data[..data.len().min(MOST)];
    parse_only(data);
    let mut input = Input::new(data);
    let Some(mode) = input.next() else { return };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let writer = OwnedFd::from(writer);
    match mode % 3 {
        SERVER_AFTER_VERSION => server(true, input, &writer),
        SERVER => server(false, input, &writer),
        _ => client(input, &writer),
    }
    drop(writer);
    assert!(hung_up(&reader), "a descriptor of the peer was not closed");
}

/// The parsers alone, which no framing stands before.
fn parse_only(data: &[u8]) {
    if let Ok(Some(header)) = Header::parse(data)
        && let Some(message) = data.get(..header.message_size as usize)
    {
        for fds in [0, 1, 16] {
            let _ = Request::parse(message, fds);
        }
    }
    let _ = Capabilities::parse(data);
    let _ = decode_region(data, 0, None);
}

fn hung_up(reader: &PipeReader) -> bool {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    // Whoever held the other end has been joined.
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
        && fds[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Send the chunks, and end the stream.
fn send_chunks(mut input: Input<'_>, stream: &UnixStream, fd: &OwnedFd) {
    while let Some(fds) = input.next() {
        let length = input.u16();
        let bytes = input.bytes(usize::from(length));
        if bytes.is_empty() {
            continue;
        }
        let fds: Vec<RawFd> = vec![fd.as_raw_fd(); usize::from(fds % 20)];
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        if sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(bytes)],
            rights,
            flags,
            None,
        )
        .is_err()
        {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a socket pair")
}

fn server(version_first: bool, input: Input<'_>, fd: &OwnedFd) {
    let (ours, theirs) = pair();
    if version_first {
        let mut body = VersionBody { major: 0, minor: 0 }.as_bytes().to_vec();
        body.extend(Capabilities::own(64).encode());
        let mut bytes = Header::command(0, command::VERSION, body.len(), HeaderFlags::empty())
            .as_bytes()
            .to_vec();
        bytes.extend(body);
        std::io::Write::write_all(&mut &theirs, &bytes).expect("an empty socket takes a VERSION");
    }
    send_chunks(input, &theirs, fd);
    let device = Arc::new(Checked::default());
    let stop = Stop::new().expect("an eventfd");
    let short = Duration::from_millis(100);
    let options = ServerOptions {
        send_timeout: short,
        dma_timeout: short,
        ..Default::default()
    };
    // How it ends is the peer's affair.
    let served: Arc<dyn Device> = device.clone();
    let _ = serve_connection(ours, &served, &stop, &options);
    let calls = device.connected.load(Ordering::Relaxed);
    assert_eq!(
        calls,
        device.disconnected.load(Ordering::Relaxed),
        "connected and disconnected"
    );
    assert!(calls <= 1);
}

fn client(input: Input<'_>, fd: &OwnedFd) {
    let (ours, theirs) = pair();
    send_chunks(input, &theirs, fd);
    let Ok(client) = Client::from_stream(
        ours,
        ClientOptions {
            timeout: Duration::from_millis(100),
        },
    ) else {
        return;
    };
    let _ = client.device_info();
    for index in 0..region::COUNT {
        if let Ok(region) = client.region(index) {
            for area in &region.sparse {
                assert!(
                    area.offset
                        .checked_add(area.size)
                        .is_some_and(|end| end <= region.size)
                );
            }
        }
    }
    let _ = client.irq(irq::MSIX);
    let _ = client.region_read(region::CONFIG, 0, &mut [0; 64]);
    let _ = client.region_write(region::BAR0, 0, &[0; 4]);
    let _ = client.region_post(region::BAR0, 4, &[0; 4]);
    let _ = client.dma_map(0x1000, 0x1000, DmaAccess::all(), Some((fd.as_fd(), 0)));
    let _ = client.dma_unmap(0x1000, 0x1000);
    let _ = client.reset();
}

/// A device that checks what the server promises it.
#[derive(Default)]
struct Checked {
    connected: AtomicU32,
    disconnected: AtomicU32,
    windows: Mutex<Vec<DmaWindow>>,
    eventfds: Mutex<Vec<OwnedFd>>,
}

fn size(index: u32) -> u64 {
    match index {
        region::BAR0 => BAR_SIZE,
        region::CONFIG => CONFIG_SIZE,
        _ => 0,
    }
}

fn check_range(index: u32, offset: u64, len: usize) {
    assert!(index < region::COUNT);
    let end = offset
        .checked_add(len as u64)
        .expect("an access that wraps");
    assert!(
        end <= size(index),
        "access {offset:#x}+{len:#x} beyond region {index}"
    );
}

impl Device for Checked {
    fn connected(&self, _dma: Arc<dyn DmaClient>) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    fn disconnected(&self) {
        self.disconnected.fetch_add(1, Ordering::Relaxed);
        self.dma_unmap_all();
        self.eventfds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn region(&self, index: u32) -> Region {
        assert!(index < region::COUNT);
        match size(index) {
            0 => Region::absent(),
            size => Region {
                flags: RegionFlags::READ | RegionFlags::WRITE,
                ..Region::trapped(size)
            },
        }
    }

    fn irq(&self, index: u32) -> Irq {
        assert!(index < irq::COUNT);
        let count = if index == irq::MSIX { VECTORS } else { 0 };
        Irq {
            flags: IrqFlags::EVENTFD,
            count,
        }
    }

    fn region_read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        check_range(index, offset, data.len());
        data.fill(0x5A);
        Ok(())
    }

    fn region_write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        check_range(index, offset, data.len());
        Ok(())
    }

    fn dma_map(&self, window: DmaWindow) -> Result<(), Errno> {
        assert!(window.iova.checked_add(window.size).is_some());
        assert!(!window.access.is_empty());
        if let Some((_, offset)) = &window.file {
            assert!(offset.checked_add(window.size).is_some());
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= 64 {
            return Err(Errno::ENOSPC);
        }
        windows.push(window);
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), Errno> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let before = windows.len();
        windows.retain(|window| (window.iova, window.size) != (iova, size));
        if windows.len() < before {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }

    fn dma_unmap_all(&self) {
        self.windows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn set_irqs(&self, index: u32, start: u32, action: IrqAction) -> Result<(), Errno> {
        assert!(index < irq::COUNT);
        let count = match action {
            IrqAction::SetEventfds(fds) => {
                let count = fds.len();
                self.eventfds
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(fds.into_iter().flatten());
                count
            }
            IrqAction::Disable => 0,
            IrqAction::Trigger(which) | IrqAction::Mask(which) | IrqAction::Unmask(which) => {
                which.len()
            }
            IrqAction::SetUnmaskEventfd(_) | IrqAction::SetMaskEventfd(_) => 1,
        };
        let vectors = self.irq(index).count as usize;
        assert!(
            start as usize + count <= vectors,
            "vectors {start}+{count} of index {index}"
        );
        Ok(())
    }

    fn reset(&self) {}
}
