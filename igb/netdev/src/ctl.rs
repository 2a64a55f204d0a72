//! The client's side of a control socket, and how answers are shown to a person.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};

/// How long an answer may take that needs no work.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Which program a `ctl` command asks, and how its answer is shown.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The control socket of the running driver
    #[arg(long, value_name = "SOCK")]
    control: PathBuf,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

impl Target {
    /// Ask, and show the answer.
    pub fn ask(&self, request: &Value, limit: Duration) -> anyhow::Result<Value> {
        let answer = call(&self.control, request, limit)?;
        show(&answer, self.json);
        Ok(answer)
    }
}

/// A ping from the program's stack.
#[derive(Debug, clap::Args)]
pub struct Ping {
    /// The IPv4 address
    addr: String,
    /// How many requests
    #[arg(long, short = 'c', default_value_t = 4)]
    count: u64,
    /// Milliseconds to wait for each reply
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
}

impl Ping {
    /// The request, and how long its answer may take.
    pub fn request(&self) -> (Value, Duration) {
        let Self {
            addr,
            count,
            timeout_ms,
        } = self;
        let request = json!({"op": "ping", "addr": addr, "count": count, "timeout_ms": timeout_ms});
        let waiting = Duration::from_millis(count.saturating_mul(*timeout_ms));
        (request, ANSWER_LIMIT + waiting)
    }
}

/// The exit status of a program; what went wrong is said on standard error.
pub fn exit(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ask the program behind `path`; waits at most `limit` for its answer.
pub fn call(path: &Path, request: &Value, limit: Duration) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(path).with_context(|| {
        format!(
            "{} cannot be connected to: is the program running with --control {0}?",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream
        .write_all(format!("{request}\n").as_bytes())
        .context("sending the request")?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow!(
                "no answer within {} s: the program is busy or stopped; what it was asked it may still \
                 do, which its log tells",
                limit.as_secs()
            ),
            _ => anyhow::Error::new(error).context("reading the answer"),
        })?;
    if line.is_empty() {
        bail!("the program closed the connection without an answer");
    }
    let mut answer: Value = serde_json::from_str(&line).context("the answer is not JSON")?;
    if answer["ok"] != true {
        bail!(
            "{}",
            answer["error"]
                .as_str()
                .unwrap_or("refused without a reason")
        );
    }
    if let Some(object) = answer.as_object_mut() {
        object.remove("ok");
    }
    Ok(answer)
}

/// Show an answer: as it is with `json`, otherwise indented, a line per value.
pub fn show(answer: &Value, json: bool) {
    if json {
        println!("{answer}");
    } else {
        print!("{}", lines(answer, 0));
    }
}

fn lines(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(object) => object
            .iter()
            .map(|(name, value)| match value {
                Value::Object(inner) if !inner.is_empty() => {
                    format!("{pad}{name}:\n{}", lines(value, depth + 1))
                }
                Value::Array(inner) if inner.iter().any(Value::is_object) => {
                    format!("{pad}{name}:\n{}", lines(value, depth + 1))
                }
                _ => format!("{pad}{name}: {}\n", plain(value)),
            })
            .collect(),
        Value::Array(array) => array
            .iter()
            .map(|value| format!("{pad}-\n{}", lines(value, depth + 1)))
            .collect(),
        _ => format!("{pad}{}\n", plain(value)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(array) => array.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_answer_is_told_of_in_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ctl");
        let _silent = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let limit = Duration::from_millis(20);
        let error = call(&path, &json!({"op": "info"}), limit).expect_err("no answer");
        let error = format!("{error:#}");
        assert!(error.contains("busy or stopped"), "{error}");
        assert!(!error.contains("os error"), "{error}");
    }

    #[test]
    fn nested_answers_are_indented() {
        let answer =
            json!({"mac": "02:00", "counters": {"rx": 1}, "vfs": [{"vf": 0}], "l": [1, 2]});
        let text = lines(&answer, 0);
        for line in [
            "mac: 02:00\n",
            "counters:\n  rx: 1\n",
            "vfs:\n  -\n    vf: 0\n",
            "l: 1 2\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text:?}");
        }
    }
}
