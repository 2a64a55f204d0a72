//! Mediated passthrough: VFs of QEMU's igb, over the guest's VFIO, offered by the mediator as vfio-user
//! devices to drivers that know nothing of the kernel's VFIO.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::guest::{
    Guest, LONG, OUTSIDE, PF_ADDRESS, PF_DRIVER, TOKEN, VF_ADDRESS, VF_DRIVER, control,
};
use crate::report::Report;
use crate::vm::scenario::Stage;
use crate::vm::{VmConfig, build_static};

pub(super) const MEDIATOR: &str = "/usr/bin/mediator";
pub(super) const PF_SOCKET: &str = "/run/pf-channel.sock";
const BUS: &str = "/run/bus";
const AUDIT: &str = "/run/audit.jsonl";
const POLICY: &str = "/run/policy.json";
/// The address that the PF driver gives to VF 0.
pub(super) const MAC: &str = "02:82:57:60:aa:20";
/// VF 1's stack.
const OTHER_ADDRESS: &str = "10.84.0.11";
/// VF 1's driver: the same program under another name, by which its control socket is called.
const OTHER_DRIVER: &str = "/run/other-vf-driver";
const BYTES: u64 = 256 << 10;

/// The short form, which every run of the tests has.
pub(in super::super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    with_killed(stage, "mediated-vfio", report, 2)
}

/// What takes longer.
pub(in super::super) fn run_hard(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    with_killed(stage, "mediated-vfio-hard", report, 20)
}

fn with_killed(
    stage: &Stage<'_>,
    name: &'static str,
    report: &mut Report,
    times: u32,
) -> Result<()> {
    super::in_a_guest(stage, name, with_mediator, report, |guest, report| {
        guest.load_vfio()?;
        guest.allow_vfs()?;
        guest.shell(&format!("ln -s {VF_DRIVER} {OTHER_DRIVER}"))?;
        write_policy(guest)?;
        let mut bed = Bed::start(guest, report)?;
        bed.drive(report)?;
        bed.policy(report)?;
        bed.dma_outside(report)?;
        bed.mailbox(report)?;
        bed.eject(report)?;
        bed.tenants(report, times)?;
        bed.mediator_killed(report)?;
        bed.pf_killed(report)?;
        bed.end(report)
    })
}

/// A PF driver, a mediator and two VF drivers, as jobs of the guest.
struct Bed<'a> {
    guest: &'a Guest,
    vfs: Vec<String>,
    pf: u32,
    mediator: u32,
    vf: u32,
    other: u32,
}

/// What the guest has besides, for a mediator.
pub(super) fn with_mediator(config: VmConfig) -> Result<VmConfig> {
    // Four programs of ours, of which two wait for a third.
    Ok(config.cpus(2).file(MEDIATOR, &build_static("mediator")?))
}

/// What the PF driver lets VFs do.
pub(super) fn write_policy(guest: &Guest) -> Result<()> {
    let policy = format!(r#"{{"vfs": {{"0": {{"mac": "{MAC}"}}}}}}"#);
    guest.agent().write_file(POLICY, policy.as_bytes(), 0o600)
}

/// Where the mediator has a VF.
pub(super) fn socket(number: usize) -> String {
    format!("{BUS}/vf{number}.sock")
}

impl Guest {
    /// The PF on vfio-pci.
    pub(super) fn load_vfio(&self) -> Result<()> {
        for module in ["vfio_iommu_type1", "vfio-pci"] {
            self.agent().load_module(module, "")?;
        }
        self.shell(&format!("{PF_DRIVER} bind {} --json", self.pf))?;
        Ok(())
    }

    /// The PF driver, which the VFs reach through the mediator alone.
    pub(super) fn start_mediated_pf(&self) -> Result<u32> {
        let command = format!(
            "{PF_DRIVER} run --device vfio:{},vf_token={TOKEN} --mediator {PF_SOCKET} --vfs 2 --policy \
             {POLICY} --netdev echo --address {PF_ADDRESS}/24 --control {}",
            self.pf,
            control(PF_DRIVER)
        );
        self.start_driver(&command, "link is up")
    }

    /// The mediator with the VFs named; returns when the last is on the bus.
    pub(super) fn start_mediator(&self, vfs: &[String]) -> Result<u32> {
        let named: Vec<String> = vfs
            .iter()
            .map(|vf| format!("--vf vfio:{vf},vf_token={TOKEN}"))
            .collect();
        let command = format!(
            "{MEDIATOR} run {} --socket-dir {BUS} --pf-socket {PF_SOCKET} --audit {AUDIT} --control {}",
            named.join(" "),
            control(MEDIATOR)
        );
        let job = self.start_driver(&command, "ready")?;
        for number in 0..vfs.len() {
            let up = format!("VF {number} is on the bus");
            self.agent().expect(job, &up, 0, LONG)?;
        }
        Ok(job)
    }

    /// A VF's driver on a socket of the mediator's. Its program's name names its control socket.
    fn start_vf_on_the_bus(&self, program: &str, number: usize, channel: &str) -> Result<u32> {
        let address = if number == 0 {
            VF_ADDRESS
        } else {
            OTHER_ADDRESS
        };
        let command = format!(
            "{program} run --device vfio-user:{} --channel {channel} --netdev echo --address \
             {address}/24 --control {}",
            socket(number),
            control(program)
        );
        self.start_driver(&command, "vf is up")
    }
}

impl<'a> Bed<'a> {
    fn start(guest: &'a Guest, report: &mut Report) -> Result<Self> {
        let pf = guest.start_mediated_pf()?;
        let vfs = guest.vfs()?;
        ensure!(vfs.len() == 2, "the VFs are {vfs:?}");
        let mediator = guest.start_mediator(&vfs)?;
        let said = guest.agent().expect(mediator, "It is fenced here", 0, LONG);
        let slots = guest.ctl(MEDIATOR, &["list"])?["slots"].clone();
        let fenced = |slot: &Value| slot["state"] == "present" && slot["backchannel"] == "fenced";
        let both = slots
            .as_array()
            .is_some_and(|slots| slots.len() == 2 && slots.iter().all(fenced));
        guest.check(
            report,
            "VFs of the kernel are on the bus, their mailbox fenced, and the mediator says so",
            both && said.is_ok(),
            slots.to_string(),
        );
        let vf = guest.start_vf_on_the_bus(VF_DRIVER, 0, "mediated")?;
        let other = guest.start_vf_on_the_bus(OTHER_DRIVER, 1, "mediated")?;
        Ok(Self {
            guest,
            vfs,
            pf,
            mediator,
            vf,
            other,
        })
    }

    fn drive(&self, report: &mut Report) -> Result<()> {
        let guest = self.guest;
        let info = guest.ctl(VF_DRIVER, &["info"])?;
        let right = info["mac"] == MAC && info["channel"] == "mediated" && info["link"] == true;
        guest.check(report, "the VF driver on a VF", right, info.to_string());
        for (name, from, to) in [
            ("from the VF to the PF", VF_DRIVER, PF_ADDRESS),
            ("from the VF", VF_DRIVER, OUTSIDE),
            ("from the PF to the VF", PF_DRIVER, VF_ADDRESS),
            ("from one VF to the other", OTHER_DRIVER, VF_ADDRESS),
        ] {
            guest.outcome(report, &format!("ping {name}"), guest.ping(from, to));
        }
        guest.outcome(
            report,
            "ping to the VF",
            guest.ping_from_outside(VF_ADDRESS),
        );
        for (name, from, to) in [
            ("TCP from the VF to the PF", VF_DRIVER, PF_ADDRESS),
            ("TCP from one VF to the other", OTHER_DRIVER, VF_ADDRESS),
        ] {
            let sent = guest.ctl(from, &["send", to, "--bytes", &BYTES.to_string()])?;
            let same =
                sent["sha256_sent"].is_string() && sent["sha256_sent"] == sent["sha256_peer"];
            guest.check(report, name, same, sent.to_string());
        }
        Ok(())
    }

    /// What a VF asks goes through the mediator to the PF driver, which grants or refuses.
    fn policy(&self, report: &mut Report) -> Result<()> {
        let guest = self.guest;
        let granted = guest.ctl(VF_DRIVER, &["request", "mtu", "1400"]);
        let granted = granted.map(|answer| answer.to_string());
        let refused = guest.ctl(VF_DRIVER, &["request", "mac", "02:82:57:60:aa:66"]);
        let said = refused.map_or_else(|error| format!("{error:#}"), |answer| answer.to_string());
        let mac = guest.ctl(VF_DRIVER, &["info"])?["mac"].clone();
        let audit = guest.agent().read_text(AUDIT)?;
        let recorded = audit.contains(r#""backchannel":"fenced""#)
            && audit.contains(r#""verdict":"Ok""#)
            && audit.contains(r#""verdict":"Denied""#);
        guest.check(
            report,
            "the PF driver grants and refuses, and the audit log has it",
            granted.is_ok() && mac == MAC && recorded,
            format!(
                "{granted:?}; {said}; the log's last: {:?}",
                audit.lines().last()
            ),
        );
        guest.ctl(PF_DRIVER, &["vf", "0", "state", "disable"])?;
        let down = guest.agent().expect(self.vf, "vf: link down", 0, LONG);
        guest.ctl(PF_DRIVER, &["vf", "0", "state", "auto"])?;
        let ping = down.and_then(|_| guest.ping(VF_DRIVER, PF_ADDRESS));
        guest.outcome(
            report,
            "a link that the PF driver takes away and gives back",
            ping,
        );
        Ok(())
    }

    /// Hardware that a VF's client aims at memory which is not its own.
    fn dma_outside(&self, report: &mut Report) -> Result<()> {
        let guest = self.guest;
        guest.ctl(VF_DRIVER, &["misbehave", "descriptor-outside"])?;
        let line = guest.dmar(&self.vfs[0])?;
        let stopped = line.as_deref().is_some_and(|line| line.contains("dead000"));
        let line = line.unwrap_or_else(|| "the kernel's log has no DMAR line of the VF".into());
        guest.check(
            report,
            "DMA outside the client's windows is stopped",
            stopped,
            line,
        );
        let sibling = guest.ping(OTHER_DRIVER, PF_ADDRESS);
        guest.outcome(report, "the other VF goes on meanwhile", sibling);
        guest.ctl(VF_DRIVER, &["reset"])?;
        let after = guest.ping(VF_DRIVER, PF_ADDRESS);
        guest.outcome(report, "ping after a fault and a reset", after);
        Ok(())
    }

    /// A driver that knows the mailbox alone: what it writes there ends at the mediator.
    fn mailbox(&mut self, report: &mut Report) -> Result<()> {
        let guest = self.guest;
        guest.stop(self.vf)?;
        self.vf = guest.start_vf_on_the_bus(VF_DRIVER, 0, "mailbox")?;
        let ping = guest.ping(VF_DRIVER, PF_ADDRESS);
        let info = guest.ctl(VF_DRIVER, &["info"])?;
        let stats = guest.ctl(PF_DRIVER, &["stats"])?;
        let count = |name: &str| find(&stats, name);
        let heard = (count("mailbox_requests"), count("mailbox_unanswered"));
        let audit = guest.agent().read_text(AUDIT)?;
        guest.check(
            report,
            "a driver with the mailbox alone, of which the hardware's hears nothing",
            ping.is_ok()
                && info["mac"] == MAC
                && info["channel"] == "mailbox"
                && heard == (Some(0), Some(0))
                && audit.contains(r#""kind":"mailbox""#),
            format!(
                "{ping:?}, {}, the card's mailbox brought {heard:?} requests",
                info["mac"]
            ),
        );
        guest.stop(self.vf)?;
        self.vf = guest.start_vf_on_the_bus(VF_DRIVER, 0, "mediated")?;
        Ok(())
    }

    fn eject(&mut self, report: &mut Report) -> Result<()> {
        let guest = self.guest;
        // This driver lets go of nothing: it is a surprise to it.
        let gone = guest.ctl(MEDIATOR, &["eject", "0", "--timeout", "1"])?;
        let told = guest.agent().expect(self.vf, "vf is gone", 0, LONG);
        guest.ctl(PF_DRIVER, &["offer", "0"])?;
        let back = guest.agent().expect(self.vf, "vf is back", 0, LONG);
        let ping = told
            .and(back)
            .and_then(|_| guest.ping(VF_DRIVER, PF_ADDRESS));
        let detail = ping.map(|ping| format!("{gone}; offered again: {ping}"));
        guest.outcome(report, "a VF is ejected and comes back", detail);
        Ok(())
    }

    /// What the mediator holds for its clients: locked memory in kB, and files.
    fn held(&self) -> Result<(u64, u64)> {
        let line = "p=$(pidof mediator); grep VmLck /proc/$p/status | tr -dc 0-9; echo; \
                    ls /proc/$p/fd | wc -l";
        let said = self.guest.shell(line)?;
        let mut numbers = said.split_whitespace().map(str::parse);
        let mut number = || -> Result<u64> { Ok(numbers.next().context("no number")??) };
        Ok((number()?, number()?))
    }

    /// Drivers that are killed leave nothing to the next.
    fn tenants(&mut self, report: &mut Report, times: u32) -> Result<()> {
        let guest = self.guest;
        let before = self.held()?;
        for round in 0..times {
            guest.kill(self.vf)?;
            let next = guest.start_vf_on_the_bus(VF_DRIVER, 0, "mediated");
            self.vf = next.with_context(|| format!("round {round}"))?;
        }
        let ping = guest.ping(VF_DRIVER, PF_ADDRESS)?;
        let after = self.held()?;
        guest.check(
            report,
            &format!("a client killed {times} times leaves no window and no file"),
            before.0 > 0 && before == after,
            format!("(kB locked, files) {before:?} before, {after:?} after; {ping}"),
        );
        let sibling = guest.ping(OTHER_DRIVER, PF_ADDRESS);
        guest.outcome(report, "the other VF's driver has seen none of it", sibling);
        Ok(())
    }

    fn mediator_killed(&mut self, report: &mut Report) -> Result<()> {
        let guest = self.guest;
        let said = self.said()?;
        guest.kill(self.mediator)?;
        // Its sockets stay behind; the next one takes their place.
        self.mediator = guest.start_mediator(&self.vfs)?;
        let outcome = self.until_back(said);
        guest.outcome(
            report,
            "the mediator is killed, and the next takes over",
            outcome,
        );
        Ok(())
    }

    /// The kernel resets the PF, takes the VFs back from the mediator when the next PF driver makes them
    /// anew, and the mediator offers those.
    fn pf_killed(&mut self, report: &mut Report) -> Result<()> {
        let guest = self.guest;
        let before = self.said()?;
        guest.kill(self.pf)?;
        let refused = guest.ctl(VF_DRIVER, &["request", "vlan", "7"]);
        let said = refused.map_or_else(|error| format!("{error:#}"), |answer| answer.to_string());
        self.pf = guest.start_mediated_pf()?;
        let outcome = self.until_back(before);
        let told = said.contains("pf-gone");
        guest.check(
            report,
            "a request without a PF driver is answered so",
            told,
            said,
        );
        guest.outcome(
            report,
            "the PF driver is killed, and the next takes over",
            outcome,
        );
        Ok(())
    }

    /// How much each VF's driver has said.
    fn said(&self) -> Result<[usize; 2]> {
        let said =
            |job| -> Result<usize> { Ok(self.guest.agent().expect(job, "", 0, LONG)?.len()) };
        Ok([said(self.vf)?, said(self.other)?])
    }

    /// Both drivers have lost their VFs since they had said so much; each probes its own again.
    fn until_back(&self, said: [usize; 2]) -> Result<String> {
        let agent = self.guest.agent();
        for (job, from) in [self.vf, self.other].into_iter().zip(said) {
            agent.expect(job, "vf is back", from, LONG)?;
        }
        self.guest.ping(OTHER_DRIVER, PF_ADDRESS)?;
        self.guest.ping(VF_DRIVER, PF_ADDRESS)
    }

    fn end(mut self, report: &mut Report) -> Result<()> {
        let guest = self.guest;
        let said = self.said()?;
        // With VFs on its bus and clients on them.
        guest.stop(self.mediator)?;
        let mediator = control(MEDIATOR);
        let sockets = guest.shell(&format!(
            "ls {BUS}; ls {PF_SOCKET} {mediator} 2>/dev/null; true"
        ))?;
        guest.check(
            report,
            "a mediator in use ends with 0 and removes its sockets",
            sockets.trim().is_empty(),
            sockets,
        );
        self.mediator = guest.start_mediator(&self.vfs)?;
        let back = self.until_back(said);
        guest.outcome(report, "and the next takes over", back);
        guest.stop(self.pf)?;
        let left = guest.vfs()?;
        let slots = guest.ctl(MEDIATOR, &["list"])?["slots"].clone();
        let absent = slots
            .as_array()
            .is_some_and(|slots| slots.iter().all(|slot| slot["state"] == "absent"));
        guest.check(
            report,
            "no VF outlives the PF driver, and the mediator has let go",
            left.is_empty() && absent,
            format!("{left:?}, {slots}"),
        );
        for job in [self.vf, self.other, self.mediator] {
            guest.stop(job)?;
        }
        let sockets = guest.shell(&format!(
            "ls {BUS}; ls /run/*.ctl {PF_SOCKET} 2>/dev/null; true"
        ))?;
        guest.check(
            report,
            "all of them end with 0 and remove their sockets",
            sockets.trim().is_empty(),
            sockets,
        );
        Ok(())
    }
}

/// A counter in what `ctl stats` answers.
pub(super) fn find(stats: &Value, name: &str) -> Option<u64> {
    match stats {
        Value::Object(members) => members.iter().find_map(|(key, value)| {
            if key == name {
                value.as_u64()
            } else {
                find(value, name)
            }
        }),
        _ => None,
    }
}
