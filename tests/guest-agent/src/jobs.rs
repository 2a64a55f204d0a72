//! Programs that run while the agent serves other requests.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_agent::PATH;
use guest_agent::protocol::{Executed, MAX_OUTPUT};
use nix::errno::Errno;
use nix::pty::openpty;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// How long a killed program may take to be gone with all that holds its output.
const DEATH: Duration = Duration::from_secs(5);
/// What a shell reports of a program that signal n ended is this and n.
const SIGNALLED: i32 = 128;

/// All jobs that nobody has waited for to the end.
#[derive(Default)]
pub(crate) struct Jobs(Mutex<(u32, HashMap<u32, Arc<Job>>)>);

impl Jobs {
    fn table(&self) -> MutexGuard<'_, (u32, HashMap<u32, Arc<Job>>)> {
        self.0.lock().expect("no holder panics")
    }

    fn job(&self, number: u32) -> Result<Arc<Job>> {
        let found = self.table().1.get(&number).cloned();
        found.with_context(|| format!("there is no job {number}"))
    }

    /// Starts a program; its standard input stays open.
    pub(crate) fn spawn(&self, argv: &[String], terminal: bool) -> Result<u32> {
        let job = Job::start(argv, Stdio::piped(), terminal)?;
        let mut table = self.table();
        table.0 += 1;
        let number = table.0;
        table.1.insert(number, job);
        Ok(number)
    }

    /// Waits for a job's end and forgets it.
    pub(crate) fn wait(&self, number: u32, timeout: Duration) -> Result<Executed> {
        let ended = self.job(number)?.wait(timeout);
        if !ended.timed_out {
            self.table().1.remove(&number);
        }
        Ok(ended)
    }

    pub(crate) fn signal(&self, number: u32, signal: i32) -> Result<()> {
        let signal = Signal::try_from(signal).context("no such signal")?;
        self.job(number)?.signal(signal)
    }

    pub(crate) fn input(&self, number: u32, text: &str) -> Result<()> {
        let job = self.job(number)?;
        let mut input = job.input.lock().expect("no holder panics");
        let pipe = input.as_mut().context("the job has no standard input")?;
        pipe.write_all(text.as_bytes())
            .and_then(|()| pipe.flush())
            .context("write to the job's standard input")
    }

    /// Waits until the output holds `text`, the job ends, or the time is over.
    pub(crate) fn expect(
        &self,
        number: u32,
        text: &str,
        from: usize,
        timeout: Duration,
    ) -> Result<String> {
        Ok(self.job(number)?.expect(text.as_bytes(), from, timeout))
    }
}

/// Runs a program to its end; kills it, and whoever else holds its output,
/// when `timeout` is over.
pub(crate) fn exec(argv: &[String], timeout: Duration) -> Result<Executed> {
    let job = Job::start(argv, Stdio::null(), false)?;
    let ended = job.wait(timeout);
    if !ended.timed_out {
        return Ok(ended);
    }
    job.signal(Signal::SIGKILL)?;
    Ok(Executed {
        timed_out: true,
        ..job.wait(DEATH)
    })
}

/// A program, its output so far, and how it ended.
struct Job {
    /// Its own process group too.
    pid: Pid,
    state: Mutex<State>,
    changed: Condvar,
    input: Mutex<Option<ChildStdin>>,
}

#[derive(Default)]
struct State {
    output: [Vec<u8>; 2],
    /// Of standard output and standard error, how many somebody holds open.
    open: usize,
    status: Option<ExitStatus>,
}

impl Job {
    fn start(argv: &[String], input: Stdio, terminal: bool) -> Result<Arc<Self>> {
        let (program, arguments) = argv.split_first().context("argv is empty")?;
        // Both ends close when the program, or the reader, is done.
        let (master, output) = if terminal {
            let pair = openpty(None, None).context("open a terminal")?;
            (Some(File::from(pair.master)), Stdio::from(pair.slave))
        } else {
            (None, Stdio::piped())
        };
        let mut child = Command::new(program)
            .args(arguments)
            .env("PATH", PATH)
            .env("HOME", "/root")
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("run {program}"))?;
        let job = Arc::new(Self {
            pid: Pid::from_raw(i32::try_from(child.id()).context("process id")?),
            state: Mutex::new(State {
                open: 2,
                ..State::default()
            }),
            changed: Condvar::new(),
            input: Mutex::new(child.stdin.take()),
        });
        let stdout: Box<dyn Read + Send> = match (master, child.stdout.take()) {
            (Some(master), _) => Box::new(master),
            (None, stdout) => Box::new(stdout.context("no standard output")?),
        };
        let stderr = child.stderr.take().context("no standard error")?;
        let reader = job.clone();
        thread::spawn(move || reader.collect(0, stdout));
        let reader = job.clone();
        thread::spawn(move || reader.collect(1, stderr));
        let waiter = job.clone();
        thread::spawn(move || waiter.reap(child));
        Ok(job)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Keeps the first [`MAX_OUTPUT`] bytes and drops the rest, so that the
    /// program never blocks.
    fn collect(&self, which: usize, mut from: impl Read) {
        let mut chunk = vec![0; 16 << 10];
        loop {
            match from.read(&mut chunk) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let output = &mut self.state().output[which];
                    let room = MAX_OUTPUT - output.len();
                    output.extend_from_slice(&chunk[..count.min(room)]);
                    self.changed.notify_all();
                }
            }
        }
        self.state().open -= 1;
        self.changed.notify_all();
    }

    /// Reaps the leader only when nobody of its group holds the output any
    /// more: until then the group's id is its own, and can be killed.
    fn reap(&self, mut child: Child) {
        let exited = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(self.pid), exited) == Err(Errno::EINTR) {}
        let mut state = self
            .changed
            .wait_while(self.state(), |state| state.open > 0)
            .expect("no holder panics");
        // It has ended, so this returns at once, and fails only if somebody
        // else reaped it.
        state.status = Some(child.wait().unwrap_or_default());
        self.changed.notify_all();
    }

    fn wait(&self, timeout: Duration) -> Executed {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), timeout, |state| state.status.is_none())
            .expect("no holder panics");
        let text = |which: usize| String::from_utf8_lossy(&state.output[which]).into_owned();
        Executed {
            code: state.status.map_or(SIGNALLED, |status| {
                let signal = || status.signal().map(|signal| SIGNALLED + signal);
                status.code().or_else(signal).unwrap_or(SIGNALLED)
            }),
            timed_out: state.status.is_none(),
            stdout: text(0),
            stderr: text(1),
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let state = self.state();
        if state.status.is_some() {
            return Ok(());
        }
        match killpg(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno).context("signal the job"),
        }
    }

    fn expect(&self, text: &[u8], from: usize, timeout: Duration) -> String {
        let missing = |state: &mut State| {
            let output = state.output[0].get(from..).unwrap_or_default();
            let found = text.is_empty() || output.windows(text.len()).any(|part| part == text);
            !found && state.status.is_none()
        };
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), timeout, missing)
            .expect("no holder panics");
        let output = state.output[0].get(from..).unwrap_or_default();
        String::from_utf8_lossy(output).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn shell(script: &str) -> Vec<String> {
        argv(&["/bin/sh", "-c", script])
    }

    #[test]
    fn a_program_reports_its_code_and_output() {
        let result = exec(&shell("echo out; echo err >&2; exit 3"), LONG).unwrap();
        assert_eq!(result.code, 3);
        assert_eq!(
            (result.stdout.as_str(), result.stderr.as_str()),
            ("out\n", "err\n")
        );
        assert!(!result.timed_out);
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let result = exec(&argv(&["/bin/sleep", "1000"]), Duration::from_millis(50)).unwrap();
        assert!(result.timed_out);
        assert_eq!(result.code, SIGNALLED + Signal::SIGKILL as i32);
    }

    #[test]
    fn what_holds_the_output_open_is_killed_too() {
        let result = exec(&shell("sleep 1000 & exit 4"), Duration::from_millis(200)).unwrap();
        assert!(result.timed_out);
        assert_eq!(result.code, 4);
    }

    #[test]
    fn output_is_bounded() {
        let size = MAX_OUTPUT * 2;
        let result = exec(&shell(&format!("head -c {size} /dev/zero")), 3 * LONG).unwrap();
        assert_eq!((result.code, result.stdout.len()), (0, MAX_OUTPUT));
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = exec(&argv(&["/no/such"]), LONG).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such"));
    }

    #[test]
    fn a_job_is_spoken_to_and_waited_for_once() {
        let jobs = Jobs::default();
        let job = jobs
            .spawn(&shell("read word; echo got $word; read x"), false)
            .unwrap();
        assert!(jobs.wait(job, Duration::ZERO).unwrap().timed_out);
        jobs.input(job, "ping\n").unwrap();
        assert_eq!(
            jobs.expect(job, "got ping\n", 0, LONG).unwrap(),
            "got ping\n"
        );
        assert_eq!(jobs.expect(job, "", 4, LONG).unwrap(), "ping\n");
        jobs.signal(job, Signal::SIGTERM as i32).unwrap();
        let ended = jobs.wait(job, LONG).unwrap();
        assert_eq!(ended.code, SIGNALLED + Signal::SIGTERM as i32);
        assert!(jobs.wait(job, LONG).is_err());
    }

    #[test]
    fn waiting_for_words_that_a_program_never_says_ends_with_it() {
        let jobs = Jobs::default();
        let job = jobs.spawn(&shell("echo other"), false).unwrap();
        assert_eq!(jobs.expect(job, "words", 0, LONG).unwrap(), "other\n");
        // A signal to what has ended is no error, and reaches nobody.
        jobs.job(job).unwrap().wait(LONG);
        jobs.signal(job, Signal::SIGKILL as i32).unwrap();
        assert_eq!(jobs.wait(job, LONG).unwrap().code, 0);
    }

    #[test]
    fn a_program_on_a_terminal_knows_it_and_its_end_is_seen() {
        let jobs = Jobs::default();
        let job = jobs
            .spawn(&shell("test -t 1 && echo terminal"), true)
            .unwrap();
        assert_eq!(
            jobs.expect(job, "terminal", 0, LONG).unwrap().trim(),
            "terminal"
        );
        assert_eq!(jobs.wait(job, LONG).unwrap().code, 0);
    }
}
