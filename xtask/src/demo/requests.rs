//! What VFs ask for: requests that the PF driver grants, and those that it or the card refuses.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::traffic::{mac_of, seen, send_raw, test_frame};
use super::{Demo, VF0_VLAN};
use crate::rig::{CALL_LIMIT, Rig, vf_address};

/// A request and its verdict, for the table.
pub(super) struct Verdict {
    pub(super) who: &'static str,
    pub(super) what: String,
    pub(super) verdict: String,
}

/// A multicast address of the documentation range.
const GROUP: &str = "01:00:5e:00:52:76";
/// A MAC address that VF1 chooses for itself.
const CHOSEN_MAC: &str = "02:82:57:60:01:01";

/// Send one request of VF `vf`; its status and reason.
fn request(rig: &Rig, vf: u16, what: &str, value: &Value) -> anyhow::Result<(String, String)> {
    let answer = rig.vf_control(vf).call(
        &json!({"op": "request", "what": what, "value": value}),
        CALL_LIMIT,
    )?;
    let status = answer["status"]
        .as_str()
        .context("no status in the answer")?
        .to_owned();
    let reason = answer["reason"].as_str().unwrap_or_default().to_owned();
    Ok((status, reason))
}

impl Demo {
    /// One request as one check: it holds if the status is one of `expected`.
    fn ask(
        &mut self,
        vf: u16,
        name: &str,
        (what, value): (&str, Value),
        expected: &[&str],
    ) -> bool {
        let who = ["vf0", "vf1", "vf2"][usize::from(vf)];
        match request(&self.rig, vf, what, &value) {
            Ok((status, reason)) => {
                let verdict = if reason.is_empty() {
                    status.clone()
                } else {
                    format!("{status}: {reason}")
                };
                self.verdicts.push(Verdict {
                    who,
                    what: format!("{what} {value}"),
                    verdict: verdict.clone(),
                });
                self.report
                    .check(name, expected.contains(&status.as_str()), verdict)
            }
            Err(error) => self.report.check(name, false, format!("{error:#}")),
        }
    }
}

pub(super) fn granted(demo: &mut Demo) -> anyhow::Result<()> {
    demo.ask(1, "granted: mac", ("mac", json!(CHOSEN_MAC)), &["ok"]);
    let outcome = || -> anyhow::Result<String> {
        let rig = &demo.rig;
        let mac = mac_of(&rig.vf_control(1))?;
        ensure!(mac == CHOSEN_MAC, "vf1 says it is {mac}");
        rig.reaches(&rig.vf_control(1), &vf_address(0))?;
        Ok(format!("vf1 is {CHOSEN_MAC} and reaches vf0"))
    }();
    demo.report.outcome("the granted mac is in force", outcome);

    demo.ask(0, "granted: vlan", ("vlan", json!(VF0_VLAN)), &["ok"]);
    demo.ask(
        0,
        "granted: vlan given back",
        ("del-vlan", json!(VF0_VLAN)),
        &["ok"],
    );
    demo.ask(
        1,
        "granted: multicast",
        ("multicast", json!([GROUP])),
        &["ok"],
    );
    let outcome = || -> anyhow::Result<String> {
        let rig = &demo.rig;
        let sender = rig.vf_control(0);
        let source = mac_of(&sender)?;
        send_raw(&sender, &test_frame(GROUP, &source, 2), 3)?;
        rig.reaches(&sender, &vf_address(1))?;
        rig.reaches(&sender, &vf_address(2))?;
        let (member, other) = (
            seen(&rig.vf_control(1), &source, GROUP)?,
            seen(&rig.vf_control(2), &source, GROUP)?,
        );
        ensure!(member == 3, "vf1 joined and saw {member} of 3");
        ensure!(other == 0, "vf2 did not join and saw {other}");
        Ok("the group reaches vf1, which joined, and not vf2".into())
    }();
    demo.report
        .outcome("the granted multicast is in force", outcome);
    demo.ask(1, "granted: mtu", ("mtu", json!(1400)), &["ok"]);
    Ok(())
}

pub(super) fn refused(demo: &mut Demo) -> anyhow::Result<()> {
    const NO: &[&str] = &["denied"];
    demo.ask(1, "refused: promiscuous", ("promisc", json!("unicast")), NO);
    demo.ask(
        0,
        "refused: mac set by the admin",
        ("mac", json!("02:82:57:60:00:99")),
        NO,
    );
    demo.ask(
        0,
        "refused: vlan outside the list",
        ("vlan", json!(VF0_VLAN + 1)),
        NO,
    );
    let spoof = || -> anyhow::Result<String> {
        const FOREIGN: &str = "02:82:57:60:00:66";
        let rig = &demo.rig;
        let (sender, target) = (rig.vf_control(0), rig.vf_control(1));
        let before = spoofed(rig)?;
        send_raw(&sender, &test_frame(&mac_of(&target)?, FOREIGN, 3), 4)?;
        rig.reaches(&sender, &vf_address(1))?;
        let arrived = seen(&target, FOREIGN, &mac_of(&target)?)?;
        ensure!(arrived == 0, "{arrived} spoofed frames arrived");
        let dropped = spoofed(rig)? - before;
        ensure!(
            dropped == 4,
            "the card counts {dropped} spoofed frames of 4"
        );
        Ok("4 frames with a foreign source dropped and counted by the card".into())
    }();
    let verdict = match &spoof {
        Ok(_) => "dropped by the card".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    demo.verdicts.push(Verdict {
        who: "vf0",
        what: "a spoofed source".into(),
        verdict,
    });
    demo.report.outcome("refused: spoofed source", spoof);
    Ok(())
}

/// How many frames of VF0 the card has dropped because their source was not VF0's.
fn spoofed(rig: &Rig) -> anyhow::Result<u64> {
    let stats = rig
        .card_control()
        .call(&json!({"op": "stats"}), CALL_LIMIT)?;
    let functions = stats["functions"]
        .as_array()
        .context("no list of functions")?;
    let vf0 = functions
        .iter()
        .find(|function| function["function"] == "vf0")
        .context("no statistics of vf0")?;
    let drops = vf0["drops"].as_object().context("no drops of vf0")?;
    Ok(drops
        .iter()
        .filter(|(reason, _)| reason.to_lowercase().contains("spoof"))
        .filter_map(|(_, count)| count.as_u64())
        .sum())
}
