//! Opens and closes DMA windows of a function: `windows cycles vfio:0000:BB:DD.F` ten thousand times,
//! looking for what is left behind, and `windows limit vfio:0000:BB:DD.F` more of them than there can
//! be. Nothing is asked of the device itself.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use iommu::backend::Place;
use iommu::container::{Container, ContainerOptions};
use iommu::function::{DmaAccess, Function, FunctionError};
use iommu::memory::{PAGE_SIZE, SharedMemory};

const CYCLES: u32 = 10_000;
/// Windows open at a time.
const AT_ONCE: usize = 8;
/// More than any container has room for unless it was configured otherwise.
const TOO_MANY: u64 = 70_000;
const FIRST: u64 = 0x1000_0000;

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
    function.dma_unmap(FIRST, page)?;
    open(0).map_err(|error| format!("in the place of a closed one: {error}"))?;
    function.dma_unmap_all()?;
    open(number)?;
    Ok(format!("after {number} windows: {said}"))
}

fn run() -> Result<String, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, place] = arguments.as_slice() else {
        return Err("write: windows cycles|limit vfio:0000:BB:DD.F".into());
    };
    let function = place.parse::<Place>()?.open()?;
    match what.as_str() {
        "cycles" => cycles(function),
        "limit" => limit(function.as_ref()),
        other => Err(format!("{other:?} is neither cycles nor limit").into()),
    }
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
