//! The PF driver itself: what it consists of, and how it lets go of the card.
//!
//! - `probe`: how it takes a card over.
//! - `setup`: the registers of the whole card that this takes.
//! - `service`: what interrupts and timers tell of.
//! - `netdev`: the PF's own network device.

mod netdev;
mod probe;
mod service;
mod setup;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use igb::{CTRL_EXT, RCTL, TCTL};
use igb_driver::interrupt::Interrupts;
use igb_driver::netdev::NetDevice as _;
use igb_driver::queue::{Port, QueueOptions};
use igb_driver::window::PfWindow;
use igb_driver::{DriverError, Registers, config};
use iommu::container::Container;

use crate::arbiter::Arbiter;
use crate::capabilities::Capabilities;
use crate::error::PfError;
use crate::gaps::Gaps;
use crate::image::{Image, Shadow};
use crate::mailbox::Mailboxes;
use crate::mediated::Channel;
use crate::policy::{DEFAULT_MTU, MAX_MTU, MIN_MTU, Policy};
use crate::state::State;
use crate::stats::VfCounters;
use crate::vport::NicSwitch;

/// How often the VFs' counters, which wrap, are taken.
const STATS_PERIOD: Duration = Duration::from_secs(2);
/// How often is looked for what no interrupt told of.
const WATCHDOG: Duration = Duration::from_millis(500);

/// How to run a PF.
#[derive(Clone)]
pub struct PfOptions {
    /// What VFs may.
    pub policy: Policy,
    /// Where to keep what a restart needs.
    pub state: Option<PathBuf>,
    /// Reset the card although VFs run; they are told, and begin anew.
    pub reset: bool,
    /// The PF's MTU, the largest that VFs may have.
    pub mtu: u32,
    /// Rings and throttling of the PF's own queue pair.
    pub queue: QueueOptions,
    /// The I/O address space; a new one if none is given.
    pub container: Option<Arc<Container>>,
    /// How long a guest may take to let go of a VF when SR-IOV is switched off.
    pub eject_timeout: Duration,
    /// Answer VFs over the hardware's own mailbox, where no mediator sees, limits or records what
    /// they ask. With a mediator attached it is never answered.
    pub mailbox: bool,
}

impl Default for PfOptions {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            state: None,
            reset: false,
            mtu: DEFAULT_MTU,
            queue: QueueOptions::default(),
            container: None,
            eject_timeout: Duration::from_secs(2),
            mailbox: false,
        }
    }
}

/// A PF that is being driven.
///
/// One thread owns it and runs the loop that [`NetDevice`] describes; the arbiter answers the VFs
/// inside [`NetDevice::service`].
pub struct PfDriver {
    pub(crate) regs: Registers,
    container: Arc<Container>,
    interrupts: Interrupts<PfWindow>,
    port: Port<PfWindow>,
    pub(crate) options: PfOptions,
    pub(crate) capabilities: Capabilities,
    pub(crate) gaps: Gaps,
    pub(crate) arbiter: Arbiter,
    shadow: Shadow,
    pub(crate) channel: Option<Channel>,
    pub(crate) vf_counters: VfCounters,
    stats_due: Instant,
    /// When to look after what no interrupt told of.
    watchdog: Instant,
    link_up: bool,
    gone: bool,
    /// By somebody else: nothing that was set up holds any more.
    was_reset: bool,
    pub(crate) adopted: bool,
    /// VFs behind a mediator have yet to be told of a reset of the PF.
    pub(crate) reset_untold: bool,
    other_interrupts: u64,
    pub(crate) mailbox_requests: u64,
    /// Messages in hardware mailboxes that nobody may answer, and the VFs that sent any.
    pub(crate) mailbox_unanswered: u64,
    pub(crate) around_the_mediator: u8,
    pub(crate) mailboxes: Mailboxes,
    state_errors: u64,
    /// What the state file holds.
    saved: Option<NicSwitch>,
}

impl PfDriver {
    /// Gives the PF back: offers withdrawn, VFs gone, queues stopped, DMA off.
    pub fn remove(mut self) {
        self.stop();
        if !self.gone
            && self.num_vfs() != 0
            && let Err(error) = self.sriov_configure(0)
        {
            log::warn!("VFs could not be disabled: {error}");
        }
        self.interrupts.disconnect(&self.regs);
        let quiet = self
            .regs
            .update::<RCTL>(0, |rctl| rctl.clear(RCTL::RXEN))
            .and_then(|()| self.regs.update::<TCTL>(0, |tctl| tctl.clear(TCTL::EN)))
            .and_then(|()| {
                self.regs
                    .update::<CTRL_EXT>(0, |ctrl| ctrl.clear(CTRL_EXT::DRV_LOAD))
            })
            .and_then(|()| config::disable_dma(self.regs.function().as_ref()));
        if let Err(error) = quiet
            && !self.regs.function().lost()
        {
            log::warn!("the PF was not quieted: {error}");
        }
        if let Err(error) = self.container.detach(self.regs.function()) {
            log::debug!("the PF was not attached: {error}");
        }
    }

    /// What the card can do of SR-IOV.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            num_vfs: self.num_vfs(),
            ..self.capabilities.clone()
        }
    }

    /// How many VFs are enabled.
    #[must_use]
    pub fn num_vfs(&self) -> u16 {
        self.arbiter.switch.vf_count().into()
    }

    /// Whether VFs were adopted from the state file at probe.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The arbiter with the state of the NIC switch, to look at.
    #[must_use]
    pub fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }

    /// Whether the port's link is up.
    #[must_use]
    pub(crate) fn port_up(&self) -> bool {
        self.link_up
    }

    /// Makes the card's registers what the state says, and saves the state.
    pub(crate) fn commit(&mut self) -> Result<(), PfError> {
        let image = Image::of(&self.arbiter.switch);
        self.shadow.apply(&self.regs, &image)?;
        self.save();
        Ok(())
    }

    /// Saves the state. That it cannot be saved stops nothing but the next adoption.
    pub(crate) fn save(&mut self) {
        let Some(path) = &self.options.state else {
            return;
        };
        if self.saved.as_ref() == Some(&self.arbiter.switch) {
            return;
        }
        self.saved = None;
        if let Err(error) = State::of(&self.arbiter.switch, &self.options.policy).save(path) {
            self.state_errors += 1;
            log::error!("{error}; VFs cannot be adopted after a restart");
            return;
        }
        self.saved = Some(self.arbiter.switch.clone());
    }

    pub(crate) fn interrupts_mut(&mut self) -> &mut Interrupts<PfWindow> {
        &mut self.interrupts
    }
}

fn check_mtu(mtu: u32) -> Result<(), DriverError> {
    if (MIN_MTU..=MAX_MTU).contains(&mtu) {
        return Ok(());
    }
    Err(DriverError::Mtu {
        mtu,
        min: MIN_MTU,
        max: MAX_MTU,
    })
}
