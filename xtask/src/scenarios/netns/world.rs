//! The stations: namespaces, interfaces, and the programs between them.

use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::program::Program;
use crate::rig::{CALL_LIMIT, Rig, RigOptions};

/// How long a change may take to reach the kernel's interfaces.
pub(super) const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// Port of the sinks.
const PORT: &str = "7777";
/// Bytes of the file that is sent.
const FILE_BYTES: u64 = 8 << 20;

/// How a function is joined to the kernel's stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wiring {
    /// TAP interfaces.
    Tap,
    /// Packet sockets on one end of veth pairs.
    Packet,
}

impl fmt::Display for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tap => "tap",
            Self::Packet => "packet",
        })
    }
}

/// A network stack of the kernel's behind one port of the card.
#[derive(Debug)]
pub(super) struct Station {
    /// The name of its interface, and of the process that it is joined to but for the card's.
    pub(super) interface: &'static str,
    pub(super) address: &'static str,
    pub(super) namespace: Arc<Namespace>,
    sink: Option<Program>,
}

/// Which station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Uplink,
    Pf,
    Vf(u16),
}

impl At {
    pub(super) const ALL: [At; 4] = [At::Uplink, At::Pf, At::Vf(0), At::Vf(1)];

    fn index(self) -> usize {
        match self {
            At::Uplink => 0,
            At::Pf => 1,
            At::Vf(vf) => 2 + usize::from(vf),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Uplink => f.write_str("uplink"),
            At::Pf => f.write_str("PF"),
            At::Vf(vf) => write!(f, "VF{vf}"),
        }
    }
}

/// Everything, started.
pub(super) struct World {
    // The sinks end before the rig, the rig before its namespaces.
    stations: Vec<Station>,
    pub(super) rig: Rig,
    pub(super) wiring: Wiring,
    own: PathBuf,
    file: PathBuf,
}

impl World {
    pub(super) fn new(wiring: Wiring, programs: &Path) -> anyhow::Result<Self> {
        let home = Arc::new(Namespace::new()?);
        let sibling = || home.sibling().map(Arc::new);
        let places = [
            ("up0", "10.9.0.1", home.clone()),
            ("pf0", "10.9.0.2", sibling()?),
            ("vf0", "10.9.0.3", sibling()?),
            ("vf1", "10.9.0.4", sibling()?),
        ];
        let stations = places.map(|(interface, address, namespace)| Station {
            interface,
            address,
            namespace,
            sink: None,
        });
        let rig = Rig::new(RigOptions {
            programs: programs.into(),
            vfs: 2,
            policy: json!({"defaults": {"max_mtu": 9000}, "vfs": {}}),
            capture: false,
            card_arguments: vec!["--uplink".into(), wiring.device("up0")],
        })?;
        let file = rig.path().join("file");
        let mut world = Self {
            stations: stations.into(),
            rig,
            wiring,
            own: std::env::current_exe().context("finding this program")?,
            file,
        };
        world.set_up()?;
        Ok(world)
    }

    fn set_up(&mut self) -> anyhow::Result<()> {
        // Random, so that no part of it can stand in for another.
        let random = std::fs::File::open("/dev/urandom").context("opening /dev/urandom")?;
        let mut file = std::fs::File::create(&self.file)?;
        std::io::copy(&mut std::io::Read::take(random, FILE_BYTES), &mut file)?;
        file.flush()?;
        for at in At::ALL {
            // Where IPv6 is absent or cannot be switched off, its frames are counted like others.
            let off = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
            let _ = self.namespace(at).run("sh", &["-c", off]);
            self.make_interface(at)?;
        }
        let [uplink, pf, vf0, vf1] = At::ALL.map(|at| self.namespace(at).clone());
        self.rig.run_inside("card", uplink);
        self.rig.run_inside("pf", pf);
        self.rig.run_inside("vf0", vf0);
        self.rig.run_inside("vf1", vf1);
        self.rig.set_pf_netdev(&self.wiring.device("pf0"));
        self.rig.set_pf_arguments(&["--mtu", "9000"]);
        self.rig.set_vf_netdev(0, &self.wiring.device("vf0"));
        self.rig.set_vf_netdev(1, &self.wiring.device("vf1"));
        self.rig.start_all()?;
        for at in At::ALL {
            self.configure(at)?;
            let station = &self.stations[at.index()];
            let mut command = station.namespace.command(&self.own);
            command.args(["inside", "sink", PORT]);
            let name = format!("sink-{}", station.interface);
            let sink = Program::start(&name, &mut command, self.rig.path())?;
            sink.wait_for_line(0, "listening", CHANGE_LIMIT)?;
            self.stations[at.index()].sink = Some(sink);
        }
        Ok(())
    }

    /// Make the interface of a station, for a program to be joined to.
    pub(super) fn make_interface(&self, at: At) -> anyhow::Result<()> {
        let Station {
            interface,
            namespace,
            ..
        } = self.station(at);
        match self.wiring {
            Wiring::Tap => namespace.ip(&["tuntap", "add", "dev", interface, "mode", "tap"])?,
            Wiring::Packet => {
                let end = cable_end(interface);
                namespace.ip(&[
                    "link", "add", interface, "type", "veth", "peer", "name", &end,
                ])?;
                if at == At::Uplink {
                    // A wire splits no segments.
                    namespace.ip(&["link", "set", "dev", interface, "gso_max_segs", "1"])?;
                }
                namespace.ip(&["link", "set", "dev", &end, "up"])?
            }
        };
        Ok(())
    }

    /// Give the interface of a station its IP address, and take it up. What a TAP gets from its driver
    /// the other end of a packet socket's cable is given by hand.
    pub(super) fn configure(&self, at: At) -> anyhow::Result<()> {
        let Station {
            interface,
            address,
            namespace,
            ..
        } = self.station(at);
        if self.wiring == Wiring::Packet && at != At::Uplink {
            let info = self.info(at)?;
            let mac = info["mac"].as_str().context("a MAC address")?;
            let mtu = info["mtu"].to_string();
            namespace.ip(&["link", "set", "dev", interface, "address", mac, "mtu", &mtu])?;
        }
        let address = format!("{address}/24");
        namespace.ip(&["addr", "replace", &address, "dev", interface])?;
        namespace.ip(&["link", "set", "dev", interface, "up"])?;
        Ok(())
    }

    pub(super) fn station(&self, at: At) -> &Station {
        &self.stations[at.index()]
    }

    pub(super) fn namespace(&self, at: At) -> &Arc<Namespace> {
        &self.station(at).namespace
    }

    /// What the driver behind a station says of itself.
    pub(super) fn info(&self, at: At) -> anyhow::Result<Value> {
        self.driver(at, &json!({"op": "info"}))
    }

    /// Ask the driver behind a station.
    pub(super) fn driver(&self, at: At, request: &Value) -> anyhow::Result<Value> {
        match at {
            At::Uplink => bail!("no driver stands behind the uplink"),
            At::Pf => self.rig.pf_control().call(request, CALL_LIMIT),
            At::Vf(vf) => self.rig.vf_control(vf).call(request, CALL_LIMIT),
        }
    }

    /// The driver's counter of that name.
    pub(super) fn counter(&self, at: At, name: &str) -> anyhow::Result<u64> {
        let stats = self.driver(at, &json!({"op": "stats"}))?;
        stats["counters"][name]
            .as_u64()
            .with_context(|| format!("{at}'s driver has no counter {name}"))
    }

    /// The kernel's view of a station's interface.
    pub(super) fn link(&self, at: At) -> anyhow::Result<Value> {
        let Station {
            interface,
            namespace,
            ..
        } = self.station(at);
        let shown = namespace.ip(&["-s", "-j", "link", "show", "dev", interface])?;
        let mut links: Vec<Value> = serde_json::from_str(&shown).context("ip's JSON")?;
        links.pop().context("ip shows no link")
    }

    /// Whether the kernel sees the link of a station up.
    pub(super) fn carrier(&self, at: At) -> anyhow::Result<bool> {
        let link = self.link(at)?;
        let flags = link["flags"].as_array().context("flags")?;
        Ok(!flags.iter().any(|flag| flag == "NO-CARRIER"))
    }

    /// This program inside a station's namespace.
    fn inside(&self, at: At, arguments: &[&str]) -> Command {
        let mut command = self.namespace(at).command(&self.own);
        command
            .arg("inside")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn answer(&self, at: At, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.inside(at, arguments).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{at}: {}: {}", arguments.join(" "), said.trim());
        }
        serde_json::from_slice(&output.stdout).context("an answer in JSON")
    }

    /// Replies to three pings from one station to another, with `size` bytes of payload.
    pub(super) fn ping(&self, from: At, to: At, size: usize) -> anyhow::Result<u64> {
        let size = size.to_string();
        self.ping_address(from, self.station(to).address, &["--size", &size])
    }

    /// Replies to pings from a station to an address.
    pub(super) fn ping_address(&self, from: At, to: &str, more: &[&str]) -> anyhow::Result<u64> {
        let answer = self.answer(from, &[&["ping", to], more].concat())?;
        answer["received"].as_u64().context("a number of replies")
    }

    /// One ping after the other until a reply comes.
    pub(super) fn reaches(&self, from: At, to: At) -> anyhow::Result<()> {
        let address = self.station(to).address;
        eventually(&format!("{from} reaches {to}"), || {
            let once = ["--count", "1", "--timeout-ms", "250"];
            Ok(self
                .ping_address(from, address, &once)
                .is_ok_and(|replies| replies == 1))
        })
    }

    /// Send the file from one station to an address of another; MiB/s.
    pub(super) fn send(&self, from: At, to: &str) -> anyhow::Result<f64> {
        let file = self.file.to_string_lossy();
        let answer = self.answer(from, &["send", &file, to, PORT])?;
        ensure!(
            answer["same"] == true,
            "what {to} got from {from} differs: {answer}"
        );
        ensure!(answer["bytes"] == FILE_BYTES, "{answer}");
        let seconds = answer["seconds"].as_f64().context("a time")?;
        Ok(FILE_BYTES as f64 / f64::from(1 << 20) / seconds)
    }

    /// Send the file from one station to another; MiB/s.
    pub(super) fn send_to(&self, from: At, to: At) -> anyhow::Result<f64> {
        self.send(from, self.station(to).address)
            .with_context(|| format!("{from} to {to}"))
    }

    /// Send a frame as it is.
    pub(super) fn raw(&self, from: At, frame: &[u8]) -> anyhow::Result<()> {
        let hex = crate::inside::hex(frame);
        let interface = self.station(from).interface;
        self.answer(from, &["raw", interface, &hex]).map(drop)
    }

    /// Watch a station for `most` test frames, from now on.
    pub(super) fn watch(&self, at: At, most: usize) -> anyhow::Result<Watch> {
        let most = most.to_string();
        let interface = self.station(at).interface;
        let mut child = self
            .inside(at, &["seen", interface, "--most", &most])
            .spawn()?;
        let stderr = child.stderr.take().context("piped")?;
        let mut stderr = BufReader::new(stderr);
        let mut line = String::new();
        stderr.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "watching {at}: {line}");
        Ok(Watch {
            child,
            _stderr: stderr,
        })
    }

    /// The MAC address of a station's interface.
    pub(super) fn mac(&self, at: At) -> anyhow::Result<[u8; 6]> {
        let link = self.link(at)?;
        let text = link["address"].as_str().context("an address")?;
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(text.split(':')) {
            *to = u8::from_str_radix(from, 16)?;
        }
        Ok(mac)
    }

    /// What every program said last.
    pub(super) fn last_words(&mut self) -> String {
        self.rig
            .programs()
            .map(|program| format!("\n-- {} said last:\n{}", program.name(), program.tail()))
            .collect()
    }
}

impl Wiring {
    /// What joins a program to the station of that interface.
    fn device(self, interface: &str) -> String {
        match self {
            Self::Tap => format!("tap:{interface}"),
            Self::Packet => format!("packet:{}", cable_end(interface)),
        }
    }
}

/// The program's end of a station's cable.
pub(super) fn cable_end(interface: &str) -> String {
    format!("d{interface}")
}

/// Somebody who watches for frames.
pub(super) struct Watch {
    child: Child,
    _stderr: BufReader<ChildStderr>,
}

impl Watch {
    /// The frames seen, in hex, when all have come or the time is over.
    pub(super) fn frames(self) -> anyhow::Result<Vec<String>> {
        let output = self.child.wait_with_output()?;
        let answer: Value = serde_json::from_slice(&output.stdout).context("the frames seen")?;
        let frames = answer["frames"].as_array().context("a list")?;
        Ok(frames
            .iter()
            .filter_map(|frame| Some(frame.as_str()?.to_owned()))
            .collect())
    }
}

/// Ask until it is so; asking takes a process each time.
pub(super) fn eventually(
    what: &str,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let end = Instant::now() + CHANGE_LIMIT;
    while !holds()? {
        ensure!(
            Instant::now() < end,
            "not within {} s: {what}",
            CHANGE_LIMIT.as_secs()
        );
    }
    Ok(())
}
