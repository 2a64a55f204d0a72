//! The control socket: JSON lines, one request and one answer each.
//!
//! | request | answer |
//! |---|---|
//! | `{"op": "list"}` | `{"ok": true, "slots": [...]}`, each a [`SlotInfo`] |
//! | `{"op": "eject", "slot": N, "timeout_ms": T}` | `{"ok": true, "slot": N, "graceful": true}`, when it is absent |
//! | `{"op": "revoke", "slot": N}` | `{"ok": true, "slot": N, "graceful": false}`, when it is absent |
//!
//! What cannot be done is answered `{"ok": false, "error": "..."}`.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bus::{Bus, SlotInfo};

/// Longest request, bytes.
const MOST_LINE: u64 = 4096;
/// Clients at a time.
const MOST_CLIENTS: usize = 16;
/// How long a guest may take to let go if the caller does not say: as Hyper-V has it.
pub const EJECT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a mediator may take beyond what a guest may: longer than it waits for the card itself.
const MOST_WAIT: Duration = Duration::from_secs(20);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum ControlRequest {
    /// Show every slot.
    List {},
    /// Ask the guest to let go, then take the VF away.
    Eject {
        /// Which slot.
        slot: u16,
        /// How long the guest may take, ms. Default: [`EJECT_TIMEOUT`].
        timeout_ms: Option<u64>,
    },
    /// Take the VF away at once.
    Revoke {
        /// Which slot.
        slot: u16,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ControlAnswer {
    /// To list.
    Slots {
        /// By slot number.
        slots: Vec<SlotInfo>,
    },
    /// To eject and revoke: the slot is absent.
    Absent {
        /// Which slot.
        slot: u16,
        /// Did the guest let go by itself?
        graceful: bool,
    },
    /// It could not be done.
    Error {
        /// Why, and what to do.
        error: String,
    },
}

/// Why [`ask`] has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error(
        "cannot connect to {path}: does a mediator run with `--control {path}`, as the same user?"
    )]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the mediator closed the control connection without an answer; did it stop?")]
    Closed(#[source] io::Error),
    /// It hangs.
    #[error(
        "the mediator at {path} does not answer: is it stopped (SIGCONT), or its machine overloaded?"
    )]
    Silent {
        /// Where.
        path: PathBuf,
    },
    /// The answer makes no sense.
    #[error("the mediator's answer is not understood: are both of the same version?")]
    Answer(#[source] serde_json::Error),
}

/// Ask a mediator through its control socket.
pub fn ask(path: &Path, request: ControlRequest) -> Result<ControlAnswer, ControlError> {
    let mut stream = UnixStream::connect(path).map_err(|source| ControlError::Connect {
        path: path.into(),
        source,
    })?;
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ControlError::Silent { path: path.into() },
        _ => ControlError::Closed(error),
    };
    // The answer comes when the slot is absent: the guest's time, and the card's.
    let patience = match request {
        ControlRequest::Eject { timeout_ms, .. } => {
            timeout_ms.map_or(EJECT_TIMEOUT, Duration::from_millis)
        }
        _ => Duration::ZERO,
    };
    let patience = patience.saturating_add(MOST_WAIT);
    stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(patience)))
        .map_err(failed)?;
    let mut line = serde_json::to_vec(&request).map_err(ControlError::Answer)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(failed)?;
    if answer.is_empty() {
        return Err(ControlError::Closed(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&answer).map_err(ControlError::Answer)
}

/// Serves control clients.
#[derive(Default)]
pub(crate) struct ControlPort {
    live: Mutex<Vec<(UnixStream, JoinHandle<()>)>>,
}

impl ControlPort {
    /// Serve a connection on a thread of its own.
    pub(crate) fn open(
        &self,
        mut stream: UnixStream,
        ours: bool,
        bus: &Arc<Bus>,
    ) -> io::Result<()> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|(_, thread)| !thread.is_finished());
        if !ours || live.len() >= MOST_CLIENTS {
            log::warn!("refused a control client");
            return answer(
                &mut stream,
                &error("too many clients, or not of the mediator's user"),
            );
        }
        let (handle, bus) = (stream.try_clone()?, Arc::clone(bus));
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                if let Err(error) = serve(&stream, &bus) {
                    log::debug!("control client: {error}");
                }
            })?;
        live.push((handle, thread));
        Ok(())
    }

    /// End every connection.
    pub(crate) fn close(&self) {
        let live = std::mem::take(&mut *self.live.lock().unwrap_or_else(PoisonError::into_inner));
        for (stream, thread) in live {
            let _ = stream.shutdown(Shutdown::Read);
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: &UnixStream, bus: &Bus) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let count = reader
            .by_ref()
            .take(MOST_LINE)
            .read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && count as u64 == MOST_LINE {
            return answer(&mut stream, &error("the request is too long"));
        }
        let result = match serde_json::from_slice(&line) {
            Ok(request) => carry_out(request, bus),
            Err(problem) => error(&format!("the request is not understood: {problem}")),
        };
        answer(&mut stream, &result)?;
    }
}

fn carry_out(request: ControlRequest, bus: &Bus) -> ControlAnswer {
    let (slot, ask) = match request {
        ControlRequest::List {} => return ControlAnswer::Slots { slots: bus.list() },
        ControlRequest::Eject { slot, timeout_ms } => (
            slot,
            Some(timeout_ms.map_or(EJECT_TIMEOUT, Duration::from_millis)),
        ),
        ControlRequest::Revoke { slot } => (slot, None),
    };
    match bus.remove(slot, ask) {
        Ok(graceful) => ControlAnswer::Absent { slot, graceful },
        Err(problem) => error(&problem.to_string()),
    }
}

fn error(text: &str) -> ControlAnswer {
    ControlAnswer::Error { error: text.into() }
}

/// An answer as it goes over the socket: every program's control socket says `ok`.
#[derive(Serialize)]
struct Line<'a> {
    ok: bool,
    #[serde(flatten)]
    answer: &'a ControlAnswer,
}

fn answer(stream: &mut impl Write, answer: &ControlAnswer) -> io::Result<()> {
    let ok = !matches!(answer, ControlAnswer::Error { .. });
    let mut line = serde_json::to_vec(&Line { ok, answer })?;
    line.push(b'\n');
    stream.write_all(&line)
}
