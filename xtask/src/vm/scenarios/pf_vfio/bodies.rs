//! The scenario bodies that run in process and over sockets, on QEMU's igb over the guest's VFIO.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::guest::{Guest, TOKEN};
use crate::report::Report;
use crate::vm::build_static_example;
use crate::vm::scenario::Stage;

const PROGRAM: &str = "/usr/bin/on_kernel_vfio";
/// One of them, of which each has a PF that is reset and negotiates its link anew.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

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
        let command = format!(
            "exec {PROGRAM} vfio:{},vf_token={TOKEN} 2>/run/said",
            self.pf
        );
        let job = self.agent().spawn(&["sh", "-c", &command])?;
        let (mut from, mut bodies) = (0, 0);
        loop {
            let output = self.agent().expect(job, "\n", from, PATIENCE)?;
            let Some((line, _)) = output.split_once('\n') else {
                continue;
            };
            from += line.len() + 1;
            let (verdict, rest) = line.split_once(' ').unwrap_or((line, ""));
            match verdict {
                "ok" | "FAIL" => {
                    println!("   scenarios: {line}");
                    let (name, detail) = rest.split_once(' ').unwrap_or((rest, ""));
                    self.check(report, name, verdict == "ok", detail);
                    bodies += 1;
                }
                "n/a" => {
                    let (name, reason) = rest.split_once(": ").unwrap_or((rest, ""));
                    report.not_applicable(self.name(name), reason);
                }
                "end" => break,
                _ => {}
            }
        }
        let done = self.agent().wait(job, PATIENCE)?;
        ensure!(bodies > 0, "no body ran");
        if done.code != 0 {
            eprintln!("{}", self.shell("tail -c 20000 /run/said")?);
        }
        Ok(())
    }
}
