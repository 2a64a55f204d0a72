//! How a user names an interface.

use std::fmt;
use std::str::FromStr;

use nix::libc;

/// The name of a network interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; libc::IFNAMSIZ],
    len: usize,
}

/// A text that no interface can have as its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no interface name: 1 to 15 characters, no slash and no space")]
pub struct NotAName(pub String);

impl Name {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).expect("ASCII, see `from_str`")
    }

    /// The name with zeros behind it, as requests carry it.
    #[must_use]
    pub fn padded(&self) -> [u8; libc::IFNAMSIZ] {
        self.bytes
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let valid = !text.is_empty()
            && text.len() < libc::IFNAMSIZ
            && text != "."
            && text != ".."
            && text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !valid {
            return Err(NotAName(text.to_owned()));
        }
        let mut bytes = [0; libc::IFNAMSIZ];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self {
            bytes,
            len: text.len(),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// How frames reach an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is a TAP: what the kernel sends on it comes here.
    Tap,
    /// A packet socket: what arrives on it comes here. One end of a veth pair, for the other end's
    /// stack.
    Packet,
}

/// An interface as a user names it: `tap:NAME` or `packet:NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// How it is reached.
    pub kind: Kind,
    /// Which it is.
    pub name: Name,
}

impl FromStr for Spec {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let (kind, name) = match text.split_once(':') {
            Some(("tap", name)) => (Kind::Tap, name),
            Some(("packet", name)) => (Kind::Packet, name),
            _ => return Err(NotAName(text.to_owned())),
        };
        Ok(Self {
            kind,
            name: name.parse()?,
        })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Tap => "tap",
            Kind::Packet => "packet",
        };
        write!(f, "{kind}:{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused_before_the_kernel_is_asked() {
        for name in ["", "sixteen-chars-xx", "a/b", "a b", "."] {
            assert!(name.parse::<Name>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_spec_reads_back_as_it_was_written() {
        for text in ["tap:tap0", "packet:veth-a.1"] {
            let spec: Spec = text.parse().expect(text);
            assert_eq!(spec.to_string(), text);
        }
        for text in ["tap", "tap:", "tun:a", "packet:a b"] {
            assert!(text.parse::<Spec>().is_err(), "{text}");
        }
    }
}
