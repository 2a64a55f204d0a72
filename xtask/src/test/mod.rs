//! `cargo xtask test`: every rung in one run, with one verdict.

mod libtest;
mod stage;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::report::Report;
use crate::{build, vm};
use stage::Stage;

/// What to test.
#[derive(Debug, clap::Args)]
pub struct TestOptions {
    /// Leave out everything that starts a virtual machine
    #[arg(long)]
    no_vm: bool,
    /// Add the long ones: every VM scenario, 20 demos in a row, then 4 at once
    #[arg(long)]
    full: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Run only tests and scenarios whose name contains this
    filter: Option<String>,
}

/// Run the rungs one after the other; an error says which of them failed.
pub fn run(options: &TestOptions) -> anyhow::Result<()> {
    let began = Instant::now();
    let reports = build::target_directory().join("reports");
    std::fs::create_dir_all(&reports).with_context(|| format!("creating {}", reports.display()))?;
    let mut report = Report::default();
    cargo_test(options, &reports, &mut report)?;
    let programs = build::programs(false)?;
    let stage = Stage::new(&programs)?;
    processes(options, &stage, &mut report)?;
    machines(options, &programs, &reports, &mut report)?;

    for skipped in &report.not_applicable {
        println!("SKIP {}: {}", skipped.name, skipped.reason);
    }
    for failure in report.failures() {
        println!("FAIL {}: {}", failure.name, failure.detail);
    }
    report.write_json(
        options
            .json
            .as_deref()
            .unwrap_or(&reports.join("test.json")),
    )?;
    if let Some(junit) = &options.junit {
        report.write_junit("tandem", junit)?;
    }
    let failed = report.failures().count();
    println!("ran for {:.0} s", began.elapsed().as_secs_f64());
    println!(
        "{} passed, {failed} failed, {} skipped",
        report.checks.len() - failed,
        report.not_applicable.len()
    );
    if !report.passed() {
        bail!("{failed} of {} checks failed", report.checks.len());
    }
    Ok(())
}

/// The first two rungs: unit tests and drivers against the card, in process and over sockets.
fn cargo_test(options: &TestOptions, reports: &Path, report: &mut Report) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(build::workspace())
        .args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = &options.filter {
        command.args(["--", filter]);
    }
    let (output, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("running cargo test")?;
    // The command keeps its ends of the pipe open; without them the reader sees the end.
    drop(command);
    let log = reports.join("cargo-test.log");
    let mut file = File::create(&log).with_context(|| format!("writing {}", log.display()))?;
    let mut reader = libtest::Reader::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        writeln!(file, "{line}")?;
        println!("{line}");
        reader.line(&line, report);
    }
    let status = child.wait()?;
    let named_failure = report.failures().next().is_some();
    if reader.summaries() == 0 || (!status.success() && !named_failure) {
        report.check(
            "cargo test",
            false,
            format!("it ended with {status}: see above"),
        );
    }
    Ok(())
}

/// The test binary of the scenarios over sockets, which cargo has built.
fn socket_scenarios() -> anyhow::Result<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(build::workspace())
        .args([
            "test",
            "--workspace",
            "--test",
            "sockets",
            "--no-run",
            "--quiet",
        ])
        .arg("--message-format=json")
        .output()
        .context("asking cargo for the socket scenarios")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| {
            message["target"]["name"] == "sockets"
                && message["package_id"]
                    .as_str()
                    .is_some_and(|package| package.contains("tandem-tests"))
        })
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built no test called sockets")
}

/// The third rung: the programs as processes, without privileges.
fn processes(options: &TestOptions, stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let filter = options.filter.as_deref().unwrap_or("");
    if "demo".contains(filter) {
        println!("\ndemo ({})", stage.identity());
        stage.run(&["demo"], "demo", report)?;
    }
    println!("\nscenarios over sockets ({})", stage.identity());
    stage.run_tests(&socket_scenarios()?, filter, report)?;
    println!("\nscenarios over processes ({})", stage.identity());
    stage.run(&["scenarios", filter], "process", report)?;
    if nix::unistd::geteuid().is_root() {
        println!("\nthe kernel's stack on TAPs (as root)");
        crate::scenarios::kernel_stacks(filter, stage.programs(), report);
    }
    if options.full && "demo".contains(filter) {
        println!("\n20 demos in a row, then 4 at once");
        stage.repeat_demo(20, 1, report)?;
        stage.repeat_demo(4, 4, report)?;
    }
    Ok(())
}

/// The fourth rung: stock guests. What they show goes to a report of its own
/// too.
fn machines(
    options: &TestOptions,
    programs: &Path,
    reports: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    if options.no_vm {
        report.not_applicable("vm", "left out by --no-vm");
        return Ok(());
    }
    let filter = options.filter.as_deref().unwrap_or("");
    if !vm::scenario::any_matches(filter) {
        return Ok(());
    }
    println!("\nvirtual machines");
    let seen = vm::scenario::run_all(programs, options.full, filter);
    seen.write_json(&reports.join("vm.json"))?;
    report.checks.extend(seen.checks);
    report.not_applicable.extend(seen.not_applicable);
    Ok(())
}
