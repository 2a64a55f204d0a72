//! Requests as config blocks carry them.

use igb::frame::MacAddress;
use mediator_protocol::block::{
    self, Accept, Config, ConfigFlags, Control, Features, Stats, VfRequest,
};
use mediator_protocol::{BlockData, Invalid};

use super::{Arbiter, Ask, Refusal};
use crate::policy::LinkState;
use crate::vport::{LINK_MBITS, Phase};

/// What this driver offers to VFs.
pub const OFFERED: Features = Features::all();

impl Arbiter {
    /// Decides the write of a config block.
    ///
    /// # Errors
    ///
    /// The refusal; nothing changed.
    pub fn write_block(&mut self, vf: u16, id: u32, data: &[u8]) -> Result<(), Refusal> {
        match id {
            block::CONTROL => {
                let verdict = self.accept(vf, data);
                self.count(vf, "accept", verdict)
            }
            block::REQUEST => match self.block_request(vf, data) {
                Ok(ask) => self.ask(vf, &ask),
                Err(refusal) => self.count(vf, "request", Err(refusal)),
            },
            block::CONFIG | block::STATS => self.count(vf, "write", Err(Refusal::BlockAccess)),
            _ => self.count(vf, "write", Err(Refusal::UnknownBlock)),
        }
    }

    /// Decides the read of a config block. `link_up` is the port's link, `stats` what the card has
    /// counted for the VF.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub fn read_block(
        &mut self,
        vf: u16,
        id: u32,
        link_up: bool,
        stats: &Stats,
    ) -> Result<BlockData, Refusal> {
        let verdict = self.block(vf, id, link_up, stats);
        self.count(vf, "read", verdict)
    }

    fn accept(&mut self, vf: u16, data: &[u8]) -> Result<(), Refusal> {
        let (vf, vport) = self.vport(vf)?;
        let accept = Accept::parse(data).map_err(refusal)?;
        if vport.accepted.is_some() {
            return Err(Refusal::AlreadyNegotiated);
        }
        if accept.version != block::VERSION {
            return Err(Refusal::UnknownVersion);
        }
        if !OFFERED.contains(accept.features) {
            return Err(Refusal::FeatureNotOffered);
        }
        self.change(vf, |vport| vport.accepted = Some(accept.features.bits()))
    }

    fn block_request(&self, vf: u16, data: &[u8]) -> Result<Ask, Refusal> {
        let (_, vport) = self.vport(vf)?;
        let request = VfRequest::parse(data).map_err(refusal)?;
        let accepted = vport.accepted.ok_or(Refusal::NotNegotiated)?;
        let needed = match request {
            VfRequest::Init | VfRequest::SetMac(_) => Features::empty(),
            VfRequest::AddMac(_) | VfRequest::DelMac(_) => Features::EXTRA_MACS,
            VfRequest::AddVlan(_) | VfRequest::DelVlan(_) => Features::VLANS,
            VfRequest::SetMulticast { .. } => Features::MULTICAST,
            VfRequest::SetMtu(_) => Features::MTU,
            VfRequest::SetPromisc { .. } => Features::PROMISC,
        };
        if !Features::from_bits_truncate(accepted).contains(needed) {
            return Err(Refusal::FeatureNotAccepted);
        }
        ask_of(&request)
    }

    fn block(&self, vf: u16, id: u32, link_up: bool, stats: &Stats) -> Result<BlockData, Refusal> {
        let (_, vport) = self.vport(vf)?;
        match id {
            block::CONTROL => Ok(Control {
                version: block::VERSION,
                offered: OFFERED,
                accepted: Features::from_bits_truncate(vport.accepted.unwrap_or(0)),
            }
            .encode()),
            block::CONFIG | block::STATS if vport.phase != Phase::Active => {
                Err(Refusal::NotInitialized)
            }
            block::CONFIG => Ok(self.config(vf as u8, link_up).encode()),
            block::STATS => {
                let accepted = Features::from_bits_truncate(vport.accepted.unwrap_or(0));
                if accepted.contains(Features::STATS) {
                    Ok(stats.encode())
                } else {
                    Err(Refusal::FeatureNotAccepted)
                }
            }
            block::REQUEST => Err(Refusal::BlockAccess),
            _ => Err(Refusal::UnknownBlock),
        }
    }

    /// What a VF is told of its configuration; all zero for a VF that does not exist.
    #[must_use]
    pub fn config(&self, vf: u8, link_up: bool) -> Config {
        let Some(vport) = self.switch.vport(vf) else {
            return Config::default();
        };
        let policy = &vport.policy;
        let link_up = self.link_of(vf, link_up);
        let mut flags = ConfigFlags::empty();
        for (on, flag) in [
            (policy.mac.is_some(), ConfigFlags::MAC_BY_ADMIN),
            (policy.vlan.is_some(), ConfigFlags::VLAN_BY_ADMIN),
            (link_up, ConfigFlags::LINK_UP),
            (policy.trust, ConfigFlags::TRUSTED),
            (policy.spoofchk, ConfigFlags::SPOOFCHK),
            (vport.promisc_unicast, ConfigFlags::PROMISC_UNICAST),
            (vport.promisc_multicast, ConfigFlags::PROMISC_MULTICAST),
        ] {
            flags.set(flag, on);
        }
        Config {
            mac: vport.mac.bytes(),
            flags,
            vlan: policy.vlan.map_or(0, |vlan| vlan.vid),
            qos: policy.vlan.map_or(0, |vlan| vlan.qos),
            mtu: vport.mtu,
            max_mtu: self.switch.max_mtu(policy),
            speed: if link_up { LINK_MBITS } else { 0 },
            max_tx_rate: policy.max_tx_rate,
        }
    }

    /// Whether a VF's link is up, given the port's.
    #[must_use]
    pub fn link_of(&self, vf: u8, port_up: bool) -> bool {
        match self.switch.vport(vf).map(|vport| vport.policy.link_state) {
            Some(LinkState::Auto) => port_up,
            Some(LinkState::Enable) => true,
            Some(LinkState::Disable) | None => false,
        }
    }
}

fn refusal(invalid: Invalid) -> Refusal {
    match invalid {
        Invalid::UnknownKind(_) => Refusal::UnknownMessage,
        Invalid::Value {
            field: "request operation",
            ..
        } => Refusal::UnknownMessage,
        Invalid::Value {
            field: "VLAN id", ..
        } => Refusal::InvalidVlan,
        _ => Refusal::Malformed,
    }
}

fn ask_of(request: &VfRequest) -> Result<Ask, Refusal> {
    Ok(match request {
        VfRequest::Init => Ask::Init,
        VfRequest::SetMac(mac) => Ask::SetMac(MacAddress(*mac)),
        VfRequest::AddMac(mac) => Ask::AddMac(MacAddress(*mac)),
        VfRequest::DelMac(mac) => Ask::DelMac(MacAddress(*mac)),
        VfRequest::AddVlan(vid) => Ask::AddVlan(*vid),
        VfRequest::DelVlan(vid) => Ask::DelVlan(*vid),
        VfRequest::SetMulticast { append, list } => {
            let hashes = list.iter().map(|mac| {
                let mac = MacAddress(*mac);
                if mac.is_multicast() {
                    Ok(mac.hash(crate::MULTICAST_OFFSET))
                } else {
                    Err(Refusal::NotMulticast)
                }
            });
            Ask::SetMulticast {
                append: *append,
                hashes: hashes.collect::<Result<_, _>>()?,
            }
        }
        VfRequest::SetMtu(mtu) => Ask::SetMtu(*mtu),
        VfRequest::SetPromisc { unicast, multicast } => Ask::SetPromisc {
            unicast: *unicast,
            multicast: *multicast,
        },
    })
}
