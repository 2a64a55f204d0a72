//! Dropped frames and DMA faults: told to the log, a bounded number of times, and kept for reports.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use igb::FunctionId;
use igb::function::FUNCTION_COUNT;
use igb_model::{DropReason, Events, Fault, Port, Ring};

use crate::host::WireLosses;
use crate::names::function_name;

/// Faults kept for reports.
const KEPT: usize = 64;
/// Fault lines of one function per [`FAULT_WINDOW`].
const FAULT_LINES: u32 = 10;
const FAULT_WINDOW: Duration = Duration::from_secs(10);
/// A drop reason of a port is told once in this time.
const DROP_WINDOW: Duration = Duration::from_secs(10);

/// A fault and when it happened, since the card started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultRecord {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// Lets so many lines through per window, and counts the rest.
struct Limiter {
    began: Option<Instant>,
    said: u32,
    kept_back: u64,
}

impl Limiter {
    const fn new() -> Self {
        Self {
            began: None,
            said: 0,
            kept_back: 0,
        }
    }

    /// Whether to say it now, and then how many were kept back before.
    fn admit(&mut self, now: Instant, window: Duration, lines: u32) -> Option<u64> {
        if self
            .began
            .is_none_or(|began| now.saturating_duration_since(began) >= window)
        {
            self.began = Some(now);
            self.said = 0;
        }
        if self.said >= lines {
            self.kept_back += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.kept_back))
    }
}

/// See the module.
pub(crate) struct Incidents {
    prefix: String,
    faults: VecDeque<FaultRecord>,
    fault_limits: [Limiter; FUNCTION_COUNT],
    drops: BTreeMap<(Port, DropReason), (Limiter, u64)>,
    pub(crate) wire: WireLosses,
}

impl Incidents {
    pub(crate) fn new(prefix: String) -> Self {
        Self {
            prefix,
            faults: VecDeque::with_capacity(KEPT),
            fault_limits: [const { Limiter::new() }; FUNCTION_COUNT],
            drops: BTreeMap::new(),
            wire: WireLosses::default(),
        }
    }

    /// The latest faults, oldest first.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &FaultRecord> {
        self.faults.iter()
    }

    /// Take in what a round of the data path did.
    pub(crate) fn note(&mut self, at: Duration, events: &Events, losses: WireLosses) {
        let now = Instant::now();
        for fault in events.faults() {
            self.note_fault(at, now, fault);
        }
        for function in FunctionId::all() {
            self.note_drops(now, Port::Function(function), events);
        }
        self.note_drops(now, Port::Uplink, events);
        self.wire.no_peer += losses.no_peer;
        self.wire.full += losses.full;
        self.wire.failed += losses.failed;
        self.wire.injected += losses.injected;
    }

    fn note_fault(&mut self, at: Duration, now: Instant, fault: &Fault) {
        if self.faults.len() == KEPT {
            self.faults.pop_front();
        }
        self.faults.push_back(FaultRecord { at, fault: *fault });
        let limiter = &mut self.fault_limits[fault.function.slot()];
        let Some(kept_back) = limiter.admit(now, FAULT_WINDOW, FAULT_LINES) else {
            return;
        };
        let access = if fault.write { "write" } else { "read" };
        let ring = match fault.ring {
            Ring::Rx => "receive",
            Ring::Tx => "transmit",
        };
        let before = if kept_back > 0 {
            format!(" ({kept_back} faults before it are not shown)")
        } else {
            String::new()
        };
        log::warn!(
            "{}{}: DMA fault: {access} of {} bytes at {:#x} by {ring} queue {}: {}{before}",
            self.prefix,
            function_name(fault.function),
            fault.len,
            fault.iova,
            fault.queue,
            fault.cause.name(),
        );
    }

    fn note_drops(&mut self, now: Instant, port: Port, events: &Events) {
        for (reason, frames) in events.port(port).drops.iter() {
            let (limiter, unsaid) = self
                .drops
                .entry((port, reason))
                .or_insert_with(|| (Limiter::new(), 0));
            *unsaid += frames;
            if limiter.admit(now, DROP_WINDOW, 1).is_some() {
                log::info!(
                    "{}{}: {unsaid} frames dropped: {}",
                    self.prefix,
                    port_name(port),
                    reason.name()
                );
                *unsaid = 0;
            }
        }
    }
}

/// `pf`, `vf0`, ..., `uplink`.
pub(crate) fn port_name(port: Port) -> String {
    match port {
        Port::Function(function) => function_name(function),
        Port::Uplink => "uplink".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_a_few_lines_and_counted() {
        let mut limiter = Limiter::new();
        let now = Instant::now();
        let window = Duration::from_secs(10);
        let said = (0..1000)
            .filter(|_| limiter.admit(now, window, 3).is_some())
            .count();
        assert_eq!(said, 3);
        assert_eq!(limiter.admit(now + window, window, 3), Some(997));
        assert_eq!(limiter.admit(now + window, window, 3), Some(0));
    }
}
