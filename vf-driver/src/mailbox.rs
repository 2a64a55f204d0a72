//! The 82576's own mailbox (datasheet 7.8.2.9.1, 8.14): for pairs without a mediator, and for trying
//! what a stock guest sees.

use std::time::{Duration, Instant};

use igb::frame::MacAddress;
use igb::mailbox::{ACK, Hashes, MessageId, NACK, PfReply, VfMessage, WORDS};
use igb::{STATUS, V2PMAILBOX, Value, vf};
use igb_driver::interrupt::OTHER_VECTOR;
use igb_driver::netdev::MacAddress as Address;
use iommu::function::FunctionError;
use iommu::interrupt::InterruptSet;
use mediator_protocol::Status;
use mediator_protocol::block::{Config, ConfigFlags, VfRequest};

use crate::channel::{Access, Granted, News};
use crate::error::ChannelError;

/// How long the PF has for each step; as long as stock VF drivers wait.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest wait for the vector before V2PMAILBOX is looked at anyway: some changes raise none.
const LOOK: Duration = Duration::from_millis(5);
/// Standard Ethernet; the mailbox does not tell the PF's own.
const MTU: u32 = 1500;
const MAX_MTU: u32 = 9216;

/// The mailbox channel.
pub struct Mailbox {
    waiter: InterruptSet,
    granted: Config,
    /// Read-to-clear bits that were read and not yet acted on.
    latched: u32,
}

impl Mailbox {
    /// A channel that has said nothing yet.
    pub(crate) fn new(access: &mut Access<'_>) -> Result<Self, ChannelError> {
        // A set of its own: waiting here must not take the signals of the driver's vectors.
        let mut waiter = InterruptSet::new(0)?;
        waiter.watch(access.regs.function().lost_event())?;
        if let Some(vector) = access.interrupts.set_mut().vector(OTHER_VECTOR as usize) {
            waiter.watch(std::os::fd::AsFd::as_fd(vector))?;
        }
        let granted = Config {
            mtu: MTU,
            max_mtu: MAX_MTU,
            ..Config::default()
        };
        Ok(Self {
            waiter,
            granted,
            latched: 0,
        })
    }

    pub(crate) fn handshake(&mut self, access: &mut Access<'_>) -> Result<Granted, ChannelError> {
        let words = self.exchange(access, &VfMessage::Reset)?;
        self.granted.mac = match PfReply::parse(&words) {
            Ok(PfReply::ResetAck(mac)) => mac.0,
            // No address assigned: the VF picks one.
            Ok(PfReply::ResetNack) => [0; 6],
            _ => return Err(mismatch(words[0], MessageId::Reset)),
        };
        // A reset of the PF that came before is over with this.
        self.latched = 0;
        self.read_config(access)
    }

    pub(crate) fn read_config(&mut self, access: &mut Access<'_>) -> Result<Granted, ChannelError> {
        let status = access.regs.read::<vf::VTSTATUS>()?;
        let up = Value::<STATUS>::from_raw(status.raw()).has(STATUS::LU);
        self.granted.flags.set(ConfigFlags::LINK_UP, up);
        self.granted.speed = if up { 1000 } else { 0 };
        Ok(self.granted)
    }

    pub(crate) fn request(
        &mut self,
        access: &mut Access<'_>,
        request: &VfRequest,
    ) -> Result<Status, ChannelError> {
        let message = match request {
            VfRequest::Init => VfMessage::Reset,
            VfRequest::SetMac(mac) => VfMessage::SetMac(Address(*mac)),
            VfRequest::AddMac(mac) => VfMessage::AddMacFilter(Address(*mac)),
            // The mailbox clears all of them at once.
            VfRequest::DelMac(_) => VfMessage::ClearMacFilters,
            VfRequest::AddVlan(vid) => VfMessage::SetVlan {
                add: true,
                vid: *vid,
            },
            VfRequest::DelVlan(vid) => VfMessage::SetVlan {
                add: false,
                vid: *vid,
            },
            VfRequest::SetMulticast {
                append: false,
                list,
            } => VfMessage::SetMulticast(Hashes::new(
                list.iter().map(|mac| MacAddress(*mac).hash(0)),
            )),
            VfRequest::SetMulticast { append: true, .. } => {
                return Err(ChannelError::NoMessage("adding to the multicast list"));
            }
            VfRequest::SetMtu(mtu) => VfMessage::SetLpe(igb_driver::queue::packet_length(*mtu)),
            VfRequest::SetPromisc { unicast, multicast } => VfMessage::SetPromisc {
                unicast: *unicast,
                multicast: *multicast,
            },
        };
        let words = self.exchange(access, &message)?;
        let status = if words[0] & ACK != 0 {
            Status::Ok
        } else {
            Status::Denied
        };
        if status == Status::Ok {
            match request {
                VfRequest::SetMac(mac) => self.granted.mac = *mac,
                VfRequest::SetMtu(mtu) => self.granted.mtu = *mtu,
                _ => {}
            }
        }
        Ok(status)
    }

    pub(crate) fn news(&mut self, access: &mut Access<'_>) -> Result<News, ChannelError> {
        let state = self.read(access)?;
        let news = News {
            config: state.has(V2PMAILBOX::PFSTS),
            reset: state.has(V2PMAILBOX::RSTD),
            pf_reset: state.has(V2PMAILBOX::RSTI),
        };
        self.latched &= !(V2PMAILBOX::PFSTS.mask() | V2PMAILBOX::RSTD.mask());
        if news.config {
            // A control message of the PF: what it announces is read from the registers.
            let acknowledged = Value::default().set(V2PMAILBOX::ACK);
            access.regs.write::<vf::V2PMAILBOX>(relay(acknowledged))?;
        }
        Ok(news)
    }

    /// Read V2PMAILBOX, keeping what the read clears.
    fn read(&mut self, access: &Access<'_>) -> Result<Value<V2PMAILBOX>, ChannelError> {
        let state = access.regs.read::<vf::V2PMAILBOX>()?.raw();
        let cleared = V2PMAILBOX::PFSTS.mask() | V2PMAILBOX::PFACK.mask() | V2PMAILBOX::RSTD.mask();
        self.latched |= state & cleared;
        Ok(Value::from_raw(state | self.latched))
    }

    /// Send a message and wait for its answer.
    fn exchange(
        &mut self,
        access: &mut Access<'_>,
        message: &VfMessage,
    ) -> Result<[u32; WORDS], ChannelError> {
        self.wait("end its reset", access, |state| {
            !state.has(V2PMAILBOX::RSTI)
        })?;
        self.lock(access)?;
        // Only now that the PF cannot say anything more: what it rang for until here is no answer.
        self.latched &= V2PMAILBOX::RSTD.mask();
        for (index, word) in (0..).zip(message.encode()) {
            access
                .regs
                .write_at::<vf::VMBMEM>(index, Value::from_raw(word))?;
        }
        access
            .regs
            .write::<vf::V2PMAILBOX>(relay(Value::default().set(V2PMAILBOX::REQ)))?;
        self.wait("take a message", access, |state| {
            state.has(V2PMAILBOX::PFACK)
        })?;
        self.wait("answer", access, |state| state.has(V2PMAILBOX::PFSTS))?;
        self.lock(access)?;
        let mut words = [0; WORDS];
        for (index, word) in (0..).zip(&mut words) {
            *word = access.regs.read_at::<vf::VMBMEM>(index)?.raw();
        }
        access
            .regs
            .write::<vf::V2PMAILBOX>(relay(Value::default().set(V2PMAILBOX::ACK)))?;
        self.latched &= V2PMAILBOX::RSTD.mask();
        let answered = words[0] & (ACK | NACK) != 0;
        if !answered || MessageId::of(words[0]) != Some(message.id()) {
            return Err(mismatch(words[0], message.id()));
        }
        Ok(words)
    }

    /// Take the mailbox memory. A closed mailbox never keeps VFU, and has no PFU to blame.
    fn lock(&mut self, access: &mut Access<'_>) -> Result<(), ChannelError> {
        let end = Instant::now() + PATIENCE;
        loop {
            access
                .regs
                .write::<vf::V2PMAILBOX>(relay(Value::default().set(V2PMAILBOX::VFU)))?;
            let state = self.read(access)?;
            if state.has(V2PMAILBOX::VFU) {
                return Ok(());
            }
            if !state.has(V2PMAILBOX::PFU) {
                return Err(ChannelError::MailboxClosed);
            }
            if Instant::now() > end {
                return Err(no_answer("release the mailbox"));
            }
            self.pause(access)?;
        }
    }

    /// Read V2PMAILBOX until `done`.
    fn wait(
        &mut self,
        what: &'static str,
        access: &mut Access<'_>,
        done: impl Fn(Value<V2PMAILBOX>) -> bool,
    ) -> Result<(), ChannelError> {
        let end = Instant::now() + PATIENCE;
        while !done(self.read(access)?) {
            if Instant::now() > end {
                return Err(no_answer(what));
            }
            self.pause(access)?;
        }
        Ok(())
    }

    /// Wait for the mailbox vector. What it fired for is found by reading V2PMAILBOX; the bits that
    /// such a read clears are kept.
    fn pause(&mut self, access: &mut Access<'_>) -> Result<(), ChannelError> {
        access.interrupts.arm(access.regs, OTHER_VECTOR)?;
        self.waiter.wait(Some(LOOK))?;
        if access.regs.function().lost() {
            return Err(FunctionError::Lost.into());
        }
        access.interrupts.take(OTHER_VECTOR);
        Ok(())
    }
}

/// The same bits in the VF's own window.
fn relay(value: Value<V2PMAILBOX>) -> Value<vf::V2PMAILBOX> {
    Value::from_raw(value.raw())
}

fn no_answer(what: &'static str) -> ChannelError {
    ChannelError::NoAnswer {
        what,
        millis: PATIENCE.as_millis() as u64,
    }
}

fn mismatch(found: u32, sent: MessageId) -> ChannelError {
    ChannelError::Mismatch {
        found,
        sent: sent as u32,
    }
}
