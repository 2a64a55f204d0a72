//! How functions and configuration-space registers are spelled in files, sockets and reports.

use igb::FunctionId;
use igb::pci::{self, express, header, msi, msix, offset, pm, sriov};

/// `pf`, `vf0`, `vf1`, ...: as in the names of the sockets.
pub fn function_name(function: FunctionId) -> String {
    match function.vf_index() {
        None => "pf".to_owned(),
        Some(n) => format!("vf{n}"),
    }
}

/// Offset, bytes and name; what both kinds of function have.
const COMMON: &[(u16, u16, &str)] = &[
    (header::VENDOR_ID, 2, "VENDOR_ID"),
    (header::DEVICE_ID, 2, "DEVICE_ID"),
    (header::COMMAND, 2, "COMMAND"),
    (header::STATUS, 2, "STATUS"),
    (header::REVISION_ID, 1, "REVISION_ID"),
    (header::CLASS_CODE, 3, "CLASS_CODE"),
    (header::CACHE_LINE_SIZE, 1, "CACHE_LINE_SIZE"),
    (header::LATENCY_TIMER, 1, "LATENCY_TIMER"),
    (header::HEADER_TYPE, 1, "HEADER_TYPE"),
    (header::bar(0), 4, "BAR0"),
    (header::bar(1), 4, "BAR1"),
    (header::bar(2), 4, "BAR2"),
    (header::bar(3), 4, "BAR3"),
    (header::bar(4), 4, "BAR4"),
    (header::bar(5), 4, "BAR5"),
    (header::SUBSYSTEM_VENDOR_ID, 2, "SUBSYSTEM_VENDOR_ID"),
    (header::SUBSYSTEM_ID, 2, "SUBSYSTEM_ID"),
    (header::EXPANSION_ROM, 4, "EXPANSION_ROM"),
    (header::CAPABILITIES, 1, "CAPABILITIES"),
    (header::INTERRUPT_LINE, 1, "INTERRUPT_LINE"),
    (header::INTERRUPT_PIN, 1, "INTERRUPT_PIN"),
    (offset::MSIX + msix::CONTROL, 2, "MSIX.CONTROL"),
    (offset::MSIX, msix::SIZE, "MSIX"),
    (
        offset::EXPRESS + express::DEVICE_CONTROL,
        2,
        "EXPRESS.DEVICE_CONTROL",
    ),
    (
        offset::EXPRESS + express::DEVICE_STATUS,
        2,
        "EXPRESS.DEVICE_STATUS",
    ),
    (
        offset::EXPRESS + express::LINK_CONTROL,
        2,
        "EXPRESS.LINK_CONTROL",
    ),
    (
        offset::EXPRESS + express::LINK_STATUS,
        2,
        "EXPRESS.LINK_STATUS",
    ),
    (offset::EXPRESS, express::SIZE, "EXPRESS"),
    (offset::AER, pci::aer::SIZE, "AER"),
    (offset::ARI, pci::ari::SIZE, "ARI"),
];

/// What only the PF has.
const PF_ONLY: &[(u16, u16, &str)] = &[
    (offset::PM + pm::CONTROL, 2, "PM.CONTROL"),
    (offset::PM, pm::SIZE, "PM"),
    (offset::MSI + msi::CONTROL, 2, "MSI.CONTROL"),
    (offset::MSI, msi::SIZE, "MSI"),
    (offset::SRIOV + sriov::CONTROL, 2, "SRIOV.CONTROL"),
    (offset::SRIOV + sriov::NUM_VFS, 2, "SRIOV.NUM_VFS"),
    (offset::SRIOV + sriov::TOTAL_VFS, 2, "SRIOV.TOTAL_VFS"),
    (
        offset::SRIOV + sriov::FIRST_VF_OFFSET,
        2,
        "SRIOV.FIRST_VF_OFFSET",
    ),
    (offset::SRIOV + sriov::VF_STRIDE, 2, "SRIOV.VF_STRIDE"),
    (offset::SRIOV, sriov::SIZE, "SRIOV"),
];

/// The register of configuration space that the byte at `at` belongs to; where only the capability
/// has a name, that.
pub(crate) fn config_name(function: FunctionId, at: u64) -> Option<&'static str> {
    let own = if function.is_vf() { &[][..] } else { PF_ONLY };
    let covers = |(start, size, _): &&(u16, u16, &str)| {
        at >= u64::from(*start) && at < u64::from(*start) + u64::from(*size)
    };
    COMMON
        .iter()
        .chain(own)
        .find(covers)
        .map(|(_, _, name)| *name)
}

/// Whether something in configuration space has this name.
pub(crate) fn is_config_name(name: &str) -> bool {
    COMMON
        .iter()
        .chain(PF_ONLY)
        .any(|(_, _, known)| *known == name)
}

/// What lies at `at` of the MSI-X BAR.
pub(crate) fn msix_name(at: u64) -> Option<String> {
    let at = u32::try_from(at).ok()?;
    if at >= pci::MSIX_PBA_OFFSET {
        return Some("PBA".to_owned());
    }
    let entry = at.checked_sub(pci::MSIX_TABLE_OFFSET)? / msix::ENTRY_SIZE;
    let field = match (at % msix::ENTRY_SIZE) & !3 {
        msix::ENTRY_ADDRESS_LOW => "ADDRESS_LOW",
        msix::ENTRY_ADDRESS_HIGH => "ADDRESS_HIGH",
        msix::ENTRY_DATA => "DATA",
        _ => "VECTOR_CONTROL",
    };
    Some(format!("VECTOR[{entry}].{field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_name_wins_and_a_vf_has_no_sriov() {
        let control = u64::from(offset::SRIOV + sriov::CONTROL);
        assert_eq!(config_name(FunctionId::PF, control), Some("SRIOV.CONTROL"));
        assert_eq!(
            config_name(FunctionId::PF, control + 1),
            Some("SRIOV.CONTROL")
        );
        assert_eq!(config_name(FunctionId::PF, control - 1), Some("SRIOV"));
        assert_eq!(config_name(FunctionId::vf(0), control), None);
        assert_eq!(config_name(FunctionId::vf(0), 0), Some("VENDOR_ID"));
    }
}
