//! What every part of a card tells its trace, and asks before it does something that may be made to
//! fail.

use std::time::{Duration, Instant};

use igb::FunctionId;
use igb_model::{CardRegion, Direction, Port};

use crate::inject::{Injector, Opportunity, Strike};
use crate::trace::{AccessRecord, EventRecord, FRAME_HEAD, Tracer};

/// See the module.
pub(crate) struct Watch {
    tracer: Option<Tracer>,
    pub(crate) injector: Injector,
    started: Instant,
}

impl Watch {
    pub(crate) fn new(tracer: Option<Tracer>) -> Self {
        Self {
            tracer,
            injector: Injector::default(),
            started: Instant::now(),
        }
    }

    /// Since the card started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// An instant on the card's clock.
    pub(crate) fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.started)
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.tracer.is_some()
    }

    pub(crate) fn traces_frames(&self) -> bool {
        self.tracer.as_ref().is_some_and(Tracer::traces_frames)
    }

    pub(crate) fn access(
        &self,
        function: FunctionId,
        write: bool,
        place: (CardRegion, u64),
        data: &[u8],
    ) {
        if let Some(tracer) = &self.tracer {
            let at = self.elapsed();
            tracer.access(AccessRecord::new(at, function, write, place, data));
        }
    }

    /// Something happened to a function, or to the card as a whole.
    pub(crate) fn event(&self, function: Option<FunctionId>, event: impl FnOnce() -> EventRecord) {
        self.event_at(function.map(Port::Function), event);
    }

    fn event_at(&self, port: Option<Port>, event: impl FnOnce() -> EventRecord) {
        if let Some(tracer) = &self.tracer {
            tracer.event(self.elapsed(), port, event());
        }
    }

    /// A frame crossed a port; [`Self::traces_frames`] says whether to tell.
    pub(crate) fn frame(&self, port: Port, direction: Direction, frame: &[u8]) {
        self.event_at(Some(port), || {
            let mut head = [0; FRAME_HEAD];
            for (to, from) in head.iter_mut().zip(frame) {
                *to = *from;
            }
            EventRecord::Frame {
                direction,
                len: frame.len(),
                head,
            }
        });
    }

    /// Whether something is to go wrong now. What does is told to the trace, with what `detail` says
    /// of it.
    pub(crate) fn strike(
        &self,
        function: Option<FunctionId>,
        opportunity: Opportunity,
        detail: impl FnOnce() -> String,
    ) -> Option<Strike> {
        // Almost always nobody looks: no clock is read then.
        if !self.injector.looks_at(opportunity) {
            return None;
        }
        let strike = self.injector.take(self.elapsed(), function, opportunity)?;
        self.tell(strike, function.map(Port::Function), detail);
        Some(strike)
    }

    /// Tell the trace of a fault.
    pub(crate) fn tell(&self, strike: Strike, port: Option<Port>, detail: impl FnOnce() -> String) {
        self.event_at(port, || {
            let mut text = format!("{} rule {}", strike.kind.name(), strike.rule);
            let detail = detail();
            if !detail.is_empty() {
                text.push(' ');
                text.push_str(&detail);
            }
            EventRecord::Inject(text)
        });
    }
}
