//! The guest in which the cells run: its functions, their drivers, and the kernel's stack at both
//! ends. The VF's end lies in a network namespace of its own, so that nothing takes a short way.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use guest_agent::protocol::PciFunction;
use nix::sys::signal::Signal;

use super::cell::Who;
use crate::vm::{Agent, Vm, VmConfig};

/// What an emulated guest on a busy machine may take for one step.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
/// How often an address is pinged, 2 s each, until it answers: a VF driver that is told to begin anew
/// takes some seconds.
const TRIES: u64 = 20;
/// For how many seconds a VF that must not be reached is tried: long enough for one that begins anew
/// to be back, or its silence would show nothing.
const APART: u32 = 8;
/// What TCP carries each way.
pub(super) const BYTES: u64 = 1 << 20;
/// What the VF has heard of itself.
const HEARD: &str = "/interop.heard";
/// The file that TCP carries.
const FILE: &str = "/interop.bytes";
/// A pipe in which nobody speaks.
const SILENCE: &str = "/interop.silence";
/// Where it arrives.
const PORT: u16 = 5001;
/// In a script: a shell of busybox prefers its own `ip`, which knows no namespaces.
const IP: &str = "/usr/sbin/ip";
/// The namespace of the VF's end.
const PLACE: &str = "vf";
/// Interface and address of the VF's end.
pub(super) const VF_INTERFACE: &str = "vf0";
pub(super) const VF_ADDRESS: &str = "10.82.0.10";
/// Debian's packages of DPDK: the programs, the drivers of the 82576 and of a TAP, and the pool of
/// buffers that the programs use.
const DPDK: [&str; 4] = [
    "dpdk-dev",
    "librte-net-e1000-25",
    "librte-net-tap25",
    "librte-mempool-ring25",
];
const PF_DEVICE: u16 = 0x10c9;
const VF_DEVICE: u16 = 0x10ca;

/// Which end of the cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Pf,
    Vf,
}

impl Side {
    /// What is put before a command that runs there.
    fn prefix(self) -> String {
        match self {
            Self::Pf => String::new(),
            Self::Vf => format!("{IP} netns exec {PLACE} "),
        }
    }
}

/// What a guest of the matrix is made of.
pub(super) fn config(name: &str, who: &[Who]) -> VmConfig {
    let config = VmConfig::new(name)
        .iommu()
        .tools()
        .module("vfio_iommu_type1")
        .module("tun")
        // The kernel's VF driver spins while it waits for the PF's answer, and a PF driver that is a
        // process needs a processor to give it.
        .cpus(2);
    if !who.contains(&Who::Dpdk) {
        return config;
    }
    DPDK.iter()
        .fold(config, |config, package| config.package(package))
        .memory(1024)
        .kernel_arg("hugepages=128")
}

/// A guest with functions of an 82576.
pub(super) struct Guest<'a> {
    vm: &'a Vm,
    /// The VF for each driver, where they have one each; otherwise there is one.
    vfs: Vec<(Who, String)>,
}

impl<'a> Guest<'a> {
    pub(super) fn new(vm: &'a Vm) -> Result<Self> {
        let guest = Self {
            vm,
            vfs: Vec::new(),
        };
        let agent = guest.agent();
        for module in ["vfio_iommu_type1", "tun"] {
            agent.load_module(module, "")?;
        }
        agent.load_module("vfio-pci", "enable_sriov=1")?;
        guest.ip(&["netns", "add", PLACE])?;
        let megabytes = BYTES >> 20;
        guest.shell(&format!(
            "busybox mkfifo {SILENCE} && \
             busybox dd if=/dev/urandom of={FILE} bs=1M count={megabytes} 2>/dev/null"
        ))?;
        Ok(guest)
    }

    /// Gives each driver a VF of its own, of those that are there.
    pub(super) fn share_out(&mut self, who: &[Who]) -> Result<()> {
        let vfs = self.functions(VF_DEVICE)?;
        ensure!(
            vfs.len() >= who.len(),
            "the guest sees {} VFs of an 82576",
            vfs.len()
        );
        let addresses = vfs.into_iter().map(|function| function.address);
        self.vfs = who.iter().copied().zip(addresses).collect();
        Ok(())
    }

    pub(super) fn agent(&self) -> &Agent {
        self.vm.agent()
    }

    fn functions(&self, device: u16) -> Result<Vec<PciFunction>> {
        let mut functions = self.agent().pci()?;
        functions.retain(|function| (function.vendor, function.device) == (0x8086, device));
        Ok(functions)
    }

    /// The PF's address on the bus.
    pub(super) fn pf(&self) -> Result<String> {
        let found = self.functions(PF_DEVICE)?;
        let pf = found.into_iter().next();
        Ok(pf.context("the guest sees no PF of an 82576")?.address)
    }

    /// The address of a driver's VF on the bus.
    pub(super) fn vf(&self, who: Who) -> Result<String> {
        if let Some((_, address)) = self.vfs.iter().find(|(owner, _)| *owner == who) {
            return Ok(address.clone());
        }
        let found = self.functions(VF_DEVICE)?;
        let vf = found.into_iter().next();
        Ok(vf
            .context("there is no VF, although it was created")?
            .address)
    }

    pub(super) fn has_vfs(&self) -> Result<bool> {
        Ok(!self.functions(VF_DEVICE)?.is_empty())
    }

    pub(super) fn sysfs(address: &str, name: &str) -> String {
        format!("/sys/bus/pci/devices/{address}/{name}")
    }

    /// Binds a function to a driver, and to no other from now on.
    pub(super) fn bind(&self, address: &str, driver: &str) -> Result<()> {
        let agent = self.agent();
        let now = || -> Result<Option<String>> {
            let functions = agent.pci()?;
            let function = functions.into_iter().find(|known| known.address == address);
            Ok(function
                .with_context(|| format!("{address} is gone"))?
                .driver)
        };
        let wanted = Self::sysfs(address, "driver_override");
        agent.write_file(&wanted, driver.as_bytes(), 0)?;
        match now()? {
            Some(bound) if bound == driver => return Ok(()),
            Some(_) => {
                agent.write_file(
                    &Self::sysfs(address, "driver/unbind"),
                    address.as_bytes(),
                    0,
                )?;
            }
            None => {}
        }
        agent.write_file("/sys/bus/pci/drivers_probe", address.as_bytes(), 0)?;
        let bound = now()?;
        ensure!(
            bound.as_deref() == Some(driver),
            "{driver} does not take {address}; the kernel said last: {}",
            self.last_words()?
        );
        Ok(())
    }

    /// Takes a function from its driver.
    pub(super) fn unbind(&self, address: &str) -> Result<()> {
        let path = Self::sysfs(address, "driver/unbind");
        self.agent().write_file(&path, address.as_bytes(), 0)
    }

    fn last_words(&self) -> Result<String> {
        let log = self.agent().kmsg()?;
        let mut last: Vec<_> = log.lines().rev().take(5).collect();
        last.reverse();
        Ok(last.join(" | "))
    }

    /// The interface that the kernel's driver of a function has made.
    pub(super) fn interface(&self, address: &str) -> Result<String> {
        let listed = self.shell(&format!("ls {}", Self::sysfs(address, "net")))?;
        let name = listed.split_whitespace().next();
        Ok(name.context("its driver made no interface")?.to_owned())
    }

    pub(super) fn ip(&self, words: &[&str]) -> Result<String> {
        self.agent().run(&[&["ip"], words].concat(), PATIENCE)
    }

    pub(super) fn shell(&self, script: &str) -> Result<String> {
        self.agent().run(&["sh", "-c", script], PATIENCE)
    }

    /// Runs a program in the namespace of the VF's end.
    pub(super) fn spawn_beside_vf(&self, program: &str) -> Result<u32> {
        let script = format!("exec {}{program} 2>&1", Side::Vf.prefix());
        self.agent().spawn(&["sh", "-c", &script])
    }

    /// Takes an interface to the VF's end, under the name that it has there.
    pub(super) fn move_beside_vf(&self, interface: &str) -> Result<()> {
        self.ip(&[
            "link",
            "set",
            interface,
            "netns",
            PLACE,
            "name",
            VF_INTERFACE,
        ])?;
        Ok(())
    }

    /// Sets an end's interface up.
    pub(super) fn set_up(&self, side: Side, interface: &str, address: &str) -> Result<()> {
        let ip = format!("{}{IP}", side.prefix());
        self.shell(&format!(
            "{ip} link set {interface} addrgenmode none; {ip} address replace {address}/24 dev \
             {interface} && {ip} link set {interface} up"
        ))?;
        Ok(())
    }

    /// The hardware address of the VF's end.
    pub(super) fn mac_of_vf(&self) -> Result<String> {
        let prefix = Side::Vf.prefix();
        let read = format!("{prefix}cat /sys/class/net/{VF_INTERFACE}/address");
        Ok(self.shell(&read)?.trim().to_owned())
    }

    pub(super) fn set_mac_of_vf(&self, mac: &str) -> Result<()> {
        let place = ["netns", "exec", PLACE, "ip"];
        self.ip(&[&place[..], &["link", "set", VF_INTERFACE, "address", mac]].concat())?;
        Ok(())
    }

    /// Waits until an address answers pings from that side.
    pub(super) fn reaches(&self, side: Side, address: &str) -> Result<()> {
        let ping = format!("{}busybox ping -c 1 -W 2 {address}", side.prefix());
        self.shell(&format!(
            "n=0; until {ping}; do n=$((n+1)); [ $n -lt {TRIES} ] || exit 1; done"
        ))?;
        Ok(())
    }

    /// Whether an address answers nothing.
    pub(super) fn reaches_not(&self, side: Side, address: &str) -> Result<bool> {
        let prefix = side.prefix();
        let script = format!("{prefix}busybox ping -c {APART} -w {APART} {address}");
        let done = self.agent().exec(&["sh", "-c", &script], PATIENCE)?;
        Ok(done.stdout.contains(" 0 packets received"))
    }

    /// Sends the file by TCP to `address` on the other side, which hashes what arrives.
    pub(super) fn send(&self, from: Side, to: Side, address: &str) -> Result<()> {
        let there = to.prefix();
        // A pipe that nobody closes: the server would hang up as soon as it has nothing to say.
        let listen = format!("{there}busybox nc -l -p {PORT} <> {SILENCE} | sha256sum");
        let server = self.agent().spawn(&["sh", "-c", &listen])?;
        let sent = self.shell(&format!(
            "until {there}ss -Hltn | grep -q ':{PORT} '; do :; done; \
             {}busybox nc {address} {PORT} < {FILE}",
            from.prefix()
        ));
        if sent.is_err() {
            self.agent().kill(server)?;
        }
        let hash = self.agent().wait(server, PATIENCE)?.stdout;
        sent?;
        self.compare(&hash)
    }

    /// Sends the file to a service that echoes it, and hashes what comes back.
    pub(super) fn echo(&self, address: &str) -> Result<()> {
        let prefix = Side::Vf.prefix();
        let hash = self.shell(&format!(
            "{prefix}busybox nc {address} 7 < {FILE} | sha256sum"
        ))?;
        self.compare(&hash)
    }

    fn compare(&self, arrived: &str) -> Result<()> {
        let sent = self.shell(&format!("sha256sum < {FILE}"))?;
        ensure!(
            arrived.trim() == sent.trim(),
            "what arrived has the SHA-256 {}, what was sent {}",
            arrived.trim(),
            sent.trim()
        );
        Ok(())
    }

    /// What the kernel complained of, if it did.
    pub(super) fn complaint(&self) -> Result<Option<String>> {
        let bad = ["WARNING:", "BUG:", "Call Trace", "DMAR: [DMA"];
        let log = self.agent().kmsg()?;
        let line = log
            .lines()
            .find(|line| bad.iter().any(|word| line.contains(word)));
        Ok(line.map(str::to_owned))
    }

    /// Starts dpdk-testpmd, which carries frames between a function and a TAP.
    pub(super) fn start_testpmd(
        &self,
        side: Side,
        address: &str,
        interface: &str,
        token: Option<&str>,
    ) -> Result<u32> {
        let token = token.map_or_else(String::new, |token| format!("--vfio-vf-token={token} "));
        let script = format!(
            "exec {}dpdk-testpmd -l 0-1 --no-telemetry --file-prefix={interface} {token}-a {address} \
             --vdev=net_tap0,iface={interface} -- -i --nb-cores=1 --total-num-mbufs=4096 \
             --forward-mode=io --auto-start 2>&1",
            side.prefix()
        );
        let job = self.agent().spawn_on_terminal(&["sh", "-c", &script])?;
        let said = self.agent().expect(job, "testpmd> ", 0, PATIENCE);
        if matches!(&said, Ok(said) if said.contains("Start automatic packet forwarding")) {
            return Ok(job);
        }
        self.agent().kill(job)?;
        let ended = self.agent().wait(job, PATIENCE)?;
        bail!("testpmd does not forward: {}", ended.stdout.trim())
    }

    /// The address of the function that testpmd drives, which the TAP behind it must have too.
    pub(super) fn testpmd_mac(&self, job: u32) -> Result<String> {
        let before = self.agent().expect(job, "", 0, PATIENCE)?.len();
        self.agent().input(job, "show port info 0\n")?;
        let said = self.agent().expect(job, "Max possible", before, PATIENCE)?;
        let mut lines = said.lines();
        let line = lines.find_map(|line| line.split_once("MAC address: "));
        let mac = line.context("testpmd tells no address")?.1.trim();
        Ok(mac.to_lowercase())
    }

    /// Whether what the VF sends to an address comes back to the VF itself. It sends only what it has
    /// resolved, so that then a broadcast of it and an answer have passed.
    pub(super) fn vf_hears_itself(&self, address: &str) -> Result<bool> {
        let there = Side::Vf.prefix();
        let heard = self.shell(&format!(
            ": > {HEARD}; {there}busybox timeout 20 tcpdump -Q in -c 1 -nn -i {VF_INTERFACE} icmp and src host \
             {VF_ADDRESS} > {HEARD} 2>/dev/null & \
             n=0; while [ ! -s {HEARD} ] && [ $n -lt 8 ]; do n=$((n+1)); \
             {there}busybox ping -c 1 -W 1 {address} >/dev/null; done; wait; cat {HEARD}"
        ))?;
        Ok(heard.contains(VF_ADDRESS))
    }

    /// Whether the VF's interface has a link, as its driver sees it.
    pub(super) fn vf_has_link(&self) -> Result<bool> {
        let prefix = Side::Vf.prefix();
        let read = format!("{prefix}cat /sys/class/net/{VF_INTERFACE}/carrier");
        Ok(self.shell(&read)?.trim() == "1")
    }

    /// Ends a program of ours in good order.
    pub(super) fn end(&self, job: u32) -> Result<()> {
        self.agent().signal(job, Signal::SIGTERM)?;
        let ended = self.agent().wait(job, PATIENCE)?;
        ensure!(
            ended.code == 0,
            "the driver ended with {}: {}",
            ended.code,
            ended.stdout
        );
        Ok(())
    }

    /// What the function that testpmd drives, and the TAP behind it, have carried.
    pub(super) fn testpmd_counters(&self, job: u32) -> Result<String> {
        let before = self.agent().expect(job, "", 0, PATIENCE)?.len();
        let ask = "show port stats all\nshow port summary all\n";
        self.agent().input(job, ask)?;
        let end = "Number of available ports";
        let said = self.agent().expect(job, end, before, PATIENCE)?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let counters = words
            .windows(2)
            .filter(|pair| ["RX-packets:", "TX-packets:"].contains(&pair[0]))
            .map(|pair| pair.join(" "));
        let counters: Vec<_> = counters.collect();
        Ok(format!("function, then TAP: {}", counters.join(", ")))
    }

    pub(super) fn stop_testpmd(&self, job: u32) -> Result<()> {
        self.agent().input(job, "quit\n")?;
        let ended = self.agent().wait(job, PATIENCE)?;
        ensure!(ended.code == 0, "testpmd ended with {}", ended.code);
        Ok(())
    }
}
