//! Serves the card: the 82576 of `igb-model` as vfio-user devices, one per function.
//!
//! [`Card`] is the card itself, with its worker; [`Card::function`] gives one function as a
//! [`vfio_user::device::Device`], to be used in process or served over a socket. [`sockets`] serves
//! all functions of a card in a directory.

pub mod capture;
mod card;
pub mod control_socket;
mod data_lock;
mod function;
mod host;
mod in_process;
mod incidents;
pub mod inject;
mod interrupts;
mod kick;
mod message_dma;
mod names;
mod options;
mod queue_pages;
mod rounds;
pub mod sockets;
mod stats;
pub mod trace;
pub mod uplink;
mod view;
mod watch;
mod worker;

use std::sync::{Mutex, MutexGuard, PoisonError};

use igb::FunctionId;
use igb::function::FUNCTION_COUNT;

pub use card::{Card, CardError};
pub use in_process::{InProcessCard, InProcessCardBuilder, InProcessError, StandingPfError, Wire};
pub use names::function_name;
pub use options::{CardOptions, Doorbell, Doorbells, MailboxMode, UnknownDoorbell};
pub use trace::{Trace, TraceError};

/// Interfaces of a card in a capture: its functions, then the uplink.
pub(crate) const INTERFACES_PER_CARD: usize = FUNCTION_COUNT + 1;

/// Name and description of every interface that `cards` cards have in one capture.
pub fn capture_interfaces(cards: usize) -> Vec<(String, String)> {
    let mut interfaces = Vec::new();
    for index in 0..cards {
        let prefix = CardOptions {
            index,
            of: cards,
            ..CardOptions::default()
        }
        .prefix();
        for function in FunctionId::all() {
            let text = format!("{function} of an emulated 82576");
            interfaces.push((prefix.clone() + &function_name(function), text));
        }
        let text = "wire side of an emulated 82576".to_owned();
        interfaces.push((prefix + "uplink", text));
    }
    interfaces
}

/// Lock, also after a thread panicked with the lock held: one broken connection must not take the
/// card along.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
