//! VFs that vanish and come back, SR-IOV off, and the end.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::traffic::transfer;
use super::{Demo, VFS};
use crate::appear::{wait_for, wait_gone};
use crate::rig::{CALL_LIMIT, START_LIMIT, STOP_LIMIT, vf_address};

pub(super) fn one_vf(demo: &mut Demo) -> anyhow::Result<()> {
    let bytes = demo.bytes;
    let sibling = demo.rig.vf_control(0);
    let running = std::thread::spawn(move || transfer(&sibling, &vf_address(1), bytes, 11));
    let outcome = torn_down_and_back(demo);
    let siblings = running.join().expect("the transfer does not panic");
    let went_on = siblings
        .map(|transfer| transfer.detail)
        .context("the siblings' transfer broke");
    demo.report
        .outcome("vf2 torn down and brought back", outcome);
    demo.report.outcome("siblings go on meanwhile", went_on);
    Ok(())
}

fn torn_down_and_back(demo: &mut Demo) -> anyhow::Result<String> {
    let rig = &mut demo.rig;
    // The driver crashes: the VF changes hands.
    rig.vf(2)?.crash()?;
    rig.start_vf(2)?;
    rig.reaches(&rig.vf_control(2), &vf_address(0))
        .context("after the crash")?;
    // The hypervisor takes the VF away and the PF driver offers it again.
    let socket = rig.vf_socket(2);
    rig.mediator_control()
        .call(&json!({"op": "revoke", "slot": 2}), CALL_LIMIT)?;
    wait_gone(&socket, STOP_LIMIT)?;
    let driver = rig.vf(2)?;
    if driver.is_running()? {
        driver.stop(STOP_LIMIT)?;
    }
    rig.pf_control()
        .call(&json!({"op": "offer", "vf": 2}), CALL_LIMIT)?;
    wait_for(&socket, START_LIMIT)?;
    rig.start_vf(2)?;
    rig.reaches(&rig.vf_control(2), &vf_address(0))
        .context("after the revoke")?;
    // Asked in good time, the driver lets go by itself, and takes the VF again when it is back.
    let eject = json!({"op": "eject", "slot": 2, "timeout_ms": 8000});
    let answer = rig
        .mediator_control()
        .call(&eject, STOP_LIMIT + CALL_LIMIT)?;
    ensure!(
        answer["graceful"] == true,
        "the driver did not let go: {answer}"
    );
    rig.pf_control()
        .call(&json!({"op": "offer", "vf": 2}), CALL_LIMIT)?;
    rig.reaches(&rig.vf_control(2), &vf_address(0))
        .context("after the eject")?;
    Ok("after SIGKILL of its driver, after a revoke, and after a graceful eject".into())
}

pub(super) fn sriov_off(demo: &mut Demo) -> anyhow::Result<()> {
    let outcome = || -> anyhow::Result<String> {
        let rig = &mut demo.rig;
        rig.pf_control()
            .call(&json!({"op": "vfs", "count": 0}), CALL_LIMIT)?;
        for vf in 0..VFS {
            wait_gone(&rig.nic().join(format!("vf{vf}.sock")), STOP_LIMIT)?;
            wait_gone(&rig.vf_socket(vf), STOP_LIMIT)?;
        }
        let info = rig.pf_control().call(&json!({"op": "info"}), CALL_LIMIT)?;
        ensure!(info["state"] == "up", "the PF is {}", info["state"]);
        Ok("the VFs' sockets went with VF Enable, the PF is up".into())
    }();
    demo.report.outcome("sriov off", outcome);
    Ok(())
}

pub(super) fn orderly_end(demo: &mut Demo) -> anyhow::Result<()> {
    let outcome = || -> anyhow::Result<String> {
        demo.rig.stop_all()?;
        let left: Vec<_> = [
            demo.rig.nic(),
            demo.rig.path().join("bus"),
            demo.rig.path().into(),
        ]
        .iter()
        .flat_map(std::fs::read_dir)
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".sock") || name.ends_with(".ctl"))
        .collect();
        ensure!(left.is_empty(), "sockets left behind: {}", left.join(", "));
        Ok("every program ended with 0 on SIGTERM and removed its sockets".into())
    }();
    demo.report.outcome("orderly end", outcome);
    Ok(())
}
