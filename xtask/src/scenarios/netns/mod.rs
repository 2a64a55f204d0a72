//! The kernel's own network stack on every side of a card, each in a namespace of its own: the card's
//! uplink, the PF and two VFs. No guest, and without privileges where user namespaces are allowed.

mod checks;
mod world;

use std::path::Path;
use std::time::Instant;

use crate::netns::Namespace;
use crate::report::Report;
use world::World;

pub(crate) use world::Wiring;

/// Every check of one wiring, and what it needs.
type Body = fn(&mut World, &mut Found<'_>) -> anyhow::Result<String>;

const CHECKS: &[(&str, Body)] = &[
    (
        "interfaces have the functions' address and MTU",
        checks::interfaces_follow,
    ),
    ("ping between all stations", checks::pings),
    ("files between all stations, by hash", checks::files),
    (
        "checksums and segments are the card's work",
        checks::offloads,
    ),
    ("kernel, driver and card count the same", checks::statistics),
    ("a VLAN of the kernel's 8021q", checks::kernel_vlan),
    ("tagged frames keep their tag", checks::tagged_frames),
    (
        "a port VLAN separates and is seen on the wire",
        checks::port_vlan,
    ),
    ("spoofchk on and off", checks::spoofchk),
    (
        "state disable takes the carrier, auto gives it back",
        checks::link_state,
    ),
    ("MTU 9000 and jumbo frames", checks::jumbo),
    (
        "a driver that was killed comes back on the same interface",
        checks::driver_restart,
    ),
    (
        "an interface that is down loses frames, and counts them",
        checks::interface_down,
    ),
    (
        "an interface that is removed ends its driver with an error",
        checks::interface_removed,
    ),
    (
        "an uplink that is removed is said, and the card rests",
        checks::uplink_removed,
    ),
    ("an orderly end", checks::end),
];

/// What a check found beside its verdict.
pub(super) struct Found<'a> {
    prefix: &'a str,
    report: &'a mut Report,
    not_applicable: Option<String>,
}

impl Found<'_> {
    /// The check cannot be had here.
    fn not_applicable(&mut self, reason: impl Into<String>) -> anyhow::Result<String> {
        self.not_applicable = Some(reason.into());
        Ok(String::new())
    }

    /// Something that was measured on the way.
    fn measured(&mut self, name: &str, figure: (f64, &str), detail: String) {
        let name = format!("{}/{name}", self.prefix);
        self.report.measured(name, true, figure, detail);
    }
}

/// Run the checks of each wiring whose name contains `filter`, or begins it.
pub(crate) fn run(
    wirings: &[Wiring],
    filter: &str,
    programs: &Path,
    keep: bool,
    report: &mut Report,
) {
    for wiring in wirings {
        let prefix = format!("netns/{wiring}");
        if !prefix.contains(filter) && !filter.starts_with(&prefix) {
            continue;
        }
        let reason = match wiring {
            Wiring::Tap => Namespace::tap_reason(),
            Wiring::Packet => None,
        };
        if let Some(reason) = reason.or_else(|| Some(Namespace::new().err()?.to_string())) {
            println!("skip {prefix}: {reason}");
            report.not_applicable(prefix, reason);
            continue;
        }
        one(*wiring, &prefix, programs, keep, report);
    }
}

fn one(wiring: Wiring, prefix: &str, programs: &Path, keep: bool, report: &mut Report) {
    let mut world = match World::new(wiring, programs) {
        Ok(world) => world,
        Err(error) => {
            println!("FAIL {prefix}/start: {error:#}");
            report.check(format!("{prefix}/start"), false, format!("{error:#}"));
            return;
        }
    };
    for (name, body) in CHECKS {
        let began = Instant::now();
        let mut found = Found {
            prefix,
            report: &mut *report,
            not_applicable: None,
        };
        let outcome = body(&mut world, &mut found);
        let skipped = found.not_applicable.take();
        let name = format!("{prefix}/{name}");
        let seconds = began.elapsed().as_secs_f64();
        match (outcome, skipped) {
            (Ok(_), Some(reason)) => {
                println!("skip {name}: {reason}");
                report.not_applicable(name, reason);
            }
            (Ok(detail), None) => {
                println!("pass {name} ({seconds:.1} s): {detail}");
                report.check(name, true, detail);
            }
            (Err(error), _) => {
                let mut said = format!("{error:#}{}", world.last_words());
                if keep {
                    said.push_str(&format!("\nkept in {}", world.rig.keep().display()));
                }
                println!("FAIL {name} ({seconds:.1} s): {said}");
                report.check(name, false, said);
            }
        }
    }
}
