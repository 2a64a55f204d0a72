//! What a VM is made of, and what QEMU and the kernel are told of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::vm::accel::Accel;

/// Longest path of a Unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// What a VM is made of.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Names the VM's folder of logs.
    pub name: String,
    /// Guest memory, in MiB; one shared memfd, so that a vfio-user server
    /// reaches all of it.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// How many PCIe root ports there are: `rp1`, `rp2`, ... Devices behind
    /// root ports can be added later by [`super::Vm::device_add`].
    pub root_ports: u32,
    /// Devices, as QEMU's `-device` takes them in JSON.
    pub devices: Vec<Value>,
    /// Modules put into the initramfs, with what they depend on.
    pub modules: Vec<String>,
    /// Words added to the kernel command line.
    pub kernel_args: Vec<String>,
    /// Arguments added to QEMU's.
    pub qemu_args: Vec<String>,
    /// How the guest's code is run; `None`: the best that works here.
    pub accel: Option<Accel>,
    /// Bound on the time to the agent's hello.
    pub boot_timeout: Duration,
    /// Whether the guest holds the usual tools of an administrator.
    pub tools: bool,
    /// Debian packages put into the guest, with the libraries they need.
    pub packages: Vec<String>,
    /// Files of this machine put into the guest, by their paths there.
    pub files: Vec<(String, PathBuf)>,
    /// Whether devices are behind an emulated IOMMU.
    pub iommu: bool,
    /// Whether the guest may start anew without ending QEMU.
    pub reboots: bool,
    /// Where QEMU runs, if not where this process does: a TAP of its network is found there.
    pub place: Option<Arc<Namespace>>,
    /// Whether the logs stay even if the VM ends in good order.
    pub keep_logs: bool,
}

impl VmConfig {
    /// A VM of 512 MiB, with the modules of 82576 drivers and of VFIO at hand.
    pub fn new(name: &str) -> Self {
        let modules = ["igb", "igbvf", "vfio-pci", "8021q"];
        Self {
            name: name.into(),
            memory_mib: 512,
            cpus: 1,
            root_ports: 0,
            devices: Vec::new(),
            modules: modules.map(str::to_owned).into(),
            kernel_args: Vec::new(),
            qemu_args: Vec::new(),
            accel: None,
            boot_timeout: Duration::from_secs(180),
            tools: false,
            packages: Vec::new(),
            files: Vec::new(),
            iommu: false,
            reboots: false,
            keep_logs: false,
            place: None,
        }
    }

    /// Runs QEMU inside a network namespace.
    pub fn inside(mut self, place: Arc<Namespace>) -> Self {
        self.place = Some(place);
        self
    }

    /// Puts iproute2 (`ip`, `tc`, `bridge`, `ss`), `ethtool`, `iperf3` and
    /// `tcpdump` into the guest, at their usual paths and with what they need,
    /// and busybox for what else a shell has.
    pub fn tools(mut self) -> Self {
        self.tools = true;
        self
    }

    /// Puts a Debian package into the guest, without its documentation, and
    /// the libraries that its programs need.
    pub fn package(mut self, name: &str) -> Self {
        self.packages.push(name.into());
        self
    }

    /// Puts a file of this machine into the guest, as an executable.
    pub fn file(mut self, in_guest: &str, here: &Path) -> Self {
        self.files.push((in_guest.into(), here.into()));
        self
    }

    /// Puts a kernel module into the guest, with what it depends on.
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.into());
        self
    }

    /// The number of virtual CPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// The guest's memory, in MiB.
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Adds a word to the kernel's command line.
    pub fn kernel_arg(mut self, word: &str) -> Self {
        self.kernel_args.push(word.into());
        self
    }

    /// Puts all devices behind an emulated Intel IOMMU, switched on.
    pub fn iommu(mut self) -> Self {
        self.iommu = true;
        // An emulated timer is late on a busy machine, and a kernel that remaps
        // interrupts takes that for a broken one and panics.
        let words = ["intel_iommu=on", "no_timer_check"];
        self.kernel_args.extend(words.map(str::to_owned));
        self
    }

    /// A guest that starts anew does not end QEMU: see [`super::Vm::reboot`].
    pub fn reboots(mut self) -> Self {
        self.reboots = true;
        self
    }

    /// Adds a root port and, behind it, the vfio-user device served at
    /// `socket`; the server must be listening when the VM starts.
    pub fn vfio_user(mut self, socket: &Path) -> Result<Self> {
        self.root_ports += 1;
        let device = vfio_user_device(socket, &format!("rp{}", self.root_ports))?;
        self.devices.push(device);
        Ok(self)
    }

    /// Adds an empty root port, for a device added later.
    pub fn root_port(mut self) -> Self {
        self.root_ports += 1;
        self
    }

    /// Adds arguments to QEMU's.
    pub fn qemu_args(mut self, arguments: &[&str]) -> Self {
        self.qemu_args
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// QEMU's arguments, without those for the console and the agent.
    pub(in crate::vm) fn arguments(&self, accel: Accel) -> Vec<String> {
        let memory = format!(
            "memory-backend-memfd,id=ram,size={}M,share=on",
            self.memory_mib
        );
        let machine = if self.iommu {
            "q35,memory-backend=ram,kernel-irqchip=split"
        } else {
            "q35,memory-backend=ram"
        };
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-display",
            "none",
            "-machine",
            machine,
            "-cpu",
            "max",
            "-object",
            &memory,
        ]
        .map(str::to_owned)
        .into();
        let (cpus, memory) = (self.cpus.to_string(), format!("{}M", self.memory_mib));
        for (option, value) in [("-accel", accel.name()), ("-smp", &cpus), ("-m", &memory)] {
            arguments.extend([option.to_owned(), value.to_owned()]);
        }
        if !self.reboots {
            arguments.push("-no-reboot".into());
        }
        if self.iommu {
            // Before every device that shall be behind it.
            let iommu = "intel-iommu,intremap=on,caching-mode=on";
            arguments.extend(["-device", iommu].map(str::to_owned));
        }
        for port in 1..=self.root_ports {
            let port = format!("pcie-root-port,id=rp{port},chassis={port},slot={port}");
            arguments.extend(["-device".to_owned(), port]);
        }
        for device in &self.devices {
            arguments.extend(["-device".to_owned(), device.to_string()]);
        }
        arguments.extend(self.qemu_args.iter().cloned());
        arguments
    }

    /// The kernel's command line, with `words` of the caller.
    pub(in crate::vm) fn command_line(&self, words: &str) -> String {
        // Messages below warning stay in the kernel's log, where `kmsg` finds
        // them: an emulated serial port is slow. Clearing each page is slow too.
        let mut line = format!("console=ttyS0 loglevel=5 panic=-1 init_on_alloc=0 {words}");
        for word in &self.kernel_args {
            line.push(' ');
            line.push_str(word);
        }
        line.trim_end().to_owned()
    }
}

/// A vfio-user device for [`VmConfig::devices`] or [`super::Vm::device_add`].
pub fn vfio_user_device(socket: &Path, bus: &str) -> Result<Value> {
    let path = std::path::absolute(socket)
        .with_context(|| format!("make {} absolute", socket.display()))?;
    let path = path
        .to_str()
        .context("the path of a socket must be UTF-8")?;
    ensure!(
        path.len() <= MAX_SOCKET_PATH,
        "the socket path {path} exceeds {MAX_SOCKET_PATH} bytes: use a shorter folder"
    );
    Ok(json!({
        "driver": "vfio-user-pci",
        "socket": {"type": "unix", "path": path},
        "bus": bus,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vfio_user_device_gets_its_own_root_port() {
        let config = VmConfig::new("two")
            .vfio_user(Path::new("/run/vf0.sock"))
            .and_then(|config| config.vfio_user(Path::new("/run/vf1.sock")))
            .unwrap();
        let arguments = config.arguments(Accel::Tcg);
        let devices: Vec<Value> = arguments
            .iter()
            .filter(|argument| argument.starts_with('{'))
            .filter_map(|argument| serde_json::from_str(argument).ok())
            .collect();
        let buses: Vec<_> = devices
            .iter()
            .filter_map(|device| device["bus"].as_str())
            .collect();
        assert_eq!(buses, ["rp1", "rp2"]);
        assert_eq!(devices[1]["socket"]["path"], "/run/vf1.sock");
        for bus in buses {
            let port = format!("pcie-root-port,id={bus},");
            assert!(arguments.iter().any(|argument| argument.starts_with(&port)));
        }
        assert!(
            arguments
                .iter()
                .any(|argument| argument.ends_with("share=on"))
        );
    }

    #[test]
    fn an_iommu_comes_before_what_is_behind_it() {
        let config = VmConfig::new("iommu").iommu();
        let config = config.vfio_user(Path::new("/run/vf0.sock")).unwrap();
        let arguments = config.arguments(Accel::Tcg);
        let at = |word: &str| {
            arguments
                .iter()
                .position(|argument| argument.contains(word))
        };
        assert!(at("intel-iommu").unwrap() < at("pcie-root-port").unwrap());
        assert!(at("kernel-irqchip=split").is_some());
        assert!(config.command_line("").contains("intel_iommu=on"));
        assert!(at("-no-reboot").is_some());
        assert!(
            !config
                .reboots()
                .arguments(Accel::Tcg)
                .contains(&"-no-reboot".into())
        );
    }

    #[test]
    fn a_socket_path_no_kernel_takes_is_refused_before_qemu_is() {
        let long = PathBuf::from(format!("/{}", "x".repeat(MAX_SOCKET_PATH)));
        assert!(vfio_user_device(&long, "rp1").is_err());
        assert!(
            vfio_user_device(Path::new("relative.sock"), "rp1").unwrap()["socket"]["path"]
                .as_str()
                .unwrap()
                .starts_with('/')
        );
    }
}
