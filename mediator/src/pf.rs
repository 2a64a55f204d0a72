//! The PF driver's connection: one at a time, paired by uid and token, never waited for.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mediator_protocol::{Decoder, Frame, FromPf, PfFeatures, RefuseReason, ToPf, Token, VERSION};

use crate::audit::Event;
use crate::bus::Bus;

/// Messages that may wait for the PF driver to read. Limits bound what VFs can put there: a PF
/// driver that lets it fill up does not read.
const MOST_WAITING: usize = 4096;
/// How long the PF driver may take to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the PF driver may leave messages unread while the socket is full.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a second PF driver waits for the first to be gone before it is refused.
const SUCCESSION: Duration = Duration::from_millis(500);

/// What a PF connection acts on.
pub(crate) trait PfEvents: Sync {
    /// A PF driver is connected.
    fn connected(&self);
    /// It says something other than Hello.
    fn message(&self, message: FromPf);
    /// It is gone.
    fn gone(&self);
    /// For the audit log.
    fn record(&self, event: Event);
}

/// The way to the PF driver, if there is one.
#[derive(Default)]
pub(crate) struct PfLink {
    current: Mutex<Option<Arc<Outbox>>>,
    freed: Condvar,
}

impl PfLink {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Outbox>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queue a message; false if no PF driver is there. Never waits.
    pub(crate) fn send(&self, message: ToPf) -> bool {
        let outbox = self.lock().clone();
        outbox.is_some_and(|outbox| outbox.push(message))
    }

    /// Is a PF driver there?
    pub(crate) fn is_connected(&self) -> bool {
        self.lock().is_some()
    }

    /// Let the connection end once everything that waits is sent.
    pub(crate) fn finish(&self) {
        if let Some(outbox) = &*self.lock() {
            outbox.end(End::AfterSending);
        }
    }

    /// Become the PF driver, if there is none. One that was killed a moment ago may not have been
    /// noticed yet, so a successor waits a little.
    fn claim(&self, outbox: &Arc<Outbox>) -> bool {
        let (mut current, _) = self
            .freed
            .wait_timeout_while(self.lock(), SUCCESSION, |current| current.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        let free = current.is_none();
        if free {
            *current = Some(Arc::clone(outbox));
        }
        free
    }

    fn release(&self) {
        *self.lock() = None;
        self.freed.notify_one();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    AfterSending,
    Now,
}

struct Waiting {
    messages: VecDeque<ToPf>,
    end: End,
}

/// What waits to be sent on one connection.
struct Outbox {
    stream: UnixStream,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, message: ToPf) -> bool {
        let mut waiting = self.lock();
        if waiting.end != End::No {
            return false;
        }
        if waiting.messages.len() >= MOST_WAITING {
            drop(waiting);
            log::error!("the PF driver does not read its messages: its connection ends");
            self.end(End::Now);
            return false;
        }
        waiting.messages.push_back(message);
        drop(waiting);
        self.changed.notify_one();
        true
    }

    fn end(&self, end: End) {
        self.lock().end = end;
        self.changed.notify_one();
        if end == End::Now {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing more is received: what is still to be sent is sent only if that was asked for.
    fn received_all(&self) {
        let mut waiting = self.lock();
        if waiting.end == End::No {
            waiting.end = End::Now;
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Send what is pushed, until the end.
    fn send_all(&self) {
        let mut bytes = Vec::new();
        loop {
            let end = {
                let mut waiting = self.lock();
                while waiting.messages.is_empty() && waiting.end == End::No {
                    waiting = self
                        .changed
                        .wait(waiting)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                bytes.clear();
                for message in waiting.messages.drain(..) {
                    message.encode(&mut bytes);
                }
                waiting.end
            };
            if end == End::Now {
                return;
            }
            if let Err(error) = (&self.stream).write_all(&bytes) {
                log::warn!("cannot send to the PF driver: {error}");
                return self.end(End::Now);
            }
            if end == End::AfterSending {
                let _ = self.stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// Connections to the PF socket that may exist at a time, those included that have not said Hello.
const MOST_CONNECTIONS: usize = 8;

/// Takes the PF driver's connections.
pub(crate) struct PfPort {
    token: Option<Token>,
    live: Mutex<Vec<(UnixStream, JoinHandle<()>)>>,
}

impl PfPort {
    pub(crate) fn new(token: Option<Token>) -> Self {
        Self {
            token,
            live: Mutex::default(),
        }
    }

    /// Serve a connection on a thread of its own. `ours`: the peer is of our user.
    pub(crate) fn open(&self, stream: UnixStream, ours: bool, bus: &Arc<Bus>) -> io::Result<()> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|(_, thread)| !thread.is_finished());
        if !ours {
            refuse(&stream, RefuseReason::Credentials, bus.as_ref());
            return Ok(());
        }
        if live.len() >= MOST_CONNECTIONS {
            refuse(&stream, RefuseReason::Occupied, bus.as_ref());
            return Ok(());
        }
        let (handle, bus, token) = (stream.try_clone()?, Arc::clone(bus), self.token);
        let thread = std::thread::Builder::new()
            .name("pf-receive".into())
            .spawn(move || serve(stream, &bus.core.pf, token, bus.as_ref()))?;
        live.push((handle, thread));
        Ok(())
    }

    /// End every connection and wait for it; what waits for the PF driver is sent first.
    pub(crate) fn close(&self, link: &PfLink) {
        link.finish();
        let live = std::mem::take(&mut *self.live.lock().unwrap_or_else(PoisonError::into_inner));
        for (stream, thread) in live {
            let _ = stream.shutdown(Shutdown::Read);
            let _ = thread.join();
        }
    }
}

/// Serve a connection to its end. `token`: what the PF driver must show.
pub(crate) fn serve(
    stream: UnixStream,
    link: &PfLink,
    token: Option<Token>,
    events: &dyn PfEvents,
) {
    let mut decoder = Decoder::new();
    let features = match greet(&stream, &mut decoder, token) {
        Ok(features) => features,
        Err(None) => return,
        Err(Some(reason)) => return refuse(&stream, reason, events),
    };
    let outbox = match stream.try_clone() {
        Ok(stream) => Arc::new(Outbox {
            stream,
            waiting: Mutex::new(Waiting {
                messages: VecDeque::new(),
                end: End::No,
            }),
            changed: Condvar::new(),
        }),
        Err(error) => return log::error!("no descriptor for the PF driver's connection: {error}"),
    };
    outbox.push(ToPf::Welcome {
        version: VERSION,
        features,
    });
    if !link.claim(&outbox) {
        return refuse(&stream, RefuseReason::Occupied, events);
    }
    log::info!("PF driver connected");
    events.record(Event::PfConnected);
    events.connected();
    let reason = std::thread::scope(|scope| {
        let sender = std::thread::Builder::new()
            .name("pf-send".into())
            .spawn_scoped(scope, || outbox.send_all());
        let reason = match sender {
            Ok(_) => receive(&stream, &mut decoder, events),
            Err(error) => format!("no thread to send with: {error}"),
        };
        outbox.received_all();
        reason
    });
    // From here on nothing can be sent; then what waits for an answer is answered; and only then
    // may the next PF driver come.
    events.gone();
    link.release();
    log::warn!("PF driver gone: {reason}");
    events.record(Event::PfGone { reason });
}

/// Receive the Hello. `Err(None)`: the peer left.
fn greet(
    stream: &UnixStream,
    decoder: &mut Decoder,
    token: Option<Token>,
) -> Result<PfFeatures, Option<RefuseReason>> {
    let timeouts = stream
        .set_read_timeout(Some(HELLO_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(SEND_TIMEOUT)));
    if let Err(error) = timeouts {
        log::error!("cannot prepare the PF driver's socket: {error}");
        return Err(None);
    }
    let hello = loop {
        match decoder.next_frame::<FromPf>() {
            Ok(Some(message)) => break message,
            Ok(None) => fill(stream, decoder).map_err(|_| None)?,
            Err(_) => return Err(Some(RefuseReason::Malformed)),
        }
    };
    let FromPf::Hello {
        version,
        features,
        token: shown,
    } = hello
    else {
        return Err(Some(RefuseReason::Sequence));
    };
    if version != VERSION {
        return Err(Some(RefuseReason::Version));
    }
    if token.is_some_and(|token| token != shown) {
        return Err(Some(RefuseReason::Token));
    }
    stream.set_read_timeout(None).map_err(|_| None)?;
    Ok(features & PfFeatures::all())
}

/// Say why, and close.
pub(crate) fn refuse(mut stream: &UnixStream, reason: RefuseReason, events: &dyn PfEvents) {
    log::warn!("refused a connection to the PF socket: {}", reason.name());
    events.record(Event::PfRefused {
        reason: reason.name(),
    });
    let _ = stream.set_write_timeout(Some(SEND_TIMEOUT));
    let _ = stream.write_all(&ToPf::Refused { reason }.to_bytes());
    let _ = stream.shutdown(Shutdown::Both);
}

/// Receive until the connection ends; why it did.
fn receive(stream: &UnixStream, decoder: &mut Decoder, events: &dyn PfEvents) -> String {
    loop {
        match decoder.next_frame::<FromPf>() {
            Ok(Some(FromPf::Hello { .. })) => {
                refuse(stream, RefuseReason::Sequence, events);
                return "it said Hello twice".into();
            }
            Ok(Some(message)) => events.message(message),
            Ok(None) => {
                if let Err(reason) = fill(stream, decoder) {
                    return reason;
                }
            }
            Err(error) => {
                refuse(stream, RefuseReason::Malformed, events);
                return format!("it sent bytes that are no message: {error}");
            }
        }
    }
}

fn fill(mut stream: &UnixStream, decoder: &mut Decoder) -> Result<(), String> {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Err("it closed the connection".into()),
            Ok(count) => {
                decoder.push(&bytes[..count]);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pf_driver_that_does_not_read_is_given_up() {
        let (stream, _theirs) = UnixStream::pair().unwrap();
        let waiting = Waiting {
            messages: VecDeque::new(),
            end: End::No,
        };
        let outbox = Outbox {
            stream,
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
        };
        let message = ToPf::Attached {
            vf: 0,
            generation: 1,
        };
        let taken = (0..2 * MOST_WAITING)
            .filter(|_| outbox.push(message))
            .count();
        assert_eq!(taken, MOST_WAITING);
        assert!(outbox.lock().end == End::Now);
    }
}
