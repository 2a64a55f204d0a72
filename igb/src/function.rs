//! The functions of a card and what belongs to each: pools, queues, interrupt vectors.

use core::fmt;

/// VFs of a card (SR-IOV TotalVFs).
pub const VF_COUNT: u8 = 8;
/// Functions of a card: the PF and its VFs.
pub const FUNCTION_COUNT: usize = 1 + VF_COUNT as usize;
/// Queue pairs of a card.
pub const QUEUE_COUNT: u32 = 16;
/// Pools of a card; a queue n belongs to pool n % 8.
pub const POOL_COUNT: u32 = 8;
/// Queue pairs of a VF.
pub const VF_QUEUES: u32 = 2;
/// MSI-X vectors of a VF.
pub const VF_VECTORS: u32 = 3;
/// MSI-X vectors of the PF.
pub const PF_VECTORS: u32 = 10;
/// Interrupt causes (EICR bits, EITR registers) of a card, shared by the functions.
pub const CAUSE_COUNT: u32 = 25;

/// The kinds of function, which differ in layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// The physical function.
    Physical,
    /// A virtual function.
    Virtual,
}

/// A function of the card: the PF or one of its VFs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(u8);

impl FunctionId {
    /// The physical function.
    pub const PF: FunctionId = FunctionId(0);

    /// VF `n`.
    ///
    /// # Panics
    /// If `n` is not below [`VF_COUNT`]; see [`FunctionId::try_vf`].
    #[must_use]
    pub const fn vf(n: u8) -> FunctionId {
        assert!(n < VF_COUNT, "an 82576 has 8 VFs");
        FunctionId(1 + n)
    }

    /// VF `n`, if the card has it.
    #[must_use]
    pub const fn try_vf(n: u8) -> Option<FunctionId> {
        if n < VF_COUNT {
            Some(FunctionId(1 + n))
        } else {
            None
        }
    }

    /// The PF, then the VFs.
    pub fn all() -> impl DoubleEndedIterator<Item = FunctionId> + ExactSizeIterator {
        (0..1 + VF_COUNT).map(FunctionId)
    }

    /// The VFs.
    pub fn vfs() -> impl DoubleEndedIterator<Item = FunctionId> + ExactSizeIterator {
        (1..1 + VF_COUNT).map(FunctionId)
    }

    /// 0 for the PF, 1 + n for VF n: an index for arrays of [`FUNCTION_COUNT`].
    #[must_use]
    pub const fn slot(self) -> usize {
        self.0 as usize
    }

    /// The inverse of [`FunctionId::slot`].
    #[must_use]
    pub const fn from_slot(slot: usize) -> Option<FunctionId> {
        if slot < FUNCTION_COUNT {
            Some(FunctionId(slot as u8))
        } else {
            None
        }
    }

    /// Whether it is a VF.
    #[must_use]
    pub const fn is_vf(self) -> bool {
        self.0 != 0
    }

    /// Which VF; `None` for the PF.
    #[must_use]
    pub const fn vf_index(self) -> Option<u8> {
        self.0.checked_sub(1)
    }

    /// Physical or virtual.
    #[must_use]
    pub const fn kind(self) -> FunctionKind {
        if self.is_vf() {
            FunctionKind::Virtual
        } else {
            FunctionKind::Physical
        }
    }

    /// The pool: n of VF n. For the PF it is the first pool that no VF has, which VT_CTL.DEF_PL
    /// names, given how many VFs are enabled; `None` if the VFs have all of them.
    #[must_use]
    pub const fn pool(self, enabled_vfs: u8) -> Option<u32> {
        match self.vf_index() {
            Some(n) => Some(n as u32),
            None if (enabled_vfs as u32) < POOL_COUNT => Some(enabled_vfs as u32),
            None => None,
        }
    }

    /// The card's number of the function's queue; `queue` is the function's own number. `None` if
    /// the function has no such queue.
    #[must_use]
    pub const fn queue(self, queue: u32) -> Option<u32> {
        match self.vf_index() {
            Some(n) if queue < VF_QUEUES => Some(vf_queue(n, queue)),
            None if queue < QUEUE_COUNT => Some(queue),
            _ => None,
        }
    }

    /// MSI-X vectors of the function.
    #[must_use]
    pub const fn vectors(self) -> u32 {
        if self.is_vf() { VF_VECTORS } else { PF_VECTORS }
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vf_index() {
            None => f.write_str("PF"),
            Some(n) => write!(f, "VF{n}"),
        }
    }
}

impl fmt::Debug for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The card's number of queue `queue` (0 or 1) of VF `vf`: n and n + 8.
#[must_use]
pub const fn vf_queue(vf: u8, queue: u32) -> u32 {
    vf as u32 + POOL_COUNT * queue
}

/// The VF that the card's queue `queue` is wired to, and its number in the VF.
#[must_use]
pub const fn queue_of_vf(queue: u32) -> Option<(u8, u32)> {
    if queue < QUEUE_COUNT {
        Some(((queue % POOL_COUNT) as u8, queue / POOL_COUNT))
    } else {
        None
    }
}

/// The EITR index and EICR bit of vector `vector` (0..3) of VF `vf`: 22 - 3n + v.
#[must_use]
pub const fn vf_eitr(vf: u8, vector: u32) -> u32 {
    CAUSE_COUNT - VF_VECTORS - VF_VECTORS * vf as u32 + vector
}

/// The bits of the card's EICR that belong to VF `vf`.
#[must_use]
pub const fn vf_eicr_mask(vf: u8) -> u32 {
    0b111 << vf_eitr(vf, 0)
}

/// The VF that owns the card's interrupt cause `cause` (EICR bit, EITR index) and its vector there,
/// while the VF is enabled. Cause 0 is always the PF's.
#[must_use]
pub const fn vf_of_cause(cause: u32) -> Option<(u8, u32)> {
    if cause == 0 || cause >= CAUSE_COUNT {
        return None;
    }
    let from_top = CAUSE_COUNT - 1 - cause;
    Some((
        (from_top / VF_VECTORS) as u8,
        VF_VECTORS - 1 - from_top % VF_VECTORS,
    ))
}
