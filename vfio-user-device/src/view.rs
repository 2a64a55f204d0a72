//! What the server holds for one function beside the model: its windows, interrupts and pages, and
//! whose they are at the moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use igb::{FunctionId, pci};
use iommu::address_space::{AddressSpace, Quota};
use iommu::pci::Rid;
use vfio_user::device::DmaClient;

use crate::interrupts::Interrupts;
use crate::message_dma::{FencedDma, Hold};
use crate::options::Doorbell;
use crate::queue_pages::QueuePages;

/// RID of the PF: bus 1, device 0, function 0, behind a root port.
const PF_RID: u16 = 0x0100;

/// What one client may take of the card's process. A function's pages, eventfds and socket come on
/// top; nine functions at this quota stay far below the usual limit of open files.
const QUOTA: Quota = Quota {
    windows: 65535,
    files: 64,
    bytes: 1 << 40,
};

/// One function's view of the card.
pub(crate) struct View {
    pub(crate) id: FunctionId,
    pub(crate) space: AddressSpace,
    pub(crate) interrupts: Interrupts,
    pages: ArcSwap<QueuePages>,
    doorbell: Doorbell,
    /// Grows when a VF is enabled and when it is disabled; odd while it is enabled. A
    /// [`crate::CardFunction`] of another incarnation is a device that was pulled out. Changed under
    /// the control lock only.
    incarnation: AtomicU64,
    /// Held over every change of what belongs to the tenant, so that none can slip in after its end.
    /// Taken after the data path's lock, if both are.
    pub(crate) tenancy: Mutex<()>,
    /// The client's DMA by message, while a client is there.
    dma: ArcSwapOption<FencedDma>,
}

impl View {
    pub(crate) fn new(id: FunctionId, doorbell: Doorbell) -> Self {
        let rid = id.vf_index().map_or(PF_RID, |n| pci::vf_rid(PF_RID, n));
        let view = Self {
            id,
            space: AddressSpace::new(Rid(rid), QUOTA),
            interrupts: Interrupts::new(id),
            pages: ArcSwap::from_pointee(QueuePages::private(id)),
            doorbell,
            // The PF is always there.
            incarnation: AtomicU64::new(u64::from(!id.is_vf())),
            tenancy: Mutex::default(),
            dma: ArcSwapOption::empty(),
        };
        view.replace_pages();
        view
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        !self.incarnation().is_multiple_of(2)
    }

    /// Note that a VF is enabled or not; whether that changed anything. Under the control lock.
    pub(crate) fn set_enabled(&self, enabled: bool) -> bool {
        let changes = self.is_enabled() != enabled;
        if changes {
            self.incarnation.fetch_add(1, Ordering::AcqRel);
        }
        changes
    }

    pub(crate) fn pages(&self) -> arc_swap::Guard<Arc<QueuePages>> {
        self.pages.load()
    }

    /// Whether the client stores into the queue pages directly.
    pub(crate) fn shares_pages(&self) -> bool {
        self.pages().are_shared()
    }

    /// New zeroed pages; a client that mapped the old ones keeps memory that means nothing. Where
    /// no file can be had, the doorbells of the next client are trapped.
    pub(crate) fn replace_pages(&self) {
        let pages = match self.doorbell {
            Doorbell::Trap => QueuePages::private(self.id),
            Doorbell::Shared => QueuePages::shared(self.id).unwrap_or_else(|error| {
                log::warn!("{}: doorbells are trapped, not shared: {error}", self.id);
                QueuePages::private(self.id)
            }),
        };
        self.pages.store(Arc::new(pages));
    }

    /// Take a client on. Under [`Self::tenancy`].
    pub(crate) fn begin_tenancy(&self, client: Arc<dyn DmaClient>) {
        let dma = Arc::new(FencedDma::new(self.id, client));
        self.space.connect(Arc::clone(&dma) as _);
        self.dma.store(Some(dma));
        if self.doorbell == Doorbell::Shared && !self.shares_pages() {
            self.replace_pages();
        }
    }

    /// Forget all that is the client's. Under [`Self::tenancy`] and the data path's lock, so that
    /// nothing is in flight. Returns whether there was a client.
    pub(crate) fn end_tenancy(&self) -> bool {
        self.space.disconnect();
        self.interrupts.close();
        self.replace_pages();
        self.dma.swap(None).is_some()
    }

    /// Keep DMA messages away from the client until the result is dropped.
    pub(crate) fn hold_dma(&self) -> Option<Hold> {
        self.dma.load().as_ref().map(FencedDma::hold)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.dma.load().is_some()
    }
}
