//! DMA by message, between our server and our client, and with clients that do not answer.

mod recorder;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use recorder::*;
use vfio_user::client::{Client, DmaHandler, DmaReply};
use vfio_user::device::{DmaAccess, region};
use vfio_user::server::{Ended, Error, ServerOptions};

const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;
const REPLY: u32 = 1;

/// Memory from I/O virtual address 0 on; the rest faults.
struct Memory(Mutex<Vec<u8>>);

impl DmaHandler for Memory {
    fn dma_read(&self, iova: u64, len: usize, reply: DmaReply) {
        let memory = self.0.lock().unwrap();
        match memory.get(iova as usize..iova as usize + len) {
            Some(data) => reply.data(data),
            None => reply.error(Errno::EFAULT),
        }
    }

    fn dma_write(&self, iova: u64, data: &[u8], reply: DmaReply) {
        let mut memory = self.0.lock().unwrap();
        match memory.get_mut(iova as usize..iova as usize + data.len()) {
            Some(target) => {
                target.copy_from_slice(data);
                reply.done();
            }
            None => reply.error(Errno::EFAULT),
        }
    }
}

/// Hands every request to the test, which answers it when it likes.
struct Deferred(Sender<(u64, DmaReply)>);

impl DmaHandler for Deferred {
    fn dma_read(&self, iova: u64, _: usize, reply: DmaReply) {
        self.0.send((iova, reply)).unwrap();
    }

    fn dma_write(&self, iova: u64, _: &[u8], reply: DmaReply) {
        self.0.send((iova, reply)).unwrap();
    }
}

fn with_memory(size: usize) -> (Served, Client, Arc<Memory>) {
    let (served, client) = connect();
    let memory = Arc::new(Memory(Mutex::new(vec![0; size])));
    client.set_dma_handler(Arc::clone(&memory) as _);
    (served, client, memory)
}

#[test]
fn reads_and_writes_reach_client_memory() {
    let (served, _client, memory) = with_memory(1 << 20);
    let dma = served.device.dma();
    let pattern: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
    dma.dma_write(1000, &pattern).unwrap();
    assert_eq!(memory.0.lock().unwrap()[1000..][..pattern.len()], pattern);
    let mut back = vec![0; pattern.len()];
    dma.dma_read(1000, &mut back).unwrap();
    assert_eq!(back, pattern);

    assert_eq!(dma.dma_read(1 << 20, &mut [0]), Err(Errno::EFAULT));
    assert_eq!(dma.dma_write((1 << 20) - 1, &[0; 2]), Err(Errno::EFAULT));
    assert_eq!(dma.dma_write(u64::MAX, &[0; 2]), Err(Errno::EFAULT));
}

#[test]
fn dma_goes_on_while_registers_are_accessed() {
    let (served, client, _memory) = with_memory(1 << 20);
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let dma = served.device.dma();
            scope.spawn(move || {
                for round in 0..100u64 {
                    let data = [(worker * 50 + round % 50) as u8; 40_000];
                    dma.dma_write(worker * 50_000, &data).unwrap();
                    let mut back = [0; 40_000];
                    dma.dma_read(worker * 50_000, &mut back).unwrap();
                    assert_eq!(back, data);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    client.region_post(region::BAR0, 0, &[1; 4]).unwrap();
                    client.region_read(region::BAR0, 0, &mut [0; 4]).unwrap();
                }
            });
        }
    });
}

#[test]
fn without_a_handler_dma_is_refused() {
    let (served, _client) = connect();
    assert_eq!(
        served.device.dma().dma_read(0, &mut [0; 8]),
        Err(Errno::EFAULT)
    );
}

#[test]
fn answers_may_come_later_out_of_order_from_elsewhere_or_not_at_all() {
    let (served, client) = connect();
    let (sender, requests) = channel();
    client.set_dma_handler(Arc::new(Deferred(sender)));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3u64)
            .map(|at| {
                let dma = served.device.dma();
                scope.spawn(move || {
                    let mut data = [0; 4];
                    dma.dma_read(at * 0x1000, &mut data).map(|()| data)
                })
            })
            .collect();
        let mut open: Vec<_> = (0..3)
            .map(|_| requests.recv_timeout(PATIENCE).unwrap())
            .collect();
        open.sort_by_key(|(iova, _)| std::cmp::Reverse(*iova));
        // Registers work meanwhile.
        client.region_read(region::BAR0, 0, &mut [0; 4]).unwrap();
        let mut open = open.into_iter().map(|(_, reply)| reply);
        open.next().unwrap().data(&[2; 4]);
        drop(open.next());
        // Of the wrong length.
        open.next().unwrap().data(&[0; 5]);
        let results: Vec<_> = readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .collect();
        assert_eq!(
            results,
            [Err(Errno::EFAULT), Err(Errno::EFAULT), Ok([2; 4])]
        );
    });
}

#[test]
fn unmap_cancels_what_is_outstanding_and_holds_back_what_is_new() {
    let (served, client) = connect();
    let (sender, requests) = channel();
    client.set_dma_handler(Arc::new(Deferred(sender)));
    client
        .dma_map(0x1000, 0x1000, DmaAccess::all(), None)
        .unwrap();
    let dma = served.device.dma();
    // A worker that looked its window up just before, and sends now.
    let straggler = Arc::clone(&dma);
    let (result, straggled) = channel();
    *served.device.on_unmap.lock().unwrap() = Some(Box::new(move || {
        result.send(straggler.dma_write(0x1ff0, &[0; 16])).unwrap();
    }));
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| dma.dma_read(0x1800, &mut [0; 64]));
        let (_, inside_reply) = requests.recv_timeout(PATIENCE).unwrap();
        let outside = scope.spawn(|| dma.dma_read(0x2000, &mut [0; 64]));
        let (_, outside_reply) = requests.recv_timeout(PATIENCE).unwrap();
        // The client has not answered, and this does not wait for it.
        client.dma_unmap(0x1000, 0x1000).unwrap();
        assert_eq!(inside.join().unwrap(), Err(Errno::ECANCELED));
        assert_eq!(straggled.recv().unwrap(), Err(Errno::ECANCELED));
        // Too late, and ignored; the other one counts.
        inside_reply.data(&[1; 64]);
        outside_reply.data(&[1; 64]);
        assert_eq!(outside.join().unwrap(), Ok(()));
    });
    client.region_read(region::BAR0, 0, &mut [0; 4]).unwrap();
}

#[test]
fn reset_unmap_all_stop_and_leaving_cancel_everything() {
    for ending in 0..4 {
        let (mut served, client) = connect();
        let (sender, requests) = channel();
        client.set_dma_handler(Arc::new(Deferred(sender)));
        let dma = served.device.dma();
        let worker = std::thread::spawn(move || {
            let first = dma.dma_read(0x1000, &mut [0; 64]);
            (dma, first)
        });
        let (_, reply) = requests.recv_timeout(PATIENCE).unwrap();
        match ending {
            0 => client.reset().unwrap(),
            1 => client.dma_unmap_all().unwrap(),
            2 => served.stop.raise(),
            _ => client.close(),
        }
        let (dma, first) = worker.join().unwrap();
        assert_eq!(first, Err(Errno::ECANCELED), "ending {ending}");
        if ending >= 2 {
            served.ended().unwrap();
            assert_eq!(dma.dma_write(0, &[0]), Err(Errno::ECANCELED));
        }
        reply.data(&[0; 64]);
    }
}

/// A client that speaks bytes and has said VERSION.
fn raw(options: ServerOptions) -> (Served, Raw) {
    let (served, stream) = Served::start_with(options);
    let mut raw = Raw::new(stream);
    raw.version();
    served.events.expect("connected");
    (served, raw)
}

#[test]
fn a_client_that_does_not_answer_costs_a_timeout_and_nothing_else() {
    let options = ServerOptions {
        dma_timeout: Duration::from_millis(20),
        ..ServerOptions::default()
    };
    let (mut served, mut raw) = raw(options);
    let dma = served.device.dma();
    assert_eq!(dma.dma_read(0x5000, &mut [0; 4]), Err(Errno::ETIMEDOUT));
    let (id, command, flags, _, body) = raw.receive();
    assert_eq!((command, flags), (DMA_READ, 0));
    assert_eq!(body, [0x5000u64.to_ne_bytes(), 4u64.to_ne_bytes()].concat());
    // Late: ignored. A second time: nothing is owed any more.
    let answer = [&body[..], &[0; 4]].concat();
    raw.send(id, DMA_READ, REPLY, &answer);
    raw.send(7, 4, 0, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(raw.receive().0, 7);
    raw.send(id, DMA_READ, REPLY, &answer);
    assert!(matches!(
        served.ended(),
        Err(Error::UnexpectedReply {
            command: DMA_READ,
            ..
        })
    ));
    served.events.expect("disconnected");
}

#[test]
fn malformed_answers_fail_the_request_alone() {
    let (mut served, mut raw) = raw(ServerOptions::default());
    // What QEMU 10.2.2 sends: a count of 32 bits.
    let answers: [&[u8]; 4] = [&[], &[0; 16], &[1; 20], &[0; 12]];
    for answer in answers {
        let dma = served.device.dma();
        let worker = std::thread::spawn(move || dma.dma_read(0x5000, &mut [0; 4]));
        let (id, ..) = raw.receive();
        raw.send(id, DMA_READ, REPLY, answer);
        assert_eq!(worker.join().unwrap(), Err(Errno::EIO));
    }
    let dma = served.device.dma();
    let worker = std::thread::spawn(move || dma.dma_write(0x5000, &[9; 4]));
    let (id, command, _, _, body) = raw.receive();
    assert_eq!((command, &body[16..]), (DMA_WRITE, &[9; 4][..]));
    raw.send(id, DMA_WRITE, REPLY, &body[..16]);
    assert_eq!(worker.join().unwrap(), Ok(()));
    drop(raw);
    assert_eq!(served.ended().unwrap(), Ended::Disconnected);
}

#[test]
fn chunks_respect_the_client() {
    let (served, stream) = Served::start();
    let mut raw = Raw::new(stream);
    let caps = b"{\"capabilities\":{\"max_data_xfer_size\":4096}}\0";
    raw.send(1, 1, 0, &version_body(caps));
    raw.receive();
    served.events.expect("connected");
    let dma = served.device.dma();
    let worker = std::thread::spawn(move || dma.dma_write(0, &[3; 10_000]));
    for expected in [4096, 4096, 10_000 - 8192] {
        let (id, command, _, _, body) = raw.receive();
        assert_eq!(body.len() - 16, expected);
        raw.send(id, command, REPLY, &body[..16]);
    }
    assert_eq!(worker.join().unwrap(), Ok(()));
}

#[test]
fn a_client_that_reads_nothing_is_dropped() {
    let options = ServerOptions {
        send_timeout: Duration::from_millis(100),
        ..ServerOptions::default()
    };
    let (mut served, stream) = Served::start_with(options);
    let mut raw = Raw::new(stream);
    raw.version();
    // Ask for more than the socket holds, and read none of it.
    let mut body = [0; 16];
    body[8..12].copy_from_slice(&region::ROM.to_ne_bytes());
    body[12..].copy_from_slice(&(1u32 << 20).to_ne_bytes());
    raw.send(2, 9, 0, &body);
    assert!(matches!(served.ended(), Err(Error::Send(Errno::ETIMEDOUT))));
    served.events.find("disconnected");
}
