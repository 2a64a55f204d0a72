//! What an administrator sets on a running igb: the link's mode, the light that shows where the
//! card is, which flows go to which queue.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::bed::{Bed, HOST, SHORT, value_of};
use super::checks::Behaviour;
use super::traffic::queues;

/// In the order in which they run; each leaves the guest as it found it.
pub(in super::super) const SETTINGS: &[Behaviour] = &[
    Behaviour {
        name: "ethtool -s forced modes",
        run: forced,
    },
    Behaviour {
        name: "ethtool -s advertised modes",
        run: advertised,
    },
    Behaviour {
        name: "ethtool -s refused mode",
        run: refused,
    },
    Behaviour {
        name: "ethtool -r",
        run: renegotiated,
    },
    Behaviour {
        name: "ethtool -p",
        run: identified,
    },
    Behaviour {
        name: "ntuple filters refused",
        run: ntuple,
    },
    Behaviour {
        name: "UDP ports in the flow hash",
        run: flow_hash,
    },
];

/// Everything that copper can do, as a driver offers it from the start.
const ALL_MODES: &str = "ethtool -s @ autoneg on advertise 0x2f";

/// Sets a mode, which must then be the link's, and traffic must pass in it.
fn mode(bed: &Bed, words: &str, speed: &str, duplex: &str) -> Result<()> {
    let outcome = || -> Result<()> {
        bed.guest(&format!("ethtool -s @ {words}"))?;
        bed.carrier(true)?;
        let said = bed.guest("ethtool @")?;
        let seen = (value_of(&said, "Speed"), value_of(&said, "Duplex"));
        ensure!(seen == (Some(speed), Some(duplex)), "the link is {seen:?}");
        bed.ping(HOST, 2, 56).map(drop)
    };
    outcome().with_context(|| words.to_owned())
}

fn modes(bed: &Bed, modes: &[(&str, &str, &str)]) -> Result<String> {
    let outcome = modes
        .iter()
        .try_for_each(|(words, speed, duplex)| mode(bed, words, speed, duplex));
    bed.guest(ALL_MODES)?;
    bed.carrier(true)?;
    outcome?;
    mode(bed, "autoneg on", "1000Mb/s", "Full")?;
    Ok(format!("{} modes, each with answered pings", modes.len()))
}

/// Without negotiation the link is what the driver says.
fn forced(bed: &mut Bed) -> Result<String> {
    modes(
        bed,
        &[
            ("speed 100 duplex full autoneg off", "100Mb/s", "Full"),
            ("speed 100 duplex half autoneg off", "100Mb/s", "Half"),
            ("speed 10 duplex full autoneg off", "10Mb/s", "Full"),
            ("speed 10 duplex half autoneg off", "10Mb/s", "Half"),
        ],
    )
}

/// The best that both ends offer; the other end offers everything.
fn advertised(bed: &mut Bed) -> Result<String> {
    modes(
        bed,
        &[
            ("autoneg on advertise 0x00f", "100Mb/s", "Full"),
            ("autoneg on advertise 0x004", "100Mb/s", "Half"),
            ("autoneg on advertise 0x003", "10Mb/s", "Full"),
            ("autoneg on advertise 0x020", "1000Mb/s", "Full"),
        ],
    )
}

/// Gigabit is full duplex on this card.
fn refused(bed: &mut Bed) -> Result<String> {
    let words = "ethtool -s @ speed 1000 duplex half autoneg off".replace('@', &bed.iface);
    let words: Vec<_> = words.split(' ').collect();
    let done = bed.agent().exec(&words, SHORT)?;
    bed.guest(ALL_MODES)?;
    bed.carrier(true)?;
    ensure!(done.code != 0, "half duplex at 1000 Mbit/s was not refused");
    mode(bed, "autoneg on", "1000Mb/s", "Full")?;
    Ok(done.stderr.trim().to_owned())
}

/// How often the guest has seen the link come and go.
fn changes(bed: &Bed) -> Result<[u64; 2]> {
    let count = |way: &str| -> Result<u64> {
        let said = bed.guest(&format!("cat /sys/class/net/@/carrier_{way}_count"))?;
        said.trim().parse().context("no count of carrier changes")
    };
    Ok([count("up")?, count("down")?])
}

/// The link goes, and returns as it was.
fn renegotiated(bed: &mut Bed) -> Result<String> {
    let before = changes(bed)?;
    bed.guest("ethtool -r @")?;
    bed.carrier(true)?;
    let after = changes(bed)?;
    let moved = [after[0] - before[0], after[1] - before[1]];
    ensure!(moved == [1, 1], "came and went {moved:?} times");
    mode(bed, "autoneg on", "1000Mb/s", "Full")?;
    Ok("gone once, back once".into())
}

/// The light blinks for a second and is as before.
fn identified(bed: &mut Bed) -> Result<String> {
    let lights = |bed: &Bed| -> Result<Option<String>> {
        let said = bed.guest("ethtool -d @")?;
        let line = said.lines().find(|line| line.contains("LEDCTL"));
        Ok(line.map(str::to_owned))
    };
    let before = lights(bed)?;
    bed.guest_within("ethtool -p @ 1", Duration::from_secs(30))?;
    let after = lights(bed)?;
    ensure!(before == after, "LEDCTL {before:?}, afterwards {after:?}");
    bed.ping(HOST, 2, 56)?;
    Ok(after.map_or_else(
        || "blinked for a second".into(),
        |line| line.trim().to_owned(),
    ))
}

/// igb has them for the i350 and later only: an 82576 says so, and takes none.
fn ntuple(bed: &mut Bed) -> Result<String> {
    let shown = bed.guest("ethtool -k @")?;
    let state = value_of(&shown, "ntuple-filters").unwrap_or_default();
    ensure!(state == "off [fixed]", "ntuple-filters: {state}");
    for line in [
        "ethtool -N @ flow-type ether proto 0x88b5 action 1",
        "ethtool -N @ flow-type ether dst 02:00:00:00:00:99 action 1",
    ] {
        let line = line.replace('@', &bed.iface);
        let words: Vec<_> = line.split(' ').collect();
        let done = bed.agent().exec(&words, SHORT)?;
        ensure!(done.code != 0, "`{line}` was not refused");
        ensure!(
            done.stderr.contains("Operation not supported"),
            "{line}: {}",
            done.stderr.trim()
        );
    }
    Ok(format!("ntuple-filters: {state}"))
}

/// Streams of datagrams from one host: all in one queue, or spread once ports are hashed.
fn flow_hash(bed: &mut Bed) -> Result<String> {
    let spread = |bed: &Bed, fields: &str| -> Result<Vec<u64>> {
        bed.guest(&format!("ethtool -N @ rx-flow-hash udp4 {fields}"))?;
        let mut server = bed.iperf3(&["-s", "-1", "--forceflush"])?;
        server.expect("listening")?;
        let before = queues(bed)?;
        bed.guest(&format!("iperf3 -c {HOST} -u -R -P 16 -b 300K -l 400 -t 2"))?;
        server.end().context("iperf3's server")?;
        let after = queues(bed)?;
        Ok(before.iter().zip(after).map(|(a, b)| b - a).collect())
    };
    let (one, many) = (spread(bed, "sd"), spread(bed, "sdfn"));
    bed.guest("ethtool -N @ rx-flow-hash udp4 sd")?;
    let (one, many) = (one?, many?);
    // iperf3 has a connection besides, which is somewhere.
    let (all, most) = (one.iter().sum::<u64>(), one.iter().max().copied());
    ensure!(
        all > 500 && most.is_some_and(|most| most * 10 > all * 9),
        "without ports {one:?} packets per queue"
    );
    let all = many.iter().sum::<u64>();
    ensure!(
        all > 500 && many.iter().all(|packets| packets * 10 > all),
        "with ports {many:?} packets per queue"
    );
    Ok(format!("{one:?} packets per queue, then {many:?}"))
}
