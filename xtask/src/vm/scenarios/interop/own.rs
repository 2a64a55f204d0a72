//! The half of the matrix on our card: our PF driver and mediator outside, each VF driver in a guest
//! that sees an IOMMU. A PF driver inside of a guest has no VFs there, which is shown.

use anyhow::Result;
use serde_json::json;

use super::cell::{self, Who};
use super::guest::{self, Guest};
use super::pf::Pf;
use super::vf;
use crate::report::Report;
use crate::rig::{Rig, RigOptions};
use crate::vm::build_static;
use crate::vm::scenario::Stage;

const DEVICE: &str = "ours";

fn mac(vf: usize) -> String {
    format!("02:82:57:60:0f:{vf:02x}")
}

pub(super) fn run(stage: &Stage<'_>, who: &[Who], report: &mut Report) -> Result<()> {
    let vfs: serde_json::Map<_, _> = (0..who.len())
        .map(|vf| (vf.to_string(), json!({"mac": mac(vf)})))
        .collect();
    let options = |vfs: u16, policy| RigOptions {
        programs: stage.programs.into(),
        vfs,
        policy,
        capture: false,
        card_arguments: Vec::new(),
    };
    let mut rig = Rig::new(options(who.len() as u16, json!({"vfs": vfs})))?;
    rig.start_card()?;
    rig.start_mediator()?;
    rig.start_pf()?;
    // A card of its own, whose PF is given to the guest.
    let mut other = Rig::new(options(0, json!({"vfs": {}})))?;
    other.start_card()?;
    let outcome = in_a_guest(stage, &rig, &other, who, report);
    if outcome.is_err() || report.failures().next().is_some() {
        for program in rig.programs() {
            eprintln!("-- {} said last:\n{}", program.name(), program.tail());
        }
    }
    outcome?;
    rig.stop_all()
}

fn in_a_guest(
    stage: &Stage<'_>,
    rig: &Rig,
    other: &Rig,
    who: &[Who],
    report: &mut Report,
) -> Result<()> {
    let mut config =
        guest::config("interop-ours", who).file(vf::DRIVER, &build_static("vf-driver")?);
    for vf in 0..who.len() {
        config = config.vfio_user(&rig.vf_socket(vf as u16))?;
    }
    let vm = stage.start(config.vfio_user(&other.nic().join("pf.sock"))?)?;
    let mut guest = Guest::new(&vm)?;
    guest.share_out(who)?;
    let mut vfs = Vec::new();
    for (number, owner) in who.iter().enumerate() {
        vfs.push((guest.vf(*owner)?, mac(number)));
    }
    let pf = Pf::Outside { rig, vfs };
    for vf in who {
        cell::run(
            &guest,
            &cell::name(DEVICE, Who::Ours, *vf),
            &pf,
            *vf,
            report,
        );
    }
    no_vfs_of_a_pf_inside(&guest, who, report)?;
    vm.shutdown()
}

/// What a PF driver of the guest would need is not there.
fn no_vfs_of_a_pf_inside(guest: &Guest<'_>, who: &[Who], report: &mut Report) -> Result<()> {
    let pf = guest.pf()?;
    let path = Guest::sysfs(&pf, "sriov_totalvfs");
    let offered = guest.agent().read_text(&path);
    let inside = [Who::Linux, Who::Dpdk].into_iter();
    for (pf, vf) in inside.flat_map(|pf| who.iter().map(move |vf| (pf, *vf))) {
        let name = cell::name(DEVICE, pf, vf);
        match &offered {
            Ok(total) => {
                let said = format!("QEMU shows {} VFs, but nobody tries them", total.trim());
                report.check(format!("{name}/PF probe"), false, said);
            }
            Err(error) => report.not_applicable(
                name,
                format!(
                    "QEMU hides the SR-IOV capability of a vfio-user device from the guest, so that \
                     no driver in there can create a VF: {error:#}"
                ),
            ),
        }
    }
    Ok(())
}
