//! SIGKILL of each program in mid traffic: no other one crashes or hangs, each says what it lost,
//! and serves again when the peer is back.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use crate::appear::wait_gone;
use crate::control::Control;
use crate::demo::transfer;
use crate::rig::{CALL_LIMIT, PF_ADDRESS, Rig, STOP_LIMIT, vf_address};

/// Bytes of a transfer that is to be under way when a program is killed.
const MID_TRAFFIC: u64 = 24 << 20;
/// How long the others may take to notice a loss.
const NOTICE_LIMIT: Duration = Duration::from_secs(10);

/// A transfer from `from`'s stack in the background.
fn traffic(from: Control, to: String) -> JoinHandle<anyhow::Result<String>> {
    std::thread::spawn(move || transfer(&from, &to, MID_TRAFFIC, 3).map(|done| done.detail))
}

fn finish(running: JoinHandle<anyhow::Result<String>>, whose: &str) -> anyhow::Result<String> {
    let outcome = running.join().expect("a transfer does not panic");
    outcome.with_context(|| format!("the transfer of {whose} broke"))
}

/// Wait until the receiver has seen some of the traffic: then it is under way.
fn under_way(receiver: &Control) -> anyhow::Result<()> {
    let packets = |control: &Control| -> anyhow::Result<u64> {
        let stats = control.call(&json!({"op": "stats"}), CALL_LIMIT)?;
        stats["counters"]["rx_packets"]
            .as_u64()
            .context("no counter rx_packets")
    };
    let first = packets(receiver)?;
    let end = Instant::now() + NOTICE_LIMIT;
    while packets(receiver)? < first + 200 {
        ensure!(
            Instant::now() < end,
            "no traffic arrives at {}",
            receiver.path().display()
        );
    }
    Ok(())
}

/// Every program that is left must be alive.
fn all_alive(rig: &mut Rig, but: &str) -> anyhow::Result<()> {
    for program in rig.programs() {
        if program.name() != but && !program.is_running()? {
            bail!(
                "{} died of the loss of {but}:\n{}",
                program.name(),
                program.tail()
            );
        }
    }
    Ok(())
}

pub(super) fn vf_driver(rig: &mut Rig) -> anyhow::Result<String> {
    rig.start_all()?;
    let siblings = traffic(rig.vf_control(0), PF_ADDRESS.into());
    let victim = traffic(rig.vf_control(1), vf_address(2));
    under_way(&rig.vf_control(2))?;
    let mediator = rig.mediator()?.mark();
    rig.vf(1)?.crash()?;
    rig.mediator()?
        .wait_for_line(mediator, "VF 1: its guest has left", NOTICE_LIMIT)?;
    ensure!(
        victim.join().expect("no panic").is_err(),
        "a killed driver's transfer cannot end well"
    );
    let detail = finish(siblings, "the siblings")?;
    all_alive(rig, "vf1")?;
    rig.start_vf(1)?;
    rig.reaches(&rig.vf_control(1), &vf_address(2))?;
    finish(traffic(rig.vf_control(1), vf_address(2)), "the new driver")?;
    rig.stop_all()?;
    Ok(format!("siblings' {detail}; the next driver is served"))
}

pub(super) fn pf_driver_within_grace(rig: &mut Rig) -> anyhow::Result<String> {
    rig.start_all()?;
    let siblings = traffic(rig.vf_control(0), vf_address(1));
    under_way(&rig.vf_control(1))?;
    let (card, mediator) = (rig.card()?.mark(), rig.mediator()?.mark());
    rig.pf()?.crash()?;
    rig.card()?.wait_for_line(card, "PF", NOTICE_LIMIT)?;
    rig.mediator()?
        .wait_for_line(mediator, "PF", NOTICE_LIMIT)?;
    let answer = rig.vf_control(0).call(
        &json!({"op": "request", "what": "mtu", "value": 1400}),
        CALL_LIMIT,
    )?;
    ensure!(
        answer["status"] == "pf-gone",
        "a request without a PF is answered {answer}"
    );
    let detail = finish(siblings, "the VFs")?;
    all_alive(rig, "pf")?;
    rig.start_pf()?;
    rig.reaches(&rig.vf_control(0), PF_ADDRESS)?;
    rig.reaches(&rig.vf_control(0), &vf_address(1))?;
    let end = Instant::now() + NOTICE_LIMIT;
    loop {
        let answer = rig.vf_control(0).call(
            &json!({"op": "request", "what": "mtu", "value": 1400}),
            CALL_LIMIT,
        )?;
        if answer["status"] == "ok" {
            break;
        }
        ensure!(Instant::now() < end, "requests are still answered {answer}");
    }
    rig.stop_all()?;
    Ok(format!(
        "VF to VF went on without it ({detail}); it adopted its VFs"
    ))
}

pub(super) fn pf_driver_after_grace(rig: &mut Rig) -> anyhow::Result<String> {
    rig.start_all()?;
    let traffic = traffic(rig.vf_control(0), vf_address(1));
    under_way(&rig.vf_control(1))?;
    let marks = [rig.vf(0)?.mark(), rig.vf(1)?.mark()];
    rig.pf()?.crash()?;
    for vf in 0..2 {
        wait_gone(&rig.nic().join(format!("vf{vf}.sock")), NOTICE_LIMIT)?;
        wait_gone(&rig.vf_socket(vf), NOTICE_LIMIT)?;
        rig.vf(vf)?
            .wait_for_line(marks[usize::from(vf)], "gone", NOTICE_LIMIT)?;
    }
    // Surprise removal may catch the transfer at any point; that it ends is what counts.
    let _ = traffic.join();
    all_alive(rig, "pf")?;
    rig.start_pf()?;
    rig.reaches(&rig.vf_control(0), &vf_address(1))?;
    rig.reaches(&rig.vf_control(1), PF_ADDRESS)?;
    rig.stop_all()?;
    Ok("the VFs were removed after the grace time and came back with the PF driver".into())
}

pub(super) fn mediator(rig: &mut Rig) -> anyhow::Result<String> {
    rig.start_all()?;
    let traffic = traffic(rig.vf_control(0), vf_address(1));
    under_way(&rig.vf_control(1))?;
    let marks = [rig.vf(0)?.mark(), rig.vf(1)?.mark()];
    let pf = rig.pf()?.mark();
    rig.mediator()?.crash()?;
    rig.pf()?.wait_for_line(pf, "mediator", NOTICE_LIMIT)?;
    for vf in 0..2 {
        rig.vf(vf)?
            .wait_for_line(marks[usize::from(vf)], "gone", NOTICE_LIMIT)?;
    }
    let _ = traffic.join();
    all_alive(rig, "mediator")?;
    rig.start_mediator()?;
    rig.reaches(&rig.vf_control(0), &vf_address(1))?;
    rig.reaches(&rig.vf_control(1), PF_ADDRESS)?;
    rig.stop_all()?;
    Ok("PF driver and VF drivers found the new mediator".into())
}

pub(super) fn card(rig: &mut Rig) -> anyhow::Result<String> {
    rig.start_all()?;
    let traffic = traffic(rig.vf_control(0), vf_address(1));
    under_way(&rig.vf_control(1))?;
    let marks = [rig.vf(0)?.mark(), rig.vf(1)?.mark()];
    let pf = rig.pf()?.mark();
    rig.card()?.crash()?;
    rig.pf()?.wait_for_line(pf, "gone", NOTICE_LIMIT)?;
    for vf in 0..2 {
        rig.vf(vf)?
            .wait_for_line(marks[usize::from(vf)], "gone", NOTICE_LIMIT)?;
        wait_gone(&rig.vf_socket(vf), STOP_LIMIT)?;
    }
    let _ = traffic.join();
    all_alive(rig, "card")?;
    rig.start_card()?;
    rig.reaches(&rig.vf_control(0), &vf_address(1))?;
    rig.reaches(&rig.vf_control(1), PF_ADDRESS)?;
    rig.stop_all()?;
    Ok("PF driver, mediator and VF drivers found the new card".into())
}
