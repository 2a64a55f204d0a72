//! Frames that can be told apart and checked: of the local experimental EtherType, numbered, with a
//! payload that follows from the number.

use igb::MacAddress;

/// IEEE 802 Local Experimental EtherType 1.
pub const ETHERTYPE: u16 = 0x88B5;
/// Shortest frame on the wire, without FCS.
pub const SHORTEST: usize = 60;
/// Bytes of an Ethernet header.
pub const HEADER: usize = 14;
/// Numbers of no frame.
pub const NONE: [u32; 0] = [];
/// No VLAN ids.
pub const NO_VLAN: [u16; 0] = [];
const NUMBER: std::ops::Range<usize> = HEADER..HEADER + 4;
const LENGTH: std::ops::Range<usize> = HEADER + 4..HEADER + 6;
const PAYLOAD: usize = HEADER + 6;

/// A frame of `length` bytes, without FCS.
///
/// # Panics
///
/// If `length` has no room for the number.
#[must_use]
pub fn frame(to: MacAddress, from: MacAddress, number: u32, length: usize) -> Vec<u8> {
    assert!(length >= PAYLOAD, "a frame needs {PAYLOAD} bytes");
    let mut frame = Vec::with_capacity(length);
    frame.extend(to.bytes());
    frame.extend(from.bytes());
    frame.extend(ETHERTYPE.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.extend((length as u16).to_be_bytes());
    frame.extend((PAYLOAD..length).map(|at| filler(number, at)));
    frame
}

/// The same frame with a VLAN tag that its sender puts there.
#[must_use]
pub fn tagged(frame: &[u8], vid: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [
        addresses,
        &0x8100_u16.to_be_bytes(),
        &vid.to_be_bytes(),
        rest,
    ]
    .concat()
}

fn filler(number: u32, at: usize) -> u8 {
    (number.wrapping_mul(31) as usize ^ at.wrapping_mul(7) ^ at >> 8) as u8
}

/// Who a frame came from and its number; `None` if it is not one of ours.
///
/// # Panics
///
/// If it is one of ours and not as it was sent.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<(MacAddress, u32)> {
    let ethertype = bytes.get(12..HEADER)?;
    if ethertype != ETHERTYPE.to_be_bytes() {
        return None;
    }
    let number = u32::from_be_bytes(bytes.get(NUMBER)?.try_into().ok()?);
    let length = usize::from(u16::from_be_bytes(bytes.get(LENGTH)?.try_into().ok()?));
    assert_eq!(
        bytes.len(),
        length,
        "frame {number} has another length than it was sent with"
    );
    let wrong = (PAYLOAD..length).find(|at| bytes[*at] != filler(number, *at));
    assert_eq!(wrong, None, "frame {number} of {length} bytes is damaged");
    Some((MacAddress::new(bytes[6..12].try_into().ok()?), number))
}
