//! Every scenario with all parts in one process, wired by calls.

tandem_tests::every_scenario!(tandem_tests::rig::Wiring::InProcess);
