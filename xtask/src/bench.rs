//! `cargo xtask bench`: what things cost, each next to a raw peer of the same run. Figures, never a
//! verdict on them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde_json::json;

use crate::build;
use crate::demo::transfer;
use crate::report::Report;
use crate::rig::{CALL_LIMIT, Rig, RigOptions, vf_address};

/// Bytes that the raw peer of a transfer writes at once.
const CHUNK: usize = 64 << 10;
/// The benchmark that runs here, over processes; the others are `ratios` of the package
/// `tandem-tests`.
const TCP: &str = "tcp";

/// What is measured, and how.
#[derive(Debug, clap::Args)]
pub struct BenchOptions {
    /// Only what has this in its name: tcp, round-trips, frames
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run the programs in this directory instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Mebibytes for each TCP transfer
    #[arg(long, default_value_t = 128, value_name = "MIB")]
    mebibytes: u64,
    /// How often each transfer is repeated
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
}

/// Measure, print a table, and write the report.
pub fn run(options: &BenchOptions) -> anyhow::Result<()> {
    let filter = options.name.as_deref().unwrap_or_default();
    let mut report = Report::default();
    if TCP.contains(filter) {
        tcp(options, &mut report)?;
    }
    if filter != TCP {
        ratios(filter, &mut report)?;
    }
    if report.checks.is_empty() {
        bail!("no benchmark has {filter:?} in its name: there are tcp, round-trips and frames");
    }
    print(&report);
    if let Some(json) = &options.json {
        report.write_json(json)?;
    }
    Ok(())
}

/// Run what links the drivers, in a process of its own.
fn ratios(filter: &str, report: &mut Report) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("creating a temporary directory")?;
    let json = directory.path().join("ratios.json");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(build::workspace())
        .args(["bench", "--quiet", "--package", "tandem-tests"])
        .args(["--bench", "ratios", "--", "--json"])
        .arg(&json)
        .arg(filter);
    let status = command.status().context("running cargo bench")?;
    if !status.success() {
        bail!("the benchmark `ratios` failed: see its messages above");
    }
    let text = std::fs::read(&json).context("reading what the benchmark `ratios` reports")?;
    let more: Report = serde_json::from_slice(&text).context("reading the benchmark's report")?;
    report.checks.extend(more.checks);
    Ok(())
}

/// TCP between two VF drivers, as in the demo but for the capture, next to a Unix stream.
fn tcp(options: &BenchOptions, report: &mut Report) -> anyhow::Result<()> {
    let programs = match &options.programs {
        Some(directory) => directory.clone(),
        None => build::programs(true)?,
    };
    let mut rig = Rig::new(RigOptions {
        programs,
        vfs: 2,
        policy: json!({}),
        capture: false,
        card_arguments: Vec::new(),
    })?;
    rig.start_all()?;
    let sender = rig.vf_control(0);
    rig.reaches(&sender, &vf_address(1))?;
    let bytes = options.mebibytes << 20;
    let mut samples = Vec::new();
    for seed in 0..u64::from(options.repeat) {
        let raw = raw_stream(bytes)?;
        let tcp = transfer(&sender, &vf_address(1), bytes, seed)?.mebibytes_per_second;
        samples.push((raw, tcp));
    }
    let dropped = drops(&rig)?;
    rig.stop_all()?;
    let ratio = median(samples.iter().map(|(raw, tcp)| tcp / raw));
    let raw = "raw Unix stream";
    measured(
        report,
        raw,
        samples.iter().map(|(raw, _)| *raw),
        String::new(),
    );
    measured(
        report,
        "tcp VF to VF",
        samples.iter().map(|(_, tcp)| *tcp),
        format!("{ratio:.3} times {raw}; {dropped}; "),
    );
    Ok(())
}

/// What the card dropped, by reason.
fn drops(rig: &Rig) -> anyhow::Result<String> {
    let stats = rig
        .card_control()
        .call(&json!({"op": "stats"}), CALL_LIMIT)?;
    let functions = stats["functions"].as_array().context("no functions")?;
    let drops: Vec<String> = functions
        .iter()
        .filter_map(|function| function["drops"].as_object())
        .flatten()
        .filter(|(_, count)| **count != 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    Ok(if drops.is_empty() {
        "no drops".to_owned()
    } else {
        format!("drops: {}", drops.join(", "))
    })
}

/// MiB/s from one thread to another.
fn raw_stream(bytes: u64) -> anyhow::Result<f64> {
    let (mut near, mut far) = UnixStream::pair().context("a socket pair")?;
    let began = Instant::now();
    let reader = std::thread::spawn(move || -> std::io::Result<u64> {
        let mut buffer = vec![0; CHUNK];
        let mut total = 0;
        loop {
            match far.read(&mut buffer)? {
                0 => return Ok(total),
                count => total += count as u64,
            }
        }
    });
    let chunk = vec![0x5A; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(CHUNK as u64);
        near.write_all(&chunk[..length as usize])?;
        left -= length;
    }
    drop(near);
    let total = reader.join().expect("the reader does not panic")?;
    Ok(total as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64())
}

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn measured(
    report: &mut Report,
    name: &str,
    samples: impl Iterator<Item = f64> + Clone,
    detail: String,
) {
    let low = samples.clone().fold(f64::INFINITY, f64::min);
    let high = samples.clone().fold(0.0, f64::max);
    let count = samples.clone().count();
    let detail = format!("{detail}{low:.1} to {high:.1} in {count} runs");
    report.measured(name, true, (median(samples), "MiB/s"), detail);
}

fn print(report: &Report) {
    let mut rows = Table::new();
    rows.load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["figure", "median", "unit", "detail"]);
    for check in &report.checks {
        let figure = check.figure.unwrap_or(f64::NAN);
        rows.add_row([
            check.name.as_str(),
            &format!("{figure:.1}"),
            check.unit.as_deref().unwrap_or_default(),
            check.detail.as_str(),
        ]);
    }
    println!("{rows}");
}
