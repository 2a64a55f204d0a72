//! A program under test as a child process: its log kept, its end observed, never left behind.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How many of its last lines a program's failure quotes.
const QUOTED_LINES: usize = 12;

/// What a program has said so far, and whether it has closed its standard error.
#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

/// A running program.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    said: Arc<(Mutex<Said>, Condvar)>,
    reader: Option<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Program {
    /// Start `command` as `name`; what it writes to standard error goes to `DIR/NAME.log` too.
    pub fn start(name: &str, command: &mut Command, directory: &Path) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening the log {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name} ({:?})", command.get_program()))?;
        let stderr = child
            .stderr
            .take()
            .context("the child has no standard error")?;
        let said = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let shared = said.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                // A full disk loses the log, not the run.
                let _ = writeln!(file, "{line}");
                let mut said = shared.0.lock().expect("no holder panics");
                said.lines.push(line);
                shared.1.notify_all();
            }
            shared.0.lock().expect("no holder panics").ended = true;
            shared.1.notify_all();
        });
        let name = name.to_owned();
        Ok(Self {
            name,
            child,
            log,
            said,
            reader: Some(reader),
            status: None,
        })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id fits"))
    }

    /// Where its log lies.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How many lines it has written so far: a mark for [`Self::wait_for_line`].
    pub fn mark(&self) -> usize {
        self.said.0.lock().expect("no holder panics").lines.len()
    }

    /// Wait at most `limit` for a line after `mark` that contains `text`.
    pub fn wait_for_line(
        &self,
        mark: usize,
        text: &str,
        limit: Duration,
    ) -> anyhow::Result<String> {
        let end = Instant::now() + limit;
        let mut next = mark;
        let mut said = self.said.0.lock().expect("no holder panics");
        loop {
            if let Some(line) = said
                .lines
                .iter()
                .skip(next)
                .find(|line| line.contains(text))
            {
                return Ok(line.clone());
            }
            next = said.lines.len();
            let left = end.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                let ended = if said.ended {
                    "it ended"
                } else {
                    "the time ran out"
                };
                drop(said);
                bail!(
                    "{} never said {text:?} ({ended}); its last lines:\n{}",
                    self.name,
                    self.tail()
                );
            }
            said = self
                .said
                .1
                .wait_timeout(said, left)
                .expect("no holder panics")
                .0;
        }
    }

    /// Its last lines, for a failure to quote.
    pub fn tail(&self) -> String {
        let said = self.said.0.lock().expect("no holder panics");
        let first = said.lines.len().saturating_sub(QUOTED_LINES);
        said.lines[first..]
            .iter()
            .map(|line| format!("    {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status.is_none())
    }

    /// Send it `signal`.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if !self.is_running()? {
            bail!(
                "{} has already ended ({}):\n{}",
                self.name,
                self.describe_end(),
                self.tail()
            );
        }
        kill(self.pid(), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Wait at most `limit` for its end.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        // The end of standard error is the event; the status follows it at once.
        {
            let said = self.said.0.lock().expect("no holder panics");
            let (said, _) = self
                .said
                .1
                .wait_timeout_while(said, limit, |said| !said.ended)
                .expect("no holder panics");
            if !said.ended {
                drop(said);
                bail!(
                    "{} did not end within {} s:\n{}",
                    self.name,
                    limit.as_secs_f32(),
                    self.tail()
                );
            }
        }
        if self.status.is_none() {
            self.status = Some(self.child.wait()?);
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(self.status.expect("set above"))
    }

    /// End it orderly: SIGTERM, then exit status 0 within `limit`.
    pub fn stop(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(limit)?;
        if !status.success() {
            bail!(
                "{} ended with {} after SIGTERM:\n{}",
                self.name,
                self.describe_end(),
                self.tail()
            );
        }
        Ok(())
    }

    /// Kill it as a crash would, and wait for it.
    pub fn crash(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(10))?;
        Ok(())
    }

    fn describe_end(&self) -> String {
        match self.status {
            None => "running".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "an unknown end".to_owned(),
            },
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn shell(script: &str, dir: &Path) -> Program {
        Program::start("shell", Command::new("sh").args(["-c", script]), dir).unwrap()
    }

    #[test]
    fn an_orderly_end_is_told_from_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut good = shell(
            "trap 'exit 0' TERM; echo up >&2; while :; do :; done",
            dir.path(),
        );
        good.wait_for_line(0, "up", LIMIT).unwrap();
        good.stop(LIMIT).unwrap();
        let mut bad = shell(
            "trap 'exit 3' TERM; echo up >&2; while :; do :; done",
            dir.path(),
        );
        bad.wait_for_line(0, "up", LIMIT).unwrap();
        let error = bad.stop(LIMIT).unwrap_err().to_string();
        assert!(error.contains("exit status 3"), "{error}");
    }

    #[test]
    fn a_missing_line_quotes_what_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let program = shell("echo something else >&2", dir.path());
        let error = program
            .wait_for_line(0, "ready", LIMIT)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("something else") && error.contains("it ended"),
            "{error}"
        );
    }
}
