//! Requests of a VF and their answers.

use crate::Invalid;
use crate::wire::{Reader, wire_enum};

/// 32-bit words in a VF's mailbox.
pub const MAILBOX_WORDS: usize = 16;
/// Largest config block, bytes.
pub const MAX_BLOCK: usize = 128;

wire_enum! {
    /// How a request ended. The same numbers stand in the status register of [`crate::bar`].
    Status, "status" {
        /// Done.
        Ok = 0,
        /// Policy forbids it.
        Denied = 1,
        /// The request makes no sense: bad length, address, id.
        Invalid = 2,
        /// Nobody knows this command, block or message.
        Unsupported = 3,
        /// A table or quota is full.
        Exhausted = 4,
        /// The VF asks too often; nothing was done.
        RateLimited = 5,
        /// Another request of this VF is still outstanding.
        Busy = 6,
        /// The VF was reset before the answer came.
        Reset = 7,
        /// No PF driver is there to answer.
        PfGone = 8,
        /// The PF driver did not answer in time, or the caller gave up.
        TimedOut = 9,
        /// The VF is being taken away.
        TornDown = 10,
    }
}

/// Up to [`MAX_BLOCK`] bytes of a config block.
#[derive(Clone, Copy)]
pub struct BlockData {
    bytes: [u8; MAX_BLOCK],
    length: u8,
}

impl BlockData {
    /// No bytes.
    pub const EMPTY: Self = Self {
        bytes: [0; MAX_BLOCK],
        length: 0,
    };

    /// A copy of `data`, which may have [`MAX_BLOCK`] bytes at most.
    pub fn new(data: &[u8]) -> Result<Self, Invalid> {
        let mut bytes = [0; MAX_BLOCK];
        bytes
            .get_mut(..data.len())
            .ok_or(Invalid::TooLong {
                length: u32::try_from(data.len()).unwrap_or(u32::MAX),
                limit: MAX_BLOCK as u32,
            })?
            .copy_from_slice(data);
        Ok(Self {
            bytes,
            length: data.len() as u8,
        })
    }
}

impl std::ops::Deref for BlockData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl PartialEq for BlockData {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for BlockData {}

impl std::fmt::Debug for BlockData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockData({:02x?})", &self[..])
    }
}

/// The answer to a mailbox request: the words that the VF finds in its mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxWords {
    words: [u32; MAILBOX_WORDS],
    count: u8,
}

impl MailboxWords {
    /// A copy of `words`, 1 to [`MAILBOX_WORDS`] of them.
    pub fn new(words: &[u32]) -> Result<Self, Invalid> {
        if words.is_empty() || words.len() > MAILBOX_WORDS {
            return Err(Invalid::Value {
                field: "mailbox word count",
                value: words.len() as u64,
            });
        }
        let mut all = [0; MAILBOX_WORDS];
        all[..words.len()].copy_from_slice(words);
        Ok(Self {
            words: all,
            count: words.len() as u8,
        })
    }
}

impl std::ops::Deref for MailboxWords {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.words[..usize::from(self.count)]
    }
}

/// What a VF asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    /// The 16 words of VMBMEM when the VF set V2PMAILBOX.REQ.
    Mailbox([u32; MAILBOX_WORDS]),
    /// Read up to `length` bytes of a config block.
    ReadBlock {
        /// Block id.
        block: u32,
        /// Bytes wanted, 1 to [`MAX_BLOCK`].
        length: u8,
    },
    /// Write a config block.
    WriteBlock {
        /// Block id.
        block: u32,
        /// The content, 1 to [`MAX_BLOCK`] bytes.
        data: BlockData,
    },
}

/// A request of a VF. `vf` comes from the connection, never from what the VF says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Which VF.
    pub vf: u16,
    /// The VF's generation; it grows with each reset and each tenant.
    pub generation: u32,
    /// Number of the request; never used twice in a mediator's life.
    pub id: u64,
    /// What it asks for.
    pub body: RequestBody,
}

/// The content of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyBody {
    /// Nothing but the status. For a mailbox request the mediator then makes the words itself: ACK
    /// or NACK of the same message type.
    Empty,
    /// The words of a mailbox answer. Word 0 must carry ACK or NACK and the request's type.
    Mailbox(MailboxWords),
    /// The bytes of a config block that was read; at most as many as were asked for.
    Block(BlockData),
}

/// The PF driver's answer to a [`Request`]. One that matches no outstanding request is dropped and
/// logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// As in the request.
    pub vf: u16,
    /// As in the request.
    pub generation: u32,
    /// As in the request.
    pub id: u64,
    /// How it ended.
    pub status: Status,
    /// The content.
    pub body: ReplyBody,
}

impl Reply {
    /// The answer to `request`.
    pub fn to(request: &Request, status: Status, body: ReplyBody) -> Self {
        Self {
            vf: request.vf,
            generation: request.generation,
            id: request.id,
            status,
            body,
        }
    }
}

const BODY_EMPTY: u8 = 0;
const BODY_MAILBOX: u8 = 1;
const BODY_READ_BLOCK: u8 = 2;
const BODY_WRITE_BLOCK: u8 = 3;
const BODY_BLOCK: u8 = 4;

fn check_block_length(length: usize) -> Result<(), Invalid> {
    if (1..=MAX_BLOCK).contains(&length) {
        Ok(())
    } else {
        Err(Invalid::Value {
            field: "block length",
            value: length as u64,
        })
    }
}

fn words(r: &mut Reader<'_>, count: usize) -> Result<[u32; MAILBOX_WORDS], Invalid> {
    let mut words = [0; MAILBOX_WORDS];
    for word in &mut words[..count] {
        *word = r.u32()?;
    }
    Ok(words)
}

impl Request {
    pub(crate) fn parse(r: &mut Reader<'_>) -> Result<Self, Invalid> {
        let (vf, generation, id) = (r.u16()?, r.u32()?, r.u64()?);
        let body = match r.u8()? {
            BODY_MAILBOX => RequestBody::Mailbox(words(r, MAILBOX_WORDS)?),
            BODY_READ_BLOCK => {
                let (block, length) = (r.u32()?, r.u8()?);
                check_block_length(length.into())?;
                RequestBody::ReadBlock { block, length }
            }
            BODY_WRITE_BLOCK => {
                let block = r.u32()?;
                let data = r.rest();
                check_block_length(data.len())?;
                RequestBody::WriteBlock {
                    block,
                    data: BlockData::new(data)?,
                }
            }
            value => {
                return Err(Invalid::Value {
                    field: "request body",
                    value: value.into(),
                });
            }
        };
        Ok(Self {
            vf,
            generation,
            id,
            body,
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.vf.to_le_bytes());
        out.extend(self.generation.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        match &self.body {
            RequestBody::Mailbox(words) => {
                out.push(BODY_MAILBOX);
                out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            }
            RequestBody::ReadBlock { block, length } => {
                out.push(BODY_READ_BLOCK);
                out.extend(block.to_le_bytes());
                out.push(*length);
            }
            RequestBody::WriteBlock { block, data } => {
                out.push(BODY_WRITE_BLOCK);
                out.extend(block.to_le_bytes());
                out.extend_from_slice(data);
            }
        }
    }
}

impl Reply {
    pub(crate) fn parse(r: &mut Reader<'_>) -> Result<Self, Invalid> {
        let (vf, generation, id) = (r.u16()?, r.u32()?, r.u64()?);
        let status = Status::from_wire(r.u8()?)?;
        let body = match r.u8()? {
            BODY_EMPTY => ReplyBody::Empty,
            BODY_MAILBOX => {
                let count = usize::from(r.u8()?);
                if !(1..=MAILBOX_WORDS).contains(&count) {
                    return Err(Invalid::Value {
                        field: "mailbox word count",
                        value: count as u64,
                    });
                }
                ReplyBody::Mailbox(MailboxWords::new(&words(r, count)?[..count])?)
            }
            BODY_BLOCK => ReplyBody::Block(BlockData::new(r.rest())?),
            value => {
                return Err(Invalid::Value {
                    field: "reply body",
                    value: value.into(),
                });
            }
        };
        Ok(Self {
            vf,
            generation,
            id,
            status,
            body,
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.vf.to_le_bytes());
        out.extend(self.generation.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        out.push(self.status.to_wire());
        match &self.body {
            ReplyBody::Empty => out.push(BODY_EMPTY),
            ReplyBody::Mailbox(words) => {
                out.extend([BODY_MAILBOX, words.count]);
                out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            }
            ReplyBody::Block(data) => {
                out.push(BODY_BLOCK);
                out.extend_from_slice(data);
            }
        }
    }
}
