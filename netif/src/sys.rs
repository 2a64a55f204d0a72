//! The system calls that take pointers: interface requests, options and messages of packet sockets.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_short, c_ulong};

use crate::offload::HEADER_BYTES;
use crate::spec::Name;

nix::ioctl_write_int! {
    /// What the kernel may leave undone in a TAP's frames (linux/if_tun.h).
    tun_set_offload, b'T', 208
}

nix::ioctl_write_ptr! {
    /// The carrier of a TAP (linux/if_tun.h).
    tun_set_carrier, b'T', 226, c_int
}

/// Attach a file to a TAP (linux/if_tun.h).
const TUN_SET_IFF: c_ulong = nix::request_code_write!(b'T', 202, size_of::<c_int>());

pub(crate) fn set_offload(fd: BorrowedFd<'_>, bits: u32) -> Result<(), Errno> {
    // SAFETY: the request takes its argument by value.
    unsafe { tun_set_offload(fd.as_raw_fd(), c_ulong::from(bits)) }.map(drop)
}

pub(crate) fn set_carrier(fd: BorrowedFd<'_>, up: bool) -> Result<(), Errno> {
    let up = c_int::from(up);
    // SAFETY: the kernel reads one int through a pointer to one that lives through the call.
    unsafe { tun_set_carrier(fd.as_raw_fd(), &raw const up) }.map(drop)
}

/// A request about an interface, and its answer.
pub(crate) struct Request(libc::ifreq);

impl Request {
    pub(crate) fn new(name: Name) -> Self {
        Self(libc::ifreq {
            ifr_name: name.padded().map(u8::cast_signed),
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 },
        })
    }

    /// One of the requests whose argument is an ifreq.
    fn make(&mut self, fd: BorrowedFd<'_>, request: c_ulong) -> Result<(), Errno> {
        // SAFETY: each request made here reads and writes no more than the whole ifreq that the
        // pointer leads to, which lives through the call.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut self.0) };
        Errno::result(result).map(drop)
    }

    pub(crate) fn attach_tap(mut self, fd: BorrowedFd<'_>, flags: c_int) -> Result<(), Errno> {
        // The flag word is 16 bits wide; what has the highest of them wraps.
        self.0.ifr_ifru.ifru_flags = flags as c_short;
        self.make(fd, TUN_SET_IFF)
    }

    pub(crate) fn read_flags(&mut self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.make(fd, libc::SIOCGIFFLAGS)
    }

    /// After [`Self::read_flags`].
    pub(crate) fn set_up(mut self, fd: BorrowedFd<'_>, up: bool) -> Result<(), Errno> {
        // SAFETY: every bit pattern is a valid short; `read_flags` wrote it.
        let flags = c_int::from(unsafe { self.0.ifr_ifru.ifru_flags });
        let flags = if up {
            flags | libc::IFF_UP
        } else {
            flags & !libc::IFF_UP
        };
        self.0.ifr_ifru.ifru_flags = flags as c_short;
        self.make(fd, libc::SIOCSIFFLAGS)
    }

    pub(crate) fn mac(mut self, fd: BorrowedFd<'_>) -> Result<[u8; 6], Errno> {
        self.make(fd, libc::SIOCGIFHWADDR)?;
        // SAFETY: the kernel filled the address in; its bytes are plain.
        let address = unsafe { self.0.ifr_ifru.ifru_hwaddr };
        let bytes = address.sa_data.map(i8::cast_unsigned);
        Ok(*bytes.first_chunk().expect("14 bytes"))
    }

    pub(crate) fn set_mac(mut self, fd: BorrowedFd<'_>, mac: [u8; 6]) -> Result<(), Errno> {
        let mut sa_data = [0; 14];
        for (to, from) in sa_data.iter_mut().zip(mac) {
            *to = from.cast_signed();
        }
        self.0.ifr_ifru.ifru_hwaddr = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data,
        };
        self.make(fd, libc::SIOCSIFHWADDR)
    }

    pub(crate) fn mtu(mut self, fd: BorrowedFd<'_>) -> Result<u32, Errno> {
        self.make(fd, libc::SIOCGIFMTU)?;
        // SAFETY: every bit pattern is a valid int; the kernel wrote it.
        Ok(unsafe { self.0.ifr_ifru.ifru_mtu }.cast_unsigned())
    }

    pub(crate) fn set_mtu(mut self, fd: BorrowedFd<'_>, mtu: u32) -> Result<(), Errno> {
        self.0.ifr_ifru.ifru_mtu = mtu.cast_signed();
        self.make(fd, libc::SIOCSIFMTU)
    }
}

/// Options of a packet socket, all of them switched on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PacketOption {
    /// Frames have a virtio-net header.
    VnetHeader,
    /// A message says which tag the kernel took out of the frame.
    AuxData,
    /// What this end sends does not come back.
    IgnoreOutgoing,
}

pub(crate) fn set_packet_option(fd: BorrowedFd<'_>, option: PacketOption) -> Result<(), Errno> {
    let name = match option {
        PacketOption::VnetHeader => libc::PACKET_VNET_HDR,
        PacketOption::AuxData => libc::PACKET_AUXDATA,
        PacketOption::IgnoreOutgoing => libc::PACKET_IGNORE_OUTGOING,
    };
    let on: c_int = 1;
    // SAFETY: the kernel reads one int through a pointer to one that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            (&raw const on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Bind a packet socket to an interface, for frames of every protocol.
pub(crate) fn bind_packet(fd: BorrowedFd<'_>, index: u32) -> Result<(), Errno> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads a whole sockaddr_ll, which lives through the call.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Room for one auxiliary message, aligned as its header wants it.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    data: libc::tpacket_auxdata,
}

/// Receive a frame: its length, and the tag that the kernel took out of it, as it stood on the wire. A
/// length beyond the buffer says that the frame was cut off.
pub(crate) fn receive_packet(
    fd: BorrowedFd<'_>,
    header: Option<&mut [u8; HEADER_BYTES]>,
    frame: &mut [u8],
) -> Result<(usize, Option<[u8; 4]>), Errno> {
    let skipped = if header.is_some() { HEADER_BYTES } else { 0 };
    let mut none = [];
    let header: &mut [u8] = match header {
        Some(header) => header,
        None => &mut none,
    };
    let mut parts = [IoSliceMut::new(header), IoSliceMut::new(frame)];
    // SAFETY: all zeros is a valid value of both: numbers, and null pointers in the second.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { std::mem::zeroed() };
    // An IoSliceMut is an iovec in memory, as the standard library guarantees.
    message.msg_iov = parts.as_mut_ptr().cast();
    message.msg_iovlen = parts.len();
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: the message's parts and its control buffer live through the call, and nothing else
    // refers to them; the kernel writes no more than the lengths given.
    let read = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
    let read = Errno::result(read)?.cast_unsigned();
    let has_aux = message.msg_controllen >= size_of::<Control>()
        && control.header.cmsg_level == libc::SOL_PACKET
        && control.header.cmsg_type == libc::PACKET_AUXDATA;
    let aux = &control.data;
    let tag = (has_aux && aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
        let tpid = if aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
            aux.tp_vlan_tpid
        } else {
            libc::ETH_P_8021Q as u16
        };
        let ([a, b], [c, d]) = (tpid.to_be_bytes(), aux.tp_vlan_tci.to_be_bytes());
        [a, b, c, d]
    });
    Ok((read.saturating_sub(skipped), tag))
}
