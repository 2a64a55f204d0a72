//! A cell of the matrix: who drives the PF, who drives the VF, and what every pair must be able to do.

use anyhow::{Context as _, Result, ensure};

use super::PREFIX;
use super::guest::{BYTES, Guest, Side};
use super::pf::Pf;
use super::vf::Vf;
use crate::report::Report;
use crate::vm::NotHere;

/// Why igbvf sends nothing under DPDK's PF driver. Other VF drivers do not ask that much of the mailbox.
const NEVER_CLEAR: &str = "DPDK's PF driver answers every acknowledgement of a VF with a NACK that is not clear to send \
     (igb_rcv_ack_from_vf), and igbvf, which finds that whenever it looks for its link, keeps the \
     link down and sends nothing";
/// Why no VF reaches a PF under DPDK.
const IN_POOL_0: &str = "DPDK gives the PF's own address to pool 0 after the port has started (eth_dev_mac_restore, \
     eth_igb_default_mac_addr_set), which is a VF's; testpmd has no command that moves it to the PF's \
     pool. Seen: broadcasts of the VF reach the PF, the PF's answers reach the VF, and what the VF sends \
     to the PF's address comes back to the VF";

/// Whose driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Ours,
    Linux,
    Dpdk,
}

impl Who {
    pub(super) const ALL: [Self; 3] = [Self::Ours, Self::Linux, Self::Dpdk];

    pub(super) fn of_pf(self) -> &'static str {
        match self {
            Self::Ours => "pf-driver",
            Self::Linux => "igb",
            Self::Dpdk => "dpdk",
        }
    }

    pub(super) fn of_vf(self) -> &'static str {
        match self {
            Self::Ours => "vf-driver",
            Self::Linux => "igbvf",
            Self::Dpdk => "dpdk",
        }
    }
}

/// The name of a cell, to which the name of a step is added.
pub(super) fn name(device: &str, pf: Who, vf: Who) -> String {
    format!("{PREFIX}{device}/{}/{}", pf.of_pf(), vf.of_vf())
}

/// Takes a pair from the VF's probe to its end. The PF driver runs already, and goes on.
pub(super) fn run(guest: &Guest<'_>, name: &str, pf: &Pf<'_>, vf: Who, report: &mut Report) {
    println!("   interop: {}", name.trim_start_matches(PREFIX));
    let outcome = steps(guest, name, pf, vf, report);
    if let Err(error) = outcome {
        if error.is::<NotHere>() {
            report.not_applicable(name, format!("{error:#}"));
        } else {
            report.check(
                format!("{name}/carried through"),
                false,
                format!("{error:#}"),
            );
        }
    }
}

fn steps(guest: &Guest<'_>, name: &str, pf: &Pf<'_>, vf: Who, report: &mut Report) -> Result<()> {
    let at = guest.vf(vf)?;
    let vf = Vf::start(guest, &at, vf, pf.token()).context("probing the VF")?;
    report.check(format!("{name}/probe"), true, vf.said.clone());
    let reached = guest.reaches(Side::Vf, pf.address());
    let handshake = format!("{name}/reset handshake");
    let limit = match reached {
        Err(_) if pf.is_dpdk() => limit_of_dpdk(guest, pf, vf.who)?,
        _ => None,
    };
    let connected = match limit {
        None => report.outcome(
            &handshake,
            reached
                .map(|()| format!("{} answers, so the PF let its queues go", pf.address()))
                .with_context(|| pf.evidence(guest)),
        ),
        Some(Limit::NeverClear) => {
            let reason = format!("{NEVER_CLEAR}. testpmd meanwhile: {}", pf.evidence(guest));
            report.not_applicable(format!("{handshake}, tcp, vlan"), reason);
            false
        }
        Some(Limit::InPool0) => {
            let said =
                "a broadcast reaches the PF and its answer the VF, so the PF let its queues go";
            report.check(handshake, true, said);
            report.not_applicable(format!("{name}/tcp, vlan"), IN_POOL_0);
            false
        }
    };
    let mac = vf.mac(guest)?;
    // One that the PF driver makes up is compared with nothing.
    if let Some(assigned) = pf.assigned(&at) {
        let detail = format!("{mac}, the PF assigned {assigned}");
        report.check(format!("{name}/mac"), assigned == mac, detail);
    }
    if connected {
        for (step, sent) in pf.tcp(guest) {
            let same = sent.map(|()| format!("{BYTES} bytes, the same SHA-256 at both ends"));
            report.outcome(&format!("{name}/{step}"), same);
        }
        vlan(guest, name, pf, &vf, report);
    }
    vf.stop(guest).context("ending the VF driver")?;
    let complaint = guest.complaint()?;
    report.check(
        format!("{name}/teardown"),
        complaint.is_none(),
        complaint.unwrap_or_else(|| "ended with 0, no word of the kernel".into()),
    );
    Ok(())
}

/// What keeps a VF from reaching a PF under DPDK.
enum Limit {
    NeverClear,
    InPool0,
}

/// Which limit of DPDK's PF driver it is, if what is known of one is seen. Anything else that keeps a VF
/// from the PF is a failure.
fn limit_of_dpdk(guest: &Guest<'_>, pf: &Pf<'_>, vf: Who) -> Result<Option<Limit>> {
    Ok(match vf {
        // A testpmd that has ended or stands still would leave the VF without a link, too.
        Who::Linux => (!guest.vf_has_link()? && pf.evidence(guest).contains("RX-packets"))
            .then_some(Limit::NeverClear),
        Who::Ours | Who::Dpdk => guest
            .vf_hears_itself(pf.address())?
            .then_some(Limit::InPool0),
    })
}

/// The PF puts the VF into a VLAN and takes it out.
fn vlan(guest: &Guest<'_>, name: &str, pf: &Pf<'_>, vf: &Vf, report: &mut Report) {
    let name = format!("{name}/vlan");
    let apart = || -> Result<String> {
        pf.set_vlan(guest, vf, 100)?;
        vf.settle(guest)?;
        ensure!(
            guest.reaches_not(Side::Vf, pf.address())?,
            "in VLAN 100 it still reaches the PF, which is not"
        );
        pf.set_vlan(guest, vf, 0)?;
        vf.settle(guest)?;
        guest.reaches(Side::Vf, pf.address())?;
        Ok("in VLAN 100 it is apart from the PF, outside it is not".into())
    };
    match apart() {
        Err(error) if error.is::<NotHere>() => report.not_applicable(name, format!("{error:#}")),
        outcome => {
            report.outcome(&name, outcome);
        }
    }
}
