//! The client's side of the programs' control sockets: a JSON object per line, each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The control socket of a running program.
#[derive(Debug, Clone)]
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// The socket at `path`; connected anew for each call, so a restarted program is found again.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the socket lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ask for `request`, an object with an `op`; waits at most `limit` for the answer. An answer
    /// that says no is an error with the program's own words.
    pub fn call(&self, request: &Value, limit: Duration) -> anyhow::Result<Value> {
        let answer = self
            .exchange(request, limit)
            .with_context(|| format!("asking {} for {}", self.path.display(), request["op"]))?;
        if answer["ok"] != true {
            let reason = answer["error"].as_str().unwrap_or("no reason given");
            bail!(
                "{} refused {}: {reason}",
                self.path.display(),
                request["op"]
            );
        }
        Ok(answer)
    }

    fn exchange(&self, request: &Value, limit: Duration) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(&self.path).context("connecting")?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut line = request.to_string();
        line.push('\n');
        stream.write_all(line.as_bytes()).context("sending")?;
        let mut answer = String::new();
        BufReader::new(stream)
            .read_line(&mut answer)
            .with_context(|| format!("no answer within {} s", limit.as_secs_f32()))?;
        if answer.is_empty() {
            bail!("the program closed the connection without an answer");
        }
        serde_json::from_str(&answer).context("the answer is not JSON")
    }
}
