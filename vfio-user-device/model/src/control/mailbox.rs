//! The mailbox between VF and PF, and the reset indications (datasheet 7.10.2.9, 8.14).
//!
//! Closed, which is the default, no bit of information passes between a VF and the PF: memory reads
//! 0, REQ, ACK, VFU, STS, ACK and PFU do nothing. Reset indications are the card's own and always
//! work.

use igb::function::VF_COUNT;
use igb::mailbox::WORDS;
use igb::{MBVFICR, MBVFIMR, P2VMAILBOX, V2PMAILBOX, Value};

use super::MailboxMode;

/// One VF's mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Mailbox {
    memory: [u32; WORDS],
    vfu: bool,
    pfu: bool,
    pfsts: bool,
    pfack: bool,
    rsti: bool,
    rstd: bool,
}

/// The mailboxes of a card and what they ask of the PF.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mailboxes {
    mode: MailboxMode,
    boxes: [Mailbox; VF_COUNT as usize],
    mbvficr: u32,
}

/// Whom a write interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bell {
    Nobody,
    /// ICR.VMMB.
    Pf,
    /// The VF's mailbox vector.
    Vf,
}

impl Mailboxes {
    /// After power-up every VF waits for the PF.
    pub(crate) fn new(mode: MailboxMode) -> Self {
        let mut boxes = Self {
            mode,
            boxes: [Mailbox::default(); VF_COUNT as usize],
            mbvficr: 0,
        };
        boxes.pf_reset();
        boxes
    }

    fn open(&self) -> bool {
        self.mode == MailboxMode::Open
    }

    fn of(&mut self, vf: u32) -> Option<&mut Mailbox> {
        self.boxes.get_mut(vf as usize)
    }

    /// VMBMEM; `word` is the card's index.
    pub(crate) fn load(&self, word: u32) -> u32 {
        if !self.open() {
            return 0;
        }
        let (vf, word) = (word as usize / WORDS, word as usize % WORDS);
        self.boxes.get(vf).map_or(0, |mailbox| mailbox.memory[word])
    }

    pub(crate) fn store(&mut self, word: u32, value: u32) {
        if self.open()
            && let Some(mailbox) = self.of(word / WORDS as u32)
        {
            mailbox.memory[word as usize % WORDS] = value;
        }
    }

    /// V2PMAILBOX without the effect of a read by the VF.
    pub(crate) fn v2p(&self, vf: u32) -> Value<V2PMAILBOX> {
        let Some(mailbox) = self.boxes.get(vf as usize) else {
            return Value::default();
        };
        let bit = |on, field| {
            if on {
                Value::<V2PMAILBOX>::default().set(field).raw()
            } else {
                0
            }
        };
        Value::from_raw(
            bit(mailbox.vfu, V2PMAILBOX::VFU)
                | bit(mailbox.pfu, V2PMAILBOX::PFU)
                | bit(mailbox.pfsts, V2PMAILBOX::PFSTS)
                | bit(mailbox.pfack, V2PMAILBOX::PFACK)
                | bit(mailbox.rsti, V2PMAILBOX::RSTI)
                | bit(mailbox.rstd, V2PMAILBOX::RSTD),
        )
    }

    /// V2PMAILBOX as the VF reads it.
    pub(crate) fn read_v2p(&mut self, vf: u32) -> Value<V2PMAILBOX> {
        let value = self.v2p(vf);
        if let Some(mailbox) = self.of(vf) {
            mailbox.pfsts = false;
            mailbox.pfack = false;
            mailbox.rstd = false;
        }
        value
    }

    pub(crate) fn write_v2p(&mut self, vf: u32, value: Value<V2PMAILBOX>) -> Bell {
        if !self.open() || vf >= u32::from(VF_COUNT) {
            return Bell::Nobody;
        }
        if let Some(mailbox) = self.of(vf) {
            mailbox.vfu = value.has(V2PMAILBOX::VFU) && !mailbox.pfu;
        }
        let mut causes = 0;
        if value.has(V2PMAILBOX::REQ) {
            causes |= MBVFICR::VFREQ.put(1 << vf);
        }
        if value.has(V2PMAILBOX::ACK) {
            causes |= MBVFICR::VFACK.put(1 << vf);
        }
        self.mbvficr |= causes;
        if causes == 0 { Bell::Nobody } else { Bell::Pf }
    }

    pub(crate) fn p2v(&self, vf: u32) -> Value<P2VMAILBOX> {
        let Some(mailbox) = self.boxes.get(vf as usize) else {
            return Value::default();
        };
        let mut value = Value::default();
        if mailbox.vfu {
            value = value.set(P2VMAILBOX::VFU);
        }
        if mailbox.pfu {
            value = value.set(P2VMAILBOX::PFU);
        }
        value
    }

    pub(crate) fn write_p2v(&mut self, vf: u32, value: Value<P2VMAILBOX>) -> Bell {
        if !self.open() || vf >= u32::from(VF_COUNT) {
            return Bell::Nobody;
        }
        if value.has(P2VMAILBOX::RVFU) {
            self.mbvficr &= !(MBVFICR::VFREQ.put(1 << vf) | MBVFICR::VFACK.put(1 << vf));
        }
        let Some(mailbox) = self.of(vf) else {
            return Bell::Nobody;
        };
        if value.has(P2VMAILBOX::RVFU) {
            mailbox.vfu = false;
        }
        mailbox.pfu = value.has(P2VMAILBOX::PFU) && !mailbox.vfu;
        mailbox.pfsts |= value.has(P2VMAILBOX::STS);
        mailbox.pfack |= value.has(P2VMAILBOX::ACK);
        if value.has(P2VMAILBOX::STS) || value.has(P2VMAILBOX::ACK) {
            Bell::Vf
        } else {
            Bell::Nobody
        }
    }

    pub(crate) fn mbvficr(&self) -> u32 {
        self.mbvficr
    }

    pub(crate) fn clear_mbvficr(&mut self, bits: u32) {
        self.mbvficr &= !bits;
    }

    /// A VF's mailbox after the reset of the VF: nothing of the old owner is left.
    pub(crate) fn vf_reset(&mut self, vf: u8) {
        self.mbvficr &= !(MBVFICR::VFREQ.put(1 << vf) | MBVFICR::VFACK.put(1 << vf));
        if let Some(mailbox) = self.of(u32::from(vf)) {
            *mailbox = Mailbox {
                rsti: mailbox.rsti,
                ..Mailbox::default()
            };
        }
    }

    /// The PF is in reset.
    pub(crate) fn pf_reset(&mut self) {
        self.mbvficr = 0;
        self.boxes.fill(Mailbox {
            rsti: true,
            ..Mailbox::default()
        });
    }

    /// CTRL_EXT.PFRSTD: the PF's reset is done.
    pub(crate) fn pf_reset_done(&mut self) {
        for mailbox in &mut self.boxes {
            mailbox.rsti = false;
            mailbox.rstd = true;
        }
    }
}

/// Whether MBVFIMR lets a VF interrupt the PF.
pub(crate) fn may_interrupt(mask: Value<MBVFIMR>, vf: u32) -> bool {
    mask.get(MBVFIMR::VFIM) & 1 << vf != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2p(fields: &[igb::Field<V2PMAILBOX>]) -> Value<V2PMAILBOX> {
        fields
            .iter()
            .fold(Value::default(), |value, field| value.set(*field))
    }

    fn p2v(fields: &[igb::Field<P2VMAILBOX>]) -> Value<P2VMAILBOX> {
        fields
            .iter()
            .fold(Value::default(), |value, field| value.set(*field))
    }

    #[test]
    fn a_message_goes_to_the_pf_and_back() {
        let mut m = Mailboxes::new(MailboxMode::Open);
        m.pf_reset_done();
        assert_eq!(m.read_v2p(2), v2p(&[V2PMAILBOX::RSTD]));
        assert_eq!(m.read_v2p(2).raw(), 0);

        m.write_v2p(2, v2p(&[V2PMAILBOX::VFU]));
        assert!(m.read_v2p(2).has(V2PMAILBOX::VFU));
        m.store(2 * WORDS as u32, 1);
        assert_eq!(m.write_v2p(2, v2p(&[V2PMAILBOX::REQ])), Bell::Pf);
        assert_eq!(m.mbvficr(), MBVFICR::VFREQ.put(4));
        assert_eq!(m.write_p2v(2, p2v(&[P2VMAILBOX::PFU])), Bell::Nobody);
        assert_eq!(m.load(2 * WORDS as u32), 1);
        // While the PF has the memory the VF cannot take it.
        m.write_v2p(2, v2p(&[V2PMAILBOX::VFU]));
        assert!(!m.v2p(2).has(V2PMAILBOX::VFU));
        assert_eq!(
            m.write_p2v(2, p2v(&[P2VMAILBOX::ACK, P2VMAILBOX::PFU])),
            Bell::Vf
        );
        assert_eq!(m.write_p2v(2, p2v(&[P2VMAILBOX::STS])), Bell::Vf);
        assert_eq!(m.read_v2p(2), v2p(&[V2PMAILBOX::PFSTS, V2PMAILBOX::PFACK]));
        assert_eq!(m.read_v2p(2).raw(), 0);
    }

    #[test]
    fn a_stuck_vf_is_pushed_aside() {
        let mut m = Mailboxes::new(MailboxMode::Open);
        m.write_v2p(0, v2p(&[V2PMAILBOX::VFU, V2PMAILBOX::REQ]));
        m.write_p2v(0, p2v(&[P2VMAILBOX::PFU]));
        assert!(!m.p2v(0).has(P2VMAILBOX::PFU));
        m.write_p2v(0, p2v(&[P2VMAILBOX::RVFU]));
        assert_eq!((m.p2v(0).raw(), m.mbvficr()), (0, 0));
    }

    #[test]
    fn a_reset_leaves_nothing_of_the_old_owner() {
        let mut m = Mailboxes::new(MailboxMode::Open);
        m.pf_reset_done();
        for word in 0..WORDS as u32 {
            m.store(word, 0xDEAD_BEEF);
        }
        m.write_v2p(0, v2p(&[V2PMAILBOX::REQ, V2PMAILBOX::VFU]));
        m.vf_reset(0);
        assert!((0..WORDS as u32).all(|word| m.load(word) == 0));
        assert_eq!((m.v2p(0).raw(), m.mbvficr()), (0, 0));
    }

    proptest! {
        /// Whatever VF and PF write, a closed mailbox carries nothing between them.
        #[test]
        fn closed_carries_nothing(
            writes in prop::collection::vec((any::<bool>(), 0u32..8, 0u32..16, any::<u32>()), 0..64)
        ) {
            let mut m = Mailboxes::new(MailboxMode::Closed);
            m.pf_reset_done();
            let clean = m.clone();
            for (vf_side, vf, word, value) in writes {
                m.store(vf * WORDS as u32 + word, value);
                let bell = if vf_side {
                    m.write_v2p(vf, Value::from_raw(value))
                } else {
                    m.write_p2v(vf, Value::from_raw(value))
                };
                prop_assert_eq!(bell, Bell::Nobody);
            }
            prop_assert_eq!(m, clean);
        }

        /// VFU and PFU exclude each other, and a VF's writes leave every other mailbox as it was.
        #[test]
        fn owners_exclude_each_other(
            writes in prop::collection::vec((any::<bool>(), 0u32..9, any::<u32>()), 0..64)
        ) {
            let mut m = Mailboxes::new(MailboxMode::Open);
            for (vf_side, vf, value) in writes {
                let before = m.clone();
                if vf_side {
                    m.write_v2p(vf, Value::from_raw(value));
                } else {
                    m.write_p2v(vf, Value::from_raw(value));
                }
                for (n, mailbox) in m.boxes.iter().enumerate() {
                    prop_assert!(!(mailbox.vfu && mailbox.pfu));
                    prop_assert!(n == vf as usize || *mailbox == before.boxes[n]);
                }
            }
        }
    }
}
