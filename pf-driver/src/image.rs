//! What the NIC switch means for the card's registers.
//!
//! [`Image::of`] computes the value of every register that policy decides, from the state alone.
//! [`Shadow::apply`] writes those that differ from what the card holds. So a request that is refused
//! writes nothing, one that is granted writes only what it changes, and adopting running VFs
//! disturbs none of them.

use std::collections::BTreeMap;

use igb::frame::{MacAddress, TAG_LENGTH, VlanId, VlanTag};
use igb::{
    DTXSWC, MTA, QDE, RAH, RAL, RTTBCNRC, RTTBCNRM, RTTDQSEL, Register, UTA, VFRE, VFTA, VFTE,
    VLVF, VMOLR, VMVIR, VT_CTL, Value,
};
use igb_driver::Registers;
use igb_driver::queue::packet_length;
use iommu::function::FunctionError;

use crate::filters::{RAR_COUNT, RAR_EXTRA, RAR_PF, rar_of_vf};
use crate::policy::LinkState;
use crate::vport::{LINK_MBITS, NicSwitch, PF_POOL, Phase, VPort};

/// Values of registers by their offset in BAR0, and the rate limits, which lie behind a selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    registers: BTreeMap<u32, u32>,
    rates: BTreeMap<u32, u32>,
}

impl Image {
    /// What the card's registers must hold for this state.
    #[must_use]
    pub fn of(switch: &NicSwitch) -> Self {
        let mut image = Self::default();
        image.blank();
        image.addresses(switch);
        image.vlans(switch);
        image.pools(switch);
        for (vf, vport) in switch.vports() {
            let limit = rate_limit(vport.policy.max_tx_rate);
            for queue in 0..igb::function::VF_QUEUES {
                image
                    .rates
                    .insert(igb::function::vf_queue(vf, queue), limit);
            }
        }
        image
    }

    fn set<R: Register>(&mut self, index: u32, value: Value<R>) {
        self.registers.insert(R::offset(index), value.raw());
    }

    /// Sets bit `bit` of a register array that is one table of bits.
    fn set_bit<R: Register>(&mut self, bit: u16) {
        let offset = R::offset(u32::from(bit) / 32);
        *self.registers.entry(offset).or_default() |= 1 << (bit % 32);
    }

    /// Every table entry in its unused state.
    fn blank(&mut self) {
        fn clear<R: Register>(image: &mut Image) {
            for index in 0..R::COUNT {
                image.set::<R>(index, Value::from_raw(0));
            }
        }
        clear::<RAL>(self);
        clear::<RAH>(self);
        clear::<MTA>(self);
        clear::<UTA>(self);
        clear::<VFTA>(self);
        clear::<VLVF>(self);
        clear::<VMVIR>(self);
        for pool in 0..VMOLR::COUNT {
            self.set::<VMOLR>(pool, Value::RESET);
        }
    }

    fn address(&mut self, entry: u32, mac: MacAddress, pool: u8) {
        debug_assert!(entry < RAR_COUNT);
        let (low, high) = mac.to_words();
        self.set::<RAL>(entry, Value::from_raw(low));
        let high = Value::<RAH>::from_raw(0)
            .with(RAH::RAH, high.into())
            .with(RAH::POOLSEL, 1 << pool)
            .set(RAH::AV);
        self.set(entry, high);
    }

    /// Unicast and multicast filters (datasheet 8.10, 7.10.3.3).
    fn addresses(&mut self, switch: &NicSwitch) {
        self.address(RAR_PF, switch.pf_mac, PF_POOL);
        for (vf, vport) in switch.vports() {
            self.address(rar_of_vf(vf), vport.mac, vf);
            for hash in &vport.multicast {
                self.set_bit::<MTA>(*hash);
            }
            if vport.promisc_unicast {
                // The only way to unknown unicast for one pool: every hash, and VMOLR.ROPE.
                for index in 0..UTA::COUNT {
                    self.set::<UTA>(index, Value::from_raw(u32::MAX));
                }
            }
        }
        for (slot, entry) in switch.macs.iter() {
            self.address(RAR_EXTRA + slot, entry.mac, entry.vf);
        }
    }

    /// VLAN filters and membership (datasheet 8.10 VFTA, 8.14 VLVF).
    fn vlans(&mut self, switch: &NicSwitch) {
        // Priority-tagged frames belong to no VLAN.
        self.set_bit::<VFTA>(0);
        for (slot, entry) in switch.vlans.iter() {
            self.set_bit::<VFTA>(entry.vid);
            let value = Value::<VLVF>::from_raw(0)
                .with(VLVF::VLAN_ID, entry.vid.into())
                .with(VLVF::POOLSEL, entry.pools.into())
                .set(VLVF::VI_EN);
            self.set(slot, value);
        }
    }

    /// What each pool may receive and send (datasheet 7.10.3, 8.14).
    fn pools(&mut self, switch: &NicSwitch) {
        let pf = Value::<VMOLR>::from_raw(0)
            .with(VMOLR::RLPML, packet_length(switch.pf_mtu))
            .set(VMOLR::LPE)
            .set(VMOLR::AUPE)
            .set(VMOLR::ROMPE)
            .set(VMOLR::BAM)
            .set(VMOLR::MPME)
            .set(VMOLR::STRCRC);
        self.set(PF_POOL.into(), pf);
        let (mut enabled, mut mac_checked) = (1 << PF_POOL, 0);
        for (vf, vport) in switch.vports() {
            self.set(vf.into(), vmolr(vport));
            self.set(vf.into(), vmvir(vport));
            enabled |= u32::from(has_queues(vport)) << vf;
            mac_checked |= u32::from(vport.policy.spoofchk) << vf;
        }
        self.set::<VFRE>(0, Value::from_raw(0).with(VFRE::VFRE, enabled));
        self.set::<VFTE>(0, Value::from_raw(0).with(VFTE::VFTE, enabled));
        let mut dtxswc = Value::<DTXSWC>::from_raw(0)
            .with(DTXSWC::MACAS, mac_checked)
            .with(DTXSWC::VLANAS, mac_checked);
        let mut vt_ctl = Value::<VT_CTL>::from_raw(0).with(VT_CTL::DEF_PL, PF_POOL.into());
        if switch.is_created() {
            dtxswc = dtxswc.set(DTXSWC::LOOPBACK_EN);
            vt_ctl = vt_ctl.set(VT_CTL::REPL_EN);
        }
        self.set(0, dtxswc);
        self.set(0, vt_ctl);
        // A pool that does not keep up must not hold the packet buffer against the others.
        self.set::<QDE>(0, Value::from_raw(0).with(QDE::QUEUES, u32::MAX));
    }

    /// Whether two states mean the same for everything that is not VF `vf`'s own.
    #[cfg(test)]
    pub(crate) fn without_vf(&self, vf: u8) -> Self {
        let mut image = self.clone();
        image.registers.remove(&RAL::offset(rar_of_vf(vf)));
        image.registers.remove(&RAH::offset(rar_of_vf(vf)));
        image.registers.remove(&VMOLR::offset(vf.into()));
        image.registers.remove(&VMVIR::offset(vf.into()));
        for mask in [VFRE::OFFSET, VFTE::OFFSET] {
            *image.registers.entry(mask).or_default() &= !(1 << vf);
        }
        // Tables that all share: entries of this VF alone count as empty.
        for entry in RAR_EXTRA..rar_of_vf(crate::vport::MAX_VFS - 1) {
            if Value::<RAH>::from_raw(image.registers[&RAH::offset(entry)]).get(RAH::POOLSEL)
                == 1 << vf
            {
                image.registers.insert(RAL::offset(entry), 0);
                image.registers.insert(RAH::offset(entry), 0);
            }
        }
        for entry in 0..VLVF::COUNT {
            let value = Value::<VLVF>::from_raw(image.registers[&VLVF::offset(entry)]);
            let others = value.get(VLVF::POOLSEL) & !(1 << vf);
            let value = if others == 0 {
                Value::from_raw(0)
            } else {
                value.with(VLVF::POOLSEL, others)
            };
            image.registers.insert(VLVF::offset(entry), value.raw());
        }
        let hashes = MTA::OFFSET..MTA::OFFSET + 4 * MTA::COUNT;
        let unicast = UTA::OFFSET..UTA::OFFSET + 4 * UTA::COUNT;
        let vlans = VFTA::OFFSET..VFTA::OFFSET + 4 * VFTA::COUNT;
        image.registers.retain(|offset, _| {
            !hashes.contains(offset) && !unicast.contains(offset) && !vlans.contains(offset)
        });
        image
    }
}

/// Whether a VF's queues run.
fn has_queues(vport: &VPort) -> bool {
    vport.phase == Phase::Active && vport.policy.link_state != LinkState::Disable
}

fn vmolr(vport: &VPort) -> Value<VMOLR> {
    let mut longest = packet_length(vport.mtu);
    if vport.policy.vlan.is_some() {
        // The tag that the card adds and strips does not come out of the VF's MTU.
        longest += TAG_LENGTH as u32;
    }
    let mut value = Value::<VMOLR>::from_raw(0)
        .with(VMOLR::RLPML, longest)
        .set(VMOLR::LPE)
        .set(VMOLR::BAM)
        .set(VMOLR::STRCRC);
    for (on, field) in [
        (vport.policy.vlan.is_none(), VMOLR::AUPE),
        (vport.policy.vlan.is_some(), VMOLR::STRVLAN),
        (!vport.multicast.is_empty(), VMOLR::ROMPE),
        (vport.promisc_unicast, VMOLR::ROPE),
        (vport.promisc_multicast, VMOLR::MPME),
    ] {
        if on {
            value = value.set(field);
        }
    }
    value
}

fn vmvir(vport: &VPort) -> Value<VMVIR> {
    /// VMVIR.VLANA: always insert the port's tag.
    const ALWAYS: u32 = 1;
    let tag = vport
        .policy
        .vlan
        .and_then(|vlan| Some(VlanTag::new(VlanId::new(vlan.vid)?, vlan.qos)));
    match tag {
        Some(tag) => Value::from_raw(0)
            .with(VMVIR::PORT_VLAN_ID, tag.0.into())
            .with(VMVIR::VLANA, ALWAYS),
        None => Value::from_raw(0),
    }
}

/// RTTBCNRM.MMW_SIZE in units of 64 bytes, as Linux's igb and the datasheet's example have it.
pub(crate) const MMW_SIZE: u32 = 0x14;

/// RTTBCNRC: the link's rate divided by the limit, 14 bits of fraction (datasheet 8.12).
fn rate_limit(mbits: u32) -> u32 {
    if mbits == 0 {
        return 0;
    }
    let whole = LINK_MBITS / mbits;
    let fraction = ((LINK_MBITS % mbits) << RTTBCNRC::RF_DEC.width()) / mbits;
    Value::<RTTBCNRC>::from_raw(0)
        .with(RTTBCNRC::RF_INT, whole)
        .with(RTTBCNRC::RF_DEC, fraction)
        .set(RTTBCNRC::RS_ENA)
        .raw()
}

/// What the card's registers hold, as far as this driver knows.
#[derive(Debug, Default)]
pub struct Shadow {
    held: Image,
}

impl Shadow {
    /// Reads from the card every register that an image decides.
    ///
    /// # Errors
    ///
    /// The card is gone.
    pub fn read(regs: &Registers, like: &Image) -> Result<Self, FunctionError> {
        let mut held = Image::default();
        for offset in like.registers.keys() {
            held.registers.insert(*offset, regs.load(*offset)?);
        }
        Ok(Self { held })
    }

    /// Makes the card hold `image`. What takes a queue away comes first and what gives one comes
    /// last, so that no queue runs under rules that are half written.
    ///
    /// # Errors
    ///
    /// The card is gone; what it holds is then of no interest.
    pub fn apply(&mut self, regs: &Registers, image: &Image) -> Result<(), FunctionError> {
        let gates = [VFTE::OFFSET, VFRE::OFFSET];
        for gate in gates {
            let both = self.held.registers.get(&gate).copied().unwrap_or(0)
                & image.registers.get(&gate).copied().unwrap_or(0);
            self.store(regs, gate, both)?;
        }
        for (offset, value) in &image.registers {
            if gates.contains(offset) {
                continue;
            }
            self.store(regs, *offset, *value)?;
        }
        for (queue, limit) in &image.rates {
            // One that was never written is not known: they lie behind a selector, unread at probe.
            if self.held.rates.get(queue) != Some(limit) {
                regs.write(Value::<RTTDQSEL>::from_raw(0).with(RTTDQSEL::TXDQ_IDX, *queue))?;
                regs.write(Value::<RTTBCNRM>::from_raw(0).with(RTTBCNRM::MMW_SIZE, MMW_SIZE))?;
                regs.write(Value::<RTTBCNRC>::from_raw(*limit))?;
                self.held.rates.insert(*queue, *limit);
            }
        }
        for gate in gates {
            self.store(regs, gate, image.registers.get(&gate).copied().unwrap_or(0))?;
        }
        Ok(())
    }

    fn store(&mut self, regs: &Registers, offset: u32, value: u32) -> Result<(), FunctionError> {
        if self.held.registers.get(&offset) == Some(&value) {
            return Ok(());
        }
        // An address entry that changes is invalid in between: its first half is written first.
        if let Some(entry) = (0..RAR_COUNT).find(|entry| RAL::offset(*entry) == offset) {
            let high = RAH::offset(entry);
            if self.held.registers.get(&high).is_none_or(|held| *held != 0) {
                regs.store(high, 0)?;
                self.held.registers.insert(high, 0);
            }
        }
        regs.store(offset, value)?;
        self.held.registers.insert(offset, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_fractions_of_the_link() {
        assert_eq!(rate_limit(0), 0);
        let get = |mbits, field: igb::Field<RTTBCNRC>| field.get(rate_limit(mbits));
        assert_eq!(get(100, RTTBCNRC::RF_INT), 10);
        assert_eq!(get(100, RTTBCNRC::RF_DEC), 0);
        assert_eq!(get(300, RTTBCNRC::RF_INT), 3);
        assert_eq!(get(300, RTTBCNRC::RF_DEC), 0x4000 / 3);
        assert_eq!(get(1, RTTBCNRC::RF_INT), 1000);
    }
}
