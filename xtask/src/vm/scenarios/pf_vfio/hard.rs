//! Windows until there is no room, over and over, and what was written in them.

use std::time::Duration;

use anyhow::{Context, Result};

use super::guest::{Guest, LONG, TOKEN, WINDOWS};
use crate::report::Report;

/// An emulated IOMMU is told of each window that is closed.
const LIMIT: Duration = Duration::from_secs(20 * 60);

impl Guest {
    /// Which pages were written, as this kernel tells.
    pub(super) fn dirty_pages(&self, report: &mut Report) -> Result<()> {
        let script = format!("exec {WINDOWS} dirty vfio:{}", self.pf);
        let done = self.agent().exec(&["sh", "-c", &script], LONG)?;
        let said = format!("{}{}", done.stdout.trim(), done.stderr.trim());
        let name = "dirty pages are told of whole windows while they are tracked, and else refused";
        self.check(report, name, done.code == 0, said);
        Ok(())
    }

    /// Where the card's interrupts go to is the kernel's to say.
    pub(super) fn msix_table(&self, report: &mut Report) -> Result<()> {
        let script = format!("exec {WINDOWS} table vfio:{}", self.pf);
        let done = self.agent().exec(&["sh", "-c", &script], LONG)?;
        let said = format!("{}{}", done.stdout.trim(), done.stderr.trim());
        let name = "the MSI-X table is neither read nor written";
        self.check(report, name, done.code == 0, said);
        Ok(())
    }

    /// Opening and closing windows, and more of them than the kernel gives.
    pub(super) fn windows(&self, report: &mut Report) -> Result<()> {
        let place = format!("vfio:{}", self.pf);
        // Windows take neither files nor mappings of the process: it has few of both.
        let few = "ulimit -n 32; echo 100 > /proc/sys/vm/max_map_count";
        let pages = "echo 4 > /proc/sys/vm/nr_hugepages";
        let enough = self.agent().read_text("/proc/sys/vm/max_map_count")?;
        self.shell(pages)?;
        // Without privileges locked memory is counted: a window that stays would be seen in it, and
        // soon have used up the limit.
        let group = self.link(&self.pf, "iommu_group")?.context("no group")?;
        let node = format!("/dev/vfio/{group}");
        self.agent().run(&["chown", "1000", &node], LONG)?;
        let cycles = format!("ulimit -l 4096; exec su user -c '{WINDOWS} cycles {place}'");
        let limit = format!("{few}; exec {WINDOWS} limit {place}");
        let files = format!("{few}; exec {WINDOWS} files {place}");
        for (script, behaviour) in [
            (cycles, "10000 windows opened and closed leak nothing"),
            (
                files,
                "windows of many files, and what is no memory for one is explained",
            ),
            (
                limit,
                "65535 windows of one file take neither files nor mappings, and one more is explained",
            ),
        ] {
            let done = self.agent().exec(&["sh", "-c", &script], LIMIT)?;
            let said = format!("{}{}", done.stdout.trim(), done.stderr.trim());
            self.check(report, behaviour, done.code == 0, said);
        }
        let enough = format!("echo {} > /proc/sys/vm/max_map_count", enough.trim());
        self.shell(&enough)?;
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
