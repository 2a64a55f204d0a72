//! Faults on purpose that concern the card as a whole, and what they put off.

use std::sync::Arc;
use std::time::Duration;

use igb::{FunctionId, P2VMAILBOX, RegisterId, V2PMAILBOX, Value};
use igb_model::{CardRegion, Port};

use super::CardState;
use crate::inject::{Delayed, DelayedAction, FaultKind, Opportunity, Strike};
use crate::lock;

impl CardState {
    /// A register of a function is about to be accessed: it may be reset first, or the link go down.
    pub(super) fn before_access(
        self: &Arc<Self>,
        (function, incarnation): (FunctionId, u64),
        region: CardRegion,
    ) {
        if region != CardRegion::Bar0 || self.view(function).incarnation() != incarnation {
            return;
        }
        let strike = self
            .watch
            .strike(Some(function), Opportunity::Access, String::new);
        if let Some(strike) = strike {
            self.carry_out(strike, (function, incarnation));
        }
    }

    fn carry_out(self: &Arc<Self>, strike: Strike, whose: (FunctionId, u64)) {
        match strike.kind {
            FaultKind::Flr => self.reset_function(whose),
            FaultKind::LinkFlap(time) => {
                self.set_link(false);
                self.put_off(time, DelayedAction::LinkUp);
            }
            _ => {}
        }
    }

    fn put_off(&self, time: Duration, action: DelayedAction) {
        let due = self.elapsed() + time;
        if !self.watch.injector.delay(Delayed { due, action }) {
            log::warn!("too much has been put off by injected faults");
        }
        self.kick.ring_at(nanos(due));
    }

    /// A register was read: what software gets to see may be something else.
    pub(super) fn after_read(
        &self,
        function: FunctionId,
        (region, offset): (CardRegion, u64),
        data: &mut [u8],
    ) {
        if region != CardRegion::Bar0 {
            return;
        }
        if self.watch.injector.looks_at(Opportunity::MailboxLook)
            && let Some(side) = mailbox_at(function, offset)
            && let Ok(word) = <&mut [u8; 4]>::try_from(&mut *data)
            && self
                .watch
                .strike(Some(function), Opportunity::MailboxLook, String::new)
                .is_some()
        {
            let seen = u32::from_le_bytes(*word);
            *word = side.taken(seen).to_le_bytes();
        }
        let struck = self
            .watch
            .strike(Some(function), Opportunity::Read, String::new);
        if struck.is_some() {
            data.fill(0xFF);
        }
    }

    /// When something is to be done that was put off.
    pub(crate) fn faults_due(&self) -> Option<u64> {
        self.watch.injector.next_due().map(nanos)
    }

    /// Do what was put off until now. For the worker, which holds no lock.
    pub(crate) fn do_what_is_due(self: &Arc<Self>) {
        let injector = &self.watch.injector;
        let now = self.elapsed();
        if injector.next_due().is_none_or(|due| due > now) {
            return;
        }
        {
            let mut control = lock(&self.control);
            // Taken under the lock under which a reset forgets it.
            let due = injector.take_due(now, |action| {
                matches!(action, DelayedAction::Interrupt { .. })
            });
            let mut host = self.registers().without_faults();
            for delayed in due {
                if let DelayedAction::Interrupt { function, signal } = delayed.action {
                    control.signal_late(function, signal, &mut host);
                }
            }
        }
        self.write_back_what_is_due(now);
        let link = injector.take_due(now, |action| *action == DelayedAction::LinkUp);
        if !link.is_empty() {
            self.set_link(true);
        }
        for (strike, functions) in injector.take_timed(now) {
            for function in functions {
                let view = self.view(function);
                if !view.is_enabled() {
                    continue;
                }
                let port = Some(Port::Function(function));
                self.watch.tell(strike, port, || "by time".to_owned());
                self.carry_out(strike, (function, view.incarnation()));
                if let FaultKind::LinkFlap(_) = strike.kind {
                    break;
                }
            }
        }
    }

    fn write_back_what_is_due(&self, now: Duration) {
        let mut written = Vec::new();
        {
            let _data = self.data.lock_last();
            let due = self.watch.injector.take_due(now, |action| {
                matches!(action, DelayedAction::Writeback { .. })
            });
            let mut host = self.burst();
            for delayed in due {
                let DelayedAction::Writeback {
                    function,
                    ring,
                    queue,
                    iova,
                    value,
                } = delayed.action
                else {
                    continue;
                };
                // A queue that was disabled meanwhile gets nothing more.
                if host.ring_at(function, iova) == Some((ring, queue))
                    && host.write_back_late(function, iova, value).is_ok()
                {
                    written.push((function, ring, queue));
                }
            }
        }
        if written.is_empty() {
            return;
        }
        let mut control = lock(&self.control);
        let mut host = self.registers();
        control.advance(self.now(), &mut host);
        for (function, ring, queue) in written {
            control.written_back(function, ring, queue, &mut host);
        }
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Who looks at a mailbox.
#[derive(Clone, Copy)]
enum Side {
    Vf,
    Pf,
}

/// Whose view of a mailbox lies at an offset of BAR0.
fn mailbox_at(function: FunctionId, offset: u64) -> Option<Side> {
    let offset = u32::try_from(offset).ok()?;
    if function.is_vf() {
        let (window, _) = igb::vf::window_at(offset)?;
        return (window.id == RegisterId::V2PMAILBOX).then_some(Side::Vf);
    }
    let decoded = igb::decode(offset)?;
    (decoded.id == RegisterId::P2VMAILBOX).then_some(Side::Pf)
}

impl Side {
    /// What the side reads while the other one has the mailbox and never lets go.
    fn taken(self, seen: u32) -> u32 {
        match self {
            Side::Vf => Value::<V2PMAILBOX>::from_raw(seen)
                .set(V2PMAILBOX::PFU)
                .clear(V2PMAILBOX::VFU)
                .clear(V2PMAILBOX::PFSTS)
                .clear(V2PMAILBOX::PFACK)
                .raw(),
            Side::Pf => Value::<P2VMAILBOX>::from_raw(seen)
                .set(P2VMAILBOX::VFU)
                .clear(P2VMAILBOX::PFU)
                .raw(),
        }
    }
}
