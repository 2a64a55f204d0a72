//! Framing on the PF socket: an 8-byte header `{kind: u16, flags: u16, length: u32}`, then the
//! payload. Flags are reserved and zero.

use crate::Invalid;
use crate::wire::Reader;

/// Bytes of a frame header.
pub const HEADER: usize = 8;
/// Largest payload of a frame, bytes.
pub const MAX_PAYLOAD: usize = 512;
/// Largest frame, bytes.
pub const MAX_FRAME: usize = HEADER + MAX_PAYLOAD;

/// A message that travels as one frame.
pub trait Frame: Sized {
    /// Parse the payload of a frame of this `kind`.
    fn parse(kind: u16, payload: &[u8]) -> Result<Self, Invalid>;
    /// The frame's kind.
    fn kind(&self) -> u16;
    /// Append the payload to `out`.
    fn encode_payload(&self, out: &mut Vec<u8>);

    /// Append the whole frame to `out`.
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.kind().to_le_bytes());
        out.extend_from_slice(&[0; HEADER - 2]);
        self.encode_payload(out);
        let length = out.len() - start - HEADER;
        debug_assert!(
            length <= MAX_PAYLOAD,
            "every message is bounded by its types"
        );
        out[start + 4..start + 8].copy_from_slice(&(length as u32).to_le_bytes());
    }

    /// The whole frame as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.encode(&mut out);
        out
    }
}

/// Cuts a byte stream into frames. Holds at most one frame that is not yet complete, plus what the
/// caller pushed since it last drained [`Self::next_frame`].
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add bytes as they came from the socket. Call [`Self::next_frame`] until it gives `None`
    /// before the next push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message, if there is one. After an error the stream has no known frame
    /// boundary any more: close the connection.
    pub fn next_frame<T: Frame>(&mut self) -> Result<Option<T>, Invalid> {
        let pending = &self.buffer[self.start..];
        if pending.len() < HEADER {
            return Ok(None);
        }
        let mut header = Reader::new(&pending[..HEADER]);
        let (kind, flags, length) = (header.u16()?, header.u16()?, header.u32()?);
        if flags != 0 {
            return Err(Invalid::Reserved {
                field: "frame flags",
                bits: flags.into(),
            });
        }
        if length as usize > MAX_PAYLOAD {
            return Err(Invalid::TooLong {
                length,
                limit: MAX_PAYLOAD as u32,
            });
        }
        let Some(payload) = pending.get(HEADER..HEADER + length as usize) else {
            return Ok(None);
        };
        let message = T::parse(kind, payload)?;
        self.start += HEADER + length as usize;
        Ok(Some(message))
    }

    /// Bytes that wait for the rest of their frame.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}
