//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use igb::MacAddress;
use vfio_user_device::capture::Capture;
use vfio_user_device::inject::{HELP as INJECT_HELP, InjectSpec};
use vfio_user_device::uplink::UplinkSpec;
use vfio_user_device::{CardOptions, Doorbells, MailboxMode, Trace};

const EXAMPLES: &str = "\
Examples:
  A card, with every frame and every register access recorded:
    vfio-user-device --socket-dir nic --capture frames.pcapng --trace registers.txt

  A card whose wire is a TAP interface that was made for this user:
    sudo ip tuntap add dev nic0 mode tap user $USER && sudo ip link set nic0 up
    vfio-user-device --socket-dir nic --uplink tap:nic0

  Two cards on one wire (the second answers once it has heard the first):
    vfio-user-device --socket-dir a --uplink unix:wire &
    vfio-user-device --socket-dir b --uplink unix:wire.peer

  What the card has seen so far (drops by reason, DMA faults with their cause):
    vfio-user-device --socket-dir nic --control card.ctl &
    echo '{\"op\":\"stats\"}' | nc -U card.ctl

  A run that goes wrong now and then, always in the same places, and what it did differently:
    vfio-user-device --socket-dir nic --trace b.txt --inject interrupt-lost,vf0,probability=0.01
    vfio-user-device --trace-diff a.txt b.txt --function vf0

  A VF for a guest, without a mediator, once a PF driver has enabled it (the memory must be a
  memfd, shared):
    qemu-system-x86_64 -machine q35,memory-backend=m0 -m 512 \\
      -object memory-backend-memfd,id=m0,size=512M,share=on -device pcie-root-port,id=rp1 \\
      -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"nic/vf0.sock\"},\"bus\":\"rp1\"}'

Logs go to stderr; RUST_LOG=debug shows more. SIGTERM or SIGINT ends the program in good order.";

/// Serves an emulated SR-IOV NIC, register-compatible with the Intel 82576, over vfio-user.
///
/// DIR/pf.sock is the physical function; DIR/vf0.sock, DIR/vf1.sock, ... are the virtual functions
/// and exist while the driver of the PF has them enabled. Each serves one client at a time: a
/// driver, a mediator, or QEMU. No root, no KVM, no kernel module.
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{INJECT_HELP}\n\n{EXAMPLES}"))]
pub(crate) struct Arguments {
    /// Directory of the sockets; made with mode 0700 if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "trace_diff")]
    pub(crate) socket_dir: Option<PathBuf>,

    /// Serve this many cards, each in a directory of its own: DIR/card0, DIR/card1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cards)]
    pub(crate) cards: usize,

    /// The PF's address, as in its NVM; card N has this one plus 16 times N
    #[arg(long, value_name = "MAC", default_value = "02:82:57:60:00:00", value_parser = mac)]
    pub(crate) mac: MacAddress,

    /// What stands behind the card's port: none, tap:NAME, packet:NAME, unix:PATH or
    /// pcap:FILE[,fast]
    ///
    /// unix:PATH binds a datagram socket, one frame per datagram; frames go to whoever sent the
    /// last one, and until then to PATH.peer. pcap:FILE plays a capture into the card once a
    /// function can receive, with its recorded gaps, or with ",fast" as fast as the card takes it.
    /// With --cards, "{card}" stands for the card's number.
    #[arg(
        long,
        value_name = "UPLINK",
        default_value = "none",
        verbatim_doc_comment
    )]
    pub(crate) uplink: UplinkSpec,

    /// Record every frame at every port into this pcapng file
    #[arg(long, value_name = "FILE")]
    pub(crate) capture: Option<PathBuf>,

    /// Record every access to registers and configuration space by name and fields, and every
    /// interrupt, reset, mailbox message, DMA fault and link change: one line each
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,

    /// Put a line for every frame at every port into the trace, too
    #[arg(long, requires = "trace")]
    pub(crate) trace_frames: bool,

    /// Let something go wrong: KIND[=ARGUMENT][,SELECTOR]..., as below; may be given several times
    #[arg(long, value_name = "RULE")]
    pub(crate) inject: Vec<InjectSpec>,

    /// How doorbells are rung: shared or trap, or per kind as in pf=shared,vf=trap
    ///
    /// Shared: clients map the queue pages and ring by a store. Trap: every doorbell is a message.
    /// QEMU waits for the answer to every write of a function that shares pages.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "shared",
        verbatim_doc_comment
    )]
    pub(crate) doorbell: Doorbells,

    /// Whether VFs reach the PF through the card's own mailbox: closed or open
    ///
    /// Closed, the mailbox of every VF is dead, and only a mediator carries requests. Open is for
    /// pairs without a mediator, such as stock igb and igbvf.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "closed",
        verbatim_doc_comment
    )]
    pub(crate) mailbox: Mailbox,

    /// How long VFs and their traffic go on after the PF lost its client; fractions are fine
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) pf_grace: Duration,

    /// Serve a control socket here: a JSON object per line, {"op":"stats"}, {"op":"link","up":false}
    /// or {"op":"inject","rule":"flr,vf0"}
    #[arg(long, value_name = "SOCK")]
    pub(crate) control: Option<PathBuf>,

    /// Serve nothing: compare two traces, and show the first place in which the runs differ
    ///
    /// A and B are files that --trace wrote, or logs of QEMU's own igb (-d
    /// trace:e1000e_core_read,trace:e1000e_core_write -D FILE). Each function is compared on its own,
    /// access by access. Times are never a difference, nor how often a register was polled; nor, but
    /// with --strict, are statistics, clocks, doorbells and addresses of memory. Ends with 0 if there
    /// is no difference, with 1 if there is, with 2 if a trace cannot be read.
    #[arg(long, num_args = 2, value_names = ["A", "B"], help_heading = "Comparing traces")]
    pub(crate) trace_diff: Option<Vec<PathBuf>>,

    #[command(flatten)]
    pub(crate) diff: DiffArguments,
}

/// How traces are compared.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Comparing traces")]
pub(crate) struct DiffArguments {
    /// Compare only this function, such as pf or vf0; may be given several times
    #[arg(long, value_name = "NAME", requires = "trace_diff")]
    pub(crate) function: Vec<String>,

    /// Leave a register out (EITR, EITR[3]), or a group: statistics, time, doorbells, interrupts
    #[arg(long, value_name = "REGISTER", requires = "trace_diff")]
    pub(crate) ignore: Vec<String>,

    /// Leave nothing out
    #[arg(long, requires = "trace_diff")]
    pub(crate) strict: bool,

    /// Lines shown before the difference
    #[arg(long, value_name = "N", default_value_t = 5, requires = "trace_diff")]
    pub(crate) context: usize,

    /// List all differences, too, one line each
    #[arg(long, requires = "trace_diff")]
    pub(crate) all: bool,

    /// Print all differences as JSON
    #[arg(long, requires = "trace_diff")]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Mailbox(pub(crate) MailboxMode);

impl FromStr for Mailbox {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "closed" => Ok(Self(MailboxMode::Closed)),
            "open" => Ok(Self(MailboxMode::Open)),
            _ => Err("say closed or open".to_owned()),
        }
    }
}

fn cards(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(cards @ 1..=64) => Ok(cards),
        _ => Err("1 to 64 cards can be served".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "say a number of seconds, such as 10 or 0.5".to_owned())
}

fn mac(text: &str) -> Result<MacAddress, String> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or_else(|| "say six bytes, as in 02:82:57:60:00:00".to_owned())?;
    }
    let mac = MacAddress::new(bytes);
    if parts.next().is_some() || !mac.is_valid_unicast() {
        return Err("that is not the address of one station".to_owned());
    }
    Ok(mac)
}

impl Arguments {
    /// What card `index` is made with.
    pub(crate) fn card(
        &self,
        index: usize,
        capture: Option<Arc<Capture>>,
        trace: Option<Arc<Trace>>,
    ) -> CardOptions {
        CardOptions {
            index,
            of: self.cards,
            mac: CardOptions::mac_of(self.mac, index),
            mailbox: self.mailbox.0,
            doorbells: self.doorbell,
            uplink: self.uplink.for_card(index),
            pf_grace: self.pf_grace,
            capture,
            inject: self.inject.clone(),
            trace,
            ..CardOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        for bad in [
            ["--cards", "0"],
            ["--mac", "ff:ff:ff:ff:ff:ff"],
            ["--mac", "02:82:57:60:00"],
            ["--pf-grace", "-1"],
            ["--pf-grace", "inf"],
            ["--uplink", "tap"],
            ["--doorbell", "vf=maybe"],
            ["--mailbox", "ajar"],
            ["--inject", "flr,vf9"],
            ["--ignore", "EITR"],
        ] {
            let line = ["vfio-user-device", "--socket-dir", "d"]
                .into_iter()
                .chain(bad);
            assert!(Arguments::try_parse_from(line).is_err(), "{bad:?}");
        }
        let line = [
            "vfio-user-device",
            "--socket-dir",
            "d",
            "--pf-grace",
            "0.25",
        ];
        let arguments = Arguments::try_parse_from(line).expect("fractions are fine");
        assert_eq!(arguments.pf_grace, Duration::from_millis(250));
    }
}
