//! QEMU's machine protocol, for what a running VM is asked to change.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
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
        Self { stream: BufReader::new(stream), ready: false }
    }

    /// Executes a command and returns its result; events are passed over.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        if !self.ready {
            // The greeting.
            self.message()?;
            self.ask("qmp_capabilities", json!({}))?;
            self.ready = true;
        }
        self.ask(command, arguments)
    }

    fn message(&mut self) -> Result<Value> {
        let line = read_line(&mut self.stream, BOUND).context("wait for QEMU's monitor")?;
        serde_json::from_slice(&line).context("read from QEMU's monitor")
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).context("write to QEMU's monitor")?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!("QEMU refused {command}: {}", error["desc"].as_str().unwrap_or("?"));
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
        assert_eq!(qmp.execute("query-status", json!({})).unwrap()["status"], "running");
        let error = qmp.execute("device_add", json!({})).unwrap_err();
        assert!(error.to_string().contains("no such bus"));
        served.join().unwrap();
    }
}
