//! What a kernel and a hypervisor write to configuration space.

use igb::FunctionId;
use igb::pci::{express, header, msix, offset, sriov};

use super::{Seeds, config_operation, named};

/// Seeds of [`crate::fuzzing::config_space`].
pub fn config_space() -> Seeds {
    let (pf, vf0) = (FunctionId::PF, FunctionId::vf(0));
    let write =
        |function, at: u16, value: u16| config_operation(1, function, at, &value.to_le_bytes());
    let enable = |count: u16| {
        [
            write(pf, offset::SRIOV + sriov::NUM_VFS, count),
            write(
                pf,
                offset::SRIOV + sriov::CONTROL,
                sriov::VF_ENABLE | sriov::VF_MSE,
            ),
        ]
        .concat()
    };
    let mut seeds = named([
        (
            "walk-pf",
            (0..64).flat_map(|n| [0, 0, (n * 4) as u8, 0, 4]).collect(),
        ),
        (
            "walk-vf",
            (0..64).flat_map(|n| [0, 1, (n * 4) as u8, 0, 4]).collect(),
        ),
        ("enable-2", enable(2)),
        ("enable-8", enable(8)),
        ("enable-9", enable(9)),
        ("enable-all-ones", enable(u16::MAX)),
        ("enable-0", enable(0)),
        (
            "change-while-enabled",
            [enable(2), write(pf, offset::SRIOV + sriov::NUM_VFS, 5)].concat(),
        ),
        (
            "disable",
            [enable(2), write(pf, offset::SRIOV + sriov::CONTROL, 0)].concat(),
        ),
        (
            "vf-sriov",
            [enable(2), write(vf0, offset::SRIOV + sriov::CONTROL, 1)].concat(),
        ),
        (
            "vf-bars",
            [
                enable(2),
                config_operation(1, vf0, header::BAR0, &[0xFF; 8]),
            ]
            .concat(),
        ),
        (
            "vf-bus-master",
            [enable(2), write(vf0, header::COMMAND, u16::MAX)].concat(),
        ),
        (
            "vf-flr",
            [
                enable(2),
                write(vf0, offset::EXPRESS + express::DEVICE_CONTROL, u16::MAX),
            ]
            .concat(),
        ),
        (
            "pf-flr",
            [
                enable(2),
                write(pf, offset::EXPRESS + express::DEVICE_CONTROL, u16::MAX),
            ]
            .concat(),
        ),
        (
            "msix",
            [
                enable(1),
                write(vf0, offset::MSIX + msix::CONTROL, msix::ENABLE),
                write(vf0, offset::MSIX + msix::CONTROL, u16::MAX),
            ]
            .concat(),
        ),
        (
            "power",
            [write(pf, offset::PM + 4, 3), write(pf, offset::PM + 4, 0)].concat(),
        ),
        (
            "beyond",
            [
                config_operation(1, pf, 0x0FFE, &[0xFF; 8]),
                vec![0, 0, 0xFE, 0x0F, 8],
            ]
            .concat(),
        ),
        (
            "reset",
            [enable(3), vec![3, 0, 0, 0, 0], vec![3, 1, 0, 0, 0]].concat(),
        ),
        (
            "unaligned",
            [
                config_operation(1, pf, offset::SRIOV + sriov::NUM_VFS - 1, &[1, 2, 0]),
                write(pf, offset::SRIOV + sriov::CONTROL, 1),
            ]
            .concat(),
        ),
    ]);
    for bar in 0..6 {
        seeds.push((
            format!("size-bar{bar}"),
            config_operation(1, pf, header::bar(bar), &[0xFF; 4]),
        ));
    }
    let everything = (0..0x400u16)
        .step_by(8)
        .flat_map(|at| config_operation(1, pf, at, &[0xFF; 8]))
        .collect();
    seeds.push(("all-ones".into(), everything));
    seeds
}
