//! The program itself: command line, signals, files it writes, control socket.

mod rig;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use iommu::function::Function;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::{Value, json};
use tempfile::TempDir;

use rig::{Station, bring_up, broadcast, connect, eventually, vf_socket};

struct Program {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Program {
    /// Start it, and wait until it says that it is ready, for each card.
    fn start(arguments: &[&str], cards: usize) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vfio-user-device"))
            .args(arguments)
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("its stderr"));
        let mut program = Self { child, stderr };
        for _ in 0..cards {
            program.wait_for("ready: listening on");
        }
        program
    }

    fn wait_for(&mut self, text: &str) {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let len = self.stderr.read_line(&mut line).expect("a line");
            assert!(len > 0, "the program ended without {text:?}:\n{said}");
            if line.contains(text) {
                return;
            }
            said.push_str(&line);
        }
    }

    /// Ask it to end; its exit code.
    fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a signal");
        // Read to the end, so that it can write.
        let mut rest = String::new();
        while self.stderr.read_line(&mut rest).is_ok_and(|len| len > 0) {}
        self.child.wait().expect("its end").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // For a test that failed; the program of one that passed has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

fn ask(socket: &Path, request: &Value) -> Value {
    let mut stream = UnixStream::connect(socket).expect("the control socket");
    stream.set_read_timeout(Some(rig::LONG)).expect("a timeout");
    writeln!(stream, "{request}").expect("sent");
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .expect("an answer");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn a_whole_run_is_recorded_counted_and_ended_in_good_order() {
    let place = Place::new();
    let (nic, capture, trace) = (
        place.text("nic"),
        place.text("c.pcapng"),
        place.text("t.txt"),
    );
    let control = place.text("card.ctl");
    let program = Program::start(
        &[
            "--socket-dir",
            &nic,
            "--capture",
            &capture,
            "--trace",
            &trace,
            "--control",
            &control,
        ],
        1,
    );
    let control = Path::new(&control);
    let pf = connect(&place.at("nic/pf.sock"));
    bring_up(&*pf, 2);
    let mut sender = Station::open(connect(&vf_socket(&place.at("nic"), 0)));
    let mut receiver = Station::open(connect(&vf_socket(&place.at("nic"), 1)));
    let frame = broadcast(0, 123, 0x5A);
    assert!(sender.send(&frame));
    assert_eq!(receiver.receive(), frame);
    let outside = sender.outside();
    assert!(sender.send_from(outside, 60));

    let mut stats = Value::Null;
    eventually("a fault in the statistics", || {
        stats = ask(control, &json!({"op": "stats"}));
        stats["faults"]
            .as_array()
            .is_some_and(|faults| !faults.is_empty())
    });
    assert_eq!(stats["ok"], true);
    assert_eq!(stats["vfs"], 2);
    let functions = stats["functions"].as_array().expect("functions");
    let names: Vec<_> = functions
        .iter()
        .filter_map(|entry| entry["function"].as_str())
        .collect();
    assert_eq!(names, ["pf", "vf0", "vf1"]);
    assert_eq!(functions[1]["tx_packets"], 1);
    assert_eq!(functions[1]["dma_faults"], 1);
    assert_eq!(functions[2]["rx_bytes"], 123);
    let fault = &stats["faults"][0];
    assert_eq!(
        (&fault["function"], &fault["access"]),
        (&json!("vf0"), &json!("read"))
    );
    assert_eq!(fault["iova"], format!("{outside:#x}"));
    assert_eq!(fault["cause"], "no-window");

    assert_eq!(
        ask(control, &json!({"op": "link", "up": false}))["ok"],
        true
    );
    assert_eq!(ask(control, &json!({"op": "stats"}))["link_up"], false);
    assert_eq!(ask(control, &json!({"op": "fly"}))["ok"], false);
    assert_eq!(
        ask(control, &json!({"op": "stats", "card": 1}))["ok"],
        false
    );

    assert_eq!(program.end(Signal::SIGTERM), Some(0));
    assert!(!control.exists());
    assert_eq!(
        fs::read_dir(place.at("nic"))
            .expect("the directory")
            .count(),
        0
    );

    let trace = fs::read_to_string(&trace).expect("the trace");
    for expected in [
        "pf   W config ",
        " SRIOV.CONTROL 0x",
        "vf0  W bar0   RXDCTL[0] 0x02000000 {ENABLE}",
        "vf0  W bar0   TDT[0] 0x00000001",
        "pf   W bar0   RCTL 0x",
        "-    # vfs 2",
        "# link down",
    ] {
        assert!(
            trace.contains(expected),
            "{expected:?} is not in the trace:\n{trace}"
        );
    }

    let mut reader = PcapNgReader::new(File::open(&capture).expect("the file")).expect("pcapng");
    let mut crossings = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("a block") {
            let packet = packet.into_owned();
            if packet.data[..] == frame[..] {
                crossings.push((packet.interface_id, packet.options.clone()));
            }
        }
    }
    let named = |name: &str| {
        let is = |option: &InterfaceDescriptionOption<'_>| matches!(option, InterfaceDescriptionOption::IfName(found) if found == name);
        reader
            .interfaces()
            .iter()
            .position(|interface| interface.options.iter().any(is))
    };
    let at = |name: &str| named(name).expect("an interface") as u32;
    let (inbound, outbound) = (
        EnhancedPacketOption::Flags(1),
        EnhancedPacketOption::Flags(2),
    );
    assert!(
        crossings.contains(&(at("vf0"), vec![outbound])),
        "{crossings:?}"
    );
    assert!(
        crossings.contains(&(at("vf1"), vec![inbound])),
        "{crossings:?}"
    );
    assert!(named("pf").is_some() && named("uplink").is_some());
}

#[test]
fn two_cards_have_directories_and_addresses_of_their_own() {
    let place = Place::new();
    let nic = place.text("nic");
    let program = Program::start(&["--socket-dir", &nic, "--cards", "2"], 2);
    let cards = [0, 1].map(|n| connect(&place.at(&format!("nic/card{n}/pf.sock"))));
    let macs = [0, 1].map(|n: usize| {
        rig::write_config(
            &*cards[n],
            igb::pci::header::COMMAND,
            igb::pci::command::MEMORY,
        );
        let at = <igb::RAL as igb::Register>::offset(0);
        let high = <igb::RAH as igb::Register>::offset(0);
        (
            rig::read_register(&*cards[n], at),
            rig::read_register(&*cards[n], high) & 0xFFFF,
        )
    });
    assert_ne!(macs[0], macs[1]);
    cards[1].sriov_configure(1).expect("a VF");
    assert!(vf_socket(&place.at("nic/card1"), 0).exists());
    assert!(!vf_socket(&place.at("nic/card0"), 0).exists());

    let second = Command::new(env!("CARGO_BIN_EXE_vfio-user-device"))
        .args(["--socket-dir", &nic])
        .output()
        .expect("the program runs");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another card is served"), "{said}");
    assert_eq!(program.end(Signal::SIGINT), Some(0));
}

#[test]
fn a_killed_card_is_replaced_in_place() {
    let place = Place::new();
    let nic = place.text("nic");
    let program = Program::start(&["--socket-dir", &nic], 1);
    let pf = connect(&place.at("nic/pf.sock"));
    pf.sriov_configure(2).expect("VFs");
    assert_eq!(program.end(Signal::SIGKILL), None);
    assert!(
        vf_socket(&place.at("nic"), 1).exists(),
        "nobody was there to remove it"
    );
    let program = Program::start(&["--socket-dir", &nic], 1);
    assert!(!vf_socket(&place.at("nic"), 1).exists());
    connect(&place.at("nic/pf.sock"));
    assert_eq!(program.end(Signal::SIGTERM), Some(0));
}

#[test]
fn frames_cross_the_wire_both_ways() {
    let place = Place::new();
    let (nic, uplink) = (place.text("nic"), format!("unix:{}", place.text("wire")));
    let wire = UnixDatagram::bind(place.at("wire.peer")).expect("the other end");
    wire.set_read_timeout(Some(rig::LONG)).expect("a timeout");
    let program = Program::start(&["--socket-dir", &nic, "--uplink", &uplink], 1);
    let pf = connect(&place.at("nic/pf.sock"));
    bring_up(&*pf, 1);
    let mut station = Station::open(connect(&vf_socket(&place.at("nic"), 0)));
    let frame = broadcast(0, 77, 3);
    assert!(station.send(&frame));
    let mut buffer = [0; 2048];
    let len = wire.recv(&mut buffer).expect("a frame");
    assert_eq!(buffer[..len], frame);
    let frame = broadcast(9, 99, 4);
    wire.send_to(&frame, place.at("wire")).expect("sent");
    assert_eq!(station.receive(), frame);
    assert_eq!(program.end(Signal::SIGTERM), Some(0));
    assert!(!place.at("wire").exists());
}

#[test]
fn what_cannot_be_opened_is_said_with_a_remedy() {
    let place = Place::new();
    let nic = place.text("nic");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vfio-user-device"))
            .args(["--socket-dir", &nic])
            .args(arguments)
            .output()
            .expect("the program runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(run(&["--uplink", "tap:has space"]).contains("no interface name"));
    assert!(run(&["--capture", "/proc/none/x"]).contains("cannot create the capture file"));
    assert!(run(&["--uplink", "pcap:/proc/none"]).contains("cannot open"));
    assert!(run(&["--pf-grace=-1"]).contains("say a number of seconds"));
    assert!(!place.at("nic/pf.sock").exists());
}

#[test]
fn faults_are_injected_and_told_and_two_runs_compared() {
    let place = Place::new();
    let run = |name: &str, rules: &[&str]| {
        let (nic, trace) = (place.text(name), place.text(&format!("{name}.trace")));
        let control = place.at(&format!("{name}.ctl"));
        let control_text = place.text(&format!("{name}.ctl"));
        let mut arguments = vec!["--socket-dir", &nic, "--trace", &trace];
        arguments.extend(["--trace-frames", "--control", &control_text]);
        rules
            .iter()
            .for_each(|rule| arguments.extend(["--inject", rule]));
        let program = Program::start(&arguments, 1);
        let pf = connect(&place.at(&format!("{name}/pf.sock")));
        bring_up(&*pf, 2);
        let dir = place.at(name);
        let mut stations = [0, 1].map(|n| Station::open(connect(&vf_socket(&dir, n))));
        let frame = broadcast(0, 60, 1);
        assert!(stations[0].send(&frame));
        assert_eq!(stations[1].receive(), frame);
        let vf = &stations[0].function;
        rig::read_register(&**vf, <igb::vf::VTSTATUS as igb::Register>::OFFSET);
        let told = ask(&control, &json!({"op": "inject"}));
        let added = ask(&control, &json!({"op": "inject", "rule": "read-ones,vf1"}));
        assert_eq!(added["ok"], true, "{added}");
        let refused = ask(&control, &json!({"op": "inject", "rule": "read-one"}));
        let reason = refused["error"].as_str().expect("a reason");
        assert!(reason.contains("\"read-one\" is no fault"), "{reason}");
        let removed = ask(&control, &json!({"op": "inject", "remove": added["id"]}));
        assert_eq!(removed["removed"], 1);
        assert_eq!(
            ask(&control, &json!({"op": "stats"}))["injected"],
            told["rules"]
        );
        drop((stations, pf));
        assert_eq!(program.end(Signal::SIGTERM), Some(0));
        (trace, told)
    };
    let (plain, told) = run("a", &[]);
    assert_eq!(told["rules"], json!([]));
    // Over sockets a late interrupt still brings the frame.
    let rules = ["interrupt-late=20ms,vf1", "read-ones,vf0,count=1"];
    let (faulty, told) = run("b", &rules);
    let struck = |n: usize| told["rules"][n]["injected"].as_u64();
    assert!(struck(0) >= Some(1) && struck(1) == Some(1), "{told}");
    let text = fs::read_to_string(&faulty).expect("the trace");
    for expected in [
        "vf1  # inject interrupt-late rule 0 msix[0]",
        "vf0  # inject read-ones rule 1",
        "vf0  # frame in 60 ff:ff:ff:ff:ff:ff < 02:00:00:00:00:00 0x88b5",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    vfio_user_device::trace::parse(&text).expect("what is written can be read");

    let compare = |a: &str, b: &str, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vfio-user-device"))
            .args(["--trace-diff", a, b])
            .args(more)
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = compare(&plain, &plain, &["--strict"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = compare(&plain, &faulty, &["--function", "vf0", "--json"]);
    assert_eq!(code, Some(1), "{said}");
    let report: Value = serde_json::from_str(&said).expect("JSON");
    let first = &report["differences"][0];
    assert_eq!(
        (&first["function"], &first["kind"]),
        (&json!("vf0"), &json!("value"))
    );
    let (code, said) = compare(&plain, &faulty, &["--function", "pf"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no difference in"), "{said}");
    assert_eq!(compare(&plain, "/proc/none/x", &[]).0, Some(2));
}
