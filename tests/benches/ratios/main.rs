//! What things cost, next to what the same machine charges for the same work without a card: every
//! figure is taken in turn with its peer, in one run.
//!
//! `cargo bench -p tandem-tests --bench ratios -- [--json FILE] [NAME]`. Nothing is asserted.

mod frames;
mod round_trips;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

/// How often each figure is taken.
const REPETITIONS: usize = 7;

/// What the figures of one name are.
struct Figure {
    name: String,
    unit: &'static str,
    /// One figure of each repetition.
    samples: Vec<f64>,
    detail: String,
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            samples: Vec::with_capacity(REPETITIONS),
            detail: String::new(),
        }
    }

    /// What it is next to its peer, pair by pair.
    fn compare(&mut self, peer: &Figure) {
        let pairs = self.samples.iter().zip(&peer.samples);
        let ratio = median(pairs.map(|(own, peer)| own / peer).collect());
        self.detail = format!("{ratio:.2} times {}", peer.name);
    }

    fn report(&self) -> Value {
        let (low, high) = spread(&self.samples);
        let detail = format!(
            "{}{}{low:.2} to {high:.2} in {} runs",
            self.detail,
            if self.detail.is_empty() { "" } else { "; " },
            self.samples.len()
        );
        let figure = median(self.samples.clone());
        eprintln!("{:44} {figure:12.2} {:10} {detail}", self.name, self.unit);
        json!({"name": self.name, "pass": true, "figure": figure, "unit": self.unit, "detail": detail})
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(samples: &[f64]) -> (f64, f64) {
    samples
        .iter()
        .fold((f64::INFINITY, 0.0), |(low, high), sample| {
            (low.min(*sample), high.max(*sample))
        })
}

/// Seconds that `work` takes.
fn seconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// A benchmark: its name, and what gives its figures.
type Bench = (&'static str, fn() -> Vec<Figure>);

const BENCHES: &[Bench] = &[("round-trips", round_trips::run), ("frames", frames::run)];

fn main() {
    let mut json_file = None;
    let mut filter = String::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json_file = arguments.next().map(PathBuf::from),
            // What cargo adds.
            "--bench" => {}
            name => filter = name.to_owned(),
        }
    }
    let mut checks = Vec::new();
    for (name, bench) in BENCHES {
        if name.contains(&filter) {
            checks.extend(bench().iter().map(Figure::report));
        }
    }
    let report = json!({"checks": checks, "not_applicable": []});
    if let Some(file) = json_file {
        std::fs::write(&file, report.to_string()).expect("the report can be written");
    }
}
