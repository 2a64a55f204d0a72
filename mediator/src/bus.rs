//! The virtual PCI bus: one slot per VF, and who may change them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mediator_protocol::{FromPf, Status, ToPf};
use serde::{Deserialize, Serialize};
use vfio_user::device::Device;

use crate::audit::{Audit, Event};
use crate::backchannel::Backchannel;
use crate::clock::{Clock, Due, Timer};
use crate::limits::Limits;
use crate::nic::Nic;
use crate::pf::{PfEvents, PfLink};
use crate::slot::{Leave, Slot, SlotState};

/// What all slots share.
pub(crate) struct Core {
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) timer: Timer,
    pub(crate) audit: Audit,
    pub(crate) pf: PfLink,
    pub(crate) ids: AtomicU64,
    pub(crate) nic: Arc<dyn Nic>,
    pub(crate) socket_dir: Option<PathBuf>,
    pub(crate) offer_timeout: Duration,
    /// The last generation of each VF: they are never used twice, even when a VF comes back.
    pub(crate) generations: Mutex<HashMap<u16, u32>>,
    pub(crate) changes: Changes,
}

/// Tells those who wait that some slot has changed its state.
#[derive(Default)]
pub(crate) struct Changes {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Changes {
    pub(crate) fn announce(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// Wait until `look` finds something; it is called again after each change.
    pub(crate) fn wait_for<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now().checked_add(timeout);
        loop {
            let seen = *self.count.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = look() {
                return Some(found);
            }
            let left = end.map_or(Duration::MAX, |end| {
                end.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return None;
            }
            let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self
                .changed
                .wait_timeout_while(count, left, |count| *count == seen);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Core {
    pub(crate) fn keep_generation(&self, vf: u16, generation: u32) {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(vf, generation);
    }

    fn generation(&self, vf: u16) -> u32 {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&vf)
            .copied()
            .unwrap_or(0)
    }
}

struct Entry {
    slot: Arc<Slot>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // A slot that has gone wrong has said so in the log.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Default)]
struct Slots {
    entries: BTreeMap<u16, Entry>,
    occupancies: u64,
    stopping: bool,
}

/// A slot, as `list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// Slot number; the same as the VF's.
    pub slot: u16,
    /// Serial that pairs the VF with its synthetic NIC, 16 hexadecimal digits.
    pub serial: String,
    /// "waiting", "present", "ejecting" or "absent".
    pub state: String,
    /// The VF's generation.
    pub generation: u32,
    /// Is a client on it?
    pub attached: bool,
    /// Has the PF driver offered it on its present connection?
    pub pf: bool,
    /// The link state that the VF sees.
    pub link_up: bool,
    /// Link speed, Mb/s.
    pub speed: u32,
    /// Requests that wait for the PF driver.
    pub outstanding: usize,
    /// Whether the card's own mailbox is closed, or fenced by the mediator alone; `None` until it was
    /// tried.
    #[serde(default)]
    pub backchannel: Option<Backchannel>,
    /// Where its client connects, if it is on the bus.
    pub socket: Option<PathBuf>,
}

/// Why a slot cannot be ejected or revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// No VF is or was there.
    #[error("there is no slot {0}; `mediator ctl list` shows those that are")]
    NoSuchSlot(u16),
    /// The VF has left the bus already.
    #[error("slot {0} is absent already")]
    Absent(u16),
    /// It did not leave in time.
    #[error("slot {0} has not become absent in time")]
    Stuck(u16),
}

/// The virtual PCI bus.
pub(crate) struct Bus {
    pub(crate) core: Arc<Core>,
    slots: Mutex<Slots>,
}

impl Bus {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            slots: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot, if a VF is on its way to the bus or on it.
    fn slot(&self, vf: u16) -> Option<Arc<Slot>> {
        let slots = self.lock();
        let slot = &slots.entries.get(&vf)?.slot;
        (slot.state() != SlotState::Absent).then(|| Arc::clone(slot))
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        self.lock()
            .entries
            .values()
            .map(|entry| Arc::clone(&entry.slot))
            .collect()
    }

    pub(crate) fn list(&self) -> Vec<SlotInfo> {
        self.all().iter().map(|slot| describe(slot)).collect()
    }

    pub(crate) fn device(&self, vf: u16) -> Option<Arc<dyn Device>> {
        let slot = self.slot(vf)?;
        let ready = matches!(slot.state(), SlotState::Present | SlotState::Ejecting);
        ready.then_some(slot as Arc<dyn Device>)
    }

    /// Take a VF off the bus, now or after asking, and wait until it is gone. True: the guest let go.
    pub(crate) fn remove(&self, vf: u16, ask: Option<Duration>) -> Result<bool, SlotError> {
        let slot = {
            let slots = self.lock();
            Arc::clone(
                &slots
                    .entries
                    .get(&vf)
                    .ok_or(SlotError::NoSuchSlot(vf))?
                    .slot,
            )
        };
        if slot.state() == SlotState::Absent {
            return Err(SlotError::Absent(vf));
        }
        match ask {
            Some(timeout) => slot.eject(timeout),
            None => slot.leave(Leave::Revoked),
        }
        // Leaving itself may have to wait for the card to time out.
        let most = ask
            .unwrap_or_default()
            .saturating_add(Duration::from_secs(15));
        if slot.wait_absent(most) {
            Ok(slot.graceful())
        } else {
            Err(SlotError::Stuck(vf))
        }
    }

    fn offer(&self, vf: u16, serial: u64, link_up: bool) {
        let reject = |status| {
            log::warn!("the offer of VF {vf} is rejected: {}", Status::name(status));
            self.core.pf.send(ToPf::Rejected { vf, status });
        };
        if vf >= self.core.limits.slots {
            return reject(Status::Exhausted);
        }
        if !self.core.nic.serves(vf) {
            return reject(Status::Invalid);
        }
        let mut slots = self.lock();
        if slots.stopping {
            return reject(Status::TornDown);
        }
        if let Some(entry) = slots.entries.get(&vf) {
            let slot = &entry.slot;
            let state = slot.state();
            if state != SlotState::Absent {
                if state == SlotState::Ejecting || slot.stop.is_raised() {
                    return reject(Status::Busy);
                }
                // The PF driver is back: the VF stays as it is.
                slot.life().serial = serial;
                slot.channel(|channel, _, host| channel.pf_offered(link_up, host));
                return;
            }
            // Its thread has nothing left to do.
            slots.entries.remove(&vf);
        }
        slots.occupancies += 1;
        let occupancy = slots.occupancies;
        let made = Slot::new(
            Arc::clone(&self.core),
            vf,
            occupancy,
            self.core.generation(vf),
            serial,
        );
        let slot = match made {
            Ok(slot) => Arc::new(slot),
            Err(errno) => {
                log::error!("VF {vf}: {errno}");
                return reject(Status::Exhausted);
            }
        };
        slot.channel(|channel, _, host| channel.pf_offered(link_up, host));
        let of_thread = Arc::clone(&slot);
        let thread = std::thread::Builder::new()
            .name(format!("vf{vf}"))
            .spawn(move || of_thread.run());
        match thread {
            Ok(thread) => {
                slots.entries.insert(
                    vf,
                    Entry {
                        slot,
                        thread: Some(thread),
                    },
                );
            }
            Err(error) => {
                log::error!("VF {vf}: no thread: {error}");
                reject(Status::Exhausted);
            }
        }
    }

    /// Something has come due. Never blocks.
    pub(crate) fn fire(&self, due: Due) {
        let (Due::Deadline {
            slot: vf,
            occupancy,
        }
        | Due::Eject {
            slot: vf,
            occupancy,
        }) = due;
        let Some(slot) = self.slot(vf).filter(|slot| slot.occupancy == occupancy) else {
            return;
        };
        match due {
            Due::Deadline { .. } => slot.expire(),
            Due::Eject { .. } => slot.eject_timeout(),
        }
    }

    /// Take every VF off the bus and wait until they are gone.
    pub(crate) fn stop(&self) {
        let entries = {
            let mut slots = self.lock();
            slots.stopping = true;
            std::mem::take(&mut slots.entries)
        };
        for entry in entries.values() {
            if entry.slot.state() != SlotState::Absent {
                entry.slot.leave(Leave::Stopping);
            }
        }
        // Dropping them joins their threads.
        drop(entries);
    }
}

impl PfEvents for Bus {
    fn connected(&self) {}

    fn message(&self, message: FromPf) {
        let unknown = |vf: u16| {
            log::debug!("the PF driver names VF {vf}, which is not on the bus");
        };
        match message {
            FromPf::Hello { .. } => {}
            FromPf::Offer {
                vf,
                serial,
                link_up,
                mac: _,
            } => self.offer(vf, serial, link_up),
            FromPf::Eject { vf, timeout_ms } => match self.slot(vf) {
                Some(slot) => slot.eject(Duration::from_millis(timeout_ms.into())),
                None => drop(self.core.pf.send(ToPf::Rejected {
                    vf,
                    status: Status::Invalid,
                })),
            },
            FromPf::Revoke { vf } => match self.slot(vf) {
                Some(slot) => slot.leave(Leave::Revoked),
                None => drop(self.core.pf.send(ToPf::Rejected {
                    vf,
                    status: Status::Invalid,
                })),
            },
            FromPf::Reply(reply) => match self.slot(reply.vf) {
                Some(slot) => slot.channel(|channel, now, host| channel.reply(&reply, now, host)),
                None => self.core.audit.record(Event::StaleReply {
                    slot: reply.vf,
                    generation: reply.generation,
                    id: reply.id,
                }),
            },
            FromPf::Invalidate {
                vf,
                generation,
                mask,
            } => match self.slot(vf) {
                Some(slot) => {
                    slot.channel(|channel, _, host| channel.invalidate(generation, mask, host))
                }
                None => unknown(vf),
            },
            FromPf::Link { vf, up, speed } => match self.slot(vf) {
                Some(slot) => slot.channel(|channel, _, host| channel.link(up, speed, host)),
                None => unknown(vf),
            },
        }
    }

    fn gone(&self) {
        for slot in self.all() {
            slot.channel(|channel, now, host| channel.pf_gone(now, host));
        }
    }

    fn record(&self, event: Event) {
        self.core.audit.record(event);
    }
}

fn describe(slot: &Slot) -> SlotInfo {
    let (state, serial, backchannel) = {
        let life = slot.life();
        (life.state, life.serial, life.backchannel)
    };
    slot.channel(|channel, _, _| SlotInfo {
        slot: slot.vf,
        serial: format!("{serial:016x}"),
        state: state.name().into(),
        generation: channel.generation(),
        attached: channel.attached(),
        pf: channel.pf_ready(),
        link_up: channel.link_up(),
        speed: channel.speed(),
        outstanding: channel.outstanding(),
        backchannel,
        socket: slot
            .socket()
            .filter(|_| matches!(state, SlotState::Present | SlotState::Ejecting)),
    })
}
