//! Every scenario with all parts wired by Unix sockets.

tandem_tests::every_scenario!(tandem_tests::rig::Wiring::Sockets);
