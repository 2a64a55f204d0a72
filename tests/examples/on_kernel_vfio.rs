//! The scenario bodies on a card of the kernel's: `on_kernel_vfio vfio:0000:BB:DD.F,vf_token=UUID [PART]`.
//! One line for each body, or for those whose name has PART in it, on standard output: `ok NAME`, `n/a
//! NAME: REASON` or `FAIL NAME`, and `end` after the last. What a failed one has to say is between them.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use iommu::backend::kernel::KernelPlace;
use iommu::backend::{KernelVfio, Place};
use pf_driver::{PfDriver, PfOptions};
use tandem_tests::rig::Wiring;
use tandem_tests::runner;
use tandem_tests::scenarios::{ALL, NEEDS, OUR_CARD_ONLY};

/// What the PF driver finds the card to lack.
fn missing(pf: &KernelPlace) -> Result<Vec<String>, Box<dyn Error>> {
    let function = Arc::new(KernelVfio::open(pf)?);
    let driver = PfDriver::probe(function, PfOptions::default())?;
    let missing = driver.capabilities().missing.clone();
    driver.remove();
    Ok(missing)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().map(|name| name.parse());
    let Some(Ok(Place::Vfio(pf))) = place else {
        eprintln!("name the PF of an 82576 on vfio-pci: vfio:0000:BB:DD.F,vf_token=UUID");
        return ExitCode::FAILURE;
    };
    let part = arguments.next().unwrap_or_default();
    let missing = match missing(&pf) {
        Ok(missing) => missing,
        Err(error) => {
            eprintln!("{pf}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = false;
    for (name, _) in ALL.iter().filter(|(name, _)| name.contains(&part)) {
        if let Some((_, reason)) = OUR_CARD_ONLY.iter().find(|(other, _)| other == name) {
            println!("n/a {name}: {reason}");
            continue;
        }
        let needs = NEEDS.iter().find(|(other, _)| other == name);
        let lacks = |(_, need): &(_, &str)| missing.iter().find(|gap| gap.contains(*need));
        if let Some(gap) = needs.and_then(lacks) {
            println!("n/a {name}: the PF driver reports that this card has no {gap}");
            continue;
        }
        let began = Instant::now();
        let run = || runner::run(Wiring::Kernel(pf), name);
        if catch_unwind(AssertUnwindSafe(run)).is_ok() {
            println!("ok {name} ({} ms)", began.elapsed().as_millis());
        } else {
            failed = true;
            println!("FAIL {name}");
        }
    }
    println!("end");
    ExitCode::from(u8::from(failed))
}
