//! A card, memory for each function, and a driver that knows only registers and rings.

use igb::descriptor::{RxRead, RxWriteBack, SIZE, TxCommand, TxData};
use igb::frame::FCS_LENGTH;
use igb::function::FUNCTION_COUNT;
use igb::pci::{command, header, offset, sriov};
use igb::queue_page::{self, QueueRegister};
use igb::*;
use igb_model::*;

/// Bytes of each function's memory; IOVA 0 is its first byte.
pub(crate) const MEMORY: usize = 0x10_0000;

/// The world around the card.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) memory: Vec<Vec<u8>>,
    pub(crate) pages: Vec<[[u32; 1024]; 2]>,
    pub(crate) interrupts: Vec<(FunctionId, Signal)>,
    /// Functions nobody of whom listens to interrupts.
    pub(crate) deaf: FunctionSet,
    pub(crate) wire: Vec<Vec<u8>>,
    pub(crate) capture: Option<Vec<(Port, Direction, Vec<u8>)>>,
    /// Reads of memory: function, address, length.
    pub(crate) reads: Vec<(FunctionId, u64, usize)>,
    /// DMA of these functions fails.
    pub(crate) broken: FunctionSet,
    /// After so many accesses of this function's memory, one is cancelled.
    pub(crate) cancel: Option<(FunctionId, usize)>,
    /// Functions that may go on for so many more reads or writes of their memory in this round.
    pub(crate) turns: Vec<(FunctionId, u32)>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            memory: vec![vec![0; MEMORY]; FUNCTION_COUNT],
            pages: vec![[[0; 1024]; 2]; FUNCTION_COUNT],
            interrupts: Vec::new(),
            deaf: FunctionSet::EMPTY,
            wire: Vec::new(),
            capture: None,
            reads: Vec::new(),
            broken: FunctionSet::EMPTY,
            cancel: None,
            turns: Vec::new(),
        }
    }
}

impl Host {
    fn range(
        &mut self,
        f: FunctionId,
        iova: u64,
        len: usize,
    ) -> Result<std::ops::Range<usize>, DmaFault> {
        let fault = |cause| Err(DmaFault { cause });
        if self.broken.contains(f) {
            return fault(FaultCause::Io);
        }
        for (_, left) in self.turns.iter_mut().filter(|(whose, _)| *whose == f) {
            *left = left.saturating_sub(1);
        }
        match &mut self.cancel {
            Some((whose, 0)) if *whose == f => {
                self.cancel = None;
                return fault(FaultCause::Cancelled);
            }
            Some((whose, left)) if *whose == f => *left -= 1,
            _ => {}
        }
        match usize::try_from(iova) {
            Ok(at) if at < MEMORY && at + len <= MEMORY => Ok(at..at + len),
            Ok(at) if at < MEMORY => fault(FaultCause::Edge),
            _ => fault(FaultCause::NoWindow),
        }
    }
}

fn word(page: QueuePage, offset: u32) -> (usize, usize) {
    assert!(offset.is_multiple_of(4) && offset < queue_page::SIZE);
    (usize::from(page == QueuePage::Tx), offset as usize / 4)
}

impl ControlHost for Host {
    fn interrupt(&mut self, function: FunctionId, signal: Signal) -> bool {
        if self.deaf.contains(function) {
            return false;
        }
        self.interrupts.push((function, signal));
        true
    }
    fn page_load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32 {
        let (page, word) = word(page, offset);
        self.pages[function.slot()][page][word]
    }
    fn page_store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32) {
        let (page, word) = word(page, offset);
        self.pages[function.slot()][page][word] = value;
    }
}

impl DataHost for Host {
    fn dma_read(&mut self, f: FunctionId, iova: u64, data: &mut [u8]) -> Result<(), DmaFault> {
        let range = self.range(f, iova, data.len())?;
        self.reads.push((f, iova, data.len()));
        data.copy_from_slice(&self.memory[f.slot()][range]);
        Ok(())
    }
    fn dma_write(&mut self, f: FunctionId, iova: u64, data: &[u8]) -> Result<(), DmaFault> {
        let range = self.range(f, iova, data.len())?;
        self.memory[f.slot()][range].copy_from_slice(data);
        Ok(())
    }
    fn dma_store_release(&mut self, f: FunctionId, iova: u64, value: u64) -> Result<(), DmaFault> {
        assert!(iova.is_multiple_of(8));
        self.dma_write(f, iova, &value.to_le_bytes())
    }
    fn dma_copy(
        &mut self,
        from: (FunctionId, u64),
        to: (FunctionId, u64),
        len: usize,
    ) -> Result<(), CopyFault> {
        let source = self.range(from.0, from.1, len).map_err(CopyFault::Source)?;
        let bytes = self.memory[from.0.slot()][source].to_vec();
        self.reads.push((from.0, from.1, len));
        self.dma_write(to.0, to.1, &bytes)
            .map_err(CopyFault::Destination)
    }
    fn page_load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32 {
        ControlHost::page_load(self, function, page, offset)
    }
    fn page_store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32) {
        ControlHost::page_store(self, function, page, offset, value);
    }
    fn has_turn(&self, function: FunctionId) -> bool {
        !self.turns.contains(&(function, 0))
    }
    fn uplink_send(&mut self, frame: &[u8]) {
        self.wire.push(frame.to_vec());
    }
    fn capturing(&self) -> bool {
        self.capture.is_some()
    }
    fn capture(&mut self, port: Port, direction: Direction, frame: &[u8]) {
        self.capture
            .as_mut()
            .unwrap()
            .push((port, direction, frame.to_vec()));
    }
}

/// The effects of a write, which the world has seen to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied(Effects);

impl std::ops::Deref for Applied {
    type Target = Effects;
    fn deref(&self) -> &Effects {
        &self.0
    }
}

impl PartialEq<Effects> for Applied {
    fn eq(&self, other: &Effects) -> bool {
        self.0 == *other
    }
}

/// Card and world, wired together as a server does it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) path: DataPath,
    pub(crate) host: Host,
    pub(crate) events: Events,
    pub(crate) vfs_seen: Vec<u8>,
    drivers: Vec<Driver>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

/// Where a function's test driver keeps its rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    pub(crate) queue: u32,
    pub(crate) entries: u32,
    pub(crate) buffer: u32,
    pub(crate) rx_next: u32,
    pub(crate) tx_next: u32,
}

pub(crate) const RX_RING: u64 = 0x1000;
pub(crate) const TX_RING: u64 = 0x3000;
pub(crate) const RX_BUFFERS: u64 = 0x1_0000;
pub(crate) const TX_BUFFERS: u64 = 0x8_0000;
const TX_BUFFER: u64 = 0x4000;
pub(crate) const ENTRIES: u32 = 16;
pub(crate) const BUFFER: u32 = 2048;

pub(crate) fn settings() -> CardSettings {
    CardSettings {
        mac: mac_of(FunctionId::PF),
        mailbox: MailboxMode::Closed,
        link_up: true,
    }
}

pub(crate) fn mac_of(function: FunctionId) -> MacAddress {
    MacAddress([2, 0, 0, 0, 1, function.slot() as u8])
}

pub(crate) const PF: FunctionId = FunctionId::PF;

pub(crate) fn vf(n: u8) -> FunctionId {
    FunctionId::vf(n)
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: CardSettings) -> Self {
        let driver = Driver {
            queue: 0,
            entries: ENTRIES,
            buffer: BUFFER,
            rx_next: 0,
            tx_next: 0,
        };
        let mut world = Self {
            control: Control::new(settings),
            path: DataPath::new(),
            host: Host::default(),
            events: Events::new(),
            vfs_seen: Vec::new(),
            drivers: vec![driver; FUNCTION_COUNT],
        };
        world.path.configure(world.control.config());
        world
    }

    /// A card whose PF and `vfs` VFs are open, each with its MAC in its pool.
    pub(crate) fn open(vfs: u8) -> Self {
        let mut world = Self::new();
        world.init_pf();
        world.enable_vfs(vfs);
        for function in FunctionId::all().take(1 + usize::from(vfs)) {
            world.open_queue(function);
        }
        world
    }

    pub(crate) fn apply(&mut self, effects: Effects) {
        self.vfs_seen.extend(effects.vfs);
        if effects.publish {
            self.path.configure(self.control.config());
        }
        for function in effects.clear_pages.iter() {
            self.host.pages[function.slot()] = [[0; 1024]; 2];
        }
        for function in effects.sync.iter() {
            self.path.sync_queues(function, &mut self.host);
        }
    }

    pub(crate) fn write(
        &mut self,
        f: FunctionId,
        region: CardRegion,
        at: u64,
        data: &[u8],
    ) -> Applied {
        let effects = self.control.write(f, region, at, data, &mut self.host);
        self.apply(effects);
        Applied(effects)
    }

    pub(crate) fn read(&mut self, f: FunctionId, region: CardRegion, at: u64, data: &mut [u8]) {
        let effects = self.control.read(f, region, at, data, &mut self.host);
        self.apply(effects);
    }

    pub(crate) fn write32(&mut self, f: FunctionId, at: u32, value: u32) -> Applied {
        self.write(f, CardRegion::Bar0, at.into(), &value.to_le_bytes())
    }

    pub(crate) fn read32(&mut self, f: FunctionId, at: u32) -> u32 {
        let mut data = [0; 4];
        self.read(f, CardRegion::Bar0, at.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn set<R: Register>(&mut self, f: FunctionId, value: Value<R>) -> Applied {
        self.write32(f, R::OFFSET, value.raw())
    }

    pub(crate) fn set_at<R: Register>(
        &mut self,
        f: FunctionId,
        n: u32,
        value: Value<R>,
    ) -> Applied {
        self.write32(f, R::offset(n), value.raw())
    }

    pub(crate) fn get<R: Register>(&mut self, f: FunctionId) -> Value<R> {
        Value::from_raw(self.read32(f, R::OFFSET))
    }

    pub(crate) fn get_at<R: Register>(&mut self, f: FunctionId, n: u32) -> Value<R> {
        Value::from_raw(self.read32(f, R::offset(n)))
    }

    pub(crate) fn config16(&mut self, f: FunctionId, at: u16) -> u16 {
        let mut data = [0; 2];
        self.read(f, CardRegion::Config, at.into(), &mut data);
        u16::from_le_bytes(data)
    }

    pub(crate) fn set_config16(&mut self, f: FunctionId, at: u16, value: u16) -> Applied {
        self.write(f, CardRegion::Config, at.into(), &value.to_le_bytes())
    }

    pub(crate) fn init_pf(&mut self) {
        self.set_config16(PF, header::COMMAND, command::MEMORY | command::BUS_MASTER);
        let rctl = Value::<RCTL>::default()
            .set(RCTL::RXEN)
            .set(RCTL::VFE)
            .set(RCTL::BAM);
        self.set(PF, rctl.set(RCTL::SECRC));
        self.set(PF, Value::<TCTL>::default().set(TCTL::EN));
        self.set(
            PF,
            Value::<GPIE>::default()
                .set(GPIE::MULTIPLE_MSIX)
                .set(GPIE::EIAME)
                .set(GPIE::NSICR),
        );
    }

    /// SR-IOV on, VMDq on, each pool with its MAC and untagged frames.
    pub(crate) fn enable_vfs(&mut self, vfs: u8) {
        self.set_config16(PF, offset::SRIOV + sriov::NUM_VFS, vfs.into());
        self.set_config16(
            PF,
            offset::SRIOV + sriov::CONTROL,
            sriov::VF_ENABLE | sriov::VF_MSE,
        );
        self.set(
            PF,
            Value::<MRQC>::default().with(MRQC::MULTIPLE_RECEIVE_QUEUES, 3),
        );
        let vt_ctl = Value::<VT_CTL>::default().set(VT_CTL::REPL_EN);
        self.set(PF, vt_ctl.with(VT_CTL::DEF_PL, vfs.into()));
        self.set(PF, Value::<DTXSWC>::default().set(DTXSWC::LOOPBACK_EN));
        for function in FunctionId::all().take(1 + usize::from(vfs)) {
            let pool = function.pool(vfs).unwrap_or_default();
            self.add_filter(23 - pool, mac_of(function), 1 << pool);
            let vmolr = Value::<VMOLR>::default().set(VMOLR::BAM).set(VMOLR::AUPE);
            self.set_at(PF, pool, vmolr);
        }
        let all = (1u32 << vfs) - 1;
        self.set(PF, Value::<VFRE>::from_raw(all));
        self.set(PF, Value::<VFTE>::from_raw(all));
        self.set(PF, Value::<CTRL_EXT>::default().set(CTRL_EXT::PFRSTD));
        for function in FunctionId::vfs().take(vfs.into()) {
            self.set_config16(function, header::COMMAND, command::BUS_MASTER);
        }
    }

    pub(crate) fn add_filter(&mut self, n: u32, mac: MacAddress, pools: u32) {
        let (low, high) = mac.to_words();
        self.set_at(PF, n, Value::<RAL>::from_raw(low));
        let high = Value::<RAH>::from_raw(high.into())
            .with(RAH::POOLSEL, pools)
            .set(RAH::AV);
        self.set_at(PF, n, high);
    }

    pub(crate) fn add_vlan(&mut self, n: u32, vid: u32, pools: u32) {
        let word = vid / 32;
        let vfta = self.get_at::<VFTA>(PF, word).raw() | 1 << (vid % 32);
        self.set_at(PF, word, Value::<VFTA>::from_raw(vfta));
        let entry = Value::<VLVF>::default()
            .set(VLVF::VI_EN)
            .with(VLVF::VLAN_ID, vid);
        self.set_at(PF, n, entry.with(VLVF::POOLSEL, pools));
    }

    // Queues.

    pub(crate) fn driver(&mut self, f: FunctionId) -> &mut Driver {
        &mut self.drivers[f.slot()]
    }

    pub(crate) fn slot(&self, f: FunctionId, register: QueueRegister) -> u32 {
        let queue = self.drivers[f.slot()].queue;
        let (page, at) = queue_page::slot(f.kind(), queue, register).unwrap();
        page.offset(f.kind()) + at
    }

    pub(crate) fn set_queue(
        &mut self,
        f: FunctionId,
        register: QueueRegister,
        value: u32,
    ) -> Applied {
        let at = self.slot(f, register);
        self.write32(f, at, value)
    }

    pub(crate) fn get_queue(&mut self, f: FunctionId, register: QueueRegister) -> u32 {
        let at = self.slot(f, register);
        self.read32(f, at)
    }

    /// Set up both rings of the function's first queue, with every receive buffer given.
    pub(crate) fn open_queue(&mut self, f: FunctionId) {
        let vfs = self.control.num_vfs_enabled();
        let queue = if f.is_vf() {
            0
        } else {
            f.pool(vfs).unwrap_or_default()
        };
        let driver = self.driver(f);
        driver.queue = queue;
        (driver.rx_next, driver.tx_next) = (0, 0);
        let Driver {
            entries, buffer, ..
        } = *driver;
        for n in 0..entries {
            self.post(f, n, RX_BUFFERS + u64::from(n * buffer));
        }
        let bytes = entries * SIZE as u32;
        for (register, value) in [
            (QueueRegister::RDBAL, RX_RING as u32),
            (QueueRegister::RDBAH, 0),
            (QueueRegister::RDLEN, bytes),
            (QueueRegister::RDH, 0),
            (QueueRegister::RDT, entries - 1),
            (
                QueueRegister::SRRCTL,
                Value::<SRRCTL>::default()
                    .with(SRRCTL::DESCTYPE, 1)
                    .with(SRRCTL::BSIZEPACKET, buffer / 1024)
                    .raw(),
            ),
            (QueueRegister::RXDCTL, RXDCTL::ENABLE.mask()),
            (QueueRegister::TDBAL, TX_RING as u32),
            (QueueRegister::TDBAH, 0),
            (QueueRegister::TDLEN, bytes),
            (QueueRegister::TDH, 0),
            (QueueRegister::TDT, 0),
            (QueueRegister::TXDCTL, TXDCTL::ENABLE.mask()),
        ] {
            self.set_queue(f, register, value);
        }
    }

    pub(crate) fn poke(&mut self, f: FunctionId, at: u64, bytes: &[u8]) {
        self.host.memory[f.slot()][at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn peek(&self, f: FunctionId, at: u64, len: usize) -> Vec<u8> {
        self.host.memory[f.slot()][at as usize..at as usize + len].to_vec()
    }

    /// Make descriptor `n` a free one.
    pub(crate) fn post(&mut self, f: FunctionId, n: u32, buffer: u64) {
        let at = RX_RING + u64::from(n) * SIZE as u64;
        self.poke(f, at, &RxRead::new(buffer, 0).to_bytes());
    }

    /// Put a descriptor at the driver's place in the transmit ring and count on.
    pub(crate) fn push_tx(&mut self, f: FunctionId, raw: [u8; SIZE]) -> u32 {
        let Driver {
            tx_next, entries, ..
        } = *self.driver(f);
        self.poke(f, TX_RING + u64::from(tx_next) * SIZE as u64, &raw);
        self.driver(f).tx_next = (tx_next + 1) % entries;
        tx_next
    }

    /// Where the bytes of the next frame go.
    pub(crate) fn tx_buffer(&mut self, f: FunctionId) -> u64 {
        TX_BUFFERS + u64::from(self.driver(f).tx_next) * TX_BUFFER
    }

    pub(crate) fn ring_tx(&mut self, f: FunctionId) {
        let tail = self.driver(f).tx_next;
        assert!(self.set_queue(f, QueueRegister::TDT, tail).kick);
    }

    /// Queue a frame with these commands besides EOP and RS.
    pub(crate) fn queue_tx(&mut self, f: FunctionId, frame: &[u8], extra: TxCommand) {
        let at = self.tx_buffer(f);
        self.poke(f, at, frame);
        let command = TxCommand::EOP | TxCommand::RS | TxCommand::IFCS | extra;
        let data = TxData::new(at, frame.len() as u16, command);
        self.push_tx(f, data.with_payload_length(frame.len() as u32).to_bytes());
    }

    /// Send a frame and let the card run.
    pub(crate) fn send(&mut self, f: FunctionId, frame: &[u8]) {
        self.queue_tx(f, frame, TxCommand::empty());
        self.ring_tx(f);
        self.run();
    }

    /// Let the card run until there is no more to do, within bounds.
    pub(crate) fn run(&mut self) {
        for _ in 0..64 {
            let progress = self.path.run(&mut self.host, &mut self.events);
            self.absorb();
            if !progress.more {
                return;
            }
        }
        panic!("the card does not come to rest");
    }

    pub(crate) fn absorb(&mut self) {
        self.control.absorb(&self.events, &mut self.host);
        self.events.clear();
    }

    pub(crate) fn wire_sends(&mut self, frame: &[u8]) {
        self.path
            .uplink_receive(frame, &mut self.host, &mut self.events);
        self.absorb();
    }

    /// The next descriptor that the card has written back, and what its buffer holds.
    pub(crate) fn take_descriptor(&mut self, f: FunctionId) -> Option<(RxWriteBack, Vec<u8>)> {
        let Driver {
            rx_next,
            entries,
            buffer,
            ..
        } = *self.driver(f);
        let at = RX_RING + u64::from(rx_next) * SIZE as u64;
        let bytes: [u8; SIZE] = self.peek(f, at, SIZE).try_into().unwrap();
        let done = RxWriteBack::from_bytes(&bytes);
        if !done.is_done() {
            return None;
        }
        let data_at = RX_BUFFERS + u64::from(rx_next * buffer);
        let data = self.peek(f, data_at, done.length().into());
        self.post(f, rx_next, data_at);
        self.set_queue(f, QueueRegister::RDT, rx_next);
        self.driver(f).rx_next = (rx_next + 1) % entries;
        Some((done, data))
    }

    /// The frames that the function has received.
    pub(crate) fn take(&mut self, f: FunctionId) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut frame = Vec::new();
        while let Some((done, data)) = self.take_descriptor(f) {
            frame.extend_from_slice(&data);
            if done.status().contains(igb::descriptor::RxStatus::EOP) {
                frames.push(std::mem::take(&mut frame));
            }
        }
        assert!(frame.is_empty(), "a frame without an end");
        frames
    }

    pub(crate) fn dropped(&self, f: FunctionId, reason: DropReason) -> u64 {
        self.control.snapshot().function(f).drops.get(reason)
    }

    pub(crate) fn report(&self, f: FunctionId) -> &PortReport {
        self.control.snapshot().function(f)
    }
}

/// A frame of `len` bytes.
pub(crate) fn frame(to: MacAddress, from: MacAddress, len: usize) -> Vec<u8> {
    let mut bytes = [to.0, from.0].concat();
    bytes.extend_from_slice(&igb::frame::ETHERTYPE_EXPERIMENTAL.to_be_bytes());
    bytes.extend(
        (0..)
            .map(|n: usize| (n * 7 + n / 256) as u8)
            .take(len - bytes.len()),
    );
    bytes
}

/// The same frame with a tag in it.
pub(crate) fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    bytes.extend_from_slice(&igb::frame::ETHERTYPE_VLAN.to_be_bytes());
    bytes.extend_from_slice(&tci.to_be_bytes());
    bytes.extend_from_slice(&frame[12..]);
    bytes
}

const _: () = assert!(FCS_LENGTH == 4);
