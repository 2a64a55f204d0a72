//! Why a request is refused: every reason has a name, a status for the VF, and a counter.

use mediator_protocol::Status;

macro_rules! refusals {
    ($( $(#[doc = $doc:literal])* $name:ident = $text:literal => $status:ident; )*) => {
        /// Why a VF's request was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Refusal {
            $( $(#[doc = $doc])* $name, )*
        }

        impl Refusal {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The reason as counters and logs spell it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What the VF is told.
            #[must_use]
            pub const fn status(self) -> Status {
                match self { $(Self::$name => Status::$status,)* }
            }
        }
    };
}

refusals! {
    /// No VF has this number, or it has no VPort.
    NoSuchVf = "no-such-vf" => TornDown;
    /// The request is of a generation that a reset has ended.
    StaleGeneration = "stale-generation" => Reset;
    /// The VF has not begun since its reset.
    NotInitialized = "not-initialized" => Reset;
    /// Config-block requests begin with a version and features.
    NotNegotiated = "not-negotiated" => Reset;
    /// Version and features are settled until the next reset.
    AlreadyNegotiated = "already-negotiated" => Denied;
    /// A version that this driver does not speak.
    UnknownVersion = "unknown-version" => Unsupported;
    /// A feature that was not offered.
    FeatureNotOffered = "feature-not-offered" => Unsupported;
    /// A request of a feature that the VF did not accept.
    FeatureNotAccepted = "feature-not-accepted" => Unsupported;
    /// The bytes are no message.
    Malformed = "malformed" => Invalid;
    /// No message has this number.
    UnknownMessage = "unknown-message" => Unsupported;
    /// No block has this number.
    UnknownBlock = "unknown-block" => Unsupported;
    /// The block can be read only, or written only.
    BlockAccess = "block-access" => Denied;
    /// Zero, multicast or broadcast where a station's address belongs.
    InvalidMac = "invalid-mac" => Invalid;
    /// The administrator set the address, and the VF is not trusted.
    AdminMac = "admin-mac" => Denied;
    /// Another function has the address.
    MacInUse = "mac-in-use" => Denied;
    /// The VF has as many additional addresses as it may.
    MacLimit = "mac-limit" => Exhausted;
    /// The card's table of addresses is full.
    MacTableFull = "mac-table-full" => Exhausted;
    /// The VF does not have this additional address.
    NoSuchMac = "no-such-mac" => Invalid;
    /// No VLAN has this number.
    InvalidVlan = "invalid-vlan" => Invalid;
    /// The administrator put the VF into a VLAN of its own.
    PortVlan = "port-vlan" => Denied;
    /// The VLAN is not on the list of those that the VF may join.
    VlanNotAllowed = "vlan-not-allowed" => Denied;
    /// The VF is in as many VLANs as it may be.
    VlanLimit = "vlan-limit" => Exhausted;
    /// The card's table of VLANs is full.
    VlanTableFull = "vlan-table-full" => Exhausted;
    /// The VF is not in this VLAN.
    NoSuchVlan = "no-such-vlan" => Invalid;
    /// An address that is no group's.
    NotMulticast = "not-multicast" => Invalid;
    /// More groups than a VF may have.
    MulticastLimit = "multicast-limit" => Exhausted;
    /// An MTU below what IPv4 needs.
    MtuTooSmall = "mtu-too-small" => Invalid;
    /// An MTU beyond the PF's, or beyond what the policy allows.
    MtuTooLarge = "mtu-too-large" => Denied;
    /// Only a trusted VF receives unknown unicast.
    PromiscNotTrusted = "promisc-not-trusted" => Denied;
}
