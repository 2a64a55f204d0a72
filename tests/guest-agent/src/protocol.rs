//! Requests, responses and the results of each operation.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};

/// Version of this protocol; host and agent are built from one tree, so a
/// mismatch means a stale initramfs.
pub const VERSION: u32 = 3;

/// Longest line either side accepts, in bytes.
pub const MAX_LINE: usize = 8 << 20;

/// Most bytes of standard output or standard error returned.
pub const MAX_OUTPUT: usize = 1 << 20;

/// Largest file read, and largest piece of one written, in bytes.
pub const MAX_FILE: usize = 4 << 20;

/// Most bytes of frames that a capture keeps.
pub const MAX_CAPTURE: usize = 4 << 20;

/// The agent's first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Time since the kernel started, in milliseconds.
    pub uptime_ms: u64,
}

/// One request of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Repeated in the response.
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub op: Op,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Id of the request; 0 if the request could not be read.
    pub id: u64,
    /// The operation's result, or what went wrong.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Success or failure of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The result; its type depends on the operation.
    Ok(serde_json::Value),
    /// What failed, with the kernel's error name.
    Error(String),
}

/// Operations of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Loads a module and what it depends on. Result: names loaded now.
    LoadModule {
        /// Module name; `-` and `_` are the same.
        name: String,
        /// Parameters of the named module, as for insmod.
        #[serde(default)]
        params: String,
    },
    /// Unloads a module. Result: null.
    UnloadModule {
        /// Module name.
        name: String,
    },
    /// Runs a program to its end. Result: [`Executed`].
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// The program is killed after this time, in milliseconds.
        timeout_ms: u64,
    },
    /// Starts a program. Result: its job's number.
    Spawn {
        /// Program and arguments.
        argv: Vec<String>,
        /// Whether its standard output is a terminal, so that it says at once
        /// what it has to say.
        #[serde(default)]
        terminal: bool,
    },
    /// Waits for a job's end, after which it is forgotten. Result:
    /// [`Executed`], with `timed_out` if it still runs.
    Wait {
        /// Number of the job.
        job: u32,
        /// Bound, in milliseconds.
        timeout_ms: u64,
    },
    /// Sends a job's process group a signal. Result: null, also if the job
    /// has ended.
    Signal {
        /// Number of the job.
        job: u32,
        /// Number of the signal.
        signal: i32,
    },
    /// Writes to a job's standard input. Result: null.
    Input {
        /// Number of the job.
        job: u32,
        /// What to write.
        text: String,
    },
    /// Waits until a job's standard output holds a text, or the job ends.
    /// Result: the standard output so far.
    Expect {
        /// Number of the job.
        job: u32,
        /// What to wait for; nothing, to have the output at once.
        text: String,
        /// From which byte of the output on.
        from: usize,
        /// Bound, in milliseconds.
        timeout_ms: u64,
    },
    /// Lists network interfaces. Result: list of [`Link`].
    Link,
    /// Changes an interface. Result: null.
    LinkSet {
        /// Interface name.
        name: String,
        /// What to change.
        #[serde(flatten)]
        change: LinkChange,
    },
    /// Adds an IPv4 address. Result: null.
    SetAddr {
        /// Interface name.
        name: String,
        /// Address.
        ip: Ipv4Addr,
        /// Prefix length.
        prefix: u8,
    },
    /// Adds a VLAN interface; needs module 8021q. Result: null.
    AddVlan {
        /// Lower interface.
        link: String,
        /// VLAN ID.
        vid: u16,
        /// Name of the new interface.
        name: String,
    },
    /// Waits for an interface to appear with a state. Result: [`Link`].
    WaitLink {
        /// Interface name.
        name: String,
        /// Carrier to wait for; absent: only that the interface exists.
        carrier: Option<bool>,
        /// Bound, in milliseconds.
        timeout_ms: u64,
    },
    /// Sends ICMP echo requests, one after the other's answer. Result: [`PingResult`].
    Ping {
        /// Destination.
        addr: Ipv4Addr,
        /// How many.
        count: u16,
        /// Wait for each answer, in milliseconds.
        timeout_ms: u64,
        /// ICMP payload, in bytes.
        #[serde(default = "default_ping_size")]
        size: u16,
    },
    /// Opens a TCP listener that counts and discards. Result: null.
    TcpSink {
        /// Port.
        port: u16,
    },
    /// Sends bytes to a TCP peer and waits until it has them all: the peer
    /// answers the end of the stream with the count in 8 bytes, big endian,
    /// as [`Op::TcpSink`] does. Result: [`TcpResult`].
    TcpSend {
        /// Destination address.
        addr: Ipv4Addr,
        /// Destination port.
        port: u16,
        /// How many bytes.
        bytes: u64,
        /// Bound on connect, each write and the final answer, in milliseconds.
        timeout_ms: u64,
    },
    /// Reads a file, `/sys` and `/proc` included. Result: [`Bytes`].
    ReadFile {
        /// Path.
        path: String,
    },
    /// Writes a file in one `write`, as sysfs wants it. Result: null.
    WriteFile {
        /// Path.
        path: String,
        /// Content.
        content: Bytes,
        /// Permissions of a file that is new.
        mode: u32,
        /// Adds to the file instead of replacing its content.
        #[serde(default)]
        append: bool,
    },
    /// Sends frames as they are. Result: null.
    SendFrames {
        /// Interface name.
        iface: String,
        /// Whole frames, without their check sequence.
        frames: Vec<Bytes>,
    },
    /// Starts to capture what an interface receives. Result: the capture's
    /// number.
    CaptureBegin {
        /// Interface name.
        iface: String,
        /// Ends the capture when it has as many frames.
        max: usize,
    },
    /// Waits until a capture has its `max` frames or the time is over, and
    /// ends it. Result: list of [`Bytes`].
    CaptureEnd {
        /// Number of the capture.
        capture: u32,
        /// Bound, in milliseconds.
        timeout_ms: u64,
    },
    /// The kernel log so far. Result: text.
    Kmsg,
    /// PCI functions. Result: list of [`PciFunction`].
    Pci,
    /// Switches the guest off, after the response. Result: null.
    Poweroff,
    /// Starts the guest anew, after the response. Result: null.
    Reboot,
}

fn default_ping_size() -> u16 {
    56
}

/// Changes to a network interface; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChange {
    /// Administrative state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// MTU, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// MAC address, `xx:xx:xx:xx:xx:xx`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Promiscuous mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promisc: Option<bool>,
    /// Reception of all multicast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allmulti: Option<bool>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// Exit code; 128 and the number of the signal, if one ended the program.
    pub code: i32,
    /// Whether it was not done in time.
    #[serde(default)]
    pub timed_out: bool,
    /// Standard output, at most [`MAX_OUTPUT`] bytes.
    pub stdout: String,
    /// Standard error, at most [`MAX_OUTPUT`] bytes.
    pub stderr: String,
}

/// Bytes, which JSON carries as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        BASE64_STANDARD.encode(bytes.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64_STANDARD.decode(text).map(Self)
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name.
    pub name: String,
    /// MAC address.
    pub mac: String,
    /// Operational state, as the kernel words it (`up`, `down`, ...).
    pub operstate: String,
    /// Carrier; `None` while the interface is down.
    pub carrier: Option<bool>,
    /// MTU, in bytes.
    pub mtu: u32,
    /// Driver; `None` for a virtual interface.
    pub driver: Option<String>,
    /// Bus address of the device behind it.
    pub device: Option<String>,
    /// The kernel's counters (`rx_packets`, `tx_errors`, ...).
    pub statistics: BTreeMap<String, u64>,
}

/// Result of [`Op::Ping`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingResult {
    /// Requests sent.
    pub sent: u16,
    /// Answers received in time.
    pub received: u16,
    /// Round-trip time of each answer, in microseconds.
    pub rtts_us: Vec<u64>,
}

/// Result of [`Op::TcpSend`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpResult {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes the peer says it received.
    pub received: u64,
    /// From connect to the peer's answer, in milliseconds.
    pub elapsed_ms: u64,
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// `DDDD:BB:DD.F`.
    pub address: String,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code, 24 bits.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Bound driver.
    pub driver: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_read_as_documented() {
        let line = r#"{"id":1,"op":"load_module","name":"igbvf"}"#;
        let request: Request = serde_json::from_str(line).unwrap();
        let op = Op::LoadModule {
            name: "igbvf".into(),
            params: String::new(),
        };
        assert_eq!(request, Request { id: 1, op });

        let line = r#"{"id":2,"op":"link_set","name":"eth0","up":true,"mtu":9000}"#;
        let request: Request = serde_json::from_str(line).unwrap();
        let Op::LinkSet { name, change } = request.op else {
            panic!("not a link_set: {request:?}");
        };
        assert_eq!(name, "eth0");
        assert_eq!(
            (change.up, change.mtu, change.mac),
            (Some(true), Some(9000), None)
        );
    }

    #[test]
    fn responses_keep_null_results_and_errors_apart() {
        for outcome in [
            Outcome::Ok(serde_json::Value::Null),
            Outcome::Error("no".into()),
        ] {
            let response = Response { id: 7, outcome };
            let line = serde_json::to_string(&response).unwrap();
            assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), response);
        }
    }

    #[test]
    fn bytes_of_any_value_survive_the_way_and_what_is_no_base64_is_refused() {
        let bytes = Bytes((0..=255).collect());
        let line = serde_json::to_string(&bytes).unwrap();
        assert_eq!(serde_json::from_str::<Bytes>(&line).unwrap(), bytes);
        assert!(serde_json::from_str::<Bytes>("\"?\"").is_err());
    }

    #[test]
    fn unknown_operations_are_refused() {
        assert!(serde_json::from_str::<Request>(r#"{"id":1,"op":"format_disk"}"#).is_err());
    }
}
