//! A guest with a stock igb, and the kernel of this machine at the other end of its cable: a TAP in
//! a network namespace of its own. The card is ours or QEMU's; all else is the same.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::netns::Namespace;
use crate::rig::{CALL_LIMIT, Rig, RigOptions};
use crate::vm::packages::NotHere;
use crate::vm::scenario::Stage;
use crate::vm::{Agent, Vm, VmConfig};

/// The guest's address.
pub(in super::super) const GUEST: &str = "10.83.0.2";
/// This machine's, on the TAP.
pub(in super::super) const HOST: &str = "10.83.0.1";
/// The TAP.
pub(in super::super) const TAP: &str = "tap0";
/// The card's address, ours by default.
const MAC: &str = "02:82:57:60:00:00";
/// How long a short command may take in an emulated guest on a busy machine.
pub(in super::super) const SHORT: Duration = Duration::from_secs(90);
/// How long a link may take to come up.
const LINK_LIMIT: Duration = Duration::from_secs(60);

/// Whose card it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Card {
    /// Ours; the words are more arguments of the card.
    Ours(&'static [&'static str]),
    /// Ours, with a trace of every access.
    Traced,
    /// QEMU's `-device igb`.
    Qemu,
}

/// A guest, its card and its peer.
pub(in super::super) struct Bed {
    // Dropped first to last: the guest before its card, and the namespace at the end.
    vm: Vm,
    rig: Option<Rig>,
    place: Arc<Namespace>,
    busybox: String,
    /// iperf3 on this machine.
    iperf3: Command,
    /// The guest's interface.
    pub(in super::super) iface: String,
    /// The guest's CPUs.
    pub(in super::super) cpus: u32,
    /// What the card's offline test said, once it has run.
    pub(in super::super) tested: Option<String>,
}

impl Bed {
    /// A guest of `cpus` CPUs with igb loaded, its interface up with [`GUEST`], and [`HOST`] on the
    /// other side. Where no TAP can be made the error is [`NotHere`].
    pub(in super::super) fn start(
        stage: &Stage<'_>,
        name: &str,
        card: Card,
        cpus: u32,
    ) -> Result<Self> {
        if let Some(reason) = Namespace::tap_reason() {
            return Err(NotHere(reason).into());
        }
        let place = Namespace::new().map_err(|forbidden| NotHere(forbidden.to_string()))?;
        let place = Arc::new(place);
        place.ip(&["tuntap", "add", TAP, "mode", "tap"])?;
        place.ip(&["link", "set", TAP, "mtu", "9000", "up"])?;
        place.ip(&["addr", "add", &format!("{HOST}/24"), "dev", TAP])?;
        let mut rig = None;
        let config = VmConfig::new(name).tools().package("linuxptp");
        let config = config.cpus(cpus).reboots();
        let config = match card {
            Card::Ours(_) | Card::Traced => {
                let more = match card {
                    Card::Ours(more) => more,
                    _ => &[],
                };
                let rig = rig.insert(Rig::new(RigOptions {
                    programs: stage.programs.into(),
                    vfs: 0,
                    policy: json!({}),
                    capture: false,
                    card_arguments: [&["--uplink", &format!("tap:{TAP}")][..], more]
                        .concat()
                        .iter()
                        .map(|word| (*word).to_owned())
                        .collect(),
                })?);
                rig.run_inside("card", place.clone());
                if card == Card::Traced {
                    rig.trace_card();
                }
                rig.start_card()?;
                config.vfio_user(&rig.nic().join("pf.sock"))?
            }
            Card::Qemu => {
                let netdev = format!("tap,id=n0,ifname={TAP},script=no,downscript=no,vnet_hdr=off");
                let device = format!("igb,netdev=n0,bus=rp1,mac={MAC}");
                config
                    .root_port()
                    .qemu_args(&["-netdev", &netdev, "-device", &device])
                    .inside(place.clone())
            }
        };
        let vm = stage.start(config)?;
        let busybox = stage
            .installation
            .busybox
            .as_ref()
            .context("the kernel came without busybox")?;
        let mut bed = Self {
            vm,
            rig,
            place,
            busybox: stage.dir.join(busybox).display().to_string(),
            iface: String::new(),
            iperf3: stage.host_tool("iperf3")?,
            cpus,
            tested: None,
        };
        bed.load()?;
        Ok(bed)
    }

    /// Loads igb and sets its interface up.
    pub(in super::super) fn load(&mut self) -> Result<()> {
        self.agent().load_module("igb", "")?;
        let links = self.agent().links_of("igb")?;
        let link = links.first().context("igb made no interface")?;
        self.iface = link.name.clone();
        self.up()
    }

    /// Sets the interface up, with its address and MTU, and waits for the link.
    pub(in super::super) fn up(&mut self) -> Result<()> {
        let iface = self.iface.clone();
        let address = format!("{GUEST}/24");
        self.guest(&format!("ip addr replace {address} dev {iface}"))?;
        self.guest(&format!("ip link set {iface} up"))?;
        self.carrier(true)
    }

    /// Waits until the guest sees its link up or down.
    pub(in super::super) fn carrier(&self, up: bool) -> Result<()> {
        self.agent()
            .wait_link(&self.iface, Some(up), LINK_LIMIT)
            .map(drop)
    }

    pub(in super::super) fn agent(&self) -> &Agent {
        self.vm.agent()
    }

    pub(in super::super) fn vm(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// The address that the guest must find.
    pub(in super::super) fn mac(&self) -> &'static str {
        MAC
    }

    /// Runs a command line of plain words in the guest; `@` stands for its interface. It must end
    /// with 0.
    pub(in super::super) fn guest(&self, line: &str) -> Result<String> {
        self.guest_within(line, SHORT)
    }

    pub(in super::super) fn guest_within(&self, line: &str, limit: Duration) -> Result<String> {
        let line = line.replace('@', &self.iface);
        let words: Vec<&str> = line.split_whitespace().collect();
        self.agent().run(&words, limit)
    }

    /// Runs a line of the guest's shell; `@` stands for its interface.
    pub(in super::super) fn guest_shell(&self, line: &str) -> Result<String> {
        let line = line.replace('@', &self.iface);
        self.agent().run(&["sh", "-c", &line], SHORT)
    }

    /// Runs a command line of plain words on this machine, in the namespace; `busybox` is the
    /// guest's.
    pub(in super::super) fn host(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (program, arguments) = words.split_first().context("no command")?;
        let program = if *program == "busybox" {
            &self.busybox
        } else {
            *program
        };
        self.place.run(program, arguments)
    }

    /// Starts iperf3 in the namespace.
    pub(in super::super) fn iperf3(&self, arguments: &[&str]) -> Result<Job> {
        let mut command = self.place.enter(&self.iperf3);
        command.args(arguments);
        Job::start(command)
    }

    /// Starts `command` in the namespace.
    pub(in super::super) fn host_job(&self, command: &Command) -> Result<Job> {
        Job::start(self.place.enter(command))
    }

    /// A line of busybox's shell on this machine, in which `busybox` is the guest's.
    pub(in super::super) fn host_shell(&self, line: &str) -> Command {
        let mut command = Command::new(&self.busybox);
        command.args(["sh", "-c", &line.replace("busybox", &self.busybox)]);
        command
    }

    /// Plugs the cable in or out.
    pub(in super::super) fn cable(&mut self, up: bool) -> Result<()> {
        match &self.rig {
            Some(rig) => rig
                .card_control()
                .call(&json!({"op": "link", "up": up}), CALL_LIMIT)
                .map(drop),
            None => self
                .vm
                .qmp()
                .execute("set_link", json!({"name": "n0", "up": up}))
                .map(drop),
        }
    }

    /// Pings from the guest: all of `count` must be answered.
    pub(in super::super) fn ping(&self, target: &str, count: u16, size: u16) -> Result<String> {
        let timeout = Duration::from_secs(5);
        let pings = self.agent().ping(target.parse()?, count, timeout, size)?;
        ensure!(
            pings.received == pings.sent,
            "{} of {} answered",
            pings.received,
            pings.sent
        );
        Ok(format!(
            "{} answered, {:?} us",
            pings.received, pings.rtts_us
        ))
    }

    /// Pings from this machine.
    pub(in super::super) fn ping_guest(&self, count: u32, size: u32) -> Result<String> {
        let said = self.host(&format!("busybox ping -c {count} -s {size} -W 5 {GUEST}"))?;
        let line = said
            .lines()
            .find(|line| line.contains("packet loss"))
            .unwrap_or_default();
        ensure!(line.contains(" 0% packet loss"), "{line}");
        Ok(line.to_owned())
    }

    /// Complaints in the guest's kernel log.
    pub(in super::super) fn complaints(&self) -> Result<Vec<String>> {
        let log = self.agent().kmsg()?;
        let bad = |line: &&str| COMPLAINTS.iter().any(|word| line.contains(word));
        Ok(log.lines().filter(bad).map(str::to_owned).collect())
    }

    /// Starts the guest anew, with igb as before.
    pub(in super::super) fn reboot(&mut self) -> Result<Duration> {
        let took = self.vm.reboot()?;
        self.load()?;
        Ok(took)
    }

    /// Time that the card has used of this machine's CPUs, QEMU's aside.
    pub(in super::super) fn card_cpu_ms(&mut self) -> Result<u64> {
        let Some(rig) = &mut self.rig else {
            return Ok(0);
        };
        let pid = rig.card()?.pid();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        cpu_ms(&stat).context("reading the card's CPU time")
    }

    /// Ends guest and card in good order.
    pub(in super::super) fn stop(self) -> Result<()> {
        self.vm.shutdown()?;
        match self.rig {
            Some(mut rig) => rig.stop_all(),
            None => Ok(()),
        }
    }

    /// The same; every access that the card has traced.
    pub(in super::super) fn stop_traced(self) -> Result<String> {
        self.vm.shutdown()?;
        let mut rig = self.rig.context("QEMU's card has no trace")?;
        rig.stop_all()?;
        std::fs::read_to_string(rig.trace()).context("reading the card's trace")
    }

    /// What the card said last, for a failure to quote.
    pub(in super::super) fn card_words(&mut self) -> Option<String> {
        let rig = self.rig.as_mut()?;
        rig.card().ok().map(|card| card.tail())
    }
}

/// What a kernel says when something is wrong with a driver or its device.
const COMPLAINTS: [&str; 10] = [
    "WARNING",
    "BUG:",
    "Oops",
    "Call Trace",
    "Tx Unit Hang",
    "NETDEV WATCHDOG",
    "timestamp hang",
    "test failed",
    "Reset adapter",
    "Hardware Error",
];

/// The value behind `name:` in a table that ethtool prints.
pub(in super::super) fn value_of<'a>(table: &'a str, name: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn cpu_ms(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * 10)
}

/// A program on this machine that talks on its standard output.
pub(in super::super) struct Job {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    said: String,
}

impl Job {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            // Open, and silent: some programs take its end for the end of their work.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {:?}", command.get_program()))?;
        let out = child.stdout.take().context("standard output is piped")?;
        Ok(Self {
            child,
            out: BufReader::new(out),
            said: String::new(),
        })
    }

    /// Waits for a line with `text`.
    pub(in super::super) fn expect(&mut self, text: &str) -> Result<()> {
        loop {
            let from = self.said.len();
            if self.out.read_line(&mut self.said)? == 0 {
                bail!("it ended without saying {text:?}: {}", self.said);
            }
            if self.said[from..].contains(text) {
                return Ok(());
            }
        }
    }

    /// Waits for its end; what it said. It must end with 0.
    pub(in super::super) fn end(mut self) -> Result<String> {
        let mut said = std::mem::take(&mut self.said);
        self.out.read_to_string(&mut said)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}: {said}");
        Ok(said)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Nothing is left to do if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let table = "NIC statistics:\n     rx_packets: 5\n     tx_queue_0_packets: 7\n";
        assert_eq!(value_of(table, "rx_packets"), Some("5"));
        assert_eq!(value_of(table, "packets"), None);
    }

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 0";
        assert_eq!(cpu_ms(stat), Some(420));
    }
}
