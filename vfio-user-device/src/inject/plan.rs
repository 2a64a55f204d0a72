//! Which opportunities a rule strikes: decided by the rule and the opportunities so far, and nothing
//! else, so that the same run has the same faults.

use std::time::Duration;

use igb::FunctionId;

use super::spec::{After, DmaKind, FaultKind, InjectSpec, Target};

/// Something that can go wrong, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opportunity {
    /// An interrupt of the function; its vector if it is MSI-X.
    Interrupt(Option<u16>),
    /// A descriptor that is to be written back.
    Writeback,
    /// A DMA; never [`DmaKind::Any`].
    Dma(DmaKind),
    /// A register that is to be read or written.
    Access,
    /// A register that was read.
    Read,
    /// The function looks whose mailbox it is.
    MailboxLook,
    /// A frame on the wire.
    Frame,
}

impl Opportunity {
    /// One bit for each.
    pub(crate) fn bit(self) -> u32 {
        match self {
            Opportunity::Interrupt(_) => 1 << 0,
            Opportunity::Writeback => 1 << 1,
            Opportunity::Dma(_) => 1 << 2,
            Opportunity::Access => 1 << 3,
            Opportunity::Read => 1 << 4,
            Opportunity::MailboxLook => 1 << 5,
            Opportunity::Frame => 1 << 6,
        }
    }
}

impl InjectSpec {
    /// The bit of the opportunities that the rule looks at.
    pub(super) fn bit(&self) -> u32 {
        match self.kind {
            FaultKind::InterruptLost | FaultKind::InterruptLate(_) => Opportunity::Interrupt(None),
            FaultKind::WritebackLate(_) => Opportunity::Writeback,
            FaultKind::DmaFault(which) => Opportunity::Dma(which),
            FaultKind::ReadOnes => Opportunity::Read,
            FaultKind::Flr | FaultKind::LinkFlap(_) => Opportunity::Access,
            FaultKind::MailboxStuck => Opportunity::MailboxLook,
            FaultKind::FrameLost | FaultKind::FrameCorrupt => Opportunity::Frame,
        }
        .bit()
    }

    fn concerns(&self, function: Option<FunctionId>, opportunity: Opportunity) -> bool {
        if opportunity.bit() != self.bit() {
            return false;
        }
        if let Target::Function(target) = self.target
            && function != Some(target)
        {
            return false;
        }
        match (self.kind, opportunity) {
            (FaultKind::DmaFault(DmaKind::Any), _) => true,
            (FaultKind::DmaFault(asked), Opportunity::Dma(found)) => asked == found,
            (_, Opportunity::Interrupt(vector)) => self.vector.is_none() || self.vector == vector,
            _ => true,
        }
    }

    /// Whether opportunity `n` (the first is 0) is struck, after `struck` others were.
    fn strikes(&self, n: u64, struck: u64) -> bool {
        let skipped = match self.after {
            After::Opportunities(skipped) => skipped,
            // Opportunities before it are not counted.
            After::Time(_) => 0,
        };
        n >= skipped
            && (n - skipped).is_multiple_of(self.every)
            && self.count.is_none_or(|count| struck < count)
            && chance(self.seed, n) < self.probability
    }
}

/// A number from 0 to just below 1 that depends on a seed and a number: SplitMix64.
pub(super) fn chance(seed: u64, n: u64) -> f64 {
    (draw(seed, n) >> 11) as f64 / (1_u64 << 53) as f64
}

/// 64 bits that depend on a seed and a number.
pub(super) fn draw(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// A rule and what it has seen.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) id: u32,
    pub(super) spec: InjectSpec,
    /// When it was made, on the card's clock.
    made: Duration,
    /// Opportunities so far.
    pub(super) seen: u64,
    pub(super) struck: u64,
}

impl Rule {
    pub(super) fn new(id: u32, spec: InjectSpec, made: Duration) -> Self {
        Self {
            id,
            spec,
            made,
            seen: 0,
            struck: 0,
        }
    }

    /// When it strikes without an opportunity, if it does.
    pub(super) fn due(&self) -> Option<Duration> {
        match self.spec.after {
            After::Time(time) if self.spec.kind.strikes_by_itself() && self.seen == 0 => {
                Some(self.made + time)
            }
            _ => None,
        }
    }

    /// Take an opportunity; whether it is struck, and then the bits that chance gives it.
    pub(super) fn take(
        &mut self,
        at: Duration,
        function: Option<FunctionId>,
        opportunity: Opportunity,
    ) -> Option<u64> {
        if !self.spec.concerns(function, opportunity) {
            return None;
        }
        if let After::Time(time) = self.spec.after
            && at < self.made + time
        {
            return None;
        }
        self.next()
    }

    /// The next opportunity.
    pub(super) fn next(&mut self) -> Option<u64> {
        let n = self.seen;
        self.seen += 1;
        if !self.spec.strikes(n, self.struck) {
            return None;
        }
        self.struck += 1;
        Some(draw(!self.spec.seed, n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Which of `of` opportunities the rule strikes.
    fn struck(text: &str, of: u64) -> Vec<u64> {
        let mut rule = Rule::new(0, text.parse().expect(text), Duration::ZERO);
        (0..of)
            .filter(|_| {
                rule.take(
                    Duration::ZERO,
                    Some(FunctionId::vf(0)),
                    Opportunity::Interrupt(Some(0)),
                )
                .is_some()
            })
            .collect()
    }

    #[test]
    fn selectors_choose_among_the_opportunities() {
        assert_eq!(struck("interrupt-lost", 3), [0, 1, 2]);
        assert_eq!(struck("interrupt-lost,count=2", 9), [0, 1]);
        assert_eq!(struck("interrupt-lost,after=2,every=3", 10), [2, 5, 8]);
        assert_eq!(struck("interrupt-lost,after=2,every=3,count=2", 99), [2, 5]);
        assert_eq!(struck("interrupt-lost,pf", 9), [0; 0]);
        assert_eq!(struck("interrupt-lost,vector=1", 9), [0; 0]);
        assert_eq!(struck("interrupt-lost,after=1ms", 9), [0; 0]);
        assert_eq!(struck("interrupt-lost,probability=0", 9), [0; 0]);
        assert_eq!(struck("flr", 9), [0; 0]);
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed_and_comes_near_its_probability() {
        let one = struck("interrupt-lost,probability=0.25,seed=1", 4000);
        assert_eq!(one, struck("interrupt-lost,probability=0.25,seed=1", 4000));
        assert_ne!(one, struck("interrupt-lost,probability=0.25,seed=2", 4000));
        assert!((900..1100).contains(&one.len()), "{}", one.len());
        // A number that must not change: recorded runs depend on it.
        assert_eq!(draw(0, 0), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn time_passes_before_opportunities_count() {
        let spec = "interrupt-lost,after=2s,count=1".parse().expect("a rule");
        let mut rule = Rule::new(0, spec, Duration::from_secs(10));
        let mut at = |seconds| {
            let opportunity = Opportunity::Interrupt(None);
            rule.take(Duration::from_secs(seconds), None, opportunity)
                .is_some()
        };
        assert_eq!([at(11), at(12), at(13)], [false, true, false]);
    }

    proptest! {
        /// No rule strikes more often than it says, or what is not its own.
        #[test]
        fn a_rule_keeps_to_its_selectors(
            spec in crate::inject::spec::tests_specs(),
            functions in proptest::collection::vec(0_usize..9, 0..200),
        ) {
            let mut rule = Rule::new(0, spec, Duration::ZERO);
            let late = Duration::from_secs(1 << 20);
            for slot in functions {
                let function = FunctionId::from_slot(slot);
                for opportunity in [
                    Opportunity::Interrupt(Some(2)),
                    Opportunity::Writeback,
                    Opportunity::Dma(DmaKind::Read),
                    Opportunity::Access,
                    Opportunity::Read,
                    Opportunity::MailboxLook,
                ] {
                    if rule.take(late, function, opportunity).is_some() {
                        prop_assert!(spec.concerns(function, opportunity));
                    }
                }
            }
            prop_assert!(spec.count.is_none_or(|count| rule.struck <= count));
            let may = rule.seen.div_ceil(spec.every);
            prop_assert!(rule.struck <= may);
        }
    }
}
