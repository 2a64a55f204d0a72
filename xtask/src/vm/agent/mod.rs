//! The host's end of the conversation with the guest agent; what it can be asked for is in the
//! files beside this one.

mod line;
mod network;
mod programs;
mod system;

use std::collections::HashMap;
use std::io::{BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guest_agent::protocol::{Hello, Op, Outcome, Request, Response, VERSION};
use serde::de::DeserializeOwned;

pub(super) use line::read_line;
pub use network::Capture;

/// How long the agent may take beyond the time an operation itself is given.
/// An emulated guest on a busy machine is slow.
const SLACK: Duration = Duration::from_secs(60);

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
    pub(in crate::vm) fn connect(stream: UnixStream, bound: Duration) -> Result<Self> {
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

    /// Asks the guest to switch itself off.
    pub(in crate::vm) fn poweroff(&self) -> Result<()> {
        self.quick(Op::Poweroff)
    }

    /// Starts the guest anew and waits for its agent, at most `bound`.
    pub(in crate::vm) fn reboot(&self, bound: Duration) -> Result<()> {
        let before = {
            let mut state = self.0.state();
            state.restarting = true;
            state.hellos
        };
        let () = self.quick(Op::Reboot)?;
        self.wait_hello(before + 1, bound)
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;

    use super::*;

    const HELLO: &[u8] = b"{\"version\":3,\"kernel\":\"6.12\",\"uptime_ms\":900}\n";
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
