//! The same driver on two cards, register by register: stock igb on ours and on QEMU's own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::report::Report;
use crate::rig::{Rig, RigOptions};
use crate::vm::VmConfig;
use crate::vm::scenario::Stage;

/// What QEMU logs of its card: every access of BAR0, also those that it does not carry out.
const QEMU_TRACE: &str = "trace:e1000e_core_read,trace:e1000e_core_write,\
                          trace:e1000e_wrn_regs_write_ro,trace:e1000e_wrn_regs_write_unknown,\
                          trace:e1000e_wrn_regs_read_unknown";
/// The address of both cards, so that the driver writes the same filters.
const MAC: &str = "02:82:57:60:00:00";
/// How long a link may take under emulation.
const LINK_LIMIT: Duration = Duration::from_secs(60);
/// Of the accesses that igb does on our card, so many in a hundred it does the same on QEMU's, with
/// the same value. What is left is told by the difference itself.
const ALIKE: f64 = 80.0;

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let (ours, theirs) = (folder.path().join("card"), folder.path().join("qemu"));
    on_our_card(stage, &ours)?;
    on_qemus_card(stage, &theirs)?;
    compare(stage, report, &ours, &theirs)
}

fn on_our_card(stage: &Stage<'_>, trace: &Path) -> Result<()> {
    let trace = trace.to_str().context("a path in UTF-8")?;
    let mut rig = Rig::new(RigOptions {
        programs: stage.programs.into(),
        vfs: 0,
        policy: Value::Null,
        capture: false,
        card_arguments: ["--mac", MAC, "--trace", trace].map(str::to_owned).to_vec(),
    })?;
    rig.start_card()?;
    let config = VmConfig::new("trace-card").vfio_user(&rig.nic().join("pf.sock"))?;
    drive(stage, config)?;
    rig.stop_all()
}

fn on_qemus_card(stage: &Stage<'_>, log: &Path) -> Result<()> {
    let log = log.to_str().context("a path in UTF-8")?;
    let device = format!("igb,netdev=n0,bus=rp1,mac={MAC}");
    let arguments = [
        "-netdev",
        "hubport,id=n0,hubid=0",
        "-device",
        &device,
        "-d",
        QEMU_TRACE,
        "-D",
        log,
    ];
    let config = VmConfig::new("trace-qemu").root_port();
    drive(stage, config.qemu_args(&arguments))
}

/// What both guests do.
fn drive(stage: &Stage<'_>, config: VmConfig) -> Result<()> {
    let vm = stage.start(config)?;
    let agent = vm.agent();
    agent.load_module("igb", "")?;
    let links = agent.links_of("igb")?;
    let name = &links.first().context("igb made no interface")?.name;
    agent.link_up(name)?;
    agent.wait_link(name, Some(true), LINK_LIMIT)?;
    agent.link_down(name)?;
    agent.unload_module("igb")?;
    vm.shutdown()
}

fn compare(stage: &Stage<'_>, report: &mut Report, ours: &Path, theirs: &Path) -> Result<()> {
    let program = stage.programs.join("vfio-user-device");
    let diff = |a: &Path, b: &Path, more: &[&str]| -> Result<(Option<i32>, Value)> {
        let output = Command::new(&program)
            .arg("--trace-diff")
            .args([a, b])
            .args(["--json"])
            .args(more)
            .output()
            .with_context(|| format!("run {}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.stdout.is_empty(),
            "the traces cannot be compared: {said}"
        );
        Ok((
            output.status.code(),
            serde_json::from_slice(&output.stdout)?,
        ))
    };
    for (name, trace) in [("our card", ours), ("QEMU's card", theirs)] {
        let (code, itself) = diff(trace, trace, &[])?;
        report.check(
            format!("vm/trace-diff/the trace of {name} is the same as itself"),
            code == Some(0) && itself["same"] == true,
            format!("{} accesses", itself["same_accesses"]),
        );
    }
    // When interrupts come is a matter of time.
    let (code, found) = diff(ours, theirs, &["--ignore", "interrupts"])?;
    let differences = found["differences"].as_array().context("differences")?;
    let first = differences.first().map(|first| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lines = |key: &str| {
            let lines = first[key].as_array().into_iter().flatten().take(3);
            lines.map(text).collect::<Vec<_>>().join(" | ")
        };
        format!(
            "{}; ours: {}; QEMU's: {}",
            text(&first["summary"]),
            lines("a"),
            lines("b")
        )
    });
    report.check(
        "vm/trace-diff/the first difference between the cards is shown",
        code == Some(1) && first.is_some(),
        first.unwrap_or_else(|| "there is none".to_owned()),
    );
    // What is known to differ: another EEPROM image, and words of status in which QEMU sets bits that
    // mean nothing to the driver (docs/differences-from-qemu-igb.md).
    let known = ["interrupts", "EERD", "EECD", "STATUS", "GCR"];
    let known: Vec<_> = known.iter().flat_map(|name| ["--ignore", name]).collect();
    let (_, found) = diff(ours, theirs, &known)?;
    let differences = found["differences"].as_array().context("differences")?;
    let same = found["same_accesses"].as_f64().unwrap_or_default();
    let compared = found["compared"][0].as_f64().unwrap_or_default().max(1.0);
    let share = 100.0 * same / compared;
    report.measured(
        "vm/trace-diff/igb does the same on both cards",
        share >= ALIKE,
        (share, "%"),
        format!(
            "{same} of {compared} accesses on our card and {} on QEMU's; {} differences: {}",
            found["compared"][1],
            differences.len(),
            differences
                .iter()
                .filter_map(|difference| difference["summary"].as_str())
                .take(30)
                .collect::<Vec<_>>()
                .join("; ")
        ),
    );
    Ok(())
}
