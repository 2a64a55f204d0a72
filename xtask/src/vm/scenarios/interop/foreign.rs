//! The half of the matrix on QEMU's own igb: PF and VF in one guest, behind an emulated IOMMU, each
//! pair over the hardware's mailbox.

use anyhow::Result;

use super::cell::{self, Who};
use super::guest::{self, Guest};
use super::pf::{self, Inside, Pf};
use super::vf;
use crate::report::Report;
use crate::vm::build_static;
use crate::vm::scenario::Stage;

const DEVICE: &str = "qemu-igb";

/// Each PF driver with the VF drivers of its row.
pub(super) fn run(stage: &Stage<'_>, rows: &[(Who, &[Who])], report: &mut Report) -> Result<()> {
    let everybody: Vec<Who> = rows
        .iter()
        .flat_map(|(pf, vfs)| vfs.iter().chain([pf]).copied())
        .collect();
    let config = guest::config("interop-qemu-igb", &everybody)
        .file(pf::DRIVER, &build_static("pf-driver")?)
        .file(vf::DRIVER, &build_static("vf-driver")?)
        .root_port()
        .qemu_args(&[
            "-netdev",
            "hubport,id=n0,hubid=0",
            "-device",
            "igb,netdev=n0,bus=rp1",
        ]);
    let vm = stage.start(config)?;
    let guest = Guest::new(&vm)?;
    for (pf, who) in rows {
        let started = match Inside::start(&guest, *pf) {
            Ok(started) => Pf::Inside(started),
            Err(error) => {
                for vf in *who {
                    let name = cell::name(DEVICE, *pf, *vf);
                    report.check(format!("{name}/PF probe"), false, format!("{error:#}"));
                }
                continue;
            }
        };
        for vf in *who {
            cell::run(&guest, &cell::name(DEVICE, *pf, *vf), &started, *vf, report);
        }
        if let Pf::Inside(started) = started {
            let name = format!("{}{DEVICE}/{}/end of the PF", super::PREFIX, pf.of_pf());
            let ended = started.stop(&guest);
            report.outcome(&name, ended.map(|()| "ended with 0, its VF is gone".into()));
        }
    }
    vm.shutdown()
}
