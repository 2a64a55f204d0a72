//! The control socket: one JSON object per line, each way.
//!
//! A request is `{"op": NAME, …}`; its answer `{"ok": true, …}` or `{"ok": false, "error": …}`. A
//! client's requests are answered in their order; clients do not wait for one another.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt as _, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The longest request line: a raw frame of 9 KiB in hex fits.
const MOST_LINE: usize = 64 * 1024;
/// The most clients at once.
const MOST_CLIENTS: usize = 32;

/// Why a control socket could not be offered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process serves it.
    #[error("{0} is served by another process; stop that one or choose another --control")]
    InUse(PathBuf),
    /// Something that is no socket has the name.
    #[error("{0} exists and is no socket; choose another --control, or remove it")]
    NotASocket(PathBuf),
    /// It could not be created.
    #[error(
        "the control socket {path} cannot be created; its directory must exist and be writable"
    )]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The server's side of a control socket. Removes the socket when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    clients: Vec<Client>,
    next_id: u64,
}

#[derive(Debug)]
struct Client {
    id: u64,
    stream: UnixStream,
    input: Vec<u8>,
    output: VecDeque<u8>,
    busy: bool,
    closed: bool,
}

/// A request and whom to answer.
#[derive(Debug)]
pub struct Request {
    /// The client that asked; one request of it is under way at a time.
    pub client: u64,
    /// What it asked.
    pub body: Value,
}

impl ControlSocket {
    /// Listen at `path`, for this user only. A socket that nobody serves any more is replaced.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Bind {
            path: path.into(),
            source,
        };
        // Only a socket is ever replaced: the name may be that of a file by mistake.
        let is_socket = |metadata: std::fs::Metadata| FileTypeExt::is_socket(&metadata.file_type());
        if std::fs::symlink_metadata(path).is_ok_and(|metadata| !is_socket(metadata)) {
            return Err(ControlError::NotASocket(path.into()));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(ControlError::InUse(path.into()));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Bound under another name and renamed when it listens: who waits for the name to appear
        // can connect at once.
        let unready = path.with_file_name(format!(".{:x}.ctl", std::process::id()));
        let listener = UnixListener::bind(&unready).map_err(failed)?;
        let renamed = std::fs::set_permissions(&unready, PermissionsExt::from_mode(0o600))
            .and_then(|()| std::fs::rename(&unready, path));
        if let Err(error) = renamed {
            let _ = std::fs::remove_file(&unready);
            return Err(failed(error));
        }
        listener.set_nonblocking(true).map_err(failed)?;
        let inode = std::fs::metadata(path).map_err(failed)?.ino();
        Ok(Self {
            listener,
            path: path.into(),
            inode,
            clients: Vec::new(),
            next_id: 0,
        })
    }

    /// The descriptors that become readable when [`Self::requests`] has something to do.
    pub fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        let clients = self.clients.iter().filter(|client| !client.busy);
        let accepting = (self.clients.len() < MOST_CLIENTS).then(|| self.listener.as_fd());
        accepting
            .into_iter()
            .chain(clients.map(|client| client.stream.as_fd()))
            .collect()
    }

    /// Whether a client's next request is here already: no descriptor will tell of it.
    pub fn has_more(&self) -> bool {
        let whole = |client: &Client| !client.busy && client.input.contains(&b'\n');
        self.clients.iter().any(whole)
    }

    /// Take the requests that have arrived, at most one of each client. Clients that have gone are
    /// listed in `gone`.
    pub fn requests(&mut self, gone: &mut Vec<u64>) -> Vec<Request> {
        while self.clients.len() < MOST_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                break;
            };
            if stream.set_nonblocking(true).is_ok() {
                let (input, output) = (Vec::new(), VecDeque::new());
                let id = self.next_id;
                self.next_id += 1;
                self.clients.push(Client {
                    id,
                    stream,
                    input,
                    output,
                    busy: false,
                    closed: false,
                });
            }
        }
        let mut requests = Vec::new();
        for client in self.clients.iter_mut().filter(|client| !client.busy) {
            match client.next_request() {
                Some(Ok(body)) => {
                    client.busy = true;
                    requests.push(Request {
                        client: client.id,
                        body,
                    });
                }
                Some(Err(error)) => client.say(&refusal(&error)),
                None => {}
            }
        }
        self.clients.retain_mut(|client| {
            client.write();
            if client.closed && !client.busy {
                gone.push(client.id);
            }
            !client.closed || client.busy
        });
        requests
    }

    /// Answer a client's request.
    pub fn answer(&mut self, client: u64, answer: Result<Value, String>) {
        let Some(client) = self.clients.iter_mut().find(|other| other.id == client) else {
            return;
        };
        client.busy = false;
        match answer {
            Ok(mut body) => {
                if let Some(object) = body.as_object_mut() {
                    object.insert("ok".into(), json!(true));
                } else {
                    body = json!({"ok": true, "value": body});
                }
                client.say(&body);
            }
            Err(error) => client.say(&refusal(&error)),
        }
    }
}

fn refusal(error: &str) -> Value {
    json!({"ok": false, "error": error})
}

impl Client {
    /// The next whole line as JSON; reads what has arrived, up to the longest line.
    fn next_request(&mut self) -> Option<Result<Value, String>> {
        let mut chunk = [0; 4096];
        while !self.closed && self.input.len() <= MOST_LINE && !self.input.contains(&b'\n') {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.closed = true,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.closed = true,
            }
        }
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            if self.input.len() > MOST_LINE {
                self.input.clear();
                self.closed = true;
                return Some(Err(format!("a request has at most {MOST_LINE} bytes")));
            }
            return None;
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        Some(
            serde_json::from_slice(&line)
                .map_err(|error| format!("this is no JSON object: {error}")),
        )
    }

    fn say(&mut self, answer: &Value) {
        self.output.extend(answer.to_string().into_bytes());
        self.output.push_back(b'\n');
        self.write();
    }

    /// Write what the client takes now. One that reads nothing for the size of many answers is
    /// dropped.
    fn write(&mut self) {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match self.stream.write(front) {
                Ok(count) if count > 0 => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.output.len() > 64 * MOST_LINE {
                        self.output.clear();
                        self.closed = true;
                    }
                    return;
                }
                _ => {
                    self.output.clear();
                    self.closed = true;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Only if it is still ours: another process may have replaced it.
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    fn socket() -> (tempfile::TempDir, PathBuf, ControlSocket) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctl");
        let socket = ControlSocket::bind(&path).unwrap();
        (dir, path, socket)
    }

    fn line(stream: &UnixStream) -> Value {
        let mut text = String::new();
        BufReader::new(stream).read_line(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn answers_each_client_and_refuses_garbage() {
        let (_dir, path, mut socket) = socket();
        let mut gone = Vec::new();
        let mut good = UnixStream::connect(&path).unwrap();
        let mut bad = UnixStream::connect(&path).unwrap();
        good.write_all(b"{\"op\":\"info\"}\n").unwrap();
        bad.write_all(b"nonsense\n").unwrap();
        let requests = socket.requests(&mut gone);
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].body["op"], "info");
        socket.answer(requests[0].client, Ok(json!({"mac": "x"})));
        assert_eq!(line(&good), json!({"ok": true, "mac": "x"}));
        assert_eq!(line(&bad)["ok"], false);
        drop((good, bad));
        socket.requests(&mut gone);
        assert_eq!(gone.len(), 2);
    }

    #[test]
    fn requests_that_came_together_are_all_answered() {
        let (_dir, path, mut socket) = socket();
        let mut gone = Vec::new();
        let mut client = UnixStream::connect(&path).unwrap();
        client
            .write_all(b"{\"op\":1}\nnonsense\n{\"op\":2}\n")
            .unwrap();
        let mut answered = Vec::new();
        for _ in 0..3 {
            for request in socket.requests(&mut gone) {
                assert!(!socket.has_more(), "not before the answer to this one");
                answered.push(request.body["op"].clone());
                socket.answer(request.client, Ok(json!({})));
            }
            if !socket.has_more() {
                break;
            }
        }
        assert_eq!(answered, [1, 2]);
        assert!(!socket.has_more());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(
            ControlSocket::bind(&path),
            Err(ControlError::NotASocket(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"{}");
    }

    #[test]
    fn an_endless_line_is_refused_and_ends_the_client() {
        let (_dir, path, mut socket) = socket();
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut gone = Vec::new();
        let chunk = [b'x'; 8192];
        for _ in 0..64 {
            let _ = client.write(&chunk);
            assert!(socket.requests(&mut gone).is_empty());
            if !gone.is_empty() {
                return;
            }
        }
        panic!("the client is still served");
    }

    #[test]
    fn a_served_socket_is_not_taken_over_and_a_dead_one_is() {
        let (_dir, path, socket) = socket();
        assert!(matches!(
            ControlSocket::bind(&path),
            Err(ControlError::InUse(_))
        ));
        drop(socket);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        ControlSocket::bind(&path).unwrap();
    }
}
