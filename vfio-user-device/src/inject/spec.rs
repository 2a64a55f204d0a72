//! A rule as a user writes it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use igb::FunctionId;

use crate::names::function_name;

/// What is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// An interrupt is not delivered.
    InterruptLost,
    /// An interrupt comes later.
    InterruptLate(Duration),
    /// A descriptor is written back later.
    WritebackLate(Duration),
    /// A DMA fails.
    DmaFault(DmaKind),
    /// A register reads all ones.
    ReadOnes,
    /// The function is reset.
    Flr,
    /// The mailbox belongs to the other side.
    MailboxStuck,
    /// The link goes down for this long.
    LinkFlap(Duration),
    /// A frame on the wire is lost.
    FrameLost,
    /// A bit of a frame on the wire changes.
    FrameCorrupt,
}

/// Which DMA fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmaKind {
    /// Every one.
    Any,
    /// Reads of buffers.
    Read,
    /// Writes of buffers.
    Write,
    /// Reads and writes of descriptors.
    Descriptor,
}

/// Whose opportunities count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Those of every function.
    Any,
    /// Those of one.
    Function(FunctionId),
}

/// What has to pass before a rule strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// So many opportunities.
    Opportunities(u64),
    /// Time, from when the rule was made.
    Time(Duration),
}

/// A rule. Its text is `KIND[=ARGUMENT][,SELECTOR]...`; see [`crate::inject::HELP`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InjectSpec {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Whose.
    pub target: Target,
    /// Only this MSI-X vector.
    pub vector: Option<u16>,
    /// Not before.
    pub after: After,
    /// Then each so many opportunities.
    pub every: u64,
    /// So often in all.
    pub count: Option<u64>,
    /// With this probability, 0 to 1.
    pub probability: f64,
    /// What chance depends on.
    pub seed: u64,
}

/// Why a text is no rule; names the word that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such fault.
    #[error(
        "{0:?} is no fault: say interrupt-lost, interrupt-late=TIME, writeback-late=TIME, \
         dma-fault[=read|write|descriptor], read-ones, flr, mailbox-stuck, link-flap=TIME, \
         frame-lost or frame-corrupt"
    )]
    Kind(String),
    /// A fault without the time it needs.
    #[error("{0} needs a time, such as {0}=2ms")]
    NeedsTime(String),
    /// An argument for a fault that has none.
    #[error("{kind} takes no argument: leave {argument:?} out")]
    Argument {
        /// The fault.
        kind: String,
        /// What was given.
        argument: String,
    },
    /// No time.
    #[error("{0:?} is no time: say a number with ns, us, ms or s, such as 500us or 1.5s")]
    Time(String),
    /// No DMA of this kind.
    #[error("{0:?} is no kind of DMA: say read, write, descriptor or any")]
    Dma(String),
    /// No such selector.
    #[error(
        "{0:?} is no selector: say pf, vf0 to vf7, any, vector=N, after=N, after=TIME, every=N, \
         count=N, probability=P or seed=N"
    )]
    Selector(String),
    /// A selector with a value that it cannot have.
    #[error("{value:?} is nothing for {selector}: {expected}")]
    Value {
        /// The selector.
        selector: &'static str,
        /// Its value.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// A selector twice.
    #[error("{0} is said twice")]
    Twice(String),
    /// A selector that does not go with the fault.
    #[error("{selector} does not go with {kind}: {reason}")]
    Mismatch {
        /// The selector.
        selector: &'static str,
        /// The fault.
        kind: &'static str,
        /// Why not.
        reason: &'static str,
    },
}

impl FaultKind {
    /// As a user spells it, without its argument.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::InterruptLost => "interrupt-lost",
            FaultKind::InterruptLate(_) => "interrupt-late",
            FaultKind::WritebackLate(_) => "writeback-late",
            FaultKind::DmaFault(_) => "dma-fault",
            FaultKind::ReadOnes => "read-ones",
            FaultKind::Flr => "flr",
            FaultKind::MailboxStuck => "mailbox-stuck",
            FaultKind::LinkFlap(_) => "link-flap",
            FaultKind::FrameLost => "frame-lost",
            FaultKind::FrameCorrupt => "frame-corrupt",
        }
    }

    fn is_of_interrupts(self) -> bool {
        matches!(self, FaultKind::InterruptLost | FaultKind::InterruptLate(_))
    }

    pub(crate) fn is_of_the_wire(self) -> bool {
        matches!(self, FaultKind::FrameLost | FaultKind::FrameCorrupt)
    }

    /// Whether it can strike at a time of its own.
    pub(crate) fn strikes_by_itself(self) -> bool {
        matches!(self, FaultKind::Flr | FaultKind::LinkFlap(_))
    }

    /// How often it strikes if nothing is said.
    fn default_count(self) -> Option<u64> {
        self.strikes_by_itself().then_some(1)
    }
}

impl DmaKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            DmaKind::Any => "any",
            DmaKind::Read => "read",
            DmaKind::Write => "write",
            DmaKind::Descriptor => "descriptor",
        }
    }
}

impl InjectSpec {
    /// A rule that strikes every opportunity of every function; once, if the fault is a reset or a
    /// link flap.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            target: Target::Any,
            vector: None,
            after: After::Opportunities(0),
            every: 1,
            count: kind.default_count(),
            probability: 1.0,
            seed: 0,
        }
    }
}

/// Units of time, the longest first.
const UNITS: [(&str, u128); 4] = [
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The longest time that can be asked for: a day.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (_, scale) = UNITS
        .iter()
        .find(|(unit, _)| *unit == &text[digits.len()..])?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 15 || fraction.len() > 9 {
        return None;
    }
    if !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
        return None;
    }
    let mut nanos = whole.parse::<u128>().ok()? * scale;
    if !fraction.is_empty() {
        nanos += fraction.parse::<u128>().ok()? * scale / 10_u128.pow(fraction.len() as u32);
    }
    let time = Duration::from_nanos(u64::try_from(nanos).ok()?);
    (time <= LONGEST).then_some(time)
}

struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let exact = UNITS.iter().find(|(_, scale)| nanos.is_multiple_of(*scale));
        let (unit, scale) = exact.unwrap_or(&("ns", 1));
        write!(f, "{}{unit}", nanos / scale)
    }
}

fn parse_kind(text: &str) -> Result<FaultKind, SpecError> {
    let (name, argument) = match text.split_once('=') {
        Some((name, argument)) => (name, Some(argument)),
        None => (text, None),
    };
    let time = || match argument {
        None => Err(SpecError::NeedsTime(name.to_owned())),
        Some(text) => parse_time(text).ok_or_else(|| SpecError::Time(text.to_owned())),
    };
    let plain = |kind| match argument {
        None => Ok(kind),
        Some(argument) => Err(SpecError::Argument {
            kind: name.to_owned(),
            argument: argument.to_owned(),
        }),
    };
    match name {
        "interrupt-lost" => plain(FaultKind::InterruptLost),
        "interrupt-late" => time().map(FaultKind::InterruptLate),
        "writeback-late" => time().map(FaultKind::WritebackLate),
        "dma-fault" => match argument {
            None | Some("any") => Ok(FaultKind::DmaFault(DmaKind::Any)),
            Some("read") => Ok(FaultKind::DmaFault(DmaKind::Read)),
            Some("write") => Ok(FaultKind::DmaFault(DmaKind::Write)),
            Some("descriptor") => Ok(FaultKind::DmaFault(DmaKind::Descriptor)),
            Some(other) => Err(SpecError::Dma(other.to_owned())),
        },
        "read-ones" => plain(FaultKind::ReadOnes),
        "flr" => plain(FaultKind::Flr),
        "mailbox-stuck" => plain(FaultKind::MailboxStuck),
        "link-flap" => time().map(FaultKind::LinkFlap),
        "frame-lost" => plain(FaultKind::FrameLost),
        "frame-corrupt" => plain(FaultKind::FrameCorrupt),
        _ => Err(SpecError::Kind(text.to_owned())),
    }
}

fn parse_function(text: &str) -> Option<FunctionId> {
    FunctionId::all().find(|function| function_name(*function) == text)
}

/// A value of a selector.
fn value<T: FromStr>(
    selector: &'static str,
    value: &str,
    expected: &'static str,
    fits: impl Fn(&T) -> bool,
) -> Result<T, SpecError> {
    let parsed = value.parse().ok().filter(fits);
    parsed.ok_or_else(|| SpecError::Value {
        selector,
        value: value.to_owned(),
        expected,
    })
}

impl InjectSpec {
    fn select(&mut self, word: &str) -> Result<&'static str, SpecError> {
        if word == "any" {
            self.target = Target::Any;
            return Ok("whose");
        }
        if let Some(function) = parse_function(word) {
            self.target = Target::Function(function);
            return Ok("whose");
        }
        let unknown = || SpecError::Selector(word.to_owned());
        let (selector, text) = word.split_once('=').ok_or_else(unknown)?;
        let positive = "a number from 1 on";
        match selector {
            "function" if text != "any" && parse_function(text).is_none() => {
                Err(SpecError::Value {
                    selector: "function",
                    value: text.to_owned(),
                    expected: "pf, vf0 to vf7, or any",
                })
            }
            "function" => self.select(text),
            "vector" => {
                self.vector = Some(value("vector", text, "a vector, 0 to 9", |n| *n < 10)?);
                Ok("vector")
            }
            "after" => {
                self.after = match parse_time(text) {
                    Some(time) => After::Time(time),
                    None => After::Opportunities(value(
                        "after",
                        text,
                        "a number of opportunities, or a time such as 2s",
                        |_| true,
                    )?),
                };
                Ok("after")
            }
            "every" => {
                self.every = value("every", text, positive, |n| *n > 0)?;
                Ok("every")
            }
            "count" => {
                self.count = Some(value("count", text, positive, |n| *n > 0)?);
                Ok("count")
            }
            "probability" => {
                let fits = |p: &f64| (0.0..=1.0).contains(p);
                self.probability = value("probability", text, "a number from 0 to 1", fits)?;
                Ok("probability")
            }
            "seed" => {
                self.seed = value("seed", text, "a number", |_| true)?;
                Ok("seed")
            }
            _ => Err(unknown()),
        }
    }

    fn check(&self) -> Result<(), SpecError> {
        let mismatch = |selector, reason| {
            Err(SpecError::Mismatch {
                selector,
                kind: self.kind.name(),
                reason,
            })
        };
        if self.vector.is_some() && !self.kind.is_of_interrupts() {
            return mismatch("vector", "it is for interrupt-lost and interrupt-late");
        }
        if self.target != Target::Any && self.kind.is_of_the_wire() {
            return mismatch("a function", "frames on the wire are nobody's");
        }
        Ok(())
    }
}

impl FromStr for InjectSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut words = text.split(',');
        let mut spec = Self::new(parse_kind(words.next().unwrap_or_default())?);
        let mut said = Vec::new();
        for word in words {
            let selector = spec.select(word)?;
            if said.contains(&selector) {
                return Err(SpecError::Twice(word.to_owned()));
            }
            said.push(selector);
        }
        spec.check()?;
        Ok(spec)
    }
}

impl fmt::Display for InjectSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match self.kind {
            FaultKind::InterruptLate(time)
            | FaultKind::WritebackLate(time)
            | FaultKind::LinkFlap(time) => write!(f, "={}", Time(time))?,
            FaultKind::DmaFault(which) if which != DmaKind::Any => write!(f, "={}", which.name())?,
            _ => {}
        }
        if let Target::Function(function) = self.target {
            write!(f, ",{}", function_name(function))?;
        }
        if let Some(vector) = self.vector {
            write!(f, ",vector={vector}")?;
        }
        match self.after {
            After::Opportunities(0) => {}
            After::Opportunities(count) => write!(f, ",after={count}")?,
            After::Time(time) => write!(f, ",after={}", Time(time))?,
        }
        if self.every != 1 {
            write!(f, ",every={}", self.every)?;
        }
        if let Some(count) = self.count
            && self.count != self.kind.default_count()
        {
            write!(f, ",count={count}")?;
        }
        if self.probability != 1.0 {
            write!(f, ",probability={}", self.probability)?;
        }
        if self.seed != 0 {
            write!(f, ",seed={}", self.seed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) use tests::specs as tests_specs;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time() -> impl Strategy<Value = Duration> {
        (0_u64..24 * 3600 * 1_000_000_000).prop_map(Duration::from_nanos)
    }

    fn kinds() -> impl Strategy<Value = FaultKind> {
        use FaultKind::*;
        prop_oneof![
            Just(InterruptLost),
            time().prop_map(InterruptLate),
            time().prop_map(WritebackLate),
            prop_oneof![
                Just(DmaKind::Any),
                Just(DmaKind::Read),
                Just(DmaKind::Write),
                Just(DmaKind::Descriptor),
            ]
            .prop_map(DmaFault),
            Just(ReadOnes),
            Just(Flr),
            Just(MailboxStuck),
            time().prop_map(LinkFlap),
            Just(FrameLost),
            Just(FrameCorrupt),
        ]
    }

    pub(in crate::inject) fn specs() -> impl Strategy<Value = InjectSpec> {
        let after = prop_oneof![
            (0_u64..20).prop_map(After::Opportunities),
            time().prop_map(After::Time),
        ];
        (
            kinds(),
            proptest::option::of(0_usize..9),
            proptest::option::of(0_u16..10),
            after,
            1_u64..10,
            proptest::option::of(1_u64..10),
            prop_oneof![Just(1.0), 0.0..1.0],
            any::<u64>(),
        )
            .prop_map(
                |(kind, slot, vector, after, every, count, probability, seed)| {
                    let function = slot.and_then(FunctionId::from_slot);
                    InjectSpec {
                        target: match function {
                            Some(function) if !kind.is_of_the_wire() => Target::Function(function),
                            _ => Target::Any,
                        },
                        vector: vector.filter(|_| kind.is_of_interrupts()),
                        after,
                        every,
                        count: count.or(kind.default_count()),
                        probability,
                        seed,
                        kind,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn a_rule_reads_back_as_it_was_written(spec in specs()) {
            prop_assert_eq!(spec.to_string().parse(), Ok(spec), "{}", spec);
        }

        #[test]
        fn any_text_is_a_rule_or_an_error(text in "[a-z0-9=,.-]{0,40}") {
            if let Ok(spec) = text.parse::<InjectSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            }
        }
    }

    #[test]
    fn what_help_shows_is_understood() {
        for text in crate::inject::HELP.split("--inject ").skip(2) {
            let text = text.split_whitespace().next().expect("a rule");
            text.parse::<InjectSpec>().expect(text);
        }
        let long: InjectSpec =
            "interrupt-late=1.5ms,function=vf3,vector=1,after=2s,every=4,count=2"
                .parse()
                .expect("a rule");
        assert_eq!(
            long.kind,
            FaultKind::InterruptLate(Duration::from_micros(1500))
        );
        assert_eq!(long.target, Target::Function(FunctionId::vf(3)));
        assert_eq!(long.after, After::Time(Duration::from_secs(2)));
    }

    #[test]
    fn an_error_points_at_the_word_that_is_wrong() {
        for (text, word) in [
            ("", "\"\" is no fault"),
            ("interupt-lost", "\"interupt-lost\" is no fault"),
            ("interrupt-late", "interrupt-late=2ms"),
            ("interrupt-late=2", "\"2\" is no time"),
            ("link-flap=1h", "\"1h\" is no time"),
            ("flr=3", "leave \"3\" out"),
            ("dma-fault=reed", "\"reed\" is no kind of DMA"),
            ("flr,vf8", "\"vf8\" is no selector"),
            ("flr,function=vf8", "\"vf8\" is nothing for function"),
            ("flr,count=0", "\"0\" is nothing for count"),
            ("flr,probability=1.5", "\"1.5\" is nothing for probability"),
            ("flr,probability=nan", "\"nan\" is nothing for probability"),
            ("flr,count=1,count=2", "count=2 is said twice"),
            ("flr,vector=1", "vector does not go with flr"),
            ("frame-lost,vf0", "a function does not go with frame-lost"),
            ("flr,", "\"\" is no selector"),
        ] {
            let error = text.parse::<InjectSpec>().unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }
}
