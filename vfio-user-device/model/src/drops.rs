//! Why frames are dropped: every reason has a name and a counter.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),*];

            /// The reason as reports spell it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }
        }
    };
}

drop_reasons! {
    /// Source MAC is none of the pool's (DTXSWC.MACAS).
    SpoofedMac = "spoofed-mac",
    /// VLAN is none of the pool's (DTXSWC.VLANAS).
    SpoofedVlan = "spoofed-vlan",
    /// A VF sent a MAC control frame, which would stop the traffic of others.
    PauseFrame = "pause-frame",
    /// The pool tagged a frame itself although VMVIR gives the tag.
    TagNotAllowed = "tag-not-allowed",
    /// Nobody wanted the frame, and it may not leave by the uplink.
    NoDestination = "no-destination",
    /// Its only taker would have been its sender.
    SourceOnly = "source-only",
    /// No address filter matched a frame from the wire.
    FilterMac = "filter-mac",
    /// No VLAN filter matched a frame from the wire.
    FilterVlan = "filter-vlan",
    /// The link is down.
    LinkDown = "link-down",
    /// A frame from the wire while the MAC or the PHY is looped back.
    Loopback = "loopback",
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// Longer than the receiver accepts (RLPML, LPE).
    TooLong = "too-long",
    /// Longer than the card can handle.
    Oversize = "oversize",
    /// Receiving is not enabled on the queue (VFRE, RCTL.RXEN, RXDCTL.ENABLE).
    RxDisabled = "rx-disabled",
    /// The receiver had no descriptor and QDE or SRRCTL.DROP_EN says to drop.
    NoDescriptor = "no-descriptor",
    /// The receiver had no descriptor; hardware would have let the frame wait for one.
    NoDescriptorNoDropEn = "no-descriptor-no-drop-en",
    /// The receiver's queue is halted after a fault or a malformed ring.
    QueueHalted = "queue-halted",
    /// DMA from the sender's memory failed.
    TxFault = "tx-fault",
    /// DMA to or from the receiver's memory failed.
    RxFault = "rx-fault",
    /// The receiver's memory is too slow, and others wait.
    SlowReceiver = "slow-receiver",
    /// More descriptors in one frame than the card takes.
    TooManyDescriptors = "too-many-descriptors",
    /// A descriptor that makes no sense (type, zero length, reserved bits).
    BadDescriptor = "bad-descriptor",
    /// A segmentation request (TSE) that makes no sense: its context, its MSS, or lengths that do not
    /// add up.
    BadSegmentation = "bad-segmentation",
    /// A checksum request whose offsets lie outside the frame's header.
    BadChecksumContext = "bad-checksum-context",
}

/// What is wrong with descriptors, as LVMMC tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Malformed {
    /// Their type or number.
    Descriptor,
    /// The size of the frame.
    Size,
    /// The context, or what a descriptor has it do.
    Context,
}

impl DropReason {
    /// Whether no sound driver has frames dropped for this reason: its queue is blocked if the PF
    /// wants malicious drivers stopped (DTXCTL.MDP_EN).
    pub(crate) fn malformed(self) -> Option<Malformed> {
        Some(match self {
            DropReason::BadDescriptor | DropReason::TooManyDescriptors => Malformed::Descriptor,
            DropReason::Runt | DropReason::Oversize => Malformed::Size,
            DropReason::BadChecksumContext | DropReason::BadSegmentation => Malformed::Context,
            _ => return None,
        })
    }
}

/// Dropped frames by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Frames dropped for this reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All dropped frames.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }

    /// The reasons that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.get(*reason)))
            .filter(|(_, n)| *n != 0)
    }

    pub(crate) fn add(&mut self, reason: DropReason, frames: u64) {
        let counter = &mut self.0[reason as usize];
        *counter = counter.wrapping_add(frames);
    }

    pub(crate) fn merge(&mut self, other: &DropCounters) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.wrapping_add(theirs);
        }
    }
}
