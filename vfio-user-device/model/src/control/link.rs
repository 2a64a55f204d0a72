//! The link: the cable, the PHY behind it, and what the MAC says of them.

use igb::{CTRL, FunctionId, ICR, MDIC, RCTL, STATUS, Value};

use super::Control;
use super::phy::{LinkMode, Speed};
use crate::effects::{Effects, FunctionSet};
use crate::host::ControlHost;

/// STATUS.SPEED and CTRL.SPEED.
fn speed_code(speed: Speed) -> u32 {
    match speed {
        Speed::Ten => 0,
        Speed::Hundred => 1,
        Speed::Thousand => 2,
    }
}

/// RCTL.LBM: none, and the value that is reserved.
const LBM_NONE: u32 = 0;
const LBM_RESERVED: u32 = 2;

impl Control {
    /// The cable was plugged in or out.
    pub fn set_link(&mut self, up: bool, host: &mut dyn ControlHost) -> Effects {
        if up == self.cable {
            return Effects::NONE;
        }
        let before = self.link();
        self.cable = up;
        self.link_may_have_changed(before, false, host)
    }

    /// The link as the MAC has it.
    fn link(&self) -> Option<LinkMode> {
        self.phy.link(self.cable)
    }

    pub(super) fn is_link_up(&self) -> bool {
        self.link().is_some()
    }

    /// Frames for the wire come back (8.10.1 RCTL.LBM, and the PHY's loopback).
    pub(super) fn is_looped(&self) -> bool {
        let mode = self.bank.get::<RCTL>().get(RCTL::LBM);
        !matches!(mode, LBM_NONE | LBM_RESERVED) || self.phy.is_looped()
    }

    fn link_may_have_changed(
        &mut self,
        before: Option<LinkMode>,
        renegotiated: bool,
        host: &mut dyn ControlHost,
    ) -> Effects {
        let now = self.link();
        if now != before || renegotiated && now.is_some() {
            self.interrupts
                .raise_other(ICR::LSC.mask(), &self.bank, host);
        }
        self.report.link_up = now.is_some();
        if now.is_some() == before.is_some() {
            return Effects::NONE;
        }
        self.republish(FunctionSet::EMPTY)
    }

    pub(super) fn write_mdic(
        &mut self,
        command: Value<MDIC>,
        host: &mut dyn ControlHost,
    ) -> Effects {
        let (before, looped) = (self.link(), self.is_looped());
        let done = self.phy.command(command, self.cable);
        self.bank.set(done.mdic);
        let mut effects = self.link_may_have_changed(before, done.renegotiated, host);
        if self.is_looped() != looped {
            effects.merge(self.republish(FunctionSet::EMPTY));
        }
        effects
    }

    pub(super) fn write_ctrl(&mut self, value: Value<CTRL>, host: &mut dyn ControlHost) -> Effects {
        if value.has(CTRL::RST) {
            return self.pf_software_reset(host);
        }
        self.bank.set(value.clear(CTRL::PHY_RST));
        let mut effects = self.republish(FunctionSet::only(FunctionId::PF));
        if value.has(CTRL::PHY_RST) {
            effects.merge(self.reset_phy(host));
        }
        effects
    }

    pub(super) fn reset_phy(&mut self, host: &mut dyn ControlHost) -> Effects {
        let before = self.link();
        self.phy.reset();
        self.link_may_have_changed(before, true, host)
    }

    pub(super) fn status(&self, function: FunctionId) -> Value<STATUS> {
        let mut status = Value::<STATUS>::RESET.clear(STATUS::GIO_MASTER_EN);
        let ctrl = self.bank.get::<CTRL>();
        if let Some(mode) = self.link() {
            let speed = if ctrl.has(CTRL::FRCSPD) {
                ctrl.get(CTRL::SPEED)
            } else {
                speed_code(mode.speed)
            };
            let full = if ctrl.has(CTRL::FRCDPLX) {
                ctrl.has(CTRL::FD)
            } else {
                mode.full_duplex
            };
            status = status
                .set(STATUS::LU)
                .with(STATUS::SPEED, speed)
                .with(STATUS::FD, full.into());
        }
        if function.is_vf() {
            return status;
        }
        if self.vfs > 0 {
            status = status
                .set(STATUS::IOV_MODE)
                .with(STATUS::NUM_VFS, u32::from(self.vfs));
        }
        if !ctrl.has(CTRL::GIO_MASTER_DISABLE) {
            status = status.set(STATUS::GIO_MASTER_EN);
        }
        status
    }
}
