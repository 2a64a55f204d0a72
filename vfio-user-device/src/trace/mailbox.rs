//! Messages between VF and PF in the card's own mailbox, decoded.

use std::fmt;

use igb::mailbox::{PfReply, VfMessage, Words};

/// A message that one side has told the other about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MailboxMessage {
    /// From the PF to the VF.
    pub(crate) to_vf: bool,
    /// What lies in the mailbox; `None` if the card carries no messages.
    pub(crate) words: Option<Words>,
}

impl fmt::Display for MailboxMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.to_vf { "to-vf" } else { "to-pf" })?;
        let Some(words) = &self.words else {
            return f.write_str(" closed");
        };
        let parsed = if self.to_vf {
            PfReply::parse(words).map(|reply| write_reply(reply, f))
        } else {
            VfMessage::parse(words).map(|message| write_message(&message, f))
        };
        match parsed {
            Ok(written) => written?,
            Err(_) => f.write_str(" unknown")?,
        }
        write!(f, " {:#010x}", words[0])
    }
}

fn write_message(message: &VfMessage, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match message {
        VfMessage::Reset => f.write_str(" reset"),
        VfMessage::SetMac(mac) => write!(f, " set-mac {mac}"),
        VfMessage::ClearMacFilters => f.write_str(" clear-mac-filters"),
        VfMessage::AddMacFilter(mac) => write!(f, " add-mac-filter {mac}"),
        VfMessage::SetMulticast(hashes) => {
            write!(f, " set-multicast {}", hashes.count())?;
            let mut separator = ' ';
            for hash in hashes.as_slice() {
                write!(f, "{separator}{hash:#05x}")?;
                separator = ',';
            }
            Ok(())
        }
        VfMessage::SetVlan { add: true, vid } => write!(f, " add-vlan {vid}"),
        VfMessage::SetVlan { add: false, vid } => write!(f, " del-vlan {vid}"),
        VfMessage::SetLpe(length) => write!(f, " set-lpe {length}"),
        VfMessage::SetPromisc { unicast, multicast } => {
            let mode = match (unicast, multicast) {
                (false, false) => "off",
                (true, false) => "unicast",
                (false, true) => "multicast",
                (true, true) => "all",
            };
            write!(f, " set-promisc {mode}")
        }
    }
}

fn write_reply(reply: PfReply, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let clear = |cts: bool| if cts { " cts" } else { "" };
    match reply {
        PfReply::ResetAck(mac) => write!(f, " reset-ack {mac}"),
        PfReply::ResetNack => f.write_str(" reset-nack"),
        PfReply::Ack { cts, .. } => write!(f, " ack{}", clear(cts)),
        PfReply::Nack { cts, .. } => write!(f, " nack{}", clear(cts)),
        PfReply::Control { cts } => write!(f, " control{}", clear(cts)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use igb::mailbox::WORDS;

    fn told(to_vf: bool, words: Words) -> String {
        let words = Some(words);
        MailboxMessage { to_vf, words }.to_string()
    }

    #[test]
    fn messages_are_told_by_name_with_what_they_ask_for() {
        let mac = igb::MacAddress::new([2, 0, 0, 0, 0, 9]);
        let set = VfMessage::SetMac(mac).encode();
        assert!(told(false, set).starts_with("to-pf set-mac 02:00:00:00:00:09 0x"));
        let vlan = VfMessage::SetVlan { add: true, vid: 7 }.encode();
        assert!(told(false, vlan).starts_with("to-pf add-vlan 7 0x"));
        let ack = PfReply::ResetAck(mac).encode();
        assert!(told(true, ack).starts_with("to-vf reset-ack 02:00:00:00:00:09 0x"));
        assert_eq!(told(false, [0; WORDS]), "to-pf unknown 0x00000000");
        let none = MailboxMessage {
            to_vf: false,
            words: None,
        };
        assert_eq!(none.to_string(), "to-pf closed");
    }
}
