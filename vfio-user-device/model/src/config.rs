//! What control tells the data path: one snapshot of all that forwarding depends on.

/// A version of the card's configuration, for the data path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub(crate) version: u64,
}

impl Config {
    /// Grows with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }
}
