//! The card's 1588 clock under igb: how fast it goes, whether it can be set, slowed and moved, and
//! that it stamps what is sent. The tools are those of linuxptp.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::bed::{Bed, SHORT};
use super::checks::Behaviour;

/// In the order in which they run; each leaves the guest as it found it.
pub(in super::super) const CLOCK: &[Behaviour] = &[
    Behaviour {
        name: "clock",
        run: rate,
    },
    Behaviour {
        name: "clock slowed",
        run: slowed,
    },
    Behaviour {
        name: "clock set and moved",
        run: moved,
    },
    Behaviour {
        name: "time stamp of a sent frame",
        run: sent,
    },
];

/// Seconds between two looks at the clock.
const WINDOW: f64 = 4.0;
/// By how much the two looks may be late, in seconds: an emulated guest on a busy machine has pauses
/// between its two clocks.
const LATE: f64 = 0.02;

/// Runs phc_ctl with these words.
fn phc(bed: &Bed, words: &str) -> Result<String> {
    bed.guest(&format!("phc_ctl @ -- {words}"))
}

/// Offsets of the clock from the guest's own that phc_ctl printed, in seconds.
fn offsets(said: &str) -> Vec<f64> {
    said.lines()
        .filter_map(|line| line.split_once("offset from CLOCK_REALTIME is"))
        .filter_map(|(_, rest)| rest.trim().strip_suffix("ns")?.parse::<f64>().ok())
        .map(|nanoseconds| nanoseconds / 1e9)
        .collect()
}

/// By how many seconds the clock gained on the guest's own within [`WINDOW`].
fn gained(bed: &Bed, before: &str) -> Result<f64> {
    let said = phc(bed, &format!("{before} cmp wait {WINDOW} cmp"))?;
    let [first, second] = offsets(&said)[..] else {
        anyhow::bail!("phc_ctl did not compare twice: {said}");
    };
    // It tells by how much the guest's clock is ahead.
    Ok(first - second)
}

/// It is there, and goes as fast as the guest's own.
fn rate(bed: &mut Bed) -> Result<String> {
    let log = bed.agent().kmsg()?;
    ensure!(log.contains("added PHC"), "igb registered no clock");
    let gained = gained(bed, "freq 0 set")?;
    ensure!(gained.abs() < LATE, "{gained} s gained in {WINDOW} s");
    Ok(format!("{:.0} us gained in {WINDOW} s", gained * 1e6))
}

/// As fast as it is told to be, either way.
fn slowed(bed: &mut Bed) -> Result<String> {
    let told = [-100_000_000i64, 100_000_000];
    let seen = told.map(|ppb| gained(bed, &format!("freq {ppb} set")));
    phc(bed, "freq 0 set")?;
    let mut told_and_seen = Vec::new();
    for (ppb, seen) in told.into_iter().zip(seen) {
        let (seen, wanted) = (seen?, ppb as f64 / 1e9 * WINDOW);
        ensure!(
            (seen - wanted).abs() < LATE,
            "told {ppb} ppb it gained {seen} s in {WINDOW} s"
        );
        told_and_seen.push(format!("{ppb} ppb: {seen:.4} s"));
    }
    Ok(format!("in {WINDOW} s {}", told_and_seen.join(", ")))
}

/// It takes a time, and a step.
fn moved(bed: &mut Bed) -> Result<String> {
    let said = phc(bed, "set 1000.5 get adj 30.25 get");
    phc(bed, "set")?;
    let said = said?;
    let times = times(&said);
    let [set, moved] = times[..] else {
        anyhow::bail!("phc_ctl did not read twice: {said}");
    };
    let (late, step) = (set - 1000.5, moved - set - 30.25);
    ensure!(
        (0.0..1.0).contains(&late) && (0.0..1.0).contains(&step),
        "set to 1000.5 and moved by 30.25 it read {set} and {moved}"
    );
    Ok(format!("{set}, then {moved}"))
}

/// Times that phc_ctl read.
fn times(said: &str) -> Vec<f64> {
    said.lines()
        .filter_map(|line| line.split_once("clock time is"))
        .filter_map(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

/// ptp4l as the only clock of its network sends Sync, and afterwards the time at which that went:
/// only if the card has stamped it.
fn sent(bed: &mut Bed) -> Result<String> {
    let limit = Duration::from_secs(60);
    let before = read(bed)?;
    // Message type 8 is a follow-up (IEEE 1588-2008, 13.3.2.2).
    let words = format!(
        "tcpdump -i {} -Q out -c 1 -n -s 128 -xx ether proto 0x88f7 and ether[14]&0xf==8",
        bed.iface
    );
    let words: Vec<_> = words.split(' ').collect();
    let follow_up = bed.agent().spawn(&words)?;
    let line = format!(
        "ptp4l -i {} -2 -H -m --announceReceiptTimeout 2 --logSyncInterval -1 --tx_timestamp_timeout \
         2000",
        bed.iface
    );
    let words: Vec<_> = line.split(' ').collect();
    let clock = bed.agent().spawn(&words)?;
    let seen = bed.agent().wait(follow_up, limit);
    bed.agent().kill(clock)?;
    let said = bed.agent().wait(clock, SHORT)?;
    if seen.is_err() {
        bed.agent().kill(follow_up)?;
    }
    bed.guest("hwstamp_ctl -i @ -t 0 -r 0")?;
    let words = format!("ptp4l said {}{}", said.stdout.trim(), said.stderr.trim());
    let seen = seen.context("no follow-up went out").context(words)?;
    let after = read(bed)?;
    let stamp = origin(&seen.stdout).with_context(|| format!("no time in {}", seen.stdout))?;
    ensure!(
        (before..after).contains(&stamp),
        "stamped {stamp}, the clock read {before} before and {after} afterwards"
    );
    Ok(format!("{stamp}, between {before} and {after}"))
}

fn read(bed: &Bed) -> Result<f64> {
    let said = phc(bed, "get")?;
    let time = times(&said).first().copied();
    time.with_context(|| format!("phc_ctl read no time: {said}"))
}

/// The time in a follow-up message, from tcpdump's bytes: behind 14 bytes of Ethernet and a header of
/// 34, 6 bytes of seconds and 4 of nanoseconds.
fn origin(dump: &str) -> Option<f64> {
    let bytes: Vec<u8> = dump
        .lines()
        .filter_map(|line| line.trim().strip_prefix("0x")?.split_once(':'))
        .flat_map(|(_, words)| words.split_whitespace())
        .flat_map(|word| [word.get(..2), word.get(2..4)])
        .flatten()
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let seconds = number(bytes.get(48..54)?) as f64;
    Some(seconds + number(bytes.get(54..58)?) as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_phc_ctl_prints_is_read() {
        let said = "phc_ctl[1.2]: offset from CLOCK_REALTIME is -1500000000ns\n\
                    phc_ctl[1.3]: clock time is 1000.500250000 or Thu Jan  1 00:16:40 1970\n";
        assert_eq!(offsets(said), [-1.5]);
        assert_eq!(times(said), [1000.50025]);
    }

    #[test]
    fn the_time_of_a_follow_up_is_read_from_its_bytes() {
        let mut bytes = [0u8; 68];
        bytes[53] = 9;
        bytes[54..58].copy_from_slice(&500_000_000u32.to_be_bytes());
        let mut dump = String::from("12:00:00.000000 PTPv2\n");
        for (n, line) in bytes.chunks(16).enumerate() {
            dump += &format!("\t0x{:04x}: ", n * 16);
            for word in line.chunks(2) {
                dump += &format!(" {:02x}{:02x}", word[0], word[1]);
            }
            dump += "\n";
        }
        assert_eq!(origin(&dump), Some(9.5));
        assert_eq!(origin(""), None);
    }
}
