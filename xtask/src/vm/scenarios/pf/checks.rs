//! What a stock igb must be able to do with its card. The same list runs on our card and on QEMU's.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::bed::{Bed, GUEST, HOST, value_of};

/// A named behaviour: what was seen of it, or why it is not there.
pub(in super::super) struct Behaviour {
    pub(in super::super) name: &'static str,
    pub(in super::super) run: fn(&mut Bed) -> Result<String>,
}

/// In the order in which they run; each leaves the guest as it found it.
pub(in super::super) const BASICS: &[Behaviour] = &[
    Behaviour {
        name: "probe",
        run: probe,
    },
    Behaviour {
        name: "ping from the guest",
        run: |bed| bed.ping(HOST, 5, 56),
    },
    Behaviour {
        name: "ping from the host",
        run: |bed| bed.ping_guest(5, 56),
    },
    Behaviour {
        name: "ethtool -t register",
        run: |bed| self_test(bed, "Register test"),
    },
    Behaviour {
        name: "ethtool -t eeprom",
        run: |bed| self_test(bed, "Eeprom test"),
    },
    Behaviour {
        name: "ethtool -t interrupt",
        run: |bed| self_test(bed, "Interrupt test"),
    },
    Behaviour {
        name: "ethtool -t loopback",
        run: |bed| self_test(bed, "Loopback test"),
    },
    Behaviour {
        name: "ethtool -t link",
        run: |bed| self_test(bed, "Link test"),
    },
    Behaviour {
        name: "ethtool",
        run: settings,
    },
    Behaviour {
        name: "ethtool -d",
        run: registers,
    },
    Behaviour {
        name: "ethtool -e",
        run: eeprom,
    },
    Behaviour {
        name: "ethtool -S",
        run: statistics,
    },
    Behaviour {
        name: "ethtool -g",
        run: rings,
    },
    Behaviour {
        name: "ethtool -k",
        run: features,
    },
    Behaviour {
        name: "ethtool -l",
        run: channels,
    },
    Behaviour {
        name: "ethtool -a",
        run: pause,
    },
    Behaviour {
        name: "ethtool -T",
        run: time_stamping,
    },
    Behaviour {
        name: "link down and up",
        run: link,
    },
    Behaviour {
        name: "MTU 9000",
        run: jumbo,
    },
];

/// Loaded without a word of warning, with the address of the EEPROM.
fn probe(bed: &mut Bed) -> Result<String> {
    let link = bed.agent().links_of("igb")?.remove(0);
    ensure!(
        link.mac == bed.mac(),
        "{} in place of {}",
        link.mac,
        bed.mac()
    );
    let complaints = bed.complaints()?;
    ensure!(complaints.is_empty(), "{}", complaints.join(" | "));
    let log = bed.agent().kmsg()?;
    let last = log
        .lines()
        .rfind(|line| line.contains("igb") && line.contains("queue(s)"))
        .context("igb did not say how many queues it uses")?;
    Ok(last.rsplit(": ").next().unwrap_or(last).to_owned())
}

/// One line of the offline test, which runs once for all.
fn self_test(bed: &mut Bed, part: &str) -> Result<String> {
    let said = match bed.tested.take() {
        Some(said) => said,
        None => {
            let argv = ["ethtool", "-t", &bed.iface, "offline"];
            let done = bed.agent().exec(&argv, Duration::from_secs(180))?;
            bed.up()?;
            format!("{}{}", done.stdout, done.stderr)
        }
    };
    let said = bed.tested.insert(said);
    let line = said
        .lines()
        .find(|line| line.contains(part))
        .with_context(|| format!("no {part}: {said}"))?;
    let verdict = line.split_whitespace().last().unwrap_or_default();
    ensure!(verdict == "0", "{}", line.trim());
    Ok(line.trim().to_owned())
}

fn settings(bed: &mut Bed) -> Result<String> {
    let said = bed.guest("ethtool @")?;
    for (key, wanted) in [
        ("Speed", "1000Mb/s"),
        ("Duplex", "Full"),
        ("Auto-negotiation", "on"),
        ("Port", "Twisted Pair"),
        ("Link detected", "yes"),
        ("Supports Wake-on", "pumbg"),
    ] {
        let value = value_of(&said, key).with_context(|| format!("no {key}: {said}"))?;
        ensure!(value == wanted, "{key}: {value} in place of {wanted}");
    }
    Ok("1000Mb/s, full duplex, negotiated, copper, wakes on LAN".into())
}

/// Registers as ethtool decodes them.
fn registers(bed: &mut Bed) -> Result<String> {
    let said = bed.guest("ethtool -d @")?;
    let known = |name: &str| {
        said.lines()
            .find(|line| line.contains(name))
            .with_context(|| format!("ethtool -d shows no {name}"))
    };
    let status = known("STATUS")?.to_owned();
    for (key, wanted) in [("Link up", "link config"), ("Duplex", "full")] {
        let line = known(key)?;
        ensure!(line.contains(wanted), "{}", line.trim());
    }
    ensure!(
        said.lines().count() > 40,
        "only {} lines",
        said.lines().count()
    );
    Ok(format!("{} lines; {}", said.lines().count(), status.trim()))
}

fn eeprom(bed: &mut Bed) -> Result<String> {
    let said = bed.guest("ethtool -e @ offset 0 length 16")?;
    let mac: String = bed.mac().replace(':', " ");
    ensure!(
        said.contains(&mac),
        "the address is not at its place: {said}"
    );
    Ok(mac)
}

/// Counters move by what passed.
fn statistics(bed: &mut Bed) -> Result<String> {
    let count = |bed: &Bed, names: [&str; 4]| -> Result<[u64; 4]> {
        let table = bed.guest("ethtool -S @")?;
        let mut values = [0; 4];
        for (value, name) in values.iter_mut().zip(names) {
            *value = value_of(&table, name)
                .and_then(|text| text.parse().ok())
                .with_context(|| format!("no counter {name}"))?;
        }
        Ok(values)
    };
    let names = ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"];
    let before = count(bed, names)?;
    bed.ping(HOST, 10, 1000)?;
    // igb reads the registers when it is asked for the table.
    let after = count(bed, names)?;
    let moved: Vec<u64> = before.iter().zip(after).map(|(a, b)| b - a).collect();
    // Header, echo, checksum: 1000 and 46 bytes. Neighbours may talk besides.
    ensure!(
        (10..20).contains(&moved[0]) && (10..20).contains(&moved[2]),
        "{names:?} moved by {moved:?}"
    );
    ensure!(
        (10_460..13_000).contains(&moved[1]) && (10_460..13_000).contains(&moved[3]),
        "{names:?} moved by {moved:?}"
    );
    let errors = [
        "rx_crc_errors",
        "rx_missed_errors",
        "tx_dropped",
        "rx_long_length_errors",
    ];
    let seen = count(bed, errors)?;
    ensure!(seen == [0; 4], "{errors:?} are {seen:?}");
    Ok(format!("{names:?} moved by {moved:?}"))
}

fn rings(bed: &mut Bed) -> Result<String> {
    bed.guest("ethtool -G @ rx 512 tx 1024")?;
    bed.carrier(true)?;
    let said = bed.guest("ethtool -g @")?;
    let current = said.split("Current hardware settings").nth(1).unwrap_or("");
    let (rx, tx) = (value_of(current, "RX"), value_of(current, "TX"));
    ensure!((rx, tx) == (Some("512"), Some("1024")), "{said}");
    bed.ping(HOST, 2, 56)?;
    bed.guest("ethtool -G @ rx 256 tx 256")?;
    bed.carrier(true)?;
    Ok("512 and 1024 descriptors".into())
}

/// Offloads that are on from the start.
fn features(bed: &mut Bed) -> Result<String> {
    let said = bed.guest("ethtool -k @")?;
    for name in [
        "rx-checksumming",
        "tx-checksumming",
        "scatter-gather",
        "tcp-segmentation-offload",
        "generic-receive-offload",
        "rx-vlan-offload",
        "tx-vlan-offload",
        "receive-hashing",
    ] {
        let value = value_of(&said, name).with_context(|| format!("no {name}"))?;
        ensure!(value == "on", "{name}: {value}");
    }
    Ok("checksums, segmentation, VLANs, hashing are on".into())
}

/// As many as the card has for one function, one for each CPU in use.
fn channels(bed: &mut Bed) -> Result<String> {
    let said = bed.guest("ethtool -l @")?;
    let combined: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("Combined:"))
        .map(str::trim)
        .collect();
    let wanted = bed.cpus.to_string();
    ensure!(
        combined == ["8", &wanted],
        "combined channels {combined:?} with {wanted} CPUs"
    );
    Ok(format!("{wanted} of 8"))
}

/// The partner agrees to pause frames both ways.
fn pause(bed: &mut Bed) -> Result<String> {
    let said = bed.guest("ethtool -a @")?;
    let value = |name| value_of(&said, name).unwrap_or_default().to_owned();
    let seen = format!(
        "autonegotiate {}, RX {}, TX {}",
        value("Autonegotiate"),
        value("RX"),
        value("TX")
    );
    ensure!(
        value("Autonegotiate") == "on" && value("RX") == "on",
        "{seen}"
    );
    Ok(seen)
}

fn time_stamping(bed: &mut Bed) -> Result<String> {
    let said = bed.guest("ethtool -T @")?;
    for word in [
        "hardware-transmit",
        "hardware-receive",
        "hardware-raw-clock",
        "ptpv2-event",
    ] {
        ensure!(said.contains(word), "no {word}: {said}");
    }
    Ok("hardware stamps both ways".into())
}

fn link(bed: &mut Bed) -> Result<String> {
    bed.cable(false)?;
    let down = bed.carrier(false);
    let detected = bed.guest("ethtool @")?;
    bed.cable(true)?;
    down?;
    ensure!(
        value_of(&detected, "Link detected") == Some("no"),
        "{detected}"
    );
    bed.carrier(true)?;
    bed.ping(HOST, 2, 56)?;
    let log = bed.agent().kmsg()?;
    let line = log
        .lines()
        .rfind(|line| line.contains("Link is Up"))
        .context("igb did not say that the link is up")?;
    let mode = line.rsplit("Link is Up ").next().unwrap_or_default();
    ensure!(mode.starts_with("1000 Mbps Full Duplex"), "{mode}");
    Ok(mode.to_owned())
}

/// Frames of 9000 bytes, unfragmented, both ways.
fn jumbo(bed: &mut Bed) -> Result<String> {
    bed.guest("ip link set @ mtu 9000")?;
    bed.carrier(true)?;
    let result = bed
        .ping(HOST, 3, 8972)
        .and_then(|there| Ok(format!("{there}; back {}", bed.ping_guest(3, 8972)?)));
    let fragments = bed.guest("cat /proc/net/snmp")?;
    bed.guest("ip link set @ mtu 1500")?;
    bed.carrier(true)?;
    let result = result?;
    let created = snmp(&fragments, "Ip", "FragCreates").context("no FragCreates")?;
    ensure!(created == 0, "the guest made {created} fragments");
    Ok(result)
}

/// A column of /proc/net/snmp.
fn snmp(table: &str, protocol: &str, column: &str) -> Option<u64> {
    let prefix = format!("{protocol}:");
    let mut lines = table.lines().filter(|line| line.starts_with(&prefix));
    let at = lines
        .next()?
        .split_whitespace()
        .position(|word| word == column)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// igb leaves and comes back; the card is as new each time.
pub(in super::super) fn reload(bed: &mut Bed, times: u32) -> Result<String> {
    for n in 1..=times {
        let mut round = || -> Result<()> {
            bed.agent().unload_module("igb")?;
            if !bed.agent().links_of("igb")?.is_empty() {
                bail!("an interface outlives igb");
            }
            bed.load()?;
            bed.ping(HOST, 2, 56).map(drop)
        };
        round().with_context(|| format!("reload {n} of {times}"))?;
    }
    Ok(format!("{times} times, with an answered ping after each"))
}

/// The guest starts anew; the card is as new.
pub(in super::super) fn reboot(bed: &mut Bed) -> Result<String> {
    let took = bed.reboot()?;
    bed.ping(HOST, 3, 56)?;
    Ok(format!(
        "{:.1} s to the agent, then {GUEST} answered",
        took.as_secs_f64()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snmp_columns_are_found_by_name() {
        let table = "Ip: A FragCreates\nIp: 1 42\nTcp: X\nTcp: 3\n";
        assert_eq!(snmp(table, "Ip", "FragCreates"), Some(42));
        assert_eq!(snmp(table, "Tcp", "X"), Some(3));
        assert_eq!(snmp(table, "Udp", "X"), None);
    }
}
