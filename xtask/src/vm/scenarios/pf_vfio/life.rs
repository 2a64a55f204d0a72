//! What SIGKILL of a driver leaves behind, and that it can be run again.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::guest::{Guest, LONG, OUTSIDE, PF_DRIVER, VF_DRIVER};
use crate::report::Report;

impl Guest {
    /// SIGKILL of the PF's driver, the VF's, or both, and all of it again.
    pub(super) fn killed(&self, report: &mut Report, times: u32) -> Result<()> {
        let path = self.sysfs("sriov_numvfs");
        let mut seen = String::new();
        for round in 0..times {
            let again = || format!("round {round}");
            let pf = self.start_pf(2).with_context(again)?;
            let vf = self.vfs()?.into_iter().next().context("no VF")?;
            let vf = self.start_vf(&vf).with_context(again)?;
            if round == 0 {
                self.ping(VF_DRIVER, OUTSIDE).with_context(again)?;
            }
            match round % 3 {
                0 => {
                    self.kill(pf)?;
                    if seen.is_empty() {
                        let left = self.agent().read_text(&path)?;
                        seen = format!("the kernel keeps {} VFs of a dead PF driver", left.trim());
                    }
                    self.kill(vf)?;
                }
                1 => {
                    self.kill(vf)?;
                    self.stop(pf)?;
                }
                _ => {
                    // The VF's driver is alive: it lets go when the next PF driver takes the VFs away.
                    self.kill(pf)?;
                    let next = self.start_pf(0).with_context(again)?;
                    self.kill(vf)?;
                    self.stop(next)?;
                }
            }
        }
        let said = self.remove_what_is_left(&path);
        self.outcome(report, "VFs of a dead PF driver can be removed", said);
        let job = self.start_pf(0)?;
        self.outcome(
            report,
            &format!("SIGKILL and again, {times} times"),
            self.ping(PF_DRIVER, OUTSIDE)
                .map(|pings| format!("{seen}; {pings}")),
        );
        self.stop(job).map(drop)
    }

    /// The PF's driver dies under a VF's: what the kernel does, and that all is well once the next PF
    /// driver runs.
    pub(super) fn pf_crash(&self, report: &mut Report) -> Result<()> {
        let pf = self.start_pf(1)?;
        let vf = self.vfs()?.into_iter().next().context("no VF")?;
        let vf = self.start_vf(&vf)?;
        self.ping(VF_DRIVER, OUTSIDE)?;
        self.kill(pf)?;
        let kept = self.agent().read_text(&self.sysfs("sriov_numvfs"))?;
        let alone = match self.ping(VF_DRIVER, OUTSIDE) {
            Ok(pings) => format!("its frames go on ({pings})"),
            Err(_) => "no frame comes through, the PF was reset".to_owned(),
        };
        let next = self.start_pf(1)?;
        let back = self.agent().expect(vf, "vf is back", 0, LONG);
        let seen = back.and_then(|_| self.ping(VF_DRIVER, OUTSIDE));
        let detail =
            |pings: String| format!("the kernel kept {} VFs; {alone}; then {pings}", kept.trim());
        let name = "a VF's driver outlives the PF's and goes on under the next";
        self.outcome(report, name, seen.map(detail));
        self.stop(vf)?;
        self.stop(next).map(drop)
    }

    /// The same with a state file: the next PF driver adopts the VF, though the kernel has reset the PF.
    pub(super) fn adoption(&self, report: &mut Report) -> Result<()> {
        let command = self.pf_command("--vfs 1 --state /run/pf.state");
        let pf = self.start_driver(&command, "link is up")?;
        let vf = self.vfs()?.into_iter().next().context("no VF")?;
        let vf = self.start_vf(&vf)?;
        self.ping(VF_DRIVER, OUTSIDE)?;
        self.kill(pf)?;
        let next = self.start_driver(&command, "link is up")?;
        let adopted = self.ctl(PF_DRIVER, &["info"])?["adopted"].clone();
        // The VF's driver finds by itself that it was reset, and begins anew.
        let mut seen = self.ping(VF_DRIVER, OUTSIDE);
        for _ in 0..4 {
            if seen.is_ok() {
                break;
            }
            seen = self.ping(VF_DRIVER, OUTSIDE);
        }
        let detail = |pings: String| format!("adopted: {adopted}; {pings}");
        let name = "VFs of a killed PF driver with a state file go on under the next";
        self.outcome(report, name, seen.map(detail));
        self.stop(vf)?;
        self.stop(next).map(drop)
    }

    /// A VF's driver stands still and lets go of nothing, although the kernel wants the VF back.
    pub(super) fn vf_never_released(&self, report: &mut Report) -> Result<()> {
        let pf = self.start_pf(1)?;
        let vf = self.vfs()?.into_iter().next().context("no VF")?;
        let group = self.link(&vf, "iommu_group")?.context("no group")?;
        let vf = self.start_vf(&vf)?;
        self.agent().signal(vf, Signal::SIGSTOP)?;
        let answer = self.ctl(PF_DRIVER, &["vfs", "0"]);
        let said = answer.map_or_else(|error| format!("{error:#}"), |answer| answer.to_string());
        self.agent().signal(vf, Signal::SIGCONT)?;
        let taught = said.contains(&format!("fuser /dev/vfio/{group}"));
        self.check(
            report,
            "a VF that its user keeps is explained, in bounded time",
            taught,
            said,
        );
        self.agent().expect(vf, "vf is gone", 0, LONG)?;
        let gone = self.ctl(PF_DRIVER, &["vfs", "0"]);
        let left = self.vfs()?;
        let name = "it goes once its user lets go of it";
        let detail = format!("{gone:?}, {left:?}");
        self.check(report, name, gone.is_ok() && left.is_empty(), detail);
        self.stop(vf)?;
        self.stop(pf).map(drop)
    }

    fn remove_what_is_left(&self, path: &str) -> Result<String> {
        let job = self.start_pf(2)?;
        self.kill(job)?;
        let left = self.agent().read_text(path)?;
        let unbind = format!("{PF_DRIVER} unbind {}", self.pf);
        let taught = self.refusal(&unbind)?;
        ensure!(taught.contains("echo 0 > "), "{taught}");
        self.agent().write_file(path, b"0", 0o644)?;
        let vfs = self.vfs()?;
        ensure!(vfs.is_empty(), "{vfs:?} stay");
        Ok(format!("{} of them, by writing 0 to {path}", left.trim()))
    }
}
