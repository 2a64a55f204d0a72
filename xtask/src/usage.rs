//! What a running process holds: to see, over time, whether it leaks.

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

/// What a process holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Open file descriptors.
    pub fds: usize,
    /// Mappings of its address space.
    pub maps: usize,
    /// Threads.
    pub threads: usize,
    /// Memory of its own, in KiB: not what it maps of its clients, which grows as they use theirs.
    pub pss_kib: u64,
}

/// By how much a process may hold more than before and not be taken to leak: counts vary with what is
/// going on at the moment, and an allocator keeps what it had once.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// More file descriptors.
    pub fds: usize,
    /// More mappings.
    pub maps: usize,
    /// More threads.
    pub threads: usize,
    /// More memory, in KiB.
    pub pss_kib: u64,
}

impl Usage {
    /// What the process `pid` holds now.
    ///
    /// # Errors
    ///
    /// It is gone, or belongs to somebody else.
    pub fn of(pid: Pid) -> Result<Self> {
        let proc = |name: &str| format!("/proc/{pid}/{name}");
        let entries = |name: &str| -> Result<usize> {
            let path = proc(name);
            let entries = fs::read_dir(&path).with_context(|| format!("reading {path}"))?;
            Ok(entries.count())
        };
        let text = |name: &str| {
            let path = proc(name);
            fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        Ok(Self {
            fds: entries("fd")?,
            maps: text("maps")?.lines().count(),
            threads: entries("task")?,
            pss_kib: pss(&text("smaps_rollup")?).context("no Pss_Anon in smaps_rollup")?,
        })
    }

    /// Where it exceeds `before` by more than `tolerance`, in words.
    #[must_use]
    pub fn growth(&self, before: &Self, tolerance: &Tolerance) -> Vec<String> {
        [
            (
                "file descriptors",
                before.fds as u64,
                self.fds as u64,
                tolerance.fds as u64,
            ),
            (
                "mappings",
                before.maps as u64,
                self.maps as u64,
                tolerance.maps as u64,
            ),
            (
                "threads",
                before.threads as u64,
                self.threads as u64,
                tolerance.threads as u64,
            ),
            (
                "KiB of memory",
                before.pss_kib,
                self.pss_kib,
                tolerance.pss_kib,
            ),
        ]
        .into_iter()
        .filter(|(_, before, now, more)| *now > before + more)
        .map(|(what, before, now, more)| {
            format!("{before} {what}, now {now} (allowed: {more} more)")
        })
        .collect()
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fds,
            maps,
            threads,
            pss_kib,
        } = self;
        write!(
            f,
            "{fds} fds, {maps} mappings, {threads} threads, {:.1} MiB",
            *pss_kib as f64 / 1024.0
        )
    }
}

/// The line `Pss_Anon:` of smaps_rollup, in KiB.
fn pss(rollup: &str) -> Option<u64> {
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss_Anon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Tolerance = Tolerance {
        fds: 0,
        maps: 0,
        threads: 0,
        pss_kib: 0,
    };

    #[test]
    fn a_process_sees_what_it_opens() {
        let (held, pid) = (3, Pid::this());
        let before = Usage::of(pid).unwrap();
        assert!(before.maps > 0 && before.threads > 0 && before.pss_kib > 0);
        let files: Vec<_> = (0..64 + held)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let after = Usage::of(pid).unwrap();
        // Other tests of this process open and close files of their own.
        assert!(after.fds >= before.fds + held, "{before} {after}");
        drop(files);
    }

    #[test]
    fn growth_beyond_the_tolerance_is_told() {
        let before = Usage {
            fds: 10,
            maps: 50,
            threads: 4,
            pss_kib: 1000,
        };
        let after = Usage {
            fds: 12,
            pss_kib: 900,
            ..before
        };
        assert!(
            after
                .growth(&before, &Tolerance { fds: 2, ..NONE })
                .is_empty()
        );
        let told = after.growth(&before, &Tolerance { fds: 1, ..NONE });
        assert_eq!(told, ["10 file descriptors, now 12 (allowed: 1 more)"]);
    }

    #[test]
    fn the_share_of_memory_is_read_from_its_own_line() {
        let text = "55d0-7fff [rollup]\nRss:  900 kB\nPss:     500 kB\nPss_Anon:  123 kB\n";
        assert_eq!(pss(text), Some(123));
        assert_eq!(pss("Rss: 1 kB"), None);
    }
}
