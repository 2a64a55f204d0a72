//! A card, a PF driver and a guest for the mediator's tests: all of them fakes in this process.

mod card;
mod guest;
mod pf;

use std::sync::Arc;
use std::time::Duration;

use igb::{Register, vf};
use mediator::nic::Nic;
use mediator::{Mediator, MediatorOptions};

pub(crate) use card::{FakeCard, Seen};
pub(crate) use guest::Guest;
pub(crate) use pf::FakePf;

/// How long anything may take before a test fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The write to EICS that announces something to a VF whose mailbox vector is `vector`.
pub(crate) fn eics(vector: u32) -> Seen {
    Seen::post(vf::VTEICS::OFFSET, igb::PVTEICS::VECTORS.put(1 << vector))
}

/// A mediator in process on a card with `vfs` VFs, all of them plugged.
pub(crate) fn mediator(
    vfs: u16,
    change: impl FnOnce(&mut MediatorOptions),
) -> (Mediator, Arc<FakeCard>) {
    let card = FakeCard::new(vfs.into());
    (0..vfs).for_each(|vf| card.plug(vf));
    let mut options = MediatorOptions::new(Arc::clone(&card) as Arc<dyn Nic>);
    change(&mut options);
    (Mediator::start(options).unwrap(), card)
}
