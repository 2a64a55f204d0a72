//! The PF's configuration space (datasheet 9.3 to 9.6).

use igb::pci::{
    self, aer, ari, command, express, header, id, msi, msix, offset, pm, sriov, status,
};

use super::builder::{Builder, ConfigSpace};

/// The PF after power-up.
pub(crate) fn pf_config_space() -> ConfigSpace {
    let mut b = Builder::new();
    common(&mut b, pci::PF_DEVICE_ID);
    b.u16_rw(header::COMMAND, 0, command::WRITABLE)
        .u8_rw(header::CACHE_LINE_SIZE, 0, 0xFF)
        .u8_rw(header::INTERRUPT_LINE, 0, 0xFF)
        .u8_ro(header::INTERRUPT_PIN, 1)
        .bars(header::BAR0, &pci::PF_BARS);

    b.capability(offset::PM, id::PM)
        .u16_ro(offset::PM + pm::CAPABILITIES, pm::VERSION | pm::DSI)
        .u16_rw(
            offset::PM + pm::CONTROL,
            pm::NO_SOFT_RESET,
            pm::POWER_STATE | pm::PME_ENABLE,
        )
        .u16_w1c(offset::PM + pm::CONTROL, pm::PME_STATUS);

    b.capability(offset::MSI, id::MSI)
        .u16_rw(
            offset::MSI + msi::CONTROL,
            msi::ADDRESS_64 | msi::MASKABLE,
            msi::ENABLE,
        )
        .u32_rw(offset::MSI + msi::ADDRESS_LOW, 0, !3)
        .u32_rw(offset::MSI + msi::ADDRESS_HIGH, 0, u32::MAX)
        .u16_rw(offset::MSI + msi::DATA, 0, u16::MAX)
        .u32_rw(offset::MSI + msi::MASK, 0, 1);

    msix_capability(&mut b, pci::PF_MSIX_VECTORS, pci::PF_BAR_MSIX.index);
    express_capability(
        &mut b,
        express::RELAXED_ORDERING
            | express::NO_SNOOP
            | express::MAX_PAYLOAD
            | express::MAX_READ_REQUEST
            | express::STATUS_WRITE_ONE_CLEAR,
    );
    extended(&mut b);

    let s = offset::SRIOV;
    b.extended_capability(s, id::SRIOV, sriov::VERSION)
        .u16_rw(s + sriov::CONTROL, 0, sriov::CONTROL_WRITABLE)
        .u16_ro(s + sriov::INITIAL_VFS, pci::TOTAL_VFS)
        .u16_ro(s + sriov::TOTAL_VFS, pci::TOTAL_VFS)
        .u16_rw(s + sriov::NUM_VFS, 0, u16::MAX)
        .u16_ro(s + sriov::FIRST_VF_OFFSET, pci::VF_OFFSET)
        .u16_ro(s + sriov::VF_STRIDE, pci::VF_STRIDE)
        .u16_ro(s + sriov::VF_DEVICE_ID, pci::VF_DEVICE_ID)
        .u32_ro(s + sriov::SUPPORTED_PAGE_SIZES, sriov::PAGE_SIZES)
        .u32_rw(
            s + sriov::SYSTEM_PAGE_SIZE,
            sriov::PAGE_SIZE_4K,
            sriov::PAGE_SIZES,
        )
        .bars(s + sriov::VF_BAR0, &pci::VF_BARS);
    b.build()
}

/// Header fields that PF and VF share.
pub(super) fn common(b: &mut Builder, device: u16) {
    let [class_0, class_1, class_2, _] = pci::CLASS_ETHERNET.to_le_bytes();
    b.u16_ro(header::VENDOR_ID, pci::VENDOR_INTEL)
        .u16_ro(header::DEVICE_ID, device)
        .u16_ro(header::STATUS, status::CAPABILITIES)
        .u16_w1c(header::STATUS, status::WRITE_ONE_CLEAR)
        .u8_ro(header::REVISION_ID, pci::REVISION)
        .u8_ro(header::CLASS_CODE, class_0)
        .u8_ro(header::CLASS_CODE + 1, class_1)
        .u8_ro(header::CLASS_CODE + 2, class_2)
        .u16_ro(header::SUBSYSTEM_VENDOR_ID, pci::VENDOR_INTEL)
        .u16_ro(header::SUBSYSTEM_ID, pci::SUBSYSTEM_ID);
}

/// MSI-X of either kind of function.
pub(super) fn msix_capability(b: &mut Builder, vectors: u16, bar: usize) {
    b.capability(offset::MSIX, id::MSIX)
        .u16_rw(
            offset::MSIX + msix::CONTROL,
            (vectors - 1) & msix::TABLE_SIZE,
            msix::ENABLE | msix::FUNCTION_MASK,
        )
        .u32_ro(
            offset::MSIX + msix::TABLE,
            pci::MSIX_TABLE_OFFSET | bar as u32 & msix::BIR,
        )
        .u32_ro(
            offset::MSIX + msix::PBA,
            pci::MSIX_PBA_OFFSET | bar as u32 & msix::BIR,
        );
}

/// PCI Express of either kind of function. `control` are the writable bits of Device Control besides
/// the one that starts an FLR, which is never stored.
pub(super) fn express_capability(b: &mut Builder, control: u16) {
    let e = offset::EXPRESS;
    b.capability(e, id::EXPRESS)
        .u16_ro(e + express::CAPABILITIES, express::VERSION_2_ENDPOINT)
        .u32_ro(
            e + express::DEVICE_CAPABILITIES,
            express::MAX_PAYLOAD_512 | express::ROLE_BASED_ERRORS | express::FLR_CAPABLE,
        )
        .u16_rw(e + express::DEVICE_CONTROL, 0, control)
        .u16_w1c(e + express::DEVICE_STATUS, express::STATUS_WRITE_ONE_CLEAR)
        .u32_ro(
            e + express::LINK_CAPABILITIES,
            express::LINK_SPEED_2_5 | express::LINK_WIDTH_4,
        )
        .u16_ro(
            e + express::LINK_STATUS,
            (express::LINK_SPEED_2_5 | express::LINK_WIDTH_4) as u16,
        );
}

/// AER and ARI of either kind of function.
pub(super) fn extended(b: &mut Builder) {
    b.extended_capability(offset::AER, id::AER, aer::VERSION)
        .u32_w1c(offset::AER + aer::UNCORRECTABLE_STATUS, u32::MAX)
        .u32_rw(offset::AER + aer::UNCORRECTABLE_MASK, 0, u32::MAX)
        .u32_rw(
            offset::AER + aer::UNCORRECTABLE_SEVERITY,
            aer::SEVERITY_RESET,
            u32::MAX,
        )
        .u32_w1c(offset::AER + aer::CORRECTABLE_STATUS, u32::MAX)
        .u32_rw(
            offset::AER + aer::CORRECTABLE_MASK,
            aer::CORRECTABLE_MASK_RESET,
            u32::MAX,
        );
    b.extended_capability(offset::ARI, id::ARI, ari::VERSION);
}
