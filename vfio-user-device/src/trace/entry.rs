//! One line of a trace, and its text both ways.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Since the card started.
    pub at: Duration,
    /// `pf`, `vf0`, ..., `uplink`, or `-` for the card; with several cards `card1/pf`.
    pub who: String,
    /// What happened.
    pub what: What,
}

/// What a line of a trace says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Software read or wrote something.
    Access(Access),
    /// Something else happened.
    Event(Event),
}

/// A read or a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Whether it wrote.
    pub write: bool,
    /// `bar0`, `flash`, `io`, `msix` or `config`.
    pub region: String,
    /// Where in the region.
    pub place: Place,
    /// What was read or written; `None` if it has more than eight bytes.
    pub value: Option<u64>,
    /// The fields that are not 0.
    pub fields: Vec<FieldValue>,
    /// How often the same was read; 1 for everything that is not a poll.
    pub repeats: u64,
    /// When it was read the last time, if more than once.
    pub until: Option<Duration>,
}

/// What an access meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A whole register of BAR0 that has a name.
    Register {
        /// As the datasheet spells it.
        name: String,
        /// Which element, for an array.
        index: Option<u32>,
    },
    /// A dword of BAR0 without a name.
    Offset(u64),
    /// Some bytes of a region.
    Bytes {
        /// The first one.
        offset: u64,
        /// How many.
        len: usize,
        /// What lies there.
        name: Option<String>,
    },
}

/// A field of a register's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldValue {
    /// As the datasheet spells it.
    pub name: String,
    /// Its value; `None` for a field of one bit, which is set.
    pub value: Option<u32>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which kind; see the module.
    pub name: String,
    /// The rest, as words.
    pub details: String,
}

/// Why a line is no line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The line ends too early.
    #[error("the line ends where {0} should be")]
    Missing(&'static str),
    /// A word is not what stands in its place.
    #[error("{word:?} is not {expected}")]
    Unexpected {
        /// The word.
        word: String,
        /// What should stand there.
        expected: &'static str,
    },
}

/// Bytes of a value that are shown.
pub(super) const SHOWN: usize = 8;

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0.as_secs(), self.0.subsec_nanos())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:<4} ", Seconds(self.at), self.who)?;
        match &self.what {
            What::Access(access) => access.fmt(f),
            What::Event(event) => event.fmt(f),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.write { 'W' } else { 'R' };
        write!(f, "{direction} {:<6} {} ", self.region, self.place)?;
        match self.value {
            Some(value) => write!(f, "0x{value:0width$x}", width = self.place.digits())?,
            None => f.write_str("...")?,
        }
        if !self.fields.is_empty() {
            f.write_str(" {")?;
            for (n, field) in self.fields.iter().enumerate() {
                let space = if n == 0 { "" } else { " " };
                write!(f, "{space}{field}")?;
            }
            f.write_str("}")?;
        }
        match self.until {
            Some(until) => write!(f, " x{} to {}", self.repeats, Seconds(until)),
            None => Ok(()),
        }
    }
}

impl Place {
    /// Hexadecimal digits of a value there.
    fn digits(&self) -> usize {
        match self {
            Place::Register { .. } | Place::Offset(_) => 8,
            Place::Bytes { len, .. } => 2 * len.min(&SHOWN),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Register { name, index: None } => f.write_str(name),
            Place::Register {
                name,
                index: Some(index),
            } => write!(f, "{name}[{index}]"),
            Place::Offset(offset) => write!(f, "{offset:#07x}"),
            Place::Bytes { offset, len, name } => {
                write!(f, "{offset:#05x}/{len}")?;
                name.as_ref().map_or(Ok(()), |name| write!(f, " {name}"))
            }
        }
    }
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.value.map_or(Ok(()), |value| write!(f, "={value:#x}"))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "# {}", self.name)?;
        if self.details.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.details)
    }
}

/// The words of a line, one after the other.
struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    fn next(&mut self, expected: &'static str) -> Result<&'a str, EntryError> {
        self.0.next().ok_or(EntryError::Missing(expected))
    }

    fn peek(&mut self) -> Option<&'a str> {
        self.0.peek().copied()
    }
}

fn unexpected(word: &str, expected: &'static str) -> EntryError {
    EntryError::Unexpected {
        word: word.to_owned(),
        expected,
    }
}

fn seconds(word: &str) -> Result<Duration, EntryError> {
    let error = || unexpected(word, "a time in seconds with nine digits after the point");
    let (whole, nanos) = word.split_once('.').ok_or_else(error)?;
    if nanos.len() != 9 || !nanos.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(error());
    }
    let whole = whole.parse().map_err(|_| error())?;
    Ok(Duration::new(whole, nanos.parse().map_err(|_| error())?))
}

fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic())
}

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(line: &str) -> Result<Self, EntryError> {
        let mut words = Words(line.split_whitespace().peekable());
        let at = seconds(words.next("a time")?)?;
        let who = words.next("a function")?.to_owned();
        let what = match words.next("R, W or #")? {
            "R" => What::Access(access(false, &mut words)?),
            "W" => What::Access(access(true, &mut words)?),
            "#" => What::Event(Event {
                name: words.next("the name of an event")?.to_owned(),
                details: words.0.by_ref().collect::<Vec<_>>().join(" "),
            }),
            word => return Err(unexpected(word, "R, W or #")),
        };
        match words.peek() {
            None => Ok(Self { at, who, what }),
            Some(word) => Err(unexpected(word, "the end of the line")),
        }
    }
}

fn access(write: bool, words: &mut Words<'_>) -> Result<Access, EntryError> {
    let region = words.next("a region")?.to_owned();
    let place = place(words)?;
    let value = match words.next("a value")? {
        "..." => None,
        word => Some(hex(word).ok_or_else(|| unexpected(word, "a value such as 0x00000001"))?),
    };
    let fields = fields(words)?;
    let (repeats, until) = repeats(words)?;
    Ok(Access {
        write,
        region,
        place,
        value,
        fields,
        repeats,
        until,
    })
}

fn place(words: &mut Words<'_>) -> Result<Place, EntryError> {
    let word = words.next("a register")?;
    let error = || unexpected(word, "a register, an offset, or an offset and a length");
    if let Some((offset, len)) = word.split_once('/') {
        let name = words.peek().filter(|word| is_name(word));
        if name.is_some() {
            words.next("a name")?;
        }
        return Ok(Place::Bytes {
            offset: hex(offset).ok_or_else(error)?,
            len: len.parse().map_err(|_| error())?,
            name: name.map(str::to_owned),
        });
    }
    if !is_name(word) {
        return hex(word).map(Place::Offset).ok_or_else(error);
    }
    let (name, index) = match word.split_once('[') {
        None => (word, None),
        Some((name, index)) => {
            let index = index.strip_suffix(']').and_then(|index| index.parse().ok());
            (name, Some(index.ok_or_else(error)?))
        }
    };
    Ok(Place::Register {
        name: name.to_owned(),
        index,
    })
}

fn fields(words: &mut Words<'_>) -> Result<Vec<FieldValue>, EntryError> {
    let mut fields = Vec::new();
    if !words.peek().is_some_and(|word| word.starts_with('{')) {
        return Ok(fields);
    }
    loop {
        let word = words.next("the end of the fields, }")?;
        let inner = if fields.is_empty() {
            word.strip_prefix('{').unwrap_or(word)
        } else {
            word
        };
        let text = inner.strip_suffix('}').unwrap_or(inner);
        let error = || unexpected(word, "a field such as RST or SPEED=0x2");
        let (name, value) = match text.split_once('=') {
            None => (text, None),
            Some((name, value)) => {
                let value = hex(value).and_then(|value| u32::try_from(value).ok());
                (name, Some(value.ok_or_else(error)?))
            }
        };
        if name.is_empty() {
            return Err(error());
        }
        fields.push(FieldValue {
            name: name.to_owned(),
            value,
        });
        if inner.ends_with('}') {
            return Ok(fields);
        }
    }
}

fn repeats(words: &mut Words<'_>) -> Result<(u64, Option<Duration>), EntryError> {
    let Some(word) = words.peek().filter(|word| word.starts_with('x')) else {
        return Ok((1, None));
    };
    words.next("a count")?;
    let count = word[1..]
        .parse()
        .map_err(|_| unexpected(word, "a count such as x17"))?;
    match words.next("the word \"to\"")? {
        "to" => Ok((count, Some(seconds(words.next("a time")?)?))),
        word => Err(unexpected(word, "the word \"to\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = String> {
        "[A-Z][A-Z0-9_.]{0,11}"
    }

    fn places() -> impl Strategy<Value = Place> {
        prop_oneof![
            (name(), any::<Option<u32>>())
                .prop_map(|(name, index)| Place::Register { name, index }),
            (0_u64..0x2_0000).prop_map(Place::Offset),
            (any::<u64>(), 0_usize..300, proptest::option::of(name()))
                .prop_map(|(offset, len, name)| Place::Bytes { offset, len, name }),
        ]
    }

    fn accesses() -> impl Strategy<Value = Access> {
        let field =
            (name(), any::<Option<u32>>()).prop_map(|(name, value)| FieldValue { name, value });
        let region = prop_oneof!["bar0", "io", "msix", "config"];
        let repeated = proptest::option::of((2_u64.., any::<(u32, u32)>()));
        (
            any::<bool>(),
            region,
            places(),
            any::<Option<u64>>(),
            proptest::collection::vec(field, 0..4),
            repeated,
        )
            .prop_map(|(write, region, place, value, fields, repeated)| Access {
                write,
                region,
                place,
                value,
                fields,
                repeats: repeated.map_or(1, |(repeats, _)| repeats),
                until: repeated
                    .map(|(_, (whole, nanos))| Duration::new(whole.into(), nanos % 1_000_000_000)),
            })
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let event = ("[a-z-]{1,12}", "([!-~]{1,8}( [!-~]{1,8}){0,4})?")
            .prop_map(|(name, details)| What::Event(Event { name, details }));
        let who = prop_oneof!["pf", "vf[0-7]", "-", "card[0-9]/(pf|vf[0-7])"];
        let what = prop_oneof![accesses().prop_map(What::Access), event];
        (any::<(u32, u32)>(), who, what).prop_map(|((whole, nanos), who, what)| Entry {
            at: Duration::new(whole.into(), nanos % 1_000_000_000),
            who,
            what,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entry in entries()) {
            let line = entry.to_string();
            prop_assert_eq!(line.parse::<Entry>(), Ok(entry), "{}", line);
        }

        /// Nothing makes the parser panic, and what it takes is written as something that it takes.
        #[test]
        fn any_text_is_a_line_or_an_error(line in "[ -~]{0,80}") {
            if let Ok(entry) = line.parse::<Entry>() {
                prop_assert_eq!(entry.to_string().parse::<Entry>(), Ok(entry));
            }
        }

        #[test]
        fn a_line_cut_short_is_no_other_line(entry in entries(), keep in 0_usize..200) {
            let line = entry.to_string();
            let cut: String = line.chars().take(keep).collect();
            if let Ok(read) = cut.parse::<Entry>() {
                prop_assert_eq!(read.at, entry.at);
            }
        }
    }

    #[test]
    fn an_error_names_the_word() {
        let error = "0.000000001 pf X bar0".parse::<Entry>().unwrap_err();
        assert_eq!(error.to_string(), "\"X\" is not R, W or #");
        for bad in [
            "",
            "1 pf R bar0 CTRL 0x0",
            "0.000000001 pf R bar0 CTRL",
            "0.000000001 pf R bar0 CTRL 12",
            "0.000000001 pf R bar0 CTRL 0x1 {",
            "0.000000001 pf R bar0 CTRL 0x1 {RST",
            "0.000000001 pf R bar0 CTRL 0x1 {RST} x3",
            "0.000000001 pf R bar0 CTRL 0x1 more",
            "0.000000001 pf #",
        ] {
            assert!(bad.parse::<Entry>().is_err(), "{bad:?}");
        }
    }
}
