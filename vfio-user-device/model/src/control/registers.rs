//! BAR0: what each register does when it is read and written. A VF's window maps onto the same
//! registers by `igb::vf::decode`; where the two differ, the requester decides.

use igb::function::{QUEUE_COUNT, queue_of_vf, vf_eitr};
use igb::queue_page::{self, QueueRegister};
use igb::vf::window_at;
use igb::{
    Access, CTRL_EXT, Decoded, EECD, FunctionId, ICR, MBVFIMR, PBACL, PVTCTRL, RTTDQSEL,
    RegisterId, SWSM, TXDCTL, VFLRE, VFRE, VFTE, Value,
};

use super::Control;
use super::clock;
use super::mailbox::{Bell, may_interrupt};
use super::publish::concerns_data_path;
use super::statistics;
use crate::effects::{Effects, FunctionSet};
use crate::host::ControlHost;

const NS_PER_MS: u64 = 1_000_000;

impl Control {
    /// A dword of a function's BAR0. `at` is a multiple of 4.
    pub(super) fn read_dword(
        &mut self,
        function: FunctionId,
        at: u32,
        host: &mut dyn ControlHost,
    ) -> u32 {
        if let Some((page, offset)) = extension_word(function, at) {
            return host.page_load(function, page, offset);
        }
        match decode(function, at) {
            // Drivers dump the causes by these, which clear nothing.
            Some((
                Decoded {
                    id: RegisterId::ICS,
                    ..
                },
                _,
            )) => self.interrupts.icr(),
            Some((
                Decoded {
                    id: RegisterId::EICS,
                    ..
                },
                _,
            )) => self.interrupts.eicr(FunctionId::PF),
            Some((_, Access::WriteOnly)) => 0,
            Some((decoded, _)) => self.read_register(function, decoded, host),
            None => 0,
        }
    }

    /// Write a dword of a function's BAR0. `at` is a multiple of 4.
    pub(super) fn write_dword(
        &mut self,
        function: FunctionId,
        at: u32,
        value: u32,
        effects: &mut Effects,
        host: &mut dyn ControlHost,
    ) {
        if let Some((page, offset)) = extension_word(function, at) {
            host.page_store(function, page, offset, value);
            effects.sync.insert(function);
            return;
        }
        let Some((decoded, access)) = decode(function, at) else {
            return;
        };
        if access != Access::ReadOnly {
            effects.merge(self.write_register(function, decoded, value, host));
        }
    }

    fn read_register(
        &mut self,
        function: FunctionId,
        at: Decoded,
        host: &mut dyn ControlHost,
    ) -> u32 {
        let Decoded { id, index } = at;
        if let Some(register) = QueueRegister::from_id(id) {
            return self.read_queue_register(function, index, register, host);
        }
        if let Some((owner, kind)) = interrupt_register(function, at) {
            return self.read_interrupt_register(owner, kind);
        }
        match id {
            RegisterId::STATUS => self.status(function).raw(),
            RegisterId::PVTSTATUS => {
                FunctionId::try_vf(index as u8).map_or(0, |vf| self.status(vf).raw())
            }
            RegisterId::PVTCTRL => 0,
            RegisterId::FRTIMER => (self.now / NS_PER_MS) as u32,
            RegisterId::FWSM => 0,
            RegisterId::SWSM => {
                let value = self.bank.get::<SWSM>();
                self.bank.set(value.set(SWSM::SMBI));
                value.raw()
            }
            id if clock::is_time(id) => self.read_time(id),
            RegisterId::ICR => self.interrupts.read_icr(&self.bank, host),
            RegisterId::IMS => self.interrupts.ims(),
            RegisterId::VMBMEM => self.mailboxes.load(index),
            RegisterId::V2PMAILBOX if function.is_vf() => self.mailboxes.read_v2p(index).raw(),
            RegisterId::V2PMAILBOX => self.mailboxes.v2p(index).raw(),
            RegisterId::P2VMAILBOX => self.mailboxes.p2v(index).raw(),
            RegisterId::MBVFICR => self.mailboxes.mbvficr(),
            RegisterId::VFLRE => VFLRE::VFLRE.put(self.vflre),
            RegisterId::RTTBCNRC => self
                .selected_rate()
                .map_or(0, |rate| self.rates[rate].raw()),
            RegisterId::WVBR => {
                let value = self.bank.load(id, index);
                self.bank.store(id, index, 0);
                value
            }
            _ => match id.info().access {
                Access::WriteOnly => 0,
                Access::ReadClear => statistics::read_clear(&mut self.bank, id, index),
                _ => self.bank.load(id, index),
            },
        }
    }

    fn write_register(
        &mut self,
        function: FunctionId,
        at: Decoded,
        value: u32,
        host: &mut dyn ControlHost,
    ) -> Effects {
        let Decoded { id, index } = at;
        if let Some(register) = QueueRegister::from_id(id) {
            return self.write_queue_register(function, index, register, value, host);
        }
        if let Some((owner, kind)) = interrupt_register(function, at) {
            self.write_interrupt_register(owner, kind, value, host);
            return Effects::NONE;
        }
        match id {
            RegisterId::CTRL => return self.write_ctrl(Value::from_raw(value), host),
            RegisterId::PVTCTRL => {
                if Value::<PVTCTRL>::from_raw(value).has(PVTCTRL::RST)
                    && let Some(vf) = FunctionId::try_vf(index as u8)
                {
                    return self.vf_software_reset(vf, host);
                }
            }
            RegisterId::CTRL_EXT => {
                let written = Value::<CTRL_EXT>::from_raw(value);
                if written.has(CTRL_EXT::PFRSTD) {
                    self.mailboxes.pf_reset_done();
                }
                let old = self.bank.get::<CTRL_EXT>();
                self.bank
                    .set(written.clear(CTRL_EXT::PFRSTD).clear(CTRL_EXT::EE_RST));
                if old.has(CTRL_EXT::EXT_VLAN) != written.has(CTRL_EXT::EXT_VLAN) {
                    return self.republish(FunctionSet::EMPTY);
                }
            }
            RegisterId::EECD => self.write_eecd(Value::from_raw(value)),
            RegisterId::EERD => self.bank.set(self.nvm.eerd(Value::from_raw(value))),
            RegisterId::MDIC => return self.write_mdic(Value::from_raw(value), host),
            RegisterId::FWSM => {}
            id if clock::is_time(id) => return self.write_time(id, value),
            RegisterId::ICR => self.interrupts.clear_icr(value, &self.bank, host),
            RegisterId::ICS => {
                let causes = value & !ICR::INTA.mask();
                self.interrupts.raise_other(causes, &self.bank, host);
            }
            RegisterId::IMS => self.interrupts.set_ims(value, &self.bank, host),
            RegisterId::IMC => self.interrupts.clear_ims(value, &self.bank, host),
            RegisterId::GPIE => {
                self.bank.store(id, index, value);
                self.interrupts.evaluate_line(&self.bank, host);
            }
            RegisterId::EITR => {
                self.bank.store(id, index, value);
                self.interrupts.throttle_changed(index, &self.bank, host);
            }
            RegisterId::PBACL => {
                let vectors = PBACL::PENBIT.get(value);
                self.interrupts.clear_pending(FunctionId::PF, vectors);
            }
            RegisterId::VMBMEM => self.mailboxes.store(index, value),
            RegisterId::V2PMAILBOX if function.is_vf() => {
                let bell = self.mailboxes.write_v2p(index, Value::from_raw(value));
                self.ring(bell, index, host);
            }
            RegisterId::V2PMAILBOX => {}
            RegisterId::P2VMAILBOX => {
                let bell = self.mailboxes.write_p2v(index, Value::from_raw(value));
                self.ring(bell, index, host);
            }
            RegisterId::MBVFICR => self.mailboxes.clear_mbvficr(value),
            RegisterId::VFLRE => self.vflre &= !VFLRE::VFLRE.get(value),
            RegisterId::RTTBCNRC => {
                if let Some(queue) = self.selected_rate() {
                    self.rates[queue] = Value::from_raw(value);
                    return self.republish(FunctionSet::EMPTY);
                }
            }
            RegisterId::MDFB => {
                let freed = self.bank.load(id, index) & value;
                self.bank
                    .store(id, index, self.bank.load(id, index) & !value);
                let mut owners = FunctionSet::EMPTY;
                for queue in (0..QUEUE_COUNT).filter(|queue| freed & 1 << queue != 0) {
                    self.freed[queue as usize] += 1;
                    if let Some((owner, _)) = self.queue_owner(queue) {
                        owners.insert(owner);
                    }
                }
                return self.republish(owners);
            }
            RegisterId::VFRE | RegisterId::VFTE => {
                let changed = self.bank.load(id, index) ^ value;
                let mask = VFRE::VFRE.mask() | VFTE::VFTE.mask();
                self.bank.store(id, index, value & mask);
                let functions = FunctionId::vfs()
                    .filter(|vf| vf.vf_index().is_some_and(|n| changed & 1 << n != 0))
                    .collect();
                return self.republish(functions);
            }
            RegisterId::RCTL | RegisterId::TCTL => {
                self.bank.store(id, index, value);
                return self.republish(FunctionSet::only(FunctionId::PF));
            }
            _ => return self.write_stored(at, value),
        }
        Effects::NONE
    }

    /// A register that is plain storage, by its kind of access.
    fn write_stored(&mut self, at: Decoded, value: u32) -> Effects {
        let old = self.bank.load(at.id, at.index);
        let new = match at.id.info().access {
            Access::ReadWrite => value,
            Access::WriteOneClear => old & !value,
            Access::WriteOneSet => old | value,
            Access::ReadOnly | Access::ReadClear | Access::WriteOnly => old,
        };
        self.bank.store(at.id, at.index, new);
        if concerns_data_path(at.id) && new != old {
            self.republish(FunctionSet::EMPTY)
        } else {
            Effects::NONE
        }
    }

    // Device.

    /// Access is granted as soon as it is asked for; what the EEPROM is cannot be changed.
    fn write_eecd(&mut self, value: Value<EECD>) {
        let grant = if value.has(EECD::EE_REQ) {
            EECD::EE_GNT.mask()
        } else {
            0
        };
        let fixed = Value::<EECD>::RESET.raw() & !EECD::FWE.mask();
        let writable = EECD::EE_SK.mask()
            | EECD::EE_CS.mask()
            | EECD::EE_DI.mask()
            | EECD::EE_REQ.mask()
            | EECD::FWE.mask();
        self.bank.set(Value::<EECD>::from_raw(
            fixed | value.raw() & writable | grant,
        ));
    }

    fn selected_rate(&self) -> Option<usize> {
        let queue = self.bank.get::<RTTDQSEL>().get(RTTDQSEL::TXDQ_IDX) as usize;
        (queue < self.rates.len()).then_some(queue)
    }

    // Mailbox.

    fn ring(&mut self, bell: Bell, vf: u32, host: &mut dyn ControlHost) {
        match bell {
            Bell::Nobody => {}
            Bell::Pf => {
                if may_interrupt(self.bank.get::<MBVFIMR>(), vf) {
                    self.interrupts
                        .raise_other(ICR::VMMB.mask(), &self.bank, host);
                }
            }
            Bell::Vf => self.interrupts.raise_mailbox(vf as u8, &self.bank, host),
        }
    }

    // Queues: the registers lie in the owner's page and nowhere else.

    fn read_queue_register(
        &mut self,
        function: FunctionId,
        queue: u32,
        register: QueueRegister,
        host: &mut dyn ControlHost,
    ) -> u32 {
        let Some((page, offset)) = own_slot(function, queue, register) else {
            return 0;
        };
        let value = host.page_load(function, page, offset);
        if register == QueueRegister::RQDPC {
            host.page_store(function, page, offset, 0);
        }
        value
    }

    fn write_queue_register(
        &mut self,
        function: FunctionId,
        queue: u32,
        register: QueueRegister,
        value: u32,
        host: &mut dyn ControlHost,
    ) -> Effects {
        let Some((page, offset)) = own_slot(function, queue, register) else {
            return Effects::NONE;
        };
        if register.id().info().access != Access::ReadWrite {
            return Effects::NONE;
        }
        host.page_store(function, page, offset, value);
        match register {
            QueueRegister::TDT => Effects {
                kick: true,
                ..Effects::NONE
            },
            QueueRegister::RXDCTL | QueueRegister::TXDCTL => Effects {
                sync: FunctionSet::only(function),
                kick: Value::<TXDCTL>::from_raw(value).has(TXDCTL::ENABLE),
                ..Effects::NONE
            },
            _ => Effects::NONE,
        }
    }

    // Interrupt registers, PF's and VFs'.

    fn read_interrupt_register(&mut self, owner: Owner, kind: Interrupt) -> u32 {
        let interrupts = &mut self.interrupts;
        let function = owner.function;
        let causes = match kind {
            Interrupt::Eicr if owner.observed => interrupts.eicr(function),
            Interrupt::Eicr => interrupts.read_eicr(function, &self.bank),
            Interrupt::Eims => interrupts.eims(function),
            Interrupt::Eiac => interrupts.eiac(function),
            Interrupt::Eiam => interrupts.eiam(function),
            Interrupt::Eics | Interrupt::Eimc => 0,
        };
        causes >> owner.shift
    }

    fn write_interrupt_register(
        &mut self,
        owner: Owner,
        kind: Interrupt,
        value: u32,
        host: &mut dyn ControlHost,
    ) {
        // Bits that are not the function's are cut off by `Interrupts`.
        let causes = if owner.shift == 0 {
            value
        } else {
            (value & VF_CAUSES) << owner.shift
        };
        let interrupts = &mut self.interrupts;
        let function = owner.function;
        match kind {
            Interrupt::Eicr => interrupts.clear_eicr(function, causes),
            Interrupt::Eics => interrupts.set_eicr(function, causes, &self.bank, host),
            Interrupt::Eims => interrupts.set_eims(function, causes, &self.bank, host),
            Interrupt::Eimc => interrupts.clear_eims(function, causes),
            Interrupt::Eiac => interrupts.write_eiac(function, causes),
            Interrupt::Eiam => interrupts.write_eiam(function, causes),
        }
    }
}

/// The causes of a VF as the VF counts them.
const VF_CAUSES: u32 = (1 << igb::function::VF_VECTORS) - 1;

/// Whose interrupt causes a register means, and where they lie in the card's EICR.
#[derive(Clone, Copy)]
struct Owner {
    function: FunctionId,
    shift: u32,
    /// The PF looks at a VF's register: a read must not clear it.
    observed: bool,
}

#[derive(Clone, Copy)]
enum Interrupt {
    Eicr,
    Eics,
    Eims,
    Eimc,
    Eiac,
    Eiam,
}

fn interrupt_register(requester: FunctionId, at: Decoded) -> Option<(Owner, Interrupt)> {
    let pf = || Owner {
        function: FunctionId::PF,
        shift: 0,
        observed: false,
    };
    let vf = || {
        let vf = at.index as u8;
        FunctionId::try_vf(vf).map(|function| Owner {
            function,
            shift: vf_eitr(vf, 0),
            observed: !requester.is_vf(),
        })
    };
    Some(match at.id {
        RegisterId::EICR => (pf(), Interrupt::Eicr),
        RegisterId::EICS => (pf(), Interrupt::Eics),
        RegisterId::EIMS => (pf(), Interrupt::Eims),
        RegisterId::EIMC => (pf(), Interrupt::Eimc),
        RegisterId::EIAC => (pf(), Interrupt::Eiac),
        RegisterId::EIAM => (pf(), Interrupt::Eiam),
        RegisterId::PVTEICR => (vf()?, Interrupt::Eicr),
        RegisterId::PVTEICS => (vf()?, Interrupt::Eics),
        RegisterId::PVTEIMS => (vf()?, Interrupt::Eims),
        RegisterId::PVTEIMC => (vf()?, Interrupt::Eimc),
        RegisterId::PVTEIAC => (vf()?, Interrupt::Eiac),
        RegisterId::PVTEIAM => (vf()?, Interrupt::Eiam),
        _ => return None,
    })
}

/// The register at an offset and what the requester may do with it.
fn decode(function: FunctionId, at: u32) -> Option<(Decoded, Access)> {
    match function.vf_index() {
        None => igb::decode(at).map(|decoded| (decoded, decoded.id.info().access)),
        Some(vf) => {
            let (window, _) = window_at(at)?;
            Some((igb::vf::decode(vf, at)?, window.access))
        }
    }
}

/// Where a function's own page has a register of the card's queue. The PF's page has a place for each
/// of the card's queues; those of VFs are dead storage there.
fn own_slot(
    function: FunctionId,
    queue: u32,
    register: QueueRegister,
) -> Option<(queue_page::Page, u32)> {
    let own = match function.vf_index() {
        None => queue,
        Some(vf) => queue_of_vf(queue).filter(|(owner, _)| *owner == vf)?.1,
    };
    queue_page::slot(function.kind(), own, register)
}

/// The words of the wake protocol, which are no registers.
fn extension_word(function: FunctionId, at: u32) -> Option<(queue_page::Page, u32)> {
    let (page, offset) = queue_page::Page::at(function.kind(), at)?;
    let word = [queue_page::DOORBELL_WAKE, queue_page::DOORBELL_ASLEEP].contains(&offset);
    (page == queue_page::Page::Tx && word).then_some((page, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vf_reaches_only_its_own_queues_in_its_own_page() {
        for vf in 0..igb::function::VF_COUNT {
            let function = FunctionId::vf(vf);
            let reached: Vec<_> = (0..igb::function::QUEUE_COUNT)
                .filter(|queue| own_slot(function, *queue, QueueRegister::TDT).is_some())
                .collect();
            assert_eq!(reached, [u32::from(vf), u32::from(vf) + 8]);
        }
    }
}
