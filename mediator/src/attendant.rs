//! A slot's attendant: the thread for what must not hold others up, which is raising the mailbox
//! interrupt, asking the guest to let go, and noticing that the card has taken the VF away.

use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use igb::function::FunctionKind;
use igb::interrupt::Entry;
use igb::{PVTEICS, Register, vf};
use iommu::function::{Function, FunctionError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vfio_user::device::region;

use crate::slot::{IVAR_UNKNOWN, Leave, Slot};

impl Slot {
    /// Raise interrupts and notice the loss of the card, until the stop.
    pub(crate) fn attend(&self) {
        while !self.stop.is_raised() {
            let lost = self
                .lost_event
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = vec![
                readable(self.stop.as_fd()),
                readable(self.attention.as_fd()),
            ];
            fds.extend(lost.as_ref().map(|lost| readable(lost.as_fd())));
            if !matches!(poll(&mut fds, PollTimeout::NONE), Ok(_) | Err(Errno::EINTR)) {
                return self.leave(Leave::SocketFailed);
            }
            self.attention.take();
            self.look_after();
        }
    }

    fn look_after(&self) {
        if self.ask_release.swap(false, Ordering::SeqCst)
            && let Some(event) = &*self
                .req_event
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        {
            event.signal();
        }
        let function = self.function.read().unwrap_or_else(PoisonError::into_inner);
        let Some(function) = &*function else { return };
        if function.lost() {
            log::warn!("VF {}: the card has taken it away", self.vf);
            return self.leave(Leave::CardLost);
        }
        if self.notify.swap(false, Ordering::SeqCst)
            && let Err(error) = self.raise_mailbox_vector(function.as_ref())
        {
            log::debug!("VF {}: no mailbox interrupt: {error}", self.vf);
        }
    }

    /// Write EICS with the vector that VTIVAR_MISC names, so that masks and EITR hold. A VF that
    /// names none polls.
    fn raise_mailbox_vector(&self, function: &dyn Function) -> Result<(), FunctionError> {
        let ivar_misc = match u32::try_from(self.ivar_misc.load(Ordering::SeqCst)) {
            Ok(known) => known,
            Err(_) => {
                let mut data = [0; 4];
                function.read(region::BAR0, vf::VTIVAR_MISC::OFFSET.into(), &mut data)?;
                u32::from_le_bytes(data)
            }
        };
        let Some(vector) = Entry::of_other(FunctionKind::Virtual).vector(ivar_misc) else {
            return Ok(());
        };
        let causes = PVTEICS::VECTORS.put(1 << vector);
        function.post(
            region::BAR0,
            vf::VTEICS::OFFSET.into(),
            &causes.to_le_bytes(),
        )
    }

    /// What the VF wrote to VTIVAR_MISC: `None` if it was no plain write of the whole register.
    pub(crate) fn saw_ivar_misc(&self, value: Option<u32>) {
        self.ivar_misc
            .store(value.map_or(IVAR_UNKNOWN, u64::from), Ordering::SeqCst);
    }
}
