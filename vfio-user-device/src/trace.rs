//! The trace of a card: one line per access and per event, in the order in which the card saw them.
//!
//! ```text
//! 0.000123456 pf   W bar0   CTRL 0x04000040 {SLU RST}
//! 0.000130011 vf0  R bar0   VTEITR[2] 0x00000000
//! 0.000140020 vf1  W config 0x004/2 COMMAND 0x0004
//! 0.000150000 pf   R bar0   STATUS 0x00000080 {LU} x17 to 0.000310000
//! 0.000160000 vf0  # interrupt msix[0]
//! 0.000170000 -    # link down
//! ```
//!
//! The format, version 2. A line is words with spaces between them; lines that begin with `#`, and
//! empty ones, say nothing. The first words are seconds since the card started, with nine digits
//! after the point, and who: `pf`, `vf0` to `vf7`, `uplink`, or `-` for the card as a whole; with
//! several cards `card1/` stands before that. The third word says what the line is.
//!
//! **`R` and `W`** are accesses. Next come the region (`bar0`, `flash`, `io`, `msix`, `config`) and
//! the place: a whole register of BAR0 is its name in the datasheet, `NAME` or `NAME[INDEX]`, or its
//! offset if it has none; everything else is `OFFSET/BYTES`, then the name of what lies there, if it
//! has one. Then the value, or `...` if it has more than eight bytes; then the register's fields that
//! are not 0, `{NAME NAME=VALUE}`. `xN to SECONDS` says that the same read was done N times with the
//! same result and nothing in between, the last time then.
//!
//! **`#`** is an event: its name, then its details to the end of the line.
//!
//! | event | details |
//! |---|---|
//! | `interrupt` | `msix[N]`, `msi`, `intx asserted` or `intx deasserted`; `pending` after it if nobody took it |
//! | `reset` | `requested` by the client, `done` |
//! | `link` | `up`, `down` |
//! | `vfs` | how many are enabled from now on |
//! | `client` | `connected`, `disconnected` |
//! | `mailbox` | `to-pf` or `to-vf` and the message decoded; `closed` if the card carried none |
//! | `dma-fault` | `read` or `write`, the address, bytes, `rx` or `tx`, the queue, the cause |
//! | `halt` | `rx` or `tx`, the queue, the reason |
//! | `frame` | `in` (into the card) or `out`, bytes, destination, source, EtherType, VLAN tag |
//! | `inject` | what was injected, and by which rule |
//! | `removed` | VFs were removed, as their PF lost its client |
//! | `lost` | how many lines are missing here: the disk did not keep up |
//!
//! Lines are written by a thread of their own; the card never waits for it.

pub mod diff;
mod entry;
mod mailbox;
mod qemu;
mod read;
mod record;
mod repeats;
mod writer;

pub use entry::{Access, Entry, EntryError, Event, FieldValue, Place, What};
pub use read::{ReadError, ReadTrace, TraceKind, parse, read_file};
pub use writer::{Trace, TraceError};

pub(crate) use mailbox::MailboxMessage;
pub(crate) use record::{AccessRecord, EventRecord, FRAME_HEAD, SignalName};
pub(crate) use writer::Tracer;
