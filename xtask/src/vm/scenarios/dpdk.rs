//! DPDK's drivers of the 82576 in a guest: dpdk-testpmd on our PF function
//! and on two of our VFs, its statistics next to those of the card.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::report::Report;
use crate::rig::{CALL_LIMIT, Rig, RigOptions};
use crate::vm::scenario::Stage;
use crate::vm::{Agent, NotHere, Vm, VmConfig};

/// Debian's packages: the programs, the driver of the 82576, and the pool of
/// buffers that the programs use.
const PACKAGES: [&str; 3] = ["dpdk-dev", "librte-net-e1000-25", "librte-mempool-ring25"];
/// The container's kind of IOMMU, a module of its own in Debian's kernel.
const TYPE1: &str = "vfio_iommu_type1";
/// Device IDs of the 82576's functions.
const PF_DEVICE: u16 = 0x10c9;
const VF_DEVICE: u16 = 0x10ca;
/// What an emulated guest on a busy machine may take for one step.
const PATIENCE: Duration = Duration::from_secs(90);
/// The addresses that the PF driver assigns.
const VF_MACS: [&str; 2] = ["02:82:57:60:0d:00", "02:82:57:60:0d:01"];
/// Frames sent into the PF from the wire.
const FRAMES: u64 = 500;
/// Frames after which a run that sends on and on has shown what it can.
const ENOUGH: u64 = 2000;

pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let pf = on_pf(stage, report).context("testpmd on the PF");
    settle("vm/dpdk/pf", pf, report);
    for way in [Way::Uio, Way::Vfio] {
        let name = format!("vm/dpdk/vf {}", way.name());
        let vf = on_vfs(stage, way, report).context("testpmd on two VFs");
        settle(&name, vf, report);
    }
    Ok(())
}

fn settle(name: &str, outcome: Result<()>, report: &mut Report) {
    if let Err(error) = outcome {
        if error.is::<NotHere>() {
            report.not_applicable(name, format!("{error:#}"));
        } else {
            report.check(name, false, format!("{error:#}"));
        }
    }
}

/// How a program of the guest gets at a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Without an IOMMU, by physical addresses, polling.
    Uio,
    /// Behind the emulated IOMMU.
    Vfio,
}

impl Way {
    fn name(self) -> &'static str {
        self.driver().split(['_', '-']).next().unwrap_or_default()
    }

    fn driver(self) -> &'static str {
        match self {
            Self::Uio => "uio_pci_generic",
            Self::Vfio => "vfio-pci",
        }
    }

    fn config(self, name: &str) -> VmConfig {
        let config = PACKAGES
            .iter()
            .fold(VmConfig::new(name), |config, package| {
                config.package(package)
            });
        let config = config
            .module(self.driver())
            .cpus(2)
            .memory(768)
            .kernel_arg("hugepages=96");
        match self {
            Self::Uio => config,
            Self::Vfio => config.iommu().module(TYPE1),
        }
    }

    /// Takes every function with that device ID from its driver, if it has
    /// one; returns their addresses.
    fn bind(self, agent: &Agent, device: u16) -> Result<Vec<String>> {
        agent.load_module(self.driver(), "")?;
        if self == Self::Vfio {
            agent.load_module(TYPE1, "")?;
        }
        let mut addresses = Vec::new();
        for function in agent.pci()?.iter().filter(|found| found.device == device) {
            let at = format!("/sys/bus/pci/devices/{}", function.address);
            let driver = self.driver();
            agent.write_file(&format!("{at}/driver_override"), driver.as_bytes(), 0)?;
            let probe = "/sys/bus/pci/drivers_probe";
            agent.write_file(probe, function.address.as_bytes(), 0)?;
            let bound = agent
                .pci()?
                .into_iter()
                .find(|now| now.address == function.address);
            let bound = bound.and_then(|now| now.driver);
            if bound.as_deref() != Some(driver) {
                let log = agent.kmsg()?;
                let last: Vec<_> = log.lines().rev().take(5).collect();
                bail!(NotHere(format!(
                    "{driver} does not take {}; the kernel said last: {}",
                    function.address,
                    last.join(" | ")
                )));
            }
            addresses.push(function.address.clone());
        }
        Ok(addresses)
    }
}

/// A running dpdk-testpmd that takes commands.
struct Testpmd<'a> {
    agent: &'a Agent,
    job: u32,
    /// How much of its output has been read.
    read: usize,
}

impl<'a> Testpmd<'a> {
    fn start(agent: &'a Agent, functions: &[String], options: &[&str]) -> Result<Self> {
        let mut words = vec!["dpdk-testpmd", "-l", "0-1", "--no-telemetry"];
        for function in functions {
            words.extend(["-a", function]);
        }
        words.extend(["--", "-i", "--nb-cores=1", "--total-num-mbufs=4096"]);
        words.extend(options);
        let job = agent.spawn_on_terminal(&words)?;
        let mut running = Self {
            agent,
            job,
            read: 0,
        };
        running.until("testpmd> ")?;
        Ok(running)
    }

    /// Waits for a text; returns the output up to it. If the program ended,
    /// the error quotes what it complained of.
    fn until(&mut self, text: &str) -> Result<String> {
        match self.agent.expect(self.job, text, self.read, PATIENCE) {
            Ok(output) => {
                self.read += output.len();
                Ok(output)
            }
            Err(error) => {
                self.agent.kill(self.job)?;
                let ended = self.agent.wait(self.job, PATIENCE)?;
                Err(error.context(format!("testpmd said: {}", ended.stderr.trim())))
            }
        }
    }

    /// The functions that a driver took; without any, an error that quotes what the driver said.
    fn ports(&mut self) -> Result<String> {
        let ports = self.say("show port summary all", "testpmd> ")?;
        if ports.contains("available ports: 0") {
            self.agent.kill(self.job)?;
            let ended = self.agent.wait(self.job, PATIENCE)?;
            bail!("no driver took a function: {}", ended.stderr.trim());
        }
        Ok(ports)
    }

    fn say(&mut self, command: &str, answer: &str) -> Result<String> {
        self.agent.input(self.job, &format!("{command}\n"))?;
        self.until(answer)
    }

    /// The statistics that the driver reads from the function.
    fn statistics(&mut self, port: usize) -> Result<Counters> {
        // Two rows of signs frame the counters, the second of signs alone.
        let text = self.say(&format!("show port stats {port}"), "Tx-bps:")?;
        Counters::parse(&text).with_context(|| format!("no counters in {text:?}"))
    }

    fn quit(mut self) -> Result<()> {
        self.say("quit", "Bye...")?;
        let ended = self.agent.wait(self.job, PATIENCE)?;
        ensure!(ended.code == 0, "it ended with {}", ended.code);
        Ok(())
    }
}

/// Frames that a function has received and sent, as somebody counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    rx: u64,
    tx: u64,
    rx_bytes: u64,
    tx_bytes: u64,
}

impl Counters {
    /// Out of testpmd's `show port stats`.
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let field = |name: &str| {
            let at = words.iter().rposition(|word| *word == name)?;
            words.get(at + 1)?.parse().ok()
        };
        Some(Self {
            rx: field("RX-packets:")?,
            tx: field("TX-packets:")?,
            rx_bytes: field("RX-bytes:")?,
            tx_bytes: field("TX-bytes:")?,
        })
    }

    /// Of a function, out of the card's own statistics.
    fn of_card(rig: &Rig, function: &str) -> Result<Self> {
        let stats = rig
            .card_control()
            .call(&json!({"op": "stats"}), CALL_LIMIT)?;
        let functions = stats["functions"].as_array().context("no functions")?;
        let entry = functions
            .iter()
            .find(|entry| entry["function"] == function)
            .with_context(|| format!("the card counts nothing of {function}"))?;
        let field = |name: &str| {
            let value: &Value = &entry[name];
            value
                .as_u64()
                .with_context(|| format!("no {name} in {entry}"))
        };
        Ok(Self {
            rx: field("rx_packets")?,
            tx: field("tx_packets")?,
            rx_bytes: field("rx_bytes")?,
            tx_bytes: field("tx_bytes")?,
        })
    }

    /// Waits until the card has counted so many frames sent.
    fn wait_sent(rig: &Rig, function: &str, frames: u64) -> Result<Self> {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = Self::of_card(rig, function)?;
            if now.tx >= frames {
                return Ok(now);
            }
            ensure!(
                Instant::now() < end,
                "{function} has sent {} of {frames}",
                now.tx
            );
        }
    }
}

fn compare(name: &str, testpmd: Counters, card: Counters, report: &mut Report) {
    report.check(
        name,
        (testpmd.rx, testpmd.tx) == (card.rx, card.tx),
        format!("testpmd {testpmd:?}, card {card:?}"),
    );
}

/// Frames from the wire go out again, then frames of its own.
fn on_pf(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let (card_end, wire_end) = (folder.path().join("wire"), folder.path().join("wire.peer"));
    let wire = UnixDatagram::bind(&wire_end).context("bind the wire's end")?;
    wire.set_read_timeout(Some(PATIENCE))?;
    let mut rig = Rig::new(RigOptions {
        programs: stage.programs.into(),
        vfs: 0,
        policy: json!({"vfs": {}}),
        capture: false,
        card_arguments: vec!["--uplink".into(), format!("unix:{}", card_end.display())],
    })?;
    rig.start_card()?;
    let config = Way::Uio.config("dpdk-pf");
    let vm = stage.start(config.vfio_user(&rig.nic().join("pf.sock"))?)?;
    let agent = vm.agent();
    let functions = Way::Uio.bind(agent, PF_DEVICE)?;
    let options = ["--forward-mode=io", "--port-topology=loop"];
    let mut testpmd = Testpmd::start(agent, &functions, &options)?;
    let port = testpmd.ports()?;
    report.check(
        "vm/dpdk/pf starts",
        port.contains("net_e1000_igb"),
        port.trim(),
    );
    testpmd.say("start", "testpmd> ")?;
    wire.connect(&card_end)
        .context("connect to the card's wire")?;
    let mut frame = vec![0xff; 6];
    frame.extend([0x02, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    frame.resize(128, 0x5a);
    let (mut buffer, mut back) = (vec![0; 4096], 0);
    for _ in 0..FRAMES {
        wire.send(&frame).context("send into the card")?;
        // One at a time: this is no test of queues that overflow.
        let length = wire
            .recv(&mut buffer)
            .context("wait for a frame to come back")?;
        back += u64::from(buffer[..length] == frame);
    }
    report.check(
        "vm/dpdk/pf forwards",
        back == FRAMES,
        format!("{back} of {FRAMES} frames from the wire came back unchanged"),
    );
    testpmd.say("stop", "Done.")?;
    let card = Counters::of_card(&rig, "pf")?;
    compare(
        "vm/dpdk/pf statistics",
        testpmd.statistics(0)?,
        card,
        report,
    );
    testpmd.say("set fwd txonly", "testpmd> ")?;
    testpmd.say("start", "testpmd> ")?;
    let sent = Counters::wait_sent(&rig, "pf", card.tx + ENOUGH);
    testpmd.say("stop", "Done.")?;
    let sent = sent?;
    report.check("vm/dpdk/pf sends", true, format!("{} frames", sent.tx));
    let card = settled(&rig, "pf")?;
    compare(
        "vm/dpdk/pf statistics of a sender",
        testpmd.statistics(0)?,
        card,
        report,
    );
    testpmd.quit()?;
    finish(vm, rig, report, "vm/dpdk/pf")
}

/// Frames of two VFs go round between them.
fn on_vfs(stage: &Stage<'_>, way: Way, report: &mut Report) -> Result<()> {
    let name = |what: &str| format!("vm/dpdk/vf {} {what}", way.name());
    let mut rig = Rig::new(RigOptions {
        programs: stage.programs.into(),
        vfs: 2,
        policy: json!({"vfs": {"0": {"mac": VF_MACS[0]}, "1": {"mac": VF_MACS[1]}}}),
        capture: false,
        card_arguments: Vec::new(),
    })?;
    rig.start_card()?;
    rig.start_mediator()?;
    rig.start_pf()?;
    let config = way.config(&format!("dpdk-vf-{}", way.name()));
    let config = config.vfio_user(&rig.vf_socket(0))?;
    let vm = stage.start(config.vfio_user(&rig.vf_socket(1))?)?;
    let agent = vm.agent();
    let functions = way.bind(agent, VF_DEVICE)?;
    let peers = [0, 1].map(|port| format!("--eth-peer={port},{}", VF_MACS[1 - port]));
    let options = ["--forward-mode=io", &peers[0], &peers[1]];
    let mut testpmd = Testpmd::start(agent, &functions, &options)?;
    let ports = testpmd.ports()?;
    let macs = VF_MACS.map(|mac| ports.to_lowercase().contains(mac));
    report.check(
        name("starts"),
        ports.contains("net_e1000_igb_vf") && macs == [true, true],
        ports.trim(),
    );
    testpmd.say("start tx_first", "testpmd> ")?;
    let round = Counters::wait_sent(&rig, "vf0", ENOUGH);
    testpmd.say("stop", "Done.")?;
    let round = round?;
    report.check(name("forwards"), round.rx > 0, format!("{round:?}"));
    for (port, function) in ["vf0", "vf1"].into_iter().enumerate() {
        let card = settled(&rig, function)?;
        let what = format!("statistics of {function}");
        compare(&name(&what), testpmd.statistics(port)?, card, report);
    }
    testpmd.quit()?;
    finish(vm, rig, report, &name("end"))
}

/// The card's counters once they no longer change: what was queued before a
/// stop may still be on its way.
fn settled(rig: &Rig, function: &str) -> Result<Counters> {
    let end = Instant::now() + PATIENCE;
    let mut before = Counters::of_card(rig, function)?;
    let mut same_since = Instant::now();
    loop {
        let now = Counters::of_card(rig, function)?;
        if now != before {
            (before, same_since) = (now, Instant::now());
        }
        if same_since.elapsed() > Duration::from_millis(500) {
            return Ok(now);
        }
        ensure!(
            Instant::now() < end,
            "{function} never comes to rest: {now:?}"
        );
    }
}

/// Ends both, with nothing in the kernel's log that is a complaint.
fn finish(vm: Vm, mut rig: Rig, report: &mut Report, name: &str) -> Result<()> {
    let log = vm.agent().kmsg()?;
    let complaint = log.lines().find(|line| {
        ["WARNING:", "BUG:", "Call Trace", "DMAR: [DMA"]
            .iter()
            .any(|word| line.contains(word))
    });
    report.check(
        format!("{name}/kernel's log"),
        complaint.is_none(),
        complaint.unwrap_or("no complaint"),
    );
    vm.shutdown()?;
    rig.stop_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_out_of_what_testpmd_prints() {
        let text = "testpmd> show port stats 0\r\n\r\n  #### NIC statistics for port 0  ####\r\n  \
                    RX-packets: 500        RX-missed: 0          RX-bytes:  64000\r\n  \
                    RX-errors: 0\r\n  RX-nombuf:  0         \r\n  \
                    TX-packets: 499        TX-errors: 0          TX-bytes:  63872\r\n";
        let counters = Counters {
            rx: 500,
            tx: 499,
            rx_bytes: 64000,
            tx_bytes: 63872,
        };
        assert_eq!(Counters::parse(text), Some(counters));
        assert_eq!(Counters::parse("RX-packets:"), None);
    }
}
