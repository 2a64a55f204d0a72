//! Network interfaces: listing, changing, waiting.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_agent::protocol::{Link, LinkChange};
use nix::net::if_::if_nametoindex;
use nix::poll::PollTimeout;

use crate::netlink::{LinkEvents, Message, NLM_F_CREATE, NLM_F_EXCL, RTM_NEWADDR, RTM_NEWLINK};

const IFF_UP: u32 = 0x1;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const AF_INET: u8 = 2;

/// struct ifinfomsg.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..16].copy_from_slice(&change.to_ne_bytes());
    out
}

fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| format!("interface {name}"))
}

/// Applies `change` in one request, so the kernel takes all of it in its own
/// order (address and MTU before the flags).
pub(crate) fn set(name: &str, change: &LinkChange) -> Result<()> {
    let (mut flags, mut mask) = (0, 0);
    for (bit, wanted) in [
        (IFF_UP, change.up),
        (IFF_PROMISC, change.promisc),
        (IFF_ALLMULTI, change.allmulti),
    ] {
        if let Some(on) = wanted {
            mask |= bit;
            flags |= if on { bit } else { 0 };
        }
    }
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfo(index(name)?, flags, mask));
    if let Some(mac) = &change.mac {
        message = message.attribute(IFLA_ADDRESS, &parse_mac(mac)?);
    }
    if let Some(mtu) = change.mtu {
        message = message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    message.send().with_context(|| format!("change {name}"))
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .with_context(|| format!("{text:?} is no MAC address"))
}

/// Adds an IPv4 address.
pub(crate) fn set_addr(name: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
    ensure!(prefix <= 32, "prefix length {prefix} exceeds 32");
    let mut fixed = [AF_INET, prefix, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index(name)?.to_ne_bytes());
    Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &fixed)
        .attribute(IFA_LOCAL, &ip.octets())
        .attribute(IFA_ADDRESS, &ip.octets())
        .send()
        .with_context(|| format!("add {ip}/{prefix} to {name}"))
}

/// Adds VLAN interface `name` on top of `link`.
pub(crate) fn add_vlan(link: &str, vid: u16, name: &str) -> Result<()> {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0))
        .attribute(IFLA_LINK, &index(link)?.to_ne_bytes())
        .attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())
        .nested(IFLA_LINKINFO, |m| {
            m.attribute(IFLA_INFO_KIND, b"vlan")
                .nested(IFLA_INFO_DATA, |m| {
                    m.attribute(IFLA_VLAN_ID, &vid.to_ne_bytes())
                })
        })
        .send()
        .with_context(|| format!("add VLAN {vid} on {link}"))
}

/// All interfaces, by name.
pub(crate) fn list() -> Result<Vec<Link>> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .context("read /sys/class/net")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names.iter().filter_map(|name| read(name)).collect())
}

/// One interface; `None` if it does not exist (any more).
fn read(name: &str) -> Option<Link> {
    let dir = Path::new("/sys/class/net").join(name);
    let text = |file: &str| Some(fs::read_to_string(dir.join(file)).ok()?.trim().to_owned());
    let target = |link: &str| {
        let path = fs::canonicalize(dir.join(link)).ok()?;
        Some(path.file_name()?.to_str()?.to_owned())
    };
    Some(Link {
        name: name.to_owned(),
        mac: text("address")?,
        operstate: text("operstate")?,
        // Reading the carrier of an interface that is down fails with EINVAL.
        carrier: text("carrier").map(|carrier| carrier == "1"),
        mtu: text("mtu")?.parse().ok()?,
        driver: target("device/driver"),
        device: target("device"),
        statistics: statistics(&dir),
    })
}

fn statistics(dir: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(dir.join("statistics")).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let value = fs::read_to_string(entry.path()).ok()?;
            Some((
                entry.file_name().into_string().ok()?,
                value.trim().parse().ok()?,
            ))
        })
        .collect()
}

/// Waits until `name` exists and has `carrier`.
pub(crate) fn wait(name: &str, carrier: Option<bool>, timeout: Duration) -> Result<Link> {
    let events = LinkEvents::listen()?;
    let deadline = Instant::now() + timeout;
    loop {
        let link = read(name);
        let state = link.as_ref().map(|link| link.carrier);
        match link {
            Some(link) if carrier.is_none() || link.carrier == carrier => return Ok(link),
            _ => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if !events.wait(left)? {
            match state {
                None => bail!("interface {name} did not appear"),
                Some(now) => bail!("{name} has carrier {now:?}, not {carrier:?}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_need_six_bytes() {
        assert_eq!(
            parse_mac("02:00:5e:10:ff:01").unwrap(),
            [2, 0, 0x5e, 0x10, 0xff, 1]
        );
        for bad in [
            "",
            "02:00:5e:10:ff",
            "02:00:5e:10:ff:01:02",
            "02:00:5e:10:ff:1g",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_loopback_interface_is_listed() {
        let links = list().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(lo.driver, None);
        assert!(lo.statistics.contains_key("rx_packets"));
    }

    #[test]
    fn waiting_for_what_never_comes_ends() {
        let error = wait("nothere0", None, Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("nothere0"));
    }
}
