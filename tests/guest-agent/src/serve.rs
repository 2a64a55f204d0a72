//! The conversation with the host.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use guest_agent::PORT_NAME;
use guest_agent::protocol::{Bytes, Hello, MAX_LINE, Op, Outcome, Request, Response, VERSION};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::RebootMode;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use serde::Serialize;
use serde_json::Value;

use crate::frames::{self, Captures};
use crate::jobs::{self, Jobs};
use crate::{link, modules, ping, system, tcp};

const PORT_TIMEOUT: Duration = Duration::from_secs(60);

/// What outlives a request.
#[derive(Default)]
struct Guest {
    jobs: Jobs,
    captures: Captures,
}

/// Answers the host until it asks for the end or goes away.
pub(crate) fn run() -> Result<RebootMode> {
    let port = open_port()?;
    let mut lines = BufReader::new(port.try_clone().context("duplicate the port")?);
    let port = Arc::new(Mutex::new(port));
    // Blocks until the host has the port open, so that a later end of file
    // means that the host went away, and the guest with it. A guest that was
    // started anew may have left half a line.
    send_after(b"\n", &port, &hello()?)?;
    let guest = Arc::new(Guest::default());
    loop {
        let mut line = Vec::new();
        let count = lines
            .by_ref()
            .take(MAX_LINE as u64)
            .read_until(b'\n', &mut line)
            .context("read from the host")?;
        if count == 0 {
            println!("guest-agent: the host went away");
            return Ok(RebootMode::RB_POWER_OFF);
        }
        if !line.ends_with(b"\n") {
            bail!("the host sent a line of more than {MAX_LINE} bytes");
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                let outcome = Outcome::Error(format!("bad request: {error}"));
                send(&port, &Response { id: 0, outcome })?;
                continue;
            }
        };
        let end = match request.op {
            Op::Poweroff => Some(RebootMode::RB_POWER_OFF),
            Op::Reboot => Some(RebootMode::RB_AUTOBOOT),
            _ => None,
        };
        if let Some(end) = end {
            let outcome = Outcome::Ok(Value::Null);
            let id = request.id;
            send(&port, &Response { id, outcome })?;
            return Ok(end);
        }
        let (guest, port) = (guest.clone(), port.clone());
        thread::spawn(move || answer(&guest, &port, request));
    }
}

/// Carries out one request, beside others.
fn answer(guest: &Guest, port: &Mutex<File>, Request { id, op }: Request) {
    let done = catch_unwind(AssertUnwindSafe(|| carry_out(guest, op)));
    let outcome = match done {
        Ok(Ok(value)) => Outcome::Ok(value),
        Ok(Err(error)) => Outcome::Error(format!("{error:#}")),
        Err(_) => Outcome::Error("the agent panicked: its console says where".into()),
    };
    if let Err(error) = send(port, &Response { id, outcome }) {
        println!("guest-agent: {error:#}");
    }
}

fn send(port: &Mutex<File>, message: &impl Serialize) -> Result<()> {
    send_after(b"", port, message)
}

fn send_after(start: &[u8], port: &Mutex<File>, message: &impl Serialize) -> Result<()> {
    let mut line = start.to_vec();
    serde_json::to_writer(&mut line, message).context("encode a message")?;
    line.push(b'\n');
    let mut port = port.lock().expect("no holder panics");
    port.write_all(&line).context("write to the host")
}

fn hello() -> Result<Hello> {
    let uptime = system::read_text("/proc/uptime")?;
    let seconds: f64 = uptime
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .context("/proc/uptime holds no number")?;
    Ok(Hello {
        version: VERSION,
        kernel: system::read_text("/proc/sys/kernel/osrelease")?,
        uptime_ms: (seconds * 1000.0) as u64,
    })
}

/// Opens the agent's port, waiting for the kernel to announce it: ports are
/// added, then named, some time after their controller.
fn open_port() -> Result<File> {
    let events = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )
    .context("open the kernel's event socket")?;
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, 1)).context("listen to kernel events")?;
    let deadline = Instant::now() + PORT_TIMEOUT;
    loop {
        if let Some(path) = find_port() {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("open {}", path.display()));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) => bail!("no virtio-serial port is named {PORT_NAME}"),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for kernel events"),
        }
        let mut event = [0u8; 8192];
        match recv(events.as_raw_fd(), &mut event, MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => {}
            Err(errno) => return Err(errno).context("read kernel events"),
        }
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    for port in ports.flatten() {
        let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if name.trim() == PORT_NAME {
            return Some(PathBuf::from("/dev").join(port.file_name()));
        }
    }
    None
}

fn carry_out(guest: &Guest, op: Op) -> Result<Value> {
    let millis = Duration::from_millis;
    match op {
        Op::LoadModule { name, params } => json(modules::load(&name, &params)?),
        Op::UnloadModule { name } => json(modules::unload(&name)?),
        Op::Exec { argv, timeout_ms } => json(jobs::exec(&argv, millis(timeout_ms))?),
        Op::Spawn { argv, terminal } => json(guest.jobs.spawn(&argv, terminal)?),
        Op::Wait { job, timeout_ms } => json(guest.jobs.wait(job, millis(timeout_ms))?),
        Op::Signal { job, signal } => json(guest.jobs.signal(job, signal)?),
        Op::Input { job, text } => json(guest.jobs.input(job, &text)?),
        Op::Expect {
            job,
            text,
            from,
            timeout_ms,
        } => json(guest.jobs.expect(job, &text, from, millis(timeout_ms))?),
        Op::Link => json(link::list()?),
        Op::LinkSet { name, change } => json(link::set(&name, &change)?),
        Op::SetAddr { name, ip, prefix } => json(link::set_addr(&name, ip, prefix)?),
        Op::AddVlan { link, vid, name } => json(link::add_vlan(&link, vid, &name)?),
        Op::WaitLink {
            name,
            carrier,
            timeout_ms,
        } => json(link::wait(&name, carrier, millis(timeout_ms))?),
        Op::Ping {
            addr,
            count,
            timeout_ms,
            size,
        } => json(ping::run(addr, count, millis(timeout_ms), size)?),
        Op::TcpSink { port } => json(tcp::sink(port)?),
        Op::TcpSend {
            addr,
            port,
            bytes,
            timeout_ms,
        } => json(tcp::send(addr, port, bytes, millis(timeout_ms))?),
        Op::ReadFile { path } => json(Bytes(system::read_file(&path)?)),
        Op::WriteFile {
            path,
            content,
            mode,
            append,
        } => json(system::write_file(&path, &content.0, mode, append)?),
        Op::SendFrames { iface, frames } => json(frames::send_all(&iface, &frames)?),
        Op::CaptureBegin { iface, max } => json(guest.captures.begin(&iface, max)?),
        Op::CaptureEnd {
            capture,
            timeout_ms,
        } => json(guest.captures.end(capture, millis(timeout_ms))?),
        Op::Kmsg => json(system::kmsg()?),
        Op::Pci => json(system::pci()?),
        // Their answer must be out before they are begun.
        Op::Poweroff | Op::Reboot => bail!("this ends the agent"),
    }
}

fn json(result: impl Serialize) -> Result<Value> {
    serde_json::to_value(result).context("encode a result")
}
