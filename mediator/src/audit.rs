//! The audit log: what every VF asked, and what became of it, as JSON lines.
//!
//! Writing never holds anybody up: records go through a bounded queue to a thread of their own. When
//! the disk is slow or full, records are dropped and counted, and the count is written as soon as
//! writing works again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use mediator_protocol::RequestBody;
use serde::Serialize;

/// Records that may wait for the disk.
const QUEUE: usize = 4096;

/// What was asked. Never its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A mailbox message.
    Mailbox {
        /// Its type: bits 15:0 of word 0.
        message: u16,
    },
    /// A config block was read.
    ReadBlock {
        /// Block id.
        block: u32,
        /// Bytes asked for.
        length: u8,
    },
    /// A config block was written.
    WriteBlock {
        /// Block id.
        block: u32,
        /// Bytes written.
        length: u8,
    },
    /// A command that the mediator's BAR refused itself.
    Refused,
}

impl Kind {
    /// The kind of a request.
    pub fn of(body: &RequestBody) -> Self {
        match *body {
            RequestBody::Mailbox(words) => Self::Mailbox {
                message: (words[0] & igb::mailbox::ID_MASK) as u16,
            },
            RequestBody::ReadBlock { block, length } => Self::ReadBlock { block, length },
            RequestBody::WriteBlock { block, data } => Self::WriteBlock {
                block,
                length: data.len() as u8,
            },
        }
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A VF's request has ended.
    Request {
        /// Which slot.
        slot: u16,
        /// The VF's generation.
        generation: u32,
        /// Number of the request, as the PF driver saw it; 0 if it never got one.
        id: u64,
        /// What was asked.
        #[serde(flatten)]
        kind: Kind,
        /// How it ended.
        verdict: &'static str,
        /// From request to answer, microseconds.
        latency_us: u64,
    },
    /// Requests were refused because the VF asks too often; counted since the last such record.
    RateLimited {
        /// Which slot.
        slot: u16,
        /// The VF's generation.
        generation: u32,
        /// How many.
        requests: u64,
    },
    /// The VF was reset.
    Reset {
        /// Which slot.
        slot: u16,
        /// The generation that begins.
        generation: u32,
        /// What reset it.
        cause: &'static str,
    },
    /// A tenant came.
    Attach {
        /// Which slot.
        slot: u16,
        /// The VF's generation.
        generation: u32,
    },
    /// The tenant left.
    Detach {
        /// Which slot.
        slot: u16,
        /// The generation that ends.
        generation: u32,
    },
    /// The VF is on the virtual bus.
    Present {
        /// Which slot.
        slot: u16,
        /// Its serial.
        serial: u64,
        /// The card's own mailbox: "closed" by the card, or "fenced" by the mediator alone.
        backchannel: &'static str,
    },
    /// The guest was asked to let go.
    Eject {
        /// Which slot.
        slot: u16,
        /// How long it may take, ms.
        timeout_ms: u64,
    },
    /// The VF has left the virtual bus.
    Absent {
        /// Which slot.
        slot: u16,
        /// Why.
        reason: &'static str,
        /// Did the guest let go first?
        graceful: bool,
    },
    /// The PF driver answered something that nothing waits for.
    StaleReply {
        /// Which slot.
        slot: u16,
        /// The generation it named.
        generation: u32,
        /// The request it named.
        id: u64,
    },
    /// The PF driver's answer does not fit its request.
    MalformedReply {
        /// Which slot.
        slot: u16,
        /// The request.
        id: u64,
    },
    /// A PF driver is connected.
    PfConnected,
    /// The PF driver's connection has ended.
    PfGone {
        /// Why.
        reason: String,
    },
    /// A connection to the PF socket was refused.
    PfRefused {
        /// Why.
        reason: &'static str,
    },
    /// Records were lost because the log could not be written.
    Dropped {
        /// How many.
        records: u64,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    time: f64,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(f64, Event)>,
    dropped: u64,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log. Dropping it writes what waits and ends its thread.
pub struct Audit {
    shared: Option<Arc<Shared>>,
    writer: Option<JoinHandle<()>>,
}

impl Audit {
    /// A log that keeps nothing.
    pub fn none() -> Self {
        Self {
            shared: None,
            writer: None,
        }
    }

    /// Append to a file, which only the owner may read.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let file: File = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        Self::to_writer(file)
    }

    /// Write to anything.
    pub fn to_writer(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || write_all(&of_thread, &mut out))?;
        Ok(Self {
            shared: Some(shared),
            writer: Some(writer),
        })
    }

    /// Add a record. Never waits.
    pub fn record(&self, event: Event) {
        let Some(shared) = &self.shared else { return };
        let mut queue = shared.lock();
        if queue.waiting.len() >= QUEUE {
            queue.dropped += 1;
            return;
        }
        queue.waiting.push_back((now(), event));
        drop(queue);
        shared.changed.notify_one();
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.lock().closed = true;
            shared.changed.notify_one();
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_micros() as f64 / 1e6)
}

fn write_all(shared: &Shared, out: &mut dyn Write) {
    let mut lost = 0;
    let (mut failing, mut torn) = (false, false);
    loop {
        let (records, closed) = {
            let mut queue = shared.lock();
            while queue.waiting.is_empty() && !queue.closed {
                queue = shared
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            lost += std::mem::take(&mut queue.dropped);
            (std::mem::take(&mut queue.waiting), queue.closed)
        };
        let mut text = Vec::new();
        let dropped = u64::from(lost > 0);
        if lost > 0 {
            push_line(&mut text, now(), &Event::Dropped { records: lost });
        }
        for (time, event) in &records {
            push_line(&mut text, *time, event);
        }
        let (done, result) = if torn {
            // A disk that fills up takes half a line; the next one is whole again.
            match out.write_all(b"\n") {
                Ok(()) => write_counted(out, &text),
                Err(error) => (0, Err(error)),
            }
        } else {
            write_counted(out, &text)
        };
        if let Some(last) = text[..done].last() {
            torn = *last != b'\n';
        }
        match result.and_then(|()| out.flush()) {
            Ok(()) => {
                lost = 0;
                failing = false;
            }
            Err(error) => {
                let lines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count() as u64;
                let unwritten = lines(&text[done..]);
                if dropped == 1 && unwritten < lines(&text) {
                    // That some were lost is said; these come on top.
                    lost = unwritten;
                } else {
                    lost += unwritten - dropped;
                }
                if !std::mem::replace(&mut failing, true) {
                    log::error!("cannot write the audit log: {error}; records are being dropped");
                }
            }
        }
        if closed {
            return;
        }
    }
}

/// As `write_all`, and how many bytes were written.
fn write_counted(out: &mut dyn Write, text: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < text.len() {
        match out.write(&text[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

fn push_line(text: &mut Vec<u8>, time: f64, event: &Event) {
    match serde_json::to_writer(&mut *text, &Line { time, event }) {
        Ok(()) => text.push(b'\n'),
        Err(error) => log::error!("a record of the audit log cannot be written as JSON: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A disk that can be full.
    struct Disk {
        written: Arc<Mutex<Vec<u8>>>,
        full: Arc<Mutex<bool>>,
        attempts: mpsc::Sender<()>,
    }

    impl Write for Disk {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let full = *self.full.lock().unwrap();
            let _ = self.attempts.send(());
            if full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_records_but_nothing_else() {
        let (written, full) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(true)));
        let (attempts, attempted) = mpsc::channel();
        let audit = Audit::to_writer(Disk {
            written: Arc::clone(&written),
            full: Arc::clone(&full),
            attempts,
        })
        .unwrap();
        audit.record(Event::PfConnected);
        attempted.recv().unwrap();
        *full.lock().unwrap() = false;
        audit.record(Event::Attach {
            slot: 1,
            generation: 2,
        });
        drop(audit);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            (&lines[0]["event"], &lines[0]["records"]),
            (&"dropped".into(), &1.into()),
            "{text}"
        );
        assert_eq!(
            (&lines[1]["event"], &lines[1]["slot"]),
            (&"attach".into(), &1.into()),
            "{text}"
        );
    }

    /// A disk with room for so many bytes.
    struct Room {
        written: Arc<Mutex<Vec<u8>>>,
        room: Arc<Mutex<usize>>,
        failed: mpsc::Sender<()>,
    }

    impl Write for Room {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let mut room = self.room.lock().unwrap();
            let count = data.len().min(*room);
            if count == 0 {
                let _ = self.failed.send(());
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= count;
            self.written
                .lock()
                .unwrap()
                .extend_from_slice(&data[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn half_a_record_on_a_full_disk_spoils_no_other() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let room = Arc::new(Mutex::new(10));
        let (failed, fails) = mpsc::channel();
        let audit = Audit::to_writer(Room {
            written: Arc::clone(&written),
            room: Arc::clone(&room),
            failed,
        })
        .unwrap();
        audit.record(Event::PfConnected);
        fails.recv().unwrap();
        audit.record(Event::PfConnected);
        fails.recv().unwrap();
        *room.lock().unwrap() = usize::MAX;
        audit.record(Event::Attach {
            slot: 1,
            generation: 2,
        });
        drop(audit);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(
            (&lines[0]["event"], &lines[0]["records"]),
            (&"dropped".into(), &2.into()),
            "{text}"
        );
        assert_eq!(lines[1]["event"], "attach", "{text}");
    }

    #[test]
    fn a_request_record_says_what_but_not_the_content() {
        let body = RequestBody::WriteBlock {
            block: 64,
            data: mediator_protocol::BlockData::new(&[0xAB; 9]).unwrap(),
        };
        let event = Event::Request {
            slot: 0,
            generation: 3,
            id: 4,
            kind: Kind::of(&body),
            verdict: "Denied",
            latency_us: 5,
        };
        let line = serde_json::to_value(Line {
            time: 1.5,
            event: &event,
        })
        .unwrap();
        let expected = serde_json::json!({
            "time": 1.5, "event": "request", "slot": 0, "generation": 3, "id": 4,
            "kind": "write-block", "block": 64, "length": 9, "verdict": "Denied", "latency_us": 5,
        });
        assert_eq!(line, expected);
    }
}
