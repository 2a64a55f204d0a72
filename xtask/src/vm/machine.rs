//! One running VM.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_agent::PORT_NAME;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::accel::Accel;
use super::agent::Agent;
use super::initramfs;
use super::layout::{Installation, VmDir};
use super::logs::Folder;
use super::qmp::Qmp;
use crate::netns::Namespace;

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
    /// root ports can be added later by [`Vm::device_add`].
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

    /// A guest that starts anew does not end QEMU: see [`Vm::reboot`].
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
    pub(super) fn arguments(&self, accel: Accel) -> Vec<String> {
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
    pub(super) fn command_line(&self, words: &str) -> String {
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

/// A vfio-user device for [`VmConfig::devices`] or [`Vm::device_add`].
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

/// A running VM. Dropping it ends QEMU and keeps the logs;
/// [`Vm::shutdown`] ends it in good order and removes them.
#[derive(Debug)]
pub struct Vm {
    process: Arc<Process>,
    agent: Agent,
    qmp: Qmp,
    accel: Accel,
    boot_time: Duration,
    boot_timeout: Duration,
    reboots: bool,
    keep_logs: bool,
    folder: Folder,
}

impl Vm {
    /// Starts a VM and waits for its agent.
    pub fn start(dir: &VmDir, installation: &Installation, config: &VmConfig) -> Result<Self> {
        Self::start_observed(dir, installation, config, |_| Ok(()))
    }

    /// The same; `observe` is told of QEMU as soon as it runs, and may refuse.
    pub(super) fn start_observed(
        dir: &VmDir,
        installation: &Installation,
        config: &VmConfig,
        observe: impl FnOnce(Handle) -> Result<()>,
    ) -> Result<Self> {
        let accel = match config.accel {
            Some(accel) => accel,
            None => super::accel::best(dir, installation)?,
        };
        let parts = initramfs::build(dir, installation, config)?;
        Self::launch_observed(dir, installation, config, accel, &parts, observe)
    }

    pub(super) fn launch_observed(
        dir: &VmDir,
        installation: &Installation,
        config: &VmConfig,
        accel: Accel,
        initrd_parts: &initramfs::Parts,
        observe: impl FnOnce(Handle) -> Result<()>,
    ) -> Result<Self> {
        let mut folder = Folder::new(dir, &config.name)?;
        let initrd = folder.path.join("initrd");
        initrd_parts.write(&initrd)?;
        let create = |path: PathBuf| {
            File::create(&path).with_context(|| format!("create {}", path.display()))
        };
        // Connected sockets instead of paths: nothing to wait for, nothing
        // left behind, and each end sees when the other is gone.
        let (agent, agent_end) = UnixStream::pair().context("make a socket pair")?;
        let (monitor, monitor_end) = UnixStream::pair().context("make a socket pair")?;
        let mut command = installation.qemu.source.command(dir);
        command.args(config.arguments(accel));
        boot(
            &mut command,
            dir,
            installation,
            &initrd,
            &config.command_line(""),
        );
        command
            .arg("-serial")
            .arg(format!("file:{}", folder.serial().display()));
        command.args([
            "-chardev",
            "socket,id=agent,fd=0",
            "-device",
            "virtio-serial-pci",
        ]);
        command
            .arg("-device")
            .arg(format!("virtserialport,chardev=agent,name={PORT_NAME}"));
        command.args(["-chardev", "socket,id=monitor,fd=1"]);
        command.args(["-mon", "chardev=monitor,mode=control"]);
        if installation.qemu.exit_with_parent {
            command.args(["-run-with", "exit-with-parent=on"]);
        }
        if let Some(place) = &config.place {
            command = place.enter(&command);
        }
        command
            .stdin(OwnedFd::from(agent_end))
            .stdout(OwnedFd::from(monitor_end));
        command.stderr(create(folder.stderr())?);
        let start = Instant::now();
        let process = Arc::new(Process(Mutex::new(spawn(command)?)));
        let mut qmp = Qmp::new(monitor);
        let heard = observe(Handle {
            process: process.clone(),
            logs: folder.path.clone(),
        })
        .and_then(|()| qmp.watch_for(&agent, config.boot_timeout));
        let agent = match heard.and_then(|()| Agent::connect(agent, config.boot_timeout)) {
            Ok(agent) => agent,
            Err(error) => {
                process.end();
                return Err(error.context(folder.evidence(&config.name)));
            }
        };
        let boot_time = start.elapsed();
        folder.forget_initrd();
        Ok(Self {
            process,
            agent,
            qmp,
            accel,
            boot_time,
            boot_timeout: config.boot_timeout,
            reboots: config.reboots,
            keep_logs: config.keep_logs,
            folder,
        })
    }

    /// The guest's agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// QEMU's monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Plugs a device into a running VM, as `-device` takes it in JSON.
    pub fn device_add(&mut self, device: Value) -> Result<()> {
        self.qmp.execute("device_add", device).map(drop)
    }

    /// How the guest's code is run.
    pub fn accel(&self) -> Accel {
        self.accel
    }

    /// From the start of QEMU to the agent's hello.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// Process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.process.child().id()
    }

    /// Folder of `serial.log` and `qemu.log`.
    pub fn logs(&self) -> &Path {
        &self.folder.path
    }

    /// Last lines of the logs, for an error message.
    pub fn evidence(&self) -> String {
        self.folder.evidence("the VM")
    }

    /// Starts the guest anew and waits for its agent; returns how long that
    /// took. For a VM that [`VmConfig::reboots`].
    pub fn reboot(&mut self) -> Result<Duration> {
        ensure!(self.reboots, "this VM ends when its guest reboots");
        let start = Instant::now();
        match self.agent.reboot(self.boot_timeout) {
            Ok(()) => Ok(start.elapsed()),
            Err(error) => Err(error.context(self.evidence())),
        }
    }

    /// Ends QEMU without a word to the guest, by SIGKILL; the logs stay, in
    /// the folder that is returned.
    pub fn kill(self) -> PathBuf {
        self.process.end();
        self.folder.path.clone()
    }

    /// Busy time of the guest's CPUs since the guest started, in milliseconds.
    pub fn guest_cpu_ms(&self) -> Result<u64> {
        self.agent.cpu_ms()
    }

    /// Time that QEMU has used of this machine's CPUs, in milliseconds.
    pub fn host_cpu_ms(&self) -> Result<u64> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        used_ms(&stat).with_context(|| format!("{path} reads {stat:?}"))
    }

    /// Switches the guest off, waits for QEMU to end and removes the logs.
    pub fn shutdown(mut self) -> Result<()> {
        self.agent.poweroff()?;
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("process id")?);
        let (ended, end) = mpsc::channel();
        // Waits without reaping, so that the id stays QEMU's until it is.
        thread::spawn(move || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            let status = loop {
                match waitid(Id::Pid(pid), flags) {
                    Err(Errno::EINTR) => {}
                    other => break other,
                }
            };
            // Nobody listens any more once the bound has passed.
            let _ = ended.send(status);
        });
        match end.recv_timeout(Duration::from_secs(60)) {
            Ok(Ok(WaitStatus::Exited(_, 0))) => {
                self.folder.keep = self.keep_logs;
                Ok(())
            }
            Ok(status) => bail!("QEMU ended with {status:?}\n{}", self.evidence()),
            Err(_) => bail!("the guest did not switch itself off\n{}", self.evidence()),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.process.end();
    }
}

/// QEMU's process, which is not reaped by anybody else.
#[derive(Debug)]
struct Process(Mutex<Child>);

impl Process {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock().expect("no holder panics")
    }

    /// Kills and reaps; both fail only for a process that is already gone.
    fn end(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What outlives a VM: who its QEMU was, and where its logs are.
#[derive(Debug)]
pub(super) struct Handle {
    process: Arc<Process>,
    pub(super) logs: PathBuf,
}

impl Handle {
    /// Kills QEMU if it runs. Whoever owns the VM sees that its agent is gone.
    pub(super) fn kill(&self) {
        // Fails only for a process that is already gone.
        let _ = self.process.child().kill();
    }
}

/// Adds what a direct kernel boot needs.
pub(super) fn boot(
    command: &mut Command,
    dir: &VmDir,
    installation: &Installation,
    initrd: &Path,
    words: &str,
) {
    command
        .arg("-kernel")
        .arg(dir.join(&installation.kernel.image));
    command.arg("-initrd").arg(initrd).arg("-append").arg(words);
}

/// utime and stime of a process, which the kernel tells in hundredths of a
/// second; its name, in parentheses, may hold anything.
fn used_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) * 10)
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts `command` from a thread that lives as long as this process: the
/// kernel takes the end of the starting thread for the end of the parent, on
/// which QEMU is told to end.
fn spawn(command: Command) -> Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                let child = command.spawn();
                // Closes this process's copies of QEMU's ends of the sockets.
                drop(command);
                // The caller waits for it just below.
                let _ = answer.send(child);
            }
        });
        orders
    });
    let program = command.get_program().to_string_lossy().into_owned();
    let (answer, child) = mpsc::channel();
    starter
        .send((command, answer))
        .ok()
        .context("the starting thread is gone")?;
    child
        .recv()
        .context("the starting thread is gone")?
        .with_context(|| format!("run {program}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::vm::layout::{Kernel, Qemu, QemuSource};

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
    fn cpu_time_is_read_past_a_name_of_any_shape() {
        let stat = "77 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!(used_ms(stat), Some(420));
        assert_eq!(used_ms("77 (a) S 1"), None);
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

    /// A shell script in QEMU's place: standard input is the agent's socket,
    /// standard output the monitor's.
    pub(in crate::vm) fn fake(script: &str) -> (tempfile::TempDir, VmDir, Installation) {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path()).unwrap();
        let (text, program) = (temp.path().join("text"), temp.path().join("qemu"));
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // Not written by this process: a child that another test starts at the
        // same moment would hold it open for writing, and it could not run.
        let mut install = Command::new("install");
        install.args(["-m", "755"]).args([&text, &program]);
        assert!(install.status().unwrap().success());
        let qemu = Qemu {
            source: QemuSource::Installed(program),
            version: "11.1.3".into(),
            exit_with_parent: false,
        };
        let kernel = Kernel {
            image: "vmlinuz".into(),
            modules: "modules".into(),
            release: "6.12".into(),
        };
        let installation = Installation {
            qemu,
            kernel,
            busybox: None,
            packages: Vec::new(),
        };
        (temp, dir, installation)
    }

    pub(in crate::vm) const MONITOR: &str =
        r#"echo '{"QMP":{}}'; read capabilities <&1; echo '{"return":{}}'"#;
    pub(in crate::vm) const HELLO: &str =
        r#"echo '{"version":2,"kernel":"6.12","uptime_ms":1}' >&0"#;

    fn launch(dir: &VmDir, installation: &Installation) -> Result<Vm> {
        let config = VmConfig::new("fake");
        Vm::launch_observed(
            dir,
            installation,
            &config,
            Accel::Tcg,
            &Default::default(),
            |_| Ok(()),
        )
    }

    fn log_folders(dir: &VmDir) -> usize {
        fs::read_dir(dir.join("log")).unwrap().count()
    }

    #[test]
    fn what_qemu_complained_of_is_in_the_error_and_in_the_log() {
        let (_temp, dir, installation) = fake("echo 'vf0.sock: refused' >&2; exit 1");
        let error = format!("{:#}", launch(&dir, &installation).unwrap_err());
        assert!(error.contains("vf0.sock: refused"), "{error}");
        assert_eq!(log_folders(&dir), 1);
    }

    #[test]
    fn an_orderly_end_leaves_no_logs() {
        let off = r#"read off; echo '{"id":1,"ok":null}' >&0"#;
        let (_temp, dir, installation) = fake(&format!("{MONITOR}; {HELLO}; {off}"));
        let vm = launch(&dir, &installation).unwrap();
        assert_eq!(log_folders(&dir), 1);
        vm.shutdown().unwrap();
        assert_eq!(log_folders(&dir), 0);
    }

    #[test]
    fn an_end_with_an_error_is_told_and_its_logs_stay() {
        let off = r#"read off; echo '{"id":1,"ok":null}' >&0; exit 3"#;
        let (_temp, dir, installation) = fake(&format!("{MONITOR}; {HELLO}; {off}"));
        let error = launch(&dir, &installation).unwrap().shutdown().unwrap_err();
        assert!(error.to_string().contains("Exited"), "{error}");
        assert_eq!(log_folders(&dir), 1);
    }

    #[test]
    fn a_vm_that_is_dropped_is_gone() {
        let (_temp, dir, installation) = fake(&format!("{MONITOR}; {HELLO}; exec sleep 1000"));
        let vm = launch(&dir, &installation).unwrap();
        let pid = Pid::from_raw(i32::try_from(vm.pid()).unwrap());
        assert!(nix::sys::signal::kill(pid, None).is_ok());
        drop(vm);
        assert_eq!(nix::sys::signal::kill(pid, None), Err(Errno::ESRCH));
        assert_eq!(log_folders(&dir), 1);
    }
}
