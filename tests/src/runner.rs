//! Runs a scenario, and lets the parts speak when it fails.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::rig::{Rig, Wiring};
use crate::scenarios::ALL;

/// Run the scenario `name` on a new rig.
///
/// # Panics
///
/// If the scenario does.
pub fn run(wiring: Wiring, name: &str) {
    let (_, body) = ALL
        .iter()
        .find(|(other, _)| *other == name)
        .expect("a scenario");
    let mut rig = Rig::new(wiring);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&mut rig))) {
        println!("{}", rig.testimony());
        resume_unwind(panic);
    }
}
