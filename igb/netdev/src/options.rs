//! The options that the PF driver's and the VF driver's programs share.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use netif::Spec;
use smoltcp::wire::IpCidr;

/// What stands above the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Netdev {
    /// A TCP/IP stack that answers pings, echoes TCP port 7 and hashes what TCP port 9 receives.
    Echo,
    /// Nothing: only raw frames through the control socket.
    None,
    /// The kernel's own network stack.
    Interface(Spec),
}

impl FromStr for Netdev {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "echo" => Ok(Self::Echo),
            "none" => Ok(Self::None),
            _ => text
                .parse()
                .map(Self::Interface)
                .map_err(|_| format!("{text:?} is none of echo, none, tap:NAME and packet:NAME")),
        }
    }
}

impl fmt::Display for Netdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo => f.write_str("echo"),
            Self::None => f.write_str("none"),
            Self::Interface(spec) => spec.fmt(f),
        }
    }
}

/// The options that the PF driver's and the VF driver's programs share.
#[derive(Debug, Clone, clap::Args)]
pub struct RunOptions {
    /// What uses the network device: echo, none, tap:NAME or packet:NAME
    ///
    /// echo: a TCP/IP stack in this program, at --address, that answers pings, echoes TCP port 7 and
    /// hashes what TCP port 9 receives.
    /// none: nothing but raw frames through the control socket.
    /// tap:NAME: the kernel's own stack, through a TAP interface that gets the function's address,
    /// MTU and link state; you give it IP addresses and take it up with `ip`.
    /// packet:NAME: the same where /dev/net/tun is closed to you: NAME is one end of a veth pair whose
    /// other end the kernel's stack uses (inside `unshare --user --map-root-user --net`, for one).
    #[arg(
        long,
        value_name = "NETDEV",
        default_value = "echo",
        verbatim_doc_comment
    )]
    pub netdev: Netdev,
    /// IPv4 address of the built-in stack, for example 10.82.0.10/24
    #[arg(long, value_name = "ADDR/LEN", value_parser = parse_address)]
    pub address: Option<IpCidr>,
    /// Offer a control socket here, for the `ctl` commands
    #[arg(long, value_name = "SOCK")]
    pub control: Option<PathBuf>,
}

fn parse_address(text: &str) -> Result<IpCidr, String> {
    text.parse()
        .map_err(|()| format!("{text:?} is no address with its prefix, such as 10.82.0.10/24"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netdev_reads_back_as_it_was_written() {
        for text in ["echo", "none", "tap:vf0", "packet:veth0"] {
            let netdev: Netdev = text.parse().expect(text);
            assert_eq!(netdev.to_string(), text);
        }
        for text in ["", "tap", "tap:", "tap:sixteen-chars-xx", "Echo"] {
            let error = text.parse::<Netdev>().expect_err(text);
            assert!(error.contains("tap:NAME"), "{error}");
        }
    }
}
