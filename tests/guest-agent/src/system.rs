//! Files, programs, the kernel log and PCI functions.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use guest_agent::protocol::{MAX_OUTPUT, PciFunction, RunResult};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// Reads at most [`MAX_OUTPUT`] bytes as text, and drops the rest so that a
/// writer never blocks.
fn text(mut from: impl Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.by_ref()
        .take(MAX_OUTPUT as u64)
        .read_to_end(&mut bytes)?;
    std::io::copy(&mut from, &mut std::io::sink())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(crate) fn read_file(path: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("open {path}"))?;
    file.take(MAX_OUTPUT as u64)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {path}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(crate) fn write_file(path: &str, content: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("open {path}"))?;
    // sysfs takes a value in one write.
    file.write_all(content.as_bytes())
        .with_context(|| format!("write {path}"))
}

/// Runs `argv` in a process group of its own, and kills the group when its
/// leader, or whoever else holds its output, is not done after `timeout`.
pub(crate) fn run(argv: &[String], timeout: Duration) -> Result<RunResult> {
    let (program, arguments) = argv.split_first().context("argv is empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let pid = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
    thread::scope(|scope| {
        let stdout = scope.spawn(move || text(stdout));
        let stderr = scope.spawn(move || text(stderr));
        let (ended, end) = mpsc::channel::<()>();
        let killer = scope.spawn(move || {
            let late = end.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                // A group that is already gone is what is wanted.
                let _ = killpg(pid, Signal::SIGKILL);
            }
            late
        });
        // The leader is not reaped before the killer is done, so the group
        // that is killed is still this one.
        let exited = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let waited = waitid(Id::Pid(pid), exited);
        let joined = |reader: thread::ScopedJoinHandle<'_, std::io::Result<String>>| {
            let text = reader
                .join()
                .unwrap_or_else(|_| Err(ErrorKind::Other.into()));
            text.context("read the program's output")
        };
        let (stdout, stderr) = (joined(stdout), joined(stderr));
        drop(ended);
        let timed_out = killer.join().unwrap_or(false);
        waited.context("wait for the program")?;
        let status = child.wait().context("wait for the program")?;
        Ok(RunResult {
            code: status.code(),
            timed_out,
            stdout: stdout?,
            stderr: stderr?,
        })
    })
}

/// The kernel log: one line per message, without the header of /dev/kmsg.
pub(crate) fn kmsg() -> Result<String> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")
        .context("open /dev/kmsg")?;
    let mut out = String::new();
    // One record a read; records are at most 8 KiB in this interface.
    let mut record = vec![0u8; 16 << 10];
    while out.len() < MAX_OUTPUT {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(count) => out.push_str(&record_line(&String::from_utf8_lossy(&record[..count]))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // The record was overwritten meanwhile; the next read goes on.
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
            Err(error) => return Err(error).context("read /dev/kmsg"),
        }
    }
    Ok(out)
}

/// `priority,sequence,microseconds,...;text` as `[seconds] text`.
fn record_line(record: &str) -> String {
    let (header, text) = record.split_once(';').unwrap_or(("", record));
    let text = text.lines().next().unwrap_or_default();
    let micros: u64 = header
        .split(',')
        .nth(2)
        .and_then(|t| t.parse().ok())
        .unwrap_or(0);
    format!(
        "[{:5}.{:06}] {text}\n",
        micros / 1_000_000,
        micros % 1_000_000
    )
}

/// PCI functions, by address.
pub(crate) fn pci() -> Result<Vec<PciFunction>> {
    let mut functions: Vec<PciFunction> = fs::read_dir("/sys/bus/pci/devices")
        .context("read /sys/bus/pci/devices")?
        .filter_map(|entry| pci_function(&entry.ok()?.path()))
        .collect();
    functions.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(functions)
}

fn pci_function(dir: &Path) -> Option<PciFunction> {
    let number = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let driver = fs::canonicalize(dir.join("driver")).ok();
    Some(PciFunction {
        address: dir.file_name()?.to_str()?.to_owned(),
        vendor: number("vendor")?.try_into().ok()?,
        device: number("device")?.try_into().ok()?,
        class: number("class")?,
        revision: number("revision")?.try_into().ok()?,
        driver: driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_program_reports_its_code_and_output() {
        let words = argv(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]);
        let result = run(&words, Duration::from_secs(20)).unwrap();
        assert_eq!(result.code, Some(3));
        assert_eq!(
            (result.stdout.as_str(), result.stderr.as_str()),
            ("out\n", "err\n")
        );
        assert!(!result.timed_out);
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let result = run(&argv(&["/bin/sleep", "1000"]), Duration::from_millis(50)).unwrap();
        assert!(result.timed_out);
        assert_eq!(result.code, None);
    }

    #[test]
    fn what_holds_the_output_open_is_killed_too() {
        let words = argv(&["/bin/sh", "-c", "sleep 1000 & exit 4"]);
        let result = run(&words, Duration::from_millis(200)).unwrap();
        assert!(result.timed_out);
        assert_eq!(result.code, Some(4));
    }

    #[test]
    fn output_is_bounded() {
        let size = MAX_OUTPUT * 2;
        let words = argv(&["/bin/sh", "-c", &format!("head -c {size} /dev/zero")]);
        let result = run(&words, Duration::from_secs(60)).unwrap();
        assert_eq!((result.code, result.stdout.len()), (Some(0), MAX_OUTPUT));
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = run(&argv(&["/no/such"]), Duration::from_secs(1)).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such"));
    }

    #[test]
    fn kernel_records_become_lines() {
        let line = record_line("6,339,5140900,-;igbvf: probe\n SUBSYSTEM=pci\n");
        assert_eq!(line, "[    5.140900] igbvf: probe\n");
    }
}
