//! Reads traces: ours, and the log of QEMU's own igb.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::entry::{Entry, EntryError};
use super::qemu::QemuLog;

/// Whose trace it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceKind {
    /// This card's.
    Card,
    /// The log of QEMU's `-device igb`.
    QemuIgb,
}

/// A trace that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadTrace {
    /// Whose it is.
    pub kind: TraceKind,
    /// Its lines, in their order.
    pub entries: Vec<Entry>,
}

/// Why a file could not be read as a trace.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read the trace {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not one of a trace.
    #[error("line {line} is no line of a trace: {error}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        error: EntryError,
    },
    /// Nothing in it.
    #[error(
        "there is no access in it; a trace is what --trace FILE wrote, or what QEMU wrote with \
         -d trace:e1000e_core_read,trace:e1000e_core_write -D FILE"
    )]
    Empty,
}

/// Reads line by line, whichever kind it is.
#[derive(Default)]
struct Reader {
    entries: Vec<Entry>,
    qemu: QemuLog,
    line: usize,
}

impl Reader {
    fn take(&mut self, line: &str) -> Result<(), ReadError> {
        self.line += 1;
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(());
        }
        match line.parse::<Entry>() {
            Ok(entry) if !self.qemu.has_begun() => self.entries.push(entry),
            Ok(_) => {}
            Err(_) if self.entries.is_empty() => self.qemu.take(line),
            // The last line of a card that was killed may have no end.
            Err(EntryError::Missing(_)) => {}
            Err(error) => {
                return Err(ReadError::Line {
                    line: self.line,
                    error,
                });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<ReadTrace, ReadError> {
        let (kind, entries) = if self.qemu.has_begun() {
            (TraceKind::QemuIgb, self.qemu.entries())
        } else {
            (TraceKind::Card, self.entries)
        };
        if entries.is_empty() {
            return Err(ReadError::Empty);
        }
        Ok(ReadTrace { kind, entries })
    }
}

/// Read a trace out of its text.
pub fn parse(text: &str) -> Result<ReadTrace, ReadError> {
    let mut reader = Reader::default();
    text.lines().try_for_each(|line| reader.take(line))?;
    reader.finish()
}

/// Read a trace out of a file.
pub fn read_file(path: &Path) -> Result<ReadTrace, ReadError> {
    let failed = |source| ReadError::File {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut reader = Reader::default();
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        // A log of QEMU may hold what a guest printed.
        reader.take(&String::from_utf8_lossy(&line))?;
        line.clear();
    }
    reader.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_reads_back_and_a_wrong_line_is_named() {
        let good = "# header\n0.000000001 pf R bar0 CTRL 0x00000001\n\n0.000000002 - # link up\n";
        let trace = parse(good).expect("a trace");
        assert_eq!((trace.kind, trace.entries.len()), (TraceKind::Card, 2));
        let error = parse(&format!("{good}0.000000003 pf Q\n")).unwrap_err();
        assert!(
            error.to_string().starts_with("line 5 is no line"),
            "{error}"
        );
        let killed = parse(&format!("{good}0.000000003 pf R bar0 CT")).expect("its end is missing");
        assert_eq!(killed.entries.len(), 2);
        assert!(matches!(parse("nothing\n"), Err(ReadError::Empty)));
    }
}
