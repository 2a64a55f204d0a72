//! Frames to and from an interface of the Linux kernel, so that its network stack stands behind what
//! is emulated or driven here: a TAP, or an interface's packet socket where TAPs are closed to the
//! user and user namespaces are not.
//!
//! With headers ([`Headers::On`]) a frame comes with what the kernel left undone in it (a checksum, the
//! split into segments) and goes with what was verified already; see [`offload`].

pub mod offload;
mod spec;
#[expect(
    unsafe_code,
    reason = "ioctls, socket options and recvmsg take pointers, for which nix has no wrapper"
)]
mod sys;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

pub use offload::Header;
pub use spec::{Kind, Name, NotAName, Spec};

/// Bytes that a frame of the kernel may have: an IP packet of 64 KiB with its Ethernet header and two
/// tags.
pub const MAX_FRAME: usize = 64 * 1024 + 22;
/// Bytes that a packet socket may hold back, where the system allows as much.
const SOCKET_BUFFER: usize = 4 << 20;

/// Whether frames travel with a [`Header`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// Frames are whole: every checksum right, none longer than the MTU. A packet socket without
    /// headers cannot promise that, as the kernel leaves such work to an interface.
    Off,
    /// Each frame has a header.
    On,
}

/// Why an interface could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No TAP device node, or no right to it.
    #[error(
        "cannot open /dev/net/tun: {0}; a TAP needs the tun module and access to that file; where \
         user namespaces are allowed, packet:NAME on one end of a veth pair does without"
    )]
    TunDevice(io::Error),
    /// The kernel refused the TAP.
    #[error(
        "cannot attach to the TAP interface {name}: {source}; create it for this user first \
         (ip tuntap add dev {name} mode tap user $USER) or run with CAP_NET_ADMIN"
    )]
    Attach {
        /// The interface.
        name: Name,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no such interface for a packet socket.
    #[error(
        "there is no interface {name}: {source}; make one first \
         (ip link add {name} type veth peer name PEER)"
    )]
    NoInterface {
        /// The interface.
        name: Name,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the packet socket.
    #[error(
        "cannot open a packet socket on {name}: {source}; it takes CAP_NET_RAW, which root of a \
             user namespace has in that namespace"
    )]
    Packet {
        /// The interface.
        name: Name,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a frame did not come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The interface is down.
    #[error("the interface is down")]
    Down,
    /// The kernel has no room for it.
    #[error("the kernel has no room")]
    Full,
    /// The interface was removed.
    #[error("the interface was removed")]
    Removed,
    /// The kernel refused the frame.
    #[error("the kernel refused the frame: {0}")]
    Refused(Errno),
}

/// An interface of the kernel, of which this process is the cable. Nothing here blocks.
#[derive(Debug)]
pub struct Interface {
    frames: Frames,
    /// What interface requests are made on.
    requests: OwnedFd,
    name: Name,
    index: u32,
    headers: Headers,
}

#[derive(Debug)]
enum Frames {
    Tap(File),
    Packet(OwnedFd),
}

impl Interface {
    /// Attach to the interface that `spec` names. A TAP is created if it is not there and the process
    /// may do so.
    ///
    /// # Errors
    ///
    /// [`OpenError`], with what would mend it.
    pub fn open(spec: &Spec, headers: Headers) -> Result<Self, OpenError> {
        let name = spec.name;
        let frames = match spec.kind {
            Kind::Tap => Frames::Tap(open_tap(name, headers)?),
            Kind::Packet => Frames::Packet(open_packet(name, headers)?),
        };
        let no_interface = |errno| OpenError::NoInterface {
            name,
            source: io::Error::from(errno),
        };
        let index = if_nametoindex(name.as_str()).map_err(no_interface)?;
        let requests = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(no_interface)?;
        Ok(Self {
            frames,
            requests,
            name,
            index,
            headers,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.frames {
            Frames::Tap(_) => Kind::Tap,
            Frames::Packet(_) => Kind::Packet,
        }
    }

    /// The next frame that the kernel sends, copied into `frame` ([`MAX_FRAME`] bytes hold any): its
    /// length and what is left to do for it. `None` if there is none now.
    ///
    /// # Errors
    ///
    /// [`Loss::Removed`]: nothing will ever come again. A packet socket says once that its interface
    /// went [`Loss::Down`].
    pub fn receive(&self, frame: &mut [u8]) -> Result<Option<(usize, Header)>, Loss> {
        loop {
            let mut raw = [0; offload::HEADER_BYTES];
            let (read, tag) = match &self.frames {
                Frames::Tap(file) => (self.read_tap(file, &mut raw, frame), None),
                Frames::Packet(fd) => {
                    let header = (self.headers == Headers::On).then_some(&mut raw);
                    match sys::receive_packet(fd.as_fd(), header, frame) {
                        Ok((read, tag)) => (Ok(read), tag),
                        Err(errno) => (Err(errno), None),
                    }
                }
            };
            match read {
                Ok(0) => return Ok(None),
                Ok(len) if len > frame.len() => {}
                Ok(mut len) => {
                    let mut header = Header::parse(&raw);
                    if let Some(tag) = tag {
                        let Some(longer) = insert_tag(frame, len, tag) else {
                            continue;
                        };
                        header = header.moved(longer - len);
                        len = longer;
                    }
                    return Ok(Some((len, header)));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(self.loss(errno)),
            }
        }
    }

    fn read_tap(
        &self,
        mut file: &File,
        raw: &mut [u8; offload::HEADER_BYTES],
        frame: &mut [u8],
    ) -> Result<usize, Errno> {
        let read = match self.headers {
            Headers::Off => file.read(frame),
            Headers::On => {
                let parts = &mut [io::IoSliceMut::new(raw), io::IoSliceMut::new(frame)];
                let read = file.read_vectored(parts);
                read.map(|read| read.saturating_sub(offload::HEADER_BYTES))
            }
        };
        read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
    }

    /// Give a frame to the kernel, with what is known of it.
    ///
    /// # Errors
    ///
    /// The frame is lost, as on a cable; [`Loss::Removed`]: so is every other.
    pub fn send(&self, header: Header, frame: &[u8]) -> Result<(), Loss> {
        let fd = self.as_fd();
        let raw = header.to_bytes();
        let parts = [io::IoSlice::new(&raw), io::IoSlice::new(frame)];
        let parts = match self.headers {
            Headers::On => &parts[..],
            Headers::Off => &parts[1..],
        };
        loop {
            match nix::sys::uio::writev(fd, parts) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.loss(errno)),
            }
        }
    }

    fn loss(&self, errno: Errno) -> Loss {
        match errno {
            Errno::EAGAIN | Errno::ENOBUFS => Loss::Full,
            // A TAP that is down answers EIO; one that was removed EBADFD.
            Errno::EBADFD => Loss::Removed,
            Errno::EIO | Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV => {
                if if_nametoindex(self.name.as_str()) == Ok(self.index) {
                    Loss::Down
                } else {
                    Loss::Removed
                }
            }
            errno => Loss::Refused(errno),
        }
    }

    /// Tell the kernel what it may leave undone in the frames it sends; no more than that holds until
    /// the next call. For a packet socket it is the kernel that decides, and the user with `ip link set
    /// dev PEER gso_max_segs 1` and `ethtool -K PEER tx off`.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn set_offloads(&self, offloads: offload::Accepted) -> io::Result<()> {
        match &self.frames {
            Frames::Tap(file) => Ok(sys::set_offload(file.as_fd(), offloads.tap_bits())?),
            Frames::Packet(_) => Ok(()),
        }
    }

    /// Let the kernel see the link up or down. For a packet socket on a veth that is done by taking
    /// this end up or down: its peer then has no carrier.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn set_carrier(&self, up: bool) -> io::Result<()> {
        match &self.frames {
            Frames::Tap(file) => Ok(sys::set_carrier(file.as_fd(), up)?),
            Frames::Packet(_) => {
                let mut request = sys::Request::new(self.name);
                request.read_flags(self.requests.as_fd())?;
                Ok(request.set_up(self.requests.as_fd(), up)?)
            }
        }
    }

    /// The interface's MAC address.
    ///
    /// # Errors
    ///
    /// The interface is gone.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        Ok(sys::Request::new(self.name).mac(self.requests.as_fd())?)
    }

    /// Set its MAC address. A TAP's owner may do that without privileges.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        let fd = match &self.frames {
            Frames::Tap(file) => file.as_fd(),
            Frames::Packet(_) => self.requests.as_fd(),
        };
        Ok(sys::Request::new(self.name).set_mac(fd, mac)?)
    }

    /// Its MTU.
    ///
    /// # Errors
    ///
    /// The interface is gone.
    pub fn mtu(&self) -> io::Result<u32> {
        Ok(sys::Request::new(self.name).mtu(self.requests.as_fd())?)
    }

    /// Set its MTU, which takes CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        Ok(sys::Request::new(self.name).set_mtu(self.requests.as_fd(), mtu)?)
    }
}

/// Readable while a frame may be waiting, or the interface was removed.
impl AsFd for Interface {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.frames {
            Frames::Tap(file) => file.as_fd(),
            Frames::Packet(fd) => fd.as_fd(),
        }
    }
}

fn open_tap(name: Name, headers: Headers) -> Result<File, OpenError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(OpenError::TunDevice)?;
    let headers = match headers {
        Headers::Off => 0,
        Headers::On => libc::IFF_VNET_HDR,
    };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | headers;
    sys::Request::new(name)
        .attach_tap(file.as_fd(), flags)
        .map_err(|errno| OpenError::Attach {
            name,
            source: errno.into(),
        })?;
    Ok(file)
}

fn open_packet(name: Name, headers: Headers) -> Result<OwnedFd, OpenError> {
    let index = if_nametoindex(name.as_str()).map_err(|errno| OpenError::NoInterface {
        name,
        source: errno.into(),
    })?;
    let refused = |errno: Errno| OpenError::Packet {
        name,
        source: errno.into(),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(refused)?;
    if headers == Headers::On {
        sys::set_packet_option(fd.as_fd(), sys::PacketOption::VnetHeader).map_err(refused)?;
    }
    for option in [
        sys::PacketOption::AuxData,
        sys::PacketOption::IgnoreOutgoing,
    ] {
        sys::set_packet_option(fd.as_fd(), option).map_err(refused)?;
    }
    // As much of it as the system allows; what it does not hold is lost, as in any queue.
    let _ = setsockopt(&fd, sockopt::RcvBuf, &SOCKET_BUFFER);
    let _ = setsockopt(&fd, sockopt::SndBuf, &SOCKET_BUFFER);
    // From here on frames come.
    sys::bind_packet(fd.as_fd(), index).map_err(refused)?;
    Ok(fd)
}

/// Put a tag that the kernel keeps beside the frame back into it (IEEE 802.1Q clause 9); the frame's
/// new length, or `None` if there is no room or no frame.
fn insert_tag(frame: &mut [u8], len: usize, tag: [u8; 4]) -> Option<usize> {
    const ADDRESSES: usize = 12;
    let longer = len + tag.len();
    if len < ADDRESSES || longer > frame.len() {
        return None;
    }
    frame.copy_within(ADDRESSES..len, ADDRESSES + tag.len());
    frame[ADDRESSES..ADDRESSES + tag.len()].copy_from_slice(&tag);
    Some(longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_goes_behind_the_addresses() {
        let mut frame = [0; 20];
        frame[..16].copy_from_slice(b"addressesaddIPv4");
        assert_eq!(insert_tag(&mut frame, 16, *b"TAG!"), Some(20));
        assert_eq!(&frame, b"addressesaddTAG!IPv4");
        assert_eq!(insert_tag(&mut frame, 17, *b"TAG!"), None);
        assert_eq!(insert_tag(&mut frame, 11, *b"TAG!"), None);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let spec: Spec = "packet:absent0".parse().expect("a spec");
        let error = Interface::open(&spec, Headers::On).expect_err("no such interface");
        assert!(error.to_string().contains("absent0"), "{error}");
    }
}
