//! `cargo xtask interop`: which drivers work with which, as a table.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};

use crate::build;
use crate::report::Report;
use crate::vm::scenario::{self, Stage};
use crate::vm::{FetchArgs, VmDir, ensure_fetched};

/// The prefix of every check of the matrix: then device, PF driver, VF driver and step.
pub const PREFIX: &str = "vm/interop/";
const SCENARIO: &str = "interop";
/// The VF drivers, as the columns go.
const COLUMNS: [&str; 3] = ["vf-driver", "igbvf", "dpdk"];

/// What to run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every cell takes a pair from probe through reset handshake, address, TCP both ways \
                  by SHA-256 and a VLAN to teardown. The drivers run in guests of a \
                  stock QEMU, which is fetched if it is not there."
)]
pub struct InteropOptions {
    /// Run the programs in this directory instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Write the verdict as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Run the matrix and print it; an error counts the cells that failed.
pub fn run(options: &InteropOptions) -> anyhow::Result<()> {
    let dir = VmDir::locate()?;
    let installation = ensure_fetched(&dir, &FetchArgs::default())?;
    let programs = match &options.programs {
        Some(programs) => programs.clone(),
        None => build::programs(false)?,
    };
    let scenario = scenario::find(SCENARIO)?;
    let report = scenario::run(scenario, &Stage::new(&dir, &installation, &programs));
    if let Some(path) = &options.json {
        report
            .write_json(path)
            .with_context(|| path.display().to_string())?;
    }
    let matrix = Matrix::of(&report);
    print!("\n{}", matrix.table());
    for failure in report.failures() {
        println!("FAIL {}: {}", failure.name, failure.detail);
    }
    // A run without a check has not shown anything.
    let (failed, all) = (report.failures().count(), report.checks.len());
    ensure!(
        report.passed(),
        "{failed} of {all} checks of the matrix failed"
    );
    Ok(())
}

/// What is known of one pair.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Cell {
    passed: usize,
    failed: Vec<String>,
    not_applicable: Vec<String>,
}

impl Cell {
    fn verdict(&self) -> String {
        if !self.failed.is_empty() {
            return format!("FAIL {}", self.failed.join(", "));
        }
        match (self.passed, self.not_applicable.len()) {
            (0, 0) => "not run".into(),
            (0, _) => "-".into(),
            (passed, 0) => format!("pass ({passed})"),
            (passed, without) => format!("pass ({passed}, {without} n/a)"),
        }
    }
}

/// The cells, by device and PF driver, then VF driver, and why some have nothing to show.
#[derive(Debug, Default)]
struct Matrix {
    rows: BTreeMap<(String, String), BTreeMap<String, Cell>>,
    reasons: BTreeMap<String, Vec<String>>,
}

impl Matrix {
    fn of(report: &Report) -> Self {
        let mut matrix = Self::default();
        for check in &report.checks {
            if let Some((cell, step)) = matrix.cell(&check.name) {
                if check.pass {
                    cell.passed += 1;
                } else {
                    cell.failed.push(step);
                }
            }
        }
        for skipped in &report.not_applicable {
            if let Some((cell, step)) = matrix.cell(&skipped.name) {
                cell.not_applicable.push(step);
                let name = skipped.name.trim_start_matches(PREFIX).to_owned();
                let names = matrix.reasons.entry(skipped.reason.clone()).or_default();
                names.push(name);
            }
        }
        matrix
    }

    /// The cell that a name belongs to, and its step.
    fn cell(&mut self, name: &str) -> Option<(&mut Cell, String)> {
        let mut words = name.strip_prefix(PREFIX)?.splitn(4, '/');
        let (device, pf, vf) = (words.next()?, words.next()?, words.next()?);
        let step = words.next().unwrap_or_default().to_owned();
        COLUMNS.contains(&vf).then_some(())?;
        let row = self.rows.entry((device.to_owned(), pf.to_owned()));
        Some((row.or_default().entry(vf.to_owned()).or_default(), step))
    }

    fn table(&self) -> String {
        let row = |cells: [&str; 5]| {
            let [device, pf, first, second, third] = cells;
            let line = format!("{device:10} {pf:10} {first:22} {second:22} {third}");
            format!("{}\n", line.trim_end())
        };
        let [first, second, third] = COLUMNS;
        let mut text = row(["device", "PF driver", first, second, third]);
        for ((device, pf), cells) in &self.rows {
            let verdict = |vf: &str| cells.get(vf).cloned().unwrap_or_default().verdict();
            let [first, second, third] = COLUMNS.map(verdict);
            text += &row([device, pf, &first, &second, &third]);
        }
        for (reason, names) in &self.reasons {
            text += &format!("\n{}:\n  {reason}\n", names.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_finds_its_cell_and_a_cell_tells_the_worst() {
        let mut report = Report::default();
        report.check("vm/interop/qemu-igb/igb/igbvf/probe", true, "");
        report.check("vm/interop/qemu-igb/igb/igbvf/tcp to the PF", true, "");
        report.check("vm/interop/qemu-igb/igb/vf-driver/probe", true, "");
        report.check("vm/interop/qemu-igb/igb/vf-driver/mac", false, "");
        report.check("vm/interop/qemu-igb/igb/end of the PF", true, "");
        report.not_applicable("vm/interop/ours/igb/igbvf", "QEMU hides it");
        report.not_applicable("vm/interop/ours/igb/dpdk", "QEMU hides it");
        report.check("vm/boot", false, "");
        let matrix = Matrix::of(&report);
        let of = |device: &str, pf: &str, vf: &str| {
            matrix.rows[&(device.to_owned(), pf.to_owned())][vf].verdict()
        };
        assert_eq!(of("qemu-igb", "igb", "igbvf"), "pass (2)");
        assert_eq!(of("qemu-igb", "igb", "vf-driver"), "FAIL mac");
        assert_eq!(of("ours", "igb", "dpdk"), "-");
        let table = matrix.table();
        assert!(
            table.contains("ours/igb/igbvf, ours/igb/dpdk:\n  QEMU hides it"),
            "{table}"
        );
        assert!(table.contains("not run"), "{table}");
        assert_eq!(matrix.rows.len(), 2);
    }
}
