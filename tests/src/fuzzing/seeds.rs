//! Inputs that fuzzing begins with: for each target what well-behaved software does, and the entries
//! of the attack catalogue that fit it.

mod bar_access;
mod channel_messages;
mod config_space;
mod mailbox_words;
mod vfio_user_stream;

pub use bar_access::bar_access;
pub use channel_messages::channel_messages;
pub use config_space::config_space;
pub use mailbox_words::mailbox_words;
pub use vfio_user_stream::vfio_user_stream;

use igb::FunctionId;

type Seeds = Vec<(String, Vec<u8>)>;

fn named<const N: usize>(seeds: [(&str, Vec<u8>); N]) -> Seeds {
    seeds
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect()
}

/// An operation on configuration space, as the targets of the card decode it.
fn config_operation(op: u8, function: FunctionId, at: u16, bytes: &[u8]) -> Vec<u8> {
    [
        &[op, function.slot() as u8],
        &at.to_le_bytes()[..],
        &[bytes.len() as u8],
        bytes,
    ]
    .concat()
}
