//! What the test guest's init and the host say to each other.
//!
//! The agent is the guest's `/init`. It needs no guest userland: modules,
//! links, addresses, pings and TCP streams are built in. Host and agent
//! exchange one JSON object per line over the virtio-serial port named
//! [`PORT_NAME`]. The agent speaks first ([`Hello`], and again when the guest
//! was started anew); after that it answers each [`Request`] with one
//! [`Response`]. Requests are carried out side by side: a long one delays no
//! other, and answers come in the order in which the operations end.
#![forbid(unsafe_code)]

pub mod protocol;

/// Name of the virtio-serial port that carries the requests.
pub const PORT_NAME: &str = "tandem.agent";

/// Folder of the initramfs that holds the kernel modules.
pub const MODULE_DIR: &str = "/modules";

/// File of [`MODULE_DIR`] that names the modules, one `name: dependency...` a
/// line; every dependency has a line of its own.
pub const MODULE_LIST: &str = "/modules/list";

/// File of [`MODULE_DIR`] with other names of modules, one `alias name` a line.
pub const MODULE_ALIASES: &str = "/modules/aliases";

/// The end of the name by which the agent, started as a program, loads and
/// unloads modules: the kernel asks for modules so, and people do.
pub const MODPROBE: &str = "/modprobe";

/// Kernel command line word that asks for a shell instead of the agent.
pub const SHELL_WORD: &str = "tandem.shell";

/// Start of a command line word that sets an interface up before the shell
/// starts: `DRIVER,ADDRESS/PREFIX` follows.
pub const INTERFACE_WORD: &str = "tandem.interface=";

/// What the shell prints first, where there is such a file.
pub const BANNER: &str = "/etc/motd";

/// Where the initramfs holds busybox, where there is one.
pub const BUSYBOX: &str = "/usr/bin/busybox";

/// Where programs of the guest are looked for.
pub const PATH: &str = "/usr/sbin:/usr/bin";
