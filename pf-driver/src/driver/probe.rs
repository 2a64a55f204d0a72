//! How a PF is taken over: checked, reset unless its VFs go on, its address read, its port started.

use std::sync::Arc;
use std::time::Instant;

use igb::{CTRL_EXT, STATUS, pci};
use igb_driver::interrupt::{Interrupts, OTHER_VECTOR};
use igb_driver::queue::Port;
use igb_driver::{DriverError, Registers, config};
use iommu::container::{Container, ContainerOptions};
use iommu::function::Function;

use super::setup::{init_interrupts, init_port, read_mac, reset};
use super::{PfDriver, PfOptions, STATS_PERIOD, WATCHDOG, check_mtu};
use crate::arbiter::Arbiter;
use crate::capabilities::{self, Capabilities};
use crate::error::PfError;
use crate::gaps::Gaps;
use crate::image::{Image, Shadow};
use crate::mailbox::Mailboxes;
use crate::state::State;
use crate::stats::VfCounters;
use crate::vport::{NicSwitch, PF_POOL};

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
        let enabled = capabilities::enabled_vfs(function.as_ref())?;
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
        // Whoever hands out the card may reset it in between, and with it what its VFs were given: a
        // card that still is as the driver before left it says that a driver is loaded.
        let forgot = adopted && !regs.read::<CTRL_EXT>()?.has(CTRL_EXT::DRV_LOAD);
        if forgot {
            log::warn!("the card was reset since its last driver: its VFs begin anew");
        }
        let was_reset = !adopted || options.reset || forgot;
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
        let gaps = Gaps::find(&regs)?;
        let capabilities = Capabilities::read(regs.function().as_ref(), &gaps)?;
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
            gaps,
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
            mailbox_unanswered: 0,
            around_the_mediator: 0,
            mailboxes: Mailboxes::default(),
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
