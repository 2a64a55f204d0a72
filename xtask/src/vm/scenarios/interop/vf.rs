//! The VF's end of a pair: a driver, and the kernel's interface behind it.

use anyhow::{Context as _, Result};

use super::cell::Who;
use super::guest::{Guest, PATIENCE, Side, VF_ADDRESS, VF_INTERFACE};

/// Our driver in the guest.
pub(super) const DRIVER: &str = "/usr/bin/vf-driver";
const CONTROL: &str = "/run/vf.ctl";

/// A VF that is driven.
pub(super) struct Vf {
    pub(super) who: Who,
    pub(super) address: String,
    /// The program, where it is one.
    job: Option<u32>,
    /// What its driver said.
    pub(super) said: String,
}

/// How our own driver and DPDK's open a VF.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    /// What a PF on vfio-pci has set for its VFs.
    pub(super) secret: Option<&'a str>,
    /// The way to the PF.
    pub(super) channel: &'a str,
}

impl Vf {
    pub(super) fn start(
        guest: &Guest<'_>,
        address: &str,
        who: Who,
        token: Token<'_>,
    ) -> Result<Self> {
        let (job, said) = match who {
            Who::Ours => {
                guest.bind(address, "vfio-pci")?;
                let job = ours(guest, address, token)?;
                (Some(job), "vf-driver over the kernel's VFIO".to_owned())
            }
            Who::Linux => {
                guest.agent().load_module("igbvf", "")?;
                guest.bind(address, "igbvf")?;
                let name = guest.interface(address)?;
                guest.move_beside_vf(&name)?;
                (None, format!("igbvf made {name}"))
            }
            Who::Dpdk => {
                guest.bind(address, "vfio-pci")?;
                let side = Side::Vf;
                let job = guest.start_testpmd(side, address, VF_INTERFACE, token.secret)?;
                let mac = guest.testpmd_mac(job)?;
                guest.set_mac_of_vf(&mac)?;
                (
                    Some(job),
                    "net_e1000_igb_vf over the kernel's VFIO".to_owned(),
                )
            }
        };
        let vf = Self {
            who,
            address: address.to_owned(),
            job,
            said,
        };
        vf.settle(guest)?;
        Ok(vf)
    }

    /// Brings its interface up, again if it was reset.
    pub(super) fn settle(&self, guest: &Guest<'_>) -> Result<()> {
        guest.set_up(Side::Vf, VF_INTERFACE, VF_ADDRESS)
    }

    pub(super) fn mac(&self, guest: &Guest<'_>) -> Result<String> {
        guest.mac_of_vf()
    }

    pub(super) fn stop(self, guest: &Guest<'_>) -> Result<()> {
        match (self.who, self.job) {
            (Who::Ours, Some(job)) => guest.end(job),
            (Who::Dpdk, Some(job)) => guest.stop_testpmd(job),
            _ => guest.unbind(&self.address),
        }
    }
}

fn ours(guest: &Guest<'_>, address: &str, token: Token<'_>) -> Result<u32> {
    let secret = token
        .secret
        .map_or_else(String::new, |uuid| format!(",vf_token={uuid}"));
    let channel = token.channel;
    let job = guest.spawn_beside_vf(&format!(
        "{DRIVER} run --device vfio:{address}{secret} --channel {channel} --netdev \
         tap:{VF_INTERFACE} --control {CONTROL}"
    ))?;
    let up = guest.agent().expect(job, "vf is up", 0, PATIENCE);
    if up.is_err() {
        guest.agent().kill(job)?;
        let ended = guest.agent().wait(job, PATIENCE)?;
        return up.map(|_| job).with_context(|| ended.stdout);
    }
    Ok(job)
}
