//! An uplink over a TAP interface of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

use super::{MAX_FRAME, Uplink, UplinkError, UplinkLoss};

nix::ioctl_write_ptr_bad!(
    /// Attach the file to an interface (linux/if_tun.h).
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// An open TAP interface; frames are read and written without a header before them.
pub struct Tap {
    file: File,
}

impl Tap {
    /// Attach to the TAP interface `name`, which the kernel creates if it is not there yet and the
    /// process may do so.
    pub fn open(name: &str) -> Result<Self, UplinkError> {
        let valid = !name.is_empty()
            && name.len() < libc::IFNAMSIZ
            && name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !valid {
            return Err(UplinkError::InterfaceName(name.to_owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(UplinkError::TunDevice)?;
        let mut ifr_name = [0; libc::IFNAMSIZ];
        for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        let request = libc::ifreq {
            ifr_name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_flags: libc::c_short::try_from(flags).expect("two flags of the low 16 bits"),
            },
        };
        // SAFETY: `request` is a whole ifreq that lives through the call; TUNSETIFF reads its name
        // and flags and writes the name back through the pointer's own struct only.
        unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.map_err(|errno| {
            UplinkError::Attach {
                name: name.to_owned(),
                source: io::Error::from(errno),
            }
        })?;
        Ok(Self { file })
    }
}

impl Uplink for Tap {
    fn send(&self, frame: &[u8]) -> Result<(), UplinkLoss> {
        match (&self.file).write(frame) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(UplinkLoss::Full),
            // EIO: the interface is down.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Err(UplinkLoss::NoPeer),
            Err(_) => Err(UplinkLoss::Failed),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match (&self.file).read(buffer) {
                Ok(len) if len > 0 && len <= MAX_FRAME => return Some(len),
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused_before_the_kernel_is_asked() {
        for name in ["", "sixteen-chars-xx", "a/b", "a b"] {
            assert!(
                matches!(Tap::open(name), Err(UplinkError::InterfaceName(_))),
                "{name:?}"
            );
        }
    }
}
