//! Network namespaces for the kernel's own stack: interfaces, addresses and routes that the host
//! never sees, without privileges where the system allows user namespaces.
//!
//! A namespace is held by a process of its own (util-linux's unshare), which ends when the pipe to it
//! closes: when the [`Namespace`] is dropped, or when this process ends in whatever way.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use nix::unistd::geteuid;

/// What the holder runs: say that the namespace is there, then wait for the end of the pipe.
const HOLD: &str = "ip link set lo up && echo held && exec cat";

/// Why there can be no namespace here. Its text is the reason that a skipped check gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no network namespace can be made here: {0}")]
pub struct Forbidden(String);

/// A network namespace, and the user namespace that owns it where one was needed.
///
/// Dropping it ends its holder. The kernel removes its interfaces when the last process in it ends.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    /// Whether a user namespace came with it.
    user: bool,
}

impl Namespace {
    /// A new one, with its loopback interface up and nothing else in it. Root gets a network
    /// namespace alone; everybody else one inside a user namespace, in which they are root.
    ///
    /// # Errors
    ///
    /// [`Forbidden`] says what the system refused.
    pub fn new() -> Result<Self, Forbidden> {
        let with_user = || Self::hold(Command::new("unshare").args(UNSHARE_USER), true);
        if !geteuid().is_root() {
            return with_user();
        }
        // Root of a container may lack what a network namespace alone takes.
        Self::hold(Command::new("unshare").args(["--net", "--"]), false)
            .or_else(|first| with_user().map_err(|second| Forbidden(both(&first.0, &second.0))))
    }

    /// Another network namespace in the same user namespace: interfaces can be moved between the
    /// two, and joined in pairs ([`Self::veth`]).
    ///
    /// # Errors
    ///
    /// [`Forbidden`] says what the system refused.
    pub fn sibling(&self) -> Result<Self, Forbidden> {
        Self::hold(self.command("unshare").args(["--net", "--"]), self.user)
    }

    fn hold(command: &mut Command, user: bool) -> Result<Self, Forbidden> {
        let mut holder = command
            .args(["sh", "-c", HOLD])
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Forbidden(format!("util-linux's unshare does not run: {error}")))?;
        let mut said = [0; 5];
        let stdout = holder.stdout.as_mut().expect("piped above");
        if stdout.read_exact(&mut said).is_ok() && said == *b"held\n" {
            return Ok(Self { holder, user });
        }
        drop(holder.stdin.take());
        let output = holder.wait_with_output();
        let reason = match output {
            Ok(output) if !output.stderr.is_empty() => {
                String::from_utf8_lossy(&output.stderr).trim().to_owned()
            }
            Ok(output) => format!("unshare ended with {}", output.status),
            Err(error) => error.to_string(),
        };
        Err(Forbidden(reason))
    }

    /// The process id of its holder, which `ip link ... netns PID` takes.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that will run `program` inside; the process started is the program itself, so that
    /// signals reach it. The caller ends it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let at = |kind| format!("--{kind}=/proc/{}/ns/{kind}", self.pid());
        if self.user {
            command.args(["--preserve-credentials".into(), at("user")]);
        }
        command
            .args([at("net"), "--".into()])
            .arg(program)
            .env("PATH", search_path());
        command
    }

    /// The same for a command with its arguments and variables; what it does with its standard
    /// streams is not taken over.
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = self.command(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Run iproute2's `ip` inside; its standard output.
    ///
    /// # Errors
    ///
    /// It failed: with what it said.
    pub fn ip(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("ip", arguments)
    }

    /// Run a program that ends by itself inside; its standard output.
    ///
    /// # Errors
    ///
    /// It failed: with what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {program} in a namespace"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{program} {} ended with {}: {}",
                arguments.join(" "),
                output.status,
                said.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A pair of interfaces like two ends of a cable, one in each namespace; both down.
    ///
    /// # Errors
    ///
    /// The kernel refused; the two must be siblings unless this process is root.
    pub fn veth(&self, name: &str, other: &Self, other_name: &str) -> anyhow::Result<()> {
        let pid = other.pid().to_string();
        let peer = ["peer", "name", other_name, "netns", &pid];
        self.ip(&[&["link", "add", name, "type", "veth"], &peer[..]].concat())?;
        Ok(())
    }

    /// Why this user cannot make a TAP interface, not even in a namespace of their own; `None` if
    /// they can.
    pub fn tap_reason() -> Option<String> {
        let node = "/dev/net/tun";
        let opened = OpenOptions::new().read(true).write(true).open(node);
        opened
            .err()
            .map(|error| format!("{node} cannot be opened by uid {}: {error}", geteuid()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It was told to end; a holder that is stuck is ended.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// To be root in a new user namespace, whose network namespace is new too.
const UNSHARE_USER: [&str; 4] = ["--user", "--map-root-user", "--net", "--"];

/// The search path with the directories where administrators' programs lie.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin")
}

fn both(first: &str, second: &str) -> String {
    format!("{first}; with a user namespace: {second}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A namespace, or the reason why this test cannot run here.
    fn namespace() -> Option<Namespace> {
        Namespace::new()
            .inspect_err(|forbidden| println!("skipped: {forbidden}"))
            .ok()
    }

    #[test]
    fn what_is_in_a_namespace_is_not_outside() {
        let Some(ns) = namespace() else { return };
        ns.ip(&["link", "add", "inner0", "type", "bridge"]).unwrap();
        assert!(ns.ip(&["link"]).unwrap().contains("inner0"));
        let outside = std::fs::read_to_string("/proc/net/dev").unwrap();
        assert!(!outside.contains("inner0"), "{outside}");
        let error = ns.ip(&["link", "show", "absent0"]).unwrap_err().to_string();
        assert!(error.contains("absent0"), "{error}");
    }

    #[test]
    fn siblings_are_joined_by_a_cable() {
        let Some(one) = namespace() else { return };
        let two = one.sibling().unwrap();
        one.veth("left0", &two, "right0").unwrap();
        assert!(one.ip(&["link"]).unwrap().contains("left0"));
        let there = two.ip(&["link"]).unwrap();
        assert!(there.contains("right0") && !there.contains("left0"));
    }

    #[test]
    fn a_namespace_goes_with_its_last_process() {
        let Some(one) = namespace() else { return };
        let two = one.sibling().unwrap();
        one.veth("left0", &two, "right0").unwrap();
        drop(two);
        // The peer goes when the kernel has taken the other namespace apart, which it does later.
        let end = Instant::now() + Duration::from_secs(20);
        while one.ip(&["link"]).unwrap().contains("left0") {
            assert!(Instant::now() < end, "the interface outlives its namespace");
        }
    }

    #[test]
    fn a_command_is_the_program_itself() {
        let Some(ns) = namespace() else { return };
        let mut child = ns.command("cat").stdin(Stdio::piped()).spawn().unwrap();
        // It is what it says once the namespaces are entered.
        let comm = format!("/proc/{}/comm", child.id());
        while std::fs::read_to_string(&comm).unwrap().trim() != "cat" {
            std::thread::yield_now();
        }
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
