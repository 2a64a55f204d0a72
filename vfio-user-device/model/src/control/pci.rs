//! What writes to configuration space mean: bus master, power state, FLR, SR-IOV.

use igb::FunctionId;
use igb::pci::{command, express, header, msi, msix, offset, pm, sriov, status};

use super::Control;
use super::interrupt::SingleMode;
use crate::config_space::ConfigSpace;
use crate::effects::{Effects, FunctionSet};
use crate::host::ControlHost;

const SRIOV_CONTROL: u16 = offset::SRIOV + sriov::CONTROL;
const NUM_VFS: u16 = offset::SRIOV + sriov::NUM_VFS;
const PAGE_SIZE: u16 = offset::SRIOV + sriov::SYSTEM_PAGE_SIZE;
const DEVICE_CONTROL: u16 = offset::EXPRESS + express::DEVICE_CONTROL;
const POWER: u16 = offset::PM + pm::CONTROL;
/// Power states that the 82576 has (datasheet 9.5.1.4): D0 and D3hot.
const D0: u16 = 0;
const D3_HOT: u16 = 3;

impl Control {
    pub(super) fn config_of(&self, function: FunctionId) -> &ConfigSpace {
        match function.vf_index() {
            Some(vf) => &self.vf_configs[usize::from(vf)],
            None => &self.pf_config,
        }
    }

    pub(super) fn config_of_mut(&mut self, function: FunctionId) -> &mut ConfigSpace {
        match function.vf_index() {
            Some(vf) => &mut self.vf_configs[usize::from(vf)],
            None => &mut self.pf_config,
        }
    }

    /// Configuration space, with the one bit of it that follows the interrupts.
    pub(super) fn read_config(&self, function: FunctionId, at: u64, data: &mut [u8]) {
        self.config_of(function).read(at, data);
        let interrupt = u64::from(header::STATUS)
            .checked_sub(at)
            .and_then(|byte| data.get_mut(usize::try_from(byte).ok()?));
        if let Some(byte) = interrupt
            && self.interrupts.intx_status(function)
        {
            *byte |= status::INTERRUPT as u8;
        }
    }

    pub(super) fn write_config(
        &mut self,
        function: FunctionId,
        at: u64,
        data: &[u8],
        host: &mut dyn ControlHost,
    ) -> Effects {
        let config = self.config_of_mut(function);
        let flr = config
            .written_u16(DEVICE_CONTROL, at, data)
            .is_some_and(|value| value & express::INITIATE_FLR != 0);
        let before = BeforeWrite::of(config);
        config.write(at, data);

        let mut effects = Effects::NONE;
        if config.u16(header::COMMAND) != before.command {
            effects.merge(self.republish(FunctionSet::only(function)));
        }
        if !function.is_vf() {
            effects.merge(self.pf_config_written(&before, host));
        }
        if flr {
            effects.merge(self.reset_function(function, host));
        }
        effects
    }

    fn pf_config_written(&mut self, before: &BeforeWrite, host: &mut dyn ControlHost) -> Effects {
        let config = &mut self.pf_config;
        let mut effects = Effects::NONE;
        let power = config.u16(POWER);
        if ![D0, D3_HOT].contains(&(power & pm::POWER_STATE)) {
            let kept = power & !pm::POWER_STATE | before.power & pm::POWER_STATE;
            config.set_u16(POWER, kept);
        }
        let enabled_before = before.sriov_control & sriov::VF_ENABLE != 0;
        // NumVFs and the page size are locked while the VFs exist (SR-IOV 3.3.7, 3.3.13), and more
        // VFs than there are cannot be asked for.
        if enabled_before || config.u16(NUM_VFS) > config.u16(offset::SRIOV + sriov::TOTAL_VFS) {
            config.set_u16(NUM_VFS, before.num_vfs);
        }
        if enabled_before {
            config.set_u16(PAGE_SIZE, before.page_size[0]);
            config.set_u16(PAGE_SIZE + 2, before.page_size[1]);
        }
        let enabled = config.u16(SRIOV_CONTROL) & sriov::VF_ENABLE != 0;
        let num_vfs = config.u16(NUM_VFS) as u8;
        if config.u16(POWER) != before.power {
            effects.merge(self.republish(FunctionSet::only(FunctionId::PF)));
        }
        self.select_single_interrupt(host);
        if enabled != enabled_before {
            effects.merge(self.set_vfs(if enabled { num_vfs } else { 0 }, host));
        }
        effects
    }

    /// Which interrupt the PF signals where it has only one.
    pub(super) fn select_single_interrupt(&mut self, host: &mut dyn ControlHost) {
        let on = |at: u16, bit: u16| self.pf_config.u16(at) & bit != 0;
        let mode = if on(offset::MSIX + msix::CONTROL, msix::ENABLE) {
            SingleMode::Msix
        } else if on(offset::MSI + msi::CONTROL, msi::ENABLE) {
            SingleMode::Msi
        } else if on(header::COMMAND, command::INTX_DISABLE) {
            SingleMode::Off
        } else {
            SingleMode::Intx
        };
        self.interrupts.set_single_mode(mode, host);
    }

    /// Surprise removal of the VFs: clears VF Enable.
    pub fn stop_sriov(&mut self, host: &mut dyn ControlHost) -> Effects {
        let control = self.pf_config.u16(SRIOV_CONTROL);
        if control & sriov::VF_ENABLE == 0 {
            return Effects::NONE;
        }
        self.pf_config
            .set_u16(SRIOV_CONTROL, control & !sriov::VF_ENABLE);
        self.set_vfs(0, host)
    }

    /// VF Enable changed: there are `vfs` VFs now, all of them fresh.
    pub(super) fn set_vfs(&mut self, vfs: u8, host: &mut dyn ControlHost) -> Effects {
        let affected: FunctionSet = FunctionId::vfs()
            .take(usize::from(self.vfs.max(vfs)))
            .collect();
        let mut effects = Effects::NONE;
        for function in affected.iter() {
            effects.merge(self.vf_function_reset(function, host));
        }
        self.interrupts.set_vfs(vfs);
        self.vfs = vfs;
        self.report.vfs = vfs;
        // Queues changed hands between the PF and VFs.
        effects.merge(self.republish(affected.union(FunctionSet::only(FunctionId::PF))));
        effects.vfs = Some(vfs);
        effects
    }
}

/// What a write may not change, or what its change means something.
struct BeforeWrite {
    command: u16,
    power: u16,
    sriov_control: u16,
    num_vfs: u16,
    page_size: [u16; 2],
}

impl BeforeWrite {
    /// A VF has neither power management nor SR-IOV: those fields are 0 and mean nothing.
    fn of(config: &ConfigSpace) -> Self {
        Self {
            command: config.u16(header::COMMAND),
            power: config.u16(POWER),
            sriov_control: config.u16(SRIOV_CONTROL),
            num_vfs: config.u16(NUM_VFS),
            page_size: [config.u16(PAGE_SIZE), config.u16(PAGE_SIZE + 2)],
        }
    }
}
