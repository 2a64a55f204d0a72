//! Our own VF driver in a guest: a static program over the guest kernel's VFIO, behind an emulated
//! IOMMU, on our VF. Card, mediator and PF driver stay outside.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::report::Report;
use crate::rig::{CALL_LIMIT, PF_ADDRESS, Rig, RigOptions, vf_address};
use crate::vm::scenario::Stage;
use crate::vm::{Agent, Vm, VmConfig, build_static};

/// The address that the administrator gives to the guest's VF.
const GUEST_MAC: &str = "02:82:57:60:0b:00";
const DRIVER: &str = "/usr/bin/vf-driver";
const CONTROL: &str = "/run/vf.ctl";
const LONG: Duration = Duration::from_secs(60);
const PINGS: u64 = 4;
const BYTES: u64 = 256 << 10;

/// The short form, which every run of the tests has.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    on_a_rig(stage, report, |guest, report| {
        guest.errors_that_teach(report)?;
        guest.bind()?;
        guest.drive(report)?;
        guest.killed(report)?;
        guest.dma_outside(report)?;
        guest.give_back(report)
    })
}

/// What takes longer.
pub(super) fn run_hard(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    on_a_rig(stage, report, |guest, report| {
        guest.bind()?;
        guest.again(report)?;
        guest.give_back(report)?;
        guest.stock_driver(report)
    })
}

fn on_a_rig(
    stage: &Stage<'_>,
    report: &mut Report,
    act: impl FnOnce(&Guest<'_>, &mut Report) -> Result<()>,
) -> Result<()> {
    let driver = build_static("vf-driver")?;
    let mut rig = Rig::new(RigOptions {
        programs: stage.programs.into(),
        vfs: 2,
        policy: json!({"vfs": {"0": {"mac": GUEST_MAC}}}),
        capture: false,
        card_arguments: Vec::new(),
    })?;
    rig.start_card()?;
    rig.start_mediator()?;
    rig.start_pf()?;
    rig.start_vf(1)?;
    let outcome = in_a_guest(stage, &rig, &driver, report, act);
    if outcome.is_err() || report.failures().next().is_some() {
        for program in rig.programs() {
            eprintln!("-- {} said last:\n{}", program.name(), program.tail());
        }
    }
    outcome?;
    rig.stop_all()
}

fn in_a_guest(
    stage: &Stage<'_>,
    rig: &Rig,
    driver: &Path,
    report: &mut Report,
    act: impl FnOnce(&Guest<'_>, &mut Report) -> Result<()>,
) -> Result<()> {
    let config = VmConfig::new("vfio")
        .iommu()
        .tools()
        .module("vfio_iommu_type1")
        .file(DRIVER, driver)
        .vfio_user(&rig.vf_socket(0))?;
    let vm = stage.start(config)?;
    let functions = vm.agent().pci()?;
    let function = functions
        .iter()
        .find(|function| (function.vendor, function.device) == (0x8086, 0x10ca))
        .context("the guest sees no VF of an 82576")?;
    let guest = Guest {
        rig,
        vm: &vm,
        address: function.address.clone(),
    };
    act(&guest, report)?;
    guest.no_complaint(report)?;
    vm.shutdown()
}

/// The guest, with the VF at `address`.
struct Guest<'a> {
    rig: &'a Rig,
    vm: &'a Vm,
    address: String,
}

impl Guest<'_> {
    fn agent(&self) -> &Agent {
        self.vm.agent()
    }

    fn sysfs(&self, name: &str) -> String {
        format!("/sys/bus/pci/devices/{}/{name}", self.address)
    }

    /// The name of what a link of the function leads to.
    fn link(&self, name: &str) -> Result<String> {
        let target = self
            .agent()
            .run(&["readlink", &self.sysfs(name)], LONG)
            .with_context(|| format!("the function has no {name}"))?;
        let name = target.trim().rsplit('/').next().unwrap_or_default();
        Ok(name.to_owned())
    }

    fn device(&self) -> String {
        format!("vfio:{}", self.address)
    }

    /// What the driver says when it cannot open the function.
    fn refusal(&self, command: &str) -> Result<String> {
        let device = self.device();
        let script = format!("{command} {DRIVER} run --device {device} --netdev none");
        let done = self.agent().exec(&["sh", "-c", &script], LONG)?;
        ensure!(done.code == 1, "the driver ended with {}", done.code);
        let said = done.stderr.lines().find(|line| line.contains("error: "));
        Ok(said.unwrap_or(&done.stderr).to_owned())
    }

    /// A mistake, and the command that mends it.
    fn errors_that_teach(&self, report: &mut Report) -> Result<()> {
        self.agent().load_module("vfio_iommu_type1", "")?;
        self.agent().load_module("vfio-pci", "")?;
        let said = self.refusal("exec")?;
        let mend = format!("echo vfio-pci > {}", self.sysfs("driver_override"));
        let taught = said.contains(&mend) && said.contains("drivers_probe");
        report.check("vm/vfio/an unbound function is explained", taught, said);
        Ok(())
    }

    fn bind(&self) -> Result<()> {
        let agent = self.agent();
        agent.load_module("vfio_iommu_type1", "")?;
        agent.load_module("vfio-pci", "")?;
        agent.write_file(&self.sysfs("driver_override"), b"vfio-pci", 0o644)?;
        let address = self.address.as_bytes();
        agent.write_file("/sys/bus/pci/drivers_probe", address, 0o644)?;
        let driver = self.link("driver")?;
        ensure!(driver == "vfio-pci", "the VF is bound to {driver}");
        Ok(())
    }

    /// Starts the driver and waits until it has the VF.
    fn start(&self) -> Result<u32> {
        let script = format!(
            "exec {DRIVER} run --device {} --channel mediated --netdev echo --address {}/24 \
             --control {CONTROL} 2>&1",
            self.device(),
            vf_address(0)
        );
        let job = self.agent().spawn(&["sh", "-c", &script])?;
        self.agent().expect(job, "vf is up", 0, LONG)?;
        Ok(job)
    }

    /// Ends the driver in good order.
    fn stop(&self, job: u32) -> Result<()> {
        self.agent().signal(job, Signal::SIGTERM)?;
        let done = self.agent().wait(job, LONG)?;
        ensure!(
            done.code == 0,
            "the driver ended with {}: {}",
            done.code,
            done.stdout
        );
        Ok(())
    }

    fn ctl(&self, words: &[&str]) -> Result<Value> {
        let head = [DRIVER, "ctl", "--control", CONTROL, "--json"];
        let answer = self.agent().run(&[&head, words].concat(), 2 * LONG)?;
        serde_json::from_str(&answer).with_context(|| format!("no JSON: {answer}"))
    }

    fn card(&self) -> Result<Value> {
        let request = json!({"op": "stats"});
        self.rig.card_control().call(&request, CALL_LIMIT)
    }

    /// A counter of the card for the guest's VF.
    fn counter(&self, name: &str) -> Result<u64> {
        let stats = self.card()?;
        let functions = stats["functions"].as_array().context("no functions")?;
        let vf = functions
            .iter()
            .find(|function| function["function"] == "vf0");
        let vf = vf.context("the card has no vf0")?;
        vf[name].as_u64().with_context(|| format!("no {name}"))
    }

    /// Pings from the guest; how many were answered.
    fn ping(&self, address: &str) -> Result<Value> {
        let count = PINGS.to_string();
        self.ctl(&["ping", address, "-c", &count, "--timeout-ms", "3000"])
    }

    fn drive(&self, report: &mut Report) -> Result<()> {
        let group = self.link("iommu_group")?;
        let job = self.start()?;
        let info = self.ctl(&["info"])?;
        report.check(
            "vm/vfio/probe",
            info["mac"] == GUEST_MAC && info["channel"] == "mediated",
            format!(
                "IOMMU group {group}, {} by {}",
                info["mac"], info["channel"]
            ),
        );
        let windows = self.counter("dma_windows")?;
        report.check(
            "vm/vfio/the card has what the driver mapped",
            windows > 0 && windows < 4096,
            format!("{windows} windows, none of the guest's own memory"),
        );
        for (name, address) in [
            ("VF driver outside", vf_address(1)),
            ("PF driver", PF_ADDRESS.to_owned()),
        ] {
            // The first resolves the address.
            self.ping(&address)?;
            let answer = self.ping(&address)?;
            report.check(
                format!("vm/vfio/ping from the guest to the {name}"),
                answer["received"] == PINGS,
                format!("{} of {PINGS}, {} us", answer["received"], answer["rtt_us"]),
            );
        }
        for (name, control) in [
            ("VF driver outside", self.rig.vf_control(1)),
            ("PF driver", self.rig.pf_control()),
        ] {
            let answer = self
                .rig
                .ping_within(&control, &vf_address(0), PINGS as u32, 3000)?;
            report.check(
                format!("vm/vfio/ping from the {name} to the guest"),
                answer["received"] == PINGS,
                format!("{} of {PINGS}", answer["received"]),
            );
        }
        let bytes = BYTES.to_string();
        let sent = self.ctl(&["send", &vf_address(1), "--bytes", &bytes])?;
        intact(report, "vm/vfio/TCP from the guest", &sent);
        let request = json!({"op": "send", "addr": vf_address(0), "bytes": BYTES, "seed": 1});
        let sent = self.rig.vf_control(1).call(&request, 2 * LONG)?;
        intact(report, "vm/vfio/TCP to the guest", &sent);

        let said = self.refusal("exec")?;
        let taught = said.contains("in use by another process");
        report.check("vm/vfio/a group in use is explained", taught, said);
        self.stop(job)?;
        let left = self.counter("dma_windows")?;
        report.check(
            "vm/vfio/no window outlives the driver",
            left == 0,
            format!("{left} windows"),
        );
        Ok(())
    }

    /// SIGKILL, and the next driver.
    fn killed(&self, report: &mut Report) -> Result<()> {
        let job = self.start()?;
        self.agent().kill(job)?;
        self.agent().wait(job, LONG)?;
        let left = self.counter("dma_windows")?;
        report.check(
            "vm/vfio/no window outlives a killed driver",
            left == 0,
            format!("{left} windows"),
        );
        let job = self.start()?;
        self.ping(PF_ADDRESS)?;
        let answer = self.ping(PF_ADDRESS)?;
        report.check(
            "vm/vfio/a driver after one that was killed",
            answer["received"] == PINGS,
            format!("{} of {PINGS} pings", answer["received"]),
        );
        self.stop(job)
    }

    /// The driver names memory that is not its own.
    fn dma_outside(&self, report: &mut Report) -> Result<()> {
        let job = self.start()?;
        let before = self.counter("dma_faults")?;
        self.ctl(&["misbehave", "descriptor-outside"])?;
        // The card looks at queues that nobody rings at a bounded, slow rate.
        let end = Instant::now() + LONG;
        while self.counter("dma_faults")? == before && Instant::now() < end {
            std::thread::yield_now();
        }
        let stats = self.card()?;
        let faults = stats["faults"].as_array().cloned().unwrap_or_default();
        let ours = faults.iter().rfind(|fault| fault["function"] == "vf0");
        let outside = ours.is_some_and(|fault| fault["iova"] == "0xdead000000");
        let kernel = self.agent().kmsg()?;
        let dmar = kernel.lines().rfind(|line| line.contains("DMAR: [DMA"));
        report.check(
            "vm/vfio/DMA outside the container is stopped",
            outside,
            format!(
                "the card: {}; the guest's IOMMU: {}",
                ours.map_or_else(|| format!("{faults:?}"), Value::to_string),
                dmar.unwrap_or("told the card of no such address, so it was not asked")
            ),
        );
        self.ctl(&["reset"])?;
        self.ping(PF_ADDRESS)?;
        let answer = self.ping(PF_ADDRESS)?;
        report.check(
            "vm/vfio/reset after a fault",
            answer["received"] == PINGS,
            format!("{} of {PINGS} pings", answer["received"]),
        );
        self.stop(job)
    }

    /// The VF leaves vfio-pci, and that the kernel.
    fn give_back(&self, report: &mut Report) -> Result<()> {
        let agent = self.agent();
        let address = self.address.as_bytes();
        agent.write_file(&self.sysfs("driver/unbind"), address, 0o200)?;
        agent.write_file(&self.sysfs("driver_override"), b"\n", 0o644)?;
        let unloaded = agent.unload_module("vfio-pci");
        let said = unloaded.map(|()| "unbound, and the module went".into());
        report.outcome("vm/vfio/unbind", said);
        Ok(())
    }

    /// Run, stop and kill, over and over.
    fn again(&self, report: &mut Report) -> Result<()> {
        const TIMES: u32 = 20;
        let before = self.rig.audit().metadata().map_or(0, |file| file.len());
        for round in 0..TIMES {
            let job = self.start().with_context(|| format!("round {round}"))?;
            if round % 2 == 0 {
                self.stop(job)?;
            } else {
                self.agent().kill(job)?;
                self.agent().wait(job, LONG)?;
            }
            let left = self.counter("dma_windows")?;
            ensure!(left == 0, "round {round} left {left} windows");
        }
        let after = self.rig.audit().metadata().map_or(0, |file| file.len());
        report.check(
            "vm/vfio-hard/run and end, in good order and killed",
            after > before,
            format!("{TIMES} times, no window left"),
        );
        Ok(())
    }

    /// Stock igbvf takes over what our driver had.
    fn stock_driver(&self, report: &mut Report) -> Result<()> {
        let agent = self.agent();
        agent.load_module("igbvf", "")?;
        let links = agent.links_of("igbvf")?;
        let mac = links.first().map(|link| link.mac.clone());
        report.check(
            "vm/vfio-hard/igbvf after our driver",
            mac.as_deref() == Some(GUEST_MAC),
            format!("{mac:?}"),
        );
        agent.unload_module("igbvf")
    }

    fn no_complaint(&self, report: &mut Report) -> Result<()> {
        let kernel = self.agent().kmsg()?;
        let complaint = kernel.lines().find(|line| {
            line.contains("WARNING:") || line.contains("BUG:") || line.contains("Call Trace")
        });
        report.check(
            "vm/vfio/no complaint in the kernel's log",
            complaint.is_none(),
            complaint.unwrap_or_default(),
        );
        Ok(())
    }
}

/// Whether what was sent has arrived, by hash.
fn intact(report: &mut Report, name: &str, sent: &Value) {
    let same = sent["sha256_sent"].is_string() && sent["sha256_sent"] == sent["sha256_peer"];
    let seconds = sent["seconds"].as_f64().unwrap_or(f64::INFINITY);
    let rate = sent["bytes"].as_f64().unwrap_or(0.0) / seconds / 1048576.0;
    let detail = format!("{} bytes, SHA-256 {}", sent["bytes"], sent["sha256_peer"]);
    report.measured(name, same, (rate, "MiB/s"), detail);
}
