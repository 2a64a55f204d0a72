//! Requests that come through the mediator, and what the mediator is told.
//!
//! The identity of a VF is the mediator's word; whether the VF exists, is in the state for its
//! request and may have what it asks for is decided here anew.

use std::time::{Duration, Instant};

use igb_driver::netdev::Counters;
use iommu::interrupt::Watch;
use mediator_protocol::block::{self, Stats};
use mediator_protocol::{
    BlockData, FromPf, MailboxWords, Reply, ReplyBody, Request, RequestBody, Status, ToPf,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::arbiter::Refusal;
use crate::channel::{Event, PfChannel};
use crate::driver::PfDriver;
use crate::error::PfError;
use crate::vport::{LINK_MBITS, MAX_VFS, NicSwitch};

/// Messages handled in one go, so that the data path gets its turn.
const MOST_EVENTS: usize = 1024;
/// Wait before an offer that the mediator could not take is repeated.
const OFFER_RETRY: Duration = Duration::from_millis(500);

/// The channel with what this driver knows of the VFs on the other side.
pub(crate) struct Channel {
    link: PfChannel,
    watch: Option<Watch>,
    vfs: [VfOnBus; MAX_VFS as usize],
    more: bool,
    offer_due: Option<Instant>,
    requests: u64,
    stale: u64,
    expired: u64,
    rolled_back: u64,
}

/// A VF on the mediator's bus.
#[derive(Default)]
struct VfOnBus {
    offered: bool,
    /// The mediator may be a new one: the first generation that it names holds.
    generation_open: bool,
    /// The last request that changed something, and how it was before: for a late success.
    last: Option<(u64, Box<NicSwitch>)>,
}

impl PfDriver {
    /// Lets VFs ask through a mediator. From now on the hardware's mailbox is not answered.
    ///
    /// The channel is served inside [`igb_driver::netdev::NetDevice::service`]; if the mediator goes
    /// and comes back, so does the channel.
    ///
    /// # Errors
    ///
    /// The socket cannot be waited for.
    pub fn attach_channel(&mut self, link: PfChannel) -> Result<(), PfError> {
        self.detach_channel();
        self.channel = Some(Channel {
            link,
            watch: None,
            vfs: Default::default(),
            more: false,
            offer_due: None,
            requests: 0,
            stale: 0,
            expired: 0,
            rolled_back: 0,
        });
        self.watch_channel()?;
        self.poll_channel()
    }

    /// Hangs up.
    pub fn detach_channel(&mut self) {
        if let Some(channel) = self.channel.take()
            && let Some(watch) = channel.watch
        {
            self.interrupts_mut().set_mut().unwatch(watch);
        }
    }

    /// Whether a mediator has accepted this driver.
    #[must_use]
    pub fn channel_ready(&self) -> bool {
        self.channel.as_ref().is_some_and(|c| c.link.is_ready())
    }

    fn watch_channel(&mut self) -> Result<(), PfError> {
        let Some(mut channel) = self.channel.take() else {
            return Ok(());
        };
        let set = self.interrupts_mut().set_mut();
        if let Some(watch) = channel.watch.take() {
            set.unwatch(watch);
        }
        let watched = channel.link.fd().map(|fd| set.watch(fd)).transpose();
        channel.watch = watched.as_ref().ok().copied().flatten();
        self.channel = Some(channel);
        watched.map_err(igb_driver::DriverError::from)?;
        Ok(())
    }

    /// Handles what has come over the channel, and returns when nothing is left.
    ///
    /// # Errors
    ///
    /// The card failed. What is wrong with the channel is the channel's own matter.
    pub fn poll_channel(&mut self) -> Result<(), PfError> {
        let Some(channel) = &mut self.channel else {
            return Ok(());
        };
        channel.more = false;
        if channel.link.attempt() {
            self.watch_channel()?;
        }
        for _ in 0..MOST_EVENTS {
            let Some(event) = self.channel.as_mut().and_then(|c| c.link.poll()) else {
                self.repeat_offers();
                return Ok(());
            };
            match event {
                Event::Message(message) => self.handle_message(&message)?,
                Event::Lost => self.lose_channel()?,
            }
        }
        if let Some(channel) = &mut self.channel {
            channel.more = true;
        }
        Ok(())
    }

    fn lose_channel(&mut self) -> Result<(), PfError> {
        log::warn!("the mediator is gone; VFs keep running, their requests wait for it");
        if let Some(channel) = &mut self.channel {
            channel.vfs = Default::default();
        }
        self.watch_channel()
    }

    fn handle_message(&mut self, message: &ToPf) -> Result<(), PfError> {
        match *message {
            ToPf::Welcome { .. } => {
                log::info!("the mediator is there");
                if let Some(channel) = &mut self.channel {
                    for vf in &mut channel.vfs {
                        vf.generation_open = true;
                    }
                }
                self.offer_all();
                if std::mem::take(&mut self.reset_untold) {
                    let vfs: Vec<u8> = self.arbiter.switch.vports().map(|(vf, _)| vf).collect();
                    for vf in vfs {
                        self.announce(vf)?;
                    }
                }
            }
            // Logged by the channel; the mediator closes it.
            ToPf::Refused { .. } => {}
            ToPf::Attached { vf, generation } => {
                log::debug!("VF {vf} has a tenant (generation {generation})");
                self.note_generation(vf, generation, false)?;
            }
            ToPf::Detached { vf, generation } => {
                log::debug!("VF {vf} has no tenant any more (generation {generation})");
                self.note_generation(vf, generation, true)?;
            }
            ToPf::Reset {
                vf,
                generation,
                cause,
            } => {
                log::debug!(
                    "VF {vf} was reset ({}): generation {generation}",
                    cause.name()
                );
                self.handle_vf_resets()?;
                self.note_generation(vf, generation, true)?;
            }
            ToPf::Request(request) => {
                let answered = self.answer(&request);
                // Also when the card fails: one that is never answered counts against its VF for
                // good.
                let reply = match &answered {
                    Ok(reply) => *reply,
                    Err(_) => Reply::to(&request, Status::TimedOut, ReplyBody::Empty),
                };
                self.send(&FromPf::Reply(reply));
                answered?;
            }
            ToPf::Expired { vf, generation, id } => self.handle_expired(vf, generation, id)?,
            ToPf::Ejected { vf, graceful } => {
                log::debug!("VF {vf} left the bus (graceful: {graceful})");
                if let Some(on_bus) = self.on_bus(vf) {
                    on_bus.offered = false;
                    on_bus.last = None;
                }
                self.reset_vf(vf)?;
            }
            ToPf::Rejected { vf, status } => {
                log::warn!("the mediator did not take VF {vf}: {}", status.name());
                if let Some(on_bus) = self.on_bus(vf) {
                    on_bus.offered = false;
                }
                if matches!(status, Status::Busy | Status::TimedOut | Status::Exhausted)
                    && let Some(channel) = &mut self.channel
                {
                    channel.offer_due = Some(Instant::now() + OFFER_RETRY);
                }
            }
        }
        Ok(())
    }

    fn on_bus(&mut self, vf: u16) -> Option<&mut VfOnBus> {
        self.channel.as_mut()?.vfs.get_mut(usize::from(vf))
    }

    fn send(&mut self, message: &FromPf) {
        if let Some(channel) = &mut self.channel {
            channel.link.send(message);
        }
    }

    fn reset_vf(&mut self, vf: u16) -> Result<(), PfError> {
        let Ok(vf) = u8::try_from(vf) else {
            return Ok(());
        };
        self.arbiter.switch.reset_vf(vf);
        self.commit()
    }

    /// The mediator named a VF's generation. One that is not the known one means that the VF was
    /// reset, heard or not.
    fn note_generation(&mut self, vf: u16, generation: u32, reset: bool) -> Result<(), PfError> {
        let Some(number) = u8::try_from(vf).ok().filter(|vf| *vf < MAX_VFS) else {
            return Ok(());
        };
        let Some(vport) = self.arbiter.switch.vport(number) else {
            return Ok(());
        };
        let known = vport.generation == generation;
        if let Some(on_bus) = self.on_bus(vf) {
            on_bus.generation_open = false;
            if !known || reset {
                on_bus.last = None;
            }
        }
        if known && !reset {
            return Ok(());
        }
        self.arbiter.switch.reset_vf(number);
        if let Some(vport) = self.arbiter.switch.vport_mut(number) {
            vport.generation = generation;
        }
        self.commit()
    }

    /// Whether a request is of the VF's present life.
    fn is_current(&mut self, request: &Request) -> Result<bool, PfError> {
        let Some(known) = u8::try_from(request.vf)
            .ok()
            .and_then(|vf| self.arbiter.switch.vport(vf))
            .map(|vport| vport.generation)
        else {
            // The arbiter has a name for that.
            return Ok(true);
        };
        let open = self
            .on_bus(request.vf)
            .is_some_and(|on_bus| on_bus.generation_open);
        if open || request.generation > known {
            // A reset that came while this driver was away.
            self.note_generation(request.vf, request.generation, false)?;
            return Ok(true);
        }
        Ok(request.generation == known)
    }

    /// Decides a request.
    fn answer(&mut self, request: &Request) -> Result<Reply, PfError> {
        if let Some(channel) = &mut self.channel {
            channel.requests += 1;
        }
        // A reset of this VF that the card has seen comes before anything the VF asks now.
        self.handle_vf_resets()?;
        if !self.is_current(request)? {
            if let Some(channel) = &mut self.channel {
                channel.stale += 1;
            }
            let status = Refusal::StaleGeneration.status();
            return Ok(Reply::to(request, status, ReplyBody::Empty));
        }
        let before = self.arbiter.switch.clone();
        let (verdict, body) = match request.body {
            RequestBody::Mailbox(words) => {
                let (verdict, reply) = self.arbiter.mailbox(request.vf, &words);
                let words = MailboxWords::new(&reply.encode()[..reply.len()])?;
                (verdict, ReplyBody::Mailbox(words))
            }
            RequestBody::WriteBlock { block, data } => {
                let verdict = self.arbiter.write_block(request.vf, block, &data);
                (verdict, ReplyBody::Empty)
            }
            RequestBody::ReadBlock { block, length } => {
                let stats = self.stats_for(request.vf, block)?;
                let link_up = self.port_up();
                match self.arbiter.read_block(request.vf, block, link_up, &stats) {
                    Ok(data) => {
                        let wanted = data.len().min(length.into());
                        (Ok(()), ReplyBody::Block(BlockData::new(&data[..wanted])?))
                    }
                    Err(refusal) => (Err(refusal), ReplyBody::Empty),
                }
            }
        };
        if self.arbiter.switch != before {
            if let Err(error) = self.commit() {
                // The VF is not told that it was granted; the next commit undoes what was written.
                self.arbiter.switch = before;
                return Err(error);
            }
            if let Some(on_bus) = self.on_bus(request.vf) {
                on_bus.last = Some((request.id, Box::new(before)));
            }
        }
        let status = verdict.err().map_or(Status::Ok, Refusal::status);
        Ok(Reply::to(request, status, body))
    }

    fn stats_for(&mut self, vf: u16, block: u32) -> Result<Stats, PfError> {
        match u8::try_from(vf) {
            Ok(vf) if block == block::STATS && self.arbiter.switch.vport(vf).is_some() => {
                self.vf_counters.update(&self.regs, vf)?;
                Ok(self.vf_counters.of(vf))
            }
            _ => Ok(Stats::default()),
        }
    }

    /// The mediator has answered TIMED_OUT in our name: what was granted is taken back, or, where
    /// more was granted on top of it, announced.
    fn handle_expired(&mut self, vf: u16, generation: u32, id: u64) -> Result<(), PfError> {
        let Ok(number) = u8::try_from(vf) else {
            return Ok(());
        };
        if let Some(channel) = &mut self.channel {
            channel.expired += 1;
        }
        let last = self.on_bus(vf).and_then(|on_bus| on_bus.last.take());
        let current = self
            .arbiter
            .switch
            .vport(number)
            .is_some_and(|vport| vport.generation == generation);
        if !current {
            return Ok(());
        }
        if let Some((last, before)) = last {
            if last == id {
                if self.arbiter.switch.restore_vf(number, &before) {
                    log::info!("VF {vf}: request {id} came too late and is taken back");
                    if let Some(channel) = &mut self.channel {
                        channel.rolled_back += 1;
                    }
                    self.commit()?;
                }
            } else if let Some(on_bus) = self.on_bus(vf) {
                on_bus.last = Some((last, before));
            }
        }
        self.announce(number)
    }

    /// Offers a VF, or lets the mediator adopt it.
    fn offer(&mut self, vf: u8) {
        if !self.channel_ready() {
            return;
        }
        let Some(vport) = self.arbiter.switch.vport(vf) else {
            return;
        };
        let mac = vport.policy.mac.map(igb::frame::MacAddress::bytes);
        let serial = self.serial(vf);
        let link_up = self.arbiter.link_of(vf, self.port_up());
        if let Some(on_bus) = self.on_bus(vf.into()) {
            on_bus.offered = true;
        }
        self.send(&FromPf::Offer {
            vf: vf.into(),
            serial,
            link_up,
            mac,
        });
        self.send_link(vf);
    }

    /// Offers a VF again that was taken off the mediator's bus.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], or no mediator is there.
    pub fn offer_vf(&mut self, vf: u16) -> Result<(), PfError> {
        let number = self.on_the_channel(vf)?;
        self.offer(number);
        Ok(())
    }

    /// Asks the guest of a VF to let go of it within `timeout`; then it is taken off the bus.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSuchVf`], or no mediator is there.
    pub fn eject_vf(&mut self, vf: u16, timeout: Duration) -> Result<(), PfError> {
        self.on_the_channel(vf)?;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        self.send(&FromPf::Eject { vf, timeout_ms });
        Ok(())
    }

    fn on_the_channel(&self, vf: u16) -> Result<u8, PfError> {
        let number = u8::try_from(vf).map_err(|_| PfError::NoSuchVf(vf))?;
        if self.arbiter.switch.vport(number).is_none() {
            return Err(PfError::NoSuchVf(vf));
        }
        if !self.channel_ready() {
            return Err(PfError::NoMediator);
        }
        Ok(number)
    }

    /// Offers every VF.
    pub(crate) fn offer_all(&mut self) {
        let vfs: Vec<u8> = self.arbiter.switch.vports().map(|(vf, _)| vf).collect();
        vfs.into_iter().for_each(|vf| self.offer(vf));
    }

    /// Repeats offers that were not taken, when it is time.
    fn repeat_offers(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        if channel.offer_due.is_none_or(|due| Instant::now() < due) {
            return;
        }
        channel.offer_due = None;
        let missing: Vec<u8> = (0..)
            .zip(&channel.vfs)
            .filter_map(|(vf, on_bus)| (!on_bus.offered).then_some(vf))
            .collect();
        missing.into_iter().for_each(|vf| self.offer(vf));
    }

    /// Serial that pairs a VF with the synthetic network card of its VM: the same in every run.
    #[must_use]
    pub fn serial(&self, vf: u8) -> u64 {
        self.arbiter.switch.pf_mac.to_u64() << 16 | u64::from(vf)
    }

    /// Asks guests to let go of all VFs, waits until they did or `deadline` is over, and takes those
    /// that are left. Requests are answered to the end.
    pub(crate) fn withdraw_offers(&mut self, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        if !self.channel_ready() {
            return;
        }
        for vf in self.offered() {
            self.send(&FromPf::Eject { vf, timeout_ms });
        }
        while self.channel_ready() && !self.offered().is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if let Some(fd) = self.channel.as_ref().and_then(|c| c.link.fd()) {
                let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
                if let Err(error) = poll(&mut fds, left) {
                    log::debug!("waiting for the mediator: {error}");
                }
            }
            if let Err(error) = self.poll_channel() {
                log::warn!("{error}");
                break;
            }
        }
        self.revoke_all();
    }

    /// Takes every VF off the bus at once.
    pub(crate) fn revoke_all(&mut self) {
        for vf in self.offered() {
            self.send(&FromPf::Revoke { vf });
            if let Some(on_bus) = self.on_bus(vf) {
                *on_bus = VfOnBus::default();
            }
        }
    }

    fn offered(&self) -> Vec<u16> {
        let vfs = self.channel.iter().flat_map(|channel| &channel.vfs);
        (0..)
            .zip(vfs)
            .filter_map(|(vf, on_bus)| on_bus.offered.then_some(vf))
            .collect()
    }

    fn send_link(&mut self, vf: u8) {
        let up = self.arbiter.link_of(vf, self.port_up());
        self.send(&FromPf::Link {
            vf: vf.into(),
            up,
            speed: if up { LINK_MBITS } else { 0 },
        });
    }

    /// Tells a VF that its configuration is not what it last read.
    pub(crate) fn announce(&mut self, vf: u8) -> Result<(), PfError> {
        let Some(vport) = self.arbiter.switch.vport(vf) else {
            return Ok(());
        };
        let generation = vport.generation;
        if self.channel.is_none() {
            return self.ping_mailbox(vf);
        }
        if let Some(mask) = block::invalidation_bit(block::CONFIG) {
            self.send(&FromPf::Invalidate {
                vf: vf.into(),
                generation,
                mask,
            });
        }
        Ok(())
    }

    /// Tells a VF about its link.
    pub(crate) fn announce_link(&mut self, vf: u8) -> Result<(), PfError> {
        if self.channel.is_some() {
            self.send_link(vf);
        }
        self.announce(vf)
    }

    pub(crate) fn channel_timeout(&self) -> Option<Duration> {
        let channel = self.channel.as_ref()?;
        if channel.more {
            return Some(Duration::ZERO);
        }
        let offer = channel
            .offer_due
            .map(|due| due.saturating_duration_since(Instant::now()));
        [offer, channel.link.next_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn append_channel_counters(&self, counters: &mut Counters) {
        let Some(channel) = &self.channel else {
            return;
        };
        counters.push("channel_requests", channel.requests);
        counters.push("channel_stale_generation", channel.stale);
        counters.push("channel_expired", channel.expired);
        counters.push("channel_rolled_back", channel.rolled_back);
        counters.push("channel_losses", channel.link.losses);
    }
}
