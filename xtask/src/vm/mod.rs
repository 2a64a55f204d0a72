//! VMs of stock parts: Debian's QEMU and kernel, fetched without root, and
//! an initramfs whose init takes commands of this side.
//!
//! ```no_run
//! use std::path::Path;
//! use xtask::vm::{Vm, VmConfig, VmDir, ensure_fetched};
//!
//! # fn main() -> anyhow::Result<()> {
//! let dir = VmDir::locate()?;
//! let installation = ensure_fetched(&dir, &Default::default())?;
//! let config = VmConfig::new("guest").vfio_user(Path::new("vf0.sock"))?;
//! let vm = Vm::start(&dir, &installation, &config)?;
//! vm.agent().load_module("igbvf", "")?;
//! vm.shutdown()
//! # }
//! ```

mod accel;
mod agent;
mod apt;
mod cpio;
mod fetch;
mod initramfs;
mod layout;
mod logs;
mod machine;
mod modules;
mod packages;
mod qemu;
mod qmp;
pub mod scenario;
mod scenarios;
mod shell;
mod userland;

use std::path::PathBuf;

use anyhow::{Result, ensure};

pub use accel::{Accel, best as best_accel};
pub use agent::{Agent, Capture};
pub use fetch::{FetchArgs, ensure_fetched};
pub use guest_agent::protocol;
pub use initramfs::{AGENT_VARIABLE, build_static, build_static_example};
pub use layout::{DIR_VARIABLE, Installation, Kernel, Package, Qemu, QemuSource, VmDir};
pub use machine::{Vm, VmConfig, vfio_user_device};
pub use packages::NotHere;
pub use qmp::Qmp;

use crate::build;
use scenario::{SCENARIOS, Stage};

/// `cargo xtask vm ...`
#[derive(Debug, Clone, clap::Args)]
pub struct VmCommand {
    /// What to do.
    #[command(subcommand)]
    pub action: VmAction,
}

/// What `cargo xtask vm` does.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum VmAction {
    /// Fetch a stock QEMU and a stock kernel below target/vm, without root.
    Fetch(FetchArgs),
    /// Run a named scenario; without a name, list them.
    Run(RunArgs),
    /// Boot a guest with a VF of ours and a shell on this terminal.
    Shell(ShellArgs),
}

/// Arguments of `vm run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Name of the scenario.
    pub name: Option<String>,
    /// Run the guest's code this way, instead of the best that works.
    #[arg(long)]
    pub accel: Option<Accel>,
    /// Run the programs in this directory instead of building them.
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// Write the verdict as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Arguments of `vm shell`.
#[derive(Debug, Clone, clap::Args)]
pub struct ShellArgs {
    /// Give the guest the card's PF, for stock igb, instead of a VF.
    #[arg(long, conflicts_with = "vfio_user")]
    pub pf: bool,
    /// Start no card: attach the vfio-user device served at this socket; may be repeated.
    #[arg(long, value_name = "SOCKET")]
    pub vfio_user: Vec<PathBuf>,
    /// Put this Debian package into the guest, with what it needs; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub package: Vec<String>,
    /// Put this module into the guest, besides the usual ones; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub module: Vec<String>,
    /// Run the guest's code this way, instead of the best that works.
    #[arg(long)]
    pub accel: Option<Accel>,
    /// Arguments for QEMU, after `--`.
    #[arg(last = true)]
    pub qemu: Vec<String>,
}

/// Carries out a subcommand.
pub fn run(command: VmCommand) -> Result<()> {
    let dir = VmDir::locate()?;
    match command.action {
        VmAction::Fetch(arguments) => {
            let found = ensure_fetched(&dir, &arguments)?;
            match packages::Packages::ensure(&dir, &packages::TOOLS, &arguments) {
                Ok(_) => println!("tools for the guest: {}", packages::TOOLS.join(", ")),
                Err(error) if error.is::<NotHere>() => eprintln!("{error:#}"),
                Err(error) => return Err(error),
            }
            println!(
                "QEMU {} and kernel {}",
                found.qemu.version, found.kernel.release
            );
            Ok(())
        }
        VmAction::Run(RunArgs { name: None, .. }) => {
            for scenario in SCENARIOS {
                let when = if scenario.smoke { "" } else { " (--full)" };
                println!("{:16} {}{when}", scenario.name, scenario.about);
            }
            Ok(())
        }
        VmAction::Run(RunArgs {
            name: Some(name),
            accel,
            programs,
            json,
        }) => {
            let scenario = scenario::find(&name)?;
            let installation = ensure_fetched(&dir, &FetchArgs::default())?;
            let programs = match programs {
                Some(programs) => programs,
                None => build::programs(false)?,
            };
            let mut stage = Stage::new(&dir, &installation, &programs);
            stage.accel = accel;
            let report = scenario::run(scenario, &stage);
            for check in &report.checks {
                let verdict = if check.pass { "ok  " } else { "FAIL" };
                let figure = check.figure.map_or_else(String::new, |figure| {
                    format!(" {figure:.1} {}", check.unit.as_deref().unwrap_or_default())
                });
                println!("{verdict} {}{figure}: {}", check.name, check.detail);
            }
            for skipped in &report.not_applicable {
                println!("n/a  {}: {}", skipped.name, skipped.reason);
            }
            if let Some(path) = json {
                report.write_json(&path)?;
            }
            let failed = report.failures().count();
            ensure!(failed == 0, "{failed} checks of scenario {name} failed");
            Ok(())
        }
        VmAction::Shell(arguments) => {
            let installation = ensure_fetched(&dir, &FetchArgs::default())?;
            shell::run(&dir, &installation, &arguments)
        }
    }
}
