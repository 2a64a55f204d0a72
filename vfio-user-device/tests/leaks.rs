//! What is left after many clients. Alone in its process, since it counts descriptors.

mod rig;

use std::sync::Arc;

use igb::FunctionId;
use iommu::function::Function;
use vfio_user_device::Card;
use vfio_user_device::sockets::{SocketDir, Sockets};

use rig::{
    Station, bring_up, broadcast, connect, eventually, open_descriptors, options, vf_socket,
};

#[test]
fn clients_and_vfs_that_come_and_go_leave_no_descriptor() {
    let dir = tempfile::tempdir().expect("a directory");
    let card = Card::new(options()).expect("a card");
    let claim = SocketDir::claim(dir.path()).expect("the directory");
    let sockets = Sockets::serve(&card, claim).expect("sockets");
    let pf = connect(&sockets.pf_socket());
    bring_up(&*pf, 2);

    let use_once = |fill| {
        let mut sender = Station::open(connect(&vf_socket(dir.path(), 0)));
        let mut receiver = Station::open(connect(&vf_socket(dir.path(), 1)));
        let frame = broadcast(0, 100, fill);
        assert!(sender.send(&frame));
        assert_eq!(receiver.receive(), frame);
    };
    let settled = |card: &Arc<Card>| {
        eventually("the clients are gone", || {
            FunctionId::vfs().all(|vf| !card.is_connected(vf))
        });
    };
    use_once(0);
    settled(&card);
    let before = open_descriptors();
    for fill in 1..=100 {
        use_once(fill);
    }
    settled(&card);
    eventually("every descriptor of a connection is closed", || {
        open_descriptors() <= before
    });

    for _ in 0..20 {
        pf.sriov_configure(0).expect("no VFs");
        pf.sriov_configure(2).expect("VFs");
        drop(connect(&vf_socket(dir.path(), 1)));
    }
    settled(&card);
    eventually("every descriptor of a VF is closed", || {
        open_descriptors() <= before
    });
}
