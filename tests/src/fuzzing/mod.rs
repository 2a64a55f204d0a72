//! Bodies of the fuzz targets. The targets in `tests/fuzz` and the corpus test call the same ones:
//! whatever bytes come in, a body returns, or panics because something is broken.

pub mod bar_access;
mod card;
pub mod channel_messages;
pub mod config_space;
mod court;
mod input;
pub mod mailbox_words;
pub mod seeds;
pub mod vfio_user_stream;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// As the file in `fuzz_targets` and the directory in `corpus` are called.
    pub name: &'static str,
    /// Its body.
    pub run: fn(&[u8]),
    /// Inputs to begin with, each with its name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "vfio_user_stream",
        run: vfio_user_stream::run,
        seeds: seeds::vfio_user_stream,
    },
    Target {
        name: "bar_access",
        run: bar_access::run,
        seeds: seeds::bar_access,
    },
    Target {
        name: "config_space",
        run: config_space::run,
        seeds: seeds::config_space,
    },
    Target {
        name: "mailbox_words",
        run: mailbox_words::run,
        seeds: seeds::mailbox_words,
    },
    Target {
        name: "channel_messages",
        run: channel_messages::run,
        seeds: seeds::channel_messages,
    },
];
