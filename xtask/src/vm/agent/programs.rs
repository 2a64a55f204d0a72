//! Programs of the guest: run to their end, or left running.

use std::time::Duration;

use anyhow::{Result, ensure};
use guest_agent::protocol::{Executed, Op};
use nix::sys::signal::Signal;

use super::{Agent, millis};

/// How much of a program's output an error quotes, in bytes.
const QUOTED: usize = 2000;

impl Agent {
    /// Runs a program of the guest to its end, whatever its exit code; it is
    /// an error if it is not done after `timeout`, and then it is killed.
    pub fn exec(&self, argv: &[&str], timeout: Duration) -> Result<Executed> {
        let op = Op::Exec {
            argv: words(argv),
            timeout_ms: millis(timeout),
        };
        let done: Executed = self.call(op, timeout)?;
        ensure!(
            !done.timed_out,
            "{} was not done after {} s and was killed: {}",
            argv.join(" "),
            timeout.as_secs_f32(),
            said(&done)
        );
        Ok(done)
    }

    /// Runs a program of the guest, which must end with 0, and returns its
    /// standard output.
    pub fn run(&self, argv: &[&str], timeout: Duration) -> Result<String> {
        let done = self.exec(argv, timeout)?;
        ensure!(
            done.code == 0,
            "{} ended with {}: {}",
            argv.join(" "),
            done.code,
            said(&done)
        );
        Ok(done.stdout)
    }

    /// Starts a program and leaves it running; returns its job's number.
    pub fn spawn(&self, argv: &[&str]) -> Result<u32> {
        self.quick(Op::Spawn {
            argv: words(argv),
            terminal: false,
        })
    }

    /// The same for a program that keeps its output back unless it goes to a
    /// terminal; lines then end as a terminal's do.
    pub fn spawn_on_terminal(&self, argv: &[&str]) -> Result<u32> {
        self.quick(Op::Spawn {
            argv: words(argv),
            terminal: true,
        })
    }

    /// Waits for a job's end, after which it is forgotten. An error if it
    /// runs longer; it then still runs.
    pub fn wait(&self, job: u32, timeout: Duration) -> Result<Executed> {
        let done = self.wait_for(job, timeout)?;
        ensure!(
            !done.timed_out,
            "job {job} still runs after {} s: {}",
            timeout.as_secs_f32(),
            said(&done)
        );
        Ok(done)
    }

    /// Lets `time` pass while a job runs; its end before that is an error.
    pub fn runs_for(&self, job: u32, time: Duration) -> Result<()> {
        let done = self.wait_for(job, time)?;
        ensure!(
            done.timed_out,
            "job {job} was to run for {} s and ended with {}: {}",
            time.as_secs_f32(),
            done.code,
            said(&done)
        );
        Ok(())
    }

    fn wait_for(&self, job: u32, timeout: Duration) -> Result<Executed> {
        let timeout_ms = millis(timeout);
        self.call(Op::Wait { job, timeout_ms }, timeout)
    }

    /// Kills a job's process group; no error if it has ended.
    pub fn kill(&self, job: u32) -> Result<()> {
        self.signal(job, Signal::SIGKILL)
    }

    /// Sends a job's process group a signal; no error if it has ended.
    pub fn signal(&self, job: u32, signal: Signal) -> Result<()> {
        let signal = signal as i32;
        self.quick(Op::Signal { job, signal })
    }

    /// Writes to a job's standard input.
    pub fn input(&self, job: u32, text: &str) -> Result<()> {
        self.quick(Op::Input {
            job,
            text: text.into(),
        })
    }

    /// Waits until a job's standard output, from byte `from` on, holds
    /// `text`; returns that part of the output.
    pub fn expect(&self, job: u32, text: &str, from: usize, timeout: Duration) -> Result<String> {
        let op = Op::Expect {
            job,
            text: text.into(),
            from,
            timeout_ms: millis(timeout),
        };
        let output: String = self.call(op, timeout)?;
        ensure!(
            output.contains(text),
            "job {job} did not say {text:?} within {} s, but: {}",
            timeout.as_secs_f32(),
            tail(&output)
        );
        Ok(output)
    }
}

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}

/// What a program complained of, else what it said.
fn said(done: &Executed) -> &str {
    let (stdout, stderr) = (tail(&done.stdout), tail(&done.stderr));
    match (stdout, stderr) {
        ("", "") => "it said nothing",
        (stdout, "") => stdout,
        (_, stderr) => stderr,
    }
}

fn tail(text: &str) -> &str {
    let text = text.trim();
    let start = text.len().saturating_sub(QUOTED);
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at));
    &text[start.unwrap_or(0)..]
}
