//! A driver reduced to register accesses, for the tests of the card: the PF's switch settings, and
//! one queue pair of a VF. It works over a socket and in process alike.

#![expect(dead_code, reason = "each test program uses a part of it")]

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use igb::descriptor::{RxRead, RxWriteBack, SIZE, TxCommand, TxData, TxWriteBack, to_bytes};
use igb::pci::{command, header, offset, sriov};
use igb::queue_page::{DOORBELL_ASLEEP, DOORBELL_WAKE, VF_TX};
use igb::{Register, Value, vf};
use iommu::backend::{InProcess, VfioUser};
use iommu::function::Function;
use iommu::interrupt::InterruptSet;
use iommu::memory::{MapAccess, SharedMemory};
use nix::errno::Errno;
use vfio_user::client::{ClientOptions, DmaHandler, DmaReply};
use vfio_user::device::{DmaAccess, irq, region};
use vfio_user_device::{Card, CardOptions};

/// Longer than anything here takes on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A card for tests: no second to waste on grace.
pub(crate) fn options() -> CardOptions {
    CardOptions {
        pf_grace: LONG,
        ..CardOptions::default()
    }
}

/// The function `id` of `card`, in process.
pub(crate) fn in_process(card: &Arc<Card>, id: igb::FunctionId) -> Arc<InProcess> {
    Arc::new(InProcess::new(card.function(id)).expect("a function"))
}

/// The function behind a socket.
pub(crate) fn connect(path: &Path) -> Arc<VfioUser> {
    let options = ClientOptions { timeout: LONG };
    Arc::new(VfioUser::connect(path, options).expect("a connection"))
}

/// Wait until `what` holds, giving way to others; for conditions that have no event.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn read_register(function: &dyn Function, at: u32) -> u32 {
    let mut data = [0; 4];
    function
        .read(region::BAR0, at.into(), &mut data)
        .expect("a register");
    u32::from_le_bytes(data)
}

pub(crate) fn write_register(function: &dyn Function, at: u32, value: u32) {
    function
        .write(region::BAR0, at.into(), &value.to_le_bytes())
        .expect("a register");
}

fn write<R: Register>(function: &dyn Function, index: u32, value: Value<R>) {
    write_register(function, R::offset(index), value.raw());
}

pub(crate) fn read_config(function: &dyn Function, at: u16) -> u16 {
    let mut data = [0; 2];
    function
        .read(region::CONFIG, at.into(), &mut data)
        .expect("configuration space");
    u16::from_le_bytes(data)
}

pub(crate) fn write_config(function: &dyn Function, at: u16, value: u16) {
    let data = value.to_le_bytes();
    function
        .write(region::CONFIG, at.into(), &data)
        .expect("configuration space");
}

/// Enable `vfs` VFs and let all of them reach each other by broadcast.
pub(crate) fn bring_up(pf: &dyn Function, vfs: u8) {
    write_config(pf, header::COMMAND, command::MEMORY | command::BUS_MASTER);
    pf.sriov_configure(vfs.into()).expect("VFs");
    let all = (1_u32 << vfs) - 1;
    let ctrl = Value::<igb::CTRL>::from_raw(read_register(pf, igb::CTRL::OFFSET));
    write(pf, 0, ctrl.set(igb::CTRL::SLU));
    let gpie = Value::<igb::GPIE>::default()
        .set(igb::GPIE::MULTIPLE_MSIX)
        .set(igb::GPIE::NSICR);
    write(
        pf,
        0,
        gpie.set(igb::GPIE::EIAME).set(igb::GPIE::PBA_SUPPORT),
    );
    let mrqc = Value::<igb::MRQC>::default();
    write(pf, 0, mrqc.with(igb::MRQC::MULTIPLE_RECEIVE_QUEUES, 3));
    let vt_ctl = Value::<igb::VT_CTL>::default().with(igb::VT_CTL::DEF_PL, vfs.into());
    write(pf, 0, vt_ctl.set(igb::VT_CTL::REPL_EN));
    for n in 0..u32::from(vfs) {
        let vmolr = Value::<igb::VMOLR>::RESET
            .set(igb::VMOLR::BAM)
            .set(igb::VMOLR::AUPE);
        write(pf, n, vmolr);
    }
    write(
        pf,
        0,
        Value::<igb::DTXSWC>::default().set(igb::DTXSWC::LOOPBACK_EN),
    );
    write(pf, 0, Value::<igb::VFRE>::from_raw(all));
    write(pf, 0, Value::<igb::VFTE>::from_raw(all));
    write(pf, 0, Value::<igb::TCTL>::RESET.set(igb::TCTL::EN));
    write(
        pf,
        0,
        Value::<igb::RCTL>::default()
            .set(igb::RCTL::RXEN)
            .set(igb::RCTL::BAM),
    );
}

/// Whether the PF's own configuration space says that VFs are enabled.
pub(crate) fn vf_enable(pf: &dyn Function) -> bool {
    read_config(pf, offset::SRIOV + sriov::CONTROL) & sriov::VF_ENABLE != 0
}

/// A broadcast frame of `len` bytes from VF `from`, filled with `fill`.
pub(crate) fn broadcast(from: u8, len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    frame.extend([2, 0, 0, 0, 0, from, 0x88, 0xB5]);
    frame.resize(len, fill);
    frame
}

const RING: u32 = 64;
const BUFFER: usize = 2048;
const TX_RING: usize = 0;
const RX_RING: usize = 0x1000;
const TX_BUFFERS: usize = 0x10000;
const RX_BUFFERS: usize = 0x40000;
const MEMORY: usize = 0x80000;
const IOVA: u64 = 0x1000_0000;

/// How a doorbell is rung.
enum Ringing {
    /// By messages.
    Trapped,
    /// By a store into the shared page, and nothing else, as a stock driver in a guest does.
    Stored(SharedMemory),
    /// By a store, and by a message if the card says that it sleeps.
    Woken(SharedMemory),
}

/// A VF with its queue 0 open, and everything it needs in one memory file.
pub(crate) struct Station {
    pub(crate) function: Arc<dyn Function>,
    pub(crate) memory: Arc<SharedMemory>,
    interrupts: InterruptSet,
    /// How the transmit doorbell is rung.
    ringing: Ringing,
    tx: u32,
    rx: u32,
}

impl Station {
    /// A VF with nothing set up.
    pub(crate) fn over(function: Arc<dyn Function>) -> Self {
        let memory = SharedMemory::create_sealed("station", MEMORY).expect("memory");
        let interrupts = InterruptSet::new(3).expect("interrupts");
        Self {
            function,
            memory: Arc::new(memory),
            interrupts,
            ringing: Ringing::Trapped,
            tx: 0,
            rx: 0,
        }
    }

    fn pages(&self) -> SharedMemory {
        let bar0 = self.function.region(region::BAR0).expect("BAR0");
        let size = bar0.sparse.iter().map(|area| area.offset + area.size).max();
        let fd = bar0.fd.expect("shared pages");
        let size = size.expect("shared pages") as usize;
        SharedMemory::map(fd, bar0.fd_offset, size, MapAccess::ReadWrite).expect("mapped")
    }

    /// From now on ring by stores alone.
    pub(crate) fn ring_by_store(&mut self) {
        self.ringing = Ringing::Stored(self.pages());
    }

    /// From now on speak the wake protocol.
    pub(crate) fn ring_and_wake(&mut self) {
        write_register(&*self.function, VF_TX + DOORBELL_WAKE, 1);
        self.ringing = Ringing::Woken(self.pages());
    }

    fn ring(&self) {
        let tail = Value::<vf::TDT>::from_raw(self.tx % RING);
        let at = vf::TDT::offset(0) as usize;
        match &self.ringing {
            Ringing::Trapped => write(&*self.function, 0, tail),
            Ringing::Stored(pages) => pages.store_u32(at, tail.raw(), Ordering::Release),
            Ringing::Woken(pages) => {
                pages.store_u32(at, tail.raw(), Ordering::Release);
                fence(Ordering::SeqCst);
                let asleep = (VF_TX + DOORBELL_ASLEEP) as usize;
                if pages.load_u32(asleep, Ordering::Relaxed) != 0 {
                    write(&*self.function, 0, tail);
                }
            }
        }
    }

    fn map(&self, file: Option<(BorrowedFd<'_>, u64)>) {
        let access = DmaAccess::READ | DmaAccess::WRITE;
        self.function
            .dma_map(IOVA, MEMORY as u64, access, file)
            .expect("a window");
    }

    /// Open a VF whose memory the card may map.
    pub(crate) fn open(function: Arc<dyn Function>) -> Self {
        let mut station = Self::over(function);
        station.map(Some((station.memory.fd(), 0)));
        station.start();
        station
    }

    /// Open a VF whose memory the card must ask for.
    pub(crate) fn open_by_message(function: Arc<dyn Function>) -> (Self, Arc<Answering>) {
        let mut station = Self::over(function);
        let answering = Arc::new(Answering {
            memory: Arc::clone(&station.memory),
            silent: AtomicBool::new(false),
            unanswered: Mutex::default(),
        });
        station
            .function
            .set_dma_handler(Arc::clone(&answering) as _);
        station.map(None);
        station.start();
        (station, answering)
    }

    /// Enable interrupts and queues, as after a reset.
    pub(crate) fn start(&mut self) {
        let f = &*self.function;
        (self.tx, self.rx) = (0, 0);
        self.memory.zero();
        write_config(f, header::COMMAND, command::BUS_MASTER);
        f.set_eventfds(irq::MSIX, 0, &self.interrupts.eventfds())
            .expect("eventfds");
        let enable = igb::pci::msix::ENABLE;
        write_config(f, offset::MSIX + igb::pci::msix::CONTROL, enable);
        let vector0 = igb::VTIVAR::RXQ0_VALID.mask() | igb::VTIVAR::TXQ0_VALID.mask();
        write(f, 0, Value::<vf::VTIVAR>::from_raw(vector0));
        write(f, 0, Value::<vf::VTEIAC>::from_raw(1));
        write(f, 0, Value::<vf::VTEIMS>::from_raw(1));

        for n in 0..RING {
            self.post(n);
        }
        let ring = IOVA + RX_RING as u64;
        write(f, 0, Value::<vf::RDBAL>::from_raw(ring as u32));
        write(f, 0, Value::<vf::RDBAH>::from_raw((ring >> 32) as u32));
        write(f, 0, Value::<vf::RDLEN>::from_raw(RING * SIZE as u32));
        let srrctl = Value::<vf::SRRCTL>::default().with(igb::SRRCTL::BSIZEPACKET, 2);
        write(
            f,
            0,
            srrctl
                .with(igb::SRRCTL::DESCTYPE, 1)
                .set(igb::SRRCTL::DROP_EN),
        );
        write(
            f,
            0,
            Value::<vf::RXDCTL>::default().set(igb::RXDCTL::ENABLE),
        );
        write(f, 0, Value::<vf::RDT>::from_raw(RING - 1));

        let ring = IOVA + TX_RING as u64;
        write(f, 0, Value::<vf::TDBAL>::from_raw(ring as u32));
        write(f, 0, Value::<vf::TDBAH>::from_raw((ring >> 32) as u32));
        write(f, 0, Value::<vf::TDLEN>::from_raw(RING * SIZE as u32));
        write(
            f,
            0,
            Value::<vf::TXDCTL>::default().set(igb::TXDCTL::ENABLE),
        );
    }

    fn post(&self, n: u32) {
        let buffer = IOVA + (RX_BUFFERS + n as usize * BUFFER) as u64;
        let raw = to_bytes(RxRead::new(buffer, 0).raw());
        self.memory.write(RX_RING + n as usize * SIZE, &raw);
    }

    fn raw(&self, at: usize) -> [u64; 2] {
        // The status word first: the card writes it last.
        let high = self.memory.load_u64(at + 8, Ordering::Acquire);
        [self.memory.load_u64(at, Ordering::Relaxed), high]
    }

    /// Queue a frame that lies at `iova` (anywhere), and ring the doorbell. `false` if the ring is
    /// full of frames the card has not sent.
    pub(crate) fn send_from(&mut self, iova: u64, len: usize) -> bool {
        let slot = TX_RING + (self.tx % RING) as usize * SIZE;
        if self.tx >= RING && !TxWriteBack::from_raw(self.raw(slot)).is_done() {
            return false;
        }
        let command = TxCommand::DEXT | TxCommand::EOP | TxCommand::IFCS | TxCommand::RS;
        let data = TxData::new(iova, len as u16, command).with_payload_length(len as u32);
        self.memory.write(slot, &to_bytes(data.raw()));
        self.tx += 1;
        self.ring();
        true
    }

    /// Send a frame out of the station's own buffers.
    pub(crate) fn send(&mut self, frame: &[u8]) -> bool {
        let buffer = TX_BUFFERS + (self.tx % RING) as usize * BUFFER;
        let slot = TX_RING + (self.tx % RING) as usize * SIZE;
        if self.tx >= RING && !TxWriteBack::from_raw(self.raw(slot)).is_done() {
            return false;
        }
        self.memory.write(buffer, frame);
        self.send_from(IOVA + buffer as u64, frame.len())
    }

    /// The next frame that has arrived.
    pub(crate) fn poll(&mut self) -> Option<Vec<u8>> {
        let index = self.rx % RING;
        let done = RxWriteBack::from_raw(self.raw(RX_RING + index as usize * SIZE));
        if !done.is_done() {
            return None;
        }
        let mut frame = vec![0; done.length().into()];
        self.memory
            .read(RX_BUFFERS + index as usize * BUFFER, &mut frame);
        self.post(index);
        self.rx += 1;
        write(&*self.function, 0, Value::<vf::RDT>::from_raw(index));
        Some(frame)
    }

    /// Wait for a frame by interrupt.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let end = Instant::now() + LONG;
        loop {
            if let Some(frame) = self.poll() {
                return frame;
            }
            let left = end
                .checked_duration_since(Instant::now())
                .expect("no frame has come");
            self.interrupts.wait(Some(left)).expect("a wait");
        }
    }

    /// Whether an interrupt has come since the last one was taken.
    pub(crate) fn interrupted(&mut self) -> bool {
        let ready = self.interrupts.wait(Some(Duration::ZERO));
        !ready.expect("a look").is_empty()
    }

    /// Whether no interrupt comes for that long.
    pub(crate) fn stays_quiet(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let ready = self.interrupts.wait(Some(left)).expect("a wait");
            if !ready.is_empty() {
                return false;
            }
        }
        true
    }

    /// Wait for an interrupt, whatever it is for.
    pub(crate) fn wait_for_interrupt(&mut self) {
        let ready = self.interrupts.wait(Some(LONG)).expect("a wait");
        assert!(!ready.is_empty(), "no interrupt has come");
    }

    /// Whether the card has written transmit descriptor `n` back.
    pub(crate) fn has_sent(&self, n: usize) -> bool {
        TxWriteBack::from_raw(self.raw(TX_RING + n * SIZE)).is_done()
    }

    /// An address outside every window of the station.
    pub(crate) fn outside(&self) -> u64 {
        IOVA + MEMORY as u64 + 0x1000
    }
}

/// Answers DMA messages out of a station's memory, or lets them lie.
pub(crate) struct Answering {
    memory: Arc<SharedMemory>,
    silent: AtomicBool,
    unanswered: Mutex<Vec<DmaReply>>,
}

impl Answering {
    pub(crate) fn be_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    fn at(&self, iova: u64, len: usize) -> Option<usize> {
        let offset = usize::try_from(iova.checked_sub(IOVA)?).ok()?;
        let end = offset.checked_add(len)?;
        (end <= self.memory.len()).then_some(offset)
    }

    /// The reply, unless it is to lie.
    fn heard(&self, reply: DmaReply) -> Option<DmaReply> {
        if self.silent.load(Ordering::SeqCst) {
            self.unanswered.lock().expect("no panics here").push(reply);
            return None;
        }
        Some(reply)
    }
}

impl DmaHandler for Answering {
    fn dma_read(&self, iova: u64, len: usize, reply: DmaReply) {
        let Some(reply) = self.heard(reply) else {
            return;
        };
        let Some(offset) = self.at(iova, len) else {
            return reply.error(Errno::EFAULT);
        };
        let mut data = vec![0; len];
        self.memory.read(offset, &mut data);
        reply.data(&data);
    }

    fn dma_write(&self, iova: u64, data: &[u8], reply: DmaReply) {
        let Some(reply) = self.heard(reply) else {
            return;
        };
        let Some(offset) = self.at(iova, data.len()) else {
            return reply.error(Errno::EFAULT);
        };
        self.memory.write(offset, data);
        reply.done();
    }
}

/// The descriptors that this process has open.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("the list of descriptors")
        .count()
}

/// The socket of VF `n` in `dir`.
pub(crate) fn vf_socket(dir: &Path, n: u8) -> PathBuf {
    dir.join(format!("vf{n}.sock"))
}
