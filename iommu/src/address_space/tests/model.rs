//! The address space against a naive model that looks every byte up by itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use proptest::prelude::*;
use vfio_user::device::DmaClient;

use super::*;
use crate::address_space::{CopyFault, copy};

/// Where windows are put: around the MSI window, so that it is met often.
const BASE: u64 = 0xFEDF_FF00;
const SPAN: u64 = 0x10_0200;
const FILE_SIZE: usize = 256;
/// A sealed file, one that may shrink, and no file.
const FILES: usize = 3;

/// A client whose memory behind messages is 256 bytes that repeat through the address space.
#[derive(Default)]
struct Client(Mutex<Vec<u8>>);

impl DmaClient for Client {
    fn dma_read(&self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        let memory = self.0.lock().unwrap();
        for (at, byte) in (iova..).zip(data) {
            *byte = memory[at as usize % FILE_SIZE];
        }
        Ok(())
    }

    fn dma_write(&self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let mut memory = self.0.lock().unwrap();
        for (at, byte) in (iova..).zip(data) {
            memory[at as usize % FILE_SIZE] = *byte;
        }
        Ok(())
    }

    fn cancel(&self, _: u64, _: u64) {}
}

#[derive(Debug, Clone)]
enum Step {
    Map {
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: usize,
        offset: u64,
    },
    Unmap {
        pick: prop::sample::Index,
    },
    UnmapRange {
        iova: u64,
        size: u64,
    },
    UnmapAll,
    Read {
        iova: u64,
        len: usize,
    },
    Write {
        iova: u64,
        len: usize,
        seed: u8,
    },
    Store {
        iova: u64,
        value: u64,
    },
    Copy {
        from: u64,
        to: u64,
        len: usize,
    },
    BusMaster(bool),
}

fn iova() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => BASE..BASE + 0x180,
        4 => BASE + 0x10_0080..BASE + SPAN,
        1 => BASE..BASE + SPAN,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let access = prop_oneof![
        3 => Just(RW),
        1 => Just(DmaAccess::READ),
        1 => Just(DmaAccess::WRITE),
    ];
    prop_oneof![
        6 => (iova(), 1..100_u64, access, 0..FILES, 0..FILE_SIZE as u64)
            .prop_map(|(iova, size, access, file, offset)| Step::Map { iova, size, access, file, offset }),
        2 => any::<prop::sample::Index>().prop_map(|pick| Step::Unmap { pick }),
        2 => (iova(), 1..200_u64).prop_map(|(iova, size)| Step::UnmapRange { iova, size }),
        1 => prop::bool::weighted(0.1).prop_map(|all| {
            if all { Step::UnmapAll } else { Step::BusMaster(true) }
        }),
        8 => (iova(), 0..40_usize).prop_map(|(iova, len)| Step::Read { iova, len }),
        8 => (iova(), 0..40_usize, any::<u8>())
            .prop_map(|(iova, len, seed)| Step::Write { iova, len, seed }),
        3 => (iova(), any::<u64>()).prop_map(|(iova, value)| Step::Store { iova, value }),
        6 => (iova(), iova(), 0..40_usize)
            .prop_map(|(from, to, len)| Step::Copy { from, to, len }),
        1 => prop::bool::weighted(0.7).prop_map(Step::BusMaster),
    ]
}

/// One byte of the client's memory: which file, and where in it.
type Place = (usize, usize);

struct Model {
    windows: Vec<(u64, u64, DmaAccess, usize, u64)>,
    files: Vec<Vec<u8>>,
    bus_master: bool,
}

impl Model {
    fn place(&self, at: u64) -> Option<(Place, DmaAccess)> {
        let window = self
            .windows
            .iter()
            .find(|&&(iova, size, ..)| iova <= at && at - iova < size)?;
        let &(iova, _, access, file, offset) = window;
        let place = if file == 2 {
            at % FILE_SIZE as u64
        } else {
            offset + (at - iova)
        };
        Some(((file, place as usize), access))
    }

    /// Where every byte of an access is, or why it faults.
    fn places(&self, iova: u64, len: usize, access: DmaAccess) -> Result<Vec<Place>, FaultCause> {
        if len == 0 {
            return Ok(Vec::new());
        }
        if !self.bus_master {
            return Err(FaultCause::BusMasterOff);
        }
        let range = iova..iova + len as u64;
        if range
            .clone()
            .any(|at| (0xFEE0_0000..=0xFEEF_FFFF).contains(&at))
        {
            return Err(FaultCause::Msi);
        }
        range
            .map(|at| match self.place(at) {
                None if at == iova => Err(FaultCause::NoWindow),
                None => Err(FaultCause::Edge),
                Some((_, permitted)) if !permitted.contains(access) => Err(FaultCause::Permission),
                Some((place, _)) => Ok(place),
            })
            .collect()
    }

    fn load(&self, places: &[Place]) -> Vec<u8> {
        places
            .iter()
            .map(|&(file, at)| self.files[file][at])
            .collect()
    }

    fn store(&mut self, places: &[Place], data: &[u8]) {
        for (&(file, at), &byte) in places.iter().zip(data) {
            self.files[file][at] = byte;
        }
    }

    fn map(&mut self, iova: u64, size: u64, access: DmaAccess, file: usize, offset: u64) -> bool {
        let end = iova + size;
        let free = self
            .windows
            .iter()
            .all(|&(i, s, ..)| i >= end || i + s <= iova);
        let inside = file == 2 || offset + size <= FILE_SIZE as u64;
        let msi = iova <= 0xFEEF_FFFF && end > 0xFEE0_0000;
        if free && inside && !msi {
            self.windows.push((iova, size, access, file, offset));
        }
        free && inside && !msi
    }

    fn unmap(&mut self, iova: u64, size: u64) -> Result<(), Errno> {
        let end = iova + size;
        let (touched, left): (Vec<_>, Vec<_>) = self
            .windows
            .iter()
            .copied()
            .partition(|&(i, s, ..)| i < end && i + s > iova);
        if touched.iter().any(|&(i, s, ..)| i < iova || i + s > end) {
            return Err(Errno::EINVAL);
        }
        self.windows = left;
        Ok(())
    }
}

/// The real thing, and its files.
struct Real {
    space: AddressSpace,
    sealed: SharedMemory,
    plain: File,
    client: Arc<Client>,
}

impl Real {
    fn new() -> Self {
        let space = space();
        let client = Arc::new(Client(Mutex::new(vec![0; FILE_SIZE])));
        space.connect(client.clone());
        let plain = File::from(unsealed(FILE_SIZE as i64));
        Self {
            space,
            sealed: sealed(FILE_SIZE),
            plain,
            client,
        }
    }

    fn file(&self, file: usize, offset: u64) -> Option<(OwnedFd, u64)> {
        match file {
            0 => Some((duplicate(&self.sealed), offset)),
            1 => Some((self.plain.try_clone().unwrap().into(), offset)),
            _ => None,
        }
    }

    fn contents(&self) -> Vec<Vec<u8>> {
        let mut contents = vec![vec![0; FILE_SIZE]; FILES];
        self.sealed.read(0, &mut contents[0]);
        self.plain.read_exact_at(&mut contents[1], 0).unwrap();
        contents[2].clone_from(&self.client.0.lock().unwrap());
        contents
    }
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let real = Real::new();
    let mut model = Model {
        windows: Vec::new(),
        files: vec![vec![0; FILE_SIZE]; FILES],
        bus_master: true,
    };
    for step in steps {
        match step {
            Step::Map {
                iova,
                size,
                access,
                file,
                offset,
            } => {
                let mapped = real
                    .space
                    .map(window(iova, size, access, real.file(file, offset)));
                let expected = model.map(iova, size, access, file, offset);
                prop_assert_eq!(mapped.is_ok(), expected);
            }
            Step::Unmap { pick } => {
                if model.windows.is_empty() {
                    prop_assert_eq!(real.space.unmap(BASE, 1), Ok(()));
                    continue;
                }
                let index = pick.index(model.windows.len());
                let (iova, size, ..) = model.windows[index];
                prop_assert_eq!(real.space.unmap(iova, size), Ok(()));
                model.windows.swap_remove(index);
            }
            Step::UnmapRange { iova, size } => {
                prop_assert_eq!(real.space.unmap(iova, size), model.unmap(iova, size));
            }
            Step::UnmapAll => {
                real.space.unmap_all();
                model.windows.clear();
            }
            Step::BusMaster(on) => {
                real.space.set_bus_master(on);
                model.bus_master = on;
            }
            Step::Read { iova, len } => {
                let mut data = vec![0; len];
                let read = real
                    .space
                    .read(iova, &mut data)
                    .map_err(|fault| fault.cause);
                let places = model.places(iova, len, DmaAccess::READ);
                prop_assert_eq!(
                    read.map(|()| data),
                    places.map(|places| model.load(&places))
                );
            }
            Step::Write { iova, len, seed } => {
                let data: Vec<u8> = (0..len).map(|n| seed.wrapping_add(n as u8)).collect();
                let written = real.space.write(iova, &data).map_err(|fault| fault.cause);
                let places = model.places(iova, len, DmaAccess::WRITE);
                let places = places.map(|places| model.store(&places, &data));
                prop_assert_eq!(written, places);
            }
            Step::Store { iova, value } => {
                let stored = real
                    .space
                    .store_u64_release(iova, value)
                    .map_err(|fault| fault.cause);
                let places = model.places(iova, 8, DmaAccess::WRITE);
                let places = places.map(|places| model.store(&places, &value.to_le_bytes()));
                prop_assert_eq!(stored, places);
            }
            Step::Copy { from, to, len } => {
                let guard = real.space.enter();
                let copied = copy(&guard, from, &guard, to, len);
                drop(guard);
                let source = model.places(from, len, DmaAccess::READ);
                let target = model.places(to, len, DmaAccess::WRITE);
                match (source, target) {
                    (Err(cause), _) => prop_assert!(
                        matches!(copied, Err(CopyFault::Source(fault)) if fault.cause == cause)
                    ),
                    (Ok(_), Err(cause)) => prop_assert!(
                        matches!(copied, Err(CopyFault::Destination(fault)) if fault.cause == cause)
                    ),
                    (Ok(source), Ok(target)) => {
                        prop_assert!(copied.is_ok());
                        if source.iter().any(|place| target.contains(place)) {
                            // What becomes of an overlap is not laid down, but it stays in place.
                            let contents = real.contents();
                            for (file, content) in contents.iter().enumerate() {
                                for (at, &byte) in content.iter().enumerate() {
                                    prop_assert!(
                                        target.contains(&(file, at))
                                            || byte == model.files[file][at]
                                    );
                                }
                            }
                            model.files = contents;
                        } else {
                            let data = model.load(&source);
                            model.store(&target, &data);
                        }
                    }
                }
            }
        }
        prop_assert_eq!(real.space.usage().windows, model.windows.len());
    }
    prop_assert_eq!(real.contents(), model.files);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_a_map_of_bytes(steps in prop::collection::vec(step(), 1..80)) {
        run(steps)?;
    }
}
