//! Requests through the hardware's own mailbox, for pairs without a mediator, and resets of VFs.
//!
//! A mailbox holds one message, whoever wrote it. News for a VF wait until no request and no answer
//! lies there: written over a request they would be taken for it, and written over an answer they would
//! be taken for that.

use igb::mailbox::{PfReply, WORDS, Words};
use igb::{MBVFICR, P2VMAILBOX, VFLRE, VMBMEM, Value};

use crate::driver::PfDriver;
use crate::error::PfError;
use crate::vport::{MAX_VFS, Phase};

/// How often the PF tries to get hold of a mailbox that its VF holds.
const LOCK_TRIES: u32 = 10;

/// What lies in the mailboxes, one bit for each VF.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mailboxes {
    /// An answer that the VF has not acknowledged.
    unread: u8,
    /// Nothing yet of the news that there are for the VF.
    untold: u8,
}

impl Mailboxes {
    /// Forgets what was on its way to or from VFs that were reset: they begin with a request, and find
    /// out by themselves what there is to know.
    fn forget(&mut self, vfs: u8) {
        self.unread &= !vfs;
        self.untold &= !vfs;
    }
}

impl PfDriver {
    /// Takes back to its start every VF that was reset (datasheet 8.14 VFLRE; 4.2.2.1 FLR).
    pub(crate) fn handle_vf_resets(&mut self) -> Result<(), PfError> {
        let events = self.regs.read::<VFLRE>()?;
        if events.raw() == 0 {
            return Ok(());
        }
        self.regs.write(events)?;
        self.mailboxes.forget(events.get(VFLRE::VFLRE) as u8);
        for vf in 0..MAX_VFS {
            if events.get(VFLRE::VFLRE) & 1 << vf != 0 {
                log::debug!("VF {vf} was reset");
                self.vf_counters.rebase(&self.regs, vf)?;
                self.arbiter.switch.reset_vf(vf);
            }
        }
        self.commit()
    }

    /// Answers every VF that has a message in its mailbox, if that was asked for. With a mediator
    /// there is nobody who may: such a message came around it.
    pub(crate) fn serve_mailboxes(&mut self) -> Result<(), PfError> {
        let causes = self.regs.read::<MBVFICR>()?;
        if causes.raw() == 0 {
            return Ok(());
        }
        self.regs.write(causes)?;
        // Looked at only now: a VF that asks has ended its reset, and a reset that is seen after its
        // Init was granted would take the queues away again.
        self.handle_vf_resets()?;
        // Before the requests, whose answers are unread anew. A VF that acknowledges none hears no news
        // until it is reset; that harms nobody else.
        self.mailboxes.unread &= !(causes.get(MBVFICR::VFACK) as u8);
        for vf in 0..MAX_VFS {
            if causes.get(MBVFICR::VFREQ) & 1 << vf == 0 {
                continue;
            }
            if self.channel.is_some() || !self.options.mailbox {
                self.leave_unanswered(vf);
                continue;
            }
            self.serve_mailbox(vf)?;
        }
        Ok(())
    }

    fn leave_unanswered(&mut self, vf: u8) {
        self.mailbox_unanswered += 1;
        // Said once for each VF: it may write as often as it likes.
        if self.around_the_mediator & 1 << vf == 0 {
            self.around_the_mediator |= 1 << vf;
            log::warn!(
                "VF {vf} asks through the hardware's mailbox and is not answered: only a driver \
                 started with --channel mailbox, without a mediator, does that"
            );
        }
    }

    fn serve_mailbox(&mut self, vf: u8) -> Result<(), PfError> {
        self.mailbox_requests += 1;
        let Some(words) = self.read_mailbox(vf)? else {
            log::warn!("VF {vf} holds its mailbox after sending; message dropped");
            return Ok(());
        };
        let before = self.arbiter.switch.clone();
        let (_, reply) = self.arbiter.mailbox(vf.into(), &words);
        if self.arbiter.switch != before {
            self.commit()?;
        }
        self.mailboxes.unread |= 1 << vf;
        self.write_mailbox(vf, &reply)
    }

    fn lock_mailbox(&mut self, vf: u8) -> Result<bool, PfError> {
        let own = Value::<P2VMAILBOX>::from_raw(0).set(P2VMAILBOX::PFU);
        for _ in 0..LOCK_TRIES {
            self.regs.write_at(vf.into(), own)?;
            if self
                .regs
                .read_at::<P2VMAILBOX>(vf.into())?
                .has(P2VMAILBOX::PFU)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_mailbox(&mut self, vf: u8) -> Result<Option<Words>, PfError> {
        if !self.lock_mailbox(vf)? {
            return Ok(None);
        }
        let mut words = [0; WORDS];
        for (n, word) in (0..).zip(&mut words) {
            let index = u32::from(vf) * WORDS as u32 + n;
            *word = self.regs.read_at::<VMBMEM>(index)?.raw();
        }
        let received = Value::<P2VMAILBOX>::from_raw(0)
            .set(P2VMAILBOX::ACK)
            .set(P2VMAILBOX::PFU);
        self.regs.write_at(vf.into(), received)?;
        Ok(Some(words))
    }

    /// Writes a message while the mailbox is held, and rings; that lets it go. All words are written:
    /// nothing that lay there before reaches the VF.
    fn write_mailbox(&mut self, vf: u8, reply: &PfReply) -> Result<(), PfError> {
        for (n, word) in (0..).zip(reply.encode()) {
            let index = u32::from(vf) * WORDS as u32 + n;
            self.regs.write_at(index, Value::<VMBMEM>::from_raw(word))?;
        }
        let ring = Value::<P2VMAILBOX>::from_raw(0).set(P2VMAILBOX::STS);
        Ok(self.regs.write_at(vf.into(), ring)?)
    }

    /// Tells a VF that something changed (PF_CONTROL): it looks at the link, or begins anew. Where its
    /// mailbox is not free it is told later.
    pub(crate) fn ping_mailbox(&mut self, vf: u8) -> Result<(), PfError> {
        self.mailboxes.untold |= 1 << vf;
        self.tell_untold()
    }

    /// Tells the VFs for which there are news, as far as their mailboxes are free.
    pub(crate) fn tell_untold(&mut self) -> Result<(), PfError> {
        let Mailboxes { unread, untold } = self.mailboxes;
        for vf in (0..MAX_VFS).filter(|vf| untold & !unread & 1 << vf != 0) {
            if !self.lock_mailbox(vf)? {
                continue;
            }
            // Only now: a VF that cannot get hold of its mailbox sends nothing any more.
            let asked = self.regs.read::<MBVFICR>()?.get(MBVFICR::VFREQ) & 1 << vf != 0;
            if asked {
                self.regs
                    .write_at(vf.into(), Value::<P2VMAILBOX>::from_raw(0))?;
                continue;
            }
            let vport = self.arbiter.switch.vport(vf);
            let cts = vport.is_some_and(|vport| vport.phase == Phase::Active);
            self.write_mailbox(vf, &PfReply::Control { cts })?;
            self.mailboxes.untold &= !(1 << vf);
        }
        Ok(())
    }
}
