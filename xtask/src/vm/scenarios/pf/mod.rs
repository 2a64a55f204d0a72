//! The PF in a guest: stock igb on the card's own PF socket, against this machine's kernel.

pub(super) mod bed;
pub(super) mod cable;
pub(super) mod checks;
pub(super) mod clock;
pub(super) mod settings;
pub(super) mod traffic;

use anyhow::Result;

use super::unknown::known_registers;
use crate::report::Report;
use crate::vm::scenario::Stage;
use bed::{Bed, Card};
use checks::{BASICS, Behaviour, reboot, reload};
use clock::CLOCK;
use settings::SETTINGS;
use traffic::TRAFFIC;

/// Reloads in the short run, and in the long one.
const FEW: u32 = 3;
const MANY: u32 = 50;
/// Seconds of traffic both ways in the long run.
const SOAK: u32 = 60;

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let bed = on_our_card(stage, "pf", Card::Traced, report, |bed, report| {
        for list in [BASICS, SETTINGS, CLOCK] {
            carry_out("pf", list, bed, report);
        }
        report.outcome("vm/pf/driver reload", reload(bed, FEW));
    })?;
    report.outcome(
        "vm/pf/igb touches no register that the card does not know",
        known_registers(&bed.stop_traced()?, "pf"),
    );
    Ok(())
}

pub(super) fn run_traffic(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    on_our_card(
        stage,
        "pf-traffic",
        Card::Ours(&[]),
        report,
        |bed, report| {
            carry_out("pf-traffic", TRAFFIC, bed, report);
        },
    )?
    .stop()
}

pub(super) fn run_endurance(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    on_our_card(
        stage,
        "pf-endurance",
        Card::Ours(&[]),
        report,
        |bed, report| {
            report.outcome("vm/pf-endurance/guest reboot", reboot(bed));
            report.outcome("vm/pf-endurance/both ways", traffic::soak(bed, SOAK));
            report.outcome("vm/pf-endurance/driver reload", reload(bed, MANY));
        },
    )?
    .stop()
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
    card: Card,
    report: &mut Report,
    work: impl FnOnce(&mut Bed, &mut Report),
) -> Result<Bed> {
    let mut bed = Bed::start(stage, name, card, 2)?;
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
    Ok(bed)
}
