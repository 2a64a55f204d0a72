//! Which function, as a user names it: `0000:BB:DD.F[,vf_token=UUID]`.

use std::ffi::CString;
use std::fmt;
use std::str::FromStr;

/// A function of this machine, by its place on the PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// PCI domain.
    pub domain: u16,
    /// Bus.
    pub bus: u8,
    /// Device on the bus, below 32.
    pub device: u8,
    /// Function of the device, below 8.
    pub function: u8,
}

/// A UUID that a PF and those who may open its VFs share.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VfToken([u8; 16]);

/// A function on kernel VFIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelPlace {
    /// Which function.
    pub address: PciAddress,
    /// The secret without which a VF of a PF on vfio-pci does not open; on a PF, it sets it.
    pub vf_token: Option<VfToken>,
}

/// A name that names no function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write 0000:BB:DD.F, with ,vf_token=UUID after it where the PF is on vfio-pci too")]
pub struct NotAnAddress;

fn hexadecimal(text: &str, digits: std::ops::RangeInclusive<usize>) -> Result<u16, NotAnAddress> {
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !plain || !digits.contains(&text.len()) {
        return Err(NotAnAddress);
    }
    u16::from_str_radix(text, 16).map_err(|_| NotAnAddress)
}

impl FromStr for PciAddress {
    type Err = NotAnAddress;

    /// The domain may be left out, as in `lspci`'s output.
    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let (rest, function) = text.rsplit_once('.').ok_or(NotAnAddress)?;
        let (rest, device) = rest.rsplit_once(':').ok_or(NotAnAddress)?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
        let address = Self {
            domain: hexadecimal(domain, 4..=4)?,
            bus: hexadecimal(bus, 2..=2)? as u8,
            device: hexadecimal(device, 2..=2)? as u8,
            function: hexadecimal(function, 1..=1)? as u8,
        };
        if address.device >= 32 || address.function >= 8 {
            return Err(NotAnAddress);
        }
        Ok(address)
    }
}

impl fmt::Display for PciAddress {
    /// As sysfs spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for VfToken {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let dashes = [8, 13, 18, 23];
        let shaped = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match byte {
                b'-' => dashes.contains(&at),
                _ => byte.is_ascii_hexdigit() && !dashes.contains(&at),
            });
        if !shaped {
            return Err(NotAnAddress);
        }
        let digits = text.replace('-', "");
        let mut bytes = [0; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| NotAnAddress)?;
        }
        Ok(Self(bytes))
    }
}

impl VfToken {
    pub(super) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    fn spelled(&self) -> String {
        let mut text = String::with_capacity(36);
        for (at, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

impl fmt::Debug for VfToken {
    /// It is a secret: it does not get into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VfToken(..)")
    }
}

impl FromStr for KernelPlace {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let (address, option) = match text.split_once(',') {
            Some((address, option)) => (address, Some(option)),
            None => (text, None),
        };
        let vf_token = option.map(|option| option.strip_prefix("vf_token=").ok_or(NotAnAddress));
        Ok(Self {
            address: address.parse()?,
            vf_token: vf_token.transpose()?.map(str::parse).transpose()?,
        })
    }
}

impl fmt::Display for KernelPlace {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl KernelPlace {
    /// The name by which a group is asked for the device.
    pub(super) fn device_name(&self) -> CString {
        let name = match &self.vf_token {
            Some(token) => format!("{} vf_token={}", self.address, token.spelled()),
            None => self.address.to_string(),
        };
        CString::new(name).expect("digits and punctuation only")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_goes_to_the_kernel_but_not_into_logs() {
        let text = "0000:01:10.7,vf_token=00112233-4455-6677-8899-aabbccddeeff";
        let place: KernelPlace = text.parse().expect("a place");
        assert_eq!(
            place.device_name().to_str(),
            Ok("0000:01:10.7 vf_token=00112233-4455-6677-8899-aabbccddeeff")
        );
        assert_eq!(place.to_string(), "0000:01:10.7");
        assert!(!format!("{place:?}").contains("0011"));
        let plain: KernelPlace = "01:10.7".parse().expect("a place");
        assert_eq!(plain.device_name().to_str(), Ok("0000:01:10.7"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "01:00",
            "1:00.0",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:01:00.00",
            "00000:01:00.0",
            "0000:01:00.0,",
            "0000:01:00.0,vf_token=",
            "0000:01:00.0,vf_token=00112233445566778899aabbccddeeff",
            "0000:01:00.0,vf_token=0011223-34455-6677-8899-aabbccddeeff",
            "0000:01:00.0,token=00112233-4455-6677-8899-aabbccddeeff",
            "0000:+1:00.0",
            "0000:01:0é.0",
        ] {
            assert!(bad.parse::<KernelPlace>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn addresses_round_trip(domain: u16, bus: u8, device in 0..32_u8, function in 0..8_u8) {
            let address = PciAddress { domain, bus, device, function };
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn tokens_round_trip(bytes: [u8; 16]) {
            prop_assert_eq!(VfToken(bytes).spelled().parse(), Ok(VfToken(bytes)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f:.,=-]{0,48}|.{0,20}") {
            let _ = text.parse::<KernelPlace>();
        }
    }
}
