//! A comparison for a person, and as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::{Comparison, Difference, FieldDifference, Located};
use crate::trace::entry::{Entry, What};

/// Accesses of a stretch that are shown.
const SHOWN: usize = 5;

impl fmt::Display for FieldDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#x} -> {:#x}", self.name, self.a, self.b)
    }
}

/// An entry of one function, without saying so again.
struct Line<'a>(&'a Entry);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0.at;
        write!(f, "{}.{:06} ", at.as_secs(), at.subsec_micros())?;
        match &self.0.what {
            What::Access(access) => access.fmt(f),
            What::Event(event) => event.fmt(f),
        }
    }
}

fn write_some(sign: char, entries: &[Entry], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for entry in entries.iter().take(SHOWN) {
        writeln!(f, "  {sign} {}", Line(entry))?;
    }
    match entries.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(f, "  {sign} and {more} more"),
    }
}

/// The difference with what stands before it; lines of A begin with `-`, of B with `+`.
impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.before {
            writeln!(f, "    {}", Line(entry))?;
        }
        match &self.difference {
            Difference::Value { a, b, fields } => {
                writeln!(f, "  - {}", Line(a))?;
                writeln!(f, "  + {}", Line(b))?;
                let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
                if !fields.is_empty() {
                    writeln!(f, "    {}", fields.join(", "))?;
                }
                Ok(())
            }
            Difference::Accesses { a, b } => {
                write_some('-', a, f)?;
                write_some('+', b, f)
            }
        }
    }
}

impl Located {
    /// The difference in one line.
    pub fn summary(&self) -> String {
        let place = |entry: &Entry| match &entry.what {
            What::Access(access) => {
                let direction = if access.write { 'W' } else { 'R' };
                format!("{direction} {} {}", access.region, access.place)
            }
            What::Event(event) => event.to_string(),
        };
        let what = match &self.difference {
            Difference::Value { a, fields, .. } => {
                let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
                format!("{}: {}", place(a), fields.join(", "))
            }
            Difference::Accesses { a, b } => {
                let side = |entries: &[Entry], name| match entries {
                    [] => None,
                    [only] => Some(format!("only in {name}: {}", place(only))),
                    [first, ..] => Some(format!(
                        "only in {name}: {} accesses from {} on",
                        entries.len(),
                        place(first)
                    )),
                };
                let sides: Vec<_> = [side(a, "A"), side(b, "B")].into_iter().flatten().collect();
                sides.join("; ")
            }
        };
        format!("{}: {what}", self.function)
    }

    fn to_json(&self) -> Value {
        let lines = |entries: &[Entry]| -> Vec<String> {
            entries.iter().map(ToString::to_string).collect()
        };
        let mut value = match &self.difference {
            Difference::Value { a, b, fields } => json!({
                "kind": "value",
                "a": [a.to_string()],
                "b": [b.to_string()],
                "fields": fields
                    .iter()
                    .map(|field| json!({"name": field.name, "a": field.a, "b": field.b}))
                    .collect::<Vec<_>>(),
            }),
            Difference::Accesses { a, b } => json!({
                "kind": "accesses",
                "a": lines(a),
                "b": lines(b),
            }),
        };
        value["function"] = self.function.as_str().into();
        value["summary"] = self.summary().into();
        value["before"] = lines(&self.before).into();
        value
    }
}

impl Comparison {
    /// All of it as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "same": self.differences.is_empty(),
            "same_accesses": self.same,
            "compared": self.compared,
            "differences": self
                .differences
                .iter()
                .map(Located::to_json)
                .collect::<Vec<_>>(),
        })
    }
}

/// The first difference, and how many there are.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.compared;
        match self.first() {
            None => writeln!(f, "no difference in {} accesses", self.same),
            Some(first) => {
                writeln!(f, "the first difference, of {}:", first.function)?;
                write!(f, "{first}")?;
                writeln!(
                    f,
                    "{} differences; {} accesses of {a} in A and {b} in B are the same",
                    self.differences.len(),
                    self.same
                )
            }
        }
    }
}
