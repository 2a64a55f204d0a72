//! Traffic: TCP by hash, a broadcast, a VLAN that separates, a DMA outside the domain.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::Demo;
use crate::control::Control;
use crate::rig::{CALL_LIMIT, PF_ADDRESS, Rig, vf_address};

/// A transfer may take this long; it is a bound against a hang, not an expectation.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);
/// The ethertype of test frames (IEEE 802 local experimental), which the drivers' stacks count.
pub(super) const TEST_ETHERTYPE: &str = "88b5";
const BROADCAST: &str = "ff:ff:ff:ff:ff:ff";

/// What a TCP transfer gave.
pub(crate) struct Transfer {
    pub(crate) mebibytes_per_second: f64,
    pub(crate) detail: String,
}

/// Send `bytes` over TCP from the stack behind `from` to `address`, and compare the hashes.
pub(crate) fn transfer(
    from: &Control,
    address: &str,
    bytes: u64,
    seed: u64,
) -> anyhow::Result<Transfer> {
    let answer = from.call(
        &json!({"op": "send", "addr": address, "bytes": bytes, "seed": seed}),
        TRANSFER_LIMIT,
    )?;
    let sent = answer["sha256_sent"]
        .as_str()
        .context("no hash of what was sent")?;
    let arrived = answer["sha256_peer"]
        .as_str()
        .context("no hash from the peer")?;
    ensure!(
        answer["bytes"] == bytes,
        "{} of {bytes} bytes were sent",
        answer["bytes"]
    );
    ensure!(
        sent == arrived,
        "the peer received other bytes: {arrived}, not {sent}"
    );
    let seconds = answer["seconds"].as_f64().context("no duration")?;
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    Ok(Transfer {
        mebibytes_per_second: mebibytes / seconds.max(1e-9),
        detail: format!(
            "{mebibytes:.0} MiB, SHA-256 {}",
            &sent[..16.min(sent.len())]
        ),
    })
}

pub(super) fn tcp(demo: &mut Demo) -> anyhow::Result<()> {
    let pairs = [
        ("tcp vf0 to vf1", demo.rig.vf_control(0), vf_address(1)),
        (
            "tcp vf1 to pf",
            demo.rig.vf_control(1),
            PF_ADDRESS.to_owned(),
        ),
    ];
    for (seed, (name, from, to)) in pairs.into_iter().enumerate() {
        match transfer(&from, &to, demo.bytes, seed as u64) {
            Ok(Transfer {
                mebibytes_per_second,
                detail,
            }) => {
                demo.report
                    .measured(name, true, (mebibytes_per_second, "MiB/s"), detail);
            }
            Err(error) => {
                demo.report.check(name, false, format!("{error:#}"));
            }
        }
    }
    Ok(())
}

/// A test frame as hex: destination, source, test ethertype and `mark` in its payload.
pub(super) fn test_frame(destination: &str, source: &str, mark: u8) -> String {
    let plain = |mac: &str| mac.replace(':', "");
    let payload = format!("{mark:02x}").repeat(46);
    format!(
        "{}{}{TEST_ETHERTYPE}{payload}",
        plain(destination),
        plain(source)
    )
}

/// The MAC address of the function behind `control`.
pub(super) fn mac_of(control: &Control) -> anyhow::Result<String> {
    let info = control.call(&json!({"op": "info"}), CALL_LIMIT)?;
    Ok(info["mac"]
        .as_str()
        .context("no MAC address in info")?
        .to_owned())
}

pub(super) fn send_raw(from: &Control, frame: &str, count: u64) -> anyhow::Result<()> {
    from.call(
        &json!({"op": "raw", "frame": frame, "count": count}),
        CALL_LIMIT,
    )?;
    Ok(())
}

/// How many test frames from `source` to `destination` the function has seen; counting starts anew.
pub(super) fn seen(control: &Control, source: &str, destination: &str) -> anyhow::Result<u64> {
    let answer = control.call(&json!({"op": "seen", "reset": true}), CALL_LIMIT)?;
    let frames = answer["frames"].as_array().context("no list of frames")?;
    Ok(frames
        .iter()
        .filter(|frame| frame["src"] == source && frame["dst"] == destination)
        .filter_map(|frame| frame["count"].as_u64())
        .sum())
}

pub(super) fn broadcast(demo: &mut Demo) -> anyhow::Result<()> {
    const COUNT: u64 = 5;
    let outcome = || -> anyhow::Result<String> {
        let rig = &demo.rig;
        let sender = rig.vf_control(0);
        let source = mac_of(&sender)?;
        send_raw(&sender, &test_frame(BROADCAST, &source, 1), COUNT)?;
        for address in [vf_address(1), vf_address(2), PF_ADDRESS.to_owned()] {
            rig.reaches(&sender, &address)?;
        }
        for (name, control) in [
            ("vf1", rig.vf_control(1)),
            ("vf2", rig.vf_control(2)),
            ("pf", rig.pf_control()),
        ] {
            let count = seen(&control, &source, BROADCAST)?;
            ensure!(count == COUNT, "{name} saw {count} of {COUNT}");
        }
        let own = seen(&sender, &source, BROADCAST)?;
        ensure!(own == 0, "the sender got {own} of its own frames back");
        Ok(format!(
            "{COUNT} frames reached vf1, vf2 and pf, none came back to vf0"
        ))
    }();
    demo.report.outcome("broadcast", outcome);
    Ok(())
}

/// Set one attribute of a VF through the PF driver, as `ip link set PF vf N` would.
pub(super) fn set_vf(rig: &Rig, vf: u16, what: &str, value: Value) -> anyhow::Result<()> {
    let request = json!({"op": "vf", "vf": vf, "set": what, "value": value});
    rig.pf_control().call(&request, CALL_LIMIT)?;
    Ok(())
}

pub(super) fn vlan_separates(demo: &mut Demo) -> anyhow::Result<()> {
    let outcome = || -> anyhow::Result<String> {
        let rig = &demo.rig;
        let (vf0, vf1) = (rig.vf_control(0), rig.vf_control(1));
        set_vf(rig, 2, "vlan", json!(300))?;
        let across = rig.ping_within(&vf0, &vf_address(2), 5, 100)?;
        ensure!(
            across["received"] == 0,
            "vf0 reaches vf2 across the VLAN: {across}"
        );
        rig.reaches(&vf0, &vf_address(1))
            .context("vf0 and vf1 share a LAN")?;
        set_vf(rig, 1, "vlan", json!(300))?;
        rig.reaches(&vf1, &vf_address(2))
            .context("vf1 and vf2 share VLAN 300")?;
        set_vf(rig, 1, "vlan", json!(0))?;
        set_vf(rig, 2, "vlan", json!(0))?;
        rig.reaches(&vf0, &vf_address(2))
            .context("vf2 is back from the VLAN")?;
        Ok("vf2 in VLAN 300 was out of vf0's reach, met vf1 there, and came back".into())
    }();
    demo.report.outcome("vlan separates", outcome);
    Ok(())
}

/// Ask the card until it has recorded a fault of `function`; all faults, and that one.
fn fault_of(rig: &Rig, function: &str) -> anyhow::Result<(Vec<Value>, Value)> {
    let end = Instant::now() + CALL_LIMIT;
    loop {
        let stats = rig
            .card_control()
            .call(&json!({"op": "stats"}), CALL_LIMIT)?;
        let faults = stats["faults"].as_array().context("no list of faults")?;
        if let Some(fault) = faults.iter().find(|fault| fault["function"] == function) {
            return Ok((faults.clone(), fault.clone()));
        }
        ensure!(
            Instant::now() < end,
            "the card recorded no fault of {function}: {faults:?}"
        );
    }
}

pub(super) fn dma_fault(demo: &mut Demo) -> anyhow::Result<()> {
    let outcome = || -> anyhow::Result<(String, Value)> {
        let rig = &demo.rig;
        let bytes = demo.bytes / 4;
        let sibling = rig.vf_control(0);
        let running = std::thread::spawn(move || transfer(&sibling, &vf_address(1), bytes, 7));
        let request = json!({"op": "misbehave", "what": "descriptor-outside"});
        rig.vf_control(2).call(&request, CALL_LIMIT)?;
        let went_on = running.join().expect("the transfer does not panic");
        let (faults, fault) = fault_of(rig, "vf2")?;
        if let Some(other) = faults.iter().find(|fault| fault["function"] != "vf2") {
            bail!("a fault of another function: {other}");
        }
        went_on.context("the siblings' transfer broke")?;
        rig.vf_control(2)
            .call(&json!({"op": "reset"}), CALL_LIMIT)?;
        rig.reaches(&rig.vf_control(2), &vf_address(0))
            .context("vf2 after its reset")?;
        let word = |name: &str| fault[name].as_str().unwrap_or("?");
        let detail = format!(
            "{} at {} ({}), siblings went on",
            word("function"),
            word("iova"),
            word("cause")
        );
        Ok((detail, fault))
    }();
    match outcome {
        Ok((detail, fault)) => {
            demo.fault = Some(fault);
            demo.report
                .check("dma fault stays with its vf", true, detail);
        }
        Err(error) => {
            demo.report
                .check("dma fault stays with its vf", false, format!("{error:#}"));
        }
    }
    Ok(())
}
