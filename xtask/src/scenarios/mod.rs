//! Scenarios over the programs as processes: what happens when one of them is killed, and what a
//! VF finds without a mediator.

mod fence;
mod kill;
mod netns;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use serde_json::{Value, json};

use crate::build;
use crate::report::Report;
use crate::rig::{Rig, RigOptions};
use netns::Wiring;

/// Which scenarios to run.
#[derive(Debug, clap::Args)]
pub struct ScenarioOptions {
    /// Run only scenarios whose name contains this
    #[arg(default_value = "")]
    filter: String,
    /// Run the programs in this directory instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the directory of a scenario that failed
    #[arg(long)]
    keep: bool,
}

/// A scenario: what it saw, or how it failed.
type Body = fn(&mut Rig) -> anyhow::Result<String>;

struct Scenario {
    name: &'static str,
    vfs: u16,
    card_arguments: &'static [&'static str],
    body: Body,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "without a mediator the channel is missing and the mailbox closed",
        vfs: 1,
        card_arguments: &[],
        body: fence::no_mediator,
    },
    Scenario {
        name: "SIGKILL of a VF driver in mid traffic",
        vfs: 3,
        card_arguments: &[],
        body: kill::vf_driver,
    },
    Scenario {
        name: "SIGKILL of the PF driver in mid traffic, back within the grace time",
        vfs: 2,
        card_arguments: &["--pf-grace", "30"],
        body: kill::pf_driver_within_grace,
    },
    Scenario {
        name: "SIGKILL of the PF driver in mid traffic, back after the grace time",
        vfs: 2,
        card_arguments: &["--pf-grace", "0.3"],
        body: kill::pf_driver_after_grace,
    },
    Scenario {
        name: "SIGKILL of the mediator in mid traffic",
        vfs: 2,
        card_arguments: &[],
        body: kill::mediator,
    },
    Scenario {
        name: "SIGKILL of the card in mid traffic",
        vfs: 2,
        card_arguments: &[],
        body: kill::card,
    },
];

fn policy() -> Value {
    json!({"vfs": {}})
}

/// Run the scenarios one after the other; an error says how many failed.
pub fn run(options: &ScenarioOptions) -> anyhow::Result<()> {
    let programs = match &options.programs {
        Some(directory) => directory.clone(),
        None => build::programs(false)?,
    };
    let mut report = Report::default();
    for scenario in SCENARIOS
        .iter()
        .filter(|scenario| scenario.name.contains(&options.filter))
    {
        let began = Instant::now();
        let outcome = one(scenario, &programs, options.keep);
        let verdict = if outcome.is_ok() { "pass" } else { "FAIL" };
        println!(
            "{verdict} {} ({:.1} s)",
            scenario.name,
            began.elapsed().as_secs_f64()
        );
        if let Err(error) = &outcome {
            println!("     {error:#}");
        }
        report.outcome(scenario.name, outcome);
    }
    netns::run(
        &[Wiring::Tap, Wiring::Packet],
        &options.filter,
        &programs,
        options.keep,
        &mut report,
    );
    if let Some(json) = &options.json {
        report.write_json(json)?;
    }
    let failed = report.failures().count();
    if failed > 0 {
        bail!("{failed} of {} scenarios failed", report.checks.len());
    }
    Ok(())
}

/// With the rights that this process has, the kernel's stack on TAPs: users get packet sockets.
pub(crate) fn kernel_stacks(filter: &str, programs: &Path, report: &mut Report) {
    netns::run(&[Wiring::Tap], filter, programs, false, report);
}

fn one(scenario: &Scenario, programs: &Path, keep: bool) -> anyhow::Result<String> {
    let mut rig = Rig::new(RigOptions {
        programs: programs.into(),
        vfs: scenario.vfs,
        policy: policy(),
        capture: false,
        card_arguments: scenario
            .card_arguments
            .iter()
            .map(|&argument| argument.into())
            .collect(),
    })?;
    (scenario.body)(&mut rig).map_err(|error| {
        let mut said = String::new();
        for program in rig.programs() {
            said.push_str(&format!(
                "\n-- {} said last:\n{}",
                program.name(),
                program.tail()
            ));
        }
        if keep {
            said.push_str(&format!("\nkept in {}", rig.keep().display()));
        }
        error.context(said)
    })
}
