//! The program, as its user runs it: between a served card and a PF driver on real sockets.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use iommu::backend::VfioUser;
use iommu::function::Function;
use mediator_protocol::{FromPf, ToPf, Token, bar};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vfio_user::client::ClientOptions;
use vfio_user::device::{Device, DmaClient, DmaWindow, Irq, IrqAction, IrqFlags, Region, region};
use vfio_user::server::{Listener, ServerOptions, Stop};

use crate::fixture::{FakePf, SOON};

/// Registers that remember one word, and nothing else.
#[derive(Default)]
struct TinyVf {
    word: AtomicU32,
}

impl Device for TinyVf {
    fn connected(&self, _: Arc<dyn DmaClient>) {}
    fn disconnected(&self) {}
    fn region(&self, index: u32) -> Region {
        match index {
            region::BAR0 => Region::trapped(0x4000),
            region::CONFIG => Region::trapped(0x1000),
            _ => Region::absent(),
        }
    }
    fn irq(&self, _: u32) -> Irq {
        Irq {
            flags: IrqFlags::EVENTFD,
            count: 0,
        }
    }
    fn region_read(&self, index: u32, _: u64, data: &mut [u8]) -> Result<(), Errno> {
        data.fill(0);
        if let (region::BAR0, [a, b, c, d]) = (index, data) {
            [*a, *b, *c, *d] = self.word.load(Ordering::SeqCst).to_le_bytes();
        }
        Ok(())
    }
    fn region_write(&self, index: u32, _: u64, data: &[u8]) -> Result<(), Errno> {
        if let (region::BAR0, Ok(bytes)) = (index, data.try_into()) {
            self.word.store(u32::from_le_bytes(bytes), Ordering::SeqCst);
        }
        Ok(())
    }
    fn dma_map(&self, _: DmaWindow) -> Result<(), Errno> {
        Ok(())
    }
    fn dma_unmap(&self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn dma_unmap_all(&self) {}
    fn set_irqs(&self, _: u32, _: u32, _: IrqAction) -> Result<(), Errno> {
        Ok(())
    }
    fn reset(&self) {
        self.word.store(0, Ordering::SeqCst);
    }
}

/// A card's VF on a socket; gone when it is dropped.
struct Card {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Card {
    fn serve(socket: &Path) -> Self {
        let listener = Listener::bind(socket, ServerOptions::default()).unwrap();
        let stop = Stop::new().unwrap();
        let of_thread = stop.clone();
        let device: Arc<dyn Device> = Arc::new(TinyVf::default());
        let thread = std::thread::spawn(move || listener.serve(&device, &of_thread).unwrap());
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A mediator process; killed if a test fails.
struct Running {
    child: Child,
    /// Its log, line by line.
    log: mpsc::Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mediator"));
    command.env_remove("RUST_LOG");
    command
}

impl Running {
    fn start(arguments: &[(&str, &Path)]) -> Self {
        let mut command = program();
        command.arg("run");
        for (name, value) in arguments {
            command.arg(name).arg(value);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (line, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|text| line.send(text))
        });
        let running = Self { child, log };
        running.until("ready");
        running
    }

    fn until(&self, text: &str) {
        while !self
            .log
            .recv_timeout(SOON)
            .expect("the mediator says so in its log")
            .contains(text)
        {}
    }

    fn stop(mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

fn ctl(control: &Path, arguments: &[&str]) -> (bool, String) {
    let output = program()
        .arg("ctl")
        .args(arguments)
        .arg("--control")
        .arg(control)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_vf_from_card_to_guest_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    let (nic, vm, pf_socket, control) =
        (path("nic"), path("vm"), path("pf.sock"), path("ctl.sock"));
    let (token, audit) = (path("token"), path("audit.jsonl"));
    std::fs::create_dir(&nic).unwrap();
    std::fs::write(&token, "secret\n").unwrap();
    let mediator = Running::start(&[
        ("--nic", &nic),
        ("--socket-dir", &vm),
        ("--pf-socket", &pf_socket),
        ("--control", &control),
        ("--token", &token),
        ("--audit", &audit),
    ]);
    let mut pf = FakePf::silent(UnixStream::connect(&pf_socket).unwrap());
    pf.hello(Token::from_secret(b"secret"));
    assert!(matches!(pf.receive(), Some(ToPf::Welcome { .. })));
    // Offered before the card has it: the mediator waits for the socket to appear.
    pf.send(FromPf::Offer {
        vf: 0,
        serial: 7,
        link_up: true,
        mac: None,
    });
    pf.settle();
    let card = Card::serve(&nic.join("vf0.sock"));
    mediator.until("VF 0 is on the bus");
    let guest = || VfioUser::connect(&vm.join("vf0.sock"), ClientOptions::default()).unwrap();
    let word = |guest: &VfioUser, region, offset| {
        let mut bytes = [0; 4];
        guest
            .read(region, offset, &mut bytes)
            .map(|()| u32::from_le_bytes(bytes))
    };
    let first = guest();
    first.write(region::BAR0, 0x2800, &[1, 2, 3, 4]).unwrap();
    assert_eq!(word(&first, region::BAR0, 0x2800).unwrap(), 0x0403_0201);
    let generation = word(&first, bar::INDEX, bar::Register::Generation.offset()).unwrap();
    drop(first);
    // The next tenant: reset, with a generation of its own.
    let second = guest();
    assert_eq!(word(&second, region::BAR0, 0x2800).unwrap(), 0);
    assert!(word(&second, bar::INDEX, bar::Register::Generation.offset()).unwrap() > generation);

    let (ok, list) = ctl(&control, &["list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert!(
        ok && list["slots"][0]["state"] == "present" && list["slots"][0]["attached"] == true,
        "{list}"
    );
    assert!(ctl(&control, &["list"]).1.contains("0000000000000007"));
    let (ok, text) = ctl(&control, &["eject", "0", "--timeout", "0.01"]);
    assert!(
        ok && text.contains("slot 0 is absent (taken away)"),
        "{text}"
    );
    assert!(word(&second, region::BAR0, 0x2800).is_err());
    let (ok, text) = ctl(&control, &["revoke", "0"]);
    assert!(!ok && text.contains("absent already"), "{text}");

    // Back, and the card takes it away.
    pf.send(FromPf::Offer {
        vf: 0,
        serial: 7,
        link_up: true,
        mac: None,
    });
    mediator.until("VF 0 is on the bus");
    drop(card);
    mediator.until("the card has taken it away");
    mediator.until("VF 0 has left the bus: card-lost");
    assert!(!vm.join("vf0.sock").exists());
    mediator.stop(Signal::SIGTERM);
    assert!(!pf_socket.exists() && !control.exists());
    assert!(std::fs::read_to_string(&audit).unwrap().lines().count() > 5);
}

#[test]
fn it_explains_what_is_wrong_with_its_arguments() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("limits.json"), r#"{"brust": 1}"#).unwrap();
    std::fs::write(path("token"), " \n").unwrap();
    let fails = |extra: &[&Path]| {
        let mut command = program();
        command
            .arg("run")
            .arg("--socket-dir")
            .arg(path("vm"))
            .arg("--pf-socket")
            .arg(path("pf.sock"));
        let output = command.args(extra).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let (nic, arg) = (directory.path(), Path::new("--nic"));
    assert!(fails(&[arg, &path("nowhere")]).contains("start the card first"));
    let text = fails(&[arg, nic, Path::new("--limits"), &path("limits.json")]);
    assert!(
        text.contains("limits.json") && text.contains("brust"),
        "{text}"
    );
    assert!(fails(&[arg, nic, Path::new("--token"), &path("token")]).contains("is empty"));
    let (ok, text) = ctl(&path("ctl.sock"), &["list"]);
    assert!(!ok && text.contains("does a mediator run"), "{text}");
}

#[test]
fn sigint_with_a_guest_and_a_pf_driver_attached() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("nic")).unwrap();
    let _card = Card::serve(&path("nic/vf3.sock"));
    let (nic, vm, pf_socket) = (path("nic"), path("vm"), path("pf.sock"));
    let mediator = Running::start(&[
        ("--nic", &nic),
        ("--socket-dir", &vm),
        ("--pf-socket", &pf_socket),
    ]);
    let mut pf = FakePf::silent(UnixStream::connect(&pf_socket).unwrap());
    pf.hello(Token::ABSENT);
    pf.offer(3);
    mediator.until("VF 3 is on the bus");
    let _guest = VfioUser::connect(
        &vm.join("vf3.sock"),
        ClientOptions {
            timeout: Duration::from_secs(5),
        },
    )
    .unwrap();
    mediator.stop(Signal::SIGINT);
    assert_eq!(
        pf.until(|m| matches!(m, ToPf::Ejected { .. })),
        ToPf::Ejected {
            vf: 3,
            graceful: false
        }
    );
    assert_eq!(pf.receive(), None);
    assert!(!vm.join("vf3.sock").exists() && !pf_socket.exists());
}
