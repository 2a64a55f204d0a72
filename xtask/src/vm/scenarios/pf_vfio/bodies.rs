//! The scenario bodies that run in process and over sockets, on QEMU's igb over the guest's VFIO.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::guest::{Guest, TOKEN};
use crate::report::Report;
use crate::vm::build_static_example;
use crate::vm::scenario::Stage;

const PROGRAM: &str = "/usr/bin/on_kernel_vfio";
/// All of them, each with a PF that is reset and negotiates its link anew.
const PATIENCE: Duration = Duration::from_secs(25 * 60);

pub(in super::super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let program = build_static_example("tandem-tests", "on_kernel_vfio")?;
    let more = |config: crate::vm::VmConfig| Ok(config.cpus(2).file(PROGRAM, &program));
    super::in_a_guest(stage, "scenarios-vfio", more, report, |guest, report| {
        guest.load_vfio()?;
        guest.allow_vfs()?;
        guest.bodies(report)
    })
}

impl Guest {
    fn bodies(&self, report: &mut Report) -> Result<()> {
        let command = format!("exec {PROGRAM} vfio:{},vf_token={TOKEN}", self.pf);
        let done = self.agent().exec(&["sh", "-c", &command], PATIENCE)?;
        let mut bodies = 0;
        for line in done.stdout.lines() {
            let Some((verdict, rest)) = line.split_once(' ') else {
                continue;
            };
            match verdict {
                "ok" | "FAIL" => {
                    let (name, detail) = rest.split_once(' ').unwrap_or((rest, ""));
                    self.check(report, name, verdict == "ok", detail);
                    bodies += 1;
                }
                "n/a" => {
                    let (name, reason) = rest.split_once(": ").unwrap_or((rest, ""));
                    report.not_applicable(self.name(name), reason);
                }
                _ => {}
            }
        }
        ensure!(bodies > 0, "no body ran: {}{}", done.stdout, done.stderr);
        if done.code != 0 {
            eprintln!("{}\n{}", done.stdout, done.stderr);
        }
        Ok(())
    }
}
