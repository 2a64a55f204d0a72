//! The control socket of the program: a JSON object per line, each way.
//!
//! | request | answer |
//! |---|---|
//! | `{"op":"stats"}` | counters of every function, the uplink, the latest DMA faults |
//! | `{"op":"link","up":false}` | unplugs the cable (`true`: plugs it in) |
//! | `{"op":"inject","rule":"flr,vf0"}` | takes on a rule, as `--inject` does; answers its `id` |
//! | `{"op":"inject","remove":3}` | forgets rule 3; `"remove":"all"` forgets all |
//! | `{"op":"inject"}` | the rules, and how often each had an opportunity and struck |
//!
//! With several cards, `"card":N` says which; 0 is the default. Every answer has `"ok"`; a refusal
//! has `"error"` with the reason.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use vfio_user::server::{self, Stop};

use crate::card::{Card, CardState};
use crate::inject::InjectSpec;
use crate::stats;

/// Connections at a time.
const MOST: usize = 16;
/// Bytes of a request.
const LONGEST: u64 = 64 * 1024;
/// How long a client may leave an answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlSocketError {
    /// A live program listens there.
    #[error("{0} belongs to a running program: choose another path or end that program")]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the control socket {path}: {source}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing to stop it with.
    #[error("cannot make the control socket: {0}")]
    Stop(#[from] server::Error),
}

/// A control socket that is being served. Dropping it ends it and removes the file.
pub struct ControlSocket {
    path: PathBuf,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl ControlSocket {
    /// Serve `cards` on a socket at `path`, replacing that of a program that is gone.
    pub fn serve(path: &Path, cards: &[Arc<Card>]) -> Result<Self, ControlSocketError> {
        let failed = |source| ControlSocketError::Bind {
            path: path.to_owned(),
            source,
        };
        if fs::symlink_metadata(path).is_ok() {
            match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                _ => return Err(ControlSocketError::InUse(path.to_owned())),
            }
        }
        let stop = Stop::new()?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        // From here on an error removes the file.
        let mut socket = Self {
            path: path.to_owned(),
            stop: stop.clone(),
            thread: None,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // The states, not the cards: a control client does not keep a card alive.
        let states = cards.iter().map(|card| Arc::clone(card.state())).collect();
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_all(&listener, &states, &stop))
            .map_err(failed)?;
        socket.thread = Some(thread);
        Ok(socket)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
        // Somebody else may have removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Wait until `fd` is readable; `false` if the stop was raised instead.
fn readable(fd: &impl AsFd, stop: &Stop) -> bool {
    let mut fds = [
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        PollFd::new(fd.as_fd(), PollFlags::POLLIN),
    ];
    // An interrupted wait looks at the stop and comes back.
    let _ = poll(&mut fds, PollTimeout::NONE);
    !stop.is_raised()
}

fn accept_all(listener: &UnixListener, cards: &Arc<[Arc<CardState>]>, stop: &Stop) {
    let connections = Arc::new(AtomicUsize::new(0));
    while readable(listener, stop) {
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let ours =
            getsockopt(&stream, PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw());
        if !ours || connections.load(Ordering::Relaxed) >= MOST {
            log::warn!("a control connection was refused: another user's, or too many");
            continue;
        }
        connections.fetch_add(1, Ordering::Relaxed);
        let served = thread::Builder::new().name("control".to_owned()).spawn({
            let (cards, stop, connections) =
                (Arc::clone(cards), stop.clone(), Arc::clone(&connections));
            move || {
                let _leaves = Leaves(connections);
                if let Err(error) = serve(stream, &cards, &stop) {
                    log::debug!("control connection: {error}");
                }
            }
        });
        if let Err(error) = served {
            log::warn!("a control connection cannot be served: {error}");
        }
    }
}

/// Counts a connection out, however it ends.
struct Leaves(Arc<AtomicUsize>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(stream: UnixStream, cards: &[Arc<CardState>], stop: &Stop) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        if reader.buffer().is_empty() && !readable(reader.get_ref(), stop) {
            return Ok(());
        }
        line.clear();
        // A client that stops in mid line is cut off by the stop, or holds one of `MOST` places.
        reader.get_ref().set_read_timeout(Some(WRITE_TIMEOUT))?;
        let read = (&mut reader).take(LONGEST).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(io::Error::other("a request is too long or has no end"));
        }
        let mut answer = answer(&line, cards).to_string();
        answer.push('\n');
        writer.write_all(answer.as_bytes())?;
    }
}

fn answer(line: &[u8], cards: &[Arc<CardState>]) -> Value {
    let refusal = |reason: String| json!({"ok": false, "error": reason});
    let request: Value = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return refusal(format!("the request is not JSON: {error}")),
    };
    let index = match &request["card"] {
        Value::Null => Some(0),
        given => given.as_u64().and_then(|index| usize::try_from(index).ok()),
    };
    let Some(card) = index.and_then(|index| cards.get(index)) else {
        return refusal(format!(
            "there is no such card; 0 to {} are here",
            cards.len() - 1
        ));
    };
    match request["op"].as_str() {
        Some("stats") => stats::collect(card),
        Some("link") => match request["up"].as_bool() {
            Some(up) => {
                card.set_link(up);
                json!({"ok": true, "link_up": up})
            }
            None => refusal("say \"up\": true or false".to_owned()),
        },
        Some("inject") => inject(card, &request).unwrap_or_else(refusal),
        _ => refusal("\"op\" must be \"stats\", \"link\" or \"inject\"".to_owned()),
    }
}

fn inject(card: &CardState, request: &Value) -> Result<Value, String> {
    let injector = &card.watch.injector;
    if let Some(remove) = request.get("remove") {
        let removed = match remove.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => injector.remove(Some(id)),
            None if remove == "all" => injector.remove(None),
            None => return Err("\"remove\" must be the id of a rule, or \"all\"".to_owned()),
        };
        return Ok(json!({"ok": true, "removed": removed}));
    }
    let Some(rule) = request.get("rule") else {
        return Ok(json!({"ok": true, "rules": injector.to_json()}));
    };
    let text = rule
        .as_str()
        .ok_or("\"rule\" must be a text, such as \"flr,vf0\"")?;
    let spec: InjectSpec = text.parse().map_err(|error| format!("{error}"))?;
    let id = injector
        .add(spec, card.elapsed())
        .map_err(|error| error.to_string())?;
    log::info!("{}inject {spec}: rule {id}", card.prefix);
    // The rule may have a time of its own.
    card.kick.ring();
    Ok(json!({"ok": true, "id": id}))
}
