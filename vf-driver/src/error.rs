//! What can go wrong in a VF.

use igb_driver::DriverError;
use iommu::container::ContainerError;
use iommu::function::FunctionError;
use iommu::interrupt::InterruptError;
use mediator_protocol::{Invalid, Status};

/// A step of the VF driver failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfError {
    /// The function is no 82576 VF.
    #[error(
        "the function is {vendor:04x}:{device:04x}, this driver is for {expected:04x}; for a PF use pf-driver"
    )]
    Identity {
        /// Vendor id found.
        vendor: u16,
        /// Device id found.
        device: u16,
        /// Device id expected.
        expected: u16,
    },
    /// The function did not do what it was told.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// Registers, rings or interrupts.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// DMA memory could not be had.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The way to the PF.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// Asking the PF failed before the PF could judge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The function did not do what it was told.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// Nothing to wait with.
    #[error(transparent)]
    Interrupt(#[from] InterruptError),
    /// No BAR of the mediator.
    #[error(
        "there is no mediated channel here: this VF has no BAR of a mediator. Use the VF's socket in \
         the mediator's --socket-dir, or --channel mailbox on a card with --mailbox open"
    )]
    NoMediator,
    /// The mediator speaks another version.
    #[error("the mediator's BAR has version {found}, this driver knows {known}")]
    Version {
        /// What it says.
        found: u32,
        /// What we know.
        known: u32,
    },
    /// The mailbox does not take the VF's bits.
    #[error(
        "the hardware mailbox of this VF is closed: V2PMAILBOX does not keep VFU. That is the card's \
         default: run the mediator and use --channel mediated, or start the card with --mailbox open"
    )]
    MailboxClosed,
    /// The PF did not take or answer the message.
    #[error("the PF did not {what} within {millis} ms; is a PF driver running?")]
    NoAnswer {
        /// What it did not do.
        what: &'static str,
        /// How long was waited.
        millis: u64,
    },
    /// The PF is in reset.
    #[error("the PF is in reset")]
    PfReset,
    /// The answer makes no sense.
    #[error("the answer of the PF makes no sense: {0}")]
    Answer(#[from] Invalid),
    /// The PF's answer to the mailbox message does not belong to it.
    #[error("the PF answered {found:#010x} to mailbox message {sent:#x}")]
    Mismatch {
        /// The first word of the answer.
        found: u32,
        /// The message that was sent.
        sent: u32,
    },
    /// A step of the handshake was refused.
    #[error("the PF refused {what}: {status:?}")]
    Refused {
        /// The step.
        what: &'static str,
        /// Its verdict.
        status: Status,
    },
    /// What this channel has no message for.
    #[error("the mailbox has no message for {0}")]
    NoMessage(&'static str),
}

impl VfError {
    /// Whether the function is gone for good.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Function(error) | Self::Channel(ChannelError::Function(error)) => {
                matches!(error, FunctionError::Lost)
            }
            Self::Driver(error) => error.is_lost(),
            _ => false,
        }
    }
}
