//! The 16-byte header that starts every message.

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{HEADER_SIZE, MAX_MESSAGE, WireError};

bitflags::bitflags! {
    /// Flag bits of a header above the message type.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct HeaderFlags: u32 {
        /// The sender wants no reply, whatever becomes of the command.
        const NO_REPLY = 1 << 4;
        /// The reply reports an error; the errno is in the header.
        const ERROR = 1 << 5;
    }
}

/// The message type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request.
    Command,
    /// The answer to one.
    Reply,
}

const TYPE_MASK: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const TYPE_REPLY: u32 = 1;

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Chosen by the sender of the command; its reply carries the same.
    pub message_id: u16,
    /// Command number, see [`super::command`].
    pub command: u16,
    /// Bytes of the whole message, header included.
    pub message_size: u32,
    /// Message type in bits 3:0, [`HeaderFlags`] above.
    pub flags: u32,
    /// Positive errno of an error reply.
    pub error: u32,
}

impl Header {
    /// The header of a command with `body` bytes after the header.
    pub fn command(message_id: u16, command: u16, body: usize, flags: HeaderFlags) -> Self {
        Self {
            message_id,
            command,
            message_size: message_size(body),
            flags: TYPE_COMMAND | flags.bits(),
            error: 0,
        }
    }

    /// The header of the successful reply to `self`, with `body` bytes after the header.
    pub fn reply(&self, body: usize) -> Self {
        Self {
            message_size: message_size(body),
            flags: TYPE_REPLY,
            error: 0,
            ..*self
        }
    }

    /// The whole error reply to `self`.
    pub fn error_reply(&self, errno: Errno) -> Self {
        Self {
            message_size: message_size(0),
            flags: TYPE_REPLY | HeaderFlags::ERROR.bits(),
            error: errno as u32,
            ..*self
        }
    }

    /// Take the header off the front of `bytes`, if enough have come, and check it.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Ok((header, _)) = Self::read_from_prefix(bytes) else {
            return Ok(None);
        };
        if (header.message_size as usize) < HEADER_SIZE {
            return Err(WireError::SizeBelowHeader(header.message_size));
        }
        if header.message_size as usize > MAX_MESSAGE {
            return Err(WireError::SizeAboveLimit(header.message_size));
        }
        header.kind()?;
        Ok(Some(header))
    }

    /// Command or reply.
    pub fn kind(&self) -> Result<Kind, WireError> {
        match self.flags & TYPE_MASK {
            TYPE_COMMAND => Ok(Kind::Command),
            TYPE_REPLY => Ok(Kind::Reply),
            _ => Err(WireError::Type(self.flags)),
        }
    }

    /// Whether the sender wants no reply.
    pub fn no_reply(&self) -> bool {
        self.flags & HeaderFlags::NO_REPLY.bits() != 0
    }

    /// The error that a reply reports. An error without a number, as some servers send, is `EIO`.
    pub fn errno(&self) -> Option<Errno> {
        (self.flags & HeaderFlags::ERROR.bits() != 0).then(|| {
            match i32::try_from(self.error).map(Errno::from_raw) {
                Ok(Errno::UnknownErrno) | Err(_) => Errno::EIO,
                Ok(errno) => errno,
            }
        })
    }
}

/// Message size for a body; bodies are bounded long before they get near `u32::MAX`.
fn message_size(body: usize) -> u32 {
    u32::try_from(HEADER_SIZE + body).unwrap_or(u32::MAX)
}
