//! Where the programs run as somebody without privileges: a directory that such a uid can reach,
//! with copies of what it runs.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::report::Report;
use crate::rig::PROGRAMS;

/// The uid and gid that root gives itself up for: nobody's.
const NOBODY: u32 = 65534;

/// A staged set of programs.
#[derive(Debug)]
pub(super) struct Stage {
    directory: TempDir,
    unprivileged: Option<u32>,
}

impl Stage {
    /// Copy the programs, and this one, to where they can be run.
    pub(super) fn new(programs: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("tandem-stage-").tempdir()?;
        let unprivileged = geteuid().is_root().then_some(NOBODY);
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))?;
        let own = std::env::current_exe().context("finding this program")?;
        let sources = PROGRAMS.iter().map(|name| (programs.join(name), *name));
        for (source, name) in sources.chain([(own, "xtask")]) {
            std::fs::copy(&source, directory.path().join(name))
                .with_context(|| format!("copying {}", source.display()))?;
        }
        let results = directory.path().join("results");
        std::fs::create_dir(&results)?;
        if let Some(uid) = unprivileged {
            chown(&results, Some(uid), Some(uid)).context("giving the results away")?;
        }
        Ok(Self {
            directory,
            unprivileged,
        })
    }

    /// Where the programs lie.
    pub(super) fn programs(&self) -> &Path {
        self.directory.path()
    }

    /// As whom the programs run.
    pub(super) fn identity(&self) -> String {
        let uid = self.unprivileged.unwrap_or_else(|| geteuid().as_raw());
        format!("as uid {uid}")
    }

    fn result(&self, name: &str) -> PathBuf {
        self.directory
            .path()
            .join("results")
            .join(format!("{name}.json"))
    }

    fn command(&self, arguments: &[&str], name: &str) -> Command {
        let mut command = Command::new(self.directory.path().join("xtask"));
        command
            .args(arguments)
            .arg("--programs")
            .arg(self.directory.path())
            .arg("--json")
            .arg(self.result(name))
            .env("TMPDIR", self.result(name).parent().expect("results"))
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some(uid) = self.unprivileged {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Run this program with `arguments`, and take its checks into `report` under `prefix`.
    pub(super) fn run(
        &self,
        arguments: &[&str],
        prefix: &str,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let mut command = self.command(arguments, prefix);
        let status = command
            .status()
            .with_context(|| format!("running xtask {arguments:?}"))?;
        let text = std::fs::read(self.result(prefix)).with_context(|| {
            format!("xtask {arguments:?} ended with {status} and left no report")
        })?;
        let inner: Report = serde_json::from_slice(&text).context("reading its report")?;
        let passed = inner.passed() || inner.checks.is_empty();
        for mut check in inner.checks {
            check.name = format!("{prefix}::{}", check.name);
            report.checks.push(check);
        }
        for mut skipped in inner.not_applicable {
            skipped.name = format!("{prefix}::{}", skipped.name);
            report.not_applicable.push(skipped);
        }
        if passed && !status.success() {
            bail!("xtask {arguments:?} ended with {status} although its checks passed");
        }
        self.check_left_behind(prefix, report);
        Ok(())
    }

    /// Run a test binary of cargo's as the unprivileged uid. Where everything runs without
    /// privileges anyway, cargo has done so already.
    pub(super) fn run_tests(
        &self,
        binary: &Path,
        filter: &str,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let Some(uid) = self.unprivileged else {
            return Ok(());
        };
        let name = format!("sockets as uid {uid}");
        let copy = self.directory.path().join("sockets");
        std::fs::copy(binary, &copy).with_context(|| format!("copying {}", binary.display()))?;
        let output = Command::new(&copy)
            .arg(filter)
            .env("TMPDIR", self.directory.path().join("results"))
            .current_dir("/")
            .stdin(Stdio::null())
            .uid(uid)
            .gid(uid)
            .output()
            .with_context(|| format!("running {}", copy.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{}", text.lines().last().unwrap_or("no output"));
        let mut reader = super::libtest::Reader::named(&name);
        text.lines().for_each(|line| reader.line(line, report));
        if !output.status.success() || reader.summaries() == 0 {
            report.check(&name, false, text.into_owned());
        }
        self.check_left_behind(&name, report);
        Ok(())
    }

    /// Run the demo `times` times, `at_once` of them together; one check for all.
    pub(super) fn repeat_demo(
        &self,
        times: usize,
        at_once: usize,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        for first in (0..times).step_by(at_once) {
            let running: Vec<_> = (first..(first + at_once).min(times))
                .map(|number| {
                    let name = format!("demo-{number}");
                    let mut command = self.command(&["demo"], &name);
                    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
                    output.map(|child| (name, child)).context("starting a demo")
                })
                .collect::<anyhow::Result<_>>()?;
            for (name, child) in running {
                let output = child.wait_with_output()?;
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    failed.push(format!("{name}: {}: {}", output.status, said.trim()));
                }
            }
        }
        let name = format!("demo::{times} runs, {at_once} at once");
        report.check(&name, failed.is_empty(), failed.join("; "));
        self.check_left_behind(&name, report);
        Ok(())
    }

    /// No directory and no process of a run may outlive it.
    fn check_left_behind(&self, name: &str, report: &mut Report) {
        let results = self.directory.path().join("results");
        let mut left: Vec<String> = std::fs::read_dir(results)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|file| !file.ends_with(".json"))
            .collect();
        left.extend(processes_from(self.directory.path()));
        report.check(
            format!("{name}::leaves nothing behind"),
            left.is_empty(),
            left.join(", "),
        );
    }
}

/// The processes whose program lies in `directory`.
fn processes_from(directory: &Path) -> Vec<String> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let program = std::fs::read_link(entry.path().join("exe")).ok()?;
            program.starts_with(directory).then(|| {
                format!(
                    "process {} ({})",
                    entry.file_name().display(),
                    program.display()
                )
            })
        })
        .collect()
}
