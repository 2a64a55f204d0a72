//! The host's end of the conversation with the guest agent.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_agent::protocol::{
    Bytes, Executed, Hello, Link, LinkChange, MAX_FILE, MAX_LINE, Op, Outcome, PciFunction,
    PingResult, Request, Response, TcpResult, VERSION,
};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

/// How long the agent may take beyond the time an operation itself is given.
/// An emulated guest on a busy machine is slow.
const SLACK: Duration = Duration::from_secs(60);

/// How much of a program's output an error quotes, in bytes.
const QUOTED: usize = 2000;

/// A guest agent that said hello. Clones speak to the same agent, and what
/// one of them waits for does not keep the others waiting.
#[derive(Debug, Clone)]
pub struct Agent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Requests under way, and their outcomes once they are there.
    pending: HashMap<u64, Option<Outcome>>,
    /// The newest hello, and how many there were.
    hello: Option<Hello>,
    hellos: u64,
    /// Whether a new hello is awaited: the guest was told to start anew.
    restarting: bool,
    /// Why the conversation is over.
    broken: Option<String>,
}

impl State {
    /// Takes one line of the guest.
    fn take(&mut self, line: &[u8]) -> Result<()> {
        // A guest that starts anew leaves an empty line, or half of one.
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        if let Ok(hello) = serde_json::from_slice::<Hello>(line) {
            ensure!(
                hello.version == VERSION,
                "the guest agent speaks version {}, not {VERSION}",
                hello.version
            );
            ensure!(
                self.hello.is_none() || self.restarting,
                "the guest restarted by itself"
            );
            self.restarting = false;
            self.hello = Some(hello);
            self.hellos += 1;
            for outcome in self
                .pending
                .values_mut()
                .filter(|outcome| outcome.is_none())
            {
                *outcome = Some(Outcome::Error("the guest was started anew".into()));
            }
            return Ok(());
        }
        let response: Response = match serde_json::from_slice(line) {
            Ok(response) => response,
            Err(_) if self.restarting => return Ok(()),
            Err(error) => return Err(error).context("read an answer"),
        };
        ensure!(
            (1..=self.next).contains(&response.id),
            "an answer to request {}, which nobody made",
            response.id
        );
        // One that comes too late finds nobody who waits.
        if let Some(outcome) = self.pending.get_mut(&response.id) {
            *outcome = Some(response.outcome);
        }
        Ok(())
    }
}

impl Agent {
    /// Waits for the agent's hello, at most `bound`.
    pub(super) fn connect(stream: UnixStream, bound: Duration) -> Result<Self> {
        let reader = stream.try_clone().context("duplicate a socket")?;
        stream
            .set_write_timeout(Some(SLACK))
            .context("set a timeout")?;
        let shared = Arc::new(Shared {
            writer: Mutex::new(stream),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        // Ends with QEMU, whose end of the socket is then closed.
        let listener = shared.clone();
        thread::spawn(move || listener.listen(BufReader::new(reader)));
        let agent = Self(shared);
        agent.wait_hello(1, bound)?;
        Ok(agent)
    }

    /// Waits until the agent has said hello `count` times.
    fn wait_hello(&self, count: u64, bound: Duration) -> Result<()> {
        let waiting = |state: &mut State| state.hellos < count && state.broken.is_none();
        let (state, _) = self
            .0
            .changed
            .wait_timeout_while(self.0.state(), bound, waiting)
            .expect("no holder panics");
        if let Some(reason) = &state.broken {
            bail!("wait for the guest agent: {reason}");
        }
        ensure!(
            state.hellos >= count,
            "wait for the guest agent: no answer within {} s",
            bound.as_secs()
        );
        Ok(())
    }

    /// What the agent said first.
    pub fn hello(&self) -> Hello {
        let hello = self.0.state().hello.clone();
        hello.expect("there is no agent without a hello")
    }

    /// Carries out one operation; `bound` is the time it itself may take.
    pub fn call<T: DeserializeOwned>(&self, op: Op, bound: Duration) -> Result<T> {
        let id = {
            let mut state = self.0.state();
            if let Some(reason) = &state.broken {
                bail!("the guest agent does not answer any more: {reason}");
            }
            state.next += 1;
            let id = state.next;
            state.pending.insert(id, None);
            id
        };
        let mut line = serde_json::to_vec(&Request { id, op }).context("encode a request")?;
        line.push(b'\n');
        let sent = {
            let mut writer = self.0.writer.lock().expect("no holder panics");
            writer.write_all(&line).context("send to the guest agent")
        };
        if let Err(error) = sent {
            // What follows half a line would be misread.
            self.0
                .state()
                .broken
                .get_or_insert_with(|| format!("{error:#}"));
        }
        let waiting = |state: &mut State| {
            state.broken.is_none() && state.pending.get(&id).is_some_and(Option::is_none)
        };
        let limit = bound + SLACK;
        let (mut state, _) = self
            .0
            .changed
            .wait_timeout_while(self.0.state(), limit, waiting)
            .expect("no holder panics");
        match (state.pending.remove(&id).flatten(), &state.broken) {
            (Some(Outcome::Ok(value)), _) => serde_json::from_value(value).context("read a result"),
            (Some(Outcome::Error(error)), _) => bail!("guest: {error}"),
            (None, Some(reason)) => bail!("wait for an answer: {reason}"),
            (None, None) => bail!("no answer within {} s", limit.as_secs()),
        }
    }

    fn quick<T: DeserializeOwned>(&self, op: Op) -> Result<T> {
        self.call(op, Duration::ZERO)
    }

    /// Loads a module and what it depends on; returns what was loaded now.
    pub fn load_module(&self, name: &str, params: &str) -> Result<Vec<String>> {
        self.quick(Op::LoadModule {
            name: name.into(),
            params: params.into(),
        })
    }

    /// Unloads a module.
    pub fn unload_module(&self, name: &str) -> Result<()> {
        self.quick(Op::UnloadModule { name: name.into() })
    }

    /// Runs a program of the guest to its end, whatever its exit code; it is
    /// an error if it is not done after `timeout`, and then it is killed.
    pub fn exec(&self, argv: &[&str], timeout: Duration) -> Result<Executed> {
        let op = Op::Exec {
            argv: words(argv),
            timeout_ms: millis(timeout),
        };
        let done: Executed = self.call(op, timeout)?;
        ensure!(
            !done.timed_out,
            "{} was not done after {} s and was killed: {}",
            argv.join(" "),
            timeout.as_secs_f32(),
            said(&done)
        );
        Ok(done)
    }

    /// Runs a program of the guest, which must end with 0, and returns its
    /// standard output.
    pub fn run(&self, argv: &[&str], timeout: Duration) -> Result<String> {
        let done = self.exec(argv, timeout)?;
        ensure!(
            done.code == 0,
            "{} ended with {}: {}",
            argv.join(" "),
            done.code,
            said(&done)
        );
        Ok(done.stdout)
    }

    /// Starts a program and leaves it running; returns its job's number.
    pub fn spawn(&self, argv: &[&str]) -> Result<u32> {
        self.quick(Op::Spawn {
            argv: words(argv),
            terminal: false,
        })
    }

    /// The same for a program that keeps its output back unless it goes to a
    /// terminal; lines then end as a terminal's do.
    pub fn spawn_on_terminal(&self, argv: &[&str]) -> Result<u32> {
        self.quick(Op::Spawn {
            argv: words(argv),
            terminal: true,
        })
    }

    /// Waits for a job's end, after which it is forgotten. An error if it
    /// runs longer; it then still runs.
    pub fn wait(&self, job: u32, timeout: Duration) -> Result<Executed> {
        let timeout_ms = millis(timeout);
        let done: Executed = self.call(Op::Wait { job, timeout_ms }, timeout)?;
        ensure!(
            !done.timed_out,
            "job {job} still runs after {} s: {}",
            timeout.as_secs_f32(),
            said(&done)
        );
        Ok(done)
    }

    /// Kills a job's process group; no error if it has ended.
    pub fn kill(&self, job: u32) -> Result<()> {
        self.signal(job, Signal::SIGKILL)
    }

    /// Sends a job's process group a signal; no error if it has ended.
    pub fn signal(&self, job: u32, signal: Signal) -> Result<()> {
        let signal = signal as i32;
        self.quick(Op::Signal { job, signal })
    }

    /// Writes to a job's standard input.
    pub fn input(&self, job: u32, text: &str) -> Result<()> {
        self.quick(Op::Input {
            job,
            text: text.into(),
        })
    }

    /// Waits until a job's standard output, from byte `from` on, holds
    /// `text`; returns that part of the output.
    pub fn expect(&self, job: u32, text: &str, from: usize, timeout: Duration) -> Result<String> {
        let op = Op::Expect {
            job,
            text: text.into(),
            from,
            timeout_ms: millis(timeout),
        };
        let output: String = self.call(op, timeout)?;
        ensure!(
            output.contains(text),
            "job {job} did not say {text:?} within {} s, but: {}",
            timeout.as_secs_f32(),
            tail(&output)
        );
        Ok(output)
    }

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

    /// Sends `count` echo requests of `size` bytes, `interval` apart.
    pub fn ping(
        &self,
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

    /// Reads a file of the guest.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let bytes: Bytes = self.quick(Op::ReadFile { path: path.into() })?;
        Ok(bytes.0)
    }

    /// Reads a file of the guest as text.
    pub fn read_text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read_file(path)?).into_owned())
    }

    /// Writes a file of the guest, sysfs included; `mode` is that of a file
    /// that is new.
    pub fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut pieces = content.chunks(MAX_FILE);
        let first = pieces.next().unwrap_or_default();
        for (at, piece) in std::iter::once(first).chain(pieces).enumerate() {
            let () = self.quick(Op::WriteFile {
                path: path.into(),
                content: Bytes(piece.to_vec()),
                mode,
                append: at > 0,
            })?;
        }
        Ok(())
    }

    /// Busy time of the guest's CPUs since it started, in milliseconds.
    pub(super) fn cpu_ms(&self) -> Result<u64> {
        busy_ms(&self.read_text("/proc/stat")?).context("read the guest's /proc/stat")
    }

    /// The guest's kernel log.
    pub fn kmsg(&self) -> Result<String> {
        self.quick(Op::Kmsg)
    }

    /// The guest's PCI functions.
    pub fn pci(&self) -> Result<Vec<PciFunction>> {
        self.quick(Op::Pci)
    }

    /// Asks the guest to switch itself off.
    pub(super) fn poweroff(&self) -> Result<()> {
        self.quick(Op::Poweroff)
    }

    /// Starts the guest anew and waits for its agent, at most `bound`.
    pub(super) fn reboot(&self, bound: Duration) -> Result<()> {
        let before = {
            let mut state = self.0.state();
            state.restarting = true;
            state.hellos
        };
        let () = self.quick(Op::Reboot)?;
        self.wait_hello(before + 1, bound)
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

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Takes what the guest says until it says nothing any more.
    fn listen(&self, mut stream: BufReader<UnixStream>) {
        loop {
            let line = read_line(&mut stream, None);
            let mut state = self.state();
            let taken = line.and_then(|line| state.take(&line));
            if let Err(error) = &taken {
                state.broken.get_or_insert_with(|| format!("{error:#}"));
            }
            self.changed.notify_all();
            if taken.is_err() {
                return;
            }
        }
    }
}

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}

/// What a program complained of, else what it said.
fn said(done: &Executed) -> &str {
    let (stdout, stderr) = (tail(&done.stdout), tail(&done.stderr));
    match (stdout, stderr) {
        ("", "") => "it said nothing",
        (stdout, "") => stdout,
        (_, stderr) => stderr,
    }
}

fn tail(text: &str) -> &str {
    let text = text.trim();
    let start = text.len().saturating_sub(QUOTED);
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at));
    &text[start.unwrap_or(0)..]
}

/// user, nice, system, irq, softirq and steal of the first line of /proc/stat,
/// which counts in hundredths of a second.
fn busy_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.split_whitespace();
    let ticks: Vec<u64> = (fields.next()? == "cpu")
        .then(|| fields.map_while(|field| field.parse().ok()).collect())?;
    let busy = [0, 1, 2, 5, 6, 7].map(|at| ticks.get(at).copied().unwrap_or(0));
    (ticks.len() >= 7).then(|| busy.iter().sum::<u64>() * 10)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads one line, bounded in length and, if a bound is given, in time.
pub(super) fn read_line(
    stream: &mut BufReader<UnixStream>,
    bound: Option<Duration>,
) -> Result<Vec<u8>> {
    let deadline = bound.map(|bound| Instant::now() + bound);
    let mut line = Vec::new();
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            bail!("no answer within {} s", bound.unwrap_or_default().as_secs());
        }
        stream
            .get_ref()
            .set_read_timeout(left)
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
            // It went without reading what it was sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                bail!("the other end is gone")
            }
            Err(error) => return Err(error).context("read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"{\"version\":2,\"kernel\":\"6.12\",\"uptime_ms\":900}\n";
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
            b"{\"id\":3,\"ok\":{\"code\":2,\"stdout\":\"\",\"stderr\":\"no such\"}}\n".to_vec(),
        ];
        let (agent, served) = agent(answers);
        assert_eq!(agent.hello().kernel, "6.12");
        assert_eq!(agent.load_module("igbvf", "").unwrap(), ["igbvf"]);
        let error = agent.link_up("eth0").unwrap_err();
        assert!(error.to_string().contains("ENODEV"));
        let error = agent.run(&["ip", "x"], LONG).unwrap_err().to_string();
        assert!(error.contains("ip x ended with 2: no such"), "{error}");
        let asked = served.join().unwrap();
        assert!(asked[0].contains("\"op\":\"load_module\""));
        assert!(asked[1].contains("\"up\":true"));
    }

    #[test]
    fn an_agent_that_broke_once_is_not_asked_again() {
        let (agent, served) = agent(vec![b"{\"id\":9,\"ok\":null}\n".to_vec()]);
        assert!(agent.pci().unwrap_err().to_string().contains("request 9"));
        assert!(agent.pci().unwrap_err().to_string().contains("any more"));
        served.join().unwrap();
    }

    #[test]
    fn answers_in_another_order_find_who_waits_for_them() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let served = thread::spawn(move || {
            guest.write_all(HELLO).unwrap();
            let mut lines = BufReader::new(guest.try_clone().unwrap()).lines();
            let ids: Vec<u64> = (0..2)
                .map(|_| {
                    let line = lines.next().unwrap().unwrap();
                    serde_json::from_str::<Request>(&line).unwrap().id
                })
                .collect();
            for id in ids.into_iter().rev() {
                let value = serde_json::to_value(id as u32).unwrap();
                let outcome = Outcome::Ok(value);
                let answer = serde_json::to_string(&Response { id, outcome }).unwrap();
                guest.write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
        });
        let first = Agent::connect(host, LONG).unwrap();
        let second = first.clone();
        let waiter = thread::spawn(move || second.spawn(&["a"]).unwrap());
        let mut numbers = [first.spawn(&["b"]).unwrap(), waiter.join().unwrap()];
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2]);
        served.join().unwrap();
    }

    #[test]
    fn a_guest_that_is_told_to_starts_anew_and_one_that_does_by_itself_breaks() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let served = thread::spawn(move || {
            guest.write_all(HELLO).unwrap();
            let mut lines = BufReader::new(guest.try_clone().unwrap()).lines();
            lines.next().unwrap().unwrap();
            // The rest of an answer that the end of the guest cut off.
            guest
                .write_all(b"{\"id\":1,\"ok\":null}\n{\"id\":7,\"o\n")
                .unwrap();
            guest.write_all(HELLO).unwrap();
            lines.next().unwrap().unwrap();
            guest.write_all(HELLO).unwrap();
        });
        let agent = Agent::connect(host, LONG).unwrap();
        agent.reboot(LONG).unwrap();
        let error = agent.pci().unwrap_err().to_string();
        assert!(error.contains("restarted by itself"), "{error}");
        served.join().unwrap();
    }

    #[test]
    fn busy_time_leaves_out_idle_and_waiting() {
        let stat = "cpu  10 1 5 9999 777 2 3 4 50 60\ncpu0 1 1\n";
        assert_eq!(busy_ms(stat), Some(250));
        assert_eq!(busy_ms("intr 5"), None);
        assert_eq!(busy_ms("cpu 1 2"), None);
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
        assert!(format!("{error:#}").contains("more than"), "{error:#}");
        drop(error);
        writer.join().unwrap();
    }
}
