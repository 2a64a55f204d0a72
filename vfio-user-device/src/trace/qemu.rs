//! The log of QEMU's own igb, as `-d trace:e1000e_core_read,trace:e1000e_core_write` writes it.
//!
//! QEMU has one line per access of BAR0, after it has mapped aliases and the window of a VF onto the
//! registers of the PF, so everything is the PF's here. Lines of other devices and of the guest may
//! stand between them.

use std::time::Duration;

use igb::FunctionId;

use super::entry::{Access, Entry, Event, Place, What};
use super::record::{fields_of, register};

/// Lines so far.
#[derive(Default)]
pub(super) struct QemuLog {
    entries: Vec<Entry>,
    /// The time of the first line, where QEMU writes times.
    origin: Option<Duration>,
}

impl QemuLog {
    pub(super) fn has_begun(&self) -> bool {
        !self.entries.is_empty()
    }

    pub(super) fn entries(self) -> Vec<Entry> {
        self.entries
    }

    pub(super) fn take(&mut self, line: &str) {
        let Some((at, event, rest)) = split(line) else {
            return;
        };
        let what = match event {
            "e1000e_core_read" => access(false, rest),
            "e1000e_core_write" => access(true, rest),
            // Accesses that this device does not carry out: what is not there reads 0.
            "e1000e_wrn_regs_write_ro" | "e1000e_wrn_regs_write_unknown" => access(true, rest),
            "e1000e_wrn_regs_read_unknown" => access(false, &format!("{rest}, value: 0x0")),
            "igb_core_vf_reset" => Some(What::Event(Event {
                name: "reset".to_owned(),
                details: format!("done {}", rest.trim().to_lowercase()),
            })),
            "e1000e_irq_msix_notify_vec" => number_after(rest, "vector").map(|vector| {
                What::Event(Event {
                    name: "interrupt".to_owned(),
                    details: format!("msix[{vector}]"),
                })
            }),
            _ => None,
        };
        let Some(what) = what else { return };
        let at = at.unwrap_or_default();
        let origin = *self.origin.get_or_insert(at);
        self.entries.push(Entry {
            at: at.saturating_sub(origin),
            who: "pf".to_owned(),
            what,
        });
    }
}

/// Time, event and the rest of a line: `PID@SECONDS.MICROSECONDS:EVENT REST`, or `EVENT REST`.
fn split(line: &str) -> Option<(Option<Duration>, &str, &str)> {
    let line = line.trim();
    let (time, line) = match line.split_once(':') {
        Some((stamp, rest)) if stamp.contains('@') => {
            let (_, time) = stamp.split_once('@')?;
            (Some(seconds(time)?), rest)
        }
        _ => (None, line),
    };
    let (event, rest) = line.split_once(' ').unwrap_or((line, ""));
    Some((time, event, rest))
}

fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.')?;
    let nanos = fraction.parse::<u32>().ok()?;
    let scale = 10_u32.checked_pow(9_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?)?;
    Some(Duration::new(
        whole.parse().ok()?,
        nanos.checked_mul(scale)?.min(999_999_999),
    ))
}

/// `... register 0xOFFSET, N byte(s), value: 0xVALUE`.
fn access(write: bool, text: &str) -> Option<What> {
    let hex_after = |marker: &str| {
        let (_, rest) = text.split_once(marker)?;
        let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let offset = hex_after("register 0x")?;
    let value = hex_after("value: 0x")?;
    let len = number_after(text, "0x").map_or(4, |_| {
        let before = text.split(" byte(s)").next().unwrap_or_default();
        before
            .rsplit(' ')
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(4)
    });
    let (place, fields) = if len == 4 {
        match register(FunctionId::PF, offset) {
            Some((place, info)) => (place, fields_of(info, value as u32)),
            None => (Place::Offset(offset), Vec::new()),
        }
    } else {
        let name = None;
        (Place::Bytes { offset, len, name }, Vec::new())
    };
    Some(What::Access(Access {
        write,
        region: "bar0".to_owned(),
        place,
        value: Some(value),
        fields,
        repeats: 1,
        until: None,
    }))
}

/// The decimal number after a word.
fn number_after(text: &str, word: &str) -> Option<u32> {
    let (_, rest) = text.split_once(word)?;
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::super::read::{TraceKind, parse};
    use igb::Register;

    #[test]
    fn lines_of_qemu_become_entries_of_the_same_names() {
        let ctrl = <igb::CTRL as Register>::OFFSET;
        let rdt = <igb::RDT as Register>::offset(1);
        let log = format!(
            "char device redirected to /dev/pts/0 (label serial0)\n\
             4242@1700000000.000100:e1000e_core_write Write to register 0x{ctrl:x}, 4 byte(s), value: 0x4000040\n\
             4242@1700000000.000350:e1000e_core_read Read from register 0x{ctrl:x}, 4 byte(s), value: 0x40\n\
             4242@1700000000.000350:e1000e_irq_set Set interrupts\n\
             e1000e_core_write Write to register 0x{rdt:x}, 4 byte(s), value: 0x7\n\
             e1000e_wrn_regs_read_unknown WARNING: Read from unknown register 0x1ff00, 4 byte(s)\n\
             igb_core_vf_reset VF3\n"
        );
        let trace = parse(&log).expect("a log");
        assert_eq!(trace.kind, TraceKind::QemuIgb);
        let lines: Vec<String> = trace.entries.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines[..2],
            [
                "0.000000000 pf   W bar0   CTRL 0x04000040 {SLU RST}",
                "0.000250000 pf   R bar0   CTRL 0x00000040 {SLU}",
            ]
        );
        assert!(
            lines[2].ends_with("W bar0   RDT[1] 0x00000007 {RDT=0x7}"),
            "{}",
            lines[2]
        );
        assert!(
            lines[3].ends_with("R bar0   0x1ff00 0x00000000"),
            "{}",
            lines[3]
        );
        assert!(lines[4].ends_with("# reset done vf3"), "{}", lines[4]);
    }
}
