//! The guest of these scenarios: QEMU's igb behind an emulated IOMMU, our drivers as static programs,
//! and, at the other end of the card's cable, a second interface that the guest's kernel drives.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::vm::scenario::Stage;
use crate::vm::{Agent, Vm, VmConfig, build_static, build_static_example};

pub(super) const PF_DRIVER: &str = "/usr/bin/pf-driver";
pub(super) const VF_DRIVER: &str = "/usr/bin/vf-driver";
/// Opens and closes windows; see iommu/examples.
pub(super) const WINDOWS: &str = "/usr/bin/windows";
/// The secret that PF and VFs share.
pub(super) const TOKEN: &str = "0b5f2a1e-5c1d-4f6e-9a51-82576825760b";
pub(super) const PF_MAC: &str = "02:82:57:60:aa:00";
/// The address of the kernel's interface.
pub(super) const OUTSIDE: &str = "10.84.0.9";
const OUTSIDE_MAC: &str = "02:82:57:60:aa:99";
pub(super) const PF_ADDRESS: &str = "10.84.0.1";
pub(super) const VF_ADDRESS: &str = "10.84.0.10";
pub(super) const LONG: Duration = Duration::from_secs(90);
pub(super) const PINGS: u64 = 3;

/// The control socket of a driver.
pub(super) fn control(driver: &str) -> String {
    format!("/run/{}.ctl", driver.rsplit('/').next().unwrap_or(driver))
}

pub(super) struct Guest {
    pub(super) vm: Vm,
    /// The PF.
    pub(super) pf: String,
    pub(super) scenario: &'static str,
    /// The kernel's interface.
    pub(super) outside: String,
}

impl Guest {
    /// Starts it, with what `more` adds.
    pub(super) fn start(
        stage: &Stage<'_>,
        name: &'static str,
        more: impl FnOnce(VmConfig) -> Result<VmConfig>,
    ) -> Result<Self> {
        let (pf_driver, vf_driver) = (build_static("pf-driver")?, build_static("vf-driver")?);
        let windows = build_static_example("iommu", "windows")?;
        // A hub is the cable: what the card sends, the other interface receives.
        let outside = format!("virtio-net-pci,netdev=n1,mac={OUTSIDE_MAC},romfile=");
        let card = format!("igb,netdev=n0,bus=rp1,mac={PF_MAC},romfile=");
        let config = VmConfig::new(name)
            .iommu()
            .tools()
            .root_port()
            .module("vfio_iommu_type1")
            .module("virtio_net")
            .file(PF_DRIVER, &pf_driver)
            .file(VF_DRIVER, &vf_driver)
            .file(WINDOWS, &windows)
            .qemu_args(&["-netdev", "hubport,id=n0,hubid=0", "-device", &card])
            .qemu_args(&["-netdev", "hubport,id=n1,hubid=0", "-device", &outside]);
        let vm = stage.start(more(config)?)?;
        let functions = vm.agent().pci()?;
        let function = functions
            .iter()
            .find(|function| (function.vendor, function.device) == (0x8086, 0x10c9))
            .context("the guest sees no PF of an 82576")?;
        let pf = function.address.clone();
        let outside = connect_outside(vm.agent())?;
        Ok(Self {
            vm,
            pf,
            scenario: name,
            outside,
        })
    }

    pub(super) fn agent(&self) -> &Agent {
        self.vm.agent()
    }

    pub(super) fn sysfs(&self, name: &str) -> String {
        attribute(&self.pf, name)
    }

    /// The name of what a link of a function leads to; `None` if there is none.
    pub(super) fn link(&self, address: &str, name: &str) -> Result<Option<String>> {
        let path = attribute(address, name);
        let done = self.agent().exec(&["readlink", &path], LONG)?;
        let name = done.stdout.trim().rsplit('/').next().unwrap_or_default();
        Ok((done.code == 0 && !name.is_empty()).then(|| name.to_owned()))
    }

    /// The VFs' addresses.
    pub(super) fn vfs(&self) -> Result<Vec<String>> {
        let mut vfs = Vec::new();
        while let Some(vf) = self.link(&self.pf, &format!("virtfn{}", vfs.len()))? {
            vfs.push(vf);
        }
        Ok(vfs)
    }

    pub(super) fn shell(&self, line: &str) -> Result<String> {
        self.agent().run(&["sh", "-c", line], LONG)
    }

    /// What a command says that must fail, in the line of its error.
    pub(super) fn refusal(&self, line: &str) -> Result<String> {
        let done = self.agent().exec(&["sh", "-c", line], LONG)?;
        ensure!(done.code == 1, "{line} ended with {}", done.code);
        let said = done.stderr.lines().find(|line| line.contains("error: "));
        Ok(said.unwrap_or(&done.stderr).to_owned())
    }

    /// `run` of the PF driver, with arguments after it.
    pub(super) fn pf_command(&self, more: &str) -> String {
        format!(
            "{PF_DRIVER} run --device vfio:{},vf_token={TOKEN} --channel mailbox --netdev echo \
             --address {PF_ADDRESS}/24 --control {} {more}",
            self.pf,
            control(PF_DRIVER)
        )
    }

    pub(super) fn vf_command(&self, vf: &str) -> String {
        format!(
            "{VF_DRIVER} run --device vfio:{vf},vf_token={TOKEN} --channel mailbox --netdev echo \
             --address {VF_ADDRESS}/24 --control {}",
            control(VF_DRIVER)
        )
    }

    /// Starts a driver and waits until it has said `up`.
    pub(super) fn start_driver(&self, command: &str, up: &str) -> Result<u32> {
        let script = format!("exec {command} 2>&1");
        let job = self.agent().spawn(&["sh", "-c", &script])?;
        let said = self.agent().expect(job, up, 0, LONG);
        if said.is_err() {
            self.agent().kill(job)?;
        }
        said.map(|_| job)
    }

    /// Starts the PF driver and waits for its link, which is negotiated anew.
    pub(super) fn start_pf(&self, vfs: u16) -> Result<u32> {
        self.start_driver(&self.pf_command(&format!("--vfs {vfs}")), "link is up")
    }

    pub(super) fn start_vf(&self, vf: &str) -> Result<u32> {
        self.start_driver(&self.vf_command(vf), "vf is up")
    }

    /// Ends a driver in good order.
    pub(super) fn stop(&self, job: u32) -> Result<String> {
        self.agent().signal(job, Signal::SIGTERM)?;
        let done = self.agent().wait(job, LONG)?;
        ensure!(
            done.code == 0,
            "the driver ended with {}: {}",
            done.code,
            done.stdout
        );
        Ok(done.stdout)
    }

    pub(super) fn kill(&self, job: u32) -> Result<String> {
        self.agent().kill(job)?;
        Ok(self.agent().wait(job, LONG)?.stdout)
    }

    pub(super) fn ctl(&self, driver: &str, words: &[&str]) -> Result<Value> {
        let socket = control(driver);
        let head = [driver, "ctl", "--control", &socket, "--json"];
        let answer = self.agent().run(&[&head, words].concat(), 2 * LONG)?;
        serde_json::from_str(&answer).with_context(|| format!("no JSON: {answer}"))
    }

    /// Pings from a driver's stack: all must be answered.
    pub(super) fn ping(&self, driver: &str, address: &str) -> Result<String> {
        let count = PINGS.to_string();
        let ping = || {
            self.ctl(
                driver,
                &["ping", address, "-c", &count, "--timeout-ms", "3000"],
            )
        };
        // The first resolves the address.
        ping()?;
        let answer = ping()?;
        let said = format!("{} of {PINGS}, {} us", answer["received"], answer["rtt_us"]);
        ensure!(answer["received"] == PINGS, "{said}");
        Ok(said)
    }

    /// Pings from the kernel's interface to a driver's stack.
    pub(super) fn ping_from_outside(&self, address: &str) -> Result<String> {
        let address: Ipv4Addr = address.parse()?;
        let patience = Duration::from_secs(3);
        let pings = self.agent().ping(address, PINGS as u16, patience, 56)?;
        let said = format!(
            "{} of {}, {:?} us",
            pings.received, pings.sent, pings.rtts_us
        );
        ensure!(pings.received == pings.sent, "{said}");
        Ok(said)
    }
}

pub(super) fn attribute(address: &str, name: &str) -> String {
    format!("/sys/bus/pci/devices/{address}/{name}")
}

/// The kernel's own interface, on the other end of the cable; its name.
fn connect_outside(agent: &Agent) -> Result<String> {
    agent.load_module("virtio_net", "")?;
    let links = agent.links()?;
    let link = links.iter().find(|link| link.mac == OUTSIDE_MAC);
    let name = &link.context("virtio_net made no interface")?.name;
    agent.set_addr(name, OUTSIDE.parse()?, 24)?;
    agent.link_up(name)?;
    Ok(name.clone())
}
