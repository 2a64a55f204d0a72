//! The world that the model asks for: interrupts, queue pages, memory of the functions, the wire.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard as PagesGuard;
use igb::FunctionId;
use igb::function::FUNCTION_COUNT;
use igb_model::{
    ControlHost, CopyFault, DataHost, Direction, DmaFault, FaultCause, Port, QueuePage, Signal,
};
use iommu::address_space::{self, Guard};

use crate::capture::{CaptureTap, Crossing};
use crate::queue_pages::QueuePages;
use crate::uplink::{Uplink, UplinkLoss};
use crate::view::View;

/// How long the card may wait for the memory of one function in a round. Far more than a round of
/// messages to a client that answers at once takes, and of eight that do not a visitor of the data
/// path (QEMU gives up after 5 s) still has its turn.
const TURN: Duration = Duration::from_millis(50);

/// The views of a card, by [`FunctionId::slot`].
pub(crate) type Views = [View; FUNCTION_COUNT];

/// What registers reach.
pub(crate) struct RegisterHost<'a> {
    pub(crate) views: &'a Views,
}

impl ControlHost for RegisterHost<'_> {
    fn interrupt(&mut self, function: FunctionId, signal: Signal) -> bool {
        self.views[function.slot()].interrupts.signal(signal)
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
}

/// What the data path reaches, for one burst: address spaces and pages stay as they are while it
/// lives.
pub(crate) struct BurstHost<'a> {
    views: &'a Views,
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
        uplink: &'a dyn Uplink,
        capture: Option<&'a CaptureTap>,
        first_interface: u32,
    ) -> Self {
        Self {
            views,
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
        self.access(function, (iova, data.len()), |space| space.read(iova, data))
    }

    fn dma_write(&mut self, function: FunctionId, iova: u64, data: &[u8]) -> Result<(), DmaFault> {
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
        self.access(function, (iova, 8), |space| {
            space.store_u64_release(iova, value)
        })
    }

    fn dma_copy(
        &mut self,
        from: (FunctionId, u64),
        to: (FunctionId, u64),
        len: usize,
    ) -> Result<(), CopyFault> {
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
        match self.uplink.send(frame) {
            Ok(()) => {}
            Err(UplinkLoss::NoPeer) => self.losses.no_peer += 1,
            Err(UplinkLoss::Full) => self.losses.full += 1,
            Err(UplinkLoss::Failed) => self.losses.failed += 1,
        }
    }

    fn capturing(&self) -> bool {
        self.capture.is_some()
    }

    fn capture(&mut self, port: Port, direction: Direction, frame: &[u8]) {
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

    /// Answers, but takes its time.
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
        let mut host = BurstHost::new(&views, &*uplink, None, 0);
        assert!(host.has_turn(slow));
        host.dma_read(slow, 0x1000, &mut [0; 8]).expect("an answer");
        host.dma_write(slow, 0x1000, &[0; 8]).expect("an answer");
        assert!(!host.has_turn(slow));
        assert!(host.has_turn(other));
        drop(host);
        assert!(BurstHost::new(&views, &*uplink, None, 0).has_turn(slow));
    }
}
