//! Every scenario with the card as the mediator would have it from the kernel's VFIO.

tandem_tests::every_scenario!(tandem_tests::rig::Wiring::Hardware);
