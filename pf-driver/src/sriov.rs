//! Creating and destroying VFs.

use std::time::Instant;

use crate::driver::PfDriver;
use crate::error::PfError;
use crate::mailbox::Mailboxes;

impl PfDriver {
    /// Enables `num_vfs` VFs, or disables all with 0, as the kernel's `sriov_configure` does. Order,
    /// up: switch, VFs, VPorts, filters, offers. Down: offers, filters, VPorts, VFs, switch.
    ///
    /// With 0 this waits for guests to let go, for [`crate::PfOptions::eject_timeout`] at most.
    ///
    /// # Errors
    ///
    /// [`PfError::NoSriov`], [`PfError::TooManyVfs`], [`PfError::VfsEnabled`], or the card failed; then
    /// there are as many VFs as before.
    pub fn sriov_configure(&mut self, num_vfs: u16) -> Result<(), PfError> {
        let enabled = self.num_vfs();
        if num_vfs == enabled {
            return Ok(());
        }
        if num_vfs == 0 {
            return self.disable_vfs();
        }
        if !self.capabilities.sriov {
            return Err(PfError::NoSriov);
        }
        if num_vfs > self.capabilities.max_vfs {
            return Err(PfError::TooManyVfs {
                asked: num_vfs,
                most: self.capabilities.max_vfs,
            });
        }
        if enabled != 0 {
            return Err(PfError::VfsEnabled { enabled });
        }
        let before = self.arbiter.switch.clone();
        if let Err(error) = self.enable_vfs(num_vfs) {
            // Nothing half-made stays behind.
            if let Err(error) = self.regs.function().sriov_configure(0) {
                log::warn!("VFs could not be disabled again: {error}");
            }
            self.arbiter.switch = before;
            if let Err(error) = self.commit() {
                log::warn!("the switch could not be undone: {error}");
            }
            return Err(error);
        }
        log::info!("{num_vfs} VFs enabled");
        self.offer_all();
        Ok(())
    }

    fn enable_vfs(&mut self, num_vfs: u16) -> Result<(), PfError> {
        self.arbiter.switch.create_switch()?;
        self.commit()?;
        let mut vfs = Vec::new();
        for _ in 0..num_vfs {
            vfs.push(self.arbiter.switch.allocate_vf()?);
        }
        // Their queues stay off: VFRE and VFTE follow Init.
        self.regs.function().sriov_configure(num_vfs)?;
        for vf in vfs {
            self.vf_counters.begin(&self.regs, vf)?;
            let policy = self.options.policy.of(vf);
            self.arbiter.switch.create_vport(vf, policy)?;
            self.arbiter.switch.set_filters(vf)?;
        }
        self.commit()?;
        // Enabling a VF is a reset of it; nothing has happened that must be undone.
        self.handle_vf_resets()
    }

    fn disable_vfs(&mut self) -> Result<(), PfError> {
        self.withdraw_offers(Instant::now() + self.options.eject_timeout);
        let vfs: Vec<u8> = self.arbiter.switch.vports().map(|(vf, _)| vf).collect();
        for vf in vfs.iter().rev() {
            self.arbiter.switch.clear_filters(*vf);
            self.arbiter.switch.delete_vport(*vf)?;
        }
        // VFRE and VFTE go with the VPorts, before the functions themselves.
        self.commit()?;
        let disabled = self.regs.function().sriov_configure(0);
        for vf in vfs.iter().rev() {
            self.arbiter.switch.free_vf(*vf)?;
        }
        self.arbiter.switch.delete_switch()?;
        self.mailboxes = Mailboxes::default();
        self.commit()?;
        disabled?;
        log::info!("VFs disabled");
        Ok(())
    }

    /// The card is gone and all VFs with it: only our own books are left.
    pub(crate) fn lose_vfs(&mut self) {
        let mac = self.arbiter.switch.pf_mac;
        let mtu = self.arbiter.switch.pf_mtu;
        self.revoke_all();
        self.arbiter.switch = crate::vport::NicSwitch::new(mac);
        self.arbiter.switch.pf_mtu = mtu;
    }
}
