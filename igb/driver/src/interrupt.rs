//! MSI-X vectors as eventfds, and the masks that PF and VF have alike.
//!
//! A vector clears its cause when it fires (datasheet 8.8.6 EIAC). The queue's stays unmasked, and
//! EITR bounds how often it fires: unmasking it after each interrupt would take a trapped write, which
//! costs more than the interrupts that it saves. That of everything else masks itself (datasheet 8.8.7
//! EIAM) until it is armed again: causes that arise meanwhile wait in EICR and fire then.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};

use igb::Value;
use igb::interrupt::{Direction, Entry};
use iommu::function::FunctionError;
use iommu::interrupt::InterruptSet;

use crate::window::Window;
use crate::{DriverError, Registers};

/// Index of MSI-X among a function's interrupts, as VFIO counts them.
const MSIX: u32 = 2;

/// Vector of the queue pair.
pub const QUEUE_VECTOR: u32 = 0;
/// Vector of everything else: link, mailbox.
pub const OTHER_VECTOR: u32 = 1;
/// Vectors that a driver uses.
pub const VECTORS: u32 = 2;
/// Vectors that mask themselves when they fire.
pub const SELF_MASKING: u32 = 1 << OTHER_VECTOR;

/// The vectors of a function.
pub struct Interrupts<W> {
    set: InterruptSet,
    /// Vectors that are unmasked.
    armed: u32,
    window: PhantomData<W>,
}

impl<W: Window> Interrupts<W> {
    /// Gives the function an eventfd per vector, all masked.
    ///
    /// # Errors
    ///
    /// It has fewer than [`VECTORS`], or is gone.
    pub fn connect(regs: &Registers) -> Result<Self, DriverError> {
        let irq = regs.function().irq(MSIX)?;
        if irq.count < VECTORS {
            return Err(DriverError::Vectors {
                found: irq.count,
                needed: VECTORS,
            });
        }
        let mut set = InterruptSet::new(VECTORS as usize)?;
        set.watch(regs.function().lost_event())?;
        let interrupts = Self {
            set,
            armed: 0,
            window: PhantomData,
        };
        interrupts.mask_all(regs)?;
        interrupts.reconnect(regs)?;
        Ok(interrupts)
    }

    fn reconnect(&self, regs: &Registers) -> Result<(), FunctionError> {
        regs.function().set_eventfds(MSIX, 0, &self.set.eventfds())
    }

    /// Gives the function the same eventfds again, which a reset took from it. They are taken away
    /// first: whoever thinks that MSI-X is on does not switch it on.
    ///
    /// # Errors
    ///
    /// The function is gone.
    pub fn renew(&mut self, regs: &Registers) -> Result<(), FunctionError> {
        self.armed = 0;
        regs.function().disable_irqs(MSIX)?;
        self.reconnect(regs)
    }

    /// Masks every vector and forgets its cause, as the first step of any set-up (datasheet 8.8.5).
    fn mask_all(&self, regs: &Registers) -> Result<(), FunctionError> {
        regs.write::<W::Eimc>(Value::from_raw(Self::bits()))?;
        regs.read::<W::Eicr>().map(drop)
    }

    /// Sets auto-clear, auto-mask and throttling of every vector, and routes the causes: those of the
    /// queue pair to [`QUEUE_VECTOR`], all others to [`OTHER_VECTOR`] (datasheet 7.3.2).
    ///
    /// # Errors
    ///
    /// The function is gone.
    pub fn set_up(
        &mut self,
        regs: &Registers,
        queue: u32,
        interval_us: u32,
    ) -> Result<(), FunctionError> {
        for direction in [Direction::Rx, Direction::Tx] {
            let entry = Entry::of_queue(W::KIND, queue, direction);
            regs.update::<W::Ivar>(entry.index, |ivar| {
                Value::from_raw(entry.with_vector(ivar.raw(), Some(QUEUE_VECTOR)))
            })?;
        }
        let other = Entry::of_other(W::KIND).with_vector(0, Some(OTHER_VECTOR));
        regs.write::<W::IvarMisc>(Value::from_raw(other))?;
        self.mask_all(regs)?;
        self.armed = 0;
        regs.write::<W::Eiac>(Value::from_raw(Self::bits()))?;
        regs.write::<W::Eiam>(Value::from_raw(SELF_MASKING))?;
        let throttle = Value::from_raw(igb::interrupt::eitr(interval_us));
        regs.write_at::<W::Eitr>(QUEUE_VECTOR, throttle)?;
        regs.write_at::<W::Eitr>(OTHER_VECTOR, Value::from_raw(0))
    }

    /// One bit for each vector used.
    fn bits() -> u32 {
        (1 << VECTORS) - 1
    }

    /// Unmasks a vector, unless it is unmasked already.
    ///
    /// # Errors
    ///
    /// The function is gone.
    pub fn arm(&mut self, regs: &Registers, vector: u32) -> Result<(), FunctionError> {
        if self.armed & 1 << vector == 0 {
            self.armed |= 1 << vector;
            regs.post::<W::Eims>(Value::from_raw(1 << vector))?;
        }
        Ok(())
    }

    /// Unmasks a vector, whatever it is thought to be: one that masks itself when it fires stays
    /// masked for good if that message gets lost.
    ///
    /// # Errors
    ///
    /// The function is gone.
    pub fn rearm(&mut self, regs: &Registers, vector: u32) -> Result<(), FunctionError> {
        self.armed &= !(1 << vector);
        self.arm(regs, vector)
    }

    /// Masks a vector.
    ///
    /// # Errors
    ///
    /// The function is gone.
    pub fn mask(&mut self, regs: &Registers, vector: u32) -> Result<(), FunctionError> {
        self.armed &= !(1 << vector);
        regs.post::<W::Eimc>(Value::from_raw(1 << vector))
    }

    /// Whether a vector fired since the last call. Then it is masked, if it masks itself.
    pub fn take(&mut self, vector: u32) -> bool {
        let fired = self
            .set
            .vector(vector as usize)
            .is_some_and(|event| event.take() != 0);
        if fired {
            self.armed &= !(1 << vector & SELF_MASKING);
        }
        fired
    }

    /// Readable when a vector fired, the function was lost, or a descriptor that was added to
    /// [`Self::set_mut`] is readable.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }

    /// To watch other descriptors along with the vectors.
    pub fn set_mut(&mut self) -> &mut InterruptSet {
        &mut self.set
    }

    /// Takes the eventfds from the function.
    pub fn disconnect(&mut self, regs: &Registers) {
        self.armed = 0;
        if let Err(error) = regs.function().disable_irqs(MSIX)
            && !regs.function().lost()
        {
            log::warn!("vectors stay connected: {error}");
        }
    }
}
