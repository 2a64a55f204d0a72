//! The scenario bodies on a card of the kernel's: `on_kernel_vfio vfio:0000:BB:DD.F,vf_token=UUID [PART]`.
//! One line for each body, or for those whose name has PART in it, on standard output: `ok NAME`, `n/a
//! NAME: REASON` or `FAIL NAME`, and `end` after the last. What a failed one has to say is between them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use iommu::backend::Place;
use tandem_tests::rig::Wiring;
use tandem_tests::runner;
use tandem_tests::scenarios::{ALL, OUR_CARD_ONLY};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().map(|name| name.parse());
    let Some(Ok(Place::Vfio(pf))) = place else {
        eprintln!("name the PF of an 82576 on vfio-pci: vfio:0000:BB:DD.F,vf_token=UUID");
        return ExitCode::FAILURE;
    };
    let part = arguments.next().unwrap_or_default();
    let mut failed = false;
    for (name, _) in ALL.iter().filter(|(name, _)| name.contains(&part)) {
        if let Some((_, reason)) = OUR_CARD_ONLY.iter().find(|(other, _)| other == name) {
            println!("n/a {name}: {reason}");
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
