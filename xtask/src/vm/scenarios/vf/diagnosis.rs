//! What igbvf tells of its VF through ethtool: counters, its own tests, registers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use igb::STATUS;

use super::guest::{self, Guest};
use super::world::{LEFT, RIGHT, World};
use crate::report::Report;

/// Frames of the counters' check, and their length without the frame check sequence.
const FRAMES: u64 = 25;
const LENGTH: u64 = 60;
/// igbvf rests for some seconds after a test.
const TEST_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;

/// `ethtool -S`, `-t` and `-d`.
pub(super) fn ethtool(world: &mut World<'_>, report: &mut Report) -> Result<()> {
    report.outcome("vm/vf/ethtool -S", counters(world));
    for mode in ["online", "offline"] {
        let name = format!("vm/vf/ethtool -t {mode}");
        report.outcome(&name, test(world, mode));
    }
    report.outcome("vm/vf/ethtool -t without a link", test_down(world));
    world.left()?.carrier(0, true)?;
    report.outcome("vm/vf/ethtool -d", registers(world.left()?));
    Ok(())
}

/// Packets and bytes, as somebody counts them.
type Counts = [u64; 2];

/// What a guest's driver counted, sent or received.
fn by_igbvf(guest: &Guest, way: &str) -> Result<Counts> {
    let table = guest.run(&format!("ethtool -S {}", guest.interface(0)?))?;
    let count = |name: String| -> Result<u64> {
        let value = table.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().parse().ok())?
        });
        value.with_context(|| format!("ethtool -S has no {name}: {table}"))
    };
    Ok([
        count(format!("{way}_packets"))?,
        count(format!("{way}_bytes"))?,
    ])
}

/// What the card counted at the VF's port.
fn by_card(world: &World<'_>, vf: u16, way: &str) -> Result<Counts> {
    let port = world.port(&format!("vf{vf}"))?;
    let count = |name: String| port[&name].as_u64().with_context(|| format!("no {name}"));
    Ok([
        count(format!("{way}_packets"))?,
        count(format!("{way}_bytes"))?,
    ])
}

/// Of both guests, igbvf and the card count the frames that went from one to the other, and no
/// others: neighbours are forgotten, so that nobody asks whether they are still there.
fn counters(world: &World<'_>) -> Result<String> {
    let (left, right) = (world.left()?, world.right()?);
    for guest in [left, right] {
        guest.ip(&format!("neigh flush dev {}", guest.interface(0)?))?;
    }
    let count = || -> Result<[Counts; 4]> {
        Ok([
            by_igbvf(left, "tx")?,
            by_card(world, LEFT, "tx")?,
            by_igbvf(right, "rx")?,
            by_card(world, RIGHT, "rx")?,
        ])
    };
    let (to, from) = (right.link(0)?.mac, left.link(0)?.mac);
    let frames = vec![guest::frame(&to, &from, 0x53)?; FRAMES as usize];
    let before = count()?;
    let capture = right
        .vm
        .agent()
        .begin_capture(&right.interface(0)?, frames.len())?;
    left.vm.agent().send_frames(&left.interface(0)?, &frames)?;
    let seen = guest::count(&capture.end(super::world::SETTLE)?, &from, 0x53)?;
    ensure!(
        seen as u64 == FRAMES,
        "{seen} of {FRAMES} frames came through"
    );
    let after = count()?;
    let moved: Vec<Counts> = before
        .iter()
        .zip(after)
        .map(|(before, after)| [after[0] - before[0], after[1] - before[1]])
        .collect();
    let who = [
        "sent by igbvf",
        "by the card",
        "received by igbvf",
        "by the card",
    ];
    let told = format!("{who:?}: {moved:?} packets and bytes");
    // The VF's registers count the frame check sequence too; the card's own counters do not.
    let expected = [[FRAMES, FRAMES * (LENGTH + 4)], [FRAMES, FRAMES * LENGTH]].repeat(2);
    ensure!(moved == expected, "{told}");
    Ok(told)
}

/// The test that igbvf offers is that of the link.
fn test(world: &World<'_>, mode: &str) -> Result<String> {
    let left = world.left()?;
    let interface = left.interface(0)?;
    let argv = ["ethtool", "-t", &interface, mode];
    let said = left.vm.agent().run(&argv, TEST_LIMIT)?;
    let verdict = verdict(&said).with_context(|| format!("no link test: {said}"))?;
    ensure!(said.contains("PASS") && verdict == "0", "{said}");
    left.carrier(0, true)?;
    Ok(format!("link test {verdict}"))
}

/// It fails where the PF driver holds the link down.
fn test_down(world: &World<'_>) -> Result<String> {
    let left = world.left()?;
    let interface = left.interface(0)?;
    world.set(LEFT, "state", "disable")?;
    let outcome = left.carrier(0, false).and_then(|()| {
        let argv = ["ethtool", "-t", &interface, "online"];
        left.vm.agent().exec(&argv, TEST_LIMIT)
    });
    world.set(LEFT, "state", "auto")?;
    let done = outcome?;
    let verdict = verdict(&done.stdout).with_context(|| format!("no link test: {done:?}"))?;
    ensure!(
        done.stdout.contains("FAIL") && verdict != "0",
        "{}",
        done.stdout
    );
    Ok(format!("link test {verdict}"))
}

/// What the link test came to.
fn verdict(said: &str) -> Option<&str> {
    let line = said.lines().find(|line| line.starts_with("Link test"))?;
    line.split_whitespace().last()
}

/// ethtool knows no names for igbvf's registers and shows bytes: CTRL, STATUS, then of each ring
/// RDLEN, RDH, RDT and TDLEN, TDH, TDT.
fn registers(guest: &Guest) -> Result<String> {
    let said = guest.run(&format!("ethtool -d {}", guest.interface(0)?))?;
    let words = words(&said);
    let [
        _,
        status,
        rx_length,
        rx_head,
        rx_tail,
        tx_length,
        tx_head,
        tx_tail,
    ] = words[..]
    else {
        anyhow::bail!("{} registers: {said}", words.len());
    };
    let shown = format!("{words:#010x?}").replace(['\n', ' '], "");
    ensure!(
        status & STATUS::LU.mask() != 0,
        "STATUS has no link: {shown}"
    );
    let rings = guest.run(&format!("ethtool -g {}", guest.interface(0)?))?;
    let [rx, tx] = ["RX", "TX"].map(|ring| descriptors(&rings, ring));
    let (rx, tx) = (rx.context("no RX ring")?, tx.context("no TX ring")?);
    ensure!(
        [rx_length, tx_length] == [rx * DESCRIPTOR, tx * DESCRIPTOR],
        "lengths of rings of {rx} and {tx} descriptors: {shown}"
    );
    // Frames may come in; what was to go out has gone.
    ensure!(
        rx_head < rx && rx_tail < rx && rx_head != rx_tail && tx_head < tx && tx_head == tx_tail,
        "heads and tails: {shown}"
    );
    Ok(shown)
}

/// How many descriptors a ring has now; most it may have stands above that.
fn descriptors(rings: &str, ring: &str) -> Option<u32> {
    let now = rings.split("Current hardware settings").nth(1)?;
    let value = now.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == ring).then_some(value)
    });
    value?.trim().parse().ok()
}

/// The registers in ethtool's table of bytes.
fn words(table: &str) -> Vec<u32> {
    let bytes: Vec<u8> = table
        .lines()
        .filter_map(|line| line.trim().strip_prefix("0x")?.split_once(':'))
        .flat_map(|(_, bytes)| bytes.split_whitespace())
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_from_bytes() {
        let table = "Offset\t\tValues\n------\t\t------\n\
                     0x0000:\t\t01 02 00 00 03 00 00 80 \n0x0010:\t\tff 00 00 00 \n";
        assert_eq!(words(table), [0x201, 0x8000_0003, 0xFF]);
        assert!(words("").is_empty());
    }

    #[test]
    fn the_present_length_of_a_ring_is_found() {
        let rings = "Pre-set maximums:\nRX:\t\t4096\nCurrent hardware settings:\n\
                     RX:\t\t1024\nRX Mini:\tn/a\nTX:\t\t256\n";
        assert_eq!(descriptors(rings, "RX"), Some(1024));
        assert_eq!(descriptors(rings, "TX"), Some(256));
        assert_eq!(descriptors("", "RX"), None);
    }

    #[test]
    fn the_verdict_of_the_link_test_is_found() {
        let said = "The test result is PASS\nThe test extra info:\nLink test   (on/offline)\t 0\n";
        assert_eq!(verdict(said), Some("0"));
        assert_eq!(verdict(""), None);
    }
}
