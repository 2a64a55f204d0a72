//! A digest of what belongs to one function, to show that another function's doings left it alone.

use std::hash::{DefaultHasher, Hash, Hasher};

use igb::function::vf_eitr;
use igb::vf::WINDOW;
use igb::{DTXSWC, EITR, FunctionId, RAH, RAL, Register, VFRE, VFTE, VLVF, VMOLR, VMVIR};

use super::Control;

impl Control {
    /// A digest of all state that belongs to one function: its configuration space, MSI-X table,
    /// registers, interrupts, mailbox, filters and limits, and whether it is enabled. Equal states
    /// give equal digests. The PF's covers every register of BAR0.
    #[must_use]
    pub fn digest(&self, function: FunctionId) -> u64 {
        let mut hasher = DefaultHasher::new();
        let state = &mut hasher;
        self.is_enabled(function).hash(state);
        self.config_of(function).hash(state);
        self.msix[function.slot()].hash(state);
        self.interrupts.state_of(function).hash(state);
        self.epochs[function.slot()].hash(state);
        match function.vf_index() {
            Some(vf) => self.hash_vf(u32::from(vf), vf, state),
            None => {
                self.bank.hash(state);
                self.phy.hash(state);
                self.mailboxes.hash(state);
                self.vflre.hash(state);
                self.cable.hash(state);
                self.rates.iter().for_each(|rate| rate.raw().hash(state));
            }
        }
        hasher.finish()
    }

    fn hash_vf(&self, pool: u32, vf: u8, state: &mut DefaultHasher) {
        for info in &WINDOW {
            for index in 0..info.count {
                if let Some(at) = igb::vf::decode(vf, info.offset + index * info.stride) {
                    self.bank.load(at.id, at.index).hash(state);
                }
            }
        }
        for vector in 0..igb::function::VF_VECTORS {
            self.bank
                .get_at::<EITR>(vf_eitr(vf, vector))
                .raw()
                .hash(state);
        }
        self.mailboxes.v2p(pool).raw().hash(state);
        for word in 0..igb::mailbox::WORDS as u32 {
            self.mailboxes
                .load(pool * igb::mailbox::WORDS as u32 + word)
                .hash(state);
        }
        let bit = |bits: u32| bits >> pool & 1;
        bit(self.mailboxes.mbvficr()).hash(state);
        bit(self.vflre).hash(state);
        bit(self.bank.get::<VFRE>().get(VFRE::VFRE)).hash(state);
        bit(self.bank.get::<VFTE>().get(VFTE::VFTE)).hash(state);
        let dtxswc = self.bank.get::<DTXSWC>();
        [DTXSWC::MACAS, DTXSWC::VLANAS, DTXSWC::LLE]
            .map(|field| bit(dtxswc.get(field)))
            .hash(state);
        self.bank.get_at::<VMOLR>(pool).raw().hash(state);
        self.bank.get_at::<VMVIR>(pool).raw().hash(state);
        for n in 0..RAH::COUNT {
            let high = self.bank.get_at::<RAH>(n);
            if high.has(RAH::AV) && bit(high.get(RAH::POOLSEL)) != 0 {
                (n, self.bank.get_at::<RAL>(n).raw(), high.get(RAH::RAH)).hash(state);
            }
        }
        for n in 0..VLVF::COUNT {
            let entry = self.bank.get_at::<VLVF>(n);
            if entry.has(VLVF::VI_EN) && bit(entry.get(VLVF::POOLSEL)) != 0 {
                (n, entry.get(VLVF::VLAN_ID)).hash(state);
            }
        }
        for queue in 0..igb::function::VF_QUEUES {
            let queue = igb::function::vf_queue(vf, queue) as usize;
            self.rates[queue].raw().hash(state);
        }
    }
}
