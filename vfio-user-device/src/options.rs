//! What a card is made with.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use igb::{FunctionId, FunctionKind, MacAddress};
pub use igb_model::MailboxMode;

use crate::capture::Capture;
use crate::inject::InjectSpec;
use crate::trace::Trace;
use crate::uplink::UplinkSpec;

/// How the queue pages of a kind of function reach its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doorbell {
    /// As shared memory: a doorbell is a store. With QEMU every other write of the function then
    /// waits for its answer.
    Shared,
    /// By messages, like all other registers.
    Trap,
}

/// [`Doorbell`] per kind of function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doorbells {
    /// Of the PF.
    pub pf: Doorbell,
    /// Of the VFs.
    pub vf: Doorbell,
}

impl Default for Doorbells {
    fn default() -> Self {
        Self {
            pf: Doorbell::Shared,
            vf: Doorbell::Shared,
        }
    }
}

impl Doorbells {
    pub(crate) fn of(self, function: FunctionId) -> Doorbell {
        match function.kind() {
            FunctionKind::Physical => self.pf,
            FunctionKind::Virtual => self.vf,
        }
    }
}

/// A doorbell mode that the user asked for and that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no doorbell mode: say shared, trap, or per kind as in pf=shared,vf=trap")]
pub struct UnknownDoorbell(String);

impl FromStr for Doorbell {
    type Err = UnknownDoorbell;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "shared" => Ok(Self::Shared),
            "trap" => Ok(Self::Trap),
            _ => Err(UnknownDoorbell(text.to_owned())),
        }
    }
}

impl FromStr for Doorbells {
    type Err = UnknownDoorbell;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains('=') {
            let both = text.parse()?;
            return Ok(Self { pf: both, vf: both });
        }
        let mut doorbells = Self::default();
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("pf", mode)) => doorbells.pf = mode.parse()?,
                Some(("vf", mode)) => doorbells.vf = mode.parse()?,
                _ => return Err(UnknownDoorbell(text.to_owned())),
            }
        }
        Ok(doorbells)
    }
}

/// What a card is made with. [`Default`] is a card for tests: no uplink, nothing recorded.
#[derive(Clone)]
pub struct CardOptions {
    /// Number of the card in its process.
    pub index: usize,
    /// Cards in the process. With more than one, the card's number stands before the names of its
    /// functions in logs, captures and traces.
    pub of: usize,
    /// The PF's address, in the NVM.
    pub mac: MacAddress,
    /// Whether VFs and PF can talk through the card's own mailbox.
    pub mailbox: MailboxMode,
    /// How doorbells are rung.
    pub doorbells: Doorbells,
    /// What stands behind the card's port.
    pub uplink: UplinkSpec,
    /// How long VFs and data path go on without a client of the PF.
    pub pf_grace: Duration,
    /// How long the worker looks for more work before it sleeps.
    pub linger: Duration,
    /// Where every frame is recorded. Interfaces: [`crate::capture_interfaces`].
    pub capture: Option<Arc<Capture>>,
    /// What goes wrong on purpose.
    pub inject: Vec<InjectSpec>,
    /// Where every access and event is recorded.
    pub trace: Option<Arc<Trace>>,
}

impl Default for CardOptions {
    fn default() -> Self {
        Self {
            index: 0,
            of: 1,
            mac: MacAddress::new([0x02, 0x82, 0x57, 0x60, 0, 0]),
            mailbox: MailboxMode::Closed,
            doorbells: Doorbells::default(),
            uplink: UplinkSpec::None,
            pf_grace: Duration::from_secs(10),
            linger: Duration::from_micros(50),
            capture: None,
            inject: Vec::new(),
            trace: None,
        }
    }
}

impl CardOptions {
    /// `card1/` where there are several cards, nothing otherwise.
    pub fn prefix(&self) -> String {
        if self.of > 1 {
            format!("card{}/", self.index)
        } else {
            String::new()
        }
    }

    /// The address of card `index` where `self.mac` is the first card's: each has 16 of its own.
    pub fn mac_of(first: MacAddress, index: usize) -> MacAddress {
        let bytes = first.bytes();
        let low = u32::from_be_bytes([0, bytes[3], bytes[4], bytes[5]]);
        let low = low.wrapping_add(16 * index as u32).to_be_bytes();
        MacAddress::new([bytes[0], bytes[1], bytes[2], low[1], low[2], low[3]])
    }
}

impl fmt::Debug for CardOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CardOptions")
            .field("index", &self.index)
            .field("mac", &self.mac)
            .field("uplink", &self.uplink)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doorbells_are_told_for_both_kinds_or_for_each() {
        let both = |pf, vf| Ok(Doorbells { pf, vf });
        assert_eq!("trap".parse(), both(Doorbell::Trap, Doorbell::Trap));
        assert_eq!("pf=trap".parse(), both(Doorbell::Trap, Doorbell::Shared));
        assert_eq!(
            "vf=trap,pf=shared".parse(),
            both(Doorbell::Shared, Doorbell::Trap)
        );
        for text in ["", "both", "pf=", "pf=trap,", "vf0=trap"] {
            assert!(text.parse::<Doorbells>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn cards_have_addresses_apart() {
        let first = MacAddress::new([2, 0, 0, 0, 0xFF, 0xF8]);
        assert_eq!(CardOptions::mac_of(first, 0), first);
        assert_eq!(
            CardOptions::mac_of(first, 1),
            MacAddress::new([2, 0, 0, 1, 0, 8])
        );
    }
}
