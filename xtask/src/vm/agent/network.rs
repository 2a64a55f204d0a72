//! The guest's interfaces, and what passes through them.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use guest_agent::protocol::{Bytes, Link, LinkChange, Op, PingResult, TcpResult};

use super::{Agent, millis};

impl Agent {
    /// Sends frames as they are, through a packet socket.
    pub fn send_frames(&self, iface: &str, frames: &[Vec<u8>]) -> Result<()> {
        self.quick(Op::SendFrames {
            iface: iface.into(),
            frames: frames.iter().cloned().map(Bytes).collect(),
        })
    }

    /// Starts to capture what an interface receives, up to `max` frames;
    /// what arrives after this call returned is in it.
    pub fn begin_capture(&self, iface: &str, max: usize) -> Result<Capture> {
        let iface = iface.into();
        let number = self.quick(Op::CaptureBegin { iface, max })?;
        Ok(Capture {
            agent: self.clone(),
            number,
        })
    }

    /// Captures what an interface receives, with VLAN tags, until there are
    /// `max` frames or the time is over.
    pub fn capture(&self, iface: &str, time: Duration, max: usize) -> Result<Vec<Vec<u8>>> {
        self.begin_capture(iface, max)?.end(time)
    }

    /// All network interfaces.
    pub fn links(&self) -> Result<Vec<Link>> {
        self.quick(Op::Link)
    }

    /// The interfaces of a driver, in order of their names.
    pub fn links_of(&self, driver: &str) -> Result<Vec<Link>> {
        let mut links = self.links()?;
        links.retain(|link| link.driver.as_deref() == Some(driver));
        Ok(links)
    }

    /// Changes an interface.
    pub fn link_set(&self, name: &str, change: LinkChange) -> Result<()> {
        self.quick(Op::LinkSet {
            name: name.into(),
            change,
        })
    }

    /// Sets an interface up.
    pub fn link_up(&self, name: &str) -> Result<()> {
        self.link_set(
            name,
            LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        )
    }

    /// Sets an interface down.
    pub fn link_down(&self, name: &str) -> Result<()> {
        self.link_set(
            name,
            LinkChange {
                up: Some(false),
                ..LinkChange::default()
            },
        )
    }

    /// Sets the MAC address, `xx:xx:xx:xx:xx:xx`.
    pub fn set_mac(&self, name: &str, mac: &str) -> Result<()> {
        self.link_set(
            name,
            LinkChange {
                mac: Some(mac.into()),
                ..LinkChange::default()
            },
        )
    }

    /// Sets the MTU, in bytes.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        self.link_set(
            name,
            LinkChange {
                mtu: Some(mtu),
                ..LinkChange::default()
            },
        )
    }

    /// Adds an IPv4 address.
    pub fn set_addr(&self, name: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        self.quick(Op::SetAddr {
            name: name.into(),
            ip,
            prefix,
        })
    }

    /// Adds VLAN interface `name` on `link`; loads module 8021q.
    pub fn add_vlan(&self, link: &str, vid: u16, name: &str) -> Result<()> {
        self.load_module("8021q", "")?;
        self.quick(Op::AddVlan {
            link: link.into(),
            vid,
            name: name.into(),
        })
    }

    /// Waits for an interface to exist, with that carrier if one is named.
    pub fn wait_link(&self, name: &str, carrier: Option<bool>, timeout: Duration) -> Result<Link> {
        let timeout_ms = millis(timeout);
        self.call(
            Op::WaitLink {
                name: name.into(),
                carrier,
                timeout_ms,
            },
            timeout,
        )
    }

    /// Sends `count` echo requests of `size` bytes, one after the other.
    pub fn ping(
        &self,
        addr: Ipv4Addr,
        count: u16,
        timeout: Duration,
        size: u16,
    ) -> Result<PingResult> {
        let bound = timeout * u32::from(count);
        self.call(
            Op::Ping {
                addr,
                count,
                timeout_ms: millis(timeout),
                size,
            },
            bound,
        )
    }

    /// Opens a TCP listener that counts what it receives.
    pub fn tcp_sink(&self, port: u16) -> Result<()> {
        self.quick(Op::TcpSink { port })
    }

    /// Sends `bytes` bytes over TCP and returns what the peer counted; the
    /// whole may take `bound`, each step of it `timeout`.
    pub fn tcp_send(
        &self,
        (addr, port): (Ipv4Addr, u16),
        bytes: u64,
        timeout: Duration,
        bound: Duration,
    ) -> Result<TcpResult> {
        self.call(
            Op::TcpSend {
                addr,
                port,
                bytes,
                timeout_ms: millis(timeout),
            },
            bound,
        )
    }
}

/// A capture that runs in the guest.
#[derive(Debug)]
pub struct Capture {
    agent: Agent,
    number: u32,
}

impl Capture {
    /// Waits until the capture is full or the time is over, and returns the
    /// frames.
    pub fn end(self, time: Duration) -> Result<Vec<Vec<u8>>> {
        let op = Op::CaptureEnd {
            capture: self.number,
            timeout_ms: millis(time),
        };
        let frames: Vec<Bytes> = self.agent.call(op, time)?;
        Ok(frames.into_iter().map(|frame| frame.0).collect())
    }
}
