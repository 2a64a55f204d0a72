//! The EEPROM: 16-bit words that EERD reads (datasheet 6).

/// Words that the checksum covers, the checksum included.
pub const CHECKED_WORDS: usize = 0x40;
/// What they add up to, modulo 2^16.
pub const CHECKSUM: u16 = 0xBABA;

/// First of the three words of the MAC address; the low byte of each comes first on the wire.
pub const MAC_ADDRESS: usize = 0x00;
/// Compatibility.
pub const COMPATIBILITY: usize = 0x03;
/// Image version.
pub const VERSION: usize = 0x05;
/// First of the two words of the board's part number.
pub const PBA: usize = 0x08;
/// Initialization control 1, which carries the signature.
pub const INIT_CONTROL_1: usize = 0x0A;
/// Subsystem ID.
pub const SUBSYSTEM_ID: usize = 0x0B;
/// Subsystem vendor ID.
pub const SUBSYSTEM_VENDOR_ID: usize = 0x0C;
/// Device ID of the PF.
pub const DEVICE_ID: usize = 0x0D;
/// Vendor ID.
pub const VENDOR_ID: usize = 0x0E;
/// Initialization control 2.
pub const INIT_CONTROL_2: usize = 0x0F;
/// Initialization control 3 of port 1.
pub const INIT_CONTROL_3_PORT_1: usize = 0x14;
/// LED configuration.
pub const LED: usize = 0x1F;
/// Initialization control 3 of port 0.
pub const INIT_CONTROL_3_PORT_0: usize = 0x24;
/// IOV control.
pub const IOV_CONTROL: usize = 0x25;
/// Device ID of a VF.
pub const VF_DEVICE_ID: usize = 0x26;
/// Where an alternate MAC address lies; 0xFFFF or 0 for none.
pub const ALTERNATE_MAC_POINTER: usize = 0x37;
/// Makes [`CHECKED_WORDS`] add up to [`CHECKSUM`].
pub const CHECKSUM_WORD: usize = 0x3F;

/// Bits 15:14 of INIT_CONTROL_1: a valid EEPROM.
pub const SIGNATURE: u16 = 1 << 14;
/// INIT_CONTROL_2: pause frames both ways are advertised.
pub const PAUSE_BOTH_WAYS: u16 = 3 << 12;
/// INIT_CONTROL_3: APM wake-up is enabled.
pub const APM_ENABLE: u16 = 1 << 10;
/// In PBA: the part number is behind a pointer, not in the two words.
pub const PBA_POINTER_GUARD: u16 = 0xFAFA;

/// The value of [`CHECKSUM_WORD`] for these words, whose own checksum word is not looked at.
#[must_use]
pub const fn checksum(words: &[u16; CHECKED_WORDS]) -> u16 {
    let mut sum: u16 = 0;
    let mut word = 0;
    while word < CHECKSUM_WORD {
        sum = sum.wrapping_add(words[word]);
        word += 1;
    }
    CHECKSUM.wrapping_sub(sum)
}
