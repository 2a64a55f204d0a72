//! The interrupts of one function, as eventfds that its client gave.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use igb::FunctionId;
use igb_model::Signal;
use iommu::interrupt::EventFd;
use nix::errno::Errno;
use vfio_user::device::{Irq, IrqAction, IrqFlags, irq};

use crate::lock;

/// What an action on an index leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Followup {
    /// Nothing.
    None,
    /// Vectors became deliverable: pending ones are to be tried again.
    RetryPending,
    /// The worker waits for another resample eventfd now.
    Resample,
}

/// What a client asks for, its descriptors looked at. To close one that is no eventfd may take for
/// ever, so that is done before any lock is taken that others wait for.
pub(crate) enum Change {
    Listeners(Vec<Option<Arc<EventFd>>>),
    Disable,
    Trigger(Vec<bool>),
    Mask(Vec<bool>),
    Unmask(Vec<bool>),
    Resample(Option<Arc<EventFd>>),
}

impl TryFrom<IrqAction> for Change {
    type Error = Errno;

    fn try_from(action: IrqAction) -> Result<Self, Errno> {
        Ok(match action {
            // All or nothing: every descriptor is looked at before any is taken.
            IrqAction::SetEventfds(fds) => Change::Listeners(
                fds.into_iter()
                    .map(|fd| fd.map(listener).transpose())
                    .collect::<Result<_, _>>()?,
            ),
            IrqAction::Disable => Change::Disable,
            IrqAction::Trigger(which) => Change::Trigger(which),
            IrqAction::Mask(which) => Change::Mask(which),
            IrqAction::Unmask(which) => Change::Unmask(which),
            IrqAction::SetUnmaskEventfd(fd) => Change::Resample(fd.map(listener).transpose()?),
            // As in the kernel: there is none for masking.
            IrqAction::SetMaskEventfd(_) => return Err(Errno::ENOTTY),
        })
    }
}

#[derive(Default)]
struct Vector {
    listener: Option<Arc<EventFd>>,
    masked: bool,
}

impl Vector {
    /// `false` if it is masked or nobody listens.
    fn signal(&self) -> bool {
        match &self.listener {
            Some(listener) if !self.masked => {
                // A saturated counter has a signal waiting anyhow.
                listener.signal();
                true
            }
            _ => false,
        }
    }
}

#[derive(Default)]
struct State {
    intx: Vector,
    /// The level of the INTx line.
    intx_asserted: bool,
    /// Unmasks INTx when the client signals it.
    resample: Option<Arc<EventFd>>,
    msi: Vector,
    msix: Vec<Vector>,
    err: Vector,
    req: Vector,
}

/// See the module.
pub(crate) struct Interrupts {
    function: FunctionId,
    state: Mutex<State>,
}

impl State {
    fn vectors(&mut self, index: u32) -> Option<&mut [Vector]> {
        match index {
            irq::INTX => Some(std::slice::from_mut(&mut self.intx)),
            irq::MSI => Some(std::slice::from_mut(&mut self.msi)),
            irq::MSIX => Some(&mut self.msix),
            irq::ERR => Some(std::slice::from_mut(&mut self.err)),
            irq::REQ => Some(std::slice::from_mut(&mut self.req)),
            _ => None,
        }
    }

    /// Fire INTx if the line is asserted; firing masks it (it is a level, `AUTOMASKED`).
    fn settle_intx(&mut self) -> bool {
        if !self.intx_asserted {
            return true;
        }
        let sent = self.intx.signal();
        if sent {
            self.intx.masked = true;
        }
        sent
    }
}

impl Interrupts {
    pub(crate) fn new(function: FunctionId) -> Self {
        let msix = (0..function.vectors()).map(|_| Vector::default()).collect();
        Self {
            function,
            state: Mutex::new(State {
                msix,
                ..State::default()
            }),
        }
    }

    /// An index, as IRQ_INFO reports it.
    pub(crate) fn describe(&self, index: u32) -> Irq {
        let intx = IrqFlags::EVENTFD | IrqFlags::MASKABLE | IrqFlags::AUTOMASKED;
        let (flags, count) = match index {
            // A VF has neither a line nor MSI (datasheet 9.7).
            irq::INTX if !self.function.is_vf() => (intx, 1),
            irq::MSI if !self.function.is_vf() => (IrqFlags::EVENTFD, 1),
            irq::MSIX => (
                IrqFlags::EVENTFD | IrqFlags::MASKABLE,
                self.function.vectors(),
            ),
            irq::ERR | irq::REQ => (IrqFlags::EVENTFD, 1),
            _ => (IrqFlags::empty(), 0),
        };
        Irq { flags, count }
    }

    /// Signal an interrupt of the card; `false` if it is masked or nobody listens.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let mut state = lock(&self.state);
        match signal {
            Signal::Msix(vector) => state
                .msix
                .get(usize::from(vector))
                .is_some_and(Vector::signal),
            Signal::Msi => state.msi.signal(),
            Signal::Intx { asserted } => {
                state.intx_asserted = asserted;
                state.settle_intx()
            }
        }
    }

    /// Change vectors of an index from `start` on.
    pub(crate) fn set(&self, index: u32, start: u32, change: Change) -> Result<Followup, Errno> {
        let start = start as usize;
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        match change {
            Change::Listeners(listeners) => {
                let vectors = state.vectors(index).ok_or(Errno::EINVAL)?;
                let end = start.checked_add(listeners.len()).ok_or(Errno::EINVAL)?;
                let vectors = vectors.get_mut(start..end).ok_or(Errno::EINVAL)?;
                for (vector, listener) in vectors.iter_mut().zip(listeners) {
                    vector.listener = listener;
                    if index == irq::INTX {
                        vector.masked = false;
                    }
                }
            }
            Change::Disable => {
                for vector in state.vectors(index).ok_or(Errno::EINVAL)? {
                    *vector = Vector::default();
                }
                if index == irq::INTX {
                    state.resample = None;
                    return Ok(Followup::Resample);
                }
            }
            Change::Trigger(which) => {
                for vector in Self::flagged(state, index, start, &which)? {
                    if let Some(listener) = &vector.listener {
                        listener.signal();
                    }
                }
                return Ok(Followup::None);
            }
            Change::Mask(which) => {
                for vector in Self::flagged(state, index, start, &which)? {
                    vector.masked = true;
                }
            }
            Change::Unmask(which) => {
                for vector in Self::flagged(state, index, start, &which)? {
                    vector.masked = false;
                }
            }
            Change::Resample(listener) if index == irq::INTX => {
                state.resample = listener;
                return Ok(Followup::Resample);
            }
            // As in the kernel: only INTx has one.
            Change::Resample(_) => return Err(Errno::ENOTTY),
        }
        match index {
            irq::INTX => {
                state.settle_intx();
                Ok(Followup::None)
            }
            irq::MSI | irq::MSIX => Ok(Followup::RetryPending),
            _ => Ok(Followup::None),
        }
    }

    fn flagged<'a>(
        state: &'a mut State,
        index: u32,
        start: usize,
        which: &'a [bool],
    ) -> Result<impl Iterator<Item = &'a mut Vector>, Errno> {
        let vectors = state.vectors(index).ok_or(Errno::EINVAL)?;
        let end = start.checked_add(which.len()).ok_or(Errno::EINVAL)?;
        let vectors = vectors.get_mut(start..end).ok_or(Errno::EINVAL)?;
        Ok(vectors
            .iter_mut()
            .zip(which)
            .filter_map(|(vector, flag)| flag.then_some(vector)))
    }

    /// The eventfd by which the client unmasks INTx.
    pub(crate) fn resample(&self) -> Option<Arc<EventFd>> {
        lock(&self.state).resample.clone()
    }

    /// The client has signalled [`Self::resample`]: unmask INTx, and fire it again if the line is
    /// still asserted.
    pub(crate) fn resampled(&self) {
        let mut state = lock(&self.state);
        state.intx.masked = false;
        state.settle_intx();
    }

    /// Ask the client to release the device.
    pub(crate) fn request_release(&self) {
        lock(&self.state).req.signal();
    }

    /// Signals dropped because their eventfd was saturated, since the client connected.
    pub(crate) fn dropped(&self) -> u64 {
        let state = lock(&self.state);
        let fixed = [&state.intx, &state.msi, &state.err, &state.req];
        let vectors = fixed.into_iter().chain(&state.msix);
        vectors
            .filter_map(|vector| vector.listener.as_ref())
            .map(|fd| fd.dropped())
            .sum()
    }

    /// Close every eventfd. The level of the line stays.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        let asserted = state.intx_asserted;
        let msix = state.msix.iter().map(|_| Vector::default()).collect();
        *state = State {
            intx_asserted: asserted,
            msix,
            ..State::default()
        };
    }
}

fn listener(fd: OwnedFd) -> Result<Arc<EventFd>, Errno> {
    EventFd::from_peer(fd).map(Arc::new).map_err(|error| {
        log::warn!("an interrupt was refused: {error}");
        Errno::EINVAL
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn pair() -> (EventFd, OwnedFd) {
        let event = EventFd::new().expect("an eventfd");
        let other = event.as_fd().try_clone_to_owned().expect("a duplicate");
        (event, other)
    }

    fn assign(fd: OwnedFd) -> Change {
        Change::try_from(IrqAction::SetEventfds(vec![Some(fd)])).expect("an eventfd")
    }

    #[test]
    fn msix_goes_to_its_listener_and_nowhere_else() {
        let interrupts = Interrupts::new(FunctionId::vf(0));
        assert!(!interrupts.signal(Signal::Msix(1)), "nobody listens");
        let (event, other) = pair();
        assert_eq!(
            interrupts.set(irq::MSIX, 1, assign(other)),
            Ok(Followup::RetryPending)
        );
        assert!(interrupts.signal(Signal::Msix(1)));
        assert!(!interrupts.signal(Signal::Msix(0)));
        assert!(
            !interrupts.signal(Signal::Msix(3)),
            "a VF has three vectors"
        );
        assert_eq!(event.take(), 1);
        interrupts
            .set(irq::MSIX, 0, Change::Mask(vec![false, true]))
            .expect("masked");
        assert!(!interrupts.signal(Signal::Msix(1)));
        let unmask = Change::Unmask(vec![false, true, false]);
        assert_eq!(
            interrupts.set(irq::MSIX, 0, unmask),
            Ok(Followup::RetryPending)
        );
        assert!(interrupts.signal(Signal::Msix(1)));
        interrupts
            .set(irq::MSIX, 0, Change::Disable)
            .expect("disabled");
        assert!(!interrupts.signal(Signal::Msix(1)));
    }

    #[test]
    fn intx_masks_itself_and_fires_again_while_the_line_is_asserted() {
        let interrupts = Interrupts::new(FunctionId::PF);
        let (event, other) = pair();
        interrupts
            .set(irq::INTX, 0, assign(other))
            .expect("assigned");
        interrupts.signal(Signal::Intx { asserted: true });
        interrupts.signal(Signal::Intx { asserted: true });
        assert_eq!(event.take(), 1, "masked by firing");
        interrupts
            .set(irq::INTX, 0, Change::Unmask(vec![true]))
            .expect("unmasked");
        assert_eq!(event.take(), 1, "still asserted");
        interrupts.signal(Signal::Intx { asserted: false });
        interrupts.resampled();
        assert_eq!(event.take(), 0);
        interrupts.signal(Signal::Intx { asserted: true });
        assert_eq!(event.take(), 1);
    }

    #[test]
    fn a_late_listener_of_an_asserted_line_is_told() {
        let interrupts = Interrupts::new(FunctionId::PF);
        interrupts.signal(Signal::Intx { asserted: true });
        let (event, other) = pair();
        interrupts
            .set(irq::INTX, 0, assign(other))
            .expect("assigned");
        assert_eq!(event.take(), 1);
    }

    #[test]
    fn only_eventfds_are_listeners_and_a_bad_one_changes_nothing() {
        let interrupts = Interrupts::new(FunctionId::PF);
        let (event, other) = pair();
        interrupts
            .set(irq::MSIX, 0, assign(other))
            .expect("assigned");
        let (_, good) = pair();
        let file: OwnedFd = File::open("/proc/self/stat").expect("a file").into();
        let mixed = IrqAction::SetEventfds(vec![Some(good), Some(file)]);
        assert_eq!(Change::try_from(mixed).err(), Some(Errno::EINVAL));
        assert!(interrupts.signal(Signal::Msix(0)));
        assert_eq!(event.take(), 1, "the old listener is still there");
        let none = Change::Listeners(vec![None]);
        assert_eq!(interrupts.set(irq::MSIX, 10, none), Err(Errno::EINVAL));
        assert_eq!(interrupts.set(9, 0, Change::Disable), Err(Errno::EINVAL));
    }

    #[test]
    fn a_saturated_eventfd_is_counted_and_never_waited_for() {
        let interrupts = Interrupts::new(FunctionId::vf(2));
        let (event, other) = pair();
        interrupts
            .set(irq::MSIX, 0, assign(other))
            .expect("assigned");
        nix::unistd::write(event.as_fd(), &(u64::MAX - 1).to_ne_bytes()).expect("saturated");
        assert!(interrupts.signal(Signal::Msix(0)));
        assert_eq!(interrupts.dropped(), 1);
        interrupts.close();
        assert!(!interrupts.signal(Signal::Msix(0)));
    }
}
