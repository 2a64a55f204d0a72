//! The loop that owns a driver: frames, control socket, signals, loss and return of the device.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use igb_driver::netdev::NetDevice;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::control::{ControlSocket, Request};
use crate::joined::{Joined, Removed};
use crate::options::Netdev;
pub use crate::options::RunOptions;
use crate::port::TEST_ETHERTYPE;
use crate::stack::Stack;
use crate::stream::unhex;

/// How often a lost device is looked for at first, and at the slowest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The most raw frames of one control request.
const MOST_RAW: u64 = 1_000_000;

/// A driver that a program can run.
pub trait Managed: NetDevice {
    /// The function's name, such as `pf`, for log and control.
    fn name(&self) -> String;

    /// What `info` says beyond the network device's own part.
    fn describe(&self) -> Value;

    /// An operation of this driver's own; `None` if it has none of that name.
    fn control(&mut self, op: &str, request: &Value) -> Option<Result<Value, String>>;

    /// An orderly end: stop, give back what was taken.
    fn remove(self);
}

/// Run drivers that `probe` makes until SIGTERM or SIGINT. When the device is lost, `probe` is
/// called again until it is back.
///
/// # Errors
///
/// The first `probe` fails, the control socket cannot be offered, or the interface of the kernel
/// cannot be used or was removed.
pub fn run<D: Managed>(
    options: &RunOptions,
    mut probe: impl FnMut() -> anyhow::Result<D>,
) -> anyhow::Result<()> {
    let (signals, sender) = UnixStream::pair().context("making the signal pipe")?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)
            .context("listening for signals")?;
    }
    let (address, mut joined) = match options.netdev {
        Netdev::Echo => (options.address, None),
        Netdev::None => (None, None),
        Netdev::Interface(spec) => (None, Some(Joined::open(spec)?)),
    };
    let mut driver = probe()?;
    let control = match start(&mut driver, options, joined.as_mut()) {
        Ok(control) => control,
        Err(error) => {
            // What it has taken, it gives back: VFs do not outlive this attempt.
            driver.stop();
            driver.remove();
            return Err(error);
        }
    };
    let mut program = Program {
        stack: Stack::new(address),
        joined,
        control,
        signals,
    };
    loop {
        match program.serve(&mut driver)? {
            Ended::Signal => {
                log::info!("{}: told to stop", driver.name());
                driver.stop();
                driver.remove();
                return Ok(());
            }
            Ended::Removed => {
                driver.stop();
                driver.remove();
                bail!(
                    "the interface of --netdev {} was removed; make it again, then start this \
                     program again",
                    options.netdev
                );
            }
            Ended::Gone => {
                log::warn!("{} is gone: waiting for it to come back", driver.name());
                program.stack.fail_jobs("the device is gone");
                program.stack.buffers.clear();
                program.stack.device_changed();
                if let Some(joined) = &mut program.joined {
                    joined.driver_gone();
                }
                drop(driver);
            }
        }
        match program.wait_for_device(&mut probe)? {
            Some(back) => driver = back,
            None => return Ok(()),
        }
        log::info!(
            "{} is back: {}, MTU {}",
            driver.name(),
            driver.mac(),
            driver.mtu()
        );
    }
}

/// What can fail between a driver that is there and a program that runs.
fn start<D: Managed>(
    driver: &mut D,
    options: &RunOptions,
    joined: Option<&mut Joined>,
) -> anyhow::Result<Option<ControlSocket>> {
    driver.open().context("opening the network device")?;
    if let Some(joined) = joined {
        joined.follow(driver)?;
    }
    log::info!(
        "{} is up: {}, MTU {}",
        driver.name(),
        driver.mac(),
        driver.mtu()
    );
    Ok(options
        .control
        .as_deref()
        .map(ControlSocket::bind)
        .transpose()?)
}

/// Why a driver is no longer served.
enum Ended {
    Signal,
    Gone,
    Removed,
}

struct Program {
    stack: Stack,
    /// The kernel's interface, which then gets the frames instead of the stack.
    joined: Option<Joined>,
    control: Option<ControlSocket>,
    signals: UnixStream,
}

impl Program {
    fn serve<D: Managed>(&mut self, driver: &mut D) -> anyhow::Result<Ended> {
        loop {
            let changes = driver.service();
            if driver.gone() {
                return Ok(Ended::Gone);
            }
            if changes.link {
                let state = if driver.carrier() { "up" } else { "down" };
                log::info!("{}: link {state}", driver.name());
            }
            let mut more = match &mut self.joined {
                Some(joined) => {
                    if let Err(error) = joined.follow(driver) {
                        log::warn!("{error:#}");
                    }
                    match joined.exchange(driver) {
                        Ok(more) => more,
                        Err(Removed) => return Ok(Ended::Removed),
                    }
                }
                None => {
                    let more = self.stack.buffers.receive_from(driver);
                    self.stack.poll(driver) | more
                }
            };
            more |= self.control(Some(driver));
            driver.flush();
            let timeout = if more {
                Some(Duration::ZERO)
            } else {
                let stack = match self.joined {
                    Some(_) => None,
                    None => self.stack.next_timeout(),
                };
                [driver.next_timeout(), stack].into_iter().flatten().min()
            };
            let mut fds = driver.event_fds();
            fds.extend(self.joined.as_ref().and_then(Joined::event_fd));
            if wait(&self.signals, self.control.as_ref(), fds, timeout)? {
                return Ok(Ended::Signal);
            }
        }
    }

    /// Probe again until it works; `None` if told to stop meanwhile.
    fn wait_for_device<D: Managed>(
        &mut self,
        probe: &mut impl FnMut() -> anyhow::Result<D>,
    ) -> anyhow::Result<Option<D>> {
        let (mut pause, slowest) = RETRY;
        loop {
            match probe().and_then(|mut driver| {
                driver.open()?;
                Ok(driver)
            }) {
                Ok(driver) => return Ok(Some(driver)),
                Err(error) => log::debug!("not back yet: {error:#}"),
            }
            let next = Instant::now() + pause;
            pause = (pause * 2).min(slowest);
            loop {
                let more = self.control::<D>(None);
                let mut left = next.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                if more {
                    left = Duration::ZERO;
                }
                if wait(&self.signals, self.control.as_ref(), Vec::new(), Some(left))? {
                    return Ok(None);
                }
            }
        }
    }

    /// Take and answer control requests; `true` if there are more already.
    fn control<D: Managed>(&mut self, mut driver: Option<&mut D>) -> bool {
        let Self {
            stack,
            joined,
            control: Some(control),
            ..
        } = self
        else {
            return false;
        };
        let mut gone = Vec::new();
        for Request { client, body } in control.requests(&mut gone) {
            let answer = match driver.as_deref_mut() {
                Some(driver) => operate(stack, joined.as_mut(), driver, client, &body),
                None => Some(absent(&body)),
            };
            if let Some(answer) = answer {
                control.answer(client, answer);
            }
        }
        for client in gone {
            stack.drop_jobs_of(client);
        }
        for (client, answer) in stack.finished_jobs() {
            control.answer(client, answer);
        }
        control.has_more()
    }
}

/// Wait for anything to do; `true` if a signal asks to stop.
fn wait(
    signals: &UnixStream,
    control: Option<&ControlSocket>,
    driver: Vec<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> anyhow::Result<bool> {
    let control = control.map(ControlSocket::event_fds).unwrap_or_default();
    let mut fds: Vec<_> = std::iter::once(signals.as_fd())
        .chain(control)
        .chain(driver)
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    // Milliseconds, rounded up: a short wait must not become a busy loop.
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        let millis = timeout.as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(false)),
        Err(error) => Err(error).context("waiting for events"),
    }
}

/// The answer while there is no device.
fn absent(request: &Value) -> Result<Value, String> {
    match request["op"].as_str() {
        Some("info") => Ok(json!({"state": "waiting"})),
        _ => Err("the device is gone; this program waits for it to come back".to_owned()),
    }
}

/// Do what a request asks; `None` if its answer comes later, from a job.
fn operate<D: Managed>(
    stack: &mut Stack,
    joined: Option<&mut Joined>,
    driver: &mut D,
    client: u64,
    request: &Value,
) -> Option<Result<Value, String>> {
    let Some(op) = request["op"].as_str() else {
        return Some(Err("a request needs an \"op\"".to_owned()));
    };
    match op {
        "info" => Some(Ok(info(stack, joined.as_deref(), driver))),
        "stats" => Some(Ok(stats(stack, joined.as_deref(), driver))),
        "ping" => match ping_request(stack, request) {
            Ok((address, count, timeout)) => {
                stack.start_ping(client, address, count, timeout);
                None
            }
            Err(error) => Some(Err(error)),
        },
        "send" => match address(stack, request) {
            Ok(address) => {
                let bytes = request["bytes"].as_u64().unwrap_or(1 << 20);
                let seed = request["seed"].as_u64().unwrap_or(0);
                stack.start_send(client, address, bytes, seed);
                None
            }
            Err(error) => Some(Err(error)),
        },
        "raw" => Some(raw(stack, joined, driver, request)),
        "seen" => {
            let frames: Vec<_> = stack
                .buffers
                .seen()
                .iter()
                .map(|((source, destination), count)| {
                    json!({
                        "src": source.to_string(),
                        "dst": destination.to_string(),
                        "ethertype": TEST_ETHERTYPE,
                        "count": count,
                    })
                })
                .collect();
            if request["reset"] == true {
                stack.buffers.forget_seen();
            }
            Some(Ok(json!({"frames": frames})))
        }
        _ => Some(
            driver
                .control(op, request)
                .unwrap_or_else(|| Err(format!("{} has no operation {op:?}", driver.name()))),
        ),
    }
}

fn info<D: Managed>(stack: &Stack, joined: Option<&Joined>, driver: &D) -> Value {
    let mut info = json!({
        "function": driver.name(),
        "mac": driver.mac().to_string(),
        "link": driver.carrier(),
        "speed": driver.speed(),
        "mtu": driver.mtu(),
        "state": "up",
        "address": stack.address().map(|address| address.to_string()),
        "interface": joined.map(|joined| joined.spec().to_string()),
    });
    if let (Some(info), Value::Object(more)) = (info.as_object_mut(), driver.describe()) {
        info.extend(more);
    }
    info
}

fn stats<D: Managed>(stack: &Stack, joined: Option<&Joined>, driver: &D) -> Value {
    let mut all = driver.stats();
    if let Some(joined) = joined {
        all.append(joined.counters());
    }
    let mut counters: serde_json::Map<String, Value> = all
        .iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    counters.insert("stack_tx_lost".into(), json!(stack.buffers.lost()));
    json!({"counters": counters})
}

fn address(stack: &Stack, request: &Value) -> Result<Ipv4Addr, String> {
    if stack.address().is_none() {
        return Err("this program has no stack: start it with --netdev echo --address".to_owned());
    }
    let text = request["addr"]
        .as_str()
        .ok_or("the request needs an \"addr\"")?;
    text.parse()
        .map_err(|_| format!("{text:?} is no IPv4 address"))
}

fn ping_request(stack: &Stack, request: &Value) -> Result<(Ipv4Addr, u64, Duration), String> {
    let count = request["count"].as_u64().unwrap_or(4);
    let timeout = request["timeout_ms"]
        .as_u64()
        .unwrap_or(1000)
        .clamp(1, 60_000);
    Ok((
        address(stack, request)?,
        count,
        Duration::from_millis(timeout),
    ))
}

/// Send a frame as it is, `count` times. The ring's room is made by sending: a bounded number of
/// attempts without progress ends it.
fn raw<D: Managed>(
    stack: &mut Stack,
    mut joined: Option<&mut Joined>,
    driver: &mut D,
    request: &Value,
) -> Result<Value, String> {
    let frame = request["frame"]
        .as_str()
        .and_then(unhex)
        .ok_or("the request needs a \"frame\" in hex digits")?;
    let count = request["count"].as_u64().unwrap_or(1).min(MOST_RAW);
    let mut sent = 0;
    let give_up = Instant::now() + Duration::from_secs(5);
    while sent < count {
        if stack.buffers.send(driver, &frame) {
            sent += 1;
            continue;
        }
        driver.flush();
        if driver.gone() || Instant::now() > give_up {
            break;
        }
        // Reclaims what the card has sent; received frames wait in the buffers.
        driver.service();
        match &mut joined {
            // Its removal is seen again by the loop.
            Some(joined) => drop(joined.receive_from(driver)),
            None => drop(stack.buffers.receive_from(driver)),
        }
    }
    driver.flush();
    Ok(json!({"sent": sent}))
}
