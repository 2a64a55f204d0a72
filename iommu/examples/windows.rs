//! Opens and closes DMA windows of a function: `windows cycles vfio:0000:BB:DD.F` ten thousand times,
//! looking for what is left behind, `windows limit vfio:0000:BB:DD.F` more of them than there can be,
//! and `windows files vfio:0000:BB:DD.F` of files of several kinds; `windows dirty
//! vfio:0000:BB:DD.F` asks which of their pages were written; `windows together
//! vfio:PF,vf_token=UUID vfio:VF,vf_token=UUID` has both in one container; `windows table
//! vfio:0000:BB:DD.F` looks for a way to the device's MSI-X table. Nothing else is asked of the device
//! itself but VFs.

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use iommu::backend::kernel::{DirtyError, Granularity, KernelPlace};
use iommu::backend::{KernelVfio, Place};
use iommu::container::{Container, ContainerOptions};
use iommu::function::{DmaAccess, Function, FunctionError};
use iommu::memory::{PAGE_SIZE, SharedMemory};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

const CYCLES: u32 = 10_000;
/// Windows open at a time.
const AT_ONCE: usize = 8;
/// More than any container has room for unless it was configured otherwise.
const TOO_MANY: u64 = 70_000;
const FIRST: u64 = 0x1000_0000;
/// Files that each have a window: more than `windows files` should be let have open.
const FILES: u64 = 1000;
const HUGE_PAGE: usize = 2 << 20;

/// A value of this process in the kernel's books, in kB.
fn used(name: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
    Ok(number.ok_or(format!("no {name}"))?.parse()?)
}

fn files() -> Result<usize, Box<dyn Error>> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

/// Mappings of this process.
fn mappings() -> Result<usize, Box<dyn Error>> {
    Ok(std::fs::read_to_string("/proc/self/maps")?.lines().count())
}

/// Opens and closes windows through a container, as the drivers do.
fn cycles(function: Arc<dyn Function>) -> Result<String, Box<dyn Error>> {
    let container = Container::new(ContainerOptions::default());
    container.attach(function)?;
    let some = |cycles: u32| -> Result<(), Box<dyn Error>> {
        for _ in 0..cycles / AT_ONCE as u32 {
            let mut open = Vec::new();
            for size in 1..=AT_ONCE {
                let memory = SharedMemory::create_sealed("window", size * PAGE_SIZE)?;
                open.push(container.share(memory, DmaAccess::READ | DmaAccess::WRITE)?);
            }
        }
        Ok(())
    };
    // What the first ones leave is the allocator's.
    some(CYCLES / 10)?;
    let before = (used("VmLck")?, files()?, used("VmRSS")?);
    some(CYCLES)?;
    let after = (used("VmLck")?, files()?, used("VmRSS")?);
    let grown = after.2.saturating_sub(before.2);
    let said = format!(
        "{CYCLES} windows: {} kB locked before, {} after; {} files before, {} after; {grown} kB more \
         in memory",
        before.0, after.0, before.1, after.1
    );
    if (before.0, before.1) != (after.0, after.1) || grown > 1024 {
        return Err(said.into());
    }
    Ok(said)
}

/// Opens windows until the kernel refuses one; then closes one, and opens it again.
fn limit(function: &dyn Function) -> Result<String, Box<dyn Error>> {
    let memory = SharedMemory::create_sealed("window", PAGE_SIZE)?;
    let page = PAGE_SIZE as u64;
    let open = |number: u64| {
        let at = FIRST + number * 2 * page;
        let file = (memory.fd(), memory.fd_offset());
        function.dma_map(at, page, DmaAccess::READ, Some(file))
    };
    let before = (files()?, mappings()?);
    let mut number = 0;
    let refused = loop {
        match open(number) {
            Ok(()) if number < TOO_MANY => number += 1,
            Ok(()) => return Err(format!("{number} windows, and no end").into()),
            Err(error) => break error,
        }
    };
    let said = refused.to_string();
    if !matches!(refused, FunctionError::Limit { .. }) || !said.contains("dma_entry_limit") {
        return Err(format!("window {number}: {said}").into());
    }
    let after = (files()?, mappings()?);
    // The allocator has a few more mappings, maybe.
    if after.0 != before.0 || after.1 > before.1 + 16 {
        return Err(
            format!("{number} windows: files and mappings were {before:?}, are {after:?}").into(),
        );
    }
    function.dma_unmap(FIRST, page)?;
    open(0).map_err(|error| format!("in the place of a closed one: {error}"))?;
    function.dma_unmap_all()?;
    open(number)?;
    Ok(format!(
        "after {number} windows: {said}; {} files and {} mappings before, {} and {} with them",
        before.0, before.1, after.0, after.1
    ))
}

/// A memory file that is sealed as asked.
fn memory_file(size: usize, huge: bool, seals: SealFlag) -> Result<OwnedFd, Box<dyn Error>> {
    let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    if huge {
        flags |= MFdFlags::MFD_HUGETLB;
    }
    let file = memfd_create("window", flags)?;
    ftruncate(&file, i64::try_from(size)?)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// Windows of many files, each closed at once; of a part of a huge page; and of files that are no
/// memory for a device.
fn of_files(function: &dyn Function) -> Result<String, Box<dyn Error>> {
    let page = PAGE_SIZE as u64;
    let sealed = SealFlag::F_SEAL_SHRINK;
    let access = DmaAccess::READ | DmaAccess::WRITE;
    let before = (files()?, mappings()?);
    for number in 0..FILES {
        let file = memory_file(PAGE_SIZE, false, sealed)?;
        let at = FIRST + number * 2 * page;
        function.dma_map(at, page, access, Some((file.as_fd(), 0)))?;
    }
    let after = (files()?, mappings()?);
    if after.0 != before.0 || after.1 > before.1 + 16 {
        return Err(format!("files and mappings were {before:?}, are {after:?}").into());
    }
    function.dma_unmap_all()?;
    let huge = memory_file(HUGE_PAGE, true, sealed)?;
    function
        .dma_map(FIRST, page, access, Some((huge.as_fd(), 3 * page)))
        .map_err(|error| format!("a part of a huge page: {error}"))?;
    function.dma_unmap_all()?;
    let loose = memory_file(PAGE_SIZE, false, SealFlag::empty())?;
    // Regular, and of no memory file system, whatever the root is.
    let other = std::fs::File::open("/proc/self/status")?;
    let mut refusals = Vec::new();
    for (file, mend) in [
        (loose.as_fd(), "F_SEAL_SHRINK"),
        (other.as_fd(), "memory files only"),
    ] {
        match function.dma_map(FIRST, page, DmaAccess::READ, Some((file, 0))) {
            Err(
                error @ FunctionError::Memory {
                    errno: Errno::EINVAL,
                    ..
                },
            ) if error.to_string().contains(mend) => refusals.push(error.to_string()),
            other => return Err(format!("a file that is none for {mend}: {other:?}").into()),
        }
    }
    Ok(format!(
        "{FILES} windows of as many files: {} files open and {} mappings before, {} and {} with \
         them; a part of a huge page too; {}",
        before.0,
        before.1,
        after.0,
        after.1,
        refusals.join("; ")
    ))
}

fn kernel_place(name: &str) -> Result<KernelPlace, Box<dyn Error>> {
    match name.parse()? {
        Place::Vfio(place) => Ok(place),
        _ => Err(format!("{name} is none of the kernel's VFIO").into()),
    }
}

/// Whether a step was refused as it should be; what was said.
fn refused<T>(
    step: &str,
    outcome: Result<T, DirtyError>,
    right: impl FnOnce(&DirtyError) -> bool,
) -> Result<String, Box<dyn Error>> {
    match outcome {
        Err(error) if right(&error) => Ok(error.to_string()),
        Err(error) => Err(format!("{step}: {error}").into()),
        Ok(_) => Err(format!("{step} was not refused").into()),
    }
}

/// Which pages were written, of windows that no device has touched.
fn dirty(place: &str) -> Result<String, Box<dyn Error>> {
    /// Pages of the two windows.
    const PAGES: [u64; 2] = [70, 3];
    let page = PAGE_SIZE as u64;
    let function = KernelVfio::open(&kernel_place(place)?)?;
    let second = FIRST + 100 * page;
    let open = |at: u64, pages: u64| -> Result<(), Box<dyn Error>> {
        let memory = SharedMemory::create_sealed("window", (pages * page).try_into()?)?;
        let access = DmaAccess::READ | DmaAccess::WRITE;
        Ok(function.dma_map(at, pages * page, access, Some((memory.fd(), 0)))?)
    };
    let both = 200 * page;
    open(FIRST, PAGES[0])?;
    let not_started = |error: &DirtyError| matches!(error, DirtyError::NotStarted);
    let early = refused("early", function.dirty_pages(FIRST, both), not_started)?;
    refused("early", function.dma_unmap_dirty(FIRST, both), not_started)?;
    refused("early", function.stop_dirty_tracking(), not_started)?;

    let offered = function.start_dirty_tracking()?;
    let twice = function.start_dirty_tracking();
    refused("a second start", twice, |error| {
        matches!(error, DirtyError::AlreadyStarted)
    })?;
    // One that is opened while pages are tracked is tracked too.
    open(second, PAGES[1])?;
    // Nothing was written: who sees that tells none.
    let expected = match offered.granularity {
        Granularity::EveryMappedPage => PAGES,
        Granularity::WrittenPages => [0, 0],
    };
    let mut told = Vec::new();
    for _ in 0..2 {
        let pages = function.dirty_pages(FIRST, both)?;
        let ranges: Vec<_> = pages.ranges().collect();
        let right = match offered.granularity {
            Granularity::EveryMappedPage => vec![
                FIRST..=FIRST + PAGES[0] * page - 1,
                second..=second + PAGES[1] * page - 1,
            ],
            Granularity::WrittenPages => Vec::new(),
        };
        if ranges != right {
            return Err(format!("{ranges:x?} are told, of {right:x?}").into());
        }
        told.push(pages.count());
    }
    let never = refused(
        "no window",
        function.dirty_pages(FIRST + both, page),
        |error| matches!(error, DirtyError::NoWindow { .. }),
    )?;
    let part = function.dirty_pages(FIRST, page);
    let part = refused("a part of a window", part, |error| {
        matches!(error, DirtyError::PartOfWindow { .. })
    })?;
    let closed = function.dma_unmap_dirty(second, PAGES[1] * page)?.count();
    if closed != expected[1] {
        return Err(format!("{closed} pages of a window that is closed").into());
    }
    refused("closed", function.dirty_pages(second, page), |error| {
        matches!(error, DirtyError::NoWindow { .. })
    })?;
    // Closed for the kernel too: the place is free.
    open(second, PAGES[1])?;
    function.stop_dirty_tracking()?;
    let late = refused("late", function.dirty_pages(FIRST, both), not_started)?;
    function.start_dirty_tracking()?;
    function.dirty_pages(FIRST, both)?;
    Ok(format!(
        "{:?} of {} bytes: of {PAGES:?} pages that nobody wrote {told:?} were told, twice, and \
         {closed} of a window as it was closed; before: {early}; never opened: {never}; in part: \
         {part}; after: {late}",
        offered.granularity, offered.page_size
    ))
}

/// A PF and its first VF in one container: a window of both is one window.
fn together(pf: &str, vf: &str) -> Result<String, Box<dyn Error>> {
    let pf = Arc::new(KernelVfio::open(&kernel_place(pf)?)?);
    pf.sriov_configure(1)?;
    let vf = Arc::new(KernelVfio::open_beside(&kernel_place(vf)?, &pf)?);
    let left = || {
        pf.windows_left()
            .ok_or("the kernel does not tell how many windows are left")
    };
    let container = Container::new(ContainerOptions::default());
    container.attach(pf.clone())?;
    container.attach(vf.clone())?;
    let before = left()?;
    let memory = SharedMemory::create_sealed("window", PAGE_SIZE)?;
    let window = container.share(memory, DmaAccess::READ | DmaAccess::WRITE)?;
    let with = left()?;
    pf.start_dirty_tracking()?;
    refused("a second tracker", vf.start_dirty_tracking(), |error| {
        matches!(error, DirtyError::AlreadyStarted)
    })?;
    refused("not its own", vf.stop_dirty_tracking(), |error| {
        matches!(error, DirtyError::NotStarted)
    })?;
    let told = pf.dirty_pages(window.iova(), PAGE_SIZE as u64)?.count();
    pf.stop_dirty_tracking()?;
    // Its turn; it goes without a word, and leaves the PF untracked.
    vf.start_dirty_tracking()?;
    let theirs: Arc<dyn Function> = vf.clone();
    container.detach(&theirs)?;
    drop((theirs, vf));
    let alone = left()?;
    pf.start_dirty_tracking()?;
    pf.stop_dirty_tracking()?;
    drop(window);
    let after = left()?;
    pf.sriov_configure(0)?;
    let said = format!(
        "windows left: {before}, with one of both {with}, with one of the PF alone {alone}, and \
         without {after}; one tracked dirty pages at a time, {told} told of the window"
    );
    if (with, alone, after) != (before - 1, before - 1, before) {
        return Err(said.into());
    }
    Ok(said)
}

fn run() -> Result<String, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, pf, vf] = arguments.as_slice()
        && what == "together"
    {
        return together(pf, vf);
    }
    let [what, place] = arguments.as_slice() else {
        return Err(
            "write: windows cycles|limit|files|dirty|table DEVICE, or windows together PF VF"
                .into(),
        );
    };
    if what == "dirty" {
        return dirty(place);
    }
    let function = place.parse::<Place>()?.open()?;
    match what.as_str() {
        "cycles" => cycles(function),
        "limit" => limit(function.as_ref()),
        "files" => of_files(function.as_ref()),
        "table" => table(function.as_ref()),
        other => Err(format!("{other:?} is none of cycles, limit, files, dirty and table").into()),
    }
}

/// The kernel keeps addresses and data of interrupts to itself: reads give ones, writes are lost.
fn table(function: &dyn Function) -> Result<String, Box<dyn Error>> {
    const MSIX_BAR_OF_AN_82576: u32 = 3;
    let entry = || -> Result<[u8; 16], Box<dyn Error>> {
        let mut entry = [0; 16];
        function.read(MSIX_BAR_OF_AN_82576, 0, &mut entry)?;
        Ok(entry)
    };
    let before = entry()?;
    // Refused or lost: either will do.
    let written = function.write(MSIX_BAR_OF_AN_82576, 0, &[0x5A; 16]);
    let after = entry()?;
    let said = format!("read {before:x?}, written {written:?}, read {after:x?}");
    if before != [0xFF; 16] || after != before {
        return Err(said.into());
    }
    Ok(said)
}

fn main() -> ExitCode {
    match run() {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
