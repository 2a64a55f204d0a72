//! A trace of every access to the card: one line each, by name.
//!
//! ```text
//! 0.000123456 pf   W bar0   CTRL 0x04000040 {SLU RST}
//! 0.000130011 vf0  R bar0   VTEITR[2] 0x00000000
//! 0.000140020 vf1  W config 0x004/2 COMMAND 0x0004
//! ```
//! Seconds since the card started, function, R(ead) or W(rite), region, what was accessed, its
//! value, and the fields of it that are not 0. An access that is not one whole register shows its
//! length in bytes after a slash. Resets and other events stand in lines that begin with `#` after
//! the time. Lines are written by a thread of their own; if the disk is too slow, a line says how
//! many accesses are missing.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use igb::{FunctionId, vf};
use igb_model::CardRegion;

use crate::lock;
use crate::names::{config_name, function_name, write_msix_name};

/// Accesses that may wait for the disk.
const QUEUE_LEN: usize = 64 * 1024;
/// Data of an access that is shown; register accesses are at most this long.
const SHOWN: usize = 8;

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
    #[error("cannot start the thread that writes the trace file: {0}")]
    Thread(io::Error),
}

/// One access.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccessRecord {
    /// Since the card started.
    pub(crate) at: Duration,
    pub(crate) function: FunctionId,
    pub(crate) write: bool,
    pub(crate) region: CardRegion,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    data: [u8; SHOWN],
}

impl AccessRecord {
    pub(crate) fn new(
        at: Duration,
        function: FunctionId,
        write: bool,
        (region, offset): (CardRegion, u64),
        data: &[u8],
    ) -> Self {
        let mut shown = [0; SHOWN];
        for (to, from) in shown.iter_mut().zip(data) {
            *to = *from;
        }
        Self {
            at,
            function,
            write,
            region,
            offset,
            len: data.len(),
            data: shown,
        }
    }
}

enum Record {
    Access(AccessRecord),
    Event {
        at: Duration,
        function: Option<FunctionId>,
        text: String,
    },
    End,
}

/// A trace file that is being written, by one or several cards.
pub struct TraceFile {
    records: SyncSender<(Arc<str>, Record)>,
    lost: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl TraceFile {
    /// Create the file.
    pub fn create(path: &Path) -> Result<Arc<Self>, TraceError> {
        let shown = || path.display().to_string();
        let file = File::create(path).map_err(|source| TraceError::Create {
            path: shown(),
            source,
        })?;
        let (records, queue) = mpsc::sync_channel(QUEUE_LEN);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = thread::Builder::new()
            .name("trace".to_owned())
            .spawn({
                let (path, lost) = (shown(), Arc::clone(&lost));
                move || {
                    if let Err(error) = write_lines(BufWriter::new(file), &queue, &lost) {
                        log::error!("trace file {path}: {error}; the trace ends here");
                    }
                }
            })
            .map_err(TraceError::Thread)?;
        Ok(Arc::new(Self {
            records,
            lost,
            writer: Mutex::new(Some(writer)),
        }))
    }

    /// A handle for one card; `prefix` stands before the names of its functions.
    pub(crate) fn tracer(&self, prefix: &str) -> Tracer {
        Tracer {
            records: self.records.clone(),
            lost: Arc::clone(&self.lost),
            prefix: prefix.into(),
        }
    }

    /// Write what is queued and end the file.
    pub fn finish(&self) {
        if let Some(writer) = lock(&self.writer).take() {
            // Fails only if the writer has ended by itself.
            let _ = self.records.send(("".into(), Record::End));
            // A panic there was reported by the panic hook.
            let _ = writer.join();
        }
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Writes into a [`TraceFile`] without waiting for the disk.
pub(crate) struct Tracer {
    records: SyncSender<(Arc<str>, Record)>,
    lost: Arc<AtomicU64>,
    prefix: Arc<str>,
}

impl Tracer {
    pub(crate) fn access(&self, record: AccessRecord) {
        self.send(Record::Access(record));
    }

    pub(crate) fn event(&self, at: Duration, function: Option<FunctionId>, text: String) {
        self.send(Record::Event { at, function, text });
    }

    fn send(&self, record: Record) {
        if self
            .records
            .try_send((Arc::clone(&self.prefix), record))
            .is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_lines(
    mut file: impl Write,
    queue: &Receiver<(Arc<str>, Record)>,
    lost: &AtomicU64,
) -> io::Result<()> {
    loop {
        let (prefix, record) = match queue.try_recv() {
            Ok(entry) => entry,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                let missing = lost.swap(0, Ordering::Relaxed);
                if missing > 0 {
                    writeln!(file, "# {missing} accesses are missing here")?;
                }
                // Nothing waits: let a reader of the file see all there is.
                file.flush()?;
                match queue.recv() {
                    Ok(entry) => entry,
                    Err(_) => break,
                }
            }
        };
        match record {
            Record::End => break,
            Record::Access(access) => writeln!(
                file,
                "{}",
                Line {
                    prefix: &prefix,
                    access
                }
            )?,
            Record::Event { at, function, text } => {
                let name = function.map(|function| function_name(function) + " ");
                let name = name.unwrap_or_default();
                writeln!(file, "{} # {prefix}{name}{text}", Seconds(at))?;
            }
        }
    }
    file.flush()
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0.as_secs(), self.0.subsec_nanos())
    }
}

struct Line<'a> {
    prefix: &'a str,
    access: AccessRecord,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = &self.access;
        let name = format!("{}{}", self.prefix, function_name(access.function));
        let direction = if access.write { 'W' } else { 'R' };
        let region = match access.region {
            CardRegion::Bar0 => "bar0",
            CardRegion::Flash => "flash",
            CardRegion::Io => "io",
            CardRegion::Msix => "msix",
            CardRegion::Config => "config",
        };
        write!(
            f,
            "{} {name:<4} {direction} {region:<6} ",
            Seconds(access.at)
        )?;
        if access.region == CardRegion::Bar0 && access.len == 4 && access.offset.is_multiple_of(4) {
            return write_register(access, f);
        }
        write!(f, "{:#05x}/{}", access.offset, access.len)?;
        match access.region {
            CardRegion::Config => {
                if let Some(name) = config_name(access.function, access.offset) {
                    write!(f, " {name}")?;
                }
            }
            CardRegion::Msix => write_msix_name(access.offset, f)?,
            _ => {}
        }
        write_value(access, f)
    }
}

/// A whole register of BAR0: the name that the function's own documentation uses, then the fields.
fn write_register(access: &AccessRecord, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let value = u32::from_le_bytes([
        access.data[0],
        access.data[1],
        access.data[2],
        access.data[3],
    ]);
    let Ok(offset) = u32::try_from(access.offset) else {
        return write!(f, "{:#07x} {value:#010x}", access.offset);
    };
    if access.function.is_vf() {
        let Some((window, index)) = vf::window_at(offset) else {
            return write!(f, "{offset:#07x} {value:#010x}");
        };
        f.write_str(window.name)?;
        if window.count > 1 {
            write!(f, "[{index}]")?;
        }
        return write!(f, " {}", window.id.info().describe(value));
    }
    match igb::decode(offset) {
        Some(decoded) => write!(f, "{decoded} {}", decoded.id.info().describe(value)),
        None => write!(f, "{offset:#07x} {value:#010x}"),
    }
}

fn write_value(access: &AccessRecord, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if access.len > SHOWN {
        return f.write_str(" ...");
    }
    f.write_str(" 0x")?;
    for byte in access.data[..access.len].iter().rev() {
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use igb::pci::header;

    fn line(function: FunctionId, place: (CardRegion, u64), data: &[u8]) -> String {
        let at = Duration::from_micros(1_500_000);
        let access = AccessRecord::new(at, function, true, place, data);
        Line { prefix: "", access }.to_string()
    }

    #[test]
    fn registers_have_the_name_that_their_owner_knows_and_their_fields() {
        let ctrl = (
            CardRegion::Bar0,
            u64::from(<igb::CTRL as igb::Register>::OFFSET),
        );
        let rst = igb::CTRL::RST.mask().to_le_bytes();
        let text = line(FunctionId::PF, ctrl, &rst);
        assert_eq!(text, "1.500000000 pf   W bar0   CTRL 0x04000000 {RST}");
        let text = line(FunctionId::vf(3), ctrl, &rst);
        assert_eq!(text, "1.500000000 vf3  W bar0   VTCTRL 0x04000000 {RST}");
        let rdt = (
            CardRegion::Bar0,
            u64::from(<vf::RDT as igb::Register>::offset(1)),
        );
        let text = line(FunctionId::vf(0), rdt, &7_u32.to_le_bytes());
        assert!(text.contains(" RDT[1] 0x00000007"), "{text}");
    }

    #[test]
    fn other_regions_show_offset_length_and_name() {
        let command = (CardRegion::Config, u64::from(header::COMMAND));
        let text = line(FunctionId::vf(1), command, &[6, 0]);
        assert_eq!(text, "1.500000000 vf1  W config 0x004/2 COMMAND 0x0006");
        let text = line(FunctionId::PF, (CardRegion::Msix, 0x1C), &[1, 0, 0, 0]);
        assert_eq!(
            text,
            "1.500000000 pf   W msix   0x01c/4 VECTOR[1].VECTOR_CONTROL 0x00000001"
        );
        let text = line(FunctionId::PF, (CardRegion::Config, 0), &[0; 256]);
        assert!(text.ends_with("0x000/256 VENDOR_ID ..."), "{text}");
        let text = line(FunctionId::PF, (CardRegion::Bar0, 2), &[0xAB]);
        assert!(text.ends_with("bar0   0x002/1 0xab"), "{text}");
    }

    #[test]
    fn the_file_holds_every_line_when_it_is_finished() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("trace");
        let file = TraceFile::create(&path).expect("a trace");
        let tracer = file.tracer("card1/");
        for n in 0..100_u8 {
            let place = (CardRegion::Config, 0);
            tracer.access(AccessRecord::new(
                Duration::ZERO,
                FunctionId::PF,
                false,
                place,
                &[n],
            ));
        }
        tracer.event(Duration::ZERO, Some(FunctionId::vf(2)), "reset".to_owned());
        file.finish();
        let text = std::fs::read_to_string(&path).expect("the file");
        assert_eq!(text.lines().count(), 101);
        assert!(text.starts_with("0.000000000 card1/pf R config"), "{text}");
        assert!(text.ends_with("0.000000000 # card1/vf2 reset\n"), "{text}");
    }
}
