//! What the mediator and the PF driver say to each other.
//!
//! Order on a connection: the PF driver sends [`FromPf::Hello`] and waits for [`ToPf::Welcome`]
//! (or [`ToPf::Refused`], after which the mediator closes). Then it offers VFs. A VF's
//! [`ToPf::Reset`] always comes before any [`ToPf::Request`] of the new generation.

use crate::wire::{Reader, flags, wire_enum};
use crate::{Frame, Invalid, Reply, Request, Status, Token};

/// Version of this protocol; both sides must have the same.
pub const VERSION: u16 = 1;

bitflags::bitflags! {
    /// What a side of the PF connection can do beyond version 1's basics. The PF driver names what
    /// it has, the mediator answers with what both have.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct PfFeatures: u32 {
        /// Mailbox requests are relayed (82576 guests).
        const MAILBOX = 1;
        /// Config-block requests are relayed.
        const BLOCKS = 1 << 1;
        /// [`ToPf::Expired`] is understood: a late success is rolled back or announced anew.
        const EXPIRED = 1 << 2;
        /// [`FromPf::Link`] is used: the mediator answers STATUS.LU per VF.
        const LINK = 1 << 3;
    }
}

wire_enum! {
    /// What reset a VF.
    ResetCause, "reset cause" {
        /// The VF driver wrote CTRL.RST.
        CtrlRst = 1,
        /// A function-level reset through config space.
        Flr = 2,
        /// The VF's client asked for a device reset (vfio-user RESET).
        Device = 3,
        /// The VF changes hands: reset between two tenants.
        Tenant = 4,
    }
}

wire_enum! {
    /// Why the mediator does not talk to a PF driver.
    RefuseReason, "refuse reason" {
        /// The versions differ.
        Version = 1,
        /// The token is wrong or absent.
        Token = 2,
        /// Another PF driver is connected.
        Occupied = 3,
        /// Something else came before Hello, or Hello came twice.
        Sequence = 4,
        /// The process belongs to another user.
        Credentials = 5,
        /// Bytes that are no message.
        Malformed = 6,
    }
}

/// From the mediator to the PF driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToPf {
    /// The Hello was accepted.
    Welcome {
        /// The mediator's [`VERSION`].
        version: u16,
        /// What both sides can do.
        features: PfFeatures,
    },
    /// The connection is refused and closes.
    Refused {
        /// Why.
        reason: RefuseReason,
    },
    /// A tenant is on the VF: from now on requests may come.
    Attached {
        /// Which VF.
        vf: u16,
        /// Its generation.
        generation: u32,
    },
    /// The tenant has left the VF.
    Detached {
        /// Which VF.
        vf: u16,
        /// The generation that ended.
        generation: u32,
    },
    /// The VF was reset, and the card has completed it.
    Reset {
        /// Which VF.
        vf: u16,
        /// The generation that begins.
        generation: u32,
        /// What reset it.
        cause: ResetCause,
    },
    /// A VF asks for something.
    Request(Request),
    /// The mediator has already answered this request TIMED_OUT (mailbox: NACK): a success must be
    /// rolled back or announced anew. A reply to it is dropped.
    Expired {
        /// Which VF.
        vf: u16,
        /// The generation of the request.
        generation: u32,
        /// The request.
        id: u64,
    },
    /// The VF has left the virtual bus; its slot is absent.
    Ejected {
        /// Which VF.
        vf: u16,
        /// True if the guest let go before the timeout.
        graceful: bool,
    },
    /// An Offer could not be fulfilled, or a message named a VF that is not offered.
    Rejected {
        /// Which VF.
        vf: u16,
        /// Invalid: no such slot; Busy: still being ejected; Exhausted: no free slot; TimedOut: the
        /// card's socket did not appear.
        status: Status,
    },
}

/// From the PF driver to the mediator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromPf {
    /// First message of a connection.
    Hello {
        /// The driver's [`VERSION`].
        version: u16,
        /// What the driver can do.
        features: PfFeatures,
        /// Proof that it is paired with this mediator.
        token: Token,
    },
    /// Put a VF on the virtual bus, or adopt one that is there.
    Offer {
        /// Which VF, from 0.
        vf: u16,
        /// Serial that pairs the VF with its synthetic NIC.
        serial: u64,
        /// Link state that the VF sees.
        link_up: bool,
        /// MAC that the administrator set.
        mac: Option<[u8; 6]>,
    },
    /// Ask the guest to let go, then take the VF away.
    Eject {
        /// Which VF.
        vf: u16,
        /// How long the guest may take, ms.
        timeout_ms: u32,
    },
    /// Take the VF away at once.
    Revoke {
        /// Which VF.
        vf: u16,
    },
    /// The answer to a request.
    Reply(Reply),
    /// Config blocks have changed. Bit n stands for block n.
    Invalidate {
        /// Which VF.
        vf: u16,
        /// Its generation; a stale one is dropped.
        generation: u32,
        /// Which blocks, never 0.
        mask: u64,
    },
    /// The VF's link state changed.
    Link {
        /// Which VF.
        vf: u16,
        /// Up or down.
        up: bool,
        /// Speed, Mb/s.
        speed: u32,
    },
}

/// Frame kinds, mediator to PF driver.
mod to_pf {
    pub(super) const WELCOME: u16 = 0x01;
    pub(super) const REFUSED: u16 = 0x02;
    pub(super) const ATTACHED: u16 = 0x03;
    pub(super) const DETACHED: u16 = 0x04;
    pub(super) const RESET: u16 = 0x05;
    pub(super) const REQUEST: u16 = 0x06;
    pub(super) const EXPIRED: u16 = 0x07;
    pub(super) const EJECTED: u16 = 0x08;
    pub(super) const REJECTED: u16 = 0x09;
}

/// Frame kinds, PF driver to mediator.
mod from_pf {
    pub(super) const HELLO: u16 = 0x81;
    pub(super) const OFFER: u16 = 0x82;
    pub(super) const EJECT: u16 = 0x83;
    pub(super) const REVOKE: u16 = 0x84;
    pub(super) const REPLY: u16 = 0x85;
    pub(super) const INVALIDATE: u16 = 0x86;
    pub(super) const LINK: u16 = 0x87;
}

impl Frame for ToPf {
    fn parse(kind: u16, payload: &[u8]) -> Result<Self, Invalid> {
        let r = &mut Reader::new(payload);
        let message = match kind {
            to_pf::WELCOME => Self::Welcome {
                version: r.u16()?,
                features: flags(r.u32()?, "features")?,
            },
            to_pf::REFUSED => Self::Refused {
                reason: RefuseReason::from_wire(r.u8()?)?,
            },
            to_pf::ATTACHED => Self::Attached {
                vf: r.u16()?,
                generation: r.u32()?,
            },
            to_pf::DETACHED => Self::Detached {
                vf: r.u16()?,
                generation: r.u32()?,
            },
            to_pf::RESET => Self::Reset {
                vf: r.u16()?,
                generation: r.u32()?,
                cause: ResetCause::from_wire(r.u8()?)?,
            },
            to_pf::REQUEST => Self::Request(Request::parse(r)?),
            to_pf::EXPIRED => Self::Expired {
                vf: r.u16()?,
                generation: r.u32()?,
                id: r.u64()?,
            },
            to_pf::EJECTED => Self::Ejected {
                vf: r.u16()?,
                graceful: r.bool("graceful")?,
            },
            to_pf::REJECTED => Self::Rejected {
                vf: r.u16()?,
                status: Status::from_wire(r.u8()?)?,
            },
            kind => return Err(Invalid::UnknownKind(kind)),
        };
        Reader::new(r.rest()).finish()?;
        Ok(message)
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Welcome { .. } => to_pf::WELCOME,
            Self::Refused { .. } => to_pf::REFUSED,
            Self::Attached { .. } => to_pf::ATTACHED,
            Self::Detached { .. } => to_pf::DETACHED,
            Self::Reset { .. } => to_pf::RESET,
            Self::Request(_) => to_pf::REQUEST,
            Self::Expired { .. } => to_pf::EXPIRED,
            Self::Ejected { .. } => to_pf::EJECTED,
            Self::Rejected { .. } => to_pf::REJECTED,
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Welcome { version, features } => {
                out.extend(version.to_le_bytes());
                out.extend(features.bits().to_le_bytes());
            }
            Self::Refused { reason } => out.push(reason.to_wire()),
            Self::Attached { vf, generation } | Self::Detached { vf, generation } => {
                out.extend(vf.to_le_bytes());
                out.extend(generation.to_le_bytes());
            }
            Self::Reset {
                vf,
                generation,
                cause,
            } => {
                out.extend(vf.to_le_bytes());
                out.extend(generation.to_le_bytes());
                out.push(cause.to_wire());
            }
            Self::Request(ref request) => request.encode(out),
            Self::Expired { vf, generation, id } => {
                out.extend(vf.to_le_bytes());
                out.extend(generation.to_le_bytes());
                out.extend(id.to_le_bytes());
            }
            Self::Ejected { vf, graceful } => {
                out.extend(vf.to_le_bytes());
                out.push(graceful.into());
            }
            Self::Rejected { vf, status } => {
                out.extend(vf.to_le_bytes());
                out.push(status.to_wire());
            }
        }
    }
}

impl Frame for FromPf {
    fn parse(kind: u16, payload: &[u8]) -> Result<Self, Invalid> {
        let r = &mut Reader::new(payload);
        let message = match kind {
            from_pf::HELLO => Self::Hello {
                version: r.u16()?,
                features: PfFeatures::from_bits_truncate(r.u32()?),
                token: Token(r.array()?),
            },
            from_pf::OFFER => {
                let (vf, serial, link_up, has_mac) = (
                    r.u16()?,
                    r.u64()?,
                    r.bool("link state")?,
                    r.bool("MAC present")?,
                );
                let mac = r.array()?;
                Self::Offer {
                    vf,
                    serial,
                    link_up,
                    mac: has_mac.then_some(mac),
                }
            }
            from_pf::EJECT => Self::Eject {
                vf: r.u16()?,
                timeout_ms: r.u32()?,
            },
            from_pf::REVOKE => Self::Revoke { vf: r.u16()? },
            from_pf::REPLY => Self::Reply(Reply::parse(r)?),
            from_pf::INVALIDATE => {
                let (vf, generation, mask) = (r.u16()?, r.u32()?, r.u64()?);
                if mask == 0 {
                    return Err(Invalid::Value {
                        field: "invalidation mask",
                        value: 0,
                    });
                }
                Self::Invalidate {
                    vf,
                    generation,
                    mask,
                }
            }
            from_pf::LINK => Self::Link {
                vf: r.u16()?,
                up: r.bool("link state")?,
                speed: r.u32()?,
            },
            kind => return Err(Invalid::UnknownKind(kind)),
        };
        Reader::new(r.rest()).finish()?;
        Ok(message)
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => from_pf::HELLO,
            Self::Offer { .. } => from_pf::OFFER,
            Self::Eject { .. } => from_pf::EJECT,
            Self::Revoke { .. } => from_pf::REVOKE,
            Self::Reply(_) => from_pf::REPLY,
            Self::Invalidate { .. } => from_pf::INVALIDATE,
            Self::Link { .. } => from_pf::LINK,
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Hello {
                version,
                features,
                token,
            } => {
                out.extend(version.to_le_bytes());
                out.extend(features.bits().to_le_bytes());
                out.extend(token.0);
            }
            Self::Offer {
                vf,
                serial,
                link_up,
                mac,
            } => {
                out.extend(vf.to_le_bytes());
                out.extend(serial.to_le_bytes());
                out.push(link_up.into());
                out.push(mac.is_some().into());
                out.extend(mac.unwrap_or_default());
            }
            Self::Eject { vf, timeout_ms } => {
                out.extend(vf.to_le_bytes());
                out.extend(timeout_ms.to_le_bytes());
            }
            Self::Revoke { vf } => out.extend(vf.to_le_bytes()),
            Self::Reply(ref reply) => reply.encode(out),
            Self::Invalidate {
                vf,
                generation,
                mask,
            } => {
                out.extend(vf.to_le_bytes());
                out.extend(generation.to_le_bytes());
                out.extend(mask.to_le_bytes());
            }
            Self::Link { vf, up, speed } => {
                out.extend(vf.to_le_bytes());
                out.push(up.into());
                out.extend(speed.to_le_bytes());
            }
        }
    }
}
