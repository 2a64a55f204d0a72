//! A device that records what it is asked to do, and ways to serve it.

// Each test binary uses a part of this.
#![allow(
    dead_code,
    reason = "shared by several test binaries, each of which uses a part"
)]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vfio_user::client::{Client, ClientOptions};
use vfio_user::device::{
    Device, DmaAccess, DmaClient, DmaWindow, Irq, IrqAction, IrqFlags, Region, RegionFlags,
    SparseArea, irq, region,
};
use vfio_user::server::{Ended, Error, ServerOptions, Stop, serve_connection};

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const BAR0_SIZE: u64 = 0x4000;
pub(crate) const SPARSE: SparseArea = SparseArea {
    offset: 0x2000,
    size: 0x1000,
};
pub(crate) const VECTORS: u32 = 40;
/// Reads and writes of this offset in BAR0 are refused.
pub(crate) const FAULTY: u64 = 0x3f00;
/// A read of this offset in BAR0 waits for [`Recorder::open_gate`].
pub(crate) const GATE: u64 = 0x3e00;

pub(crate) struct Recorder {
    bar0: Mutex<Vec<u8>>,
    pages: File,
    events: Sender<String>,
    dma: Mutex<Option<Arc<dyn DmaClient>>>,
    pub(crate) windows: Mutex<Vec<DmaWindow>>,
    pub(crate) eventfds: Mutex<Vec<OwnedFd>>,
    gate: (Mutex<bool>, Condvar),
    /// Called by dma_unmap before it returns.
    pub(crate) on_unmap: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

pub(crate) fn memfd(size: u64) -> File {
    let file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

impl Recorder {
    pub(crate) fn new() -> (Arc<Self>, Events) {
        let (events, receiver) = channel();
        let recorder = Arc::new(Self {
            bar0: Mutex::new(vec![0; BAR0_SIZE as usize]),
            pages: memfd(BAR0_SIZE),
            events,
            dma: Mutex::default(),
            windows: Mutex::default(),
            eventfds: Mutex::default(),
            gate: Default::default(),
            on_unmap: Mutex::default(),
        });
        (recorder, Events(receiver))
    }

    /// The client's memory, while one is connected.
    pub(crate) fn dma(&self) -> Arc<dyn DmaClient> {
        self.dma
            .lock()
            .unwrap()
            .clone()
            .expect("no client is connected")
    }

    pub(crate) fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    fn note(&self, event: impl Into<String>) {
        // The test may have stopped listening.
        let _ = self.events.send(event.into());
    }
}

pub(crate) struct Events(Receiver<String>);

impl Events {
    pub(crate) fn next(&self) -> String {
        self.0
            .recv_timeout(PATIENCE)
            .expect("the device was not called")
    }

    pub(crate) fn expect(&self, event: &str) {
        assert_eq!(self.next(), event);
    }

    /// Wait for `event`, passing over others.
    pub(crate) fn find(&self, event: &str) {
        while self.next() != event {}
    }

    pub(crate) fn assert_none(&self) {
        if let Ok(event) = self.0.try_recv() {
            panic!("unexpected call: {event}");
        }
    }
}

fn fds(list: &[Option<OwnedFd>]) -> String {
    list.iter()
        .map(|fd| if fd.is_some() { '+' } else { '-' })
        .collect()
}

fn flags(list: &[bool]) -> String {
    list.iter()
        .map(|&flag| if flag { '1' } else { '0' })
        .collect()
}

impl Device for Recorder {
    fn connected(&self, dma: Arc<dyn DmaClient>) {
        *self.dma.lock().unwrap() = Some(dma);
        self.note("connected");
    }

    fn disconnected(&self) {
        *self.dma.lock().unwrap() = None;
        self.windows.lock().unwrap().clear();
        self.eventfds.lock().unwrap().clear();
        self.note("disconnected");
    }

    fn region(&self, index: u32) -> Region {
        match index {
            region::BAR0 => Region {
                flags: RegionFlags::all(),
                sparse: vec![SPARSE],
                fd: Some(self.pages.as_fd().try_clone_to_owned().unwrap()),
                ..Region::trapped(BAR0_SIZE)
            },
            region::CONFIG => Region::trapped(4096),
            // Readable only.
            region::ROM => Region {
                flags: RegionFlags::READ,
                ..Region::trapped(2 << 20)
            },
            _ => Region::absent(),
        }
    }

    fn irq(&self, index: u32) -> Irq {
        let (flags, count) = match index {
            irq::INTX => (
                IrqFlags::EVENTFD | IrqFlags::MASKABLE | IrqFlags::AUTOMASKED,
                1,
            ),
            irq::MSIX => (IrqFlags::EVENTFD | IrqFlags::NORESIZE, VECTORS),
            irq::ERR => (IrqFlags::EVENTFD, 1),
            _ => (IrqFlags::empty(), 0),
        };
        Irq { flags, count }
    }

    fn region_read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        if index != region::BAR0 {
            data.fill(0xa5);
            return Ok(());
        }
        if offset == FAULTY {
            return Err(Errno::EIO);
        }
        if offset == GATE {
            self.note("gate");
            let mut open = self.gate.0.lock().unwrap();
            while !*open {
                let (guard, timeout) = self.gate.1.wait_timeout(open, PATIENCE).unwrap();
                assert!(!timeout.timed_out(), "nobody opened the gate");
                open = guard;
            }
        }
        let from = offset as usize;
        data.copy_from_slice(&self.bar0.lock().unwrap()[from..from + data.len()]);
        Ok(())
    }

    fn region_write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if index == region::BAR0 && offset == FAULTY {
            return Err(Errno::EIO);
        }
        if index == region::BAR0 {
            let from = offset as usize;
            self.bar0.lock().unwrap()[from..from + data.len()].copy_from_slice(data);
        }
        Ok(())
    }

    fn dma_map(&self, window: DmaWindow) -> Result<(), Errno> {
        let file = match &window.file {
            Some((fd, offset)) => {
                let mut byte = [0];
                let file = File::from(fd.try_clone().unwrap());
                file.read_at(&mut byte, *offset).map_err(|_| Errno::EIO)?;
                format!("file@{offset:#x}={}", byte[0])
            }
            None => "none".into(),
        };
        let mut access = String::new();
        for (flag, letter) in [(DmaAccess::READ, 'r'), (DmaAccess::WRITE, 'w')] {
            access.push(if window.access.contains(flag) {
                letter
            } else {
                '-'
            });
        }
        self.note(format!(
            "map {:#x}+{:#x} {access} {file}",
            window.iova, window.size
        ));
        self.windows.lock().unwrap().push(window);
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), Errno> {
        self.note(format!("unmap {iova:#x}+{size:#x}"));
        if let Some(on_unmap) = &mut *self.on_unmap.lock().unwrap() {
            on_unmap();
        }
        let mut windows = self.windows.lock().unwrap();
        let before = windows.len();
        windows.retain(|window| (window.iova, window.size) != (iova, size));
        if windows.len() < before {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }

    fn dma_unmap_all(&self) {
        self.windows.lock().unwrap().clear();
        self.note("unmap all");
    }

    fn set_irqs(&self, index: u32, start: u32, action: IrqAction) -> Result<(), Errno> {
        let action = match action {
            IrqAction::SetEventfds(list) => {
                let text = format!("eventfds {}", fds(&list));
                self.eventfds
                    .lock()
                    .unwrap()
                    .extend(list.into_iter().flatten());
                text
            }
            IrqAction::Disable => "disable".into(),
            IrqAction::Trigger(which) => format!("trigger {}", flags(&which)),
            IrqAction::Mask(which) => format!("mask {}", flags(&which)),
            IrqAction::Unmask(which) => format!("unmask {}", flags(&which)),
            IrqAction::SetUnmaskEventfd(fd) => format!("unmask-fd {}", fds(&[fd])),
            IrqAction::SetMaskEventfd(fd) => format!("mask-fd {}", fds(&[fd])),
        };
        self.note(format!("irq {index}.{start} {action}"));
        Ok(())
    }

    fn reset(&self) {
        self.note("reset");
    }
}

/// A device that is being served on one end of a socket pair.
pub(crate) struct Served {
    pub(crate) device: Arc<Recorder>,
    pub(crate) events: Events,
    pub(crate) stop: Stop,
    server: Option<JoinHandle<Result<Ended, Error>>>,
}

impl Served {
    pub(crate) fn start() -> (Self, UnixStream) {
        Self::start_with(ServerOptions::default())
    }

    pub(crate) fn start_with(options: ServerOptions) -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (device, events) = Recorder::new();
        let stop = Stop::new().unwrap();
        let server = {
            let (device, stop) = (Arc::clone(&device) as Arc<dyn Device>, stop.clone());
            std::thread::spawn(move || serve_connection(ours, &device, &stop, &options))
        };
        (
            Self {
                device,
                events,
                stop,
                server: Some(server),
            },
            theirs,
        )
    }

    /// How the connection ended.
    pub(crate) fn ended(&mut self) -> Result<Ended, Error> {
        self.server
            .take()
            .expect("asked twice")
            .join()
            .expect("the server panicked")
    }
}

/// A served device with a client of ours.
pub(crate) fn connect() -> (Served, Client) {
    connect_with(ServerOptions::default(), ClientOptions::default())
}

pub(crate) fn connect_with(server: ServerOptions, client: ClientOptions) -> (Served, Client) {
    let (served, stream) = Served::start_with(server);
    let client = Client::from_stream(stream, client).expect("no agreement on the version");
    served.events.expect("connected");
    (served, client)
}

/// A peer that speaks bytes.
pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, id: u16, command: u16, flags: u32, body: &[u8]) {
        let message = message(id, command, flags, body);
        self.0
            .write_all(&message)
            .expect("the server does not take the message");
    }

    /// The next message: id, command, flags, errno, body.
    pub(crate) fn receive(&mut self) -> (u16, u16, u32, u32, Vec<u8>) {
        use std::io::Read;
        let mut header = [0; 16];
        self.0.read_exact(&mut header).expect("no reply");
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_ne_bytes(header[at..at + 2].try_into().unwrap());
        let mut body = vec![0; word(4) as usize - 16];
        self.0
            .read_exact(&mut body)
            .expect("the reply is cut short");
        (half(0), half(2), word(8), word(12), body)
    }

    /// VERSION as QEMU says it.
    pub(crate) fn version(&mut self) {
        self.send(1, 1, 0, &version_body(QEMU_CAPS));
        let (id, command, flags, errno, _) = self.receive();
        assert_eq!((id, command, flags, errno), (1, 1, 1, 0));
    }
}

/// 194 bytes, with the NUL.
pub(crate) const QEMU_CAPS: &[u8] =
    b"{\"capabilities\": {\"migration\": {\"max_bitmap_size\": 268435456, \
\"pgsize\": 4096}, \"max_msg_fds\": 16, \"max_data_xfer_size\": 1048576, \"max_dma_maps\": 65535, \
\"pgsizes\": 4096, \"write_multiple\": true}}\0";

pub(crate) fn version_body(text: &[u8]) -> Vec<u8> {
    [&[0; 4], text].concat()
}

pub(crate) fn message(id: u16, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend_from_slice(&id.to_ne_bytes());
    message.extend_from_slice(&command.to_ne_bytes());
    message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(body);
    message
}
