//! The scenarios, one file each.

mod boot;
mod compare;
mod dpdk;
mod figures;
mod guest;
mod igbvf;
mod interop;
mod pf;
mod pf_vfio;
mod qemu_igb;
mod trace_diff;
mod unknown;
mod vf;
mod vfio;

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
        name: "trace-diff",
        about: "stock igb on our card and on QEMU's: where the two runs part, register by register",
        smoke: true,
        run: trace_diff::run,
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
    Scenario {
        name: "pf",
        about: "stock igb on our card's own socket, against this machine's kernel",
        smoke: true,
        run: pf::run,
    },
    Scenario {
        name: "pf-cable",
        about: "stock igb on our card and on QEMU's, one cable between them: VLANs",
        smoke: false,
        run: pf::cable::run,
    },
    Scenario {
        name: "pf-traffic",
        about: "stock igb on our card: filters, queues, offloads one by one, iperf3",
        smoke: false,
        run: pf::run_traffic,
    },
    Scenario {
        name: "pf-endurance",
        about: "stock igb on our card: fifty reloads, a reboot, a minute of traffic",
        smoke: false,
        run: pf::run_endurance,
    },
    Scenario {
        name: "compare",
        about: "the same commands on our card and on QEMU's igb; differences must be known",
        smoke: false,
        run: compare::run,
    },
    Scenario {
        name: "figures",
        about: "throughput, latency and CPU time on our card and on QEMU's igb",
        smoke: false,
        run: figures::run,
    },
    Scenario {
        name: "vfio",
        about: "our VF driver in a guest, over its kernel's VFIO behind an emulated IOMMU",
        smoke: true,
        run: vfio::run,
    },
    Scenario {
        name: "vfio-hard",
        about: "our VF driver run and killed twenty times over a guest's VFIO, then stock igbvf",
        smoke: false,
        run: vfio::run_hard,
    },
    Scenario {
        name: "pf-vfio",
        about: "our PF and VF drivers over the guest's VFIO, on QEMU's own igb behind an IOMMU",
        smoke: true,
        run: pf_vfio::run,
    },
    Scenario {
        name: "pf-vfio-hard",
        about: "the same killed twenty times; ten thousand windows, and one more than there can be",
        smoke: false,
        run: pf_vfio::run_hard,
    },
    Scenario {
        name: "mediated-vfio",
        about: "our mediator over the guest's VFIO: VFs of QEMU's igb as vfio-user devices, fenced",
        smoke: true,
        run: pf_vfio::mediated::run,
    },
    Scenario {
        name: "mediated-vfio-hard",
        about: "the same with a client killed twenty times",
        smoke: false,
        run: pf_vfio::mediated::run_hard,
    },
    Scenario {
        name: "mediated-vm",
        about: "stock igbvf in a VM inside the VM, on such a VF",
        smoke: false,
        run: pf_vfio::nested::run,
    },
    Scenario {
        name: "scenarios-vfio",
        about: "the bodies of the in-process scenarios, over the guest's VFIO on QEMU's igb",
        smoke: false,
        run: pf_vfio::bodies::run,
    },
    Scenario {
        name: "dpdk",
        about: "dpdk-testpmd on our PF and on two VFs, with the card's own statistics beside",
        smoke: false,
        run: dpdk::run,
    },
    Scenario {
        name: "interop-smoke",
        about: "each of our drivers with Linux's on the other side, on QEMU's igb",
        smoke: true,
        run: interop::smoke,
    },
    Scenario {
        name: "interop",
        about: "the whole matrix of cards, PF drivers and VF drivers: ours, Linux's, DPDK's",
        smoke: false,
        run: interop::run,
    },
];
