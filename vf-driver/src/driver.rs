//! The life of a VF: probe, reset, re-initialization, removal.

use std::hash::{BuildHasher as _, Hasher as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use igb::frame::MacAddress;
use igb::{PVTCTRL, Value, pci, vf};
use igb_driver::interrupt::{Interrupts, OTHER_VECTOR};
use igb_driver::netdev::Changes;
use igb_driver::queue::{Port, QueueFailure, QueueOptions};
use igb_driver::window::{VfWindow, Window as _};
use igb_driver::{DriverError, Registers, config};
use iommu::container::{Container, ContainerOptions};
use iommu::dma_buffer::SharedDma;
use iommu::function::{Function, irq};
use iommu::interrupt::EventFd;
use mediator_protocol::Status;
use mediator_protocol::block::{ConfigFlags, VfRequest};

use crate::channel::{Access, Channel, ChannelKind, Granted};
use crate::error::{ChannelError, VfError};

/// How long after a failed handshake the next one is tried.
const RETRY: Duration = Duration::from_millis(200);
/// How often the VF looks for a reset of the PF, which takes away the interrupt that would tell of it.
const WATCHDOG: Duration = Duration::from_millis(500);

/// How a VF is driven.
#[derive(Debug, Clone, Default)]
pub struct VfOptions {
    /// The way to the PF.
    pub channel: ChannelKind,
    /// Rings and interrupt moderation.
    pub queues: QueueOptions,
}

/// A VF and its driver.
pub struct VfDriver {
    pub(crate) regs: Registers,
    pub(crate) container: Arc<Container>,
    pub(crate) interrupts: Interrupts<VfWindow>,
    pub(crate) port: Port<VfWindow>,
    pub(crate) channel: Channel,
    pub(crate) granted: Granted,
    mac: MacAddress,
    /// The stack above wants the queues to run.
    pub(crate) wanted_open: bool,
    /// The handshake has to be done (again), not before this time.
    waiting: Option<Instant>,
    /// When to look for a reset of the PF.
    watchdog: Instant,
    /// The configuration has changed, and nobody was there to read it from.
    config_due: bool,
    pub(crate) gone: bool,
    /// Fires when the hypervisor wants the VF back.
    release: Option<EventFd>,
    resets: u64,
    /// Memory of what [`crate::misbehave`] left to the card.
    pub(crate) stray_ring: Option<SharedDma>,
}

impl VfDriver {
    /// Take over a VF: check what it is, reset it, introduce it to the PF (datasheet 7.8.2.9).
    ///
    /// # Errors
    ///
    /// It is no 82576 VF, there is no channel, or no PF answers.
    pub fn probe(function: Arc<dyn Function>, options: &VfOptions) -> Result<Self, VfError> {
        let (vendor, device) = config::identity(function.as_ref())?;
        if (vendor, device) != (pci::VENDOR_INTEL, pci::VF_DEVICE_ID) {
            let expected = pci::VF_DEVICE_ID;
            return Err(VfError::Identity {
                vendor,
                device,
                expected,
            });
        }
        config::enable(function.as_ref())?;
        let container = Container::new(ContainerOptions::default());
        container.attach(function.clone())?;
        let regs = Registers::new(function, VfWindow::SIZE)?;
        let mut interrupts = Interrupts::connect(&regs)?;
        let mut access = Access {
            regs: &regs,
            interrupts: &mut interrupts,
        };
        let channel = Channel::find(options.channel, &mut access)?;
        let release = watch_release(&regs, &mut interrupts)?;
        let mut driver = Self {
            release,
            port: Port::new(0, options.queues),
            regs,
            container,
            interrupts,
            channel,
            granted: Granted::default(),
            mac: MacAddress::ZERO,
            wanted_open: false,
            waiting: None,
            watchdog: Instant::now() + WATCHDOG,
            config_due: false,
            gone: false,
            resets: 0,
            stray_ring: None,
        };
        driver.start_over()?;
        Ok(driver)
    }

    /// The address in use.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// What the PF granted.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    /// Which way requests take.
    #[must_use]
    pub fn channel_kind(&self) -> ChannelKind {
        self.channel.kind()
    }

    /// Whether the VF waits for a PF that can introduce it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// How often the VF was reset under the driver, or by it.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.resets
    }

    pub(crate) fn next_retry(&self) -> Option<Duration> {
        let next = self.waiting.unwrap_or(self.watchdog);
        (!self.gone).then(|| next.saturating_duration_since(Instant::now()))
    }

    /// Reset the queues and interrupts, introduce the VF, route its interrupts, and open the queues
    /// again if they were wanted.
    fn start_over(&mut self) -> Result<(), VfError> {
        let reset = Value::<PVTCTRL>::default().set(PVTCTRL::RST);
        self.regs
            .write::<vf::VTCTRL>(Value::from_raw(reset.raw()))?;
        // Only now: until the reset the card may use the memory.
        self.port.drop_rings();
        self.interrupts.set_up(
            &self.regs,
            self.port.queue(),
            self.port.options().interval_us,
        )?;
        let mut access = Access {
            regs: &self.regs,
            interrupts: &mut self.interrupts,
        };
        self.granted = self.channel.handshake(&mut access)?;
        self.take_address()?;
        self.interrupts.arm(&self.regs, OTHER_VECTOR)?;
        self.waiting = None;
        self.config_due = false;
        if self.wanted_open {
            let mtu = self.granted.mtu;
            self.port
                .open(&self.regs, &self.container, &mut self.interrupts, mtu)?;
        }
        Ok(())
    }

    /// Use the address that the PF assigned; where it assigned none, keep the last one or pick one,
    /// and ask for it.
    fn take_address(&mut self) -> Result<(), VfError> {
        let assigned = MacAddress(self.granted.mac);
        if !assigned.is_zero() {
            self.mac = assigned;
            return Ok(());
        }
        if self.mac.is_zero() {
            self.mac = random_address();
        }
        match self.request(&VfRequest::SetMac(self.mac.0))? {
            Status::Ok => {}
            status => log::warn!("the PF did not take the address {}: {status:?}", self.mac),
        }
        Ok(())
    }

    /// Ask the PF, and take over what a grant changes here.
    ///
    /// # Errors
    ///
    /// The request could not be made; a refusal is no error.
    pub fn request(&mut self, request: &VfRequest) -> Result<Status, VfError> {
        let mut access = Access {
            regs: &self.regs,
            interrupts: &mut self.interrupts,
        };
        let asked = self.channel.request(&mut access, request);
        self.interrupts.arm(&self.regs, OTHER_VECTOR)?;
        let status = asked?;
        if status == Status::Ok {
            match request {
                VfRequest::SetMac(mac) => self.mac = MacAddress(*mac),
                VfRequest::SetMtu(mtu) => self.granted.mtu = *mtu,
                _ => {}
            }
        }
        if status == Status::Reset && *request != VfRequest::Init {
            // The PF knows nothing of this VF: it was reset, or another PF driver has come.
            self.waiting = Some(Instant::now());
        }
        Ok(status)
    }

    /// Ask the PF for the configuration anew.
    ///
    /// # Errors
    ///
    /// It could not be asked, or did not answer.
    pub fn read_config(&mut self) -> Result<Granted, VfError> {
        let mut access = Access {
            regs: &self.regs,
            interrupts: &mut self.interrupts,
        };
        let read = self.channel.read_config(&mut access);
        self.interrupts.arm(&self.regs, OTHER_VECTOR)?;
        Ok(read?)
    }

    /// Function-level reset of the VF, and a new beginning.
    ///
    /// # Errors
    ///
    /// The function is gone, or no PF answers; then the handshake is tried again by
    /// [`igb_driver::netdev::NetDevice::service`].
    pub fn reset(&mut self) -> Result<(), VfError> {
        self.resets += 1;
        self.regs.function().reset()?;
        self.port.drop_rings();
        self.stray_ring = None;
        config::enable(self.regs.function().as_ref())?;
        self.interrupts.renew(&self.regs)?;
        self.regs.remap(VfWindow::SIZE)?;
        self.waiting = Some(Instant::now());
        self.start_over()
    }

    /// Give the VF back: queues stopped, vectors and memory taken from it.
    pub fn remove(mut self) {
        self.port.stop(&self.regs, &mut self.interrupts);
        self.interrupts.disconnect(&self.regs);
        let function = self.regs.function().clone();
        if !function.lost()
            && let Err(error) = config::disable_dma(function.as_ref())
        {
            log::warn!("bus mastering stays on: {error}");
        }
        if let Err(error) = self.container.detach(&function) {
            log::warn!("the VF stays attached: {error}");
        }
    }

    /// What [`igb_driver::netdev::NetDevice::service`] does.
    pub(crate) fn look(&mut self) -> Changes {
        let mut changes = Changes::default();
        if self.gone {
            return changes;
        }
        if self.regs.function().lost() || self.port.is_lost() {
            self.gone = true;
            changes.gone = true;
            return changes;
        }
        if self.release.as_ref().is_some_and(|event| event.take() != 0) {
            log::info!("the VF is asked back: letting go of it");
            self.port.stop(&self.regs, &mut self.interrupts);
            self.interrupts.disconnect(&self.regs);
            self.gone = true;
            changes.gone = true;
            return changes;
        }
        let outcome = if self.waiting.is_some_and(|at| at <= Instant::now()) {
            self.begin_again(&mut changes)
        } else if self.interrupts.take(OTHER_VECTOR) {
            self.watchdog = Instant::now() + WATCHDOG;
            self.hear(&mut changes)
        } else if self.waiting.is_none() && self.watchdog <= Instant::now() {
            // For interrupts that got lost, and for what has none.
            self.watchdog = Instant::now() + WATCHDOG;
            self.hear(&mut changes)
                .and_then(|()| Ok(self.interrupts.rearm(&self.regs, OTHER_VECTOR)?))
                .and_then(|()| self.look_after_queues(&mut changes))
        } else {
            Ok(())
        };
        if let Err(error) = outcome {
            if error.is_lost() {
                self.gone = true;
                changes.gone = true;
            } else {
                log::warn!("{error}; trying again");
                self.waiting = Some(Instant::now() + RETRY);
            }
        }
        changes
    }

    fn begin_again(&mut self, changes: &mut Changes) -> Result<(), VfError> {
        let before = (self.granted, self.mac);
        self.resets += 1;
        // A reset of the whole card takes from the VF what its probe had set up in configuration space.
        config::enable(self.regs.function().as_ref())?;
        self.interrupts.renew(&self.regs)?;
        self.start_over()?;
        log::info!("the VF was reset and works again as {}", self.mac);
        changes.reset = true;
        self.compare(before, changes);
        Ok(())
    }

    /// The vector of other causes fired.
    fn hear(&mut self, changes: &mut Changes) -> Result<(), VfError> {
        let mut access = Access {
            regs: &self.regs,
            interrupts: &mut self.interrupts,
        };
        let news = self.channel.news(&mut access)?;
        if news.pf_reset || news.reset {
            log::info!("the PF was reset: introducing the VF again");
            self.port.drop_rings();
            // While the PF is in reset the handshake would only time out.
            let pause = if news.pf_reset { RETRY } else { Duration::ZERO };
            self.waiting = Some(Instant::now() + pause);
        } else if news.config || self.config_due {
            let before = (self.granted, self.mac);
            self.granted = match self.channel.read_config(&mut access) {
                // The VF itself is as well as before: its queues go on, the question waits.
                Err(ChannelError::Refused {
                    status: status @ (Status::PfGone | Status::TimedOut | Status::RateLimited),
                    ..
                }) => {
                    log::debug!("the configuration cannot be read now: {status:?}");
                    self.config_due = true;
                    self.watchdog = Instant::now() + RETRY;
                    return Ok(self.interrupts.arm(&self.regs, OTHER_VECTOR)?);
                }
                read => read?,
            };
            self.config_due = false;
            let assigned = MacAddress(self.granted.mac);
            if !assigned.is_zero() {
                self.mac = assigned;
            }
            self.compare(before, changes);
        }
        Ok(self.interrupts.arm(&self.regs, OTHER_VECTOR)?)
    }

    /// Begin anew if the queues stand still, or were reset by somebody else.
    fn look_after_queues(&mut self, changes: &mut Changes) -> Result<(), VfError> {
        if self.waiting.is_some() {
            return Ok(());
        }
        let Some(failure) = self.port.failure(&self.regs, Instant::now())? else {
            return Ok(());
        };
        match failure {
            QueueFailure::Reset => log::warn!("the VF was reset from outside: it begins anew"),
            QueueFailure::TransmitHangs => {
                log::warn!("the card does not send what it was given: the VF is reset");
            }
        }
        let before = (self.granted, self.mac);
        self.reset()?;
        changes.reset = true;
        self.compare(before, changes);
        Ok(())
    }

    fn compare(&self, (granted, mac): (Granted, MacAddress), changes: &mut Changes) {
        let up = |granted: &Granted| (granted.flags.contains(ConfigFlags::LINK_UP), granted.speed);
        changes.link |= up(&granted) != up(&self.granted);
        changes.mac |= mac != self.mac;
        changes.mtu |= granted.mtu != self.granted.mtu || granted.max_mtu != self.granted.max_mtu;
    }
}

/// Have the request for the VF's release signalled, where the function has that interrupt.
fn watch_release(
    regs: &Registers,
    interrupts: &mut Interrupts<VfWindow>,
) -> Result<Option<EventFd>, VfError> {
    let function = regs.function();
    if function.irq(irq::REQ)?.count == 0 {
        return Ok(None);
    }
    let event = EventFd::new().map_err(DriverError::from)?;
    function.set_eventfds(irq::REQ, 0, &[Some(event.as_fd())])?;
    interrupts
        .set_mut()
        .watch(event.as_fd())
        .map_err(DriverError::from)?;
    Ok(Some(event))
}

/// A locally administered unicast address (IEEE 802 clause 8.2). The standard library's hash keys
/// are random.
fn random_address() -> MacAddress {
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    let [a, b, c, d, e, ..] = hasher.finish().to_le_bytes();
    MacAddress([0x02, a, b, c, d, e])
}
