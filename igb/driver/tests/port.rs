//! The data path against a function that is not there: registers in a table, DMA windows as the
//! files they came with, and a card played by the test, which may lie.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use igb::descriptor::{RxStatus, RxWriteBack, SIZE as DESCRIPTOR};
use igb::queue_page::{DOORBELL_ASLEEP, DOORBELL_WAKE, SIZE as PAGE, VF_RX, VF_TX};
use igb::{RXDCTL, Register, vf};
use igb_driver::interrupt::{Interrupts, QUEUE_VECTOR};
use igb_driver::netdev::XmitError;
use igb_driver::offload::TxOffload;
use igb_driver::queue::{Port, QueueOptions};
use igb_driver::window::VfWindow;
use igb_driver::{DriverError, Registers};
use iommu::container::{Container, ContainerOptions};
use iommu::function::{Function, FunctionError};
use iommu::interrupt::EventFd;
use iommu::memory::{MapAccess, SharedMemory};
use vfio_user::client::DmaHandler;
use vfio_user::device::{DmaAccess, Irq, IrqFlags, Region, RegionFlags, SparseArea};

/// Where, and what.
type Write = (u64, Vec<u8>);

/// A VF of which only the registers exist.
struct Fake {
    registers: Mutex<HashMap<u64, u32>>,
    /// Accesses that came through the function, not through a page.
    trapped: Mutex<Vec<(u64, u32)>>,
    /// While set, posted writes wait in here, as in a socket.
    late: Mutex<Option<Vec<Write>>>,
    windows: Mutex<HashMap<u64, SharedMemory>>,
    pages: Option<SharedMemory>,
    areas: Vec<SparseArea>,
    size: u64,
    vectors: u32,
    /// ENABLE bits do not stick.
    stuck: AtomicBool,
    lost: AtomicBool,
    lost_event: EventFd,
    reads: AtomicU64,
}

impl Fake {
    fn new() -> Self {
        Self {
            registers: Mutex::default(),
            trapped: Mutex::default(),
            late: Mutex::default(),
            windows: Mutex::default(),
            pages: None,
            areas: Vec::new(),
            size: vf::BAR0_SIZE.into(),
            vectors: 3,
            stuck: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            lost_event: EventFd::new().unwrap(),
            reads: AtomicU64::new(0),
        }
    }

    /// With both queue pages as shared memory.
    fn sharing() -> Self {
        let size = FILE_OFFSET + u64::from(VF_TX + PAGE);
        let pages = SharedMemory::create_sealed("pages", size as usize).unwrap();
        Self {
            pages: Some(pages),
            areas: vec![SparseArea {
                offset: VF_RX.into(),
                size: 2 * u64::from(PAGE),
            }],
            ..Self::new()
        }
    }

    fn register<R: Register>(&self) -> u32 {
        let registers = self.registers.lock().unwrap();
        registers.get(&R::OFFSET.into()).copied().unwrap_or(0)
    }

    fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.lost_event.signal();
    }

    fn alive(&self) -> Result<(), FunctionError> {
        if self.lost() {
            Err(FunctionError::Lost)
        } else {
            Ok(())
        }
    }

    /// The ring whose base the driver wrote.
    fn rx_ring<T>(&self, look: impl FnOnce(&SharedMemory) -> T) -> T {
        let base =
            u64::from(self.register::<vf::RDBAL>()) | u64::from(self.register::<vf::RDBAH>()) << 32;
        look(&self.windows.lock().unwrap()[&base])
    }
}

impl Function for Fake {
    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        self.alive()?;
        if index != 0 {
            return Ok(Region::absent());
        }
        let mut region = Region::trapped(self.size);
        if let Some(pages) = &self.pages {
            region.flags |= RegionFlags::MMAP;
            region.sparse = self.areas.clone();
            region.fd = Some(pages.fd().try_clone_to_owned().unwrap());
            // An offset of the file that is no offset of the region.
            region.fd_offset = FILE_OFFSET;
        }
        Ok(region)
    }

    fn read(&self, _: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        self.alive()?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        let value = self.registers.lock().unwrap().get(&offset).copied();
        data.copy_from_slice(&value.unwrap_or(0).to_le_bytes());
        Ok(())
    }

    fn write(&self, _: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.alive()?;
        let mut value = u32::from_le_bytes(data.try_into().unwrap());
        self.trapped.lock().unwrap().push((offset, value));
        let control = [vf::RXDCTL::OFFSET, vf::TXDCTL::OFFSET];
        if self.stuck.load(Ordering::Relaxed) && control.map(u64::from).contains(&offset) {
            value &= !RXDCTL::ENABLE.mask();
        }
        self.registers.lock().unwrap().insert(offset, value);
        if let Some(pages) = &self.pages
            && (VF_RX..VF_TX + PAGE).contains(&(offset as u32))
        {
            let at = FILE_OFFSET + offset;
            pages.store_u32(at as usize, value, Ordering::SeqCst);
        }
        Ok(())
    }

    fn post(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        if let Some(late) = &mut *self.late.lock().unwrap() {
            late.push((offset, data.to_vec()));
            return Ok(());
        }
        self.write(region, offset, data)
    }

    fn irq(&self, _: u32) -> Result<Irq, FunctionError> {
        self.alive()?;
        Ok(Irq {
            flags: IrqFlags::EVENTFD,
            count: self.vectors,
        })
    }

    fn set_eventfds(
        &self,
        _: u32,
        _: u32,
        _: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        self.alive()
    }

    fn disable_irqs(&self, _: u32) -> Result<(), FunctionError> {
        self.alive()
    }

    fn trigger_irqs(&self, _: u32, _: u32, _: &[bool]) -> Result<(), FunctionError> {
        self.alive()
    }

    fn mask_irqs(&self, _: u32, _: u32, _: &[bool]) -> Result<(), FunctionError> {
        self.alive()
    }

    fn unmask_irqs(&self, _: u32, _: u32, _: &[bool]) -> Result<(), FunctionError> {
        self.alive()
    }

    fn set_unmask_eventfd(
        &self,
        _: u32,
        _: u32,
        _: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError> {
        self.alive()
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        _: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        self.alive()?;
        let (fd, offset) = file.expect("buffers are files");
        let fd: OwnedFd = fd.try_clone_to_owned().unwrap();
        let memory = SharedMemory::map(fd, offset, size as usize, MapAccess::ReadWrite).unwrap();
        assert!(self.windows.lock().unwrap().insert(iova, memory).is_none());
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, _: u64) -> Result<(), FunctionError> {
        let was_mapped = self.windows.lock().unwrap().remove(&iova).is_some();
        assert!(was_mapped || self.lost(), "unmapped twice");
        self.alive()
    }

    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        self.windows.lock().unwrap().clear();
        self.alive()
    }

    fn set_dma_handler(&self, _: Arc<dyn DmaHandler>) {}

    fn reset(&self) -> Result<(), FunctionError> {
        self.alive()
    }

    fn lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    fn lost_event(&self) -> BorrowedFd<'_> {
        self.lost_event.as_fd()
    }
}

/// Where the region begins in the file of a fake that shares.
const FILE_OFFSET: u64 = PAGE as u64;

struct Rig {
    fake: Arc<Fake>,
    regs: Registers,
    container: Arc<Container>,
    interrupts: Interrupts<VfWindow>,
    port: Port<VfWindow>,
}

const ENTRIES: u16 = 16;

fn rig(fake: Fake) -> Rig {
    let fake = Arc::new(fake);
    let regs = Registers::new(fake.clone(), vf::BAR0_SIZE).unwrap();
    let container = Container::new(ContainerOptions::default());
    container.attach(fake.clone()).unwrap();
    let interrupts = Interrupts::connect(&regs).unwrap();
    let options = QueueOptions {
        rx_entries: ENTRIES,
        tx_entries: ENTRIES,
        interval_us: 0,
    };
    Rig {
        fake,
        regs,
        container,
        interrupts,
        port: Port::new(0, options),
    }
}

impl Rig {
    fn open(&mut self) -> Result<(), DriverError> {
        self.port
            .open(&self.regs, &self.container, &mut self.interrupts, 1500)
    }

    fn poll(&mut self, budget: usize) -> usize {
        let receive = &mut |frame: &[u8], _| assert!((14..=1518).contains(&frame.len()));
        self.port
            .poll(&self.regs, &mut self.interrupts, budget, receive)
    }
}

#[test]
fn a_bar_or_vectors_that_do_not_fit_are_named() {
    let small = Fake {
        size: 0x1000,
        ..Fake::new()
    };
    let regs = Registers::new(Arc::new(small), vf::BAR0_SIZE);
    assert!(matches!(
        regs.err(),
        Some(DriverError::Bar { found: 0x1000, .. })
    ));
    let few = Fake {
        vectors: 1,
        ..Fake::new()
    };
    let regs = Registers::new(Arc::new(few), vf::BAR0_SIZE).unwrap();
    let error = Interrupts::<VfWindow>::connect(&regs).err();
    assert!(matches!(error, Some(DriverError::Vectors { found: 1, .. })));
}

#[test]
fn pages_outside_the_region_or_the_file_stay_trapped() {
    for area in [
        SparseArea {
            offset: 0x4000,
            size: 0x1000,
        },
        SparseArea {
            offset: u64::MAX - 0xFFF,
            size: 0x2000,
        },
        SparseArea {
            offset: VF_RX.into(),
            size: 0,
        },
        // Beyond the file.
        SparseArea {
            offset: VF_TX.into(),
            size: 0x2000,
        },
    ] {
        let fake = Fake {
            areas: vec![area],
            ..Fake::sharing()
        };
        let regs = Registers::new(Arc::new(fake), vf::BAR0_SIZE).unwrap();
        assert!(!regs.is_shared::<vf::TDT>(0), "{area:?}");
    }
}

#[test]
fn an_open_port_gives_everything_back() {
    for fake in [Fake::new(), Fake::sharing()] {
        let mut rig = rig(fake);
        rig.open().unwrap();
        assert_eq!(rig.fake.windows.lock().unwrap().len(), 2);
        rig.port.stop(&rig.regs, &mut rig.interrupts);
        assert_eq!(rig.fake.windows.lock().unwrap().len(), 0);
        assert_eq!(
            rig.port.xmit(&[0; 60], TxOffload::NONE),
            Err(XmitError::Down)
        );
    }
}

#[test]
fn a_queue_that_does_not_start_is_named_and_leaves_nothing() {
    let mut rig = rig(Fake::new());
    rig.fake.stuck.store(true, Ordering::Relaxed);
    let error = rig.open().unwrap_err();
    assert!(
        matches!(error, DriverError::Queue { queue: 0, .. }),
        "{error}"
    );
    assert!(!rig.port.is_open());
    assert_eq!(rig.fake.windows.lock().unwrap().len(), 0);
}

#[test]
fn a_doorbell_is_a_store_unless_the_card_sleeps() {
    let mut rig = rig(Fake::sharing());
    rig.open().unwrap();
    let page = |offset: u32| (FILE_OFFSET + u64::from(VF_TX + offset)) as usize;
    let tail = (FILE_OFFSET + u64::from(vf::TDT::OFFSET)) as usize;
    let load = |rig: &Rig, at| {
        let pages = rig.fake.pages.as_ref().unwrap();
        pages.load_u32(at, Ordering::SeqCst)
    };
    assert_eq!(
        load(&rig, page(DOORBELL_WAKE)),
        1,
        "the driver looks at ASLEEP"
    );
    rig.fake.trapped.lock().unwrap().clear();
    rig.port.xmit(&[0; 60], TxOffload::NONE).unwrap();
    rig.port.flush(&rig.regs);
    assert_eq!(load(&rig, tail), 1);
    assert_eq!(rig.fake.trapped.lock().unwrap().len(), 0);
    let pages = rig.fake.pages.as_ref().unwrap();
    pages.store_u32(page(DOORBELL_ASLEEP), 1, Ordering::SeqCst);
    rig.port.xmit(&[0; 60], TxOffload::NONE).unwrap();
    rig.port.flush(&rig.regs);
    assert_eq!(load(&rig, tail), 2);
    let woken = [(u64::from(vf::TDT::OFFSET), 2)];
    assert_eq!(rig.fake.trapped.lock().unwrap()[..], woken);
    // Nothing new, no doorbell.
    rig.port.flush(&rig.regs);
    assert_eq!(rig.fake.trapped.lock().unwrap().len(), 1);
    assert_eq!(rig.port.counters().get("doorbell_wakes"), Some(1));
}

/// A wake that the card sees late must not bring an old tail back: the card would take the whole ring
/// for new.
#[test]
fn a_late_wake_leaves_the_tail_alone() {
    let mut rig = rig(Fake::sharing());
    rig.open().unwrap();
    let pages = rig.fake.pages.as_ref().unwrap();
    let asleep = (FILE_OFFSET + u64::from(VF_TX + DOORBELL_ASLEEP)) as usize;
    let tail = (FILE_OFFSET + u64::from(vf::TDT::OFFSET)) as usize;
    *rig.fake.late.lock().unwrap() = Some(Vec::new());
    for asleep_now in [1, 0] {
        pages.store_u32(asleep, asleep_now, Ordering::SeqCst);
        rig.port.xmit(&[0; 60], TxOffload::NONE).unwrap();
        rig.port.flush(&rig.regs);
    }
    let late = rig.fake.late.lock().unwrap().take().unwrap();
    for (offset, data) in late {
        rig.fake.write(0, offset, &data).unwrap();
    }
    assert_eq!(pages.load_u32(tail, Ordering::SeqCst), 2);
}

#[test]
fn frames_that_do_not_fit_are_refused() {
    let mut rig = rig(Fake::new());
    rig.open().unwrap();
    assert_eq!(
        rig.port.xmit(&[0; 13], TxOffload::NONE),
        Err(XmitError::Short { len: 13 })
    );
    let long = XmitError::Long {
        len: 1519,
        max: 1518,
    };
    assert_eq!(rig.port.xmit(&[0; 1519], TxOffload::NONE), Err(long));
    for _ in 0..ENTRIES - 1 {
        rig.port.xmit(&[0; 1518], TxOffload::NONE).unwrap();
    }
    assert_eq!(
        rig.port.xmit(&[0; 60], TxOffload::NONE),
        Err(XmitError::Full)
    );
}

/// A card that writes back the same lies for ever: each call ends, and returns its budget only
/// where it was given frames or may not have seen the end.
#[test]
fn a_card_that_lies_without_end_does_not_hold_the_driver() {
    let whole = RxStatus::DD | RxStatus::EOP;
    for (length, status) in [
        (64, whole),
        (64, RxStatus::DD),
        (0, whole),
        (u16::MAX, whole),
        (u16::MAX, RxStatus::all()),
    ] {
        let mut rig = rig(Fake::new());
        rig.open().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let fake = rig.fake.clone();
            let stop = &stop;
            scope.spawn(move || {
                let word = RxWriteBack::new(length, status).raw()[1];
                fake.rx_ring(|ring| {
                    while !stop.load(Ordering::Relaxed) {
                        for n in 0..usize::from(ENTRIES) {
                            ring.store_u64(n * DESCRIPTOR + 8, word, Ordering::Relaxed);
                        }
                    }
                });
            });
            for _ in 0..200 {
                assert!(rig.poll(64) <= 64);
            }
            stop.store(true, Ordering::Relaxed);
        });
        rig.port.stop(&rig.regs, &mut rig.interrupts);
    }
}

#[test]
fn a_function_that_is_gone_is_noticed_and_holds_nothing_up() {
    let mut rig = rig(Fake::new());
    rig.open().unwrap();
    rig.fake.lose();
    rig.port.xmit(&[0; 60], TxOffload::NONE).unwrap();
    rig.port.flush(&rig.regs);
    assert!(rig.port.is_lost());
    assert_eq!(
        rig.port.xmit(&[0; 60], TxOffload::NONE),
        Err(XmitError::Gone)
    );
    assert_eq!(rig.poll(64), 0);
    rig.port.stop(&rig.regs, &mut rig.interrupts);
    assert_eq!(rig.fake.windows.lock().unwrap().len(), 0);
    assert!(rig.open().is_err());
}

/// The queue's vector stays unmasked: to unmask it after each interrupt would take an access that
/// traps.
#[test]
fn an_interrupt_of_the_queue_takes_no_trapped_access() {
    let mut rig = rig(Fake::sharing());
    rig.interrupts.set_up(&rig.regs, 0, 20).unwrap();
    rig.open().unwrap();
    assert_eq!(rig.fake.register::<vf::VTEIAM>() & 1 << QUEUE_VECTOR, 0);
    let queue = 1 << QUEUE_VECTOR;
    assert_eq!(rig.fake.register::<vf::VTEIAC>() & queue, queue);
    rig.fake.trapped.lock().unwrap().clear();
    let vector = rig.interrupts.set_mut().vector(QUEUE_VECTOR as usize);
    vector.unwrap().signal();
    let (regs, interrupts) = (&rig.regs, &mut rig.interrupts);
    assert_eq!(rig.port.poll(regs, interrupts, 64, &mut |_, _| ()), 0);
    assert_eq!(rig.port.counters().get("queue_interrupts"), Some(1));
    assert_eq!(rig.fake.trapped.lock().unwrap()[..], []);
}
