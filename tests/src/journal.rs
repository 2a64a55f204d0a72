//! What the parts log, kept for the test that fails.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use log::{LevelFilter, Log, Metadata, Record};

/// Lines kept. Tests of one process run side by side, so the lines of several mingle.
const LINES: usize = 2000;

struct Journal {
    started: Instant,
    lines: Mutex<VecDeque<String>>,
}

static JOURNAL: OnceLock<Journal> = OnceLock::new();

impl Log for Journal {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let thread = std::thread::current();
        let line = format!(
            "{:9.4} {:5} [{}] {}: {}",
            self.started.elapsed().as_secs_f64(),
            record.level(),
            thread.name().unwrap_or("?"),
            record.target(),
            record.args()
        );
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn flush(&self) {}
}

/// Keep what is logged from now on.
pub fn start() {
    let journal = JOURNAL.get_or_init(|| Journal {
        started: Instant::now(),
        lines: Mutex::default(),
    });
    if log::set_logger(journal).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}

/// The last `count` lines.
#[must_use]
pub fn last(count: usize) -> String {
    let Some(journal) = JOURNAL.get() else {
        return String::new();
    };
    let lines = journal.lines.lock().unwrap_or_else(PoisonError::into_inner);
    let skip = lines.len().saturating_sub(count);
    lines
        .iter()
        .skip(skip)
        .fold(String::new(), |text, line| text + line + "\n")
}
