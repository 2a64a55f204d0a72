//! A guest whose stock igbvf drives our VFs, as a person at its console would use it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use guest_agent::protocol::{Link, PingResult};
use serde_json::Value;

use crate::vm::scenario::Stage;
use crate::vm::{Vm, VmConfig};

/// How long a command that does no long work may take: an emulated guest on a busy machine is slow.
pub(super) const QUICK: Duration = Duration::from_secs(30);
/// How long stock drivers may take until their link is up, or down.
pub(super) const LINK_LIMIT: Duration = Duration::from_secs(60);
/// igbvf looks every 2 s whether it must reset itself; without a change of its link for this long it
/// is at rest.
const REST: Duration = Duration::from_secs(3);
/// How long an echo reply may take.
pub(super) const REPLY_LIMIT: Duration = Duration::from_secs(2);
/// How long a server of iperf3 may take after one client until it takes the next.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
/// Port of the iperf3 server of every guest.
pub(super) const IPERF_PORT: &str = "5201";
/// The ethertype of test frames (IEEE 802 local experimental): nobody else sends it.
const TEST_ETHERTYPE: [u8; 2] = [0x88, 0xB5];

/// What kernels say when something is wrong with a driver or with the machine.
const COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace",
    "kernel panic",
    "Kernel panic",
    "blocked for more than",
    "NETDEV WATCHDOG",
    "Tx Unit Hang",
    "transmit queue 0 timed out",
    "PF still in reset",
    "PF still resetting",
    "general protection fault",
    "refcount_t",
    "stack guard page",
    "soft lockup",
    "Failed to remove vlan id",
    "RX DMA map failed",
    "TX DMA map failed",
];

/// A running guest.
pub(in crate::vm::scenarios) struct Guest {
    pub(super) name: &'static str,
    pub(super) vm: Vm,
    /// Its interfaces on VFs, in the order of the VFs' root ports.
    pub(super) interfaces: Vec<String>,
    /// Bytes of the kernel's log that have been judged.
    judged: usize,
}

/// What a run of iperf3 gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Throughput {
    /// What arrived, Mbit/s.
    pub(super) mbits: f64,
    /// Datagrams lost, in percent; 0 for TCP.
    pub(super) lost: f64,
}

impl Guest {
    /// Boots a guest with a VF behind each of `sockets`. The driver is not loaded yet.
    pub(super) fn boot(stage: &Stage<'_>, name: &'static str, sockets: &[PathBuf]) -> Result<Self> {
        let mut config = VmConfig::new(name).tools().reboots();
        for socket in sockets {
            config = config.vfio_user(socket)?;
        }
        let vm = stage
            .start(config)
            .with_context(|| format!("starting guest {name}"))?;
        Ok(Self {
            name,
            vm,
            interfaces: Vec::new(),
            judged: 0,
        })
    }

    /// Loads igbvf; its interfaces appear.
    pub(super) fn load(&mut self) -> Result<()> {
        let name = self.name;
        self.vm
            .agent()
            .load_module("igbvf", "")
            .with_context(|| format!("loading igbvf in guest {name}"))?;
        let mut links = self.vm.agent().links_of("igbvf")?;
        links.sort_by(|a, b| a.device.cmp(&b.device));
        self.interfaces = links.into_iter().map(|link| link.name).collect();
        ensure!(
            !self.interfaces.is_empty(),
            "igbvf made no interface in guest {name}; {}",
            self.kernel_words("igbvf")
        );
        // Nothing but what a check sends shall be on the wire.
        for interface in self.interfaces.clone() {
            self.ip(&format!("link set dev {interface} addrgenmode none"))?;
        }
        Ok(())
    }

    /// Unloads it.
    pub(super) fn unload(&self) -> Result<()> {
        self.vm.agent().unload_module("igbvf")?;
        let left = self.vm.agent().links_of("igbvf")?;
        ensure!(left.is_empty(), "an interface outlives igbvf: {left:?}");
        Ok(())
    }

    /// The name of its interface `n`.
    pub(super) fn interface(&self, n: usize) -> Result<String> {
        let name = self.interfaces.get(n).cloned();
        name.with_context(|| format!("guest {} has no interface {n}", self.name))
    }

    /// Gives interface `n` an address, sets it up and waits for its link.
    pub(super) fn set_up(&self, n: usize, address: &str) -> Result<()> {
        let interface = self.interface(n)?;
        self.ip(&format!("address replace {address}/24 dev {interface}"))?;
        self.ip(&format!("link set dev {interface} up"))?;
        self.carrier(n, true)
    }

    /// Waits until interface `n` has a carrier, or none.
    pub(super) fn carrier(&self, n: usize, up: bool) -> Result<()> {
        let interface = self.interface(n)?;
        let waited = self.vm.agent().wait_link(&interface, Some(up), LINK_LIMIT);
        waited
            .map(drop)
            .with_context(|| format!("guest {}: {interface} has no carrier {up}", self.name))
    }

    /// Sets interface `n` down and up, which resets the VF. igbvf resets itself too after what the PF
    /// changed, without a lock against being closed meanwhile, and then the kernel warns of igbvf,
    /// whatever the card does: so it is let come to rest before.
    pub(super) fn bounce(&self, n: usize) -> Result<()> {
        let (interface, agent) = (self.interface(n)?, self.vm.agent());
        let begin = Instant::now();
        let mut carrier = self.link(n)?.carrier == Some(true);
        while agent.wait_link(&interface, Some(!carrier), REST).is_ok() {
            carrier = !carrier;
            ensure!(
                begin.elapsed() < LINK_LIMIT,
                "guest {}: the link of {interface} does not come to rest",
                self.name
            );
        }
        self.ip(&format!("link set dev {interface} down"))?;
        self.ip(&format!("link set dev {interface} up"))?;
        Ok(())
    }

    /// Runs iproute2's `ip` with the words of `line`.
    pub(super) fn ip(&self, line: &str) -> Result<String> {
        self.run(&format!("ip {line}"))
    }

    /// Runs the words of `line`, which must end well.
    pub(super) fn run(&self, line: &str) -> Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        self.vm
            .agent()
            .run(&words, QUICK)
            .with_context(|| format!("guest {}: {line}", self.name))
    }

    /// Runs the words of `line`, which must be refused; what was said.
    pub(super) fn refused(&self, line: &str) -> Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        let done = self.vm.agent().exec(&words, QUICK)?;
        ensure!(done.code != 0, "`{line}` was not refused");
        Ok(format!("{line}: {}", done.stderr.trim()))
    }

    /// What the kernel says of interface `n`.
    pub(super) fn link(&self, n: usize) -> Result<Link> {
        let name = self.interface(n)?;
        let links = self.vm.agent().links()?;
        let found = links.into_iter().find(|link| link.name == name);
        found.with_context(|| format!("guest {}: {name} is gone", self.name))
    }

    /// Pings `address` `count` times with `size` bytes.
    pub(super) fn ping(&self, address: &str, count: u16, size: u16) -> Result<PingResult> {
        let address: Ipv4Addr = address.parse()?;
        self.vm.agent().ping(address, count, REPLY_LIMIT, size)
    }

    /// Pings until a reply comes, `limit` at most: a switch learns, a peer resolves addresses.
    pub(super) fn reaches(&self, address: &str, limit: Duration) -> Result<Duration> {
        let begin = Instant::now();
        while begin.elapsed() < limit {
            if self.ping(address, 1, 56)?.received == 1 {
                return Ok(begin.elapsed());
            }
        }
        bail!(
            "guest {}: {address} is not reached within {} s",
            self.name,
            limit.as_secs()
        )
    }

    /// Whether not one of a few pings to `address` is answered.
    pub(super) fn cannot_reach(&self, address: &str) -> Result<String> {
        let pings = self.ping(address, 2, 56)?;
        ensure!(
            pings.received == 0,
            "{address} answered {} of {} pings",
            pings.received,
            pings.sent
        );
        Ok(format!("0 of {} pings to {address} answered", pings.sent))
    }

    /// A server for iperf3, which runs until the guest ends.
    pub(super) fn serve_iperf(&self) -> Result<()> {
        let words = ["iperf3", "-s", "-p", IPERF_PORT];
        self.vm.agent().spawn(&words).map(drop)
    }

    /// Runs iperf3 against the server at `address` for `seconds`, with more words.
    pub(super) fn iperf(&self, address: &str, seconds: u64, more: &[&str]) -> Result<Throughput> {
        let time = seconds.to_string();
        let mut words = vec!["iperf3", "-J", "-c", address, "-p", IPERF_PORT, "-t", &time];
        words.extend(["--connect-timeout", "10000"]);
        words.extend(more);
        let limit = Duration::from_secs(seconds) + Duration::from_secs(60);
        let name = self.name;
        once_it_listens(|| {
            let done = self.vm.agent().exec(&words, limit)?;
            throughput(&done.stdout).with_context(|| {
                format!("guest {name}: {} ({})", words.join(" "), done.stderr.trim())
            })
        })
    }

    /// The lines of the kernel's log with `word`.
    pub(super) fn kernel_words(&self, word: &str) -> String {
        let log = self.vm.agent().kmsg().unwrap_or_default();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(word)).collect();
        lines.join(" | ")
    }

    /// What the kernel complained of since the last time it was asked, but for what contains one of
    /// the words `expected`.
    pub(super) fn complaints(&mut self, expected: &[&str]) -> Result<Vec<String>> {
        let log = self.vm.agent().kmsg()?;
        let new = log.get(self.judged..).unwrap_or(&log).to_owned();
        self.judged = log.len();
        Ok(complaints(&new, expected))
    }

    /// The guest began anew: so does its log.
    pub(super) fn log_is_new(&mut self) {
        self.judged = 0;
    }
}

/// Lines of a kernel's log that tell of trouble.
fn complaints(log: &str, expected: &[&str]) -> Vec<String> {
    log.lines()
        .filter(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)))
        .filter(|line| !expected.iter().any(|word| line.contains(word)))
        .map(str::to_owned)
        .collect()
}

/// Runs a client of iperf3, anew while its server refuses it: after each client a server closes its
/// port and opens it again, which takes an emulated guest a moment.
pub(super) fn once_it_listens(mut run: impl FnMut() -> Result<Throughput>) -> Result<Throughput> {
    let begin = Instant::now();
    loop {
        match run() {
            Err(error)
                if begin.elapsed() < LISTEN_LIMIT
                    && format!("{error:#}").contains("Connection refused") => {}
            outcome => return outcome,
        }
    }
}

/// Reads the report of iperf3.
pub(super) fn throughput(json: &str) -> Result<Throughput> {
    let report: Value = serde_json::from_str(json).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    let received = [&end["sum_received"], &end["sum"]]
        .into_iter()
        .find(|sum| sum["bits_per_second"].is_number())
        .context("iperf3 reported no sum")?;
    Ok(Throughput {
        mbits: received["bits_per_second"].as_f64().unwrap_or_default() / 1e6,
        lost: received["lost_percent"].as_f64().unwrap_or_default(),
    })
}

/// A test frame, `mark` all over its payload.
pub(super) fn frame(to: &str, from: &str, mark: u8) -> Result<Vec<u8>> {
    let mut frame = [mac(to)?, mac(from)?].concat();
    frame.extend(TEST_ETHERTYPE);
    frame.extend([mark; 46]);
    Ok(frame)
}

/// How many of `frames` are test frames from `from` with `mark`.
pub(super) fn count(frames: &[Vec<u8>], from: &str, mark: u8) -> Result<usize> {
    let from = mac(from)?;
    let is_ours = |frame: &&Vec<u8>| {
        frame.get(6..12) == Some(&from[..])
            && frame.get(12..14) == Some(&TEST_ETHERTYPE)
            && frame.get(14) == Some(&mark)
    };
    Ok(frames.iter().filter(is_ours).count())
}

/// The bytes of `xx:xx:xx:xx:xx:xx`.
pub(super) fn mac(text: &str) -> Result<Vec<u8>> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{text:?} is no MAC address"))?;
    ensure!(bytes.len() == 6, "{text:?} is no MAC address");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_in_a_kernels_log_is_found_unless_it_was_expected() {
        let log = "igbvf 0000:01:00.0: PF still resetting\nigbvf: Link is Up\n\
                   WARNING: CPU: 0 PID: 1 at net/core/dev.c:1\n";
        assert_eq!(complaints(log, &[]).len(), 2);
        let rest = complaints(log, &["PF still resetting"]);
        assert_eq!(rest, ["WARNING: CPU: 0 PID: 1 at net/core/dev.c:1"]);
    }

    #[test]
    fn the_report_of_iperf3_is_read() {
        let tcp = r#"{"end":{"sum_sent":{"bits_per_second":9e8},
                             "sum_received":{"bits_per_second":2.5e8}}}"#;
        assert_eq!(throughput(tcp).unwrap().mbits, 250.0);
        let udp = r#"{"end":{"sum":{"bits_per_second":2e7,"lost_percent":12.5}}}"#;
        let udp = throughput(udp).unwrap();
        assert_eq!((udp.mbits, udp.lost), (20.0, 12.5));
        let error = throughput(r#"{"error":"unable to connect"}"#).unwrap_err();
        assert!(error.to_string().contains("unable to connect"));
        assert!(throughput("").is_err());
    }

    #[test]
    fn only_a_refused_client_is_run_anew() {
        let throughput = Throughput {
            mbits: 1.0,
            lost: 0.0,
        };
        let mut answers = vec![Ok(throughput), Err("iperf3: Connection refused")]
            .into_iter()
            .rev();
        let mut run = || {
            answers
                .next()
                .context("run too often")?
                .map_err(anyhow::Error::msg)
        };
        assert_eq!(once_it_listens(&mut run).unwrap().mbits, 1.0);
        let mut runs = 0;
        let lost = once_it_listens(|| {
            runs += 1;
            bail!("iperf3: control socket has closed unexpectedly")
        });
        assert!(lost.is_err() && runs == 1);
    }

    #[test]
    fn test_frames_are_told_from_others() {
        let (to, from) = ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01");
        let frames = [frame(to, from, 7).unwrap(), frame(to, from, 8).unwrap()];
        assert_eq!(count(&frames, from, 7).unwrap(), 1);
        assert_eq!(count(&frames, "02:00:00:00:00:02", 7).unwrap(), 0);
        assert!(mac("02:00").is_err());
    }
}
