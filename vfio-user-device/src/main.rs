//! The program that serves emulated cards over vfio-user.

#![forbid(unsafe_code)]

mod cli;
mod trace_diff;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use env_logger::Env;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vfio_user_device::capture::Capture;
use vfio_user_device::control_socket::ControlSocket;
use vfio_user_device::sockets::{SocketDir, Sockets};
use vfio_user_device::{Card, MailboxMode, Trace, capture_interfaces};

use crate::cli::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    if let Some([a, b]) = arguments.trace_diff.as_deref() {
        return match trace_diff::run(a, b, &arguments.diff) {
            Ok(same) => ExitCode::from(u8::from(!same)),
            Err(error) => {
                eprintln!("Error: {error:#}");
                ExitCode::from(2)
            }
        };
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    raise_descriptor_limit();
    // Before anything is made that a signal would leave behind.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot listen for signals")?;
    serve(arguments, &mut signals)
}

/// Nine functions per card, each with a client's files and eventfds, come near the usual soft limit.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        log::warn!("the limit of open files stays as it is: {errno}");
    }
}

fn serve(arguments: &Arguments, signals: &mut Signals) -> anyhow::Result<()> {
    if arguments.mailbox.0 == MailboxMode::Open {
        log::warn!(
            "the mailbox is open: VFs reach the PF driver past any mediator, unlimited and \
             unaudited"
        );
    }
    let capture = match &arguments.capture {
        Some(path) => Some(Capture::create(path, &capture_interfaces(arguments.cards))?),
        None => None,
    };
    let trace = match &arguments.trace {
        Some(path) => Some(Trace::create(path, arguments.trace_frames)?),
        None => None,
    };
    let socket_dir = arguments
        .socket_dir
        .as_deref()
        .context("a card needs --socket-dir DIR")?;
    for rule in &arguments.inject {
        log::warn!("faults are injected: {rule}");
    }
    let mut dirs = vec![SocketDir::claim(socket_dir)?];
    if arguments.cards > 1 {
        for index in 0..arguments.cards {
            dirs.push(SocketDir::claim(&socket_dir.join(format!("card{index}")))?);
        }
    }
    // With several cards the first claim is that of the directory above theirs.
    let of_cards = dirs.split_off(usize::from(arguments.cards > 1));
    let mut cards = Vec::new();
    for index in 0..arguments.cards {
        let options = arguments.card(index, capture.clone(), trace.clone());
        cards.push(Card::new(options).with_context(|| format!("card {index}"))?);
    }
    let mut sockets = Vec::new();
    for (card, dir) in cards.iter().zip(of_cards) {
        sockets.push(Sockets::serve(card, dir)?);
    }
    let control = match &arguments.control {
        Some(path) => Some(ControlSocket::serve(path, &cards)?),
        None => None,
    };
    for socket in &sockets {
        // Whatever RUST_LOG says: scripts wait for it.
        eprintln!("ready: listening on {}", socket.pf_socket().display());
    }
    if let Some(signal) = signals.forever().next() {
        let name = if signal == SIGINT {
            "SIGINT"
        } else {
            "SIGTERM"
        };
        log::info!("{name}: every client is disconnected");
    }
    cards
        .iter()
        .for_each(|card: &Arc<Card>| card.request_release());
    drop((control, sockets, cards));
    if let Some(capture) = capture {
        capture.finish();
    }
    if let Some(trace) = trace {
        trace.finish();
    }
    Ok(())
}
