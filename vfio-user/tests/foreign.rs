//! The crate `vfio_user` as a client of our server, and as a server for our client. Where it departs
//! from the specification, the tests keep to what it does right.

mod recorder;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use foreign_vfio_user::{
    DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion, SparseArea as ForeignArea,
};
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use recorder::*;
use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
    vfio_region_info, vfio_region_sparse_mmap_area,
};
use vfio_user::client::{Client, ClientError, ClientOptions, Lost};
use vfio_user::device::{Device, DmaAccess, SparseArea, irq, region};
use vfio_user::server::{Listener, ServerOptions, Stop};

#[test]
fn a_foreign_client_uses_our_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.sock");
    let listener = Listener::bind(&path, ServerOptions::default()).unwrap();
    let (device, events) = Recorder::new();
    let (device, stop) = (device as Arc<dyn Device>, Stop::new().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| listener.serve(&device, &stop).unwrap());
        // Twice: the second connection is as good as the first.
        for _ in 0..2 {
            let mut client = foreign_vfio_user::Client::new(&path).unwrap();
            events.expect("connected");
            let bar0 = client.region(region::BAR0).unwrap();
            assert_eq!(bar0.size, BAR0_SIZE);
            assert!(bar0.file_offset.is_some());
            let area = &bar0.sparse_areas[0];
            assert_eq!((area.offset, area.size), (SPARSE.offset, SPARSE.size));
            assert_eq!(client.region(region::CONFIG).unwrap().size, 4096);
            assert_eq!(client.get_irq_info(irq::MSIX).unwrap().count, VECTORS);

            client
                .region_write(region::BAR0, 0x40, &[1, 2, 3, 4, 5, 6, 7, 8])
                .unwrap();
            let mut word = [0; 4];
            client.region_read(region::BAR0, 0x44, &mut word).unwrap();
            assert_eq!(word, [5, 6, 7, 8]);

            let file = memfd(0x4000);
            file.write_all_at(&[42], 0x1000).unwrap();
            client
                .dma_map(0x1000, 0x8000, 0x2000, file.as_raw_fd())
                .unwrap();
            events.expect("map 0x8000+0x2000 rw file@0x1000=42");
            let event = EventFd::new().unwrap();
            client
                .set_irqs(irq::MSIX, 0x24, 1, 2, &[event.as_raw_fd(); 2])
                .unwrap();
            events.expect("irq 2.1 eventfds ++");
            client.set_irqs(irq::MSIX, 0x21, 0, 0, &[]).unwrap();
            events.expect("irq 2.0 disable");
            client.dma_unmap(0x8000, 0x2000).unwrap();
            events.expect("unmap 0x8000+0x2000");
            client.reset().unwrap();
            events.expect("reset");
            client.shutdown().unwrap();
            drop(client);
            events.expect("disconnected");
        }
        stop.raise();
    });
}

/// What the foreign server serves.
struct Backend {
    memory: Vec<u8>,
    events: Sender<String>,
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if region != region::BAR0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        data.copy_from_slice(&self.memory[offset as usize..][..data.len()]);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if region != region::BAR0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.memory[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let fd = fd.is_some();
        let bits = flags.bits();
        self.events
            .send(format!(
                "map {address:#x}+{size:#x} {bits} {offset:#x} {fd}"
            ))
            .unwrap();
        Ok(())
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        self.events
            .send(format!("unmap {address:#x}+{size:#x}"))
            .unwrap();
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.events.send("reset".into()).unwrap();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let fds = fds.len();
        self.events
            .send(format!("irq {index}.{start}+{count} {flags:#x} {fds}"))
            .unwrap();
        Ok(())
    }
}

#[test]
fn our_client_uses_a_foreign_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.sock");
    let pages = memfd(BAR0_SIZE);
    let flags =
        VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | VFIO_REGION_INFO_FLAG_MMAP;
    let area = vfio_region_sparse_mmap_area {
        offset: SPARSE.offset,
        size: SPARSE.size,
    };
    let region = |index, size, flags, sparse_areas, mmap_fd| ServerRegion {
        region_info: vfio_region_info {
            index,
            size,
            flags,
            ..Default::default()
        },
        sparse_areas,
        mmap_fd,
    };
    let regions = vec![
        region(
            0,
            BAR0_SIZE,
            flags,
            vec![ForeignArea { area }],
            Some(pages.as_raw_fd()),
        ),
        // Says that it can be mapped, and sends nothing to map.
        region(1, 4096, flags, vec![], None),
    ];
    let irqs = vec![IrqInfo {
        index: 0,
        flags: 1,
        count: 4,
    }];
    let server = foreign_vfio_user::Server::new(&path, true, irqs, regions).unwrap();
    let (sender, receiver) = channel();
    let mut backend = Backend {
        memory: vec![0; BAR0_SIZE as usize],
        events: sender,
    };
    let next = || receiver.recv_timeout(PATIENCE).unwrap();

    std::thread::scope(|scope| {
        scope.spawn(|| server.run(&mut backend));
        let client = Client::connect(&path, ClientOptions::default()).unwrap();
        // One descriptor a message, since it says so.
        assert_eq!(client.capabilities().max_msg_fds, 1);
        let info = client.device_info().unwrap();
        assert_eq!((info.regions, info.irqs, info.pci), (2, 1, true));
        let bar0 = client.region(0).unwrap();
        assert_eq!(
            bar0.sparse,
            [SparseArea {
                offset: SPARSE.offset,
                size: SPARSE.size
            }]
        );
        assert!(bar0.fd.is_some());
        assert!(client.region(1).unwrap().fd.is_none());
        assert_eq!(client.irq(0).unwrap().count, 4);

        client.region_write(0, 8, &[1; 8]).unwrap();
        client.region_post(0, 12, &[2; 4]).unwrap();
        let mut data = [0; 8];
        client.region_read(0, 8, &mut data).unwrap();
        assert_eq!(data, [1, 1, 1, 1, 2, 2, 2, 2]);
        // It answers posted writes that it refuses; later requests are not confused by that.
        client.region_post(1, 0, &[0; 4]).unwrap();
        let refused = client.region_read(1, 0, &mut data);
        assert!(matches!(
            refused,
            Err(ClientError::Refused {
                errno: Errno::EIO,
                ..
            })
        ));
        client.region_read(0, 8, &mut data).unwrap();

        let file = memfd(0x4000);
        client
            .dma_map(
                0x1000,
                0x2000,
                DmaAccess::all(),
                Some((file.as_fd(), 0x1000)),
            )
            .unwrap();
        assert_eq!(next(), "map 0x1000+0x2000 3 0x1000 true");
        client
            .dma_map(0x4000, 0x1000, DmaAccess::READ, None)
            .unwrap();
        assert_eq!(next(), "map 0x4000+0x1000 1 0x0 false");
        client.dma_unmap(0x1000, 0x2000).unwrap();
        assert_eq!(next(), "unmap 0x1000+0x2000");

        let event = EventFd::new().unwrap();
        client
            .set_eventfds(0, 1, &[Some(event.as_fd()), Some(event.as_fd()), None])
            .unwrap();
        assert_eq!(next(), "irq 0.1+1 0x24 1");
        assert_eq!(next(), "irq 0.2+1 0x24 1");
        assert_eq!(next(), "irq 0.3+1 0x24 0");
        client.disable_irqs(0).unwrap();
        assert_eq!(next(), "irq 0.0+0 0x21 0");
        client.reset().unwrap();
        assert_eq!(next(), "reset");
        assert!(!client.is_closed());
        client.close();
        assert!(matches!(
            client.reset(),
            Err(ClientError::Closed(Lost::ByServer))
        ));
    });
}
