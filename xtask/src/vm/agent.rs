//! The host's end of the conversation with the guest agent.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_agent::protocol::{
    Hello, Link, LinkChange, MAX_LINE, Op, Outcome, PciFunction, PingResult, Request, Response,
    RunResult, TcpResult, VERSION,
};
use serde::de::DeserializeOwned;

/// How long the agent may take beyond the time an operation itself is given.
/// An emulated guest on a busy machine is slow.
const SLACK: Duration = Duration::from_secs(60);

/// A guest agent that said hello.
#[derive(Debug)]
pub struct Agent {
    stream: BufReader<UnixStream>,
    hello: Hello,
    next: u64,
    broken: bool,
}

impl Agent {
    /// Waits for the agent's hello, at most `bound`.
    pub(super) fn connect(stream: UnixStream, bound: Duration) -> Result<Self> {
        let mut stream = BufReader::new(stream);
        let line = read_line(&mut stream, bound).context("wait for the guest agent")?;
        let hello: Hello = serde_json::from_slice(&line).context("read the agent's hello")?;
        ensure!(
            hello.version == VERSION,
            "the guest agent speaks version {}, not {VERSION}",
            hello.version
        );
        Ok(Self {
            stream,
            hello,
            next: 1,
            broken: false,
        })
    }

    /// What the agent said first.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Carries out one operation; `bound` is the time it itself may take.
    pub fn call<T: DeserializeOwned>(&mut self, op: Op, bound: Duration) -> Result<T> {
        ensure!(!self.broken, "the guest agent failed to answer before");
        let id = self.next;
        self.next += 1;
        let mut line = serde_json::to_vec(&Request { id, op }).context("encode a request")?;
        line.push(b'\n');
        // An answer that is late, or in parts, must not be taken for another's.
        self.broken = true;
        let stream = self.stream.get_mut();
        stream
            .set_write_timeout(Some(SLACK))
            .context("set a timeout")?;
        stream.write_all(&line).context("send to the guest agent")?;
        let line = read_line(&mut self.stream, bound + SLACK).context("wait for an answer")?;
        let response: Response = serde_json::from_slice(&line).context("read an answer")?;
        ensure!(
            response.id == id,
            "request {id} got the answer to {}",
            response.id
        );
        self.broken = false;
        match response.outcome {
            Outcome::Ok(value) => serde_json::from_value(value).context("read a result"),
            Outcome::Error(error) => bail!("guest: {error}"),
        }
    }

    fn quick<T: DeserializeOwned>(&mut self, op: Op) -> Result<T> {
        self.call(op, Duration::ZERO)
    }

    /// Loads a module and what it depends on; returns what was loaded now.
    pub fn load_module(&mut self, name: &str, params: &str) -> Result<Vec<String>> {
        self.quick(Op::LoadModule {
            name: name.into(),
            params: params.into(),
        })
    }

    /// Unloads a module.
    pub fn unload_module(&mut self, name: &str) -> Result<()> {
        self.quick(Op::UnloadModule { name: name.into() })
    }

    /// Runs a program of the guest; it is killed after `timeout`.
    pub fn run(&mut self, argv: &[&str], timeout: Duration) -> Result<RunResult> {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        self.call(
            Op::Run {
                argv,
                timeout_ms: millis(timeout),
            },
            timeout,
        )
    }

    /// All network interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.quick(Op::Link)
    }

    /// The interfaces of a driver, in order of their names.
    pub fn links_of(&mut self, driver: &str) -> Result<Vec<Link>> {
        let mut links = self.links()?;
        links.retain(|link| link.driver.as_deref() == Some(driver));
        Ok(links)
    }

    /// Changes an interface.
    pub fn link_set(&mut self, name: &str, change: LinkChange) -> Result<()> {
        self.quick(Op::LinkSet {
            name: name.into(),
            change,
        })
    }

    /// Sets an interface up.
    pub fn link_up(&mut self, name: &str) -> Result<()> {
        self.link_set(
            name,
            LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        )
    }

    /// Sets an interface down.
    pub fn link_down(&mut self, name: &str) -> Result<()> {
        self.link_set(
            name,
            LinkChange {
                up: Some(false),
                ..LinkChange::default()
            },
        )
    }

    /// Sets the MAC address, `xx:xx:xx:xx:xx:xx`.
    pub fn set_mac(&mut self, name: &str, mac: &str) -> Result<()> {
        self.link_set(
            name,
            LinkChange {
                mac: Some(mac.into()),
                ..LinkChange::default()
            },
        )
    }

    /// Sets the MTU, in bytes.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<()> {
        self.link_set(
            name,
            LinkChange {
                mtu: Some(mtu),
                ..LinkChange::default()
            },
        )
    }

    /// Adds an IPv4 address.
    pub fn set_addr(&mut self, name: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        self.quick(Op::SetAddr {
            name: name.into(),
            ip,
            prefix,
        })
    }

    /// Adds VLAN interface `name` on `link`; loads module 8021q.
    pub fn add_vlan(&mut self, link: &str, vid: u16, name: &str) -> Result<()> {
        self.load_module("8021q", "")?;
        self.quick(Op::AddVlan {
            link: link.into(),
            vid,
            name: name.into(),
        })
    }

    /// Waits for an interface to exist, with that carrier if one is named.
    pub fn wait_link(
        &mut self,
        name: &str,
        carrier: Option<bool>,
        timeout: Duration,
    ) -> Result<Link> {
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

    /// Sends `count` echo requests of `size` bytes, `interval` apart.
    pub fn ping(
        &mut self,
        addr: Ipv4Addr,
        count: u16,
        interval: Duration,
        timeout: Duration,
        size: u16,
    ) -> Result<PingResult> {
        let (interval_ms, timeout_ms) = (millis(interval), millis(timeout));
        let bound = interval.max(timeout) * u32::from(count);
        self.call(
            Op::Ping {
                addr,
                count,
                interval_ms,
                timeout_ms,
                size,
            },
            bound,
        )
    }

    /// Opens a TCP listener that counts what it receives.
    pub fn tcp_sink(&mut self, port: u16) -> Result<()> {
        self.quick(Op::TcpSink { port })
    }

    /// Sends `bytes` bytes over TCP and returns what the peer counted; the
    /// whole may take `bound`, each step of it `timeout`.
    pub fn tcp_send(
        &mut self,
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

    /// Reads a file of the guest.
    pub fn read_file(&mut self, path: &str) -> Result<String> {
        self.quick(Op::ReadFile { path: path.into() })
    }

    /// Writes a file of the guest, sysfs included.
    pub fn write_file(&mut self, path: &str, content: &str) -> Result<()> {
        self.quick(Op::WriteFile {
            path: path.into(),
            content: content.into(),
        })
    }

    /// The guest's kernel log.
    pub fn kmsg(&mut self) -> Result<String> {
        self.quick(Op::Kmsg)
    }

    /// The guest's PCI functions.
    pub fn pci(&mut self) -> Result<Vec<PciFunction>> {
        self.quick(Op::Pci)
    }

    /// Asks the guest to switch itself off.
    pub(super) fn poweroff(&mut self) -> Result<()> {
        self.quick(Op::Poweroff)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads one line, bounded in time and length.
pub(super) fn read_line(stream: &mut BufReader<UnixStream>, bound: Duration) -> Result<Vec<u8>> {
    let deadline = Instant::now() + bound;
    let mut line = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer within {} s", bound.as_secs());
        stream
            .get_ref()
            .set_read_timeout(Some(left))
            .context("set a timeout")?;
        let room = (MAX_LINE - line.len()) as u64;
        match stream.by_ref().take(room).read_until(b'\n', &mut line) {
            Ok(0) => bail!("the other end is gone"),
            Ok(_) if line.ends_with(b"\n") => return Ok(line),
            Ok(_) => ensure!(
                line.len() < MAX_LINE,
                "a line of more than {MAX_LINE} bytes"
            ),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const HELLO: &[u8] = b"{\"version\":1,\"kernel\":\"6.12\",\"uptime_ms\":900}\n";
    const LONG: Duration = Duration::from_secs(20);

    /// An agent whose guest sends `answers`, one for each request.
    fn agent(answers: Vec<Vec<u8>>) -> (Agent, thread::JoinHandle<Vec<String>>) {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let served = thread::spawn(move || {
            guest.write_all(HELLO).unwrap();
            let mut lines = BufReader::new(guest.try_clone().unwrap());
            let mut asked = Vec::new();
            for answer in answers {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                asked.push(line);
                guest.write_all(&answer).unwrap();
            }
            asked
        });
        (Agent::connect(host, LONG).unwrap(), served)
    }

    #[test]
    fn results_and_errors_of_the_guest_arrive_as_such() {
        let answers = vec![
            b"{\"id\":1,\"ok\":[\"igbvf\"]}\n".to_vec(),
            b"{\"id\":2,\"error\":\"change eth0: ENODEV\"}\n".to_vec(),
        ];
        let (mut agent, served) = agent(answers);
        assert_eq!(agent.hello().kernel, "6.12");
        assert_eq!(agent.load_module("igbvf", "").unwrap(), ["igbvf"]);
        let error = agent.link_up("eth0").unwrap_err();
        assert!(error.to_string().contains("ENODEV"));
        let asked = served.join().unwrap();
        assert!(asked[0].contains("\"op\":\"load_module\""));
        assert!(asked[1].contains("\"up\":true"));
    }

    #[test]
    fn an_agent_that_broke_once_is_not_asked_again() {
        let (mut agent, served) = agent(vec![b"{\"id\":9,\"ok\":null}\n".to_vec()]);
        assert!(agent.pci().unwrap_err().to_string().contains("answer to 9"));
        assert!(agent.pci().unwrap_err().to_string().contains("before"));
        served.join().unwrap();
    }

    #[test]
    fn a_guest_that_dies_or_stays_silent_ends_the_wait() {
        let (host, guest) = UnixStream::pair().unwrap();
        drop(guest);
        assert!(format!("{:#}", Agent::connect(host, LONG).unwrap_err()).contains("gone"));
        let (host, _guest) = UnixStream::pair().unwrap();
        let error = Agent::connect(host, Duration::from_millis(30)).unwrap_err();
        assert!(format!("{error:#}").contains("no answer"));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let writer = thread::spawn(move || {
            let chunk = vec![b'x'; 64 << 10];
            while guest.write_all(&chunk).is_ok() {}
        });
        let error = Agent::connect(host, LONG).unwrap_err();
        assert!(format!("{error:#}").contains("more than"));
        writer.join().unwrap();
    }
}
