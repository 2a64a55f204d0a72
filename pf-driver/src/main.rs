//! The PF driver as a program.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use igb_netdev::run::{RunOptions, run};
use igb_netdev::{bind, ctl};
use iommu::backend::Place;
use mediator_protocol::Token;
use pf_driver::{PfChannel, PfDriver, PfOptions, Policy};
use serde_json::{Value, json};

/// Trusted PF driver for the 82576: creates VFs and is the arbiter of all policy.
#[derive(Debug, Parser)]
#[command(name = "pf-driver", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive a PF until SIGTERM or Ctrl-C, then disable its VFs
    #[command(
        after_help = "Example:\n  pf-driver run --device vfio-user:nic/pf.sock --mediator \
                            pf-channel.sock --vfs 2 --address 10.82.0.1/24 --control pf.ctl\n\n\
                            A policy file:\n  {\"defaults\": {\"max_mtu\": 1500},\n   \"vfs\": {\"0\": \
                            {\"mac\": \"02:82:57:60:00:10\", \"allowed_vlans\": [100]}}}"
    )]
    Run(Run),
    /// Ask or steer a running PF driver, in the words of `ip link set dev PF vf N ...`
    Ctl(Ctl),
    /// Give a PF of this machine to vfio-pci, for `run --device vfio:ADDRESS`
    Bind(bind::Target),
    /// Give it back to the driver that it had
    Unbind(bind::Target),
}

#[derive(Debug, Args)]
struct Run {
    /// The PF: vfio-user:SOCKET, or vfio:0000:BB:DD.F[,vf_token=UUID] on the kernel's VFIO
    /// (iommufd: instead of vfio: where the kernel has that)
    #[arg(long, value_name = "DEVICE")]
    device: Place,
    /// The mediator's --pf-socket; without one no VF has a channel, except with --channel mailbox
    #[arg(long, value_name = "SOCK")]
    mediator: Option<PathBuf>,
    /// The way from the VFs
    #[arg(long, value_enum, default_value = "mediated")]
    channel: Way,
    /// How many VFs to create
    #[arg(long, default_value_t = 0, value_name = "N")]
    vfs: u16,
    /// What each VF may, as JSON
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Keep what a restart needs here: a driver that comes back adopts the VFs that still run
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Reset the card although VFs run; they are told and begin anew
    #[arg(long)]
    reset: bool,
    /// MTU of the PF, and the largest that VFs may have
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    mtu: u32,
    /// Secret shared with the mediator, which keeps other processes off the channel
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    #[command(flatten)]
    options: RunOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Through the mediator, which knows who asks, limits and records it
    Mediated,
    /// Through the hardware's own mailbox, unmediated, for stock drivers on cards without a mediator
    Mailbox,
}

#[derive(Debug, Args)]
struct Ctl {
    #[command(flatten)]
    target: ctl::Target,
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Address, link, MTU, number of VFs
    Info,
    /// The driver's counters, as `ethtool -S` lists them
    Stats,
    /// SR-IOV capabilities, and every VF's configuration
    Show,
    /// Create this many VFs, or disable all with 0
    Vfs {
        /// How many
        count: u16,
    },
    /// Configure one VF
    Vf {
        /// Which VF
        vf: u16,
        #[command(subcommand)]
        change: Change,
    },
    /// Counters of one VF
    VfStats {
        /// Which VF
        vf: u16,
    },
    /// Offer a VF again that was taken off the mediator's bus
    Offer {
        /// Which VF
        vf: u16,
    },
    /// Ask the guest of a VF to let go of it, then take it
    Eject {
        /// Which VF
        vf: u16,
        /// Seconds until it is taken
        #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
        timeout: f64,
    },
    /// Ping an IPv4 address from the driver's stack
    Ping(ctl::Ping),
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Set its address; 00:00:00:00:00:00 lets it choose again
    Mac {
        /// The address
        mac: String,
    },
    /// Put it into a VLAN, which it does not see; 0 takes it out
    Vlan {
        /// VLAN id
        vid: u16,
        /// Priority, 0 to 7
        #[arg(long, default_value_t = 0)]
        qos: u8,
    },
    /// Limit what it sends, in Mbit/s; 0 is no limit
    Rate {
        /// Mbit/s
        mbits: u32,
    },
    /// Guarantee a rate, in Mbit/s: the 82576 cannot
    MinRate {
        /// Mbit/s
        mbits: u32,
    },
    /// Check the source addresses of what it sends
    Spoofchk {
        /// on or off
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
    /// Trust it: it may change its address and receive unknown unicast
    Trust {
        /// on or off
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
    /// How it sees the link
    State {
        /// auto, enable or disable
        #[arg(value_parser = ["auto", "enable", "disable"])]
        state: String,
    },
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    ctl::exit(match Arguments::parse().command {
        Command::Run(arguments) => drive(&arguments),
        Command::Ctl(arguments) => ask(&arguments),
        Command::Bind(target) => target.bind(),
        Command::Unbind(target) => target.unbind(),
    })
}

fn drive(arguments: &Run) -> anyhow::Result<()> {
    let policy = match &arguments.policy {
        Some(path) => Policy::load(path).with_context(|| format!("--policy {}", path.display()))?,
        None => Policy::default(),
    };
    let token = match &arguments.token {
        Some(path) => {
            let secret = std::fs::read(path)
                .with_context(|| format!("reading the token file {}", path.display()))?;
            Token::from_secret(&secret)
        }
        None => Token::ABSENT,
    };
    let mailbox = arguments.channel == Way::Mailbox;
    if mailbox {
        anyhow::ensure!(
            arguments.mediator.is_none(),
            "--channel mailbox goes around the mediator: leave out --mediator, or --channel"
        );
        log::warn!(
            "VFs ask through the hardware's mailbox: nobody checks, limits or records what they \
             ask before this driver does"
        );
    }
    let mut first = true;
    run(&arguments.options, || {
        let options = PfOptions {
            policy: policy.clone(),
            state: arguments.state.clone(),
            // A reset is asked for once, not each time that the card comes back.
            reset: arguments.reset && first,
            mtu: arguments.mtu,
            mailbox,
            ..PfOptions::default()
        };
        let function = arguments.device.open()?;
        let mut driver = PfDriver::probe(function, options)
            .with_context(|| format!("probing the PF at {}", arguments.device))?;
        first = false;
        if let Some(path) = &arguments.mediator {
            driver.attach_channel(PfChannel::connect(path, token))?;
        }
        if driver.num_vfs() != arguments.vfs {
            if driver.num_vfs() != 0 {
                log::info!("{} VFs run, {} are wanted", driver.num_vfs(), arguments.vfs);
                driver.sriov_configure(0)?;
            }
            driver
                .sriov_configure(arguments.vfs)
                .context("creating the VFs")?;
        }
        let how = if driver.adopted() {
            "adopted"
        } else {
            "created"
        };
        log::info!("{} VFs {how}", driver.num_vfs());
        Ok(driver)
    })
}

/// How long VFs may take to come or go: the kernel waits for whoever uses one, 25 s at most, and then there
/// is something to be said about that.
const VFS_LIMIT: Duration = Duration::from_secs(40);

fn ask(arguments: &Ctl) -> anyhow::Result<()> {
    let mut limit = ctl::ANSWER_LIMIT;
    let request = match &arguments.question {
        Question::Info => json!({"op": "info"}),
        Question::Stats => json!({"op": "stats"}),
        Question::Show => json!({"op": "show"}),
        Question::Vfs { count } => {
            limit = VFS_LIMIT;
            json!({"op": "vfs", "count": count})
        }
        Question::VfStats { vf } => json!({"op": "vf_stats", "vf": vf}),
        Question::Offer { vf } => json!({"op": "offer", "vf": vf}),
        Question::Eject { vf, timeout } => {
            json!({"op": "eject", "vf": vf, "timeout_ms": (timeout * 1000.0) as u64})
        }
        Question::Ping(ping) => {
            let request;
            (request, limit) = ping.request();
            request
        }
        Question::Vf { vf, change } => set_vf(*vf, change),
    };
    arguments.target.ask(&request, limit)?;
    Ok(())
}

fn set_vf(vf: u16, change: &Change) -> Value {
    let set = |what: &str, value: Value| json!({"op": "vf", "vf": vf, "set": what, "value": value});
    match change {
        Change::Mac { mac } => set("mac", json!(mac)),
        Change::Vlan { vid, qos } => {
            json!({"op": "vf", "vf": vf, "set": "vlan", "value": vid, "qos": qos})
        }
        Change::Rate { mbits } => set("rate", json!(mbits)),
        Change::MinRate { mbits } => set("min-rate", json!(mbits)),
        Change::Spoofchk { state } => set("spoofchk", json!(state)),
        Change::Trust { state } => set("trust", json!(state)),
        Change::State { state } => set("state", json!(state)),
    }
}
