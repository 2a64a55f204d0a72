//! The EEPROM's content, read through EERD (datasheet 6, 8.4).

use igb::{EERD, MacAddress, Value, nvm, pci};

/// The words of the EEPROM.
#[derive(Clone, Debug)]
pub(crate) struct Nvm {
    words: [u16; nvm::CHECKED_WORDS],
}

/// What words that are not programmed read.
const BLANK: u16 = 0xFFFF;
/// No part number behind a pointer: two plain words.
const PBA_NUMBER: [u16; 2] = [0xE433, 0x2200];
const IMAGE_VERSION: u16 = 0x1040;

impl Nvm {
    pub(crate) fn new(mac: MacAddress) -> Self {
        let mut words = [0; nvm::CHECKED_WORDS];
        let (low, high) = mac.to_words();
        words[nvm::MAC_ADDRESS] = low as u16;
        words[nvm::MAC_ADDRESS + 1] = (low >> 16) as u16;
        words[nvm::MAC_ADDRESS + 2] = high;
        words[nvm::VERSION] = IMAGE_VERSION;
        words[nvm::PBA] = PBA_NUMBER[0];
        words[nvm::PBA + 1] = PBA_NUMBER[1];
        words[nvm::INIT_CONTROL_1] = nvm::SIGNATURE;
        words[nvm::SUBSYSTEM_ID] = pci::SUBSYSTEM_ID;
        words[nvm::SUBSYSTEM_VENDOR_ID] = pci::VENDOR_INTEL;
        words[nvm::DEVICE_ID] = pci::PF_DEVICE_ID;
        words[nvm::VENDOR_ID] = pci::VENDOR_INTEL;
        words[nvm::VF_DEVICE_ID] = pci::VF_DEVICE_ID;
        words[nvm::INIT_CONTROL_2] = nvm::PAUSE_BOTH_WAYS;
        words[nvm::INIT_CONTROL_3_PORT_0] = nvm::APM_ENABLE;
        words[nvm::ALTERNATE_MAC_POINTER] = BLANK;
        words[nvm::CHECKSUM_WORD] = nvm::checksum(&words);
        Self { words }
    }

    pub(crate) fn mac(&self) -> MacAddress {
        let [low, middle, high] = [0, 1, 2].map(|n| self.words[nvm::MAC_ADDRESS + n]);
        MacAddress::from_words(u32::from(low) | u32::from(middle) << 16, high)
    }

    /// EERD as it reads after `command` was written: the word is there at once.
    pub(crate) fn eerd(&self, command: Value<EERD>) -> Value<EERD> {
        if !command.has(EERD::START) {
            return command.clear(EERD::DONE);
        }
        let address = command.get(EERD::ADDR) as usize;
        let word = self.words.get(address).copied().unwrap_or(BLANK);
        command
            .clear(EERD::START)
            .set(EERD::DONE)
            .with(EERD::DATA, u32::from(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_finds_the_checksum_and_the_address() {
        let mac = MacAddress([2, 3, 4, 5, 6, 7]);
        let nvm = Nvm::new(mac);
        let read = |address: u32| {
            let command = Value::<EERD>::from_raw(0)
                .with(EERD::ADDR, address)
                .set(EERD::START);
            let value = nvm.eerd(command);
            assert!(value.has(EERD::DONE) && !value.has(EERD::START));
            value.get(EERD::DATA) as u16
        };
        let sum = (0..nvm::CHECKED_WORDS as u32).fold(0u16, |sum, n| sum.wrapping_add(read(n)));
        assert_eq!(sum, nvm::CHECKSUM);
        assert_eq!([read(0), read(1), read(2)], [0x0302, 0x0504, 0x0706]);
        assert_eq!(read(0x1234), BLANK);
        assert_eq!(nvm.mac(), mac);
    }
}
