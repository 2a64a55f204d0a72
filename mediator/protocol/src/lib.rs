//! Messages of the mediated VF to PF channel. Bytes in, messages out: no sockets here.
//!
//! Three layers, one module each:
//! - [`frame`], [`message`] and [`request`]: what the mediator and the PF driver send each other over the PF
//!   socket ([`ToPf`], [`FromPf`]);
//! - [`bar`]: the registers of the BAR that the mediator adds to each VF;
//! - [`block`]: what VF driver and PF driver say to each other inside config blocks. The mediator
//!   carries these bytes and does not look at them.
//!
//! Everything is little endian. Whatever is parsed here was written by somebody untrusted: every
//! length is checked before use, reserved bits must be zero, trailing bytes are refused.
#![forbid(unsafe_code)]

pub mod bar;
pub mod block;
pub mod frame;
pub mod message;
pub mod request;
pub mod token;
mod wire;

pub use frame::{Decoder, Frame, MAX_FRAME, MAX_PAYLOAD};
pub use message::{FromPf, PfFeatures, RefuseReason, ResetCause, ToPf, VERSION};
pub use request::{
    BlockData, MAILBOX_WORDS, MAX_BLOCK, MailboxWords, Reply, ReplyBody, Request, RequestBody,
    Status,
};
pub use token::Token;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Shorter than its own layout says.
    #[error("message ends {missing} bytes early")]
    Truncated {
        /// Bytes that are missing for the next field.
        missing: usize,
    },
    /// Bytes follow where the message should end.
    #[error("{extra} bytes follow the end of the message")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A length field beyond its bound.
    #[error("length {length} is more than the limit {limit}")]
    TooLong {
        /// The length given.
        length: u32,
        /// The largest one allowed.
        limit: u32,
    },
    /// No message has this number.
    #[error("unknown message kind {0:#x}")]
    UnknownKind(u16),
    /// Bits that must be zero are not.
    #[error("reserved bits {bits:#x} are set in {field}")]
    Reserved {
        /// The field they are in.
        field: &'static str,
        /// The bits.
        bits: u64,
    },
    /// A value outside what the field allows.
    #[error("{value:#x} is not a valid {field}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}
