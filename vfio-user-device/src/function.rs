//! One function of a card, as the vfio-user server and the in-process backend see it.

use std::sync::Arc;

use igb::FunctionId;
use igb_model::CardRegion;
use iommu::address_space::InspectedWindow;
use nix::errno::Errno;
use vfio_user::device::{Device, DmaClient, DmaWindow, Irq, IrqAction, Region, RegionFlags};

use crate::card::{Card, CardState};
use crate::interrupts::{Change, Followup};
use crate::lock;
use crate::view::View;

/// A function of a card, in one incarnation: a VF that is disabled and enabled again is another
/// device, and this one stays dead.
pub(crate) struct CardFunction {
    card: Arc<CardState>,
    id: FunctionId,
    incarnation: u64,
    /// Keeps the worker running for users in process; sockets are ended by whoever owns the card.
    _owner: Option<Arc<Card>>,
}

impl CardFunction {
    pub(crate) fn new(card: &Arc<CardState>, id: FunctionId, owner: Option<Arc<Card>>) -> Self {
        let view = card.view(id);
        let seen = view.incarnation();
        // A VF that is not enabled has an even number, which no living device has: make it one that
        // never comes.
        let incarnation = if seen.is_multiple_of(2) {
            u64::MAX - 1
        } else {
            seen
        };
        Self {
            card: Arc::clone(card),
            id,
            incarnation,
            _owner: owner,
        }
    }

    fn view(&self) -> &View {
        self.card.view(self.id)
    }

    fn whose(&self) -> (FunctionId, u64) {
        (self.id, self.incarnation)
    }

    fn is_alive(&self) -> bool {
        self.view().incarnation() == self.incarnation
    }

    fn card_region(&self, index: u32) -> Option<CardRegion> {
        CardRegion::from_vfio_index(self.id.kind(), index)
    }
}

impl Device for CardFunction {
    fn connected(&self, dma: Arc<dyn DmaClient>) {
        self.card.connected(self.whose(), dma);
    }

    fn disconnected(&self) {
        self.card.disconnected(self.whose());
    }

    fn region(&self, index: u32) -> Region {
        let Some(region) = self.card_region(index) else {
            return Region::absent();
        };
        let mut described = Region::trapped(region.size(self.id.kind()));
        if region == CardRegion::Bar0
            && self.is_alive()
            && let Some((fd, sparse)) = self.view().pages().mappable()
        {
            described.flags |= RegionFlags::MMAP;
            described.sparse = sparse;
            described.fd = Some(fd);
        }
        described
    }

    fn irq(&self, index: u32) -> Irq {
        self.view().interrupts.describe(index)
    }

    fn region_read(&self, index: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let region = self.card_region(index).ok_or(Errno::EINVAL)?;
        self.card.read(self.whose(), (region, offset), data);
        Ok(())
    }

    fn region_write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let region = self.card_region(index).ok_or(Errno::EINVAL)?;
        self.card.write(self.whose(), (region, offset), data);
        Ok(())
    }

    fn dma_map(&self, window: DmaWindow) -> Result<(), Errno> {
        // Before the lock: a descriptor of somebody else's may take any time.
        let window = InspectedWindow::of(window)?;
        let view = self.view();
        let _tenancy = lock(&view.tenancy);
        if !self.is_alive() {
            return Err(Errno::ENODEV);
        }
        view.space.map_inspected(window)
    }

    fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), Errno> {
        let view = self.view();
        let _tenancy = lock(&view.tenancy);
        if !self.is_alive() {
            return Err(Errno::ENODEV);
        }
        view.space.unmap(iova, size)
    }

    fn dma_unmap_all(&self) {
        let view = self.view();
        let _tenancy = lock(&view.tenancy);
        if self.is_alive() {
            view.space.unmap_all();
        }
    }

    fn set_irqs(&self, index: u32, start: u32, action: IrqAction) -> Result<(), Errno> {
        // Before the lock, likewise.
        let change = Change::try_from(action)?;
        let view = self.view();
        let followup = {
            let _tenancy = lock(&view.tenancy);
            if !self.is_alive() {
                return Err(Errno::ENODEV);
            }
            view.interrupts.set(index, start, change)?
        };
        match followup {
            Followup::None => {}
            Followup::RetryPending => self.card.retry_pending(self.id),
            Followup::Resample => self.card.kick.ring(),
        }
        Ok(())
    }

    fn reset(&self) {
        self.card.reset(self.whose());
    }
}
