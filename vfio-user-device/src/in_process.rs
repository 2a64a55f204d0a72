//! The card in the process of somebody's test: no socket, no program, no second process.
//!
//! ```
//! use vfio_user_device::InProcessCard;
//!
//! let card = InProcessCard::builder().build().unwrap();
//! let pf = card.pf(); // an `iommu::function::Function`, as a driver takes it
//! # let _ = pf;
//! card.wire().send(&[0xFF; 60]); // to the driver
//! card.set_link(false);
//! assert!(!card.stats().link_up);
//! ```
//!
//! A driver that is written against [`iommu::function::Function`] gets one of these functions instead
//! of one on kernel VFIO or on a socket; everything else, DMA and interrupts, is the same. The file
//! `tests/own_driver.rs` of this crate is a driver and its test to start from.

mod standing_pf;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use igb::{FunctionId, MacAddress};
use igb_model::Snapshot;
use iommu::backend::InProcess;

use crate::card::{Card, CardError};
use crate::inject::{InjectSpec, TooManyRules};
use crate::options::{CardOptions, Doorbells, MailboxMode};
use crate::trace::{Entry, Trace, TraceError};

use standing_pf::StandingPf;
pub use standing_pf::StandingPfError;
pub use wire::Wire;

/// Why there is no card in process.
#[derive(Debug, thiserror::Error)]
pub enum InProcessError {
    /// The card could not be made.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Nothing to trace with.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The VFs could not be enabled.
    #[error("the PF that enables the VFs: {0}")]
    StandingPf(#[from] StandingPfError),
    /// More VFs than there are.
    #[error("an 82576 has {max} VFs, not {0}", max = igb::function::VF_COUNT)]
    TooManyVfs(u8),
}

fn connect(card: &Arc<Card>, function: FunctionId) -> Result<Arc<InProcess>, CardError> {
    Ok(Arc::new(InProcess::new(card.function(function))?))
}

/// Makes an [`InProcessCard`].
#[must_use]
pub struct InProcessCardBuilder {
    options: CardOptions,
    vfs: u8,
    frames: bool,
}

impl InProcessCardBuilder {
    /// Enable so many VFs and let them reach each other, the PF and the wire, each by its own address
    /// and by broadcast: for the test of a VF driver without a PF driver. A small PF driver stands
    /// behind them until the card is dropped; with an open [`Self::mailbox`] it gives a VF that asks
    /// its address and grants another one, multicast and a length, and refuses all else.
    pub fn vfs(mut self, vfs: u8) -> Self {
        self.vfs = vfs;
        self
    }

    /// The PF's address.
    pub fn mac(mut self, mac: MacAddress) -> Self {
        self.options.mac = mac;
        self
    }

    /// Whether the card's own mailbox carries messages between VFs and PF; closed by default.
    pub fn mailbox(mut self, mode: MailboxMode) -> Self {
        self.options.mailbox = mode;
        self
    }

    /// How doorbells are rung; shared by default.
    pub fn doorbells(mut self, doorbells: Doorbells) -> Self {
        self.options.doorbells = doorbells;
        self
    }

    /// How long VFs go on without a client of the PF; 10 s by default.
    pub fn pf_grace(mut self, grace: Duration) -> Self {
        self.options.pf_grace = grace;
        self
    }

    /// Something that goes wrong, from the start. A rule is text that parses; see
    /// [`crate::inject::HELP`].
    pub fn inject(mut self, spec: InjectSpec) -> Self {
        self.options.inject.push(spec);
        self
    }

    /// Frames are in the trace, too.
    pub fn trace_frames(mut self) -> Self {
        self.frames = true;
        self
    }

    /// Power it up.
    ///
    /// # Errors
    ///
    /// There are not that many VFs, or no descriptors, memory or threads are left.
    pub fn build(self) -> Result<InProcessCard, InProcessError> {
        if self.vfs > igb::function::VF_COUNT {
            return Err(InProcessError::TooManyVfs(self.vfs));
        }
        let trace = Trace::in_memory(self.frames)?;
        let mac = self.options.mac;
        let options = CardOptions {
            trace: Some(Arc::clone(&trace)),
            ..self.options
        };
        let (wire, uplink) = wire::cable().map_err(CardError::from)?;
        let card = Card::with_uplink(options, Box::new(uplink))?;
        let standing_pf = match self.vfs {
            0 => None,
            vfs => {
                let pf = connect(&card, FunctionId::PF)?;
                Some(StandingPf::start(pf, vfs, mac)?)
            }
        };
        Ok(InProcessCard {
            standing_pf,
            card,
            wire,
            trace,
            mac,
        })
    }
}

/// An emulated 82576 in this process, its wire in the test's hand. Dropping it ends it, once every
/// function taken from it is dropped too.
pub struct InProcessCard {
    // Before the card: its client goes first.
    standing_pf: Option<StandingPf>,
    card: Arc<Card>,
    wire: Wire,
    trace: Arc<Trace>,
    mac: MacAddress,
}

impl InProcessCard {
    /// A card after power-up: no VFs, the link up, nothing injected.
    pub fn builder() -> InProcessCardBuilder {
        InProcessCardBuilder {
            options: CardOptions::default(),
            vfs: 0,
            frames: false,
        }
    }

    /// The PF, for one driver at a time. With [`InProcessCardBuilder::vfs`] it is the one that has
    /// enabled the VFs already.
    ///
    /// # Panics
    ///
    /// The process has no descriptor left.
    pub fn pf(&self) -> Arc<InProcess> {
        match &self.standing_pf {
            Some(pf) => Arc::clone(&pf.function),
            None => connect(&self.card, FunctionId::PF).expect("an eventfd for the PF"),
        }
    }

    /// VF `n`, for one driver at a time; it is dead if the VF is not enabled.
    ///
    /// # Panics
    ///
    /// There is no such VF (0 to 7), or the process has no descriptor left.
    pub fn vf(&self, n: u8) -> Arc<InProcess> {
        connect(&self.card, FunctionId::vf(n)).expect("an eventfd for the VF")
    }

    /// The PF's address.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// The address by which VF `n` receives, where the card enabled the VFs itself.
    pub fn vf_mac(&self, n: u8) -> MacAddress {
        standing_pf::vf_mac(self.mac, n)
    }

    /// The other end of the cable.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Plug the cable in or out.
    pub fn set_link(&self, up: bool) {
        self.card.set_link(up);
    }

    /// What every port has counted: frames, bytes, drops by reason, DMA faults. All that
    /// the card has done so far is in it.
    pub fn stats(&self) -> Snapshot {
        self.card.settle();
        self.card.snapshot()
    }

    /// Frames of a function that were dropped, by reason.
    pub fn drops(&self, function: FunctionId) -> BTreeMap<&'static str, u64> {
        let stats = self.stats();
        let drops = stats.function(function).drops.iter();
        drops
            .map(|(reason, count)| (reason.name(), count))
            .collect()
    }

    /// Every access and event so far. Polled repeats are one entry.
    pub fn trace(&self) -> Vec<Entry> {
        self.card.settle();
        self.trace.entries()
    }

    /// Let something go wrong from now on; the number of the rule.
    ///
    /// # Errors
    ///
    /// There are too many rules.
    pub fn inject(&self, spec: InjectSpec) -> Result<u32, TooManyRules> {
        self.card.inject(spec)
    }

    /// How many faults were injected by the rules that are there.
    pub fn injected(&self) -> u64 {
        self.card.injected()
    }

    /// The card itself, to serve it over sockets as well ([`crate::sockets`]).
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }
}
