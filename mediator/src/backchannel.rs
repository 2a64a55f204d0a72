//! The card's own mailbox, behind the mediator's: closed by the card, or fenced by the mediator alone.
//!
//! No access of a client's to page 0's mailbox reaches the card either way. What differs is who else
//! could use it: a card that closes its mailbox closes it for everybody, a card that does not leaves it
//! open to whoever opens the VF without the mediator. No card is asked whether it does: it is tried.

use igb::{Register, vf};
use iommu::function::{Function, FunctionError};
use serde::{Deserialize, Serialize};
use vfio_user::device::region;

/// Whether the card's own mailbox keeps what a VF writes into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backchannel {
    /// The card keeps nothing.
    Closed,
    /// The card would carry it to the PF. Nothing of it gets past the mediator.
    Fenced,
}

/// The last word of the memory, which no message is long enough to use.
const WORD: u32 = igb::mailbox::WORDS as u32 - 1;
/// Neither what a reset leaves nor what a lost function reads as.
const PATTERN: u32 = 0x5A82_576A;

impl Backchannel {
    /// Its name in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Fenced => "fenced",
        }
    }

    /// Write a word into the mailbox memory of a VF that nobody uses, see whether it is kept, and
    /// leave none. Without REQ nobody on the other side is told.
    pub(crate) fn try_out(function: &dyn Function) -> Result<Self, FunctionError> {
        let at = vf::VMBMEM::offset(WORD).into();
        function.write(region::BAR0, at, &PATTERN.to_le_bytes())?;
        let mut kept = [0; 4];
        function.read(region::BAR0, at, &mut kept)?;
        if kept != PATTERN.to_le_bytes() {
            return Ok(Self::Closed);
        }
        function.write(region::BAR0, at, &[0; 4])?;
        Ok(Self::Fenced)
    }
}
