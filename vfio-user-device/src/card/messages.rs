//! What passes through the card's own mailbox, for the trace.

use igb::mailbox::WORDS;
use igb::{FunctionId, P2VMAILBOX, Register, RegisterId, V2PMAILBOX, Value, vf};
use igb_model::{CardRegion, Control, MailboxMode};

use super::CardState;
use crate::trace::{EventRecord, MailboxMessage};

impl CardState {
    /// A register was written: if that told the other side of a message, trace it.
    pub(super) fn trace_message(
        &self,
        control: &mut Control,
        function: FunctionId,
        (region, offset): (CardRegion, u64),
        data: &[u8],
    ) {
        let (CardRegion::Bar0, Ok(offset), Ok(word)) =
            (region, u32::try_from(offset), <[u8; 4]>::try_from(data))
        else {
            return;
        };
        let Some((vf, to_vf)) = told(function, offset, u32::from_le_bytes(word)) else {
            return;
        };
        let words = (self.mailbox == MailboxMode::Open).then(|| {
            let mut host = self.registers();
            std::array::from_fn::<u32, WORDS, _>(|n| {
                let mut word = [0; 4];
                let at = u64::from(vf::VMBMEM::offset(n as u32));
                // Plain memory: a read changes nothing.
                let _ = control.read(vf, CardRegion::Bar0, at, &mut word, &mut host);
                u32::from_le_bytes(word)
            })
        });
        self.watch.event(Some(vf), || {
            EventRecord::Mailbox(MailboxMessage { to_vf, words })
        });
    }
}

/// Whose mailbox a write announces a message in, and whether it is for the VF.
fn told(function: FunctionId, offset: u32, value: u32) -> Option<(FunctionId, bool)> {
    if function.is_vf() {
        let (window, _) = vf::window_at(offset)?;
        let says = window.id == RegisterId::V2PMAILBOX
            && Value::<V2PMAILBOX>::from_raw(value).has(V2PMAILBOX::REQ);
        return says.then_some((function, false));
    }
    let decoded = igb::decode(offset)?;
    let says = decoded.id == RegisterId::P2VMAILBOX
        && Value::<P2VMAILBOX>::from_raw(value).has(P2VMAILBOX::STS);
    let vf = FunctionId::try_vf(u8::try_from(decoded.index).ok()?)?;
    says.then_some((vf, true))
}
