//! A device with one register region, a mappable page, interrupts, DMA and an SR-IOV capability.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use iommu::address_space::{AddressSpace, Quota};
use iommu::backend::{InProcess, VfioUser};
use iommu::function::Function;
use iommu::interrupt::EventFd;
use iommu::memory::SharedMemory;
use iommu::pci::Rid;
use nix::errno::Errno;
use vfio_user::client::{Client, ClientOptions};
use vfio_user::device::{
    Device, DmaClient, DmaWindow, Irq, IrqAction, IrqFlags, Region, RegionFlags, SparseArea, irq,
    region,
};
use vfio_user::server::{ServerOptions, Stop, serve_connection};

pub(crate) const BAR_SIZE: u64 = 0x4000;
/// The page of BAR0 that can be mapped.
pub(crate) const SHARED_PAGE: u64 = 0x2000;
pub(crate) const VECTORS: u32 = 3;
/// Where the capabilities are: an AER-like one, then SR-IOV.
pub(crate) const FIRST_CAPABILITY: usize = 0x100;
pub(crate) const SRIOV: usize = 0x160;
pub(crate) const TOTAL_VFS: u16 = 7;

/// Writing here makes the device read 8 bytes at the written IOVA and write them 8 further.
pub(crate) const DOUBLE: u64 = 0x10;

pub(crate) struct TestDevice {
    pub(crate) space: AddressSpace,
    pub(crate) config: Mutex<Vec<u8>>,
    /// Writes to configuration space: offset and data.
    pub(crate) config_writes: Mutex<Vec<(u64, Vec<u8>)>>,
    bar: Mutex<Vec<u8>>,
    pub(crate) page: SharedMemory,
    vectors: Mutex<Vec<Option<EventFd>>>,
    pub(crate) irq_log: Mutex<Vec<String>>,
    /// What the device answers to the next maps, if not what its address space says.
    pub(crate) refuse_maps: Mutex<Option<Errno>>,
    pub(crate) refuse_unmaps: AtomicBool,
    pub(crate) resets: AtomicUsize,
    pub(crate) connects: AtomicUsize,
    pub(crate) disconnects: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TestDevice {
    pub(crate) fn new() -> Arc<Self> {
        let mut config = vec![0; 0x1000];
        let header = |id: u32, next: usize| (id | 1 << 16 | (next as u32) << 20).to_le_bytes();
        config[FIRST_CAPABILITY..][..4].copy_from_slice(&header(1, SRIOV));
        config[SRIOV..][..4].copy_from_slice(&header(0x10, 0));
        config[SRIOV + 0x0E..][..2].copy_from_slice(&TOTAL_VFS.to_le_bytes());
        let space = AddressSpace::new(Rid(0x0100), Quota::default());
        space.set_bus_master(true);
        Arc::new(Self {
            space,
            config: Mutex::new(config),
            config_writes: Mutex::default(),
            bar: Mutex::new(vec![0; BAR_SIZE as usize]),
            page: SharedMemory::create_sealed("page", BAR_SIZE as usize).expect("memory"),
            vectors: Mutex::new((0..VECTORS).map(|_| None).collect()),
            irq_log: Mutex::default(),
            refuse_maps: Mutex::default(),
            refuse_unmaps: AtomicBool::new(false),
            resets: AtomicUsize::new(0),
            connects: AtomicUsize::new(0),
            disconnects: AtomicUsize::new(0),
        })
    }

    /// DMA as a data path makes it, from a thread of its own.
    pub(crate) fn double(&self, iova: u64) -> Result<(), iommu::address_space::DmaFault> {
        let mut data = [0; 8];
        self.space.read(iova, &mut data)?;
        self.space.write(iova + 8, &data)
    }
}

impl Device for TestDevice {
    fn connected(&self, dma: Arc<dyn DmaClient>) {
        self.connects.fetch_add(1, Ordering::SeqCst);
        self.space.connect(dma);
    }

    fn disconnected(&self) {
        self.disconnects.fetch_add(1, Ordering::SeqCst);
        self.space.disconnect();
        lock(&self.vectors)
            .iter_mut()
            .for_each(|vector| *vector = None);
    }

    fn region(&self, index: u32) -> Region {
        match index {
            region::BAR0 => Region {
                flags: RegionFlags::all(),
                sparse: vec![SparseArea {
                    offset: SHARED_PAGE,
                    size: 0x1000,
                }],
                fd: Some(self.page.fd().try_clone_to_owned().expect("dup")),
                ..Region::trapped(BAR_SIZE)
            },
            region::CONFIG => Region::trapped(0x1000),
            // Read-only.
            region::ROM => Region {
                size: 0x800,
                flags: RegionFlags::READ,
                ..Region::absent()
            },
            _ => Region::absent(),
        }
    }

    fn irq(&self, index: u32) -> Irq {
        let flags = IrqFlags::EVENTFD | IrqFlags::MASKABLE;
        Irq {
            flags,
            count: if index == irq::MSIX { VECTORS } else { 0 },
        }
    }

    fn region_read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let at = offset as usize;
        match index {
            region::BAR0 => data.copy_from_slice(&lock(&self.bar)[at..][..data.len()]),
            region::CONFIG => data.copy_from_slice(&lock(&self.config)[at..][..data.len()]),
            _ => data.fill(0xFF),
        }
        Ok(())
    }

    fn region_write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let at = offset as usize;
        if index == region::CONFIG {
            lock(&self.config_writes).push((offset, data.to_vec()));
            lock(&self.config)[at..][..data.len()].copy_from_slice(data);
            return Ok(());
        }
        lock(&self.bar)[at..][..data.len()].copy_from_slice(data);
        if let (DOUBLE, Ok(iova)) = (offset, data.try_into()) {
            // Mapped memory only: a message would wait for the client, which waits for us.
            self.double(u64::from_le_bytes(iova))
                .map_err(|_| Errno::EFAULT)?;
        }
        Ok(())
    }

    fn dma_map(&self, window: DmaWindow) -> Result<(), Errno> {
        if let Some(errno) = *lock(&self.refuse_maps) {
            return Err(errno);
        }
        self.space.map(window)
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), Errno> {
        if self.refuse_unmaps.load(Ordering::SeqCst) {
            return Err(Errno::EBUSY);
        }
        self.space.unmap(iova, size)
    }

    fn dma_unmap_all(&self) {
        self.space.unmap_all();
    }

    fn set_irqs(&self, index: u32, start: u32, action: IrqAction) -> Result<(), Errno> {
        assert_eq!(index, irq::MSIX, "bounded before it comes here");
        let mut vectors = lock(&self.vectors);
        let from = &mut vectors[start as usize..];
        lock(&self.irq_log).push(match action {
            IrqAction::SetEventfds(fds) => {
                let log = format!("eventfds {start}+{}", fds.len());
                for (vector, fd) in from[..fds.len()].iter_mut().zip(fds) {
                    let event = fd.map(EventFd::from_peer).transpose();
                    *vector = event.map_err(|_| Errno::EINVAL)?;
                }
                log
            }
            IrqAction::Disable => {
                from.iter_mut().for_each(|vector| *vector = None);
                "disable".into()
            }
            IrqAction::Trigger(which) => {
                for (vector, _) in from.iter().zip(&which).filter(|&(_, &fires)| fires) {
                    vector.as_ref().ok_or(Errno::EINVAL)?.signal();
                }
                format!("trigger {start} {which:?}")
            }
            IrqAction::Mask(which) => format!("mask {start} {which:?}"),
            IrqAction::Unmask(which) => format!("unmask {start} {which:?}"),
            IrqAction::SetUnmaskEventfd(fd) => format!("unmask event {start} {}", fd.is_some()),
            IrqAction::SetMaskEventfd(fd) => format!("mask event {start} {}", fd.is_some()),
        });
        Ok(())
    }

    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

/// A device, and a function that reaches it.
pub(crate) struct Connection {
    pub(crate) device: Arc<TestDevice>,
    pub(crate) function: Option<Arc<dyn Function>>,
    /// Ends the connection from the device's side.
    pub(crate) unplug: Box<dyn Fn()>,
    server: Option<JoinHandle<()>>,
}

impl Connection {
    pub(crate) fn in_process() -> Self {
        let device = TestDevice::new();
        let function = Arc::new(InProcess::new(device.clone()).expect("function"));
        let unplug = Box::new({
            let function = Arc::downgrade(&function);
            move || {
                if let Some(function) = function.upgrade() {
                    function.remove();
                }
            }
        });
        Self {
            device,
            function: Some(function),
            unplug,
            server: None,
        }
    }

    pub(crate) fn over_a_socket() -> Self {
        let device = TestDevice::new();
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        let stop = Stop::new().expect("stop");
        let server = {
            let (device, stop) = (device.clone() as Arc<dyn Device>, stop.clone());
            std::thread::spawn(move || {
                serve_connection(theirs, &device, &stop, &ServerOptions::default())
                    .expect("orderly");
            })
        };
        let client = Client::from_stream(ours, ClientOptions::default()).expect("client");
        Self {
            device,
            function: Some(Arc::new(VfioUser::new(client))),
            unplug: Box::new(move || stop.raise()),
            server: Some(server),
        }
    }

    pub(crate) fn function(&self) -> &Arc<dyn Function> {
        self.function.as_ref().expect("not given back yet")
    }

    /// Drop the function and wait until the device knows.
    pub(crate) fn finish(mut self) -> Arc<TestDevice> {
        self.function = None;
        if let Some(server) = self.server.take() {
            server.join().expect("server");
        }
        self.device
    }
}
