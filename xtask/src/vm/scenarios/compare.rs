//! The same guest, kernel and commands on our card and on QEMU's own igb: what differs is known, or
//! the scenario fails.

use std::collections::BTreeMap;

use anyhow::Result;

use super::pf::bed::{Bed, Card};
use super::pf::checks::{BASICS, reload};
use super::pf::clock::CLOCK;
use super::pf::settings::SETTINGS;
use super::pf::traffic::TRAFFIC;
use crate::report::Report;
use crate::vm::scenario::Stage;

/// A difference that is meant to be, told in docs/differences-from-qemu-igb.md by the same name.
struct Known {
    what: &'static str,
    reason: &'static str,
}

/// Behaviours that our card has and QEMU's has not.
const BEHAVIOURS: &[Known] = &[
    Known {
        what: "ethtool -s advertised modes",
        reason: "QEMU's link is at 1000 Mbit/s whatever is offered",
    },
    Known {
        what: "ethtool -s forced modes",
        reason: "igb sees no mode on QEMU's without negotiation",
    },
];

/// Lines of what ethtool shows that differ.
const FACTS: &[Known] = &[
    Known {
        what: "ethtool -d/DCA_TXCTRL0",
        reason: "the page of a queue is zero until a driver writes it",
    },
    Known {
        what: "ethtool -d/DCA_TXCTRL1",
        reason: "the page of a queue is zero until a driver writes it",
    },
    Known {
        what: "ethtool -d/DCA_TXCTRL2",
        reason: "the page of a queue is zero until a driver writes it",
    },
    Known {
        what: "ethtool -d/DCA_TXCTRL3",
        reason: "the page of a queue is zero until a driver writes it",
    },
    Known {
        what: "ethtool -d/RXDCTL2",
        reason: "the page of a queue is zero until a driver writes it",
    },
    Known {
        what: "ethtool -d/RXDCTL3",
        reason: "the page of a queue is zero until a driver writes it",
    },
    Known {
        what: "ethtool -d/EEC",
        reason: "AUTO_RD: the card has read its EEPROM",
    },
    Known {
        what: "ethtool -d/EIAM",
        reason: "what igb wrote, not its complement",
    },
    Known {
        what: "ethtool -d/EITR4",
        reason: "CNT_INGR reads as it was written",
    },
    Known {
        what: "ethtool -d/IMC",
        reason: "write-only",
    },
    Known {
        what: "ethtool -d/PSRTYPE0",
        reason: "the reset value",
    },
    Known {
        what: "ethtool -d/PSRTYPE1",
        reason: "the reset value",
    },
    Known {
        what: "ethtool -d/PSRTYPE2",
        reason: "the reset value",
    },
    Known {
        what: "ethtool -d/PSRTYPE3",
        reason: "the reset value",
    },
    Known {
        what: "ethtool -d/STATUS",
        reason: "PHYRA and DMA_CLOCK_GATING are not set",
    },
    Known {
        what: "ethtool -d/TCTL",
        reason: "the reset value of the bits that igb leaves alone",
    },
    Known {
        what: "ethtool -i//firmware-version",
        reason: "another EEPROM image",
    },
];

/// What was found on one card.
struct Findings {
    behaviours: BTreeMap<&'static str, Result<String>>,
    facts: BTreeMap<String, String>,
}

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let ours = find(stage, "compare-ours", Card::Ours(&[]))?;
    let theirs = find(stage, "compare-qemu", Card::Qemu)?;
    for (name, here) in &ours.behaviours {
        let there = &theirs.behaviours[name];
        let known = BEHAVIOURS.iter().find(|known| known.what == *name);
        let said = |result: &Result<String>| match result {
            Ok(seen) => seen.clone(),
            Err(error) => format!("FAILS: {error:#}"),
        };
        let detail = format!("ours: {}; QEMU's: {}", said(here), said(there));
        let (pass, remark) = match (here, there, known) {
            (Ok(_), Ok(_), None) => (true, String::new()),
            (Ok(_), Err(_), Some(known)) => (true, format!("known: {}; ", known.reason)),
            (Ok(_), Ok(_), Some(_)) => (false, "a known difference is gone; ".into()),
            (Ok(_), Err(_), None) => (false, "a difference that is not known; ".into()),
            (Err(_), ..) => (false, String::new()),
        };
        report.check(format!("vm/compare/{name}"), pass, remark + &detail);
    }
    compare_facts(&ours.facts, &theirs.facts, report);
    Ok(())
}

fn compare_facts(
    ours: &BTreeMap<String, String>,
    theirs: &BTreeMap<String, String>,
    report: &mut Report,
) {
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut same = 0;
    for name in names {
        let absent = "absent".to_owned();
        let here = ours.get(name).unwrap_or(&absent);
        let there = theirs.get(name).unwrap_or(&absent);
        let known = FACTS.iter().find(|known| known.what == *name);
        if here == there && known.is_none() {
            same += 1;
            continue;
        }
        let (pass, remark) = match known {
            Some(known) if here != there => (true, format!("known: {}", known.reason)),
            Some(_) => (false, "a known difference is gone".into()),
            None => (false, "a difference that is not known".into()),
        };
        report.check(
            format!("vm/compare/{name}"),
            pass,
            format!("ours {here}, QEMU's {there}; {remark}"),
        );
    }
    report.check(
        "vm/compare/what ethtool shows",
        same > 100,
        format!("{same} lines are the same"),
    );
}

fn find(stage: &Stage<'_>, name: &str, card: Card) -> Result<Findings> {
    let mut bed = Bed::start(stage, name, card, 2)?;
    let facts = facts(&bed)?;
    let mut behaviours = BTreeMap::new();
    for behaviour in [BASICS, SETTINGS, CLOCK, TRAFFIC].into_iter().flatten() {
        let seen = (behaviour.run)(&mut bed);
        if seen.is_err() {
            // What a failed one left behind is not the next one's.
            bed.up()?;
        }
        behaviours.insert(behaviour.name, seen);
    }
    behaviours.insert("driver reload", reload(&mut bed, 2));
    bed.stop()?;
    Ok(Findings { behaviours, facts })
}

/// What ethtool shows of a card that has just come up, by command and line.
fn facts(bed: &Bed) -> Result<BTreeMap<String, String>> {
    let mut facts = BTreeMap::new();
    for option in ["", "-i", "-k", "-a", "-c", "-g", "-l", "-T"] {
        let shown = bed.guest(&format!("ethtool {option} @"))?;
        let mut heading = String::new();
        for line in shown.lines() {
            match line.split_once(':') {
                Some((key, value)) if value.trim().is_empty() => heading = key.trim().to_owned(),
                Some((key, value)) => {
                    let name = format!("ethtool {option}/{heading}/{}", key.trim());
                    facts.insert(name, value.trim().to_owned());
                }
                None if line.trim().is_empty() => {}
                None => {
                    let name = format!("ethtool {option}/{heading}/{}", line.trim());
                    facts.insert(name, "listed".to_owned());
                }
            }
        }
    }
    for line in bed.guest("ethtool -S @")?.lines() {
        if let Some((key, _)) = line.split_once(':') {
            facts.insert(format!("ethtool -S/{}", key.trim()), "counted".to_owned());
        }
    }
    for line in bed.guest("ethtool -d @")?.lines() {
        if let Some((name, value)) = register(line) {
            facts.insert(format!("ethtool -d/{name}"), value.to_owned());
        }
    }
    Ok(facts)
}

/// Registers whose values are addresses of the guest's memory, times, counts, or what igb's adaptive
/// throttling has come to.
const VOLATILE: [&str; 14] = [
    "RDBAL", "RDBAH", "RDH", "RDT", "TDBAL", "TDBAH", "TDH", "TDT", "FRTIMER", "TPT", "TPR",
    "EITR1", "EITR2", "EITR3",
];

/// Name and value of a register that ethtool -d shows in one line.
fn register(line: &str) -> Option<(&str, &str)> {
    let (offset, rest) = line.split_once(": ")?;
    let value = rest.split_whitespace().last()?;
    let name = rest.strip_suffix(value)?.trim();
    let name = name.split(" (").next()?.trim();
    let plain = offset.starts_with("0x") && value.starts_with("0x");
    let counts = rest.contains("count") || rest.contains("Count");
    (plain && !counts && !VOLATILE.iter().any(|word| name.contains(word))).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_told_from_other_lines() {
        let line = "0x00008: STATUS (Device status register)              0x00080083";
        assert_eq!(register(line), Some(("STATUS", "0x00080083")));
        assert_eq!(register("       Link up:    link config"), None);
        assert_eq!(
            register("0x04074: GPRC (Good packets received count) 0x00000001"),
            None
        );
    }

    #[test]
    fn the_document_tells_every_known_difference() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../vfio-user-device/docs/differences-from-qemu-igb.md"
        );
        let document = std::fs::read_to_string(path).unwrap();
        for known in BEHAVIOURS.iter().chain(FACTS) {
            assert!(document.contains(known.what), "{} is not told", known.what);
        }
    }

    #[test]
    fn a_difference_that_is_not_known_fails() {
        let facts = |value: &str| {
            (0..200)
                .map(|n| (n.to_string(), "same".to_owned()))
                .chain([("x".to_owned(), value.to_owned())])
                .collect()
        };
        let mut report = Report::default();
        compare_facts(&facts("1"), &facts("1"), &mut report);
        let unexpected: Vec<_> = report
            .failures()
            .filter(|check| check.name.ends_with("/x"))
            .collect();
        assert!(unexpected.is_empty());
        compare_facts(&facts("1"), &facts("2"), &mut report);
        assert!(report.failures().any(|check| check.name == "vm/compare/x"));
    }
}
