//! What a register access asks of whoever serves the card.

use std::fmt;

use igb::FunctionId;

/// A set of functions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FunctionSet(u16);

impl FunctionSet {
    /// No function.
    pub const EMPTY: FunctionSet = FunctionSet(0);

    /// Every function of a card.
    #[must_use]
    pub fn all() -> Self {
        FunctionId::all().collect()
    }

    /// Only this one.
    #[must_use]
    pub fn only(function: FunctionId) -> Self {
        FunctionSet(1 << function.slot())
    }

    /// Add a function.
    pub fn insert(&mut self, function: FunctionId) {
        self.0 |= 1 << function.slot();
    }

    /// Take a function out.
    pub fn remove(&mut self, function: FunctionId) {
        self.0 &= !(1 << function.slot());
    }

    /// Whether a function is in it.
    #[must_use]
    pub fn contains(self, function: FunctionId) -> bool {
        self.0 & 1 << function.slot() != 0
    }

    /// Whether it has no function.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        FunctionSet(self.0 | other.0)
    }

    /// Its functions, the PF first.
    pub fn iter(self) -> impl Iterator<Item = FunctionId> {
        FunctionId::all().filter(move |function| self.contains(*function))
    }
}

impl FromIterator<FunctionId> for FunctionSet {
    fn from_iter<T: IntoIterator<Item = FunctionId>>(functions: T) -> Self {
        let mut set = Self::EMPTY;
        functions
            .into_iter()
            .for_each(|function| set.insert(function));
        set
    }
}

impl fmt::Debug for FunctionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What must follow an access, before it is answered unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// [`crate::Control::config`] has a new version for the data path.
    pub publish: bool,
    /// A doorbell rang: a worker should run, now; the answer need not wait for it.
    pub kick: bool,
    /// The data path must have seen the configuration and these functions' pages
    /// ([`crate::DataPath::configure`], [`crate::DataPath::sync_queues`]).
    pub sync: FunctionSet,
    /// The number of enabled VFs is now this.
    pub vfs: Option<u8>,
    /// Zero the queue pages of these functions, after [`crate::DataPath::configure`] and before
    /// [`crate::DataPath::sync_queues`].
    pub clear_pages: FunctionSet,
    /// These functions were reset (FLR, VTCTRL.RST, CTRL.RST, VF Enable cleared): cancel their DMA.
    pub reset_done: FunctionSet,
}

impl Effects {
    /// Nothing follows.
    pub const NONE: Effects = Effects {
        publish: false,
        kick: false,
        sync: FunctionSet::EMPTY,
        vfs: None,
        clear_pages: FunctionSet::EMPTY,
        reset_done: FunctionSet::EMPTY,
    };

    /// These effects and then those of a later access.
    pub fn merge(&mut self, later: Effects) {
        self.publish |= later.publish;
        self.kick |= later.kick;
        self.sync = self.sync.union(later.sync);
        self.vfs = later.vfs.or(self.vfs);
        self.clear_pages = self.clear_pages.union(later.clear_pages);
        self.reset_done = self.reset_done.union(later.reset_done);
    }
}
