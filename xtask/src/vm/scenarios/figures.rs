//! Throughput, latency and CPU time of the same guest on our card, its doorbells shared and trapped,
//! and on QEMU's igb: one run, taking turns, so that a busy machine is busy for all of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::pf::bed::{Bed, Card, HOST};
use super::pf::traffic::{Flow, measure};
use crate::build;
use crate::report::Report;
use crate::vm::scenario::Stage;

/// Turns of each card.
const TURNS: usize = 3;
const PINGS: u16 = 200;

const CARDS: [(&str, Card); 3] = [
    (
        "ours, doorbells shared",
        Card::Ours(&["--doorbell", "shared"]),
    ),
    (
        "ours, doorbells trapped",
        Card::Ours(&["--doorbell", "trap"]),
    ),
    ("QEMU's igb", Card::Qemu),
];

/// A column of the table: what is measured and its unit.
const COLUMNS: [(&str, &str); 9] = [
    ("TCP from the guest", "Mbit/s"),
    ("guest CPU", "%"),
    ("host CPU", "%"),
    ("TCP to the guest", "Mbit/s"),
    ("guest CPU", "%"),
    ("host CPU", "%"),
    ("UDP from the guest", "Mbit/s"),
    ("UDP to the guest", "Mbit/s"),
    ("ping", "us"),
];

/// The values of one card: for each column, one of each turn.
type Samples = [Vec<f64>; COLUMNS.len()];

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let mut beds = Vec::new();
    for (n, (_, card)) in CARDS.into_iter().enumerate() {
        beds.push(Bed::start(stage, &format!("figures-{n}"), card, 2)?);
    }
    let mut samples: Vec<Samples> = CARDS.iter().map(|_| Samples::default()).collect();
    for turn in 0..TURNS {
        for n in 0..beds.len() {
            // Nobody is always first after the pause.
            let n = (n + turn) % beds.len();
            sample(&mut beds[n], &mut samples[n])
                .with_context(|| format!("{}, turn {turn}", CARDS[n].0))?;
        }
    }
    for bed in beds {
        bed.stop()?;
    }
    let table = table(&samples);
    println!("{table}");
    let folder = build::target_directory().join("reports");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("figures.md"), &table)?;
    let json = serde_json::to_string_pretty(&as_json(&samples))?;
    std::fs::write(folder.join("figures.json"), json)?;
    for ((name, _), samples) in CARDS.iter().zip(&samples) {
        for ((what, unit), values) in COLUMNS.iter().zip(samples) {
            if what.ends_with("CPU") {
                continue;
            }
            let middle = median(values);
            report.measured(
                format!("vm/figures/{what}, {name}"),
                values.len() >= TURNS && middle > 0.0,
                (middle, unit),
                format!("{} turns, {}", values.len(), spread(values)),
            );
        }
    }
    Ok(())
}

/// One turn of one card.
fn sample(bed: &mut Bed, samples: &mut Samples) -> Result<()> {
    let mut column = samples.iter_mut();
    let mut put = |value: f64| column.next().expect("a column for each value").push(value);
    for reverse in [false, true] {
        let flow = Flow {
            reverse,
            ..Flow::TCP
        };
        let (began, guest, host) = (Instant::now(), bed.vm().guest_cpu_ms()?, host_cpu(bed)?);
        put(measure(bed, flow)?.mbit_s);
        let ms = began.elapsed().as_secs_f64() * 10.0;
        // A hundredth of a second of the time is a percent.
        put((bed.vm().guest_cpu_ms()? - guest) as f64 / ms);
        put((host_cpu(bed)? - host) as f64 / ms);
    }
    for reverse in [false, true] {
        let flow = Flow {
            reverse,
            ..Flow::UDP
        };
        put(measure(bed, flow)?.mbit_s);
    }
    let timeout = Duration::from_secs(5);
    let pings = bed.agent().ping(HOST.parse()?, PINGS, timeout, 56)?;
    let times: Vec<f64> = pings.rtts_us.iter().map(|us| *us as f64).collect();
    put(median(&times));
    Ok(())
}

/// CPU time of QEMU and of the card.
fn host_cpu(bed: &mut Bed) -> Result<u64> {
    Ok(bed.vm().host_cpu_ms()? + bed.card_cpu_ms()?)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{least:.1} to {most:.1}")
}

/// Medians, with the least and the most of all turns.
fn table(samples: &[Samples]) -> String {
    let mut table = String::from("| |");
    CARDS
        .iter()
        .for_each(|(name, _)| table += &format!(" {name} |"));
    table += "\n|---|---|---|---|\n";
    for (n, (what, unit)) in COLUMNS.iter().enumerate() {
        table += &format!("| {what}, {unit} |");
        for samples in samples {
            let values = &samples[n];
            table += &format!(" {:.1} ({}) |", median(values), spread(values));
        }
        table.push('\n');
    }
    table
}

fn as_json(samples: &[Samples]) -> Value {
    CARDS
        .iter()
        .zip(samples)
        .map(|((name, _), samples)| {
            let columns: Vec<Value> = COLUMNS
                .iter()
                .zip(samples)
                .map(|((what, unit), values)| {
                    json!({"what": what, "unit": unit, "median": median(values), "turns": values})
                })
                .collect();
            json!({"card": name, "columns": columns})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(spread(&[3.0, 1.0]), "1.0 to 3.0");
    }

    #[test]
    fn the_table_has_a_line_for_each_column() {
        let samples: Vec<Samples> = CARDS
            .iter()
            .map(|_| std::array::from_fn(|n| vec![n as f64]))
            .collect();
        let table = table(&samples);
        assert_eq!(table.lines().count(), 2 + COLUMNS.len());
        assert!(table.contains("| ping, us | 8.0 (8.0 to 8.0) |"), "{table}");
    }
}
