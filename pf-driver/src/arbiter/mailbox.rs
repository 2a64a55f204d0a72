//! Requests as the 82576's mailbox words carry them.

use igb::mailbox::{Invalid, PfReply, VfMessage, Words};

use super::{Arbiter, Ask, Refusal};
use crate::vport::Phase;

/// Bytes of a packet around its MTU, as a VF counts them for SET_LPE: header, tag, FCS.
const LPE_OVERHEAD: u32 = igb_driver::queue::packet_length(0);

impl Arbiter {
    /// Decides a mailbox message of VF `vf`, and gives the words of the answer.
    pub fn mailbox(&mut self, vf: u16, words: &Words) -> (Result<(), Refusal>, PfReply) {
        let asked = match VfMessage::parse(words) {
            Ok(message) => ask_of(&message),
            Err(Invalid::UnknownMessage(_) | Invalid::UnknownInfo(_)) => {
                Err(Refusal::UnknownMessage)
            }
            Err(Invalid::VlanId(_)) => Err(Refusal::InvalidVlan),
            Err(Invalid::NoAnswer(_)) => Err(Refusal::Malformed),
        };
        let verdict = match &asked {
            Ok(ask) => self.ask(vf, ask),
            Err(refusal) => self.count(vf, "mailbox", Err(*refusal)),
        };
        let vport = self.vport(vf).ok().map(|(_, vport)| vport);
        let cts = vport.is_some_and(|vport| vport.phase == Phase::Active);
        let request = words[0];
        let reply = match (verdict, asked, vport) {
            (Ok(()), Ok(Ask::Init), Some(vport)) => vport
                .given_mac()
                .map_or(PfReply::ResetNack, PfReply::ResetAck),
            (Ok(()), ..) => PfReply::Ack { request, cts },
            (Err(_), ..) => PfReply::Nack { request, cts },
        };
        (verdict, reply)
    }
}

fn ask_of(message: &VfMessage) -> Result<Ask, Refusal> {
    Ok(match *message {
        VfMessage::Reset => Ask::Init,
        VfMessage::SetMac(mac) => Ask::SetMac(mac),
        VfMessage::ClearMacFilters => Ask::ClearMacs,
        VfMessage::AddMacFilter(mac) => Ask::AddMac(mac),
        VfMessage::SetMulticast(list) if list.overflows() => return Err(Refusal::MulticastLimit),
        VfMessage::SetMulticast(list) => Ask::SetMulticast {
            append: false,
            hashes: list.as_slice().to_vec(),
        },
        VfMessage::SetVlan { add: true, vid } => Ask::AddVlan(vid),
        VfMessage::SetVlan { add: false, vid } => Ask::DelVlan(vid),
        VfMessage::SetLpe(length) => Ask::SetMtu(length.saturating_sub(LPE_OVERHEAD)),
        VfMessage::SetPromisc { unicast, multicast } => Ask::SetPromisc { unicast, multicast },
    })
}
