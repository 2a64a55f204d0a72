//! Mailbox messages between VF and PF.

/// Words of a VF's mailbox memory.
pub const WORDS: usize = 16;
