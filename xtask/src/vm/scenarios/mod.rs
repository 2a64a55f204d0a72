//! The scenarios, one file each.

mod boot;
mod guest;
mod igbvf;
mod qemu_igb;

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
];
