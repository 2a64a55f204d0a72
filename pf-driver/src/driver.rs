//! The PF driver itself: probe, remove, and the PF's own network device.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use igb::frame::MacAddress;
use igb::{
    CTRL, CTRL_EXT, DTXCTL, EECD, EERD, GPIE, ICR, IMC, IMS, MBVFIMR, MRQC, RCTL, RLPML, STATUS,
    TCTL, Value, nvm, pci,
};
use igb_driver::interrupt::{Interrupts, OTHER_VECTOR};
use igb_driver::netdev::{Changes, Counters, NetDevice, XmitError};
use igb_driver::offload::{Offloads, RxChecksum, TxOffload};
use igb_driver::queue::{Port, QueueFailure, QueueOptions, packet_length};
use igb_driver::window::PfWindow;
use igb_driver::{DriverError, Registers, config};
use iommu::container::{Container, ContainerOptions};
use iommu::function::Function;

use crate::arbiter::Arbiter;
use crate::capabilities::Capabilities;
use crate::error::PfError;
use crate::image::{Image, Shadow};
use crate::mediated::Channel;
use crate::policy::{DEFAULT_MTU, MAX_MTU, MIN_MTU, Policy};
use crate::state::State;
use crate::stats::VfCounters;
use crate::vport::{LINK_MBITS, NicSwitch, PF_POOL};

/// How often a register is read before the card counts as hung; each read of hardware takes about a
/// microsecond.
const POLLS: u32 = 100_000;
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
    state_errors: u64,
    /// What the state file holds.
    saved: Option<NicSwitch>,
}

impl PfDriver {
    /// Takes over a PF: checks what it is, resets it, reads its address, starts the port. VFs that
    /// are enabled and whose state is known are adopted, and nothing they notice is done; others are
    /// disabled.
    ///
    /// # Errors
    ///
    /// It is no 82576 PF, its NVM is damaged, it hangs or is gone.
    pub fn probe(function: Arc<dyn Function>, options: PfOptions) -> Result<Self, PfError> {
        let (vendor, device) = config::identity(function.as_ref())?;
        if (vendor, device) != (pci::VENDOR_INTEL, pci::PF_DEVICE_ID) {
            return Err(PfError::WrongDevice { vendor, device });
        }
        check_mtu(options.mtu)?;
        config::enable(function.as_ref())?;
        let regs = Registers::new(function.clone(), igb::BAR0_SIZE)?;
        let enabled = crate::capabilities::enabled_vfs(function.as_ref())?;
        let mac = read_mac(&regs)?;
        let saved = match &options.state {
            Some(path) if enabled != 0 => State::load(path)?
                .filter(|State { switch, .. }| {
                    switch.pf_mac == mac && u16::from(switch.vf_count()) == enabled
                })
                .and_then(|state| adoptable(state, &options)),
            _ => None,
        };
        if enabled != 0 && saved.is_none() {
            log::warn!("{enabled} VFs of an unknown state are enabled; disabling them");
            function.sriov_configure(0)?;
        }
        let adopted = saved.is_some();
        let (mut switch, changed) = saved.unwrap_or_else(|| {
            let mut switch = NicSwitch::new(mac);
            switch.pf_mtu = options.mtu;
            (switch, false)
        });
        let was_reset = !adopted || options.reset;
        if was_reset {
            reset(&regs)?;
            let vfs: Vec<u8> = switch.vports().map(|(vf, _)| vf).collect();
            vfs.into_iter().for_each(|vf| switch.reset_vf(vf));
        }
        let container = options
            .container
            .clone()
            .unwrap_or_else(|| Container::new(ContainerOptions::default()));
        container
            .attach(function.clone())
            .map_err(DriverError::from)?;
        match Self::start(
            regs,
            container.clone(),
            switch,
            options,
            Beginning {
                adopted,
                was_reset,
                changed,
            },
        ) {
            Ok(driver) => Ok(driver),
            Err(error) => {
                if let Err(error) = container.detach(&function) {
                    log::debug!("the PF was not attached: {error}");
                }
                Err(error)
            }
        }
    }

    fn start(
        regs: Registers,
        container: Arc<Container>,
        switch: NicSwitch,
        options: PfOptions,
        Beginning {
            adopted,
            was_reset,
            changed,
        }: Beginning,
    ) -> Result<Self, PfError> {
        let image = Image::of(&switch);
        let mut shadow = Shadow::read(&regs, &image)?;
        shadow.apply(&regs, &image)?;
        init_port(&regs)?;
        let queue = PF_POOL.into();
        let mut interrupts = Interrupts::connect(&regs)?;
        init_interrupts(&regs)?;
        interrupts.set_up(&regs, queue, options.queue.interval_us)?;
        interrupts.arm(&regs, OTHER_VECTOR)?;
        let capabilities = Capabilities::read(regs.function().as_ref())?;
        for missing in &capabilities.missing {
            log::warn!("this card has no {missing}");
        }
        let link_up = regs.read::<STATUS>()?.has(STATUS::LU);
        let mut driver = Self {
            port: Port::new(queue, options.queue),
            regs,
            container,
            interrupts,
            options,
            capabilities,
            arbiter: Arbiter::new(switch),
            shadow,
            channel: None,
            vf_counters: VfCounters::default(),
            stats_due: Instant::now() + STATS_PERIOD,
            watchdog: Instant::now() + WATCHDOG,
            link_up,
            gone: false,
            was_reset: false,
            adopted,
            reset_untold: false,
            other_interrupts: 0,
            mailbox_requests: 0,
            state_errors: 0,
            saved: None,
        };
        driver.handle_vf_resets()?;
        let mut ctrl = driver.regs.read::<CTRL_EXT>()?.set(CTRL_EXT::DRV_LOAD);
        if was_reset {
            // The end of the PF's reset for the VFs, which begin anew when they see it (datasheet
            // 4.6.11.2.2). Adopted ones must not.
            ctrl = ctrl.set(CTRL_EXT::PFRSTD);
        }
        driver.regs.write(ctrl)?;
        if adopted && (was_reset || changed) {
            // VFs learn of it only by looking, so they are told to look. Those behind a mediator are
            // told when it is there.
            let vfs: Vec<u8> = driver.arbiter.switch.vports().map(|(vf, _)| vf).collect();
            driver.reset_untold = true;
            for vf in vfs {
                driver.ping_mailbox(vf)?;
            }
        }
        driver.save();
        Ok(driver)
    }

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

    /// Handles causes of ICR: link, mailboxes, spoofed frames.
    fn handle_other(&mut self) -> Result<Changes, PfError> {
        self.other_interrupts += 1;
        let handled = self.handle_causes();
        // Also after a failure: the next cause may fare better.
        self.interrupts.arm(&self.regs, OTHER_VECTOR)?;
        handled
    }

    fn handle_causes(&mut self) -> Result<Changes, PfError> {
        let mut changes = Changes::default();
        let causes = self.regs.read::<ICR>()?;
        if causes.has(ICR::LSC) {
            changes.link = self.update_link()?;
        }
        if causes.has(ICR::VMMB) {
            self.serve_mailboxes()?;
            self.handle_vf_resets()?;
        }
        if causes.has(ICR::DOUTSYNC) {
            self.vf_counters.note_spoofed(&self.regs)?;
        }
        Ok(changes)
    }

    fn update_link(&mut self) -> Result<bool, PfError> {
        let up = self.regs.read::<STATUS>()?.has(STATUS::LU);
        if up == self.link_up {
            return Ok(false);
        }
        self.link_up = up;
        log::info!("link is {}", if up { "up" } else { "down" });
        let vfs: Vec<u8> = self.arbiter.switch.vports().map(|(vf, _)| vf).collect();
        for vf in vfs {
            self.announce_link(vf)?;
        }
        Ok(true)
    }

    fn service_all(&mut self) -> Result<Changes, PfError> {
        let mut changes = Changes::default();
        if self.interrupts.take(OTHER_VECTOR) {
            changes = self.handle_other()?;
        } else if Instant::now() >= self.watchdog {
            self.watchdog = Instant::now() + WATCHDOG;
            changes.reset = self.look_after_queue()?;
            if !self.was_reset {
                // Causes stay in ICR when the message about them gets lost.
                changes = changes.and(self.handle_causes()?);
                self.interrupts.rearm(&self.regs, OTHER_VECTOR)?;
            }
        }
        self.poll_channel()?;
        if self.num_vfs() != 0 && Instant::now() >= self.stats_due {
            self.update_vf_stats()?;
        }
        Ok(changes)
    }

    /// Start the queue anew if it stands still; whether that was done.
    fn look_after_queue(&mut self) -> Result<bool, PfError> {
        // A function that does not answer reads all ones, and one that was reset does not answer.
        let silent = self.regs.read::<STATUS>()?.raw() == u32::MAX;
        let failure = match silent {
            true => Some(QueueFailure::Reset),
            false => self.port.failure(&self.regs, Instant::now())?,
        };
        match failure {
            None => Ok(false),
            Some(QueueFailure::Reset) => {
                log::error!("the PF was reset from outside");
                self.was_reset = true;
                Ok(false)
            }
            Some(QueueFailure::TransmitHangs) => {
                log::warn!("the card does not send what it was given: the queue is started anew");
                self.port.stop(&self.regs, &mut self.interrupts);
                let mtu = self.arbiter.switch.pf_mtu;
                self.port
                    .open(&self.regs, &self.container, &mut self.interrupts, mtu)?;
                Ok(true)
            }
        }
    }

    pub(crate) fn update_vf_stats(&mut self) -> Result<(), PfError> {
        self.stats_due = Instant::now() + STATS_PERIOD;
        for (vf, _) in self.arbiter.switch.vports() {
            self.vf_counters.update(&self.regs, vf)?;
        }
        Ok(())
    }
}

/// How a probe has found the card.
struct Beginning {
    /// VFs run and go on.
    adopted: bool,
    /// The card was reset.
    was_reset: bool,
    /// VFs that run are under other rules than before.
    changed: bool,
}

/// The switch of a saved state under today's options, and whether these change anything for its VFs. What
/// the administrator set at run time holds until the policy file says something else of that VF.
fn adoptable(state: State, options: &PfOptions) -> Option<(NicSwitch, bool)> {
    let State {
        mut switch, policy, ..
    } = state;
    let before = switch.clone();
    switch.pf_mtu = options.mtu;
    let vfs: Vec<_> = before
        .vports()
        .map(|(vf, vport)| (vf, &vport.policy))
        .collect();
    for (vf, rules) in vfs {
        let (then, now) = (policy.of(vf), options.policy.of(vf));
        let rules = if then == now { rules.clone() } else { now };
        if let Err(error) = switch.judge_anew(vf, rules) {
            log::warn!("VF {vf} cannot go on under the policy file as it is now: {error}");
            return None;
        }
    }
    let changed = switch.vports().ne(before.vports());
    Some((switch, changed))
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

/// Reads until `done`, for a bounded time.
fn await_card(what: &'static str, done: impl Fn() -> Result<bool, PfError>) -> Result<(), PfError> {
    for _ in 0..POLLS {
        if done()? {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(PfError::Timeout { what })
}

/// Software reset (datasheet 4.2.1.6.1, 4.5.3): interrupts masked, DMA ended, CTRL.RST, and the NVM
/// read again by the card.
fn reset(regs: &Registers) -> Result<(), PfError> {
    mask_interrupts(regs)?;
    regs.update::<CTRL>(0, |ctrl| ctrl.set(CTRL::GIO_MASTER_DISABLE))?;
    await_card("CTRL.GIO_MASTER_DISABLE", || {
        Ok(!regs.read::<STATUS>()?.has(STATUS::GIO_MASTER_EN))
    })?;
    regs.update::<CTRL>(0, |ctrl| ctrl.set(CTRL::RST))?;
    await_card("CTRL.RST", || Ok(!regs.read::<CTRL>()?.has(CTRL::RST)))?;
    await_card("EECD.AUTO_RD", || {
        Ok(regs.read::<EECD>()?.has(EECD::AUTO_RD))
    })?;
    regs.update::<CTRL>(0, |ctrl| ctrl.clear(CTRL::GIO_MASTER_DISABLE))?;
    mask_interrupts(regs)
}

fn mask_interrupts(regs: &Registers) -> Result<(), PfError> {
    regs.write(Value::<IMC>::from_raw(u32::MAX))?;
    regs.write(Value::<igb::EIMC>::from_raw(u32::MAX).clear(igb::EIMC::OTHER))?;
    regs.read::<ICR>()?;
    Ok(())
}

/// The address in the NVM, which must sum up (datasheet 4.4.1 EERD, 6.2).
fn read_mac(regs: &Registers) -> Result<MacAddress, PfError> {
    let mut words = [0_u16; nvm::CHECKED_WORDS];
    for (address, word) in (0..).zip(&mut words) {
        let start = Value::<EERD>::from_raw(0)
            .with(EERD::ADDR, address)
            .set(EERD::START);
        regs.write(start)?;
        await_card("EERD.DONE", || Ok(regs.read::<EERD>()?.has(EERD::DONE)))?;
        *word = regs.read::<EERD>()?.get(EERD::DATA) as u16;
    }
    let found = words
        .iter()
        .fold(0_u16, |sum, word| sum.wrapping_add(*word));
    if found != nvm::CHECKSUM {
        return Err(PfError::NvmChecksum { found });
    }
    let mut bytes = [0; 6];
    for (pair, word) in bytes.chunks_exact_mut(2).zip(&words[nvm::MAC_ADDRESS..]) {
        pair.copy_from_slice(&word.to_le_bytes());
    }
    let mac = MacAddress(bytes);
    if !mac.is_valid_unicast() {
        return Err(PfError::NvmMac(mac));
    }
    Ok(mac)
}

/// The port: VMDq by address and VLAN (datasheet 7.10.3.2), long packets, receive and transmit on
/// (4.5.9, 4.5.10), link up (4.5.7).
fn init_port(regs: &Registers) -> Result<(), PfError> {
    /// MRQC: pools by filters, one queue each.
    const VMDQ: u32 = 3;
    regs.write(Value::<MRQC>::from_raw(0).with(MRQC::MULTIPLE_RECEIVE_QUEUES, VMDQ))?;
    // The pools have limits of their own; this one is for the port.
    regs.write(Value::<RLPML>::from_raw(0).with(RLPML::RLPML, packet_length(MAX_MTU)))?;
    let rctl = Value::<RCTL>::from_raw(0)
        .set(RCTL::RXEN)
        .set(RCTL::LPE)
        .set(RCTL::MPE)
        .set(RCTL::BAM)
        .set(RCTL::VFE)
        .set(RCTL::SECRC)
        .with(RCTL::MO, crate::MULTICAST_OFFSET);
    regs.write(rctl)?;
    regs.update::<TCTL>(0, |tctl| tctl.set(TCTL::EN).set(TCTL::PSP).set(TCTL::RTLC))?;
    // Frames dropped as spoofed are worth an interrupt, that WVBR be read.
    regs.update::<DTXCTL>(0, |dtxctl| dtxctl.set(DTXCTL::SPOOF_INT))?;
    regs.update::<CTRL>(0, |ctrl| ctrl.set(CTRL::SLU).clear(CTRL::LRST))?;
    Ok(())
}

/// MSI-X with several vectors (datasheet 7.3.2.11, 8.8.8), and the causes of the second one.
fn init_interrupts(regs: &Registers) -> Result<(), PfError> {
    let gpie = Value::<GPIE>::from_raw(0)
        .set(GPIE::NSICR)
        .set(GPIE::MULTIPLE_MSIX)
        .set(GPIE::EIAME)
        .set(GPIE::PBA_SUPPORT);
    regs.write(gpie)?;
    let vfs = Value::<MBVFIMR>::from_raw(0).with(MBVFIMR::VFIM, u32::MAX);
    regs.write(vfs)?;
    // What an earlier driver left unread would keep the same cause from firing again.
    regs.read::<ICR>()?;
    let causes = Value::<IMS>::from_raw(0)
        .set(IMS::LSC)
        .set(IMS::VMMB)
        .set(IMS::DOUTSYNC);
    Ok(regs.write(causes)?)
}

impl NetDevice for PfDriver {
    fn mac(&self) -> MacAddress {
        self.arbiter.switch.pf_mac
    }

    fn mtu(&self) -> u32 {
        self.arbiter.switch.pf_mtu
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<(), DriverError> {
        check_mtu(mtu)?;
        let was_open = self.port.is_open();
        self.stop();
        self.change_pf_mtu(mtu)
            .map_err(|_| DriverError::State("the PF's MTU could not be set: the card is gone"))?;
        if was_open { self.open() } else { Ok(()) }
    }

    fn carrier(&self) -> bool {
        self.link_up && !self.gone
    }

    fn speed(&self) -> Option<u32> {
        self.carrier().then_some(LINK_MBITS)
    }

    fn open(&mut self) -> Result<(), DriverError> {
        self.port.open(
            &self.regs,
            &self.container,
            &mut self.interrupts,
            self.arbiter.switch.pf_mtu,
        )
    }

    fn stop(&mut self) {
        self.port.stop(&self.regs, &mut self.interrupts);
    }

    fn xmit(&mut self, frame: &[u8]) -> Result<(), XmitError> {
        self.xmit_offloaded(frame, TxOffload::NONE)
    }

    fn offloads(&self) -> Offloads {
        self.port.offloads()
    }

    fn xmit_offloaded(&mut self, frame: &[u8], offload: TxOffload) -> Result<(), XmitError> {
        if self.gone {
            return Err(XmitError::Gone);
        }
        self.port.xmit(frame, offload)
    }

    fn flush(&mut self) {
        self.port.flush(&self.regs);
    }

    fn poll(&mut self, budget: usize, receive: &mut dyn FnMut(&[u8])) -> usize {
        self.poll_verified(budget, &mut |frame, _| receive(frame))
    }

    fn poll_verified(
        &mut self,
        budget: usize,
        receive: &mut dyn FnMut(&[u8], RxChecksum),
    ) -> usize {
        if self.gone {
            return 0;
        }
        self.port
            .poll(&self.regs, &mut self.interrupts, budget, receive)
    }

    fn set_busy_poll(&mut self, on: bool) {
        if let Err(error) = self
            .port
            .set_busy_poll(&self.regs, &mut self.interrupts, on)
            && !self.gone()
        {
            log::warn!("the queue's interrupt did not change: {error}");
        }
    }

    fn service(&mut self) -> Changes {
        if self.gone {
            return Changes::default();
        }
        let result = self.service_all();
        if self.regs.function().lost() || self.port.is_lost() || self.was_reset {
            log::error!("the PF is gone; every VF is gone with it");
            self.gone = true;
            self.link_up = false;
            self.lose_vfs();
            return Changes {
                gone: true,
                link: true,
                ..Changes::default()
            };
        }
        result.unwrap_or_else(|error| {
            log::error!("{error}");
            Changes::default()
        })
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.interrupts.event_fd()]
    }

    fn next_timeout(&self) -> Option<Duration> {
        if self.gone {
            return None;
        }
        let stats =
            (self.num_vfs() != 0).then(|| self.stats_due.saturating_duration_since(Instant::now()));
        let watchdog = self.watchdog.saturating_duration_since(Instant::now());
        [stats, self.channel_timeout(), Some(watchdog)]
            .into_iter()
            .flatten()
            .min()
    }

    fn gone(&self) -> bool {
        self.gone || self.regs.function().lost()
    }

    fn stats(&self) -> Counters {
        let mut counters = self.port.counters();
        counters.push("other_interrupts", self.other_interrupts);
        counters.push("mailbox_requests", self.mailbox_requests);
        counters.push("state_file_errors", self.state_errors);
        self.append_channel_counters(&mut counters);
        self.append_vf_counters(&mut counters);
        counters
    }
}
