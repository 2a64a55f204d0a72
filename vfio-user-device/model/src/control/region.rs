//! Regions of a function: which exist, and how accesses of any offset and size reach them.
//!
//! BAR0 is made of dwords. A read of any size takes each dword it touches once; a write reaches the
//! dwords that it covers whole and is ignored elsewhere, as the 82576 ignores partial register writes
//! (datasheet 8.1.1.4).

use igb::function::FunctionKind;
use igb::{FunctionId, pci};

use super::Control;
use crate::effects::Effects;
use crate::host::ControlHost;

/// A region of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CardRegion {
    /// BAR0: registers.
    Bar0,
    /// PF BAR1: flash.
    Flash,
    /// PF BAR2: the I/O window onto BAR0.
    Io,
    /// BAR3: MSI-X table and PBA.
    Msix,
    /// Configuration space.
    Config,
}

impl CardRegion {
    /// The region at a VFIO region index of a function of this kind.
    #[must_use]
    pub fn from_vfio_index(kind: FunctionKind, index: u32) -> Option<Self> {
        match (kind, index) {
            (_, 0) => Some(CardRegion::Bar0),
            (FunctionKind::Physical, 1) => Some(CardRegion::Flash),
            (FunctionKind::Physical, 2) => Some(CardRegion::Io),
            (_, 3) => Some(CardRegion::Msix),
            (_, 7) => Some(CardRegion::Config),
            _ => None,
        }
    }

    /// Bytes of the region; 0 if a function of this kind does not have it.
    #[must_use]
    pub fn size(self, kind: FunctionKind) -> u64 {
        u64::from(match (self, kind) {
            (CardRegion::Bar0, FunctionKind::Physical) => pci::PF_BAR_REGISTERS.size,
            (CardRegion::Bar0, FunctionKind::Virtual) => pci::VF_BAR_REGISTERS.size,
            (CardRegion::Flash, FunctionKind::Physical) => pci::PF_BAR_FLASH.size,
            (CardRegion::Io, FunctionKind::Physical) => pci::PF_BAR_IO.size,
            (CardRegion::Msix, FunctionKind::Physical) => pci::PF_BAR_MSIX.size,
            (CardRegion::Msix, FunctionKind::Virtual) => pci::VF_BAR_MSIX.size,
            (CardRegion::Config, _) => pci::EXTENDED_CONFIG_SIZE as u32,
            (CardRegion::Flash | CardRegion::Io, FunctionKind::Virtual) => 0,
        })
    }
}

/// What nobody answers reads all ones.
const UNANSWERED: u8 = 0xFF;
const DWORD: u64 = 4;

impl Control {
    /// Read a region of a function. Any offset and length; what does not exist reads 0, and all ones
    /// where the function does not respond (a VF that is not enabled, BARs while memory is disabled).
    pub fn read(
        &mut self,
        function: FunctionId,
        region: CardRegion,
        offset: u64,
        data: &mut [u8],
        host: &mut dyn ControlHost,
    ) -> Effects {
        if !self.responds(function, region) {
            data.fill(UNANSWERED);
            return Effects::NONE;
        }
        match region {
            CardRegion::Config => self.read_config(function, offset, data),
            CardRegion::Msix => {
                let pending = self.interrupts.pending(function);
                self.msix[function.slot()].read(offset, data, pending);
            }
            CardRegion::Flash => data.fill(UNANSWERED),
            CardRegion::Bar0 => self.each_dword(offset, data, |control, at| {
                control.read_dword(function, at, host)
            }),
            CardRegion::Io => self.each_dword(offset, data, |control, at| match at {
                pci::IOADDR => control.io_address,
                pci::IODATA => control.read_dword(function, control.io_address & !3, host),
                _ => 0,
            }),
        }
        // What reads change stays inside: nothing of it concerns the data path.
        Effects::NONE
    }

    /// Write a region of a function. Any offset and length; what does not exist ignores it.
    pub fn write(
        &mut self,
        function: FunctionId,
        region: CardRegion,
        offset: u64,
        data: &[u8],
        host: &mut dyn ControlHost,
    ) -> Effects {
        if !self.responds(function, region) {
            return Effects::NONE;
        }
        let mut effects = Effects::NONE;
        match region {
            CardRegion::Config => return self.write_config(function, offset, data, host),
            CardRegion::Msix => self.msix[function.slot()].write(offset, data),
            CardRegion::Flash => {}
            CardRegion::Bar0 => {
                for (at, value) in whole_dwords(offset, data) {
                    self.write_dword(function, at, value, &mut effects, host);
                }
            }
            CardRegion::Io => {
                for (at, value) in whole_dwords(offset, data) {
                    match at {
                        pci::IOADDR => self.io_address = value,
                        pci::IODATA => {
                            let at = self.io_address & !3;
                            self.write_dword(function, at, value, &mut effects, host);
                        }
                        _ => {}
                    }
                }
            }
        }
        effects
    }

    fn responds(&self, function: FunctionId, region: CardRegion) -> bool {
        if region.size(function.kind()) == 0 || !self.is_enabled(function) {
            return false;
        }
        let command = self.pf_config.u16(pci::header::COMMAND);
        match region {
            CardRegion::Config => true,
            CardRegion::Io => command & pci::command::IO != 0,
            _ if function.is_vf() => {
                let control = self.pf_config.u16(pci::offset::SRIOV + pci::sriov::CONTROL);
                control & pci::sriov::VF_MSE != 0
            }
            _ => command & pci::command::MEMORY != 0,
        }
    }

    fn each_dword(
        &mut self,
        offset: u64,
        data: &mut [u8],
        mut read: impl FnMut(&mut Self, u32) -> u32,
    ) {
        let mut done = 0;
        while done < data.len() {
            let at = offset.saturating_add(done as u64);
            let within = (at % DWORD) as usize;
            let value = u32::try_from(at - at % DWORD)
                .map(|at| read(self, at))
                .unwrap_or(0);
            let bytes = &value.to_le_bytes()[within..];
            let len = bytes.len().min(data.len() - done);
            data[done..done + len].copy_from_slice(&bytes[..len]);
            done += len;
        }
    }
}

/// The dwords that a write covers whole.
fn whole_dwords(offset: u64, data: &[u8]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let skip = (offset.wrapping_neg() % DWORD) as usize;
    let whole = data.get(skip..).unwrap_or_default();
    whole
        .chunks_exact(DWORD as usize)
        .enumerate()
        .filter_map(move |(n, bytes)| {
            let at = offset.checked_add((skip + n * DWORD as usize) as u64)?;
            let value = u32::from_le_bytes(bytes.try_into().ok()?);
            Some((u32::try_from(at).ok()?, value))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_reach_the_dwords_they_cover() {
        let data: Vec<u8> = (0..11).collect();
        let dwords = |offset| {
            whole_dwords(offset, &data)
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        };
        assert_eq!(dwords(0), [0, 4]);
        assert_eq!(dwords(1), [4, 8]);
        assert_eq!(dwords(6), [8, 12]);
        assert_eq!(dwords(u64::MAX - 2), [0u32; 0]);
        assert_eq!(whole_dwords(3, &[1, 2]).count(), 0);
    }
}
