//! QEMU's machine protocol, for what a running VM is asked to change.

use std::io::{BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::agent::read_line;

const BOUND: Duration = Duration::from_secs(60);

/// A monitor of one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    ready: bool,
}

impl Qmp {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            ready: false,
        }
    }

    /// Executes a command and returns its result; events are passed over.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.greet()?;
        self.ask(command, arguments)
    }

    fn greet(&mut self) -> Result<()> {
        if !self.ready {
            self.message().context("read the monitor's greeting")?;
            self.ask("qmp_capabilities", json!({}))?;
            self.ready = true;
        }
        Ok(())
    }

    /// Waits until `other` has something to read, or is closed. Fails if
    /// QEMU stops the guest, as it does when KVM cannot go on, or if `bound`
    /// passes.
    pub(super) fn watch_for(&mut self, other: &UnixStream, bound: Duration) -> Result<()> {
        let deadline = Instant::now() + bound;
        self.greet()?;
        loop {
            // Events that came along with an answer are in the buffer.
            if self.stream.buffer().is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                let mut fds = [
                    PollFd::new(other.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.stream.get_ref().as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut fds, left) {
                    Ok(0) => bail!(
                        "nothing was heard of the guest within {} s",
                        bound.as_secs()
                    ),
                    Err(Errno::EINTR) => continue,
                    Err(errno) => return Err(errno).context("wait for the guest"),
                    Ok(_) if fds[0].any() == Some(true) => return Ok(()),
                    Ok(_) => {}
                }
            }
            if self.message()?["event"] == "STOP" {
                bail!("QEMU stopped the guest: its log says why");
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        let line = read_line(&mut self.stream, Some(BOUND)).context("wait for QEMU's monitor")?;
        serde_json::from_slice(&line).context("read from QEMU's monitor")
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.stream
            .get_mut()
            .write_all(line.as_bytes())
            .context("write to QEMU's monitor")?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!(
                    "QEMU refused {command}: {}",
                    error["desc"].as_str().unwrap_or("?")
                );
            }
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::thread;

    #[test]
    fn a_guest_that_is_stopped_is_not_waited_for() {
        let (host, mut qemu) = UnixStream::pair().unwrap();
        let (silent, _guest) = UnixStream::pair().unwrap();
        qemu.write_all(b"{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESUME\"}\n")
            .unwrap();
        qemu.write_all(b"{\"event\":\"STOP\"}\n").unwrap();
        let mut qmp = Qmp::new(host);
        let error = qmp
            .watch_for(&silent, Duration::from_secs(600))
            .unwrap_err();
        assert!(error.to_string().contains("stopped"));
    }

    #[test]
    fn a_guest_that_speaks_or_dies_ends_the_wait() {
        for dies in [false, true] {
            let (host, mut qemu) = UnixStream::pair().unwrap();
            let (agent, mut guest) = UnixStream::pair().unwrap();
            qemu.write_all(b"{\"QMP\":{}}\n{\"return\":{}}\n").unwrap();
            guest.write_all(if dies { b"" } else { b"hello" }).unwrap();
            let _open = (!dies).then_some(guest);
            Qmp::new(host)
                .watch_for(&agent, Duration::from_secs(600))
                .unwrap();
        }
        let (host, mut qemu) = UnixStream::pair().unwrap();
        let (silent, _guest) = UnixStream::pair().unwrap();
        qemu.write_all(b"{\"QMP\":{}}\n{\"return\":{}}\n").unwrap();
        assert!(
            Qmp::new(host)
                .watch_for(&silent, Duration::from_millis(20))
                .is_err()
        );
    }

    #[test]
    fn events_are_passed_over_and_errors_told() {
        let (host, mut qemu) = UnixStream::pair().unwrap();
        let served = thread::spawn(move || {
            let mut lines = BufReader::new(qemu.try_clone().unwrap()).lines();
            qemu.write_all(b"{\"QMP\":{}}\n").unwrap();
            for answer in [
                "{\"return\":{}}\n",
                "{\"event\":\"RESET\"}\n{\"return\":{\"status\":\"running\"}}\n",
                "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such bus\"}}\n",
            ] {
                lines.next().unwrap().unwrap();
                qemu.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut qmp = Qmp::new(host);
        assert_eq!(
            qmp.execute("query-status", json!({})).unwrap()["status"],
            "running"
        );
        let error = qmp.execute("device_add", json!({})).unwrap_err();
        assert!(error.to_string().contains("no such bus"));
        served.join().unwrap();
    }
}
