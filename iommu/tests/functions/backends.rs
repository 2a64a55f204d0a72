//! The same function over every backend: drivers must not see a difference.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use iommu::address_space::FaultCause;
use iommu::function::{Function, FunctionError};
use iommu::interrupt::{EventFd, InterruptSet};
use iommu::memory::{MapAccess, SharedMemory};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vfio_user::client::{DmaHandler, DmaReply};
use vfio_user::device::{DmaAccess, RegionFlags, irq, region};

use crate::device::{
    BAR_SIZE, Connection, DOUBLE, FIRST_CAPABILITY, SHARED_PAGE, SRIOV, TOTAL_VFS, VECTORS,
};

const RW: DmaAccess = DmaAccess::READ.union(DmaAccess::WRITE);

/// Each body runs over each backend.
macro_rules! over_every_backend {
    ($($name:ident,)*) => {
        mod in_process {
            $(#[test] fn $name() { super::$name(crate::device::Connection::in_process()); })*
        }
        mod over_a_socket {
            $(#[test] fn $name() { super::$name(crate::device::Connection::over_a_socket()); })*
        }
    };
}

over_every_backend! {
    regions_are_read_and_written,
    what_does_not_exist_is_refused,
    a_shared_page_is_mapped,
    interrupts_reach_their_eventfds,
    the_device_reaches_mapped_memory,
    the_device_reaches_other_memory_by_message,
    closing_a_window_does_not_wait_for_a_message,
    vfs_are_enabled_through_the_capability,
    the_walk_through_capabilities_ends,
    a_device_that_goes_is_lost,
    the_device_learns_that_its_client_has_gone,
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, FunctionError>, expected: Errno) {
    match result {
        Err(FunctionError::Refused { errno, .. }) if errno == expected => {}
        other => panic!("not refused with {expected} but {other:?}"),
    }
}

fn regions_are_read_and_written(connection: Connection) {
    let function = connection.function();
    function
        .write(region::BAR0, 0x100, &[1, 2, 3, 4])
        .expect("write");
    function.post(region::BAR0, 0x102, &[9]).expect("post");
    let mut data = [0; 6];
    function.read(region::BAR0, 0xFF, &mut data).expect("read");
    assert_eq!(
        data,
        [0, 1, 2, 9, 4, 0],
        "a posted write is in order with the read after it"
    );
    function
        .read(region::ROM, 0x7FC, &mut data[..4])
        .expect("read");
    function
        .read(region::CONFIG, 0x100, &mut data[..4])
        .expect("read");
    assert_eq!(data[0], 1);
    function.reset().expect("reset");
    assert_eq!(connection.device.resets.load(Ordering::SeqCst), 1);
}

fn what_does_not_exist_is_refused(connection: Connection) {
    let function = connection.function();
    let mut data = [0; 4];
    for (index, offset) in [
        (region::BAR0, BAR_SIZE - 3),
        (region::BAR0, u64::MAX),
        (region::BAR0, u64::MAX - 4),
        (region::VGA, 0),
        (region::COUNT, 0),
        (u32::MAX, 0),
    ] {
        is_refused(function.read(index, offset, &mut data), Errno::EINVAL);
        is_refused(function.write(index, offset, &data), Errno::EINVAL);
    }
    is_refused(function.write(region::ROM, 0, &data), Errno::EINVAL);
    is_refused(function.region(region::COUNT), Errno::EINVAL);
    is_refused(function.irq(irq::COUNT), Errno::EINVAL);

    let event = EventFd::new().expect("eventfd");
    let fd = Some(event.as_fd());
    is_refused(
        function.set_eventfds(irq::MSIX, VECTORS, &[fd]),
        Errno::EINVAL,
    );
    is_refused(function.set_eventfds(irq::MSIX, 1, &[fd; 3]), Errno::EINVAL);
    is_refused(function.set_eventfds(irq::MSI, 0, &[fd]), Errno::EINVAL);
    is_refused(function.trigger_irqs(irq::COUNT, 0, &[true]), Errno::EINVAL);
    is_refused(
        function.mask_irqs(irq::MSIX, u32::MAX, &[true]),
        Errno::EINVAL,
    );
    assert_eq!(*connection.device.irq_log.lock().unwrap(), [""; 0]);

    is_refused(function.dma_map(0x1000, 0, RW, None), Errno::EINVAL);
    is_refused(function.dma_map(0x1000, u64::MAX, RW, None), Errno::EINVAL);
    is_refused(
        function.dma_map(0x1000, 0x1000, DmaAccess::empty(), None),
        Errno::EINVAL,
    );
    let page = connection.device.page.fd();
    is_refused(
        function.dma_map(0x1000, 0x1000, RW, Some((page, u64::MAX))),
        Errno::EINVAL,
    );
    is_refused(
        function.dma_map(0xFEE0_0000, 0x1000, RW, None),
        Errno::EINVAL,
    );
    function
        .dma_unmap(0x1000, 0x1000)
        .expect("nothing to close");
    function.dma_map(0x1000, 0x1000, RW, None).expect("map");
    is_refused(function.dma_unmap(0x1000, 0x800), Errno::EINVAL);
    is_refused(function.dma_map(0x1800, 0x1000, RW, None), Errno::EEXIST);
    assert_eq!(connection.device.space.usage().windows, 1);
}

fn a_shared_page_is_mapped(connection: Connection) {
    let bar = connection.function().region(region::BAR0).expect("region");
    assert!(bar.flags.contains(RegionFlags::MMAP));
    let [area] = bar.sparse[..] else {
        panic!("one area")
    };
    assert_eq!(area.offset, SHARED_PAGE);
    let offset = bar.fd_offset + area.offset;
    let size = area.size as usize;
    let page = SharedMemory::map(bar.fd.expect("fd"), offset, size, MapAccess::ReadWrite);
    page.expect("map").store_u32(0x18, 77, Ordering::Release);
    assert_eq!(
        connection
            .device
            .page
            .load_u32(SHARED_PAGE as usize + 0x18, Ordering::Acquire),
        77
    );
}

fn interrupts_reach_their_eventfds(connection: Connection) {
    let function = connection.function();
    let set = InterruptSet::new(VECTORS as usize).expect("set");
    assert_eq!(function.irq(irq::MSIX).expect("irq").count, VECTORS);
    function
        .set_eventfds(irq::MSIX, 0, &set.eventfds())
        .expect("eventfds");
    function
        .trigger_irqs(irq::MSIX, 0, &[true, false, true])
        .expect("trigger");
    assert_eq!(set.wait(None).expect("wait").vectors, 0b101);
    // One is taken away, the others stay.
    function
        .set_eventfds(irq::MSIX, 2, &[None])
        .expect("eventfds");
    is_refused(function.trigger_irqs(irq::MSIX, 2, &[true]), Errno::EINVAL);
    function
        .trigger_irqs(irq::MSIX, 1, &[true])
        .expect("trigger");
    assert_eq!(set.wait(None).expect("wait").vectors, 0b010);
    function
        .mask_irqs(irq::MSIX, 1, &[true, false])
        .expect("mask");
    function.unmask_irqs(irq::MSIX, 1, &[true]).expect("unmask");
    let event = EventFd::new().expect("eventfd");
    function
        .set_unmask_eventfd(irq::MSIX, 1, Some(event.as_fd()))
        .expect("unmask event");
    function.disable_irqs(irq::MSIX).expect("disable");
    is_refused(function.trigger_irqs(irq::MSIX, 0, &[true]), Errno::EINVAL);
    let log = connection.device.irq_log.lock().unwrap();
    for entry in [
        "mask 1 [true, false]",
        "unmask 1 [true]",
        "unmask event 1 true",
        "disable",
    ] {
        assert!(
            log.iter().any(|logged| logged == entry),
            "{entry} in {log:?}"
        );
    }
}

fn the_device_reaches_mapped_memory(connection: Connection) {
    let function = connection.function();
    let memory = SharedMemory::create_sealed("driver", 0x2000).expect("memory");
    function
        .dma_map(0x8000, 0x1000, RW, Some((memory.fd(), 0x1000)))
        .expect("map");
    memory.write(0x1100, b"8 bytes!");
    function
        .write(region::BAR0, DOUBLE, &0x8100_u64.to_le_bytes())
        .expect("DMA");
    let mut data = [0; 16];
    memory.read(0x1100, &mut data);
    assert_eq!(&data, b"8 bytes!8 bytes!");
    function.dma_unmap(0x8000, 0x1000).expect("unmap");
    is_refused(
        function.write(region::BAR0, DOUBLE, &0x8100_u64.to_le_bytes()),
        Errno::EFAULT,
    );
    assert_eq!(connection.device.space.faults(FaultCause::NoWindow), 1);
    function
        .dma_map(0x8000, 0x1000, RW, Some((memory.fd(), 0)))
        .expect("map");
    function.dma_map(0x9000, 0x1000, RW, None).expect("map");
    function.dma_unmap_all().expect("unmap all");
    assert_eq!(connection.device.space.usage().windows, 0);
}

/// Keeps its memory to itself, and answers or keeps the replies.
struct Handler {
    memory: SharedMemory,
    keep: Option<mpsc::Sender<DmaReply>>,
}

impl DmaHandler for Handler {
    fn dma_read(&self, iova: u64, len: usize, reply: DmaReply) {
        if let Some(keep) = &self.keep {
            keep.send(reply).expect("kept");
        } else if iova == 0x8FF0 {
            reply.error(Errno::EPERM);
        } else {
            let mut data = vec![0; len];
            self.memory.read((iova - 0x8000) as usize, &mut data);
            reply.data(&data);
        }
    }

    fn dma_write(&self, iova: u64, data: &[u8], reply: DmaReply) {
        self.memory.write((iova - 0x8000) as usize, data);
        reply.done();
    }
}

fn handler(keep: Option<mpsc::Sender<DmaReply>>) -> Arc<Handler> {
    let memory = SharedMemory::create_sealed("private", 0x1000).expect("memory");
    Arc::new(Handler { memory, keep })
}

fn the_device_reaches_other_memory_by_message(connection: Connection) {
    let (function, device) = (connection.function(), &connection.device);
    function.dma_map(0x8000, 0x1000, RW, None).expect("map");
    let fault = device.double(0x8100).expect_err("nobody answers");
    assert_eq!(fault.cause, FaultCause::Io);
    let handler = handler(None);
    function.set_dma_handler(handler.clone());
    handler.memory.write(0x100, b"8 bytes!");
    device.double(0x8100).expect("answered");
    let mut data = [0; 16];
    handler.memory.read(0x100, &mut data);
    assert_eq!(&data, b"8 bytes!8 bytes!");
    assert_eq!(
        device.double(0x8FF0).expect_err("refused").cause,
        FaultCause::Io
    );
}

fn closing_a_window_does_not_wait_for_a_message(connection: Connection) {
    let (function, device) = (connection.function().clone(), &connection.device);
    let (keep, kept) = mpsc::channel();
    function.set_dma_handler(handler(Some(keep)));
    function.dma_map(0x8000, 0x1000, RW, None).expect("map");
    let worker = {
        let device = device.clone();
        std::thread::spawn(move || device.double(0x8100).expect_err("cancelled"))
    };
    let reply = kept.recv().expect("asked");
    function.dma_unmap(0x8000, 0x1000).expect("unmap");
    assert_eq!(worker.join().expect("worker").cause, FaultCause::Cancelled);
    // Too late, and no harm.
    reply.data(&[0; 8]);
    function
        .read(region::BAR0, 0, &mut [0; 4])
        .expect("the connection goes on");
}

fn vfs_are_enabled_through_the_capability(connection: Connection) {
    let (function, device) = (connection.function(), &connection.device);
    let word = |offset: usize| {
        let config = device.config.lock().unwrap();
        u16::from_le_bytes([config[SRIOV + offset], config[SRIOV + offset + 1]])
    };
    // ARI Capable Hierarchy, which is not ours to change.
    device.config.lock().unwrap()[SRIOV + 8] = 1 << 4;
    function.sriov_configure(3).expect("enable");
    assert_eq!((word(0x10), word(0x08)), (3, 1 << 4 | 1 << 3 | 1));
    // NumVFs before VF Enable.
    let writes = std::mem::take(&mut *device.config_writes.lock().unwrap());
    let offsets: Vec<u64> = writes
        .iter()
        .map(|&(offset, _)| offset - SRIOV as u64)
        .collect();
    assert_eq!(offsets, [0x10, 0x08]);
    function.sriov_configure(3).expect("is so already");
    let other = function.sriov_configure(4);
    assert!(matches!(
        other,
        Err(FunctionError::VfsEnabled { enabled: 3 })
    ));

    function.sriov_configure(0).expect("disable");
    assert_eq!((word(0x10), word(0x08)), (0, 1 << 4));
    // VF Enable goes before anything else.
    let writes = std::mem::take(&mut *device.config_writes.lock().unwrap());
    assert_eq!(writes[0], (SRIOV as u64 + 8, vec![1 << 4 | 1 << 3, 0]));
    function.sriov_configure(0).expect("is so already");

    let more = function.sriov_configure(TOTAL_VFS + 1);
    assert!(matches!(
        more,
        Err(FunctionError::TooManyVfs {
            wanted: 8,
            total: 7
        })
    ));
    assert_eq!(word(0x08), 1 << 4);
}

fn the_walk_through_capabilities_ends(connection: Connection) {
    let (function, device) = (connection.function(), &connection.device);
    let no_sriov = || {
        let result = function.sriov_configure(1);
        assert!(matches!(result, Err(FunctionError::NoSriov)), "{result:?}");
    };
    let set = |at: usize, header: u32| {
        device.config.lock().unwrap()[at..][..4].copy_from_slice(&header.to_le_bytes());
    };
    // A list that bites its own tail, one that points into legacy space, none, nobody.
    set(SRIOV, 2 | 1 << 16 | (FIRST_CAPABILITY as u32) << 20);
    no_sriov();
    set(SRIOV, 2 | 1 << 16 | 0x040 << 20);
    no_sriov();
    set(SRIOV, 2 | 1 << 16 | 0xFFC << 20);
    no_sriov();
    set(FIRST_CAPABILITY, 0);
    no_sriov();
    set(FIRST_CAPABILITY, u32::MAX);
    no_sriov();
    // A capability that does not fit any more.
    set(FIRST_CAPABILITY, 2 | 1 << 16 | 0xFFC << 20);
    set(0xFFC, 0x10 | 1 << 16);
    is_refused(function.sriov_configure(1), Errno::EINVAL);
}

fn a_device_that_goes_is_lost(connection: Connection) {
    let function = connection.function();
    let readable = |timeout| {
        let mut fds = [PollFd::new(function.lost_event(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).expect("poll") == 1
    };
    assert!(!function.lost() && !readable(PollTimeout::ZERO));
    (connection.unplug)();
    assert!(readable(PollTimeout::NONE));
    assert!(readable(PollTimeout::ZERO), "and stays so");
    assert!(function.lost());
    let is_lost = |result: Result<(), FunctionError>| {
        assert!(matches!(result, Err(FunctionError::Lost)), "{result:?}");
    };
    is_lost(function.read(region::BAR0, 0, &mut [0; 4]));
    is_lost(function.write(region::BAR0, 0, &[0; 4]));
    is_lost(function.post(region::BAR0, 0, &[0; 4]));
    is_lost(function.region(region::BAR0).map(drop));
    is_lost(function.irq(irq::MSIX).map(drop));
    is_lost(function.disable_irqs(irq::MSIX));
    is_lost(function.dma_map(0x1000, 0x1000, RW, None));
    is_lost(function.dma_unmap(0x1000, 0x1000));
    is_lost(function.dma_unmap_all());
    is_lost(function.reset());
    is_lost(function.sriov_configure(0));
    let device = connection.finish();
    assert_eq!(device.disconnects.load(Ordering::SeqCst), 1);
}

fn the_device_learns_that_its_client_has_gone(connection: Connection) {
    let device = connection.device.clone();
    let function: &dyn Function = connection.function().as_ref();
    function
        .dma_map(0x8000, 0x1000, RW, Some((device.page.fd(), 0)))
        .expect("map");
    assert_eq!(device.connects.load(Ordering::SeqCst), 1);
    connection.finish();
    assert_eq!(device.disconnects.load(Ordering::SeqCst), 1);
    assert_eq!(device.space.usage(), Default::default());
}
