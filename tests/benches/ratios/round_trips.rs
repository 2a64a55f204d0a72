//! Round trips: a register read to the card, through the mediator, a config block to the PF driver;
//! next to 40 bytes over a Unix socket and back.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use igb_driver::Registers;
use igb_driver::window::{PfWindow, VfWindow, Window as _};
use iommu::backend::VfioUser;
use iommu::function::Function;
use mediator::limits::Limits;
use tandem_tests::rig::{Rig, Setup, Wiring};
use vf_driver::{VfDriver, VfOptions};
use vfio_user::client::ClientOptions;
use vfio_user_device::sockets::{SocketDir, Sockets};
use vfio_user_device::{Card, CardOptions};

use crate::{Figure, REPETITIONS, median};

/// Bytes of a REGION_READ reply of four bytes, with its header.
const MESSAGE: usize = 40;
/// Round trips per repetition.
const TRIPS: usize = 5_000;
const WARM_UP: usize = 500;

/// The median of what a round trip takes, in us.
fn trips(count: usize, mut trip: impl FnMut()) -> f64 {
    for _ in 0..WARM_UP.min(count / 2) {
        trip();
    }
    let samples = (0..count).map(|_| {
        let began = Instant::now();
        trip();
        began.elapsed().as_secs_f64() * 1e6
    });
    median(samples.collect())
}

fn ping_pong(count: usize) -> f64 {
    let (mut near, mut far) = UnixStream::pair().expect("a socket pair");
    let echo = std::thread::spawn(move || {
        let mut message = [0; MESSAGE];
        while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
    });
    let mut message = [0; MESSAGE];
    let figure = trips(count, || {
        near.write_all(&message).expect("the echo runs");
        near.read_exact(&mut message).expect("the echo runs");
    });
    drop(near);
    echo.join().expect("the echo ends");
    figure
}

pub(crate) fn run() -> Vec<Figure> {
    // A card whose PF socket nobody else is on.
    let dir = tempfile::tempdir().expect("a directory");
    let card = Card::new(CardOptions::default()).expect("a card");
    let claimed = SocketDir::claim(&dir.path().join("card")).expect("a directory of sockets");
    let sockets = Sockets::serve(&card, claimed).expect("sockets");
    let options = ClientOptions {
        timeout: Duration::from_secs(30),
    };
    let function = VfioUser::connect(&sockets.pf_socket(), options).expect("the PF");
    let direct = Registers::new(Arc::new(function), PfWindow::SIZE).expect("the PF's registers");

    let mut rig = Rig::new(Wiring::Sockets);
    log::set_max_level(log::LevelFilter::Warn);
    let limits = Limits {
        requests_per_second: 1_000_000,
        burst: 1_000_000,
        ..Limits::default()
    };
    let setup = Setup {
        limits,
        ..Setup::default()
    };
    rig.start(setup, 1);
    let vf = rig.vf_function(0);
    let mediated = Registers::new(Arc::clone(&vf), VfWindow::SIZE).expect("the VF's registers");
    let mut driver =
        VfDriver::probe(vf as Arc<dyn Function>, &VfOptions::default()).expect("the VF");

    let mut raw = Figure::new("raw Unix-socket ping-pong, 40 bytes", "us");
    let mut card_read = Figure::new("trapped register read, card", "us");
    let mut mediator_read = Figure::new("trapped register read, via mediator", "us");
    let mut block = Figure::new("config-block read, VF driver to PF driver", "us");
    for _ in 0..REPETITIONS {
        raw.samples.push(ping_pong(TRIPS));
        card_read.samples.push(trips(TRIPS, || {
            direct.read::<igb::STATUS>().expect("STATUS");
        }));
        mediator_read.samples.push(trips(TRIPS, || {
            mediated.read::<igb::vf::VTSTATUS>().expect("VTSTATUS");
        }));
        block.samples.push(trips(TRIPS / 10, || {
            driver.read_config().expect("the configuration");
        }));
    }
    driver.remove();
    for figure in [&mut card_read, &mut mediator_read, &mut block] {
        figure.compare(&raw);
    }
    vec![raw, card_read, mediator_read, block]
}
