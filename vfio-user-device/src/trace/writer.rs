//! Writes a trace without holding the card up: a bounded queue and a thread of its own.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use igb_model::Port;

use super::entry::{Entry, Event, What};
use super::record::{AccessRecord, EventRecord};
use super::repeats::Repeats;
use crate::lock;

/// Records that may wait for the disk.
const QUEUE_LEN: usize = 64 * 1024;
/// Entries kept by a trace in memory.
const MOST_IN_MEMORY: usize = 1 << 20;
/// A poll may be told this late.
const HELD: Duration = Duration::from_millis(100);

const HEADER: &str = "# vfio-user-device trace 2: seconds, function, Read or Write, region, place, value, fields; \
     or seconds, function, #, event\n";

/// Why a trace could not start.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be created.
    #[error("cannot create the trace file {path}: {source}")]
    Create {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// No writer thread.
    #[error("cannot start the thread that writes the trace: {0}")]
    Thread(io::Error),
}

enum Record {
    Access(AccessRecord),
    Event {
        at: Duration,
        port: Option<Port>,
        event: EventRecord,
    },
    /// Everything before it is to be written; then answer.
    Sync(SyncSender<()>),
    End,
}

struct Message {
    prefix: Arc<str>,
    record: Record,
    /// Records that found no room before this one.
    lost_before: u64,
}

/// Where entries go.
enum Sink {
    File(BufWriter<File>),
    Memory(Arc<Mutex<Vec<Entry>>>),
}

impl Sink {
    fn put(&mut self, entry: Entry) -> io::Result<()> {
        match self {
            Sink::File(file) => writeln!(file, "{entry}"),
            Sink::Memory(entries) => {
                let mut entries = lock(entries);
                if entries.len() < MOST_IN_MEMORY {
                    entries.push(entry);
                }
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::File(file) => file.flush(),
            Sink::Memory(_) => Ok(()),
        }
    }
}

/// A trace of one or several cards, into a file or into memory.
pub struct Trace {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
    entries: Arc<Mutex<Vec<Entry>>>,
    /// Frames are traced too.
    frames: bool,
}

impl Trace {
    /// Trace into a file; with `frames`, frames at every port too.
    pub fn create(path: &Path, frames: bool) -> Result<Arc<Self>, TraceError> {
        let shown = || path.display().to_string();
        let created = |source| TraceError::Create {
            path: shown(),
            source,
        };
        let mut file = BufWriter::new(File::create(path).map_err(created)?);
        file.write_all(HEADER.as_bytes()).map_err(created)?;
        Self::start(Sink::File(file), shown(), frames, Arc::default())
    }

    /// Trace into memory, for [`Self::entries`]; the first million entries are kept.
    pub fn in_memory(frames: bool) -> Result<Arc<Self>, TraceError> {
        let entries = Arc::default();
        let sink = Sink::Memory(Arc::clone(&entries));
        Self::start(sink, "in memory".to_owned(), frames, entries)
    }

    fn start(
        sink: Sink,
        name: String,
        frames: bool,
        entries: Arc<Mutex<Vec<Entry>>>,
    ) -> Result<Arc<Self>, TraceError> {
        let (records, queue) = mpsc::sync_channel(QUEUE_LEN);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            sink,
            repeats: Repeats::default(),
            last: (Duration::ZERO, "".into()),
            lost: Arc::clone(&lost),
        };
        let writer = thread::Builder::new()
            .name("trace".to_owned())
            .spawn(move || {
                if let Err(error) = writer.run(&queue) {
                    log::error!("trace {name}: {error}; it ends here");
                }
            })
            .map_err(TraceError::Thread)?;
        Ok(Arc::new(Self {
            queue: records,
            lost,
            writer: Mutex::new(Some(writer)),
            entries,
            frames,
        }))
    }

    /// A handle for one card; `prefix` stands before the names of its functions.
    pub(crate) fn tracer(&self, prefix: &str) -> Tracer {
        Tracer {
            queue: self.queue.clone(),
            lost: Arc::clone(&self.lost),
            prefix: prefix.into(),
            frames: self.frames,
        }
    }

    fn send(&self, record: Record) -> bool {
        let message = Message {
            prefix: "".into(),
            record,
            lost_before: 0,
        };
        // Fails only if the writer has ended by itself.
        self.queue.send(message).is_ok()
    }

    /// Wait until everything that has happened so far is written.
    pub fn sync(&self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.send(Record::Sync(done)) {
            // Without an answer the writer has ended.
            let _ = written.recv();
        }
    }

    /// What has been traced so far, if the trace is in memory.
    pub fn entries(&self) -> Vec<Entry> {
        self.sync();
        lock(&self.entries).clone()
    }

    /// Write what is queued and end the trace.
    pub fn finish(&self) {
        if let Some(writer) = lock(&self.writer).take() {
            self.send(Record::End);
            // A panic there was reported by the panic hook.
            let _ = writer.join();
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.finish();
    }
}

/// One card's hand on a [`Trace`]. Nothing here waits.
pub(crate) struct Tracer {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    prefix: Arc<str>,
    frames: bool,
}

impl Tracer {
    pub(crate) fn traces_frames(&self) -> bool {
        self.frames
    }

    pub(crate) fn access(&self, record: AccessRecord) {
        self.send(Record::Access(record));
    }

    pub(crate) fn event(&self, at: Duration, port: Option<Port>, event: EventRecord) {
        self.send(Record::Event { at, port, event });
    }

    fn send(&self, record: Record) {
        let message = Message {
            prefix: Arc::clone(&self.prefix),
            record,
            lost_before: self.lost.swap(0, Ordering::Relaxed),
        };
        if let Err(error) = self.queue.try_send(message) {
            let (mpsc::TrySendError::Full(message) | mpsc::TrySendError::Disconnected(message)) =
                error;
            self.lost
                .fetch_add(message.lost_before + 1, Ordering::Relaxed);
        }
    }
}

/// The thread that writes.
struct Writer {
    sink: Sink,
    repeats: Repeats,
    /// Time and card of the last record, for a line about what is missing after it.
    last: (Duration, Arc<str>),
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Message>) -> io::Result<()> {
        loop {
            let message = match queue.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => match queue.recv_timeout(HELD) {
                    Ok(message) => message,
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {
                        // Let a reader of the file see all there is.
                        self.catch_up()?;
                        match queue.recv() {
                            Ok(message) => message,
                            Err(_) => break,
                        }
                    }
                },
            };
            self.missing(message.lost_before)?;
            match message.record {
                Record::End => break,
                Record::Sync(done) => {
                    self.catch_up()?;
                    // Nobody waits for it any more if this fails.
                    let _ = done.send(());
                }
                Record::Access(record) => {
                    for entry in self.repeats.push(&message.prefix, record) {
                        entry.map_or(Ok(()), |entry| self.sink.put(entry))?;
                    }
                    self.last = (record.at, message.prefix);
                }
                Record::Event { at, port, event } => {
                    self.release()?;
                    self.sink.put(event.entry(at, &message.prefix, port))?;
                    self.last = (at, message.prefix);
                }
            }
        }
        self.catch_up()
    }

    fn release(&mut self) -> io::Result<()> {
        let held = self.repeats.flush();
        held.map_or(Ok(()), |entry| self.sink.put(entry))
    }

    fn missing(&mut self, count: u64) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.release()?;
        self.sink.put(Entry {
            at: self.last.0,
            who: format!("{}-", self.last.1),
            what: What::Event(Event {
                name: "lost".to_owned(),
                details: count.to_string(),
            }),
        })
    }

    fn catch_up(&mut self) -> io::Result<()> {
        self.release()?;
        let missing = self.lost.swap(0, Ordering::Relaxed);
        self.missing(missing)?;
        self.sink.flush()
    }
}

const _: () = assert!(mem::size_of::<Message>() <= 160, "the queue holds many");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::parse;
    use igb::FunctionId;
    use igb_model::CardRegion;

    fn access(n: u64) -> AccessRecord {
        let at = Duration::from_nanos(n);
        let place = (CardRegion::Config, 0);
        AccessRecord::new(at, FunctionId::PF, false, place, &n.to_le_bytes())
    }

    #[test]
    fn the_file_holds_every_line_when_it_is_finished() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("trace");
        let trace = Trace::create(&path, false).expect("a trace");
        let tracer = trace.tracer("card1/");
        for n in 0..100 {
            tracer.access(access(n));
        }
        let vf = Some(Port::Function(FunctionId::vf(2)));
        tracer.event(Duration::ZERO, vf, EventRecord::ResetDone);
        trace.finish();
        let text = std::fs::read_to_string(&path).expect("the file");
        let entries = parse(&text).expect("a trace").entries;
        assert_eq!(entries.len(), 101);
        assert!(
            text.ends_with("0.000000000 card1/vf2 # reset done\n"),
            "{text}"
        );
    }

    #[test]
    fn what_finds_no_room_is_counted_in_its_place_and_nothing_waits() {
        let (queue, records) = mpsc::sync_channel(3);
        let lost = Arc::new(AtomicU64::new(0));
        let tracer = Tracer {
            queue,
            lost: Arc::clone(&lost),
            prefix: "".into(),
            frames: false,
        };
        (0..10).for_each(|n| tracer.access(access(n)));
        let first: Vec<Message> = (0..2).map(|_| records.recv().expect("one")).collect();
        assert!(first.iter().all(|message| message.lost_before == 0));
        tracer.access(access(10));
        let entries = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer {
            sink: Sink::Memory(Arc::clone(&entries)),
            repeats: Repeats::default(),
            last: (Duration::ZERO, "".into()),
            lost,
        };
        (0..5).for_each(|n| tracer.access(access(n)));
        drop(tracer);
        writer.run(&records).expect("written");
        let told: Vec<String> = lock(&entries).iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 5, "{told:#?}");
        assert!(told[0].contains(" R config"));
        assert_eq!(told[1], "0.000000002 -    # lost 7");
        assert!(told[2].starts_with("0.000000010 pf   R"));
        // One of the five found room.
        assert!(told[3].starts_with("0.000000000 pf   R"));
        assert_eq!(told[4], "0.000000000 -    # lost 4");
    }

    #[test]
    fn entries_in_memory_are_there_when_asked_for() {
        let trace = Trace::in_memory(false).expect("a trace");
        let tracer = trace.tracer("");
        (0..3).for_each(|_| tracer.access(access(1)));
        let entries = trace.entries();
        assert_eq!(entries.len(), 1);
        assert!(
            matches!(&entries[0].what, What::Access(access) if access.repeats == 3),
            "{entries:?}"
        );
    }
}
