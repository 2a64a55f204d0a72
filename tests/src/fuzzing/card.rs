//! A card without a server: both machines of the model and a world for them, on one thread.

use igb::function::{FUNCTION_COUNT, FunctionKind};
use igb::pci::{header, offset, sriov};
use igb::queue_page::{Page, QueueRegister, slot};
use igb::{FunctionId, MacAddress, Register, Value};
use igb_model::{
    CardRegion, CardSettings, Control, ControlHost, CopyFault, DataHost, DataPath, DmaFault,
    Effects, Events, FaultCause, FunctionSet, MailboxMode, QueuePage, Signal,
};

/// Bytes of each function's memory, from I/O virtual address 0.
pub(super) const MEMORY: usize = 0x4000;
const PAGE_WORDS: usize = igb::queue_page::SIZE as usize / 4;
/// Where [`Card::enable_ring`] puts rings, and their length in bytes.
pub(super) const TX_RING: u64 = 0x1000;
pub(super) const RX_RING: u64 = 0x2000;
pub(super) const RING_LENGTH: u32 = 256;

/// What the machines ask for.
pub(super) struct World {
    pages: Vec<[u32; PAGE_WORDS]>,
    memory: Vec<Vec<u8>>,
    /// Whose memory was touched.
    pub(super) touched: FunctionSet,
    pub(super) interrupted: FunctionSet,
    /// Bounds what one round may do.
    accesses: u32,
}

fn page_index(function: FunctionId, page: QueuePage) -> usize {
    function.slot() * 2 + usize::from(page == Page::Tx)
}

impl World {
    fn new() -> Self {
        Self {
            pages: vec![[0; PAGE_WORDS]; 2 * FUNCTION_COUNT],
            memory: vec![vec![0; MEMORY]; FUNCTION_COUNT],
            touched: FunctionSet::EMPTY,
            interrupted: FunctionSet::EMPTY,
            accesses: 0,
        }
    }

    fn load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32 {
        assert!(
            offset.is_multiple_of(4) && offset < igb::queue_page::SIZE,
            "page offset {offset:#x}"
        );
        self.pages[page_index(function, page)][offset as usize / 4]
    }

    pub(super) fn store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32) {
        assert!(
            offset.is_multiple_of(4) && offset < igb::queue_page::SIZE,
            "page offset {offset:#x}"
        );
        self.pages[page_index(function, page)][offset as usize / 4] = value;
    }

    /// What the function's driver sees of its queue registers.
    pub(super) fn pages(&self, function: FunctionId) -> [[u32; PAGE_WORDS]; 2] {
        [Page::Rx, Page::Tx].map(|page| self.pages[page_index(function, page)])
    }

    fn clear_pages(&mut self, function: FunctionId) {
        for page in [Page::Rx, Page::Tx] {
            self.pages[page_index(function, page)].fill(0);
        }
    }

    /// The bytes `iova .. iova + len` of a function's memory.
    pub(super) fn window(
        &mut self,
        function: FunctionId,
        iova: u64,
        len: usize,
    ) -> Result<&mut [u8], DmaFault> {
        self.touched.insert(function);
        self.accesses += 1;
        assert!(
            self.accesses < 100_000,
            "a round of the data path does not end"
        );
        let memory = &mut self.memory[function.slot()];
        let range = usize::try_from(iova)
            .ok()
            .and_then(|start| Some(start..start.checked_add(len)?));
        let cause = if iova < MEMORY as u64 {
            FaultCause::Edge
        } else {
            FaultCause::NoWindow
        };
        range
            .and_then(|range| memory.get_mut(range))
            .ok_or(DmaFault { cause })
    }
}

impl ControlHost for World {
    fn interrupt(&mut self, function: FunctionId, signal: Signal) -> bool {
        if let Signal::Msix(vector) = signal {
            assert!(
                u32::from(vector) < function.vectors(),
                "{function} has no vector {vector}"
            );
        }
        self.interrupted.insert(function);
        true
    }

    fn page_load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32 {
        self.load(function, page, offset)
    }

    fn page_store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32) {
        self.store(function, page, offset, value);
    }
}

impl DataHost for World {
    fn dma_read(
        &mut self,
        function: FunctionId,
        iova: u64,
        data: &mut [u8],
    ) -> Result<(), DmaFault> {
        data.copy_from_slice(self.window(function, iova, data.len())?);
        Ok(())
    }

    fn dma_write(&mut self, function: FunctionId, iova: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.window(function, iova, data.len())?
            .copy_from_slice(data);
        Ok(())
    }

    fn dma_store_release(
        &mut self,
        function: FunctionId,
        iova: u64,
        value: u64,
    ) -> Result<(), DmaFault> {
        assert!(iova.is_multiple_of(8), "a release store to {iova:#x}");
        self.dma_write(function, iova, &value.to_le_bytes())
    }

    fn dma_copy(
        &mut self,
        from: (FunctionId, u64),
        to: (FunctionId, u64),
        len: usize,
    ) -> Result<(), CopyFault> {
        let bytes = self
            .window(from.0, from.1, len)
            .map_err(CopyFault::Source)?
            .to_vec();
        self.window(to.0, to.1, len)
            .map_err(CopyFault::Destination)?
            .copy_from_slice(&bytes);
        Ok(())
    }

    fn page_load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32 {
        self.load(function, page, offset)
    }

    fn page_store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32) {
        self.store(function, page, offset, value);
    }

    fn uplink_send(&mut self, frame: &[u8]) {
        assert!(frame.len() <= 1 << 16);
    }
}

/// The card.
pub(super) struct Card {
    pub(super) control: Control,
    data: DataPath,
    pub(super) world: World,
    events: Events,
    now: u64,
}

impl Card {
    pub(super) fn new(mailbox: MailboxMode) -> Self {
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let control = Control::new(CardSettings {
            mac,
            mailbox,
            link_up: true,
        });
        Self {
            control,
            data: DataPath::new(),
            world: World::new(),
            events: Events::new(),
            now: 0,
        }
    }

    /// What a server does after each access.
    pub(super) fn follow(&mut self, effects: Effects) {
        if effects.publish {
            self.data.configure(self.control.config());
        }
        effects
            .clear_pages
            .iter()
            .for_each(|function| self.world.clear_pages(function));
        for function in effects.sync.iter() {
            self.data.sync_queues(function, &mut self.world);
        }
        if let Some(vfs) = effects.vfs {
            assert_eq!(vfs, self.control.num_vfs_enabled());
        }
    }

    pub(super) fn read(
        &mut self,
        function: FunctionId,
        region: CardRegion,
        offset: u64,
        data: &mut [u8],
    ) -> Effects {
        let effects = self
            .control
            .read(function, region, offset, data, &mut self.world);
        self.follow(effects);
        effects
    }

    pub(super) fn write(
        &mut self,
        function: FunctionId,
        region: CardRegion,
        offset: u64,
        data: &[u8],
    ) -> Effects {
        let effects = self
            .control
            .write(function, region, offset, data, &mut self.world);
        self.follow(effects);
        effects
    }

    pub(super) fn reset_function(&mut self, function: FunctionId) {
        let effects = self.control.reset_function(function, &mut self.world);
        self.follow(effects);
    }

    pub(super) fn set_link(&mut self, up: bool) {
        let effects = self.control.set_link(up, &mut self.world);
        self.follow(effects);
    }

    pub(super) fn stop_sriov(&mut self) {
        let effects = self.control.stop_sriov(&mut self.world);
        self.follow(effects);
    }

    pub(super) fn advance(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        self.control.advance(self.now, &mut self.world);
        self.data.advance(self.now);
        let next = self.control.next_deadline();
        assert!(
            next.is_none_or(|at| at > self.now),
            "deadline {next:?} at {} is past",
            self.now
        );
    }

    /// A few rounds of the data path.
    pub(super) fn run(&mut self) {
        self.world.accesses = 0;
        self.world.touched = FunctionSet::EMPTY;
        for function in FunctionId::all() {
            self.data.sync_queues(function, &mut self.world);
        }
        for _ in 0..4 {
            let progress = self.data.run(&mut self.world, &mut self.events);
            self.absorb();
            if !progress.more {
                break;
            }
        }
        self.check_dma();
        let _ = self.data.prepare_sleep(&mut self.world);
        self.data.wake(&mut self.world);
    }

    pub(super) fn uplink_receive(&mut self, frame: &[u8]) {
        self.world.accesses = 0;
        self.world.touched = FunctionSet::EMPTY;
        self.data
            .uplink_receive(frame, &mut self.world, &mut self.events);
        self.absorb();
        self.check_dma();
    }

    fn absorb(&mut self) {
        self.control.absorb(&self.events, &mut self.world);
        self.events.clear();
    }

    /// A queue without an owner does no DMA.
    fn check_dma(&self) {
        let vfs = self.control.num_vfs_enabled();
        for function in self.world.touched.iter() {
            let exists = function.vf_index().is_none_or(|vf| vf < vfs);
            assert!(exists, "DMA of {function} with {vfs} VFs enabled");
        }
    }

    pub(super) fn set<R: Register>(&mut self, function: FunctionId, index: u32, value: Value<R>) {
        let _ = self.write(
            function,
            CardRegion::Bar0,
            R::offset(index).into(),
            &value.raw().to_le_bytes(),
        );
    }

    fn set_config(&mut self, function: FunctionId, at: u16, value: u16) {
        let _ = self.write(
            function,
            CardRegion::Config,
            at.into(),
            &value.to_le_bytes(),
        );
    }

    /// What a PF driver does until frames can pass between all pools.
    pub(super) fn bring_up(&mut self, vfs: u8) {
        let pf = FunctionId::PF;
        let bus = igb::pci::command::MEMORY | igb::pci::command::BUS_MASTER;
        self.set_config(pf, header::COMMAND, bus);
        if self.control.num_vfs_enabled() == 0 && vfs > 0 {
            self.set_config(pf, offset::SRIOV + sriov::NUM_VFS, vfs.into());
            self.set_config(
                pf,
                offset::SRIOV + sriov::CONTROL,
                sriov::VF_ENABLE | sriov::VF_MSE,
            );
        }
        let pools = Value::from_raw(0xFF);
        self.set::<igb::VFRE>(pf, 0, pools);
        self.set::<igb::VFTE>(pf, 0, Value::from_raw(0xFF));
        self.set::<igb::RCTL>(pf, 0, Value::default().set(igb::RCTL::RXEN));
        self.set::<igb::TCTL>(pf, 0, Value::default().set(igb::TCTL::EN));
        // Queues by pool, and every pool takes what has no other taker.
        self.set::<igb::MRQC>(pf, 0, Value::from_raw(3));
        self.set::<igb::DTXSWC>(pf, 0, Value::from_raw(0x8000_0000));
        for pool in 0..igb::function::POOL_COUNT {
            let vmolr = Value::default()
                .set(igb::VMOLR::BAM)
                .set(igb::VMOLR::AUPE)
                .set(igb::VMOLR::ROPE);
            self.set::<igb::VMOLR>(
                pf,
                pool,
                vmolr.set(igb::VMOLR::LPE).with(igb::VMOLR::RLPML, 0x2600),
            );
        }
        for vf in FunctionId::vfs() {
            self.set_config(vf, header::COMMAND, bus);
        }
    }

    /// Give a queue of a function rings in its memory, with all descriptors handed over.
    pub(super) fn enable_ring(&mut self, function: FunctionId, queue: u32) {
        let kind = function.kind();
        let tail = RING_LENGTH / 16 - 1;
        for (register, value) in [
            (QueueRegister::TDBAL, TX_RING as u32),
            (QueueRegister::TDBAH, 0),
            (QueueRegister::TDLEN, RING_LENGTH),
            (QueueRegister::TXDCTL, igb::TXDCTL::ENABLE.mask()),
            (QueueRegister::TDT, tail),
            (QueueRegister::RDBAL, RX_RING as u32),
            (QueueRegister::RDBAH, 0),
            (QueueRegister::RDLEN, RING_LENGTH),
            (
                QueueRegister::SRRCTL,
                1 << igb::SRRCTL::DESCTYPE.shift() | 1,
            ),
            (QueueRegister::RXDCTL, igb::RXDCTL::ENABLE.mask()),
            (QueueRegister::RDT, tail),
        ] {
            if let Some((page, offset)) = slot(kind, queue, register) {
                let offset = page.offset(kind) + offset;
                let _ = self.write(
                    function,
                    CardRegion::Bar0,
                    offset.into(),
                    &value.to_le_bytes(),
                );
            }
        }
    }

    /// Digests of the VFs that exist, and of one more. The PF's covers every register of the card,
    /// and takes far longer: it has a function of its own.
    pub(super) fn digests(&self) -> [u64; FUNCTION_COUNT] {
        let exist = usize::from(self.control.num_vfs_enabled());
        std::array::from_fn(|slot| {
            let function = FunctionId::from_slot(slot).expect("a slot");
            let wanted = function.is_vf() && slot <= exist + 1;
            if wanted {
                self.control.digest(function)
            } else {
                0
            }
        })
    }

    pub(super) fn pf_digest(&self) -> u64 {
        self.control.digest(FunctionId::PF)
    }
}

/// The region that a byte of the input means.
pub(super) fn region(function: FunctionId, byte: u8) -> CardRegion {
    match (function.kind(), byte % 8) {
        (_, 0) => CardRegion::Config,
        (_, 1) => CardRegion::Msix,
        (FunctionKind::Physical, 2) => CardRegion::Flash,
        (FunctionKind::Physical, 3) => CardRegion::Io,
        _ => CardRegion::Bar0,
    }
}
