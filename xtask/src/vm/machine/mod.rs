//! One running VM.

mod config;
mod process;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_agent::PORT_NAME;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::Value;

use super::accel::Accel;
use super::agent::Agent;
use super::initramfs;
use super::layout::{Installation, VmDir};
use super::logs::Folder;
use super::qmp::Qmp;
pub use config::{VmConfig, vfio_user_device};
pub(super) use process::Handle;
use process::{Process, spawn, used_ms};

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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::vm::layout::{Kernel, Qemu, QemuSource};

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
        r#"echo '{"version":3,"kernel":"6.12","uptime_ms":1}' >&0"#;

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
