//! The four programs, wired together in a temporary directory: what the demo and the kill tests
//! run on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::appear::wait_for;
use crate::control::Control;
use crate::netns::Namespace;
use crate::program::Program;
use crate::usage::Usage;

/// How long a program may take to be up.
pub const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a program may take to end in an orderly way.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long a control call that does no long work may take.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The names of the four programs.
pub const PROGRAMS: [&str; 4] = ["vfio-user-device", "mediator", "pf-driver", "vf-driver"];

/// What a rig is started with.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// The directory with the four built programs.
    pub programs: PathBuf,
    /// Number of VFs.
    pub vfs: u16,
    /// The PF driver's policy, as its policy file spells it.
    pub policy: Value,
    /// Whether the card writes a capture file.
    pub capture: bool,
    /// More arguments for the card.
    pub card_arguments: Vec<String>,
}

/// A card, a mediator, a PF driver and the VF drivers.
///
/// Whatever happens, dropping it ends every process and removes the directory.
#[derive(Debug)]
pub struct Rig {
    // Dropped first to last: drivers before the mediator, the mediator before the card.
    vfs: Vec<Option<Program>>,
    pf: Option<Program>,
    mediator: Option<Program>,
    card: Option<Program>,
    // After the processes that run in them.
    places: BTreeMap<String, Arc<Namespace>>,
    pf_netdev: Option<String>,
    vf_netdevs: BTreeMap<u16, String>,
    pf_arguments: Vec<String>,
    options: RigOptions,
    directory: TempDir,
}

/// The IPv4 address of VF `vf`'s stack.
pub fn vf_address(vf: u16) -> String {
    format!("10.82.0.{}", 10 + vf)
}

/// The IPv4 address of the PF's stack.
pub const PF_ADDRESS: &str = "10.82.0.1";

impl Rig {
    /// An empty rig: the directory, and nothing started.
    pub fn new(options: RigOptions) -> anyhow::Result<Self> {
        for program in PROGRAMS {
            let path = options.programs.join(program);
            if !path.is_file() {
                bail!(
                    "{} is missing: build it with `cargo build --workspace`, or name the \
                     directory of the programs with --programs",
                    path.display()
                );
            }
        }
        let directory = tempfile::Builder::new()
            .prefix("tandem-")
            .tempdir()
            .context("creating a temporary directory (set TMPDIR to one that can be written)")?;
        let policy = directory.path().join("policy.json");
        std::fs::write(&policy, options.policy.to_string())
            .with_context(|| format!("writing {}", policy.display()))?;
        let vfs = (0..options.vfs).map(|_| None).collect();
        Ok(Self {
            vfs,
            pf: None,
            mediator: None,
            card: None,
            places: BTreeMap::new(),
            pf_netdev: None,
            vf_netdevs: BTreeMap::new(),
            pf_arguments: Vec::new(),
            options,
            directory,
        })
    }

    /// From its next start on, run the process `name` (`card`, `mediator`, `pf`, `vf0`...) inside
    /// `namespace`. A card with `--uplink tap:NAME` makes its TAP there.
    pub fn run_inside(&mut self, name: &str, namespace: Arc<Namespace>) {
        self.places.insert(name.to_owned(), namespace);
    }

    /// From its next start on, the PF driver has this `--netdev` in place of a stack of its own at
    /// [`PF_ADDRESS`].
    pub fn set_pf_netdev(&mut self, netdev: &str) {
        self.pf_netdev = Some(netdev.to_owned());
    }

    /// From its next start on, the driver of VF `vf` has this `--netdev` in place of a stack of its own.
    pub fn set_vf_netdev(&mut self, vf: u16, netdev: &str) {
        self.vf_netdevs.insert(vf, netdev.to_owned());
    }

    /// From its next start on, the PF driver gets these arguments too.
    pub fn set_pf_arguments(&mut self, arguments: &[&str]) {
        self.pf_arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Run `pf-driver ctl` with `words`; what it prints, as JSON.
    pub fn pf_ctl(&self, words: &[&str]) -> anyhow::Result<Value> {
        let control = self.pf_control();
        self.ctl("pf-driver", control.path(), words)
    }

    /// Run `mediator ctl` with `words`; what it prints, as JSON.
    pub fn mediator_ctl(&self, words: &[&str]) -> anyhow::Result<Value> {
        let control = self.mediator_control();
        self.ctl("mediator", control.path(), words)
    }

    fn ctl(&self, program: &str, control: &Path, words: &[&str]) -> anyhow::Result<Value> {
        let output = Command::new(self.program(program))
            .args(["ctl", "--json", "--control"])
            .arg(control)
            .args(words)
            .output()
            .with_context(|| format!("running {program} ctl"))?;
        let line = words.join(" ");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{program} ctl {line} failed: {}", said.trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{program} ctl {line} did not print JSON"))
    }

    /// The directory of everything: sockets, logs, capture.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Where the program `name` lies.
    pub fn program(&self, name: &str) -> PathBuf {
        self.options.programs.join(name)
    }

    /// The card's own directory of sockets.
    pub fn nic(&self) -> PathBuf {
        self.at("nic")
    }

    /// The socket on which the mediator offers VF `vf`.
    pub fn vf_socket(&self, vf: u16) -> PathBuf {
        self.at("bus").join(format!("vf{vf}.sock"))
    }

    /// The capture file of the card.
    pub fn capture(&self) -> PathBuf {
        self.at("card.pcapng")
    }

    /// From its next start on, the card traces every access into [`Self::trace`].
    pub fn trace_card(&mut self) {
        let trace = text(&self.trace());
        self.options
            .card_arguments
            .extend(["--trace".into(), trace]);
    }

    /// The trace of a card that [traces](Self::trace_card).
    pub fn trace(&self) -> PathBuf {
        self.at("card.trace")
    }

    /// The mediator's audit log.
    pub fn audit(&self) -> PathBuf {
        self.at("audit.jsonl")
    }

    /// The control socket of the card.
    pub fn card_control(&self) -> Control {
        Control::new(self.at("card.ctl"))
    }

    /// The control socket of the mediator.
    pub fn mediator_control(&self) -> Control {
        Control::new(self.at("mediator.ctl"))
    }

    /// The control socket of the PF driver.
    pub fn pf_control(&self) -> Control {
        Control::new(self.at("pf.ctl"))
    }

    /// The control socket of VF `vf`'s driver.
    pub fn vf_control(&self, vf: u16) -> Control {
        Control::new(self.at(&format!("vf{vf}.ctl")))
    }

    fn start<I, S>(&self, program: &str, name: &str, arguments: I) -> anyhow::Result<Program>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let path = self.options.programs.join(program);
        let mut command = match self.places.get(name) {
            Some(namespace) => namespace.command(path),
            None => Command::new(path),
        };
        command.args(arguments).env_remove("RUST_LOG_STYLE");
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        Program::start(name, &mut command, self.path())
    }

    /// Start the card; returns when its PF socket is there.
    pub fn start_card(&mut self) -> anyhow::Result<()> {
        let mut arguments: Vec<String> = vec![
            "--socket-dir".into(),
            text(&self.nic()),
            "--control".into(),
            text(self.card_control().path()),
        ];
        if self.options.capture {
            arguments.extend(["--capture".into(), text(&self.capture())]);
        }
        arguments.extend(self.options.card_arguments.iter().cloned());
        std::fs::create_dir_all(self.nic())?;
        std::fs::set_permissions(
            self.nic(),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )?;
        let program = self.start("vfio-user-device", "card", arguments)?;
        self.ready(
            program,
            &[
                self.nic().join("pf.sock"),
                self.card_control().path().into(),
            ],
        )
        .map(|program| self.card = Some(program))
    }

    /// Start the mediator; returns when the PF driver can connect to it.
    pub fn start_mediator(&mut self) -> anyhow::Result<()> {
        let socket = self.at("pf-channel.sock");
        std::fs::create_dir_all(self.at("bus"))?;
        std::fs::set_permissions(
            self.at("bus"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )?;
        let arguments = [
            "run".into(),
            "--nic".into(),
            text(&self.nic()),
            "--socket-dir".into(),
            text(&self.at("bus")),
            "--pf-socket".into(),
            text(&socket),
            "--audit".into(),
            text(&self.audit()),
            "--control".into(),
            text(self.mediator_control().path()),
        ];
        let program = self.start("mediator", "mediator", arguments)?;
        self.ready(program, &[socket, self.mediator_control().path().into()])
            .map(|program| self.mediator = Some(program))
    }

    /// Start the PF driver; returns when every VF is offered by the mediator.
    pub fn start_pf(&mut self) -> anyhow::Result<()> {
        let mediator = ["--mediator".into(), text(&self.at("pf-channel.sock"))];
        let offered: Vec<_> = (0..self.options.vfs).map(|vf| self.vf_socket(vf)).collect();
        self.start_pf_with(&mediator, &offered)
    }

    /// Start the PF driver alone; returns when the card offers every VF.
    pub fn start_pf_without_mediator(&mut self) -> anyhow::Result<()> {
        let offered: Vec<_> = (0..self.options.vfs)
            .map(|vf| self.nic().join(format!("vf{vf}.sock")))
            .collect();
        self.start_pf_with(&[], &offered)
    }

    fn start_pf_with(&mut self, mediator: &[String], offered: &[PathBuf]) -> anyhow::Result<()> {
        let mut arguments: Vec<String> = vec![
            "run".into(),
            "--device".into(),
            format!("vfio-user:{}", text(&self.nic().join("pf.sock"))),
            "--vfs".into(),
            self.options.vfs.to_string(),
            "--policy".into(),
            text(&self.at("policy.json")),
            "--state".into(),
            text(&self.at("pf-state.json")),
            "--control".into(),
            text(self.pf_control().path()),
        ];
        arguments.extend(match &self.pf_netdev {
            Some(netdev) => vec!["--netdev".into(), netdev.clone()],
            None => vec![
                "--netdev".into(),
                "echo".into(),
                "--address".into(),
                format!("{PF_ADDRESS}/24"),
            ],
        });
        arguments.extend(self.pf_arguments.iter().cloned());
        arguments.extend_from_slice(mediator);
        // That of a driver that was killed is no sign that this one is ready.
        let _ = std::fs::remove_file(self.pf_control().path());
        let program = self.start("pf-driver", "pf", arguments)?;
        let mut awaited = vec![self.pf_control().path().to_path_buf()];
        awaited.extend_from_slice(offered);
        self.ready(program, &awaited)
            .map(|program| self.pf = Some(program))
    }

    /// Start the driver of VF `vf` behind the mediator; returns when its control socket answers.
    pub fn start_vf(&mut self, vf: u16) -> anyhow::Result<()> {
        wait_for(&self.vf_socket(vf), START_LIMIT)?;
        let mut arguments: Vec<String> = vec![
            "run".into(),
            "--device".into(),
            format!("vfio-user:{}", text(&self.vf_socket(vf))),
            "--channel".into(),
            "mediated".into(),
            "--control".into(),
            text(self.vf_control(vf).path()),
        ];
        match self.vf_netdevs.get(&vf) {
            Some(netdev) => arguments.extend(["--netdev".into(), netdev.clone()]),
            None => arguments.extend(["--address".into(), format!("{}/24", vf_address(vf))]),
        }
        // A driver that was killed has left its socket, which would count as the new one's.
        let _ = std::fs::remove_file(self.vf_control(vf).path());
        let program = self.start("vf-driver", &format!("vf{vf}"), arguments)?;
        let program = self.ready(program, &[self.vf_control(vf).path().into()])?;
        self.vfs[usize::from(vf)] = Some(program);
        Ok(())
    }

    /// Start everything, in the order of dependence.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        self.start_card()?;
        self.start_mediator()?;
        self.start_pf()?;
        (0..self.options.vfs).try_for_each(|vf| self.start_vf(vf))
    }

    fn ready(&self, mut program: Program, awaited: &[PathBuf]) -> anyhow::Result<Program> {
        for path in awaited {
            if let Err(error) = wait_for(path, START_LIMIT) {
                let state = if program.is_running()? {
                    "it runs"
                } else {
                    "it has ended"
                };
                bail!(
                    "{} is not ready ({state}): {error:#}\n{}",
                    program.name(),
                    program.tail()
                );
            }
        }
        Ok(program)
    }

    /// The card's process.
    pub fn card(&mut self) -> anyhow::Result<&mut Program> {
        self.card.as_mut().context("the card is not running")
    }

    /// The mediator's process.
    pub fn mediator(&mut self) -> anyhow::Result<&mut Program> {
        self.mediator
            .as_mut()
            .context("the mediator is not running")
    }

    /// The PF driver's process.
    pub fn pf(&mut self) -> anyhow::Result<&mut Program> {
        self.pf.as_mut().context("the PF driver is not running")
    }

    /// The process of VF `vf`'s driver.
    pub fn vf(&mut self, vf: u16) -> anyhow::Result<&mut Program> {
        self.vfs
            .get_mut(usize::from(vf))
            .and_then(Option::as_mut)
            .with_context(|| format!("the driver of VF{vf} is not running"))
    }

    /// End everything in the order of dependence, each with exit status 0.
    pub fn stop_all(&mut self) -> anyhow::Result<()> {
        for program in self
            .vfs
            .iter_mut()
            .chain([&mut self.pf, &mut self.mediator, &mut self.card])
        {
            if let Some(mut program) = program.take() {
                program.stop(STOP_LIMIT)?;
            }
        }
        Ok(())
    }

    /// What each running program holds, by its name.
    ///
    /// # Errors
    ///
    /// One of them has ended.
    pub fn usage(&mut self) -> anyhow::Result<Vec<(String, Usage)>> {
        self.programs()
            .map(|program| {
                let usage = Usage::of(program.pid());
                let usage = usage.with_context(|| format!("looking at {}", program.name()))?;
                Ok((program.name().to_owned(), usage))
            })
            .collect()
    }

    /// Every program that is running.
    pub fn programs(&mut self) -> impl Iterator<Item = &mut Program> {
        let Self {
            vfs,
            pf,
            mediator,
            card,
            ..
        } = self;
        vfs.iter_mut()
            .chain([pf, mediator, card])
            .filter_map(Option::as_mut)
    }

    /// Keep the directory: it is not removed when the rig goes.
    pub fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.path().to_path_buf()
    }

    /// Ping until a reply comes: a peer may be on its way back, and the stack resolves one address a
    /// second. Frames sent before have then been delivered, since a queue keeps its order.
    pub fn reaches(&self, control: &Control, address: &str) -> anyhow::Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            match self.ping_within(control, address, 1, 250) {
                Ok(answer) if answer["received"] == 1 => return Ok(()),
                Ok(_) if Instant::now() < end => {}
                // A program that has lost its device answers at once.
                Err(_) if Instant::now() < end => std::thread::yield_now(),
                outcome => {
                    let from = control.path().display();
                    bail!("{address} is not reached from {from}: {outcome:?}");
                }
            }
        }
    }

    /// Ping with `timeout_ms` for each reply; the whole answer.
    pub fn ping_within(
        &self,
        control: &Control,
        address: &str,
        count: u32,
        timeout_ms: u64,
    ) -> anyhow::Result<Value> {
        let request =
            json!({"op": "ping", "addr": address, "count": count, "timeout_ms": timeout_ms});
        let limit = Duration::from_millis(timeout_ms * u64::from(count)) + CALL_LIMIT;
        control.call(&request, limit)
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
