//! The way to the PF, whichever it is.

use igb_driver::Registers;
use igb_driver::interrupt::Interrupts;
use igb_driver::window::VfWindow;
use mediator_protocol::Status;
use mediator_protocol::block::{Config, Stats, VfRequest};

use crate::error::ChannelError;
use crate::mailbox::Mailbox;
use crate::mediated::Mediated;

/// Which way requests take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelKind {
    /// Config blocks through the mediator's BAR.
    #[default]
    Mediated,
    /// The 82576's mailbox.
    Mailbox,
}

/// What the PF granted, as [`Channel::handshake`] and [`Channel::read_config`] learn it.
pub type Granted = Config;

/// What a look at the channel found, after its vector fired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// The configuration may have changed: read it.
    pub config: bool,
    /// The VF was reset by somebody else: begin anew.
    pub reset: bool,
    /// The PF is in reset: wait for its end.
    pub pf_reset: bool,
}

/// A channel in use.
pub enum Channel {
    /// See [`ChannelKind::Mediated`].
    Mediated(Mediated),
    /// See [`ChannelKind::Mailbox`].
    Mailbox(Mailbox),
}

/// What a channel works with.
pub struct Access<'a> {
    /// The VF's registers.
    pub regs: &'a Registers,
    /// Its interrupts: the channel waits for the vector of other causes.
    pub interrupts: &'a mut Interrupts<VfWindow>,
}

impl Channel {
    /// Find the channel of `kind`.
    ///
    /// # Errors
    ///
    /// There is none of that kind.
    pub fn find(kind: ChannelKind, access: &mut Access<'_>) -> Result<Self, ChannelError> {
        match kind {
            ChannelKind::Mediated => Mediated::find(access).map(Self::Mediated),
            ChannelKind::Mailbox => Mailbox::new(access).map(Self::Mailbox),
        }
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> ChannelKind {
        match self {
            Self::Mediated(_) => ChannelKind::Mediated,
            Self::Mailbox(_) => ChannelKind::Mailbox,
        }
    }

    /// Introduce this VF after a reset; the PF then enables its queues.
    ///
    /// # Errors
    ///
    /// No PF, another version, or a refusal.
    pub fn handshake(&mut self, access: &mut Access<'_>) -> Result<Granted, ChannelError> {
        match self {
            Self::Mediated(channel) => channel.handshake(access),
            Self::Mailbox(channel) => channel.handshake(access),
        }
    }

    /// Ask the PF. The verdict is the PF's, or the mediator's where it did not come to the PF.
    ///
    /// # Errors
    ///
    /// The request could not be made.
    pub fn request(
        &mut self,
        access: &mut Access<'_>,
        request: &VfRequest,
    ) -> Result<Status, ChannelError> {
        match self {
            Self::Mediated(channel) => channel.request(access, request),
            Self::Mailbox(channel) => channel.request(access, request),
        }
    }

    /// Read what is granted now.
    ///
    /// # Errors
    ///
    /// No PF.
    pub fn read_config(&mut self, access: &mut Access<'_>) -> Result<Granted, ChannelError> {
        match self {
            Self::Mediated(channel) => channel.read_config(access),
            Self::Mailbox(channel) => channel.read_config(access),
        }
    }

    /// The PF's counters for this VF, where the channel carries them.
    ///
    /// # Errors
    ///
    /// No PF.
    pub fn read_stats(&mut self, access: &mut Access<'_>) -> Result<Option<Stats>, ChannelError> {
        match self {
            Self::Mediated(channel) => channel.read_stats(access).map(Some),
            Self::Mailbox(_) => Ok(None),
        }
    }

    /// Look what the vector of other causes fired for.
    ///
    /// # Errors
    ///
    /// The function is gone.
    pub fn news(&mut self, access: &mut Access<'_>) -> Result<News, ChannelError> {
        match self {
            Self::Mediated(channel) => channel.news(access),
            Self::Mailbox(channel) => channel.news(access),
        }
    }
}
