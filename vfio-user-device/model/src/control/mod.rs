//! What software sees of the card.

mod bank;
mod clock;
mod digest;
mod interrupt;
mod link;
mod mailbox;
mod nvm;
mod pci;
mod phy;
mod publish;
mod rate;
mod receive;
mod region;
mod registers;
mod reset;
mod statistics;

use std::sync::Arc;

use igb::function::{FUNCTION_COUNT, QUEUE_COUNT, VF_COUNT};
use igb::{DTXCTL, FunctionId, ICR, LVMMC, MDFB, MacAddress, RTTBCNRC, Value, WVBR};

pub use region::CardRegion;

use crate::config::Config;
use crate::config_space::{ConfigSpace, pf_config_space, vf_config_space};
use crate::drops::Malformed;
use crate::effects::{Effects, FunctionSet};
use crate::events::{Events, Misbehavior, Ring};
use crate::host::{ControlHost, Signal};
use crate::msix::MsixTable;
use crate::report::Snapshot;
use bank::Bank;
use clock::Clock;
use interrupt::Interrupts;
use mailbox::Mailboxes;
use nvm::Nvm;
use phy::Phy;

/// Whether the hardware's own channel between VF and PF works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

/// The card's control state.
#[derive(Clone, Debug)]
pub struct Control {
    bank: Bank,
    nvm: Nvm,
    phy: Phy,
    clock: Clock,
    interrupts: Interrupts,
    mailboxes: Mailboxes,
    pf_config: ConfigSpace,
    vf_configs: [ConfigSpace; VF_COUNT as usize],
    msix: [MsixTable; FUNCTION_COUNT],
    /// VFs enabled.
    vfs: u8,
    /// Somebody is at the other end of the cable.
    cable: bool,
    now: u64,
    /// Bits of VFLRE.
    vflre: u32,
    /// How often each transmit queue was freed of a block (MDFB).
    freed: [u32; QUEUE_COUNT as usize],
    /// RTTBCNRC of each queue.
    rates: [Value<RTTBCNRC>; QUEUE_COUNT as usize],
    /// The offset in IOADDR of BAR2.
    io_address: u32,
    epochs: [u64; FUNCTION_COUNT],
    /// The first configuration version after the latest reset of each function.
    reset_versions: [u64; FUNCTION_COUNT],
    config: Arc<Config>,
    config_stale: bool,
    report: Snapshot,
}

impl Control {
    /// A card after power-up.
    #[must_use]
    pub fn new(settings: CardSettings) -> Self {
        let mut control = Self {
            bank: Bank::new(),
            nvm: Nvm::new(settings.mac),
            phy: Phy::new(),
            clock: Clock::default(),
            interrupts: Interrupts::new(),
            mailboxes: Mailboxes::new(settings.mailbox),
            pf_config: pf_config_space(),
            vf_configs: std::array::from_fn(|_| vf_config_space()),
            msix: std::array::from_fn(|slot| {
                let function = FunctionId::from_slot(slot).unwrap_or(FunctionId::PF);
                MsixTable::new(function.vectors())
            }),
            vfs: 0,
            cable: settings.link_up,
            now: 0,
            vflre: 0,
            freed: [0; QUEUE_COUNT as usize],
            rates: [Value::default(); QUEUE_COUNT as usize],
            io_address: 0,
            epochs: [0; FUNCTION_COUNT],
            reset_versions: [0; FUNCTION_COUNT],
            config: Arc::default(),
            config_stale: true,
            report: Snapshot {
                link_up: settings.link_up,
                ..Snapshot::default()
            },
        };
        control.reset_registers();
        control
    }

    /// It is `now_ns` (monotonic, any origin). Fires the interrupts whose throttling has ended.
    /// Every other call happens at the latest time given here.
    pub fn advance(&mut self, now_ns: u64, host: &mut dyn ControlHost) {
        self.now = self.now.max(now_ns);
        self.interrupts.advance(self.now, &self.bank, host);
    }

    /// When [`Self::advance`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.interrupts.next_deadline()
    }

    /// Take in what the data path did; the caller clears `events` afterwards. Causes of a function
    /// that was reset since the data path saw its configuration are dropped; what was counted stays.
    pub fn absorb(&mut self, events: &Events, host: &mut dyn ControlHost) {
        if events.is_empty() {
            return;
        }
        let reset_versions = self.reset_versions;
        let current = |function: FunctionId| events.version >= reset_versions[function.slot()];
        statistics::absorb(&mut self.bank, events, current);
        self.report.absorb(events);
        if let Some(when) = events.tx_timestamp {
            self.stamp_sent(when);
        }
        self.absorb_misbehavior(events, host);
        if !events.halts().is_empty() && self.bank.get::<DTXCTL>().has(DTXCTL::OUT_OF_SYNC_ENABLE) {
            self.interrupts
                .raise_other(ICR::DOUTSYNC.mask(), &self.bank, host);
        }
        for (ring, queues) in [(Ring::Rx, events.rx_causes), (Ring::Tx, events.tx_causes)] {
            for queue in (0..QUEUE_COUNT).filter(|queue| queues & 1 << queue != 0) {
                let Some((function, _)) = self.queue_owner(queue) else {
                    continue;
                };
                if current(function) {
                    self.interrupts
                        .raise_queue(function, ring, queue, &self.bank, host);
                }
            }
        }
    }

    /// What drivers did that none should (WVBR, LVMMC, MDFB).
    fn absorb_misbehavior(&mut self, events: &Events, host: &mut dyn ControlHost) {
        if let Some(blocked) = events.blocked {
            self.bank
                .set(Value::<MDFB>::default().with(MDFB::QUEUES, blocked.into()));
        }
        let Some(last) = events.last_misbehavior else {
            return;
        };
        let wvbr = self.bank.get::<WVBR>();
        let spoofed = wvbr.get(WVBR::QUEUES) | u32::from(events.wvbr);
        let blocked = wvbr.get(WVBR::BLOCKED) | u32::from(events.newly_blocked);
        self.bank.set(
            wvbr.with(WVBR::QUEUES, spoofed)
                .with(WVBR::BLOCKED, blocked),
        );
        let cause = match last.cause {
            Misbehavior::SpoofedMac => LVMMC::MAC_SPOOF,
            Misbehavior::SpoofedVlan => LVMMC::VLAN_SPOOF,
            Misbehavior::Malformed(Malformed::Descriptor) => LVMMC::DESCRIPTOR,
            Misbehavior::Malformed(Malformed::Size) => LVMMC::SIZE,
            Misbehavior::Malformed(Malformed::Context) => LVMMC::CONTEXT,
        };
        let lvmmc = self.bank.get::<LVMMC>().set(cause);
        self.bank.set(lvmmc.with(LVMMC::LAST_Q, last.queue.into()));
        let spoof_interrupts = self.bank.get::<DTXCTL>().has(DTXCTL::SPOOF_INT);
        if events.newly_blocked != 0 || events.wvbr != 0 && spoof_interrupts {
            self.interrupts
                .raise_other(ICR::DOUTSYNC.mask(), &self.bank, host);
        }
    }

    /// The configuration for the data path; built anew only if something changed.
    pub fn config(&mut self) -> Arc<Config> {
        if self.config_stale {
            self.config_stale = false;
            self.config = Arc::new(self.build_config(self.next_version()));
        }
        Arc::clone(&self.config)
    }

    /// The version that the next configuration to be built will have.
    fn next_version(&self) -> u64 {
        self.config.version + 1
    }

    /// VFs enabled now.
    #[must_use]
    pub fn num_vfs_enabled(&self) -> u8 {
        self.vfs
    }

    /// Whether a function exists now: the PF always, a VF while it is enabled.
    #[must_use]
    pub fn is_enabled(&self, function: FunctionId) -> bool {
        function.vf_index().is_none_or(|vf| vf < self.vfs)
    }

    /// Deliver MSI-X vectors that are pending, after vectors of `function` got a listener or were
    /// unmasked.
    pub fn retry_pending(&mut self, function: FunctionId, host: &mut dyn ControlHost) {
        self.interrupts.retry_pending(function, host);
    }

    /// An interrupt that the host took and delivers only now. One that was masked meanwhile stays
    /// pending; a line that was lowered meanwhile stays low.
    pub fn signal_late(
        &mut self,
        function: FunctionId,
        signal: Signal,
        host: &mut dyn ControlHost,
    ) {
        self.interrupts.signal_late(function, signal, host);
    }

    /// A descriptor of the function's own queue `queue` was written back later than the data path
    /// said.
    pub fn written_back(
        &mut self,
        function: FunctionId,
        ring: Ring,
        queue: u32,
        host: &mut dyn ControlHost,
    ) {
        let queue = match function.vf_index() {
            Some(vf) => igb::function::vf_queue(vf, queue),
            None => queue,
        };
        if queue < QUEUE_COUNT {
            self.interrupts
                .raise_queue(function, ring, queue, &self.bank, host);
        }
    }

    /// Whether the function's INTx line is asserted, for a client that unmasks it.
    #[must_use]
    pub fn intx_asserted(&self, function: FunctionId) -> bool {
        self.interrupts.intx_asserted(function)
    }

    /// Counters for a report.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.report
    }

    fn queue_owner(&self, queue: u32) -> Option<(FunctionId, u32)> {
        let (vf, own) = igb::function::queue_of_vf(queue)?;
        Some(if vf < self.vfs {
            (FunctionId::vf(vf), own)
        } else {
            (FunctionId::PF, queue)
        })
    }

    /// The data path must learn of a change that concerns these functions' queues.
    fn republish(&mut self, functions: FunctionSet) -> Effects {
        self.config_stale = true;
        Effects {
            publish: true,
            sync: functions,
            kick: !functions.is_empty(),
            ..Effects::NONE
        }
    }
}
