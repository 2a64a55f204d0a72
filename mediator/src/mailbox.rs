//! The mailbox personality: the 82576's mailbox as igbvf and DPDK know it, with the mediator in the
//! PF's place. A pure state machine.
//!
//! Differences to the hardware, all of them invisible to those drivers: a request is acknowledged
//! (PFACK) the moment REQ is written, because its words are latched then; PFU is never seen set,
//! because the mediator writes the memory in no time; a message for the VF waits while the VF holds
//! VFU.

use igb::mailbox::{ACK, CTS, ID_MASK, INFO_MASK, MessageId, NACK, WORDS, refused_echo};
use igb::{V2PMAILBOX, Value};
use mediator_protocol::{MAILBOX_WORDS, MailboxWords};

const _: () = assert!(WORDS == MAILBOX_WORDS);

/// Bytes of the mailbox memory.
pub const MEMORY: usize = WORDS * 4;

/// Bits of V2PMAILBOX that a read clears.
const READ_CLEAR: u32 =
    V2PMAILBOX::PFSTS.mask() | V2PMAILBOX::PFACK.mask() | V2PMAILBOX::RSTD.mask();
/// Bits of V2PMAILBOX that come from the hardware below.
const DOWNSTREAM: u32 = V2PMAILBOX::RSTI.mask() | V2PMAILBOX::RSTD.mask();

/// What became of a message for the VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is in the memory, or what is there already says as much: interrupt the VF.
    Notify,
    /// It waits; nothing to do now.
    Wait,
}

/// What a write to V2PMAILBOX asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// REQ: the words of a request.
    pub request: Option<[u32; WORDS]>,
    /// A message that had waited is in the memory now: interrupt the VF.
    pub notify: bool,
}

/// One VF's mailbox.
#[derive(Debug, Clone)]
pub struct Mailbox {
    memory: [u8; MEMORY],
    /// The VF holds the memory.
    vfu: bool,
    /// PFSTS, PFACK, RSTI, RSTD as the VF will read them.
    latched: u32,
    /// A message of ours lies in the memory and the VF has not acknowledged it.
    unread: bool,
    /// The VF's last request has no answer yet.
    awaiting: bool,
    /// The answer, while the VF holds VFU.
    waiting: Option<MailboxWords>,
    /// A PF_CONTROL is due.
    control: bool,
    /// The PF has answered a RESET of this VF: it is clear to send.
    cts: bool,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            memory: [0; MEMORY],
            vfu: false,
            latched: 0,
            unread: false,
            awaiting: false,
            waiting: None,
            control: false,
            cts: false,
        }
    }
}

impl Mailbox {
    /// Read the memory at a byte offset; what lies outside reads 0.
    pub fn read_memory(&self, offset: usize, data: &mut [u8]) {
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = self.memory.get(offset + n).copied().unwrap_or(0);
        }
    }

    /// The VF writes the memory at a byte offset; what lies outside is ignored.
    pub fn write_memory(&mut self, offset: usize, data: &[u8]) {
        for (n, byte) in data.iter().enumerate() {
            if let Some(place) = self.memory.get_mut(offset + n) {
                *place = *byte;
            }
        }
    }

    /// The VF reads V2PMAILBOX. `downstream` is the hardware's register, of which the reset
    /// indications count. `seen` are the bits that this access returns to the VF: only those that it
    /// returns are cleared, so that a narrow access loses nothing.
    pub fn read_v2p(&mut self, downstream: u32, seen: u32) -> u32 {
        let rsti = V2PMAILBOX::RSTI.mask();
        self.latched = self.latched & !rsti | downstream & DOWNSTREAM;
        if self.cts && downstream & DOWNSTREAM != 0 {
            self.lose_cts();
        }
        let vfu = if self.vfu { V2PMAILBOX::VFU.mask() } else { 0 };
        let value = self.latched | vfu;
        self.latched &= !(READ_CLEAR & seen);
        value
    }

    /// The PF was reset under a VF that had been clear to send. A word 0 with NACK and without CTS
    /// is how igbvf learns that it must begin anew.
    fn lose_cts(&mut self) {
        self.cts = false;
        if !self.vfu && !self.awaiting {
            self.put(&[MessageId::PfControl as u32 | NACK]);
        }
    }

    /// The VF writes V2PMAILBOX.
    pub fn write_v2p(&mut self, value: u32) -> Written {
        let value = Value::<V2PMAILBOX>::from_raw(value);
        self.vfu = value.has(V2PMAILBOX::VFU);
        if value.has(V2PMAILBOX::ACK) {
            self.unread = false;
        }
        let mut written = Written::default();
        if value.has(V2PMAILBOX::REQ) {
            // A new request: an answer to the one before, read or not, is of no use any more.
            self.unread = false;
            self.awaiting = true;
            self.waiting = None;
            self.latched = self.latched & !V2PMAILBOX::PFSTS.mask() | V2PMAILBOX::PFACK.mask();
            written.request = Some(self.words());
        } else if !self.vfu {
            written.notify = self.flush();
        }
        written
    }

    /// The answer to the VF's last request.
    pub fn answer(&mut self, words: MailboxWords) -> Delivery {
        self.awaiting = false;
        if self.vfu {
            self.waiting = Some(words);
            return Delivery::Wait;
        }
        self.deliver(&words);
        Delivery::Notify
    }

    /// Tell the VF to look: PF_CONTROL, as soon as the memory is free.
    pub fn control(&mut self) -> Delivery {
        if self.control {
            // One is due already: any number of changes makes one message.
            return Delivery::Wait;
        }
        self.control = true;
        if self.flush() || (self.unread && !self.vfu) {
            // While an unread answer holds the memory, the interrupt alone makes the VF look.
            return Delivery::Notify;
        }
        Delivery::Wait
    }

    /// The VF was reset, or changes hands: nothing of before is left.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The PF has answered a RESET of the VF.
    pub fn clear_to_send(&mut self) {
        self.cts = true;
    }

    /// Does the VF use its mailbox (has a RESET been answered since the last reset)?
    pub fn in_use(&self) -> bool {
        self.cts
    }

    /// An answer to `request` (its word 0) that the mediator gives itself.
    pub fn verdict(&self, request: u32, ok: bool) -> MailboxWords {
        let (verdict, echo) = if ok {
            (ACK, request & (ID_MASK | INFO_MASK))
        } else {
            (NACK, refused_echo(request))
        };
        // RESET's answer carries no CTS, as Linux's igb has it.
        let cts = if self.cts && MessageId::of(request) != Some(MessageId::Reset) {
            CTS
        } else {
            0
        };
        MailboxWords::new(&[verdict | cts | echo]).expect("one word")
    }

    fn words(&self) -> [u32; WORDS] {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(self.memory.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    }

    fn put(&mut self, words: &[u32]) {
        for (place, word) in self.memory.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn deliver(&mut self, words: &[u32]) {
        self.put(words);
        self.latched |= V2PMAILBOX::PFSTS.mask();
        self.unread = true;
    }

    /// Put what waits into the memory if that is free. True if something was put there.
    fn flush(&mut self) -> bool {
        if self.vfu || self.awaiting || self.unread {
            return false;
        }
        if let Some(words) = self.waiting.take() {
            self.deliver(&words);
            return true;
        }
        if self.control {
            self.control = false;
            let cts = if self.cts { CTS } else { 0 };
            self.deliver(&[MessageId::PfControl as u32 | cts]);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQ: u32 = V2PMAILBOX::REQ.mask();
    const ACKED: u32 = V2PMAILBOX::ACK.mask();
    const VFU: u32 = V2PMAILBOX::VFU.mask();
    const PFSTS: u32 = V2PMAILBOX::PFSTS.mask();
    const PFACK: u32 = V2PMAILBOX::PFACK.mask();
    const RSTI: u32 = V2PMAILBOX::RSTI.mask();
    const RSTD: u32 = V2PMAILBOX::RSTD.mask();
    const RESET: u32 = MessageId::Reset as u32;

    fn words(words: &[u32]) -> MailboxWords {
        MailboxWords::new(words).unwrap()
    }

    fn word(mailbox: &Mailbox, n: usize) -> u32 {
        let mut bytes = [0; 4];
        mailbox.read_memory(4 * n, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn read(mailbox: &mut Mailbox) -> u32 {
        mailbox.read_v2p(0, u32::MAX)
    }

    /// Write word 0 and ring, as igbvf does it.
    fn ask(mailbox: &mut Mailbox, word0: u32) -> [u32; WORDS] {
        mailbox.write_v2p(VFU);
        assert_eq!(read(mailbox) & VFU, VFU, "the lock must stick");
        mailbox.write_memory(0, &word0.to_le_bytes());
        mailbox.write_v2p(REQ).request.expect("a request")
    }

    #[test]
    fn igbvf_reset_sequence() {
        let mut mailbox = Mailbox::default();
        assert_eq!(ask(&mut mailbox, RESET)[0], RESET);
        assert_eq!(
            read(&mut mailbox),
            PFACK,
            "acknowledged at once, VFU dropped"
        );
        assert_eq!(read(&mut mailbox), 0, "read-to-clear");
        assert_eq!(
            mailbox.answer(words(&[RESET | ACK, 0x3322_1100, 0x5544])),
            Delivery::Notify
        );
        assert_eq!(read(&mut mailbox), PFSTS);
        assert_eq!(mailbox.write_v2p(VFU), Written::default());
        assert_eq!(
            [word(&mailbox, 0), word(&mailbox, 1), word(&mailbox, 2)],
            [RESET | ACK, 0x3322_1100, 0x5544]
        );
        assert_eq!(mailbox.write_v2p(ACKED), Written::default());
        assert_eq!(read(&mut mailbox), 0);
    }

    #[test]
    fn an_answer_waits_while_the_vf_holds_the_memory() {
        let mut mailbox = Mailbox::default();
        ask(&mut mailbox, RESET);
        read(&mut mailbox);
        mailbox.write_v2p(VFU);
        assert_eq!(mailbox.answer(words(&[RESET | ACK])), Delivery::Wait);
        assert_eq!(
            (word(&mailbox, 0), read(&mut mailbox)),
            (RESET, VFU),
            "nothing under the VF's hands"
        );
        assert!(mailbox.write_v2p(0).notify);
        assert_eq!(
            (word(&mailbox, 0), read(&mut mailbox)),
            (RESET | ACK, PFSTS)
        );
    }

    #[test]
    fn control_messages_coalesce_and_wait_for_their_turn() {
        let mut mailbox = Mailbox::default();
        mailbox.clear_to_send();
        ask(&mut mailbox, 5);
        assert_eq!(
            mailbox.control(),
            Delivery::Wait,
            "the VF waits for its answer, not for this"
        );
        assert_eq!(mailbox.control(), Delivery::Wait);
        mailbox.answer(words(&[5 | ACK | CTS]));
        assert_eq!(word(&mailbox, 0), 5 | ACK | CTS);
        assert!(mailbox.write_v2p(ACKED).notify);
        assert_eq!(word(&mailbox, 0), MessageId::PfControl as u32 | CTS);
        assert!(!mailbox.write_v2p(ACKED).notify, "once");
        assert_eq!(mailbox.control(), Delivery::Notify);
    }

    #[test]
    fn a_control_message_does_not_overwrite_an_unread_answer() {
        let mut mailbox = Mailbox::default();
        mailbox.clear_to_send();
        ask(&mut mailbox, 5);
        mailbox.answer(words(&[5 | ACK | CTS]));
        assert_eq!(mailbox.control(), Delivery::Notify, "the interrupt alone");
        assert_eq!(word(&mailbox, 0), 5 | ACK | CTS);
        assert_eq!(
            mailbox.control(),
            Delivery::Wait,
            "a storm makes one interrupt"
        );
    }

    #[test]
    fn reset_indications_survive_narrow_reads() {
        let mut mailbox = Mailbox::default();
        // A read of the upper bytes consumes the hardware's RSTD, but the VF did not see it.
        assert_eq!(mailbox.read_v2p(RSTD, 0xFF00) & RSTD, RSTD);
        assert_eq!(mailbox.read_v2p(0, 0xFF) & RSTD, RSTD);
        assert_eq!(mailbox.read_v2p(0, 0xFF) & RSTD, 0);
        assert_eq!(mailbox.read_v2p(RSTI, u32::MAX), RSTI);
        assert_eq!(mailbox.read_v2p(RSTI, u32::MAX), RSTI, "RSTI is a level");
        assert_eq!(mailbox.read_v2p(0, u32::MAX), 0);
    }

    #[test]
    fn a_pf_reset_takes_clear_to_send_away() {
        let mut mailbox = Mailbox::default();
        mailbox.clear_to_send();
        mailbox.read_v2p(RSTI, u32::MAX);
        assert!(!mailbox.in_use());
        assert_eq!(word(&mailbox, 0) & (NACK | CTS), NACK);
        assert_eq!(mailbox.verdict(4, false)[0], NACK | 4);
    }

    #[test]
    fn the_mediators_own_verdicts_echo_the_request() {
        let mut mailbox = Mailbox::default();
        mailbox.clear_to_send();
        assert_eq!(mailbox.verdict(0xE001_0004, true)[0], ACK | CTS | 0x1_0004);
        assert_eq!(mailbox.verdict(RESET, false)[0], NACK | RESET);
        // As igbvf asks for a VLAN: it looks for a refusal without the info field.
        assert_eq!(mailbox.verdict(0x1_0004, false)[0], NACK | CTS | 4);
    }

    #[test]
    fn hardware_bits_other_than_reset_indications_are_not_believed() {
        assert_eq!(Mailbox::default().read_v2p(!DOWNSTREAM, u32::MAX), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u32),
        Memory(usize, Vec<u8>),
        Read(u32),
        Answer(Vec<u32>),
        Control,
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..256).prop_map(Step::Write),
            (0usize..80, prop::collection::vec(any::<u8>(), 0..80))
                .prop_map(|(at, data)| Step::Memory(at, data)),
            any::<u32>().prop_map(Step::Read),
            prop::collection::vec(any::<u32>(), 1..=WORDS).prop_map(Step::Answer),
            Just(Step::Control),
            Just(Step::Reset),
        ]
    }

    proptest! {
        /// Whatever both sides do: the memory never changes while the VF holds it, PFSTS comes with
        /// a notification, and a reset leaves nothing.
        #[test]
        fn invariants(steps in prop::collection::vec(step(), 0..200)) {
            let mut mailbox = Mailbox::default();
            for step in steps {
                let before = mailbox.clone();
                let mut notified = false;
                let by_vf = matches!(step, Step::Memory(..));
                match step {
                    Step::Write(value) => {
                        let written = mailbox.write_v2p(value);
                        notified = written.notify;
                        prop_assert_eq!(written.request.is_some(), value & REQ != 0);
                        prop_assert_eq!(mailbox.vfu, value & VFU != 0);
                    }
                    Step::Memory(at, data) => mailbox.write_memory(at, &data),
                    Step::Read(downstream) => { mailbox.read_v2p(downstream, u32::MAX); }
                    Step::Answer(answer) => notified = mailbox.answer(words(&answer)) == Delivery::Notify,
                    Step::Control => notified = mailbox.control() == Delivery::Notify,
                    Step::Reset => {
                        mailbox.reset();
                        prop_assert_eq!(mailbox.memory, [0; MEMORY]);
                        prop_assert_eq!(mailbox.read_v2p(0, u32::MAX), 0);
                        continue;
                    }
                }
                if mailbox.latched & !before.latched & PFSTS != 0 {
                    prop_assert!(notified);
                }
                if before.vfu && mailbox.vfu && !by_vf {
                    prop_assert_eq!(before.memory, mailbox.memory);
                }
            }
        }
    }
}
