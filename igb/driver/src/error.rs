//! What can go wrong between a driver and its card.

use iommu::container::ContainerError;
use iommu::function::FunctionError;
use iommu::interrupt::InterruptError;

/// A step of a driver failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The function did not do what it was told.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// No memory for rings or buffers, or the function did not take the mapping.
    #[error("DMA memory cannot be set up: {0}")]
    Memory(#[from] ContainerError),
    /// An event descriptor could not be made or waited for.
    #[error(transparent)]
    Interrupt(#[from] InterruptError),
    /// The region that holds the registers is too small, or absent.
    #[error("BAR0 has {found:#x} bytes, its registers need {needed:#x}; is this an 82576?")]
    Bar {
        /// Bytes it has.
        found: u64,
        /// Bytes its registers need.
        needed: u64,
    },
    /// The function has fewer MSI-X vectors than the driver needs.
    #[error("the function has {found} MSI-X vectors, the driver needs {needed}")]
    Vectors {
        /// Vectors it has.
        found: u32,
        /// Vectors the driver needs.
        needed: u32,
    },
    /// A queue did not start or stop in time.
    #[error("{what} of queue {queue} did not change in time; reset the function")]
    Queue {
        /// The register that did not change.
        what: &'static str,
        /// The queue, as the function counts them.
        queue: u32,
    },
    /// An MTU outside what is allowed.
    #[error("an MTU of {mtu} is not allowed: {min} to {max}")]
    Mtu {
        /// The MTU asked for.
        mtu: u32,
        /// Smallest one.
        min: u32,
        /// Largest one.
        max: u32,
    },
    /// A ring size that the card does not take.
    #[error("{0} descriptors: a ring has 8 to 4096, a power of two")]
    RingSize(usize),
    /// The function refused, or is not in the state for it.
    #[error("{0}")]
    State(&'static str),
    /// Policy: the PF refused.
    #[error("the PF refused {what}: {why}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        why: String,
    },
}

impl DriverError {
    /// Whether the function is gone for good.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Function(error) => matches!(error, FunctionError::Lost),
            Self::Memory(ContainerError::Map { source, .. }) => {
                matches!(source, FunctionError::Lost)
            }
            _ => false,
        }
    }
}
