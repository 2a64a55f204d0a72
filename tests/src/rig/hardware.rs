//! Our card as the mediator would have a real one from the kernel's VFIO: a stand-in for what hardware
//! does not do for its client.

use std::collections::HashMap;
use std::error::Error;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use igb::{Access, Register, vf};
use iommu::function::{
    DmaAccess, DmaHandler, Function, FunctionError, Interposer, Region, RegionFlags, region,
};
use mediator::limits::Limits;
use mediator::nic::Nic;
use mediator::passthrough::Passthrough;

use super::CardNic;

/// Registers by their offsets.
type Registers = Vec<(u64, [u8; 4])>;

/// A card whose VFs are hardware.
pub(super) struct HardwareNic {
    card: CardNic,
    limits: Limits,
    /// What was in a VF's registers when it was last closed.
    left: Arc<Mutex<HashMap<u16, Registers>>>,
}

impl HardwareNic {
    pub(super) fn new(card: CardNic, limits: Limits) -> Self {
        Self {
            card,
            limits,
            left: Arc::default(),
        }
    }
}

impl Nic for HardwareNic {
    fn connect(&self, vf: u16) -> Result<Arc<dyn Function>, Box<dyn Error + Send + Sync>> {
        let inner = self.card.connect(vf)?;
        let function = HardwareVf {
            inner,
            vf,
            left: Arc::clone(&self.left),
        };
        Ok(Arc::new(Passthrough::new(Arc::new(function), &self.limits)))
    }
}

/// A VF of it. Its registers are nobody's memory, it asks nobody for memory, and neither closing nor
/// resetting it clears more than its enables.
struct HardwareVf {
    inner: Arc<dyn Function>,
    vf: u16,
    left: Arc<Mutex<HashMap<u16, Registers>>>,
}

impl HardwareVf {
    /// What a reset leaves as it is.
    fn registers(&self) -> Registers {
        let kept = vf::WINDOW.iter().filter(|info| {
            let enables = [
                vf::VTCTRL::OFFSET,
                vf::V2PMAILBOX::OFFSET,
                vf::RXDCTL::OFFSET,
                vf::TXDCTL::OFFSET,
            ];
            info.access == Access::ReadWrite && !enables.contains(&info.offset)
        });
        let offsets = kept.flat_map(|info| {
            (0..info.count).map(|index| u64::from(info.offset + index * info.stride))
        });
        let read = |offset| {
            let mut value = [0; 4];
            self.inner.read(region::BAR0, offset, &mut value).ok()?;
            Some((offset, value))
        };
        offsets.filter_map(read).collect()
    }
}

impl Drop for HardwareVf {
    fn drop(&mut self) {
        let registers = self.registers();
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.vf, registers);
    }
}

impl Interposer for HardwareVf {
    fn inner(&self) -> &dyn Function {
        self.inner.as_ref()
    }

    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        let region = self.inner.region(index)?;
        Ok(Region {
            size: region.size,
            flags: region.flags - RegionFlags::MMAP,
            ..Region::absent()
        })
    }

    fn reset(&self) -> Result<(), FunctionError> {
        let closed = self
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.vf);
        let left = closed.unwrap_or_else(|| self.registers());
        self.inner.reset()?;
        for (offset, value) in left {
            self.inner.write(region::BAR0, offset, &value)?;
        }
        Ok(())
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        assert!(file.is_some(), "hardware is given memory only");
        self.inner.dma_map(iova, size, access, file)
    }

    fn set_dma_handler(&self, _: Arc<dyn DmaHandler>) {}
}
