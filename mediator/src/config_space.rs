//! The VF's configuration space as its client sees it: the card's, with the mediator's BAR in it.
//! Also where an FLR is recognised.

use std::sync::atomic::{AtomicU32, Ordering};

use igb::pci::{capability, express, header, id};
use iommu::function::{Function, FunctionError};
use mediator_protocol::bar;
use vfio_user::device::region;

/// First and last byte of BAR2's register.
const BAR_FIRST: u64 = header::bar(bar::INDEX as usize) as u64;
const BAR_LAST: u64 = BAR_FIRST + 3;
/// The address bits that a BAR of this size has.
const BAR_ADDRESS: u32 = !(bar::SIZE as u32 - 1);
/// More capabilities than fit into 256 bytes: the list of a lying device ends.
const MOST_CAPABILITIES: usize = 48;

/// What a write to configuration space is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigWrite {
    /// Goes to the card.
    Plain,
    /// Goes to the card [without the bit](ConfigSpace::without_flr), and resets the VF.
    Flr,
}

/// The mediator's additions.
#[derive(Debug, Default)]
pub(crate) struct ConfigSpace {
    /// BAR2, as the client wrote it: 32-bit memory, not prefetchable.
    bar: AtomicU32,
    /// Offset of Device Control; 0 if the card has no PCI Express capability.
    device_control: AtomicU32,
}

impl ConfigSpace {
    /// A new downstream: look where its PCI Express capability is.
    pub(crate) fn attach(&self, function: &dyn Function) -> Result<(), FunctionError> {
        let byte = |offset: u16| -> Result<u8, FunctionError> {
            let mut data = [0];
            function.read(region::CONFIG, offset.into(), &mut data)?;
            Ok(data[0])
        };
        let mut found = 0;
        let mut at = byte(header::CAPABILITIES)? & !3;
        for _ in 0..MOST_CAPABILITIES {
            if at == 0 {
                break;
            }
            if byte(u16::from(at) + capability::ID)? == id::EXPRESS {
                found = u32::from(at) + u32::from(express::DEVICE_CONTROL);
                break;
            }
            at = byte(u16::from(at) + capability::NEXT)? & !3;
        }
        self.device_control.store(found, Ordering::Relaxed);
        self.reset();
        Ok(())
    }

    /// The VF was reset.
    pub(crate) fn reset(&self) {
        self.bar.store(0, Ordering::Relaxed);
    }

    /// Put our bytes into what was read from the card at `offset`.
    pub(crate) fn overlay(&self, offset: u64, data: &mut [u8]) {
        let bar = self.bar.load(Ordering::Relaxed).to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            if (BAR_FIRST..=BAR_LAST).contains(&at) {
                *byte = bar[(at - BAR_FIRST) as usize];
            }
        }
    }

    /// The client writes. What is ours is kept here; the card ignores its own BAR2, which it does
    /// not have, so that the write can go to it as it is.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> ConfigWrite {
        let mut bar = self.bar.load(Ordering::Relaxed).to_le_bytes();
        // The bit is in the upper byte of Device Control.
        let control = u64::from(self.device_control.load(Ordering::Relaxed));
        let mut flr = false;
        for (at, byte) in (offset..).zip(data) {
            if (BAR_FIRST..=BAR_LAST).contains(&at) {
                bar[(at - BAR_FIRST) as usize] = *byte;
            }
            flr |= control != 0
                && at == control + 1
                && byte & express::INITIATE_FLR.to_le_bytes()[1] != 0;
        }
        self.bar
            .store(u32::from_le_bytes(bar) & BAR_ADDRESS, Ordering::Relaxed);
        if flr {
            ConfigWrite::Flr
        } else {
            ConfigWrite::Plain
        }
    }

    /// The write with Initiate FLR taken out of it.
    pub(crate) fn without_flr(&self, offset: u64, data: &[u8]) -> Vec<u8> {
        let upper = u64::from(self.device_control.load(Ordering::Relaxed)) + 1;
        let mut rest = data.to_vec();
        if let Some(n) = upper.checked_sub(offset)
            && let Some(byte) = usize::try_from(n).ok().and_then(|n| rest.get_mut(n))
        {
            *byte &= !express::INITIATE_FLR.to_le_bytes()[1];
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_sizes_as_4_kib_of_32_bit_memory() {
        let space = ConfigSpace::default();
        assert_eq!(space.write(0x18, &[0xFF; 4]), ConfigWrite::Plain);
        let mut header = [0xAA; 64];
        space.overlay(0, &mut header);
        assert_eq!(
            header[0x14..0x20],
            [
                0xAA, 0xAA, 0xAA, 0xAA, 0x00, 0xF0, 0xFF, 0xFF, 0xAA, 0xAA, 0xAA, 0xAA
            ]
        );
        space.write(0x1A, &[0x12]);
        let mut bar = [0; 2];
        space.overlay(0x1A, &mut bar);
        assert_eq!(bar, [0x12, 0xFF]);
        space.reset();
        space.overlay(0x1A, &mut bar);
        assert_eq!(bar, [0, 0]);
    }

    #[test]
    fn an_flr_is_seen_in_any_width() {
        let space = ConfigSpace::default();
        space.device_control.store(0xA8, Ordering::Relaxed);
        assert_eq!(
            space.write(0xA8, &0x8000u16.to_le_bytes()),
            ConfigWrite::Flr
        );
        assert_eq!(
            space.write(0xA8, &0x0000_8000u32.to_le_bytes()),
            ConfigWrite::Flr
        );
        assert_eq!(space.write(0xA9, &[0x80]), ConfigWrite::Flr);
        assert_eq!(space.without_flr(0xA9, &[0x81]), [0x01]);
        assert_eq!(
            space.without_flr(0xA8, &[0xFF; 4]),
            [0xFF, 0x7F, 0xFF, 0xFF]
        );
        assert_eq!(space.without_flr(0xAA, &[0x80]), [0x80]);
        assert_eq!(space.write(0xA0, &[0x80; 9]), ConfigWrite::Plain);
        assert_eq!(
            space.write(0xA8, &0x7FFFu16.to_le_bytes()),
            ConfigWrite::Plain
        );
        space.device_control.store(0, Ordering::Relaxed);
        assert_eq!(
            space.write(0, &[0xFF; 256]),
            ConfigWrite::Plain,
            "no capability, no FLR"
        );
    }
}
