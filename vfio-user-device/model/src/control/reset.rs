//! Resets (datasheet 4.2): FLR and CTRL.RST of the PF, FLR and VTCTRL.RST of a VF. A reset of a
//! function reaches only that function; one of the PF reaches all, and VFs see it as RSTI.

use igb::{FunctionId, ICR, PSRTYPE, RAH, RAL, RegisterId, VFRE, VFTE, Value};

use super::Control;
use super::interrupt::reset_vf_vectors;
use super::statistics;
use crate::effects::{Effects, FunctionSet};
use crate::host::ControlHost;

impl Control {
    /// Function-level reset.
    pub fn reset_function(&mut self, function: FunctionId, host: &mut dyn ControlHost) -> Effects {
        if !self.is_enabled(function) {
            return Effects::NONE;
        }
        if function.is_vf() {
            let effects = self.vf_function_reset(function, host);
            self.tell_vf_reset(function, host);
            return effects;
        }
        // The VFs go with VF Enable, which is part of the PF's configuration space.
        let mut effects = self.stop_sriov(host);
        self.pf_config.reset();
        self.msix[FunctionId::PF.slot()].reset();
        self.io_address = 0;
        effects.merge(self.pf_software_reset(host));
        effects.merge(self.reset_phy(host));
        self.select_single_interrupt(host);
        effects
    }

    /// CTRL.RST.
    pub(super) fn pf_software_reset(&mut self, host: &mut dyn ControlHost) -> Effects {
        let mut functions = FunctionSet::only(FunctionId::PF);
        functions = functions.union(FunctionId::vfs().take(usize::from(self.vfs)).collect());
        for function in functions.iter() {
            self.interrupts.reset(function, host);
            self.begin_epoch(function);
        }
        self.reset_registers();
        self.reset_effects(functions)
    }

    /// Registers as after CTRL.RST. Kept are the sizes of packet buffers, and the counters of VFs,
    /// whose drivers take a step back for a wrap.
    pub(super) fn reset_registers(&mut self) {
        self.bank.reset_where(|id| {
            !matches!(
                id,
                RegisterId::RXPBS | RegisterId::TXPBS | RegisterId::SWPBS
            ) && !statistics::is_vf_counter(id)
        });
        // The 82576 enables every VF after reset, behind RCTL.RXEN and TCTL.EN. Here those two gate
        // the PF only, and a VF waits until the PF driver has enabled it.
        self.bank.set(Value::<VFRE>::from_raw(0));
        self.bank.set(Value::<VFTE>::from_raw(0));
        let (low, high) = self.nvm.mac().to_words();
        self.bank.set_at::<RAL>(0, Value::from_raw(low));
        self.bank
            .set_at::<RAH>(0, Value::from_raw(u32::from(high)).set(RAH::AV));
        self.clock.reset(self.now);
        self.rates.fill(Value::default());
        self.vflre = 0;
        self.mailboxes.pf_reset();
        self.config_stale = true;
    }

    /// FLR of a VF, and what VF Enable does to it: nothing of the old owner is left.
    pub(super) fn vf_function_reset(
        &mut self,
        function: FunctionId,
        host: &mut dyn ControlHost,
    ) -> Effects {
        let Some(vf) = function.vf_index() else {
            return Effects::NONE;
        };
        self.vf_configs[usize::from(vf)].reset();
        self.msix[function.slot()].reset();
        statistics::clear_vf(&mut self.bank, vf);
        self.vf_registers_reset(function, vf, host)
    }

    /// VTCTRL.RST.
    pub(super) fn vf_software_reset(
        &mut self,
        function: FunctionId,
        host: &mut dyn ControlHost,
    ) -> Effects {
        let Some(vf) = function.vf_index().filter(|vf| *vf < self.vfs) else {
            return Effects::NONE;
        };
        let effects = self.vf_registers_reset(function, vf, host);
        self.tell_vf_reset(function, host);
        effects
    }

    fn vf_registers_reset(
        &mut self,
        function: FunctionId,
        vf: u8,
        host: &mut dyn ControlHost,
    ) -> Effects {
        self.interrupts.reset(function, host);
        reset_vf_vectors(vf, &mut self.bank);
        self.bank.set_at::<PSRTYPE>(u32::from(vf), Value::RESET);
        self.mailboxes.vf_reset(vf);
        let disabled = |bits: u32| bits & !(1 << vf);
        let vfre = self.bank.get::<VFRE>().raw();
        self.bank.set(Value::<VFRE>::from_raw(disabled(vfre)));
        let vfte = self.bank.get::<VFTE>().raw();
        self.bank.set(Value::<VFTE>::from_raw(disabled(vfte)));
        self.begin_epoch(function);
        self.reset_effects(FunctionSet::only(function))
    }

    /// VFLRE and the mailbox share ICR.VMMB.
    fn tell_vf_reset(&mut self, function: FunctionId, host: &mut dyn ControlHost) {
        if let Some(vf) = function.vf_index() {
            self.vflre |= 1 << vf;
            self.interrupts
                .raise_other(ICR::VMMB.mask(), &self.bank, host);
        }
    }

    fn begin_epoch(&mut self, function: FunctionId) {
        self.epochs[function.slot()] += 1;
        self.reset_versions[function.slot()] = self.next_version();
        let report = self.report.function_mut(function);
        report.resets = report.resets.wrapping_add(1);
    }

    fn reset_effects(&mut self, functions: FunctionSet) -> Effects {
        let effects = self.republish(functions);
        Effects {
            clear_pages: functions,
            reset_done: functions,
            ..effects
        }
    }
}
