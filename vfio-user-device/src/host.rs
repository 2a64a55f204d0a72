//! The world that the model asks for: interrupts, queue pages, memory of the functions, the wire.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard as PagesGuard;
use igb::FunctionId;
use igb::function::{FUNCTION_COUNT, QUEUE_COUNT};
use igb::queue_page::{self, QueueRegister};
use igb_model::{
    ControlHost, CopyFault, DataHost, Direction, DmaFault, FaultCause, Port, QueuePage, Ring,
    Signal,
};
use iommu::address_space::{self, Guard};

use crate::capture::{CaptureTap, Crossing};
use crate::inject::{Delayed, DelayedAction, DmaKind, FaultKind, Opportunity};
use crate::kick::Kick;
use crate::queue_pages::QueuePages;
use crate::trace::{EventRecord, SignalName};
use crate::uplink::{Uplink, UplinkLoss};
use crate::view::View;
use crate::watch::Watch;

/// How long the card may wait for the memory of one function in a round. Far more than a round of
/// messages to a client that answers at once takes, and of eight that do not a visitor of the data
/// path (QEMU gives up after 5 s) still has its turn.
const TURN: Duration = Duration::from_millis(50);

/// The views of a card, by [`FunctionId::slot`].
pub(crate) type Views = [View; FUNCTION_COUNT];

/// What registers reach.
pub(crate) struct RegisterHost<'a> {
    views: &'a Views,
    watch: &'a Watch,
    kick: &'a Kick,
    /// Interrupts may be made to fail.
    faults: bool,
}

impl<'a> RegisterHost<'a> {
    pub(crate) fn new(views: &'a Views, watch: &'a Watch, kick: &'a Kick) -> Self {
        Self {
            views,
            watch,
            kick,
            faults: true,
        }
    }

    /// For interrupts that were late already.
    pub(crate) fn without_faults(self) -> Self {
        Self {
            faults: false,
            ..self
        }
    }

    /// Whether an interrupt is made to fail: then the card takes it for delivered.
    fn fails(&self, function: FunctionId, signal: Signal) -> bool {
        let vector = match signal {
            Signal::Msix(vector) => Some(vector),
            Signal::Msi | Signal::Intx { asserted: true } => None,
            Signal::Intx { asserted: false } => {
                self.watch.injector.forget_intx(function);
                return false;
            }
        };
        let detail = || SignalName(signal).to_string();
        let opportunity = Opportunity::Interrupt(vector);
        let Some(strike) = self.watch.strike(Some(function), opportunity, detail) else {
            return false;
        };
        let FaultKind::InterruptLate(time) = strike.kind else {
            return true;
        };
        let due = self.watch.elapsed() + time;
        let action = DelayedAction::Interrupt { function, signal };
        let delayed = self.watch.injector.delay(Delayed { due, action });
        self.kick
            .ring_at(u64::try_from(due.as_nanos()).unwrap_or(u64::MAX));
        delayed
    }
}

impl ControlHost for RegisterHost<'_> {
    fn interrupt(&mut self, function: FunctionId, signal: Signal) -> bool {
        if self.faults && self.fails(function, signal) {
            return true;
        }
        let taken = self.views[function.slot()].interrupts.signal(signal);
        self.watch
            .event(Some(function), || EventRecord::Interrupt { signal, taken });
        taken
    }

    fn page_load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32 {
        self.views[function.slot()].pages().load(page, offset)
    }

    fn page_store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32) {
        self.views[function.slot()]
            .pages()
            .store(page, offset, value);
    }
}

/// Frames for the wire that an uplink did not take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WireLosses {
    pub(crate) no_peer: u64,
    pub(crate) full: u64,
    pub(crate) failed: u64,
    /// Lost on purpose, either way.
    pub(crate) injected: u64,
}

/// What the data path reaches, for one burst: address spaces and pages stay as they are while it
/// lives.
pub(crate) struct BurstHost<'a> {
    views: &'a Views,
    watch: &'a Watch,
    spaces: [OnceCell<Guard<'a>>; FUNCTION_COUNT],
    pages: [OnceCell<PagesGuard<Arc<QueuePages>>>; FUNCTION_COUNT],
    /// How long accesses have taken that were not direct.
    waited: [Duration; FUNCTION_COUNT],
    uplink: &'a dyn Uplink,
    capture: Option<&'a CaptureTap>,
    first_interface: u32,
    pub(crate) losses: WireLosses,
}

impl<'a> BurstHost<'a> {
    pub(crate) fn new(
        views: &'a Views,
        watch: &'a Watch,
        uplink: &'a dyn Uplink,
        capture: Option<&'a CaptureTap>,
        first_interface: u32,
    ) -> Self {
        Self {
            views,
            watch,
            spaces: [const { OnceCell::new() }; FUNCTION_COUNT],
            pages: [const { OnceCell::new() }; FUNCTION_COUNT],
            waited: [Duration::ZERO; FUNCTION_COUNT],
            uplink,
            capture,
            first_interface,
            losses: WireLosses::default(),
        }
    }

    fn space(&self, function: FunctionId) -> &Guard<'a> {
        let slot = function.slot();
        self.spaces[slot].get_or_init(|| self.views[slot].space.enter())
    }

    fn pages(&self, function: FunctionId) -> &QueuePages {
        let slot = function.slot();
        self.pages[slot].get_or_init(|| self.views[slot].pages())
    }

    /// An access of these functions may wait for their clients: let nobody else's windows wait with
    /// it.
    #[cold]
    fn release_others(&mut self, functions: [FunctionId; 2]) {
        for (slot, space) in self.spaces.iter_mut().enumerate() {
            if functions.iter().all(|function| function.slot() != slot) {
                space.take();
            }
        }
    }

    /// Do an access of a function's memory, and note how long it takes if it may wait.
    fn access<T>(
        &mut self,
        function: FunctionId,
        (iova, len): (u64, usize),
        access: impl FnOnce(&Guard<'a>) -> Result<T, address_space::DmaFault>,
    ) -> Result<T, DmaFault> {
        if self.space(function).is_direct(iova, len) {
            return access(self.space(function)).map_err(fault);
        }
        self.release_others([function; 2]);
        let began = Instant::now();
        let result = access(self.space(function)).map_err(fault);
        self.waited[function.slot()] += began.elapsed();
        result
    }
}

/// Faults on purpose.
impl BurstHost<'_> {
    /// Whether this DMA is made to fail.
    fn may_fail(&self, function: FunctionId, iova: u64, kind: DmaKind) -> Result<(), DmaFault> {
        if !self.watch.injector.looks_at(Opportunity::Dma(kind)) {
            return Ok(());
        }
        self.fail(function, iova, kind)
    }

    #[cold]
    fn fail(&self, function: FunctionId, iova: u64, kind: DmaKind) -> Result<(), DmaFault> {
        let kind = match self.ring_at(function, iova) {
            Some(_) => DmaKind::Descriptor,
            None => kind,
        };
        let strike = self
            .watch
            .strike(Some(function), Opportunity::Dma(kind), || {
                format!("{} {iova:#x}", kind.name())
            });
        match strike {
            None => Ok(()),
            Some(_) => Err(DmaFault {
                cause: FaultCause::Io,
            }),
        }
    }

    /// The function's own ring, if it is enabled, that has a descriptor at `iova`.
    pub(crate) fn ring_at(&self, function: FunctionId, iova: u64) -> Option<(Ring, u32)> {
        use QueueRegister::{RDBAH, RDBAL, RDLEN, RXDCTL, TDBAH, TDBAL, TDLEN, TXDCTL};
        let kinds = [
            (Ring::Rx, [RDBAL, RDBAH, RDLEN, RXDCTL]),
            (Ring::Tx, [TDBAL, TDBAH, TDLEN, TXDCTL]),
        ];
        for queue in 0..QUEUE_COUNT {
            for (ring, registers) in kinds {
                let [low, high, len, control] = registers.map(|register| {
                    let (page, offset) = queue_page::slot(function.kind(), queue, register)?;
                    Some(self.page_load(function, page, offset))
                });
                let base = u64::from(high?) << 32 | u64::from(low?);
                // ENABLE is the same bit in both.
                let enabled = igb::RXDCTL::ENABLE.get(control?) != 0;
                let within = iova.checked_sub(base);
                if enabled && within.is_some_and(|at| at < u64::from(len.unwrap_or_default())) {
                    return Some((ring, queue));
                }
            }
        }
        None
    }

    /// Whether a write-back is put off, and then do so.
    #[cold]
    fn is_put_off(&self, function: FunctionId, iova: u64, value: u64) -> bool {
        let Some((ring, queue)) = self.ring_at(function, iova) else {
            return false;
        };
        let opportunity = Opportunity::Writeback;
        let detail = || format!("{iova:#x}");
        let strike = self.watch.strike(Some(function), opportunity, detail);
        let Some(FaultKind::WritebackLate(time)) = strike.map(|strike| strike.kind) else {
            return false;
        };
        let action = DelayedAction::Writeback {
            function,
            ring,
            queue,
            iova,
            value,
        };
        let due = self.watch.elapsed() + time;
        // The worker looks when it is due before it sleeps.
        self.watch.injector.delay(Delayed { due, action })
    }

    /// Write a descriptor back, now.
    pub(crate) fn write_back_late(
        &mut self,
        function: FunctionId,
        iova: u64,
        value: u64,
    ) -> Result<(), DmaFault> {
        self.access(function, (iova, 8), |space| {
            space.store_u64_release(iova, value)
        })
    }
}

/// What happens to a frame on the wire.
pub(crate) enum FrameFault {
    Lost,
    /// Chance says which bit.
    Corrupt(u64),
}

/// Whether a frame on the wire is made to fail.
pub(crate) fn frame_fault(watch: &Watch, len: usize, way: &str) -> Option<FrameFault> {
    let detail = || format!("{way} {len}");
    let strike = watch.strike(None, Opportunity::Frame, detail)?;
    Some(match strike.kind {
        FaultKind::FrameCorrupt => FrameFault::Corrupt(strike.bits),
        _ => FrameFault::Lost,
    })
}

/// Change one bit of a frame's payload.
pub(crate) fn flip(frame: &mut [u8], bit: u64) {
    let payload = frame
        .get_mut(igb::frame::HEADER_LENGTH..)
        .unwrap_or_default();
    if payload.is_empty() {
        return;
    }
    let at = (bit / 8 % payload.len() as u64) as usize;
    payload[at] ^= 1 << (bit % 8);
}

fn cause(cause: address_space::FaultCause) -> FaultCause {
    match cause {
        address_space::FaultCause::NoWindow => FaultCause::NoWindow,
        address_space::FaultCause::Permission => FaultCause::Permission,
        address_space::FaultCause::Edge => FaultCause::Edge,
        address_space::FaultCause::Msi => FaultCause::Msi,
        address_space::FaultCause::BusMasterOff => FaultCause::BusMasterOff,
        address_space::FaultCause::Io => FaultCause::Io,
        address_space::FaultCause::Cancelled => FaultCause::Cancelled,
    }
}

#[cold]
fn fault(fault: address_space::DmaFault) -> DmaFault {
    DmaFault {
        cause: cause(fault.cause),
    }
}

impl DataHost for BurstHost<'_> {
    fn dma_read(
        &mut self,
        function: FunctionId,
        iova: u64,
        data: &mut [u8],
    ) -> Result<(), DmaFault> {
        self.may_fail(function, iova, DmaKind::Read)?;
        self.access(function, (iova, data.len()), |space| space.read(iova, data))
    }

    fn dma_write(&mut self, function: FunctionId, iova: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.may_fail(function, iova, DmaKind::Write)?;
        self.access(function, (iova, data.len()), |space| {
            space.write(iova, data)
        })
    }

    fn dma_store_release(
        &mut self,
        function: FunctionId,
        iova: u64,
        value: u64,
    ) -> Result<(), DmaFault> {
        self.may_fail(function, iova, DmaKind::Write)?;
        if self.watch.injector.looks_at(Opportunity::Writeback)
            && self.is_put_off(function, iova, value)
        {
            return Ok(());
        }
        self.write_back_late(function, iova, value)
    }

    fn dma_copy(
        &mut self,
        from: (FunctionId, u64),
        to: (FunctionId, u64),
        len: usize,
    ) -> Result<(), CopyFault> {
        self.may_fail(from.0, from.1, DmaKind::Read)
            .map_err(CopyFault::Source)?;
        self.may_fail(to.0, to.1, DmaKind::Write)
            .map_err(CopyFault::Destination)?;
        let direct = [from, to].map(|(function, iova)| self.space(function).is_direct(iova, len));
        let began = (direct != [true; 2]).then(|| {
            self.release_others([from.0, to.0]);
            Instant::now()
        });
        let result = address_space::copy(self.space(from.0), from.1, self.space(to.0), to.1, len);
        if let Some(began) = began {
            // Where both may wait, both are charged.
            let took = began.elapsed();
            for ((function, _), _) in [from, to].into_iter().zip(direct).filter(|(_, d)| !d) {
                self.waited[function.slot()] += took;
            }
        }
        result.map_err(|copy| match copy {
            address_space::CopyFault::Source(source) => CopyFault::Source(fault(source)),
            address_space::CopyFault::Destination(target) => CopyFault::Destination(fault(target)),
        })
    }

    fn has_turn(&self, function: FunctionId) -> bool {
        self.waited[function.slot()] < TURN
    }

    fn page_load(&self, function: FunctionId, page: QueuePage, offset: u32) -> u32 {
        self.pages(function).load(page, offset)
    }

    fn page_store(&mut self, function: FunctionId, page: QueuePage, offset: u32, value: u32) {
        self.pages(function).store(page, offset, value);
    }

    fn uplink_send(&mut self, frame: &[u8]) {
        let mut changed = Vec::new();
        let frame = match frame_fault(self.watch, frame.len(), "out") {
            None => frame,
            Some(FrameFault::Lost) => {
                self.losses.injected += 1;
                return;
            }
            Some(FrameFault::Corrupt(bit)) => {
                changed.extend_from_slice(frame);
                flip(&mut changed, bit);
                &changed
            }
        };
        match self.uplink.send(frame) {
            Ok(()) => {}
            Err(UplinkLoss::NoPeer) => self.losses.no_peer += 1,
            Err(UplinkLoss::Full) => self.losses.full += 1,
            Err(UplinkLoss::Failed) => self.losses.failed += 1,
        }
    }

    fn capturing(&self) -> bool {
        self.capture.is_some() || self.watch.traces_frames()
    }

    fn capture(&mut self, port: Port, direction: Direction, frame: &[u8]) {
        if self.watch.traces_frames() {
            self.watch.frame(port, direction, frame);
        }
        let Some(capture) = self.capture else { return };
        let (interface, crossing) = match port {
            // What enters the card here has left the function.
            Port::Function(function) => (
                function.slot(),
                match direction {
                    Direction::Ingress => Crossing::Outbound,
                    Direction::Egress => Crossing::Inbound,
                },
            ),
            Port::Uplink => (
                FUNCTION_COUNT,
                match direction {
                    Direction::Ingress => Crossing::Inbound,
                    Direction::Egress => Crossing::Outbound,
                },
            ),
        };
        capture.record(self.first_interface + interface as u32, crossing, frame);
    }
}

#[cfg(test)]
mod tests {
    use std::array;
    use std::thread;

    use nix::errno::Errno;
    use vfio_user::device::{DmaAccess, DmaClient, DmaWindow};

    use super::*;
    use crate::options::Doorbell;
    use crate::uplink::UplinkSpec;

    /// Answers, but takes its time: the time itself is what is tested, and nothing ends it early.
    struct Slow;

    impl DmaClient for Slow {
        fn dma_read(&self, _iova: u64, _data: &mut [u8]) -> Result<(), Errno> {
            thread::sleep(TURN / 2);
            Ok(())
        }

        fn dma_write(&self, iova: u64, _data: &[u8]) -> Result<(), Errno> {
            self.dma_read(iova, &mut [])
        }

        fn cancel(&self, _iova: u64, _size: u64) {}
    }

    #[test]
    fn a_client_that_takes_its_time_has_had_its_turn() {
        let views: Views = array::from_fn(|slot| {
            View::new(FunctionId::from_slot(slot).expect("a slot"), Doorbell::Trap)
        });
        let [slow, other] = [FunctionId::vf(0), FunctionId::vf(1)];
        let space = &views[slow.slot()].space;
        space.connect(Arc::new(Slow));
        space.set_bus_master(true);
        let window = DmaWindow {
            iova: 0x1000,
            size: 0x1000,
            access: DmaAccess::READ | DmaAccess::WRITE,
            file: None,
        };
        space.map(window).expect("a window");
        let uplink = UplinkSpec::None.open().expect("no uplink");
        let watch = Watch::new(None);
        let mut host = BurstHost::new(&views, &watch, &*uplink, None, 0);
        assert!(host.has_turn(slow));
        host.dma_read(slow, 0x1000, &mut [0; 8]).expect("an answer");
        host.dma_write(slow, 0x1000, &[0; 8]).expect("an answer");
        assert!(!host.has_turn(slow));
        assert!(host.has_turn(other));
        drop(host);
        assert!(BurstHost::new(&views, &watch, &*uplink, None, 0).has_turn(slow));
    }
}
