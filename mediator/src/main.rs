//! The mediator's program.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, Parser, Subcommand};
use iommu::backend::Place;
use mediator::audit::Audit;
use mediator::control::{self, ControlAnswer, ControlRequest, EJECT_TIMEOUT};
use mediator::kernel_nic::KernelNic;
use mediator::limits::Limits;
use mediator::nic::{Nic, SocketNic};
use mediator::{Backchannel, Mediator, MediatorOptions, SlotInfo};
use mediator_protocol::Token;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Uid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The hypervisor's part of an SR-IOV pair.
///
/// It offers the VFs of a card to virtual machines, each on a vfio-user socket of its own, and
/// carries what a VF asks to the PF driver: validated, bounded, rate-limited and logged. It can
/// refuse, never grant.
#[derive(Parser)]
#[command(name = "mediator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a mediator until SIGTERM or SIGINT.
    #[command(after_long_help = "\
Example:
  vfio-user-device --socket-dir run/nic
  mediator run --nic run/nic --socket-dir run/vm --pf-socket run/pf-channel.sock --control run/ctl.sock
  pf-driver run --device vfio-user:run/nic/pf.sock --mediator run/pf-channel.sock --vfs 2
  qemu-system-x86_64 ... -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"run/vm/vf0.sock\"}}'

With VFs of this machine's own 82576, each bound to vfio-pci:
  mediator run --vf vfio:0000:01:10.0,vf_token=UUID --vf vfio:0000:01:10.2,vf_token=UUID --socket-dir run/vm ...
  pf-driver run --device vfio:0000:01:00.0,vf_token=UUID --mediator run/pf-channel.sock --vfs 2

Such a card's own mailbox between VF and PF cannot be closed. The mediator fences it: nothing that a
client writes gets there; `mediator ctl list` tells which VFs are fenced. Doorbells are registers of
the device, so each is a message; frames and descriptors go straight to the client's memory.

A VF's socket appears in --socket-dir once the PF driver has offered the VF and the card has it, and
goes when the VF is ejected, revoked, or disabled by the PF driver.

Limits file (JSON; every key may be left out):
  {\"requests_per_second\": 1000, \"burst\": 256, \"outstanding\": 8,
   \"mailbox_deadline_ms\": 500, \"slots\": 64, \"dma_mib\": 16384}
The last is for VFs of hardware: memory that a client may have mapped at a time, in MiB.

Logs go to stderr; RUST_LOG=debug shows more.")]
    Run(RunArgs),
    /// Ask a running mediator.
    Ctl(CtlArgs),
}

#[derive(Args)]
#[command(group(ArgGroup::new("card").required(true).args(["nic", "vf"])))]
struct RunArgs {
    /// Directory of the card's sockets (vf0.sock, ...).
    #[arg(long, value_name = "DIR")]
    nic: Option<PathBuf>,
    /// A VF of this machine on the kernel's VFIO: vfio:0000:BB:DD.F, with ,vf_token=UUID where its PF
    /// is on vfio-pci too (iommufd: instead of vfio: where the kernel has that). Once for each VF of
    /// one PF; they may appear later.
    #[arg(long, value_name = "DEVICE")]
    vf: Vec<Place>,
    /// Directory in which the VFs' sockets for the virtual machines appear (vf0.sock, ...); made
    /// with mode 0700 if it does not exist.
    #[arg(long, value_name = "DIR")]
    socket_dir: PathBuf,
    /// Socket to which the PF driver connects. One PF driver at a time, of the same user.
    #[arg(long, value_name = "SOCK")]
    pf_socket: PathBuf,
    /// Limits of every VF, as JSON; see below.
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
    /// Append one JSON line per request, reset, tenant and refusal to this file. Never contains
    /// what a request says.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Only a PF driver that was started with a file of the same content may connect.
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// Socket for `mediator ctl`.
    #[arg(long, value_name = "SOCK")]
    control: Option<PathBuf>,
}

#[derive(Args)]
struct CtlArgs {
    /// The mediator's control socket: what it was given as --control.
    #[arg(long, value_name = "SOCK", global = true)]
    control: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Subcommand)]
enum CtlCommand {
    /// Show every slot.
    List,
    /// Ask the guest to let go of a VF; take it away when the time is up. Returns when it is gone.
    Eject {
        /// Slot number, which is the VF's.
        slot: u16,
        /// How long the guest may take.
        #[arg(long, value_name = "SECONDS", default_value_t = EJECT_TIMEOUT.as_secs_f64())]
        timeout: f64,
    },
    /// Take a VF away at once. Returns when it is gone.
    Revoke {
        /// Slot number, which is the VF's.
        slot: u16,
    },
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let result = match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Ctl(args) => ctl(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mediator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> Result<()> {
    // First, so that a signal during start-up is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot catch signals")?;
    let limits = match &args.limits {
        Some(path) => Limits::from_file(path)?,
        None => Limits::default(),
    };
    let mut options = MediatorOptions::new(card(args.nic.as_deref(), args.vf, limits)?);
    options.socket_dir = Some(args.socket_dir);
    options.pf_socket = Some(args.pf_socket);
    options.control_socket = args.control;
    options.limits = limits;
    if let Some(path) = &args.token {
        options.token = Some(read_token(path)?);
    }
    if let Some(path) = &args.audit {
        options.audit = Audit::to_file(path)
            .with_context(|| format!("cannot write the audit log {}", path.display()))?;
    }
    let mediator = Mediator::start(options)?;
    log::info!("ready");
    if let Some(signal) = signals.forever().next() {
        log::info!("stopping on signal {signal}");
    }
    drop(mediator);
    Ok(())
}

/// The card that --nic or --vf name.
fn card(directory: Option<&Path>, vfs: Vec<Place>, limits: Limits) -> Result<Arc<dyn Nic>> {
    let Some(directory) = directory else {
        warn_of_locked_memory(vfs.len() as u64 * (u64::from(limits.dma_mib) << 20));
        return Ok(Arc::new(KernelNic::new(vfs, limits).context("--vf")?));
    };
    if !directory.is_dir() {
        bail!(
            "--nic {}: no such directory; start the card first (vfio-user-device --socket-dir)",
            directory.display()
        );
    }
    Ok(Arc::new(SocketNic::new(directory)))
}

/// What clients have mapped is locked, all of it on this process's account.
fn warn_of_locked_memory(wanted: u64) {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    if limit < wanted && !Uid::effective().is_root() {
        log::warn!(
            "this process may lock {limit} bytes (ulimit -l), and the clients of its VFs may have {wanted} \
             mapped: one that has much leaves the others little. Raise the one, or lower \"dma_mib\" in \
             the file of --limits"
        );
    }
}

fn read_token(path: &Path) -> Result<Token> {
    let content = std::fs::read(path)
        .with_context(|| format!("cannot read the token file {}", path.display()))?;
    if content.trim_ascii().is_empty() {
        bail!("the token file {} is empty", path.display());
    }
    Ok(Token::from_secret(&content))
}

fn ctl(args: CtlArgs) -> Result<()> {
    let request = match args.command {
        CtlCommand::List => ControlRequest::List {},
        CtlCommand::Eject { slot, timeout } => {
            let timeout = Duration::try_from_secs_f64(timeout)
                .context("--timeout is not a time in seconds")?;
            let timeout_ms = u64::try_from(timeout.as_millis()).context("--timeout is too long")?;
            ControlRequest::Eject {
                slot,
                timeout_ms: Some(timeout_ms),
            }
        }
        CtlCommand::Revoke { slot } => ControlRequest::Revoke { slot },
    };
    let control = args
        .control
        .context("--control SOCK is missing: name the socket that the mediator was given")?;
    let answer = control::ask(&control, request)?;
    if args.json {
        println!("{}", serde_json::to_string(&answer)?);
    }
    match answer {
        ControlAnswer::Error { error } => bail!("{error}"),
        ControlAnswer::Slots { slots } if !args.json => print_slots(&slots),
        ControlAnswer::Absent { slot, graceful } if !args.json => {
            println!(
                "slot {slot} is absent ({})",
                if graceful {
                    "the guest let go"
                } else {
                    "taken away"
                }
            );
        }
        _ => {}
    }
    Ok(())
}

fn print_slots(slots: &[SlotInfo]) {
    println!(
        "{:>4}  {:16}  {:9}  {:>10}  {:6}  {:7}  {:4}  {:7}  SOCKET",
        "SLOT", "SERIAL", "STATE", "GENERATION", "CLIENT", "PF", "LINK", "MAILBOX"
    );
    for slot in slots {
        println!(
            "{:>4}  {:16}  {:9}  {:>10}  {:6}  {:7}  {:4}  {:7}  {}",
            slot.slot,
            slot.serial,
            slot.state,
            slot.generation,
            if slot.attached { "yes" } else { "no" },
            if slot.pf { "present" } else { "gone" },
            if slot.link_up { "up" } else { "down" },
            slot.backchannel.map_or("-", Backchannel::name),
            slot.socket
                .as_deref()
                .map_or_else(|| "-".into(), |path| path.display().to_string()),
        );
    }
}
