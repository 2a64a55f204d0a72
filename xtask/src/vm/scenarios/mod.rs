//! The scenarios, one file each.

mod boot;
mod guest;
mod igbvf;
mod qemu_igb;
mod vf;

use super::scenario::Scenario;

/// All scenarios, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot",
        about: "boots the stock kernel to the agent, loads the 82576 drivers, switches off",
        smoke: true,
        run: boot::run,
    },
    Scenario {
        name: "guest",
        about: "tools, jobs, files and raw frames in a guest, which starts anew and is killed",
        smoke: true,
        run: guest::run,
    },
    Scenario {
        name: "qemu-igb",
        about: "stock igb on QEMU's own 82576: what the other scenarios do, on a foreign card",
        smoke: true,
        run: qemu_igb::run,
    },
    Scenario {
        name: "igbvf",
        about: "stock igbvf on our VF behind our mediator, pings both ways",
        smoke: true,
        run: igbvf::run,
    },
    Scenario {
        name: "vf-smoke",
        about: "two guests with stock igbvf on our VFs: addresses, traffic, spoofing, link state",
        smoke: true,
        run: vf::smoke,
    },
    Scenario {
        name: "vf",
        about: "everything a guest with stock igbvf does on our VFs, and what happens to it",
        smoke: false,
        run: vf::full,
    },
    Scenario {
        name: "soak",
        about: "iperf3 both ways under random changes and VF resets; no hang, warning or leak",
        smoke: false,
        run: vf::soak::run,
    },
];
