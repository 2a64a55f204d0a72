//! Descriptors that take for ever to close: whoever hands one in holds up itself and nobody else.

mod rig;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use igb::FunctionId;
use igb::pci::header;
use iommu::function::Function;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use vfio_user::device::{Device, DmaAccess, DmaWindow, IrqAction, irq};
use vfio_user_device::Card;

use rig::{LONG, bring_up, eventually, in_process, options, read_config};

/// A socket that lingers when it is closed, until its peer is dropped.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mut socket = TcpStream::connect(listener.local_addr().expect("its address")).expect("two");
    let (peer, _) = listener.accept().expect("a peer");
    socket.set_nonblocking(true).expect("not blocking");
    // More than both buffers hold: something remains to be sent.
    while socket.write(&[0; 1 << 16]).is_ok() {}
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: LONG.as_secs() as i32 * 10,
    };
    setsockopt(&socket, sockopt::Linger, &linger).expect("lingers");
    (socket.into(), peer)
}

/// Whether this process has a descriptor of the socket in its table.
fn has(inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let fds = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    fds.flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .any(|target| target.as_os_str() == name.as_str())
}

/// While the client of VF 0 is stuck in `hand_in`, the PF disables the VFs and goes on.
fn others_go_on(hand_in: impl FnOnce(&dyn Device, OwnedFd) -> Result<(), Errno> + Send + 'static) {
    let card = Card::new(options()).expect("a card");
    let pf = in_process(&card, FunctionId::PF);
    bring_up(&*pf, 2);
    let vf = card.function(FunctionId::vf(0));
    let (socket, peer) = lingering();
    let file = std::fs::File::from(socket);
    let inode = file.metadata().expect("an inode").ino();
    let stuck = thread::spawn(move || hand_in(&*vf, file.into()));
    // It has left the table when the kernel waits for it.
    eventually("it is being closed", || !has(inode));
    assert!(!stuck.is_finished());

    let (done, is_done) = mpsc::channel();
    let admin = thread::spawn({
        let (card, pf): (Arc<Card>, Arc<dyn Function>) = (card.clone(), pf);
        move || {
            pf.sriov_configure(0).expect("no VFs");
            done.send((card.num_vfs(), read_config(&*pf, header::VENDOR_ID)))
        }
    });
    let seen = is_done.recv_timeout(Duration::from_secs(5));
    let was_stuck = !stuck.is_finished();
    drop(peer);
    let _ = stuck.join().expect("it ends");
    admin.join().expect("it ends").expect("heard");
    assert!(was_stuck, "the socket did not linger");
    assert_eq!(seen, Ok((0, igb::pci::VENDOR_INTEL)));
}

#[test]
fn an_interrupt_that_cannot_be_closed() {
    others_go_on(|vf, fd| vf.set_irqs(irq::MSIX, 0, IrqAction::SetEventfds(vec![Some(fd)])));
}

#[test]
fn memory_that_cannot_be_closed() {
    others_go_on(|vf, fd| {
        vf.dma_map(DmaWindow {
            iova: 0x1000,
            size: 0x1000,
            access: DmaAccess::READ,
            file: Some((fd, 0)),
        })
    });
}
