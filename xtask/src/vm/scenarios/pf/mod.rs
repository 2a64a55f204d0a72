//! The PF in a guest: stock igb on the card's own PF socket, against this machine's kernel.

pub(super) mod bed;
pub(super) mod cable;
pub(super) mod checks;
pub(super) mod traffic;

use anyhow::Result;

use crate::report::Report;
use crate::vm::scenario::Stage;
use bed::{Bed, Card};
use checks::{BASICS, Behaviour, reboot, reload};
use traffic::TRAFFIC;

/// Reloads in the short run, and in the long one.
const FEW: u32 = 3;
const MANY: u32 = 50;
/// Seconds of traffic both ways in the long run.
const SOAK: u32 = 60;

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    on_our_card(stage, "pf", report, |bed, report| {
        carry_out("pf", BASICS, bed, report);
        report.outcome("vm/pf/driver reload", reload(bed, FEW));
    })
}

pub(super) fn run_traffic(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    on_our_card(stage, "pf-traffic", report, |bed, report| {
        carry_out("pf-traffic", TRAFFIC, bed, report);
    })
}

pub(super) fn run_endurance(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    on_our_card(stage, "pf-endurance", report, |bed, report| {
        report.outcome("vm/pf-endurance/guest reboot", reboot(bed));
        report.outcome("vm/pf-endurance/both ways", traffic::soak(bed, SOAK));
        report.outcome("vm/pf-endurance/driver reload", reload(bed, MANY));
    })
}

/// Everything of the list, each with its name in the report.
fn carry_out(scenario: &str, list: &[Behaviour], bed: &mut Bed, report: &mut Report) {
    for behaviour in list {
        let seen = (behaviour.run)(bed);
        report.outcome(&format!("vm/{scenario}/{}", behaviour.name), seen);
    }
}

fn on_our_card(
    stage: &Stage<'_>,
    name: &str,
    report: &mut Report,
    work: impl FnOnce(&mut Bed, &mut Report),
) -> Result<()> {
    let mut bed = Bed::start(stage, name, Card::Ours(&[]), 2)?;
    work(&mut bed, report);
    let complaints = bed.complaints()?;
    report.check(
        format!("vm/{name}/no complaint in the kernel's log"),
        complaints.is_empty(),
        complaints.join(" | "),
    );
    if report.failures().next().is_some()
        && let Some(words) = bed.card_words()
    {
        eprintln!("-- the card said last:\n{words}");
    }
    bed.stop()
}
