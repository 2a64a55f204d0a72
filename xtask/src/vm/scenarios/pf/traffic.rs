//! What passes through the card: filters, queues, offloads, throughput.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::{Bed, GUEST, HOST, TAP, value_of};
use super::checks::Behaviour;

/// In the order in which they run; each leaves the guest as it found it.
pub(in super::super) const TRAFFIC: &[Behaviour] = &[
    Behaviour {
        name: "multicast",
        run: multicast,
    },
    Behaviour {
        name: "promiscuous",
        run: promiscuous,
    },
    Behaviour {
        name: "RSS",
        run: rss,
    },
    Behaviour {
        name: "one queue",
        run: one_queue,
    },
    Behaviour {
        name: "offloads all on",
        run: |bed| intact(bed),
    },
    Behaviour {
        name: "without tso",
        run: |bed| without(bed, "tso"),
    },
    Behaviour {
        name: "without gso",
        run: |bed| without(bed, "gso"),
    },
    Behaviour {
        name: "without gro",
        run: |bed| without(bed, "gro"),
    },
    Behaviour {
        name: "without rx checksums",
        run: |bed| without(bed, "rx"),
    },
    Behaviour {
        name: "without tx checksums",
        run: |bed| without(bed, "tx"),
    },
    Behaviour {
        name: "without sg",
        run: |bed| without(bed, "sg"),
    },
    Behaviour {
        name: "without rxvlan and txvlan",
        run: without_vlan,
    },
    Behaviour {
        name: "MTU 9000 intact",
        run: jumbo,
    },
    Behaviour {
        name: "TCP from the guest",
        run: |bed| rate(bed, Flow::TCP),
    },
    Behaviour {
        name: "TCP to the guest",
        run: |bed| {
            rate(
                bed,
                Flow {
                    reverse: true,
                    ..Flow::TCP
                },
            )
        },
    },
    Behaviour {
        name: "UDP from the guest",
        run: |bed| rate(bed, Flow::UDP),
    },
    Behaviour {
        name: "UDP to the guest",
        run: |bed| {
            rate(
                bed,
                Flow {
                    reverse: true,
                    ..Flow::UDP
                },
            )
        },
    },
];

/// How long the guest looks for frames that must come or must not.
const LOOK: Duration = Duration::from_secs(4);

/// Frames to `mac` that the guest sees while `send` runs on this machine.
fn seen(bed: &Bed, mac: [u8; 6], send: &str) -> Result<usize> {
    let capture = bed.agent().begin_capture(&bed.iface, 512)?;
    // Nobody answers what is sent here, which `ping` reports as a failure.
    let _ = bed.host(send);
    let frames = capture.end(LOOK)?;
    Ok(frames
        .iter()
        .filter(|frame| frame.starts_with(&mac))
        .count())
}

/// A group's frames reach the guest once it has joined the group.
fn multicast(bed: &mut Bed) -> Result<String> {
    let send = format!("busybox ping -c 3 -W 1 -I {TAP} 239.77.1.2");
    let mac = [1, 0, 0x5E, 77, 1, 2];
    let _ = bed.host(&format!("ip route add 239.0.0.0/8 dev {TAP}"));
    let before = seen(bed, mac, &send)?;
    bed.guest("ip maddr add 01:00:5e:4d:01:02 dev @")?;
    let joined = seen(bed, mac, &send)?;
    bed.guest("ip maddr del 01:00:5e:4d:01:02 dev @")?;
    let after = seen(bed, mac, &send)?;
    ensure!(
        before == 0 && joined >= 3 && after == 0,
        "{before} frames before, {joined} as a member, {after} afterwards"
    );
    Ok(format!(
        "{joined} frames as a member, none before and after"
    ))
}

/// Somebody else's frames reach the guest while it is promiscuous.
fn promiscuous(bed: &mut Bed) -> Result<String> {
    let mac = [2, 0, 0, 0, 0, 0x99];
    bed.host(&format!(
        "ip neigh replace 10.83.0.99 lladdr 02:00:00:00:00:99 dev {TAP}"
    ))?;
    let send = "busybox ping -c 3 -W 1 10.83.0.99";
    let before = seen(bed, mac, send)?;
    bed.guest("ip link set @ promisc on")?;
    let during = seen(bed, mac, send)?;
    bed.guest("ip link set @ promisc off")?;
    let after = seen(bed, mac, send)?;
    ensure!(
        before == 0 && during >= 3 && after == 0,
        "{before} frames before, {during} while promiscuous, {after} afterwards"
    );
    Ok(format!("{during} frames, none before and after"))
}

/// Packets that each receive queue of the guest has had.
pub(super) fn queues(bed: &Bed) -> Result<Vec<u64>> {
    let table = bed.guest("ethtool -S @")?;
    (0..bed.cpus)
        .map(|queue| {
            value_of(&table, &format!("rx_queue_{queue}_packets"))
                .and_then(|value| value.parse().ok())
                .with_context(|| format!("no counter of queue {queue}"))
        })
        .collect()
}

/// Flows spread over the queues as the table says.
fn rss(bed: &mut Bed) -> Result<String> {
    let shown = bed.guest("ethtool -x @")?;
    ensure!(
        shown.contains(&format!("with {} RX ring(s)", bed.cpus)),
        "{shown}"
    );
    let spread = |bed: &Bed| -> Result<Vec<u64>> {
        let before = queues(bed)?;
        many_flows(bed)?;
        let after = queues(bed)?;
        Ok(before.iter().zip(after).map(|(a, b)| b - a).collect())
    };
    let even = spread(bed)?;
    ensure!(
        even.iter().all(|packets| *packets >= 10),
        "packets per queue {even:?}"
    );
    // All weight on the first queue.
    let weights = format!(
        "ethtool -X @ weight 1{}",
        " 0".repeat(bed.cpus as usize - 1)
    );
    bed.guest(&weights)?;
    let first = spread(bed);
    // A table of the user's own would forbid fewer queues.
    bed.guest("ethtool -X @ default")?;
    let first = first?;
    ensure!(
        first[0] >= 100 && first[1..].iter().all(|packets| *packets < 10),
        "with all weight on the first queue {first:?}"
    );
    Ok(format!("{even:?} packets, then {first:?}"))
}

/// Streams from many ports at once.
fn many_flows(bed: &Bed) -> Result<()> {
    let flow = Flow {
        streams: 16,
        reverse: true,
        seconds: 2,
        ..Flow::TCP
    };
    measure(bed, flow).map(drop)
}

fn one_queue(bed: &mut Bed) -> Result<String> {
    bed.guest("ethtool -L @ combined 1")?;
    bed.carrier(true)?;
    let result = bed.ping(HOST, 3, 56).and_then(|_| {
        let table = bed.guest("ethtool -S @")?;
        ensure!(
            value_of(&table, "rx_queue_1_packets").is_none(),
            "there is still a second queue"
        );
        Ok("one queue, which works".to_owned())
    });
    bed.guest(&format!("ethtool -L @ combined {}", bed.cpus))?;
    bed.carrier(true)?;
    result
}

const PORT: u16 = 5099;

/// A file of random bytes comes through whole, both ways.
fn intact(bed: &mut Bed) -> Result<String> {
    bed.guest_shell("test -f /tmp/data || dd if=/dev/urandom of=/tmp/data bs=64k count=24")?;
    let sent = first_word(&bed.guest_shell("sha256sum /tmp/data")?);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("data").display().to_string();
    let sink = bed.host_shell(&format!("busybox nc -l -p {PORT} > {file}"));
    let sink = bed.host_job(&sink)?;
    bed.guest_shell(&format!(
        "for n in 1 2 3 4 5 6 7 8 9; do nc -w 20 {HOST} {PORT} < /tmp/data && exit 0; sleep 0.2; done; exit 1"
    ))?;
    sink.end().context("receiving on this machine")?;
    let hash = first_word(&bed.host(&format!("busybox sha256sum {file}"))?);
    ensure!(
        hash == sent,
        "what the guest sent arrived as {hash}, not {sent}"
    );
    // Opened both ways a pipe has no end.
    bed.guest_shell("test -p /tmp/silent || mkfifo /tmp/silent")?;
    let job = bed.agent().spawn(&[
        "sh",
        "-c",
        &format!("nc -l -p {PORT} <>/tmp/silent | sha256sum"),
    ])?;
    let source = bed.host_shell(&format!(
        "for n in 1 2 3 4 5 6 7 8 9; do busybox nc -w 20 {GUEST} {PORT} < {file} && exit 0; \
         busybox sleep 0.2; done; exit 1"
    ));
    bed.host_job(&source)?
        .end()
        .context("sending from this machine")?;
    let done = bed.agent().wait(job, Duration::from_secs(90))?;
    let hash = first_word(&done.stdout);
    ensure!(
        hash == sent,
        "what this machine sent arrived as {hash}, not {sent}"
    );
    Ok("1.5 MiB each way, hashes equal".into())
}

fn first_word(text: &str) -> String {
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The same with one offload off, and again with it on.
fn without(bed: &mut Bed, offload: &str) -> Result<String> {
    bed.guest(&format!("ethtool -K @ {offload} off"))?;
    bed.carrier(true)?;
    let off = intact(bed);
    bed.guest(&format!("ethtool -K @ {offload} on"))?;
    bed.carrier(true)?;
    off.with_context(|| format!("with {offload} off"))?;
    intact(bed).with_context(|| format!("with {offload} on again"))
}

/// igb has the two of them on or off together.
fn without_vlan(bed: &mut Bed) -> Result<String> {
    bed.guest("ethtool -K @ rxvlan off")?;
    bed.carrier(true)?;
    let shown = bed.guest("ethtool -k @")?;
    bed.guest("ethtool -K @ rxvlan on txvlan on")?;
    bed.carrier(true)?;
    for offload in ["rx-vlan-offload", "tx-vlan-offload"] {
        let state = value_of(&shown, offload).unwrap_or_default();
        ensure!(state.starts_with("off"), "{offload} is {state:?}");
    }
    without(bed, "rxvlan")
}

fn jumbo(bed: &mut Bed) -> Result<String> {
    bed.guest("ip link set @ mtu 9000")?;
    bed.carrier(true)?;
    let result = intact(bed);
    bed.guest("ip link set @ mtu 1500")?;
    bed.carrier(true)?;
    result
}

/// A run of iperf3, the guest being its client.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Flow {
    pub(in super::super) udp: bool,
    /// From this machine to the guest.
    pub(in super::super) reverse: bool,
    pub(in super::super) streams: u32,
    pub(in super::super) seconds: u32,
}

impl Flow {
    pub(in super::super) const TCP: Self = Self {
        udp: false,
        reverse: false,
        streams: 1,
        seconds: 4,
    };
    pub(in super::super) const UDP: Self = Self {
        udp: true,
        ..Self::TCP
    };
}

/// What iperf3 has found.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Rate {
    /// What arrived.
    pub(in super::super) mbit_s: f64,
    /// Lost datagrams, in percent.
    pub(in super::super) lost: f64,
}

/// The rate of UDP's sender: what an emulated guest on a busy machine can take.
const UDP_RATE: &str = "20M";

pub(in super::super) fn measure(bed: &Bed, flow: Flow) -> Result<Rate> {
    let mut server = bed.iperf3(&["-s", "-1", "--forceflush"])?;
    server.expect("listening")?;
    let mut line = format!(
        "iperf3 -c {HOST} -J -t {} -P {}",
        flow.seconds, flow.streams
    );
    if flow.udp {
        line += &format!(" -u -l 1400 -b {UDP_RATE}");
    }
    if flow.reverse {
        line += " -R";
    }
    let limit = Duration::from_secs(u64::from(flow.seconds) + 60);
    let said = bed.guest_within(&line, limit)?;
    server.end().context("iperf3's server")?;
    let report: Value = serde_json::from_str(&said).context("iperf3 did not print JSON")?;
    let end = &report["end"];
    let sum = if flow.udp {
        &end["sum"]
    } else {
        &end["sum_received"]
    };
    let bits = sum["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 gives no rate: {end}"))?;
    Ok(Rate {
        mbit_s: bits / 1e6,
        lost: sum["lost_percent"].as_f64().unwrap_or(0.0),
    })
}

fn rate(bed: &mut Bed, flow: Flow) -> Result<String> {
    let rate = measure(bed, flow)?;
    ensure!(rate.mbit_s > 1.0, "only {:.2} Mbit/s", rate.mbit_s);
    ensure!(
        rate.lost < 20.0,
        "{:.1} % of the datagrams were lost",
        rate.lost
    );
    Ok(format!(
        "{:.1} Mbit/s, {:.2} % lost",
        rate.mbit_s, rate.lost
    ))
}

/// Both directions at once, for `seconds`.
pub(in super::super) fn soak(bed: &Bed, seconds: u32) -> Result<String> {
    let flow = Flow {
        seconds,
        ..Flow::TCP
    };
    thread::scope(|scope| {
        let pings = scope.spawn(|| bed.ping_guest(seconds, 1000));
        let rate = measure(bed, flow)?;
        pings
            .join()
            .expect("it does not panic")
            .context("pings beside the stream")?;
        Ok(format!("{:.1} Mbit/s beside pings", rate.mbit_s))
    })
}
