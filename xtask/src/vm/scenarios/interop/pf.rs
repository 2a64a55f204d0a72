//! The PF's end: our driver, igb or DPDK in the guest on a foreign card, or our driver outside on our
//! own.

use anyhow::{Context as _, Result, bail, ensure};

use super::cell::Who;
use super::guest::{Guest, PATIENCE, Side, VF_ADDRESS};
use super::vf::{Token, Vf};
use crate::rig::{PF_ADDRESS, Rig};
use crate::vm::NotHere;

/// Our driver in the guest.
pub(super) const DRIVER: &str = "/usr/bin/pf-driver";
const CONTROL: &str = "/run/pf.ctl";
const POLICY: &str = "/run/policy.json";
/// The address that PF drivers give to a VF.
const VF_MAC: &str = "02:82:57:60:0e:00";
const INTERFACE: &str = "pf0";
/// What opens a VF whose PF is on vfio-pci; any will do.
const SECRET: &str = "8d1a1ac2-6b4e-4f0b-9c51-3b6ce0a5d9aa";

/// A PF that is driven, with a VF.
pub(super) enum Pf<'a> {
    /// By our driver, outside of the guest, through our mediator.
    Outside {
        rig: &'a Rig,
        /// The guest's VFs by their numbers: address on the bus, assigned hardware address.
        vfs: Vec<(String, String)>,
    },
    Inside(Inside),
}

/// A PF of a foreign card, in the guest.
pub(super) struct Inside {
    who: Who,
    address: String,
    interface: String,
    job: Option<u32>,
}

impl Inside {
    pub(super) fn start(guest: &Guest<'_>, who: Who) -> Result<Self> {
        let address = guest.pf()?;
        let (interface, job) = match who {
            Who::Ours => {
                guest.bind(&address, "vfio-pci")?;
                (INTERFACE.to_owned(), Some(ours(guest, &address)?))
            }
            Who::Linux => {
                guest.agent().load_module("igb", "")?;
                guest.bind(&address, "igb")?;
                let interface = guest.interface(&address)?;
                guest.set_up(Side::Pf, &interface, PF_ADDRESS)?;
                create_vf(guest, &address)?;
                guest.ip(&["link", "set", &interface, "vf", "0", "mac", VF_MAC])?;
                (interface, None)
            }
            Who::Dpdk => {
                guest.bind(&address, "vfio-pci")?;
                create_vf(guest, &address)?;
                let side = Side::Pf;
                let job = guest.start_testpmd(side, &address, INTERFACE, Some(SECRET))?;
                let mac = guest.testpmd_mac(job)?;
                guest.ip(&["link", "set", INTERFACE, "address", &mac])?;
                (INTERFACE.to_owned(), Some(job))
            }
        };
        guest.set_up(Side::Pf, &interface, PF_ADDRESS)?;
        Ok(Self {
            who,
            address,
            interface,
            job,
        })
    }

    pub(super) fn stop(self, guest: &Guest<'_>) -> Result<()> {
        match (self.who, self.job) {
            (Who::Ours, Some(job)) => guest.end(job)?,
            (Who::Dpdk, Some(job)) => {
                guest.stop_testpmd(job)?;
                set_vfs(guest, &self.address, 0)?;
            }
            _ => set_vfs(guest, &self.address, 0)?,
        }
        ensure!(!guest.has_vfs()?, "a VF outlives its PF driver");
        guest.unbind(&self.address)
    }
}

impl Pf<'_> {
    pub(super) fn address(&self) -> &'static str {
        PF_ADDRESS
    }

    pub(super) fn token(&self) -> Token<'static> {
        let (secret, channel) = match self {
            Self::Outside { .. } => (None, "mediated"),
            Self::Inside(Inside {
                who: Who::Linux, ..
            }) => (None, "mailbox"),
            Self::Inside(_) => (Some(SECRET), "mailbox"),
        };
        Token { secret, channel }
    }

    /// The hardware address that it gives to a VF; `None` if it makes one up.
    pub(super) fn assigned(&self, vf: &str) -> Option<&str> {
        match self {
            Self::Outside { vfs, .. } => {
                let mut found = vfs.iter().filter(|(address, _)| address == vf);
                found.next().map(|(_, mac)| mac.as_str())
            }
            Self::Inside(Inside { who: Who::Dpdk, .. }) => None,
            Self::Inside(_) => Some(VF_MAC),
        }
    }

    pub(super) fn is_dpdk(&self) -> bool {
        matches!(self, Self::Inside(Inside { who: Who::Dpdk, .. }))
    }

    /// What its driver has counted, where that may explain a failure.
    pub(super) fn evidence(&self, guest: &Guest<'_>) -> String {
        match self {
            Self::Inside(Inside {
                who: Who::Dpdk,
                job: Some(job),
                ..
            }) => guest
                .testpmd_counters(*job)
                .unwrap_or_else(|error| format!("{error:#}")),
            _ => String::new(),
        }
    }

    /// TCP both ways.
    pub(super) fn tcp(&self, guest: &Guest<'_>) -> Vec<(&'static str, Result<()>)> {
        match self {
            // Its stack has no shell beside it.
            Self::Outside { .. } => vec![("tcp both ways", guest.echo(PF_ADDRESS))],
            Self::Inside(_) => vec![
                ("tcp to the VF", guest.send(Side::Pf, Side::Vf, VF_ADDRESS)),
                ("tcp to the PF", guest.send(Side::Vf, Side::Pf, PF_ADDRESS)),
            ],
        }
    }

    pub(super) fn set_vlan(&self, guest: &Guest<'_>, vf: &Vf, vid: u16) -> Result<()> {
        let vid = vid.to_string();
        match self {
            Self::Outside { rig, vfs } => {
                let number = vfs.iter().position(|(address, _)| *address == vf.address);
                let number = number.context("a VF of the rig")?.to_string();
                rig.pf_ctl(&["vf", &number, "vlan", &vid])?;
            }
            Self::Inside(inside) => match inside.who {
                Who::Ours => {
                    let head = [DRIVER, "ctl", "--control", CONTROL, "vf", "0", "vlan", &vid];
                    guest.agent().run(&head, PATIENCE)?;
                }
                Who::Linux => {
                    let interface = inside.interface.as_str();
                    guest.ip(&["link", "set", interface, "vf", "0", "vlan", &vid])?;
                }
                Who::Dpdk => bail!(NotHere(
                    "DPDK's driver of the PF has no way to put a VF into a VLAN".into()
                )),
            },
        }
        Ok(())
    }
}

fn ours(guest: &Guest<'_>, address: &str) -> Result<u32> {
    let policy = format!(r#"{{"vfs": {{"0": {{"mac": "{VF_MAC}"}}}}}}"#);
    guest.agent().write_file(POLICY, policy.as_bytes(), 0o600)?;
    let script = format!(
        "exec {DRIVER} run --device vfio:{address},vf_token={SECRET} --channel mailbox --vfs 1 \
         --policy {POLICY} --netdev tap:{INTERFACE} --control {CONTROL} 2>&1"
    );
    let job = guest.agent().spawn(&["sh", "-c", &script])?;
    if let Err(error) = guest.agent().expect(job, "pf is up", 0, PATIENCE) {
        guest.agent().kill(job)?;
        let ended = guest.agent().wait(job, PATIENCE)?;
        return Err(error.context(ended.stdout));
    }
    Ok(job)
}

/// One VF, which no driver takes by itself.
fn create_vf(guest: &Guest<'_>, pf: &str) -> Result<()> {
    let path = Guest::sysfs(pf, "sriov_drivers_autoprobe");
    guest.agent().write_file(&path, b"0", 0)?;
    set_vfs(guest, pf, 1)
}

fn set_vfs(guest: &Guest<'_>, pf: &str, count: u16) -> Result<()> {
    let path = Guest::sysfs(pf, "sriov_numvfs");
    let count = count.to_string();
    guest.agent().write_file(&path, count.as_bytes(), 0)
}
