//! Our PF driver in a guest, over its kernel's VFIO, on QEMU's own 82576: a card that nobody here
//! wrote, behind an emulated IOMMU that translates its DMA.

pub(super) mod bodies;
mod guest;
mod hard;
mod life;
pub(super) mod mediated;
pub(super) mod nested;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::guest::{
    Guest, LONG, OUTSIDE, PF_ADDRESS, PF_DRIVER, PF_MAC, TOKEN, VF_ADDRESS, VF_DRIVER, control,
};
use crate::report::Report;
use crate::vm::VmConfig;
use crate::vm::scenario::Stage;

/// The short form, which every run of the tests has.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    in_a_guest(stage, "pf-vfio", Ok, report, |guest, report| {
        guest.bind(report)?;
        guest.limits(report)?;
        guest.dirty_pages(report)?;
        guest.msix_table(report)?;
        guest.drive(report)?;
        guest.dma_outside(report)?;
        guest.pf_crash(report)?;
        guest.killed(report, 2)?;
        guest.give_back(report)
    })
}

/// What takes longer.
pub(super) fn run_hard(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    in_a_guest(stage, "pf-vfio-hard", Ok, report, |guest, report| {
        guest.bind(report)?;
        guest.user()?;
        guest.windows(report)?;
        guest.adoption(report)?;
        guest.vf_never_released(report)?;
        guest.killed(report, 20)?;
        guest.give_back(report)
    })
}

fn in_a_guest(
    stage: &Stage<'_>,
    name: &'static str,
    more: impl FnOnce(VmConfig) -> Result<VmConfig>,
    report: &mut Report,
    act: impl FnOnce(&Guest, &mut Report) -> Result<()>,
) -> Result<()> {
    let guest = Guest::start(stage, name, more)?;
    act(&guest, report)?;
    guest.no_complaint(report)?;
    guest.vm.shutdown()
}

impl Guest {
    fn name(&self, behaviour: &str) -> String {
        format!("vm/{}/{behaviour}", self.scenario)
    }

    fn check(&self, report: &mut Report, behaviour: &str, pass: bool, detail: impl Into<String>) {
        report.check(self.name(behaviour), pass, detail.into());
    }

    fn outcome(&self, report: &mut Report, behaviour: &str, seen: Result<String>) {
        report.outcome(&self.name(behaviour), seen);
    }

    /// From igb to vfio-pci, by our own command; what is missing is told first.
    fn bind(&self, report: &mut Report) -> Result<()> {
        let agent = self.agent();
        agent.load_module("igb", "")?;
        let before = self.link(&self.pf, "driver")?;
        ensure!(
            before.as_deref() == Some("igb"),
            "the PF is with {before:?}"
        );
        let bind = format!("{PF_DRIVER} bind {} --json", self.pf);
        let said = self.refusal(&bind)?;
        let taught = said.contains("as root: modprobe vfio-pci");
        self.check(
            report,
            "a kernel without vfio-pci is explained",
            taught,
            said,
        );
        agent.load_module("vfio_iommu_type1", "")?;
        agent.load_module("vfio-pci", "")?;
        let run = format!("{PF_DRIVER} run --device vfio:{} --netdev none", self.pf);
        let said = self.refusal(&run)?;
        let taught = said.contains("bound to igb") && said.contains("driver_override");
        self.check(
            report,
            "a function of another driver is explained",
            taught,
            said,
        );
        let done: serde_json::Value = serde_json::from_str(&self.shell(&bind)?)?;
        let driver = self.link(&self.pf, "driver")?;
        self.check(
            report,
            "bind",
            done["former"] == "igb" && driver.as_deref() == Some("vfio-pci"),
            done.to_string(),
        );
        Ok(())
    }

    /// Without privileges, and with too little of what the kernel gives out: what is missing is told.
    fn limits(&self, report: &mut Report) -> Result<()> {
        let agent = self.agent();
        self.user()?;
        let group = self.link(&self.pf, "iommu_group")?.context("no group")?;
        let node = format!("/dev/vfio/{group}");
        let run = format!("{PF_DRIVER} run --device vfio:{} --netdev none", self.pf);
        let as_user = |line: &str| format!("exec su user -c '{line}'");
        let said = self.refusal(&as_user(&run))?;
        let taught = said.contains(&format!("chown 1000 {node}"));
        self.check(report, "no permission is explained", taught, said);
        agent.run(&["chown", "1000", &node], LONG)?;
        let said = self.refusal(&format!("ulimit -l 64; {}", as_user(&run)))?;
        let taught = said.contains("may lock 65536 bytes") && said.contains("ulimit -l unlimited");
        self.check(report, "locked memory is explained", taught, said);
        let few = format!("{run} --vfs 1");
        let said = self.refusal(&as_user(&few))?;
        let taught = said.contains("enable_sriov") || said.contains("chown 1000");
        self.check(report, "VFs without permission are explained", taught, said);
        let command = as_user(&run);
        let job = self.start_driver(command.trim_start_matches("exec "), "pf is up");
        let job = match job {
            Ok(job) => job,
            Err(error) => {
                let name = "a user without privileges drives the PF";
                self.outcome(report, name, Err(error));
                return Ok(());
            }
        };
        self.check(
            report,
            "a user without privileges drives the PF",
            true,
            format!("with {node} their own"),
        );
        self.stop(job)?;
        agent.run(&["chown", "0", &node], LONG)?;
        let said = self.refusal(&few)?;
        let taught = said.contains("echo Y > /sys/module/vfio_pci/parameters/enable_sriov");
        self.check(
            report,
            "SR-IOV that vfio-pci withholds is explained",
            taught,
            said,
        );
        self.allow_vfs()
    }

    /// Has vfio-pci enable VFs.
    fn allow_vfs(&self) -> Result<()> {
        let path = "/sys/module/vfio_pci/parameters/enable_sriov";
        self.agent().write_file(path, b"Y", 0o644)
    }

    /// Somebody without privileges.
    fn user(&self) -> Result<()> {
        let line = b"user:x:1000:1000::/:/bin/sh\n";
        self.agent().write_file("/etc/passwd", line, 0o644)
    }

    /// The PF alone, then with VFs, one of them with its own driver.
    fn drive(&self, report: &mut Report) -> Result<()> {
        let job = self.start_pf(0)?;
        let info = self.ctl(PF_DRIVER, &["info"])?;
        let up = info["mac"] == PF_MAC && info["link"] == true;
        self.check(
            report,
            "probe",
            up,
            format!("{} link {}", info["mac"], info["link"]),
        );
        let shown = self.ctl(PF_DRIVER, &["show"])?;
        let missing = shown["capabilities"]["missing"].to_string();
        let told = ["rate limits", "spoof check", "EIAM"];
        self.check(
            report,
            "the card's gaps are reported",
            shown["capabilities"]["emulation"] == "QEMU igb"
                && told.iter().all(|gap| missing.contains(gap)),
            missing,
        );
        self.outcome(report, "ping from the PF", self.ping(PF_DRIVER, OUTSIDE));
        self.outcome(report, "ping to the PF", self.ping_from_outside(PF_ADDRESS));
        self.ctl(PF_DRIVER, &["vfs", "2"])?;
        let vfs = self.vfs()?;
        let mut drivers = Vec::new();
        for vf in &vfs {
            drivers.push(self.link(vf, "driver")?);
        }
        let bound = |driver: &Option<String>| driver.as_deref() == Some("vfio-pci");
        self.check(
            report,
            "VFs appear and are bound",
            vfs.len() == 2 && drivers.iter().all(bound),
            format!("{vfs:?} with {drivers:?}"),
        );
        let refused = self.ctl(PF_DRIVER, &["vf", "0", "rate", "100"]);
        let said = refused.map_or_else(|error| format!("{error:#}"), |answer| answer.to_string());
        let told = said.contains("this card has no rate limits");
        self.check(report, "what the card lacks is refused", told, said);
        let vf = vfs.first().context("no VF")?;
        let without = format!("{VF_DRIVER} run --device vfio:{vf} --channel mailbox --netdev none");
        let said = self.refusal(&without)?;
        let taught = said.contains("vf_token=UUID") && !said.contains(TOKEN);
        self.check(report, "a VF without its token is explained", taught, said);
        self.ctl(PF_DRIVER, &["vf", "0", "mac", "02:82:57:60:aa:10"])?;
        let other = self.start_vf(vf)?;
        let info = self.ctl(VF_DRIVER, &["info"])?;
        let right = info["mac"] == "02:82:57:60:aa:10" && info["channel"] == "mailbox";
        self.check(report, "the VF driver on a VF", right, info.to_string());
        self.outcome(
            report,
            "ping from the VF to the PF",
            self.ping(VF_DRIVER, PF_ADDRESS),
        );
        self.outcome(report, "ping from the VF", self.ping(VF_DRIVER, OUTSIDE));
        self.outcome(report, "ping to the VF", self.ping_from_outside(VF_ADDRESS));
        self.stop(other)?;
        self.stop(job)?;
        let left = self.vfs()?;
        self.check(
            report,
            "no VF outlives the PF driver",
            left.is_empty(),
            format!("{left:?}"),
        );
        Ok(())
    }

    /// A VF's driver names memory that is not its own: the IOMMU stops it, and the kernel says so.
    fn dma_outside(&self, report: &mut Report) -> Result<()> {
        let job = self.start_pf(1)?;
        let vf = self.vfs()?.into_iter().next().context("no VF")?;
        let other = self.start_vf(&vf)?;
        self.ctl(VF_DRIVER, &["misbehave", "descriptor-outside"])?;
        // Said once the frame is fetched, which the answer does not wait for.
        let line = self.dmar(&vf)?;
        self.check(
            report,
            "DMA outside the container is stopped",
            line.as_deref().is_some_and(|line| line.contains("dead000")),
            line.unwrap_or_else(|| "the kernel's log has no DMAR line of the VF".into()),
        );
        self.ctl(VF_DRIVER, &["reset"])?;
        self.outcome(
            report,
            "ping after a fault and a reset",
            self.ping(VF_DRIVER, PF_ADDRESS),
        );
        self.unmap_in_flight(report)?;
        self.ctl(VF_DRIVER, &["reset"])?;
        self.stop(other)?;
        self.stop(job).map(drop)
    }

    /// The window of a VF's receive buffers is closed while frames arrive.
    fn unmap_in_flight(&self, report: &mut Report) -> Result<()> {
        let mac = self.ctl(VF_DRIVER, &["info"])?["mac"].clone();
        let mac = mac.as_str().context("no address")?.replace(':', "");
        let bytes: Vec<u8> = (0..6)
            .map(|at| u8::from_str_radix(&mac[2 * at..2 * at + 2], 16))
            .collect::<Result<_, _>>()
            .context("no address")?;
        let mut frame = vec![0x5a; 600];
        frame[..6].copy_from_slice(&bytes);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        // Local experimental.
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let outside = self.outside.clone();
        let socket = control(VF_DRIVER);
        let script = format!(
            "{VF_DRIVER} ctl --control {socket} --json misbehave unmap-in-flight; echo ended"
        );
        let job = self.agent().spawn(&["sh", "-c", &script])?;
        let burst = vec![frame; 8];
        let ended = || {
            self.agent()
                .expect(job, "ended", 0, Duration::from_millis(200))
        };
        for _ in 0..200 {
            self.agent().send_frames(&outside, &burst)?;
            if ended().is_ok() {
                break;
            }
        }
        let done = self.agent().wait(job, LONG)?;
        let line = done.stdout.lines().next().unwrap_or_default();
        let seen: serde_json::Value = serde_json::from_str(line)
            .with_context(|| format!("{}{}", done.stdout, done.stderr))?;
        let went_on = seen["after"].as_u64() > Some(0);
        let stopped = seen["before"].as_u64() > Some(0) && seen["changed"] == false;
        self.check(
            report,
            "unmapping under DMA in flight is safe",
            went_on && stopped,
            seen.to_string(),
        );
        Ok(())
    }

    /// The kernel's line about a fault of a function's DMA.
    fn dmar(&self, address: &str) -> Result<Option<String>> {
        // sysfs has the PCI domain before it, the kernel's line has not.
        let short = address.split_once(':').map_or(address, |(_, rest)| rest);
        let find = format!(
            "n=0; until dmesg | grep \"DMAR: .DMA\" | grep \"{short}\" || [ $n = 30 ]; do n=$((n+1)); \
             sleep 1; done"
        );
        let lines = self.shell(&find)?;
        Ok(lines.lines().last().map(str::to_owned))
    }

    /// From vfio-pci to igb, by our own command.
    fn give_back(&self, report: &mut Report) -> Result<()> {
        let done = self.shell(&format!("{PF_DRIVER} unbind {} --json", self.pf))?;
        let driver = self.link(&self.pf, "driver")?;
        let links = self.agent().links_of("igb")?;
        let right = driver.as_deref() == Some("igb")
            && links.first().is_some_and(|link| link.mac == PF_MAC);
        self.check(
            report,
            "unbind gives the PF back to igb",
            right,
            done.trim(),
        );
        self.agent().unload_module("vfio-pci")
    }

    fn no_complaint(&self, report: &mut Report) -> Result<()> {
        let kernel = self.agent().kmsg()?;
        let complaint = kernel.lines().find(|line| {
            line.contains("WARNING:") || line.contains("BUG:") || line.contains("Call Trace")
        });
        let pass = complaint.is_none();
        self.check(
            report,
            "no complaint in the kernel's log",
            pass,
            complaint.unwrap_or_default(),
        );
        Ok(())
    }
}
