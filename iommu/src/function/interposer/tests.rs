use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use super::super::{DmaAccess, DmaHandler, DmaReply, Function, FunctionError, Irq, Region};
use super::{Interposer, WriteKind};
use crate::interrupt::EventFd;

/// A function that does nothing but to note how it was called, and refuses under the name of that.
struct Noting {
    calls: Mutex<Vec<String>>,
    lost_event: EventFd,
}

impl Noting {
    fn new() -> Self {
        Self {
            calls: Mutex::default(),
            lost_event: EventFd::new().expect("an eventfd"),
        }
    }

    fn note(&self, operation: &'static str, arguments: impl Debug) -> FunctionError {
        let call = format!("{operation} {arguments:?}");
        self.calls.lock().expect("no panics here").push(call);
        FunctionError::Refused {
            operation,
            errno: Errno::EINVAL,
        }
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().expect("no panics here"))
    }
}

fn raw(fd: Option<BorrowedFd<'_>>) -> Option<i32> {
    fd.map(|fd| fd.as_raw_fd())
}

impl Function for Noting {
    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        Err(self.note("region", index))
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        data.fill(0x5A);
        Err(self.note("read", (region, offset, data.len())))
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        Err(self.note("write", (region, offset, data)))
    }

    fn post(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        Err(self.note("post", (region, offset, data)))
    }

    fn irq(&self, index: u32) -> Result<Irq, FunctionError> {
        Err(self.note("irq", index))
    }

    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        let fds: Vec<_> = fds.iter().map(|fd| raw(*fd)).collect();
        Err(self.note("set_eventfds", (index, start, fds)))
    }

    fn disable_irqs(&self, index: u32) -> Result<(), FunctionError> {
        Err(self.note("disable_irqs", index))
    }

    fn trigger_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        Err(self.note("trigger_irqs", (index, start, vectors)))
    }

    fn mask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        Err(self.note("mask_irqs", (index, start, vectors)))
    }

    fn unmask_irqs(&self, index: u32, start: u32, vectors: &[bool]) -> Result<(), FunctionError> {
        Err(self.note("unmask_irqs", (index, start, vectors)))
    }

    fn set_unmask_eventfd(
        &self,
        index: u32,
        vector: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError> {
        Err(self.note("set_unmask_eventfd", (index, vector, raw(fd))))
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        let file = file.map(|(fd, offset)| (fd.as_raw_fd(), offset));
        Err(self.note("dma_map", (iova, size, access, file)))
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), FunctionError> {
        Err(self.note("dma_unmap", (iova, size)))
    }

    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        Err(self.note("dma_unmap_all", ()))
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.note("iova_ranges", ());
        vec![3..=4, 7..=9]
    }

    fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>) {
        self.note("set_dma_handler", Arc::as_ptr(&handler).cast::<()>());
    }

    fn reset(&self) -> Result<(), FunctionError> {
        Err(self.note("reset", ()))
    }

    fn sriov_configure(&self, num_vfs: u16) -> Result<(), FunctionError> {
        Err(self.note("sriov_configure", num_vfs))
    }

    fn lost(&self) -> bool {
        self.note("lost", ());
        true
    }

    fn lost_event(&self) -> BorrowedFd<'_> {
        self.note("lost_event", ());
        self.lost_event.as_fd()
    }
}

struct Deaf;

impl DmaHandler for Deaf {
    fn dma_read(&self, _: u64, _: usize, _: DmaReply) {}
    fn dma_write(&self, _: u64, _: &[u8], _: DmaReply) {}
}

/// Calls every method once; what came of it.
fn call_all(function: &dyn Function, fd: BorrowedFd<'_>, handler: &Arc<dyn DmaHandler>) -> String {
    let mut data = [0; 4];
    function.set_dma_handler(Arc::clone(handler));
    let answers = (
        function.region(1).err(),
        function.read(2, 3, &mut data),
        function.write(4, 5, &[6]),
        function.post(7, 8, &[9]),
        function.irq(10).err(),
        function.set_eventfds(11, 12, &[Some(fd), None]),
        function.disable_irqs(13),
        function.trigger_irqs(14, 15, &[true]),
        function.mask_irqs(16, 17, &[false]),
        function.unmask_irqs(18, 19, &[true, false]),
    );
    let more = (
        function.set_unmask_eventfd(20, 21, Some(fd)),
        function.dma_map(22, 23, DmaAccess::READ, Some((fd, 24))),
        function.dma_unmap(25, 26),
        function.dma_unmap_all(),
        function.iova_ranges(),
        function.reset(),
        function.sriov_configure(27),
        function.lost(),
        function.lost_event().as_raw_fd(),
    );
    format!("{data:?} {answers:?} {more:?}")
}

/// The methods of [`Function`], as they are written.
fn methods() -> Vec<&'static str> {
    let source = include_str!("../../function.rs");
    let (_, after) = source
        .split_once("pub trait Function: ")
        .expect("the trait is in here");
    let (body, _) = after.split_once("\n}\n").expect("its end");
    body.lines()
        .filter_map(|line| line.strip_prefix("    fn ")?.split('(').next())
        .collect()
}

/// Overrides nothing.
struct Transparent(Noting);

impl Interposer for Transparent {
    fn inner(&self) -> &dyn Function {
        &self.0
    }
}

#[test]
fn every_method_reaches_the_function_behind() {
    let through = Transparent(Noting::new());
    let fd = EventFd::new().expect("an eventfd");
    let handler: Arc<dyn DmaHandler> = Arc::new(Deaf);
    let answers = call_all(&through, fd.as_fd(), &handler);
    let calls = through.0.taken();
    assert_eq!(answers, call_all(&through.0, fd.as_fd(), &handler));
    assert_eq!(calls, through.0.taken());

    let mut called: Vec<_> = calls.iter().map(|call| call.split(' ').next()).collect();
    let mut all: Vec<_> = methods().into_iter().map(Some).collect();
    called.sort_unstable();
    all.sort_unstable();
    assert_eq!(called, all, "each method once");
}

/// Lets no write to region 0 through.
struct ReadOnly(Noting);

impl Interposer for ReadOnly {
    fn inner(&self) -> &dyn Function {
        &self.0
    }

    fn write(
        &self,
        kind: WriteKind,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FunctionError> {
        if region == 0 {
            return Ok(());
        }
        kind.pass(self.inner(), region, offset, data)
    }
}

#[test]
fn a_posted_write_does_not_pass_by_and_stays_posted() {
    let function = ReadOnly(Noting::new());
    let driver: &dyn Function = &function;
    driver.write(0, 0, &[1]).expect("swallowed");
    driver.post(0, 0, &[1]).expect("swallowed");
    assert!(function.0.taken().is_empty());
    for refused in [driver.post(1, 2, &[3]), driver.write(1, 2, &[3])] {
        assert!(matches!(refused, Err(FunctionError::Refused { .. })));
    }
    assert_eq!(
        function.0.taken(),
        ["post (1, 2, [3])", "write (1, 2, [3])"]
    );
}
