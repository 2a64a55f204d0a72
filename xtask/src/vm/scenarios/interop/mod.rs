//! The interop matrix: {our card, QEMU's igb} x {our PF driver, igb, DPDK} x {our VF driver, igbvf,
//! DPDK}, each pair from probe to teardown with the kernel's own TCP between the two.

mod cell;
mod foreign;
mod guest;
mod own;
mod pf;
mod vf;

use anyhow::Result;

use crate::interop::PREFIX;
use crate::report::Report;
use crate::vm::scenario::Stage;
use cell::Who;

/// Each of our drivers with the kernel's on the other side: what a mistake in either shows in first.
pub(super) fn smoke(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let rows: [(Who, &[Who]); 2] = [(Who::Ours, &[Who::Linux]), (Who::Linux, &[Who::Ours])];
    foreign::run(stage, &rows, report)
}

/// Every cell.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    own::run(stage, &Who::ALL, report)?;
    foreign::run(stage, &Who::ALL.map(|pf| (pf, &Who::ALL[..])), report)
}
