//! A foreign guest: stock igbvf on a VF behind our mediator, with our PF driver in charge.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::unknown::known_registers;
use crate::report::Report;
use crate::rig::{PF_ADDRESS, Rig, RigOptions, vf_address};
use crate::vm::scenario::Stage;
use crate::vm::{Vm, VmConfig};

/// The address that the administrator gives to the guest's VF.
const GUEST_MAC: &str = "02:82:57:60:0a:00";
/// How long stock drivers may take for their handshake under emulation.
const LINK_LIMIT: Duration = Duration::from_secs(60);
const PINGS: u16 = 5;

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let mut rig = Rig::new(RigOptions {
        programs: stage.programs.into(),
        vfs: 2,
        policy: json!({"vfs": {"0": {"mac": GUEST_MAC}}}),
        capture: true,
        card_arguments: Vec::new(),
    })?;
    rig.trace_card();
    rig.start_card()?;
    rig.start_mediator()?;
    rig.start_pf()?;
    rig.start_vf(1)?;
    let outcome = guest(stage, &mut rig, report);
    if outcome.is_err() || report.failures().next().is_some() {
        for program in rig.programs() {
            eprintln!("-- {} said last:\n{}", program.name(), program.tail());
        }
    }
    outcome?;
    rig.stop_all()?;
    let trace = std::fs::read_to_string(rig.trace()).context("reading the card's trace")?;
    report.outcome(
        "vm/igbvf/igbvf touches no register that the card does not know",
        known_registers(&trace, "vf0"),
    );
    Ok(())
}

fn guest(stage: &Stage<'_>, rig: &mut Rig, report: &mut Report) -> Result<()> {
    let config = VmConfig::new("igbvf").vfio_user(&rig.vf_socket(0))?;
    let vm = stage.start(config)?;
    let agent = vm.agent();
    agent
        .load_module("igbvf", "")
        .context("loading igbvf in the guest")?;
    let links = agent.links_of("igbvf")?;
    let Some(link) = links.first().cloned() else {
        report.check(
            "vm/igbvf/probe",
            false,
            format!("no interface; {}", kernel_words(&vm)),
        );
        return Ok(());
    };
    report.check("vm/igbvf/probe", true, format!("igbvf made {}", link.name));
    report.check(
        "vm/igbvf/mac from the PF driver",
        link.mac == GUEST_MAC,
        format!("{}, the PF driver assigned {GUEST_MAC}", link.mac),
    );
    let address: Ipv4Addr = vf_address(0).parse()?;
    agent.set_addr(&link.name, address, 24)?;
    agent.link_up(&link.name)?;
    let up = agent.wait_link(&link.name, Some(true), LINK_LIMIT);
    report.outcome("vm/igbvf/link", up.map(|link| format!("{link:?}")));
    for (name, target) in [
        ("VF driver", vf_address(1)),
        ("PF driver", PF_ADDRESS.to_owned()),
    ] {
        let timeout = Duration::from_secs(2);
        let pings = vm.agent().ping(target.parse()?, PINGS, timeout, 56)?;
        report.check(
            format!("vm/igbvf/ping from the guest to the {name}"),
            pings.received == pings.sent,
            format!(
                "{} of {} answered, {:?} us",
                pings.received, pings.sent, pings.rtts_us
            ),
        );
    }
    for (name, control) in [
        ("VF driver", rig.vf_control(1)),
        ("PF driver", rig.pf_control()),
    ] {
        let answer = rig.ping_within(&control, &vf_address(0), PINGS.into(), 2000)?;
        report.check(
            format!("vm/igbvf/ping from the {name} to the guest"),
            answer["received"] == PINGS,
            format!("{} of {} answered", answer["received"], answer["sent"]),
        );
    }
    let words = vm.agent().kmsg()?;
    let complaint = words.lines().find(|line| {
        line.contains("igbvf") && (line.contains("PF still") || line.contains("WARN"))
    });
    report.check(
        "vm/igbvf/no complaint in the kernel's log",
        complaint.is_none(),
        complaint.unwrap_or_default(),
    );
    vm.agent()
        .unload_module("igbvf")
        .context("unloading igbvf")?;
    ensure!(
        vm.agent().links_of("igbvf")?.is_empty(),
        "an interface outlives igbvf"
    );
    report.check(
        "vm/igbvf/unload",
        true,
        "the module went while the VF stayed",
    );
    vm.shutdown()
}

/// What the guest's kernel said of igbvf.
fn kernel_words(vm: &Vm) -> String {
    vm.agent()
        .kmsg()
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains("igbvf"))
        .collect::<Vec<_>>()
        .join(" | ")
}
