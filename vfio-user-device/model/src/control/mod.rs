//! What software sees of the card.

use std::sync::Arc;

use igb::function::FunctionKind;
use igb::{FunctionId, MacAddress};

use crate::config::Config;
use crate::effects::Effects;
use crate::events::Events;
use crate::host::ControlHost;
use crate::report::Snapshot;

/// Whether the hardware's own channel between VF and PF works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MailboxMode {
    /// Mailbox memory reads 0, REQ, ACK and VFU do not stick; reset indications work.
    #[default]
    Closed,
    /// As in the 82576, for a PF and VFs that no mediator stands between.
    Open,
}

/// What a card is made with.
#[derive(Clone, Copy, Debug)]
pub struct CardSettings {
    /// The PF's address, in the NVM.
    pub mac: MacAddress,
    /// Whether VFs and PF can talk through the card.
    pub mailbox: MailboxMode,
    /// Whether the link is up from the start.
    pub link_up: bool,
}

/// A region of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CardRegion {
    /// BAR0: registers.
    Bar0,
    /// PF BAR1: flash.
    Flash,
    /// PF BAR2: the I/O window onto BAR0.
    Io,
    /// BAR3: MSI-X table and PBA.
    Msix,
    /// Configuration space.
    Config,
}

/// The card's control state.
#[derive(Debug)]
pub struct Control {
    config: Arc<Config>,
    report: Snapshot,
}

impl CardRegion {
    /// The region at a VFIO region index of a function of this kind.
    #[must_use]
    pub fn from_vfio_index(kind: FunctionKind, index: u32) -> Option<Self> {
        match (kind, index) {
            (_, 0) => Some(CardRegion::Bar0),
            (FunctionKind::Physical, 1) => Some(CardRegion::Flash),
            (FunctionKind::Physical, 2) => Some(CardRegion::Io),
            (_, 3) => Some(CardRegion::Msix),
            (_, 7) => Some(CardRegion::Config),
            _ => None,
        }
    }

    /// Bytes of the region.
    #[must_use]
    pub fn size(self, kind: FunctionKind) -> u64 {
        let _ = kind;
        0
    }
}

impl Control {
    /// A card after power-up.
    #[must_use]
    pub fn new(settings: CardSettings) -> Self {
        let _ = settings;
        Self {
            config: Arc::default(),
            report: Snapshot::default(),
        }
    }

    /// It is `now_ns` (monotonic, any origin). Fires the interrupts whose throttling has ended.
    /// Every other call happens at the latest time given here.
    pub fn advance(&mut self, now_ns: u64, host: &mut dyn ControlHost) {
        let _ = (now_ns, host);
    }

    /// When [`Self::advance`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }

    /// Read a region of a function. Any offset and length; what does not exist reads 0.
    pub fn read(
        &mut self,
        function: FunctionId,
        region: CardRegion,
        offset: u64,
        data: &mut [u8],
        host: &mut dyn ControlHost,
    ) -> Effects {
        let _ = (function, region, offset, host);
        data.fill(0);
        Effects::NONE
    }

    /// Write a region of a function. Any offset and length; what does not exist ignores it.
    pub fn write(
        &mut self,
        function: FunctionId,
        region: CardRegion,
        offset: u64,
        data: &[u8],
        host: &mut dyn ControlHost,
    ) -> Effects {
        let _ = (function, region, offset, data, host);
        Effects::NONE
    }

    /// Function-level reset.
    pub fn reset_function(&mut self, function: FunctionId, host: &mut dyn ControlHost) -> Effects {
        let _ = (function, host);
        Effects::NONE
    }

    /// The link came or went.
    pub fn set_link(&mut self, up: bool, host: &mut dyn ControlHost) -> Effects {
        let _ = (up, host);
        Effects::NONE
    }

    /// Take in what the data path did; the caller clears `events` afterwards.
    pub fn absorb(&mut self, events: &Events, host: &mut dyn ControlHost) {
        let _ = host;
        self.report.absorb(events);
    }

    /// The configuration for the data path.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// VFs enabled now.
    #[must_use]
    pub fn num_vfs_enabled(&self) -> u8 {
        self.report.vfs
    }

    /// Surprise removal of the VFs: clears VF Enable.
    pub fn stop_sriov(&mut self, host: &mut dyn ControlHost) -> Effects {
        let _ = host;
        Effects::NONE
    }

    /// Deliver MSI-X vectors that are pending, after vectors of `function` got a listener or were
    /// unmasked.
    pub fn retry_pending(&mut self, function: FunctionId, host: &mut dyn ControlHost) {
        let _ = (function, host);
    }

    /// Whether the function's INTx line is asserted, for a client that unmasks it.
    #[must_use]
    pub fn intx_asserted(&self, function: FunctionId) -> bool {
        let _ = function;
        false
    }

    /// Counters for a report.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.report
    }

    /// A digest of all state that belongs to one function: its configuration space, registers,
    /// interrupts, mailbox and filters. Equal states give equal digests.
    #[must_use]
    pub fn digest(&self, function: FunctionId) -> u64 {
        let _ = function;
        0
    }
}
