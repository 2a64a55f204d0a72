//! The wire side of the card: what stands behind its one physical port.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;
use std::{fmt, io};

use netif::Kind;

mod datagram;
mod interface;
mod pcap;

pub use datagram::Datagram;
pub use interface::KernelInterface;
pub use pcap::{Pace, Playback};

/// The longest frame an uplink carries: what the card's receive unit takes with VLAN tag and
/// without FCS, rounded up.
pub const MAX_FRAME: usize = 16 * 1024;

/// Where frames of the card's physical port go and come from. Nothing here blocks.
pub trait Uplink: Send + Sync {
    /// Send a frame; one that cannot go now is lost, as on a wire.
    fn send(&self, frame: &[u8]) -> Result<(), UplinkLoss>;

    /// The next frame that has arrived, copied into `buffer` (at least [`MAX_FRAME`] bytes); its
    /// length, or `None` if there is none now. Frames that do not fit are lost.
    fn receive(&self, buffer: &mut [u8]) -> Option<usize>;

    /// Readable while a frame may be waiting; `None` if frames never come on their own.
    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When the next frame is due, for an uplink that plays frames at their times.
    fn next_due(&self) -> Option<Instant> {
        None
    }

    /// Whether it waits for [`Self::begin`].
    fn waits(&self) -> bool {
        false
    }

    /// Called once a function of the card can receive: an uplink that plays frames begins.
    fn begin(&self) {}
}

/// Why an uplink did not take a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkLoss {
    /// Nobody is at the other end.
    NoPeer,
    /// The other end does not keep up.
    Full,
    /// The system refused it.
    Failed,
}

/// What the user asked for behind the card's port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UplinkSpec {
    /// Nothing: frames for the wire are dropped.
    #[default]
    None,
    /// A TAP interface of this name.
    Tap(String),
    /// A packet socket on the interface of this name.
    Packet(String),
    /// A unix datagram socket bound here; see [`Datagram`].
    Unix(PathBuf),
    /// Frames of a pcap or pcapng file; see [`Playback`].
    Pcap(PathBuf, Pace),
}

/// An uplink that the user asked for and that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no uplink: say none, tap:NAME, packet:NAME, unix:PATH, pcap:FILE or pcap:FILE,fast"
)]
pub struct UnknownUplink(String);

impl FromStr for UplinkSpec {
    type Err = UnknownUplink;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownUplink(text.to_owned());
        if text == "none" {
            return Ok(Self::None);
        }
        match text.split_once(':') {
            Some((_, "")) | None => Err(unknown()),
            Some(("tap", name)) => Ok(Self::Tap(name.to_owned())),
            Some(("packet", name)) => Ok(Self::Packet(name.to_owned())),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("pcap", path)) => Ok(match path.strip_suffix(",fast") {
                Some("") => return Err(unknown()),
                Some(path) => Self::Pcap(path.into(), Pace::Fast),
                None => Self::Pcap(path.into(), Pace::Recorded),
            }),
            Some(_) => Err(unknown()),
        }
    }
}

impl fmt::Display for UplinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tap(name) => write!(f, "tap:{name}"),
            Self::Packet(name) => write!(f, "packet:{name}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Pcap(path, Pace::Recorded) => write!(f, "pcap:{}", path.display()),
            Self::Pcap(path, Pace::Fast) => write!(f, "pcap:{},fast", path.display()),
        }
    }
}

impl UplinkSpec {
    /// The uplink of card `index` where several cards share one command line: `{card}` stands for
    /// the card's number.
    pub fn for_card(&self, index: usize) -> Self {
        let fill = |text: &str| text.replace("{card}", &index.to_string());
        let fill_path = |path: &Path| PathBuf::from(fill(&path.to_string_lossy()));
        match self {
            Self::None => Self::None,
            Self::Tap(name) => Self::Tap(fill(name)),
            Self::Packet(name) => Self::Packet(fill(name)),
            Self::Unix(path) => Self::Unix(fill_path(path)),
            Self::Pcap(path, pace) => Self::Pcap(fill_path(path), *pace),
        }
    }

    /// Open it.
    pub fn open(&self) -> Result<Box<dyn Uplink>, UplinkError> {
        Ok(match self {
            Self::None => Box::new(Unplugged),
            Self::Tap(name) => Box::new(KernelInterface::open(Kind::Tap, name)?),
            Self::Packet(name) => Box::new(KernelInterface::open(Kind::Packet, name)?),
            Self::Unix(path) => Box::new(Datagram::bind(path)?),
            Self::Pcap(path, pace) => Box::new(Playback::open(path, *pace)?),
        })
    }
}

/// Why an uplink could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The interface name is not one.
    #[error(transparent)]
    InterfaceName(#[from] netif::NotAName),
    /// The interface cannot be used.
    #[error(transparent)]
    Interface(#[from] netif::OpenError),
    /// A live process has the datagram socket.
    #[error("{0} belongs to a running process: choose another path or end that process")]
    InUse(PathBuf),
    /// The datagram socket could not be made.
    #[error("cannot bind the datagram socket {path}: {source}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of frames could not be opened.
    #[error("cannot open {path} to play it: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no capture of Ethernet frames.
    #[error("cannot play {path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// No uplink: a port without a cable.
struct Unplugged;

impl Uplink for Unplugged {
    fn send(&self, _frame: &[u8]) -> Result<(), UplinkLoss> {
        Err(UplinkLoss::NoPeer)
    }

    fn receive(&self, _buffer: &mut [u8]) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_reads_back_as_it_was_written() {
        for text in [
            "none",
            "tap:tap0",
            "packet:veth0",
            "unix:/run/x.sock",
            "pcap:a.pcap",
            "pcap:a,b.pcap,fast",
        ] {
            let spec: UplinkSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), text);
        }
        for text in ["", "tap:", "tap", "udp:1", "pcap:,fast", "None"] {
            assert!(text.parse::<UplinkSpec>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn each_card_gets_its_own_uplink() {
        let spec: UplinkSpec = "unix:/run/up{card}".parse().expect("a spec");
        assert_eq!(spec.for_card(3), UplinkSpec::Unix("/run/up3".into()));
    }
}
