//! What the PF driver tells the host of the card's SR-IOV.

use igb::pci::{self, header, sriov};
use igb_driver::config::{read_u16, read_u32};
use iommu::function::{Function, FunctionError, find_extended_capability};
use serde::Serialize;

use crate::gaps::{Emulation, Gaps};
use crate::vport::MAX_VFS;

/// A BAR of a VF, as probing the bus would find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VfBar {
    /// Its number.
    pub index: u8,
    /// Bytes.
    pub size: u32,
    /// It takes the next BAR too.
    pub wide: bool,
    /// Prefetchable memory.
    pub prefetchable: bool,
}

/// SR-IOV capabilities of the card, and what this driver makes of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The card has an SR-IOV capability.
    pub sriov: bool,
    /// VFs that the card can have.
    pub total_vfs: u16,
    /// VFs that this driver can enable: one pool stays the PF's.
    pub max_vfs: u16,
    /// VFs enabled now.
    pub num_vfs: u16,
    /// Routing id of VF 0 less the PF's.
    pub first_vf_offset: u16,
    /// Distance of the routing ids of VFs.
    pub vf_stride: u16,
    /// Vendor of the VFs.
    pub vf_vendor_id: u16,
    /// Device id of the VFs.
    pub vf_device_id: u16,
    /// BARs of a VF.
    pub vf_bars: Vec<VfBar>,
    /// Queue pairs of a VF.
    pub queues_per_vf: u32,
    /// MSI-X vectors of a VF.
    pub vectors_per_vf: u32,
    /// VPorts, the default one included.
    pub max_vports: u16,
    /// Unicast filters that VFs share besides their own addresses.
    pub shared_mac_filters: u16,
    /// VLAN filters that all functions share.
    pub vlan_filters: u16,
    /// What the administrator can set for a VF, in the words of `ip link`.
    pub vf_operations: Vec<&'static str>,
    /// Whose work the card is, where its answers tell: some gaps can only be known by that.
    pub emulation: Option<Emulation>,
    /// What a driver of this kind would expect and the card does not have.
    pub missing: Vec<String>,
}

impl Capabilities {
    /// Reads them from configuration space; `gaps` is what was found elsewhere.
    ///
    /// # Errors
    ///
    /// The function is gone, or did not answer.
    pub fn read(function: &dyn Function, gaps: &Gaps) -> Result<Self, FunctionError> {
        let mut capabilities = Self {
            sriov: false,
            total_vfs: 0,
            max_vfs: 0,
            num_vfs: 0,
            first_vf_offset: 0,
            vf_stride: 0,
            vf_vendor_id: 0,
            vf_device_id: 0,
            vf_bars: Vec::new(),
            queues_per_vf: igb::function::VF_QUEUES,
            vectors_per_vf: igb::function::VF_VECTORS,
            max_vports: 1,
            shared_mac_filters: crate::filters::EXTRA_MACS as u16,
            vlan_filters: crate::filters::VLAN_FILTERS as u16,
            vf_operations: vec![
                "mac", "vlan", "qos", "rate", "spoofchk", "trust", "state", "stats",
            ],
            emulation: gaps.emulation,
            missing: gaps.missing.clone(),
        };
        let lacks = |operation: &&str| match *operation {
            "rate" => !gaps.rate_limits,
            "spoofchk" => !gaps.spoof_check,
            _ => false,
        };
        capabilities
            .vf_operations
            .retain(|operation| !lacks(operation));
        if find_extended_capability(function, pci::id::ARI)?.is_none() {
            capabilities.missing.push("ARI".to_owned());
        }
        if find_extended_capability(function, pci::id::AER)?.is_none() {
            capabilities.missing.push("AER".to_owned());
        }
        let Some(base) = find_extended_capability(function, pci::id::SRIOV)? else {
            capabilities.missing.push("SR-IOV".to_owned());
            return Ok(capabilities);
        };
        let word = |offset: u16| read_u16(function, base + u64::from(offset));
        capabilities.sriov = true;
        capabilities.total_vfs = word(sriov::TOTAL_VFS)?;
        capabilities.max_vfs = capabilities.total_vfs.min(MAX_VFS.into());
        capabilities.num_vfs = enabled_vfs(function)?;
        capabilities.first_vf_offset = word(sriov::FIRST_VF_OFFSET)?;
        capabilities.vf_stride = word(sriov::VF_STRIDE)?;
        capabilities.vf_vendor_id = read_u16(function, header::VENDOR_ID.into())?;
        capabilities.vf_device_id = word(sriov::VF_DEVICE_ID)?;
        capabilities.max_vports = capabilities.max_vfs + 1;
        capabilities.vf_bars = vf_bars(function, base, capabilities.num_vfs != 0)?;
        if capabilities.vf_device_id != pci::VF_DEVICE_ID {
            let id = capabilities.vf_device_id;
            capabilities
                .missing
                .push(format!("VFs of an 82576 (their device id is {id:04x})"));
        }
        if capabilities.total_vfs == 0 {
            capabilities.missing.push("VFs (TotalVFs is 0)".to_owned());
        }
        Ok(capabilities)
    }
}

/// How many VFs are enabled; 0 without SR-IOV.
///
/// # Errors
///
/// The function is gone, or did not answer.
pub fn enabled_vfs(function: &dyn Function) -> Result<u16, FunctionError> {
    let Some(base) = find_extended_capability(function, pci::id::SRIOV)? else {
        return Ok(0);
    };
    if read_u16(function, base + u64::from(sriov::CONTROL))? & sriov::VF_ENABLE == 0 {
        return Ok(0);
    }
    read_u16(function, base + u64::from(sriov::NUM_VFS))
}

/// The VF BARs as the 82576 has them.
fn known_vf_bars() -> Vec<VfBar> {
    let known = pci::VF_BARS.iter().map(|bar| VfBar {
        index: bar.index as u8,
        size: bar.size,
        wide: bar.kind == pci::BarKind::Memory64,
        prefetchable: bar.kind == pci::BarKind::Memory64,
    });
    known.collect()
}

/// The VF BARs, sized as a bus sizes BARs: by writing ones. While VFs are enabled they stay as they
/// are, and where somebody else owns them they do not take what is written: then the 82576's own
/// layout is given.
fn vf_bars(function: &dyn Function, base: u64, in_use: bool) -> Result<Vec<VfBar>, FunctionError> {
    if in_use {
        return Ok(known_vf_bars());
    }
    let mut bars = Vec::new();
    let (mut index, mut taken) = (0, false);
    while index < 6 {
        let at = base + u64::from(sriov::VF_BAR0) + 4 * u64::from(index);
        let before = read_u32(function, at)?;
        function.write(igb_driver::registers::CONFIG, at, &u32::MAX.to_le_bytes())?;
        let probed = read_u32(function, at)?;
        function.write(igb_driver::registers::CONFIG, at, &before.to_le_bytes())?;
        taken |= probed != before;
        /// The bits of a memory BAR that say what it is.
        const KIND: u32 = 0xF;
        let wide = probed & pci::BAR_MEMORY_64 != 0;
        if probed & !KIND != 0 {
            bars.push(VfBar {
                index,
                size: (!(probed & !KIND)).wrapping_add(1),
                wide,
                prefetchable: probed & pci::BAR_PREFETCHABLE != 0,
            });
        }
        index += if wide { 2 } else { 1 };
    }
    Ok(if taken { bars } else { known_vf_bars() })
}
