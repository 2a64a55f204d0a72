//! The world that the model asks for: interrupts, queue pages, memory of the functions, the wire.

use std::cell::OnceCell;
use std::sync::Arc;

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

    fn prepare(&mut self, function: FunctionId, iova: u64, len: usize) {
        if !self.space(function).is_direct(iova, len) {
            self.release_others([function; 2]);
        }
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
        self.prepare(function, iova, data.len());
        self.space(function).read(iova, data).map_err(fault)
    }

    fn dma_write(&mut self, function: FunctionId, iova: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.prepare(function, iova, data.len());
        self.space(function).write(iova, data).map_err(fault)
    }

    fn dma_store_release(
        &mut self,
        function: FunctionId,
        iova: u64,
        value: u64,
    ) -> Result<(), DmaFault> {
        self.prepare(function, iova, 8);
        self.space(function)
            .store_u64_release(iova, value)
            .map_err(fault)
    }

    fn dma_copy(
        &mut self,
        from: (FunctionId, u64),
        to: (FunctionId, u64),
        len: usize,
    ) -> Result<(), CopyFault> {
        let direct = |(function, iova)| self.space(function).is_direct(iova, len);
        if !(direct(from) && direct(to)) {
            self.release_others([from.0, to.0]);
        }
        address_space::copy(self.space(from.0), from.1, self.space(to.0), to.1, len).map_err(
            |copy| match copy {
                address_space::CopyFault::Source(source) => CopyFault::Source(fault(source)),
                address_space::CopyFault::Destination(target) => {
                    CopyFault::Destination(fault(target))
                }
            },
        )
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
