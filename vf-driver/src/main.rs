//! The VF driver as a program.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use igb_netdev::run::{RunOptions, run};
use igb_netdev::{bind, ctl};
use iommu::backend::Place;
use serde_json::json;
use vf_driver::{ChannelKind, VfDriver, VfOptions};

/// Untrusted, transient VF driver for the 82576.
///
/// Drives a VF that a mediator offers and asks the PF driver for everything beyond its queues.
#[derive(Debug, Parser)]
#[command(name = "vf-driver", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive a VF until SIGTERM or Ctrl-C
    #[command(
        after_help = "Example:\n  vf-driver run --device vfio-user:bus/vf0.sock --address \
                            10.82.0.10/24 --control vf0.ctl"
    )]
    Run(Run),
    /// Ask a running VF driver
    Ctl(Ctl),
    /// Give a VF of this machine to vfio-pci, for `run --device vfio:ADDRESS`
    Bind(bind::Target),
    /// Give it back to the driver that it had
    Unbind(bind::Target),
}

#[derive(Debug, Args)]
struct Run {
    /// The VF: vfio-user:SOCKET, or vfio:0000:BB:DD.F[,vf_token=UUID] on the kernel's VFIO
    /// (iommufd: instead of vfio: where the kernel has that)
    #[arg(long, value_name = "DEVICE")]
    device: Place,
    /// The way to the PF
    #[arg(long, value_enum, default_value = "mediated")]
    channel: Channel,
    #[command(flatten)]
    options: RunOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Channel {
    /// Config blocks through the mediator
    Mediated,
    /// The hardware's own mailbox, as stock drivers use it; closed on the card by default
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
    /// Address, link, MTU, what the PF granted
    Info,
    /// The driver's counters
    Stats,
    /// The card's counters for this VF, as the PF driver reads them
    PfStats,
    /// Ping an IPv4 address from the driver's stack
    Ping(ctl::Ping),
    /// Send bytes over TCP to another driver's stack and compare SHA-256
    Send {
        /// The address
        addr: String,
        /// How many bytes
        #[arg(long, default_value_t = 16 << 20)]
        bytes: u64,
        /// Seed of the stream
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Ask the PF: mac, add-mac, del-mac, vlan, del-vlan, mtu, multicast, promisc
    #[command(
        after_help = "Examples:\n  request mac 02:82:57:60:00:42\n  request vlan 100\n  \
                            request multicast 01:00:5e:00:00:01,01:00:5e:00:00:02\n  \
                            request promisc unicast|multicast|all|off"
    )]
    Request {
        /// What to ask for
        what: String,
        /// The value
        value: String,
    },
    /// Reset the VF (FLR) and begin anew
    Reset,
    /// Do what a driver must not, to see it stopped: descriptor-outside, unmap-in-flight
    #[command(hide = true)]
    Misbehave {
        /// What to do
        what: String,
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
    let options = VfOptions {
        channel: match arguments.channel {
            Channel::Mediated => ChannelKind::Mediated,
            Channel::Mailbox => ChannelKind::Mailbox,
        },
        ..VfOptions::default()
    };
    run(&arguments.options, || {
        let function = arguments.device.open()?;
        VfDriver::probe(function, &options)
            .with_context(|| format!("probing the VF at {}", arguments.device))
    })
}

fn ask(arguments: &Ctl) -> anyhow::Result<()> {
    let mut limit = ctl::ANSWER_LIMIT;
    let request = match &arguments.question {
        Question::Info => json!({"op": "info"}),
        Question::Stats => json!({"op": "stats"}),
        Question::PfStats => json!({"op": "pf_stats"}),
        Question::Ping(ping) => {
            let request;
            (request, limit) = ping.request();
            request
        }
        Question::Send { addr, bytes, seed } => {
            limit = Duration::from_secs(3600);
            json!({"op": "send", "addr": addr, "bytes": bytes, "seed": seed})
        }
        Question::Request { what, value } => {
            json!({"op": "request", "what": what, "value": value})
        }
        Question::Reset => json!({"op": "reset"}),
        Question::Misbehave { what } => {
            limit = Duration::from_secs(60);
            json!({"op": "misbehave", "what": what})
        }
    };
    let answer = arguments.target.ask(&request, limit)?;
    if let Some(status) = answer["status"].as_str().filter(|status| *status != "ok") {
        anyhow::bail!("the request was not granted: {status}");
    }
    Ok(())
}
