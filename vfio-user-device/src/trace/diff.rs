//! Compares two traces: the first place in which two runs differ.
//!
//! Each function is compared on its own, since how the lines of several functions interleave is
//! chance. What is compared are accesses: which register, in which order, with which value. Times
//! never are, nor how often a register was polled before it said what it said last. What else is left
//! out says [`Noise`].

mod align;
mod noise;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use igb::register::{RegisterId, RegisterInfo};
use igb::vf;

use super::entry::{Access, Entry, Place, What};
use super::read::{ReadTrace, TraceKind};

pub use noise::{Noise, UnknownRegister};

/// What to compare, and how.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// Only these functions, as traces spell them; all if there is none.
    pub functions: Vec<String>,
    /// What does not count as a difference.
    pub noise: Noise,
    /// Lines shown before a difference.
    pub context: usize,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self {
            functions: Vec::new(),
            noise: Noise::default(),
            context: 5,
        }
    }
}

/// How two accesses, or two stretches of them, differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The same access, another value.
    Value {
        /// In the first trace.
        a: Box<Entry>,
        /// In the second.
        b: Box<Entry>,
        /// The fields that differ.
        fields: Vec<FieldDifference>,
    },
    /// Other accesses; one of the two may be empty.
    Accesses {
        /// In the first trace only.
        a: Vec<Entry>,
        /// In the second only.
        b: Vec<Entry>,
    },
}

/// A field with two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDifference {
    /// As the datasheet spells it; `bits HIGH:LOW` where they have no name.
    pub name: String,
    /// In the first trace.
    pub a: u64,
    /// In the second.
    pub b: u64,
}

/// A difference and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Whose accesses.
    pub function: String,
    /// How.
    pub difference: Difference,
    /// What was the same before it, in the words of the first trace.
    pub before: Vec<Entry>,
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Accesses that are the same in both.
    pub same: usize,
    /// Accesses of each trace that took part.
    pub compared: [usize; 2],
    /// All differences, the earliest of the first trace first.
    pub differences: Vec<Located>,
}

impl Comparison {
    /// The first difference.
    pub fn first(&self) -> Option<&Located> {
        self.differences.first()
    }
}

/// An access that takes part.
#[derive(Debug, Clone)]
struct Item<'a> {
    entry: &'a Entry,
    access: &'a Access,
    /// The value counts.
    valued: bool,
}

impl<'a> Item<'a> {
    /// What it is, apart from its value.
    fn identity(&self) -> (bool, &'a str, &'a Place) {
        (self.access.write, &self.access.region, &self.access.place)
    }

    fn same_value(&self, other: &Self) -> bool {
        !self.valued || self.access.value == other.access.value
    }
}

/// Compare two traces.
pub fn compare(a: &ReadTrace, b: &ReadTrace, options: &DiffOptions) -> Comparison {
    // QEMU's log has nothing but BAR0.
    let bar0_only = [a, b].iter().any(|trace| trace.kind == TraceKind::QemuIgb);
    let [a, b] = [a, b].map(|trace| by_function(trace, options, bar0_only));
    let functions: BTreeSet<&str> = a.keys().chain(b.keys()).copied().collect();
    let mut result = Comparison {
        same: 0,
        compared: [&a, &b].map(|side| side.values().map(Vec::len).sum()),
        differences: Vec::new(),
    };
    for function in functions {
        let [a, b] = [&a, &b].map(|side| side.get(function).map_or(&[][..], Vec::as_slice));
        align::align(function, a, b, options.context, &mut result);
    }
    // Stable: differences of one function stay in their order.
    result.differences.sort_by_key(|located| located.at());
    result
}

fn by_function<'a>(
    trace: &'a ReadTrace,
    options: &DiffOptions,
    bar0_only: bool,
) -> BTreeMap<&'a str, Vec<Item<'a>>> {
    let mut functions: BTreeMap<&str, Vec<Item<'_>>> = BTreeMap::new();
    for entry in &trace.entries {
        let What::Access(access) = &entry.what else {
            continue;
        };
        let who = entry.who.as_str();
        let asked_for = options.functions.is_empty()
            || options.functions.iter().any(|function| function == who);
        if !asked_for
            || bar0_only && access.region != "bar0"
            || options.noise.ignores(&access.region, &access.place)
        {
            continue;
        }
        let item = Item {
            entry,
            access,
            valued: !options.noise.ignores_value(&access.region, &access.place),
        };
        let items = functions.entry(who).or_default();
        // Of a poll, what it said last counts.
        if let Some(last) = items.last_mut()
            && !options.noise.counts_polls()
            && !access.write
            && last.identity() == item.identity()
        {
            *last = item;
        } else {
            items.push(item);
        }
    }
    functions
}

impl Located {
    /// When it happened in the first trace; in the second if it is not in the first.
    fn at(&self) -> std::time::Duration {
        match &self.difference {
            Difference::Value { a, .. } => a.at,
            Difference::Accesses { a, b } => a.first().or(b.first()).map_or_else(
                || self.before.last().map(|entry| entry.at).unwrap_or_default(),
                |entry| entry.at,
            ),
        }
    }
}

/// A register by the name that a trace has for it.
fn info_of(name: &str) -> Option<&'static RegisterInfo> {
    let window = vf::WINDOW.iter().find(|window| window.name == name);
    let of_window = window.map(|window| window.id.info());
    let mut registers = RegisterId::ALL.iter().map(|id| id.info());
    registers.find(|info| info.name == name).or(of_window)
}

/// The fields in which two values of a place differ.
fn field_differences(place: &Place, a: u64, b: u64) -> Vec<FieldDifference> {
    let fields = match place {
        Place::Register { name, .. } => info_of(name).map_or(&[][..], |info| info.fields),
        _ => &[],
    };
    let mut rest = a ^ b;
    let mut differences = Vec::new();
    for field in fields {
        let mask = u64::from(field.mask());
        if rest & mask != 0 {
            differences.push(FieldDifference {
                name: field.name.to_owned(),
                a: (a & mask) >> field.lo,
                b: (b & mask) >> field.lo,
            });
        }
        rest &= !mask;
    }
    while rest != 0 {
        let lo = rest.trailing_zeros();
        let len = (rest >> lo).trailing_ones();
        let mask = u64::MAX >> (64 - len);
        differences.push(FieldDifference {
            name: format!("bits {}:{lo}", lo + len - 1),
            a: a >> lo & mask,
            b: b >> lo & mask,
        });
        rest &= !(mask << lo);
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::super::read::parse;
    use super::*;
    use proptest::prelude::*;

    fn trace(lines: &[&str]) -> ReadTrace {
        let mut text = String::new();
        for (n, line) in lines.iter().enumerate() {
            text.push_str(&format!("0.{n:09} {line}\n"));
        }
        parse(&text).expect("a trace")
    }

    fn diff(a: &[&str], b: &[&str]) -> Comparison {
        compare(&trace(a), &trace(b), &DiffOptions::default())
    }

    #[test]
    fn the_first_value_that_differs_is_shown_with_its_fields() {
        let a = diff(
            &[
                "pf W bar0 CTRL 0x04000000",
                "pf R bar0 STATUS 0x00080383",
                "pf R bar0 EECD 0x00000100",
            ],
            &[
                "pf W bar0 CTRL 0x04000000",
                "pf R bar0 STATUS 0x00000381",
                "pf R bar0 EECD 0x00000000",
            ],
        );
        assert_eq!((a.same, a.compared, a.differences.len()), (1, [3, 3], 2));
        let first = a.first().expect("a difference");
        assert_eq!(first.before.len(), 1);
        let Difference::Value { fields, .. } = &first.difference else {
            panic!("a value");
        };
        let names: Vec<_> = fields
            .iter()
            .map(|field| (field.name.as_str(), field.a, field.b))
            .collect();
        assert_eq!(names, [("LU", 1, 0), ("GIO_MASTER_EN", 1, 0)]);
    }

    #[test]
    fn times_polls_counts_and_the_order_among_functions_are_no_difference() {
        let a = diff(
            &[
                "pf R bar0 STATUS 0x00000000",
                "pf R bar0 STATUS 0x00000002 x3 to 0.000000005",
                "vf0 W bar0 VTCTRL 0x04000000",
                "pf W bar0 CTRL 0x00000040",
                "pf R bar0 GPRC 0x00000040",
                "pf W bar0 RDBAL[0] 0x00001000",
                "pf W bar0 RDT[0] 0x00000007",
            ],
            &[
                "vf0 W bar0 VTCTRL 0x04000000",
                "- # link up",
                "pf R bar0 STATUS 0x00000002",
                "pf W bar0 CTRL 0x00000040",
                "pf R bar0 GPRC 0x00000004",
                "pf W bar0 RDBAL[0] 0x00002000",
            ],
        );
        assert_eq!(a.first(), None);
        assert_eq!(a.same, 4);
    }

    #[test]
    fn an_access_that_only_one_has_does_not_hide_what_comes_after_it() {
        let common = ["pf W bar0 CTRL 0x00000040", "pf W bar0 RCTL 0x00000002"];
        let a = [common[0], "pf R bar0 EECD 0x00000000", common[1]];
        let comparison = diff(&a, &common);
        assert_eq!((comparison.same, comparison.differences.len()), (2, 1));
        let Difference::Accesses { a, b } = &comparison.differences[0].difference else {
            panic!("accesses");
        };
        assert_eq!((a.len(), b.len()), (1, 0));
        assert!(a[0].to_string().contains("EECD"));
    }

    #[test]
    fn one_can_look_at_one_function_and_leave_registers_out() {
        let [a, b] = [
            trace(&["pf W bar0 CTRL 0x00000040", "vf0 W bar0 VTEIMS 0x00000001"]),
            trace(&["pf W bar0 CTRL 0x00000000", "vf0 W bar0 VTEIMS 0x00000002"]),
        ];
        let options = DiffOptions {
            functions: vec!["vf0".to_owned()],
            ..DiffOptions::default()
        };
        assert_eq!(compare(&a, &b, &options).differences.len(), 1);
        let mut options = DiffOptions::default();
        options.noise.ignore("CTRL").expect("a register");
        assert_eq!(compare(&a, &b, &options).differences.len(), 1);
        options.noise.ignore("interrupts").expect("a group");
        assert_eq!(compare(&a, &b, &options).first(), None);
    }

    fn lines() -> impl Strategy<Value = Vec<String>> {
        let line = (any::<bool>(), 0_usize..4, 0_u32..3).prop_map(|(write, register, value)| {
            let name = ["CTRL", "STATUS", "RCTL", "TCTL"][register];
            format!(
                "pf {} bar0 {name} {value:#010x}",
                if write { "W" } else { "R" }
            )
        });
        proptest::collection::vec(line, 1..40)
    }

    proptest! {
        /// A trace is the same as itself, and what two have in common and not adds up.
        #[test]
        fn every_access_is_accounted_for(a in lines(), b in lines()) {
            let borrowed = |lines: &[String]| {
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                trace(&lines)
            };
            let (a, b) = (borrowed(&a), borrowed(&b));
            let options = DiffOptions::default();
            let own = compare(&a, &a, &options);
            prop_assert_eq!(own.first(), None);
            prop_assert_eq!([own.same; 2], own.compared);
            let there = compare(&a, &b, &options);
            let mut counts = [there.same; 2];
            for located in &there.differences {
                match &located.difference {
                    Difference::Value { a, b, fields } => {
                        prop_assert!(!fields.is_empty());
                        prop_assert!(a.what != b.what);
                        counts = counts.map(|count| count + 1);
                    }
                    Difference::Accesses { a, b } => {
                        prop_assert!(a.len() + b.len() > 0);
                        counts[0] += a.len();
                        counts[1] += b.len();
                    }
                }
            }
            prop_assert_eq!(counts, there.compared);
            let back = compare(&b, &a, &options);
            prop_assert_eq!(there.first().is_some(), back.first().is_some());
        }

        /// Fields and unnamed bits together are the whole difference.
        #[test]
        fn fields_cover_every_bit(a in any::<u32>(), b in any::<u32>()) {
            for id in RegisterId::ALL {
                let place = Place::Register { name: id.info().name.to_owned(), index: None };
                let found = field_differences(&place, a.into(), b.into());
                prop_assert_eq!(found.is_empty(), a == b);
                prop_assert!(found.iter().all(|field| field.a != field.b));
            }
        }
    }
}
