//! `cargo xtask demo`: a card, a mediator, a PF driver and three VF drivers as processes, real
//! traffic between them, and a verdict.

mod requests;
mod summary;
mod teardown;
mod traffic;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::build;
use crate::report::Report;
use crate::rig::{Rig, RigOptions};

pub(crate) use traffic::transfer;

/// VFs of the demo.
const VFS: u16 = 3;
/// The MAC address that the administrator gives to VF0.
const VF0_MAC: &str = "02:82:57:60:00:10";
/// The VLAN that VF0 may join.
const VF0_VLAN: u16 = 100;

/// How the demo runs.
#[derive(Debug, clap::Args)]
pub struct DemoOptions {
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the directory with logs, audit log and capture
    #[arg(long)]
    keep: bool,
    /// Run the programs in this directory instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Mebibytes for each TCP transfer
    #[arg(long, default_value_t = 16, value_name = "MIB")]
    mebibytes: u64,
}

/// What the steps of the demo share.
struct Demo {
    rig: Rig,
    report: Report,
    verdicts: Vec<requests::Verdict>,
    fault: Option<Value>,
    bytes: u64,
    progress: ProgressBar,
}

/// The policy file of the demo's PF driver.
fn policy() -> Value {
    json!({
        "vfs": {
            "0": {"mac": VF0_MAC, "allowed_vlans": [VF0_VLAN]},
            "1": {"allowed_vlans": []},
        }
    })
}

/// Run the demo; an error says which checks failed.
pub fn run(options: &DemoOptions) -> anyhow::Result<()> {
    let programs = match &options.programs {
        Some(directory) => directory.clone(),
        None => build::programs(false)?,
    };
    let began = Instant::now();
    let rig = Rig::new(RigOptions {
        programs,
        vfs: VFS,
        policy: policy(),
        capture: true,
        card_arguments: Vec::new(),
    })?;
    let progress = ProgressBar::new(STEPS.len() as u64);
    progress.set_style(ProgressStyle::with_template(
        "[{pos}/{len}] {msg} {wide_bar} {elapsed}",
    )?);
    progress.enable_steady_tick(Duration::from_millis(200));
    let mut demo = Demo {
        rig,
        report: Report::default(),
        verdicts: Vec::new(),
        fault: None,
        bytes: options.mebibytes << 20,
        progress,
    };
    let mut tables = None;
    for (name, step) in STEPS {
        demo.progress.set_message(*name);
        if *name == "SR-IOV off" {
            tables = Some(summary::of_card(&demo.rig));
        }
        let outcome = step(&mut demo);
        demo.progress.inc(1);
        if let Err(error) = outcome {
            demo.report.check(*name, false, format!("{error:#}"));
            demo.logs_of_failure();
            break;
        }
    }
    demo.progress.finish_and_clear();
    let kept = options.keep.then(|| demo.rig.keep());
    let seconds = began.elapsed().as_secs_f64();
    if let Some(json) = &options.json {
        demo.report.write_json(json)?;
    }
    summary::print(&demo, tables, kept.as_deref(), seconds)?;
    let failures: Vec<_> = demo
        .report
        .failures()
        .map(|check| check.name.clone())
        .collect();
    if !failures.is_empty() {
        bail!(
            "{} of {} checks failed: {}",
            failures.len(),
            demo.report.checks.len(),
            failures.join(", ")
        );
    }
    Ok(())
}

/// A step of the demo. An `Err` ends the demo: the steps after it would only fail in turn.
type Step = fn(&mut Demo) -> anyhow::Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("start", start),
    ("tcp", traffic::tcp),
    ("broadcast", traffic::broadcast),
    ("vlan", traffic::vlan_separates),
    ("requests granted", requests::granted),
    ("requests refused", requests::refused),
    ("dma fault", traffic::dma_fault),
    ("VF torn down and brought back", teardown::one_vf),
    ("SR-IOV off", teardown::sriov_off),
    ("orderly end", teardown::orderly_end),
    ("capture", summary::capture),
];

fn start(demo: &mut Demo) -> anyhow::Result<()> {
    demo.rig.start_all()?;
    demo.report.check(
        "start",
        true,
        "card, mediator, PF driver and three VF drivers are up",
    );
    Ok(())
}

impl Demo {
    /// Quote each program's last lines: the directory may be gone when somebody looks.
    fn logs_of_failure(&mut self) {
        let progress = self.progress.clone();
        for program in self.rig.programs() {
            let text = format!("-- {} said last:\n{}", program.name(), program.tail());
            progress.suspend(|| eprintln!("{text}"));
        }
    }
}
