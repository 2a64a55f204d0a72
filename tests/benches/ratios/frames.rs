//! Frames from VF to VF over shared doorbells, next to datagrams over a Unix socket pair.
//!
//! Sender and receiver each poll on a thread of their own, the card's worker on a third. The sender
//! keeps fewer frames in flight than the receiver's ring holds, so that all arrive.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use igb_driver::netdev::NetDevice;
use tandem_tests::frames;
use tandem_tests::rig::{Rig, Setup, Wiring};
use vf_driver::{VfDriver, VfOptions};

use crate::{Figure, REPETITIONS, seconds};

/// Bytes of the frames, without FCS.
const LENGTHS: [usize; 2] = [64, 1514];
/// Frames per repetition.
const FRAMES: u64 = 300_000;
/// Frames that are sent before the doorbell is rung.
const BURST: u64 = 32;
/// The most frames on their way.
const WINDOW: u64 = 192;

/// Frames per second through sockets.
fn raw(length: usize) -> f64 {
    let (near, far) = UnixDatagram::pair().expect("a socket pair");
    let receiver = thread::spawn(move || {
        let mut buffer = [0; 2048];
        for _ in 0..FRAMES {
            far.recv(&mut buffer).expect("a datagram");
        }
    });
    let frame = vec![0x5A; length];
    let took = seconds(|| {
        for _ in 0..FRAMES {
            near.send(&frame).expect("the receiver takes it");
        }
        receiver.join().expect("the receiver ends");
    });
    FRAMES as f64 / took
}

/// Frames per second from one driver to the other.
fn drivers(sender: &mut VfDriver, receiver: &mut VfDriver, length: usize) -> f64 {
    let frame = frames::frame(receiver.mac(), sender.mac(), 0, length);
    let received = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let took = seconds(|| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut sent = 0;
                while sent < FRAMES && !failed.load(Ordering::Relaxed) {
                    let room = WINDOW - (sent - received.load(Ordering::Acquire));
                    if room < BURST {
                        thread::yield_now();
                        continue;
                    }
                    for _ in 0..BURST.min(FRAMES - sent) {
                        if sender.xmit(&frame).is_err() {
                            break;
                        }
                        sent += 1;
                    }
                    sender.flush();
                }
            });
            let (mut count, mut last) = (0, std::time::Instant::now());
            while count < FRAMES {
                let taken = receiver.poll(64, &mut |_| {}) as u64;
                if taken == 0 {
                    thread::yield_now();
                    if last.elapsed().as_secs() >= 10 {
                        failed.store(true, Ordering::Relaxed);
                        break;
                    }
                    continue;
                }
                count += taken;
                received.store(count, Ordering::Release);
                last = std::time::Instant::now();
            }
        });
    });
    assert!(
        !failed.load(Ordering::Relaxed),
        "frames were lost:\n{}\n{}",
        sender.stats(),
        receiver.stats()
    );
    FRAMES as f64 / took
}

pub(crate) fn run() -> Vec<Figure> {
    let mut rig = Rig::new(Wiring::Sockets);
    log::set_max_level(log::LevelFilter::Warn);
    rig.start(Setup::default(), 2);
    let open = |vf| {
        let function = rig.vf_function(vf);
        let mut driver = VfDriver::probe(function, &VfOptions::default()).expect("the VF");
        driver.open().expect("the VF opens");
        driver.set_busy_poll(true);
        driver
    };
    let (mut sender, mut receiver) = (open(0), open(1));
    let mut figures = Vec::new();
    for length in LENGTHS {
        let mut peer = Figure::new(format!("raw Unix datagrams, {length} B"), "frames/s");
        let mut own = Figure::new(format!("frames VF to VF, {length} B"), "frames/s");
        for _ in 0..REPETITIONS {
            peer.samples.push(raw(length));
            own.samples
                .push(drivers(&mut sender, &mut receiver, length));
        }
        own.compare(&peer);
        figures.extend([peer, own]);
    }
    sender.remove();
    receiver.remove();
    figures
}
