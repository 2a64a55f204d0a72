//! Clients that come and go, and the grace period of a PF without one.

use std::sync::Arc;
use std::time::Instant;

use igb::FunctionId;
use igb_model::FunctionSet;
use vfio_user::device::DmaClient;

use super::CardState;
use crate::lock;
use crate::names::function_name;
use crate::trace::EventRecord;

impl CardState {
    /// A client has connected to a function.
    pub(crate) fn connected(
        &self,
        (function, incarnation): (FunctionId, u64),
        dma: Arc<dyn DmaClient>,
    ) {
        let view = self.view(function);
        {
            let _tenancy = lock(&view.tenancy);
            if view.incarnation() != incarnation || !view.is_enabled() {
                return;
            }
            view.begin_tenancy(dma);
        }
        self.watch
            .event(Some(function), || EventRecord::Client(true));
        log::info!(
            "{}{}: client connected",
            self.prefix,
            function_name(function)
        );
        if !function.is_vf() && lock(&self.grace_ends).take().is_some() {
            log::info!("{}the PF has a client again: its VFs stay", self.prefix);
        }
    }

    /// The client of a function has gone.
    pub(crate) fn disconnected(&self, (function, incarnation): (FunctionId, u64)) {
        let view = self.view(function);
        let was_connected = {
            let mut data = self.visit(Some(function));
            let _tenancy = lock(&view.tenancy);
            if view.incarnation() != incarnation {
                // Disabled meanwhile: all has been done, and the VF may be somebody else's.
                return;
            }
            let was_connected = view.end_tenancy();
            self.watch.injector.forget(FunctionSet::only(function));
            // The new pages enable no queue.
            data.sync_queues(function, &mut self.burst());
            was_connected
        };
        if !was_connected {
            return;
        }
        self.watch
            .event(Some(function), || EventRecord::Client(false));
        log::info!(
            "{}{}: client disconnected",
            self.prefix,
            function_name(function)
        );
        if !function.is_vf() {
            self.begin_grace();
        }
        self.kick.ring();
    }

    fn begin_grace(&self) {
        let vfs = lock(&self.control).num_vfs_enabled();
        if vfs == 0 {
            return;
        }
        log::warn!(
            "{}the PF has lost its client; its {vfs} VFs go on for {} s, then they are removed \
             unless one has connected",
            self.prefix,
            self.pf_grace.as_secs_f64()
        );
        *lock(&self.grace_ends) = Instant::now().checked_add(self.pf_grace);
    }

    /// When the worker must look after the grace period, if one runs.
    pub(crate) fn grace_deadline(&self) -> Option<u64> {
        lock(&self.grace_ends).map(|ends| self.at(ends))
    }

    /// Remove the VFs if the grace period is over.
    pub(crate) fn end_grace(self: &Arc<Self>) {
        let over = |ends: &Option<Instant>| ends.is_some_and(|ends| ends <= Instant::now());
        if !over(&lock(&self.grace_ends)) {
            return;
        }
        let _change = lock(&self.vf_change);
        {
            // A client may have come between the look and the lock.
            let mut ends = lock(&self.grace_ends);
            if !over(&ends) {
                return;
            }
            *ends = None;
        }
        log::warn!(
            "{}no client of the PF has come back: the VFs are removed",
            self.prefix
        );
        let after = {
            let mut control = lock(&self.control);
            let mut host = self.registers();
            control.advance(self.now(), &mut host);
            self.watch.event(None, || EventRecord::Removed);
            let effects = control.stop_sriov(&mut host);
            self.conclude(&mut control, effects, FunctionSet::EMPTY)
        };
        self.settle(None, after);
    }
}
