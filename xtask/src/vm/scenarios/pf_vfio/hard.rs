//! Windows until there is no room, and over and over.

use std::time::Duration;

use anyhow::{Context, Result};

use super::guest::{Guest, LONG, TOKEN, WINDOWS};
use crate::report::Report;

/// An emulated IOMMU is told of each window that is closed.
const LIMIT: Duration = Duration::from_secs(20 * 60);

impl Guest {
    /// Opening and closing windows, and more of them than the kernel gives.
    pub(super) fn windows(&self, report: &mut Report) -> Result<()> {
        let place = format!("vfio:{}", self.pf);
        // A window is a file and a mapping of the process: neither shall run out first.
        let few = format!("ulimit -n 256; exec {WINDOWS} limit {place}");
        let said = self.refusal(&few)?;
        let taught = said.contains("ulimit -n NUMBER");
        self.check(
            report,
            "a process without files for windows is told",
            taught,
            said,
        );
        let room = "echo 1000000 > /proc/sys/vm/max_map_count; echo 1000000 > /proc/sys/fs/nr_open";
        self.shell(room)?;
        // Without privileges locked memory is counted: a window that stays would be seen in it, and
        // soon have used up the limit.
        let group = self.link(&self.pf, "iommu_group")?.context("no group")?;
        let node = format!("/dev/vfio/{group}");
        self.agent().run(&["chown", "1000", &node], LONG)?;
        let cycles = format!("ulimit -l 4096; exec su user -c '{WINDOWS} cycles {place}'");
        let limit = format!("ulimit -n 200000; exec {WINDOWS} limit {place}");
        for (script, behaviour) in [
            (cycles, "10000 windows opened and closed leak nothing"),
            (
                limit,
                "one window too many is explained, and the rest goes on",
            ),
        ] {
            let done = self.agent().exec(&["sh", "-c", &script], LIMIT)?;
            let said = format!("{}{}", done.stdout.trim(), done.stderr.trim());
            self.check(report, behaviour, done.code == 0, said);
        }
        self.agent().run(&["chown", "0", &node], LONG)?;
        self.allow_vfs()?;
        let vf = self.first_vf()?;
        let both =
            format!("exec {WINDOWS} together {place},vf_token={TOKEN} vfio:{vf},vf_token={TOKEN}");
        let done = self.agent().exec(&["sh", "-c", &both], LIMIT)?;
        let said = format!("{}{}", done.stdout.trim(), done.stderr.trim());
        self.check(
            report,
            "a PF and its VF in one container",
            done.code == 0,
            said,
        );
        Ok(())
    }

    /// Where the first VF will be, seen by having one for a moment.
    fn first_vf(&self) -> Result<String> {
        let job = self.start_pf(1)?;
        let vf = self.vfs()?.into_iter().next().context("no VF")?;
        self.stop(job)?;
        Ok(vf)
    }
}
