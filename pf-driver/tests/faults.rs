//! The PF driver and hardware that goes wrong.

use std::time::{Duration, Instant};

use igb_driver::netdev::NetDevice;
use iommu::interrupt::InterruptSet;
use pf_driver::{PfDriver, PfOptions};
use vfio_user_device::InProcessCard;

/// Nothing here takes this long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the driver has something to do, as long as it would itself, and lets it.
fn step(pf: &mut PfDriver) {
    let mut set = InterruptSet::new(0).unwrap();
    for fd in pf.event_fds() {
        set.watch(fd).unwrap();
    }
    set.wait(pf.next_timeout().or(Some(PATIENCE))).unwrap();
    pf.service();
}

fn driver(card: &InProcessCard) -> PfDriver {
    let mut pf = PfDriver::probe(card.pf(), PfOptions::default()).unwrap();
    pf.open().unwrap();
    pf
}

fn inject(card: &InProcessCard, rule: &str) {
    card.inject(rule.parse().unwrap()).unwrap();
}

/// Runs the driver's loop until something holds.
fn until(pf: &mut PfDriver, what: &str, holds: impl Fn(&mut PfDriver) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(pf) {
        assert!(Instant::now() < end, "never: {what}");
        step(pf);
    }
}

#[test]
fn a_link_change_whose_interrupt_is_lost_is_noticed_and_the_next_one_at_once() {
    let card = InProcessCard::builder().build().unwrap();
    let mut pf = driver(&card);
    until(&mut pf, "the link is up", |pf| pf.carrier());
    inject(&card, "interrupt-lost,pf,count=1");
    card.set_link(false);
    assert_eq!(card.injected(), 1);
    until(&mut pf, "the link is down", |pf| !pf.carrier());
    card.set_link(true);
    until(&mut pf, "the link is up again", |pf| pf.carrier());
}

#[test]
fn a_link_that_flaps_is_followed() {
    let card = InProcessCard::builder().build().unwrap();
    let mut pf = driver(&card);
    until(&mut pf, "the link is up", |pf| pf.carrier());
    inject(&card, "link-flap=700ms,after=1ms");
    until(&mut pf, "the link is down", |pf| !pf.carrier());
    until(&mut pf, "the link is up again", |pf| pf.carrier());
}

#[test]
fn a_pf_that_was_reset_from_outside_is_gone_and_can_be_probed_again() {
    let card = InProcessCard::builder().build().unwrap();
    let mut pf = driver(&card);
    inject(&card, "flr,pf,after=1ms");
    until(&mut pf, "the reset is noticed", |pf| pf.gone());
    drop(pf);
    let mut pf = driver(&card);
    until(&mut pf, "the link is up", |pf| pf.carrier());
    assert!(!pf.gone());
}

#[test]
fn a_transmit_queue_that_a_dma_fault_has_halted_is_started_anew() {
    let card = InProcessCard::builder().build().unwrap();
    let mut pf = driver(&card);
    until(&mut pf, "the link is up", |pf| pf.carrier());
    inject(&card, "dma-fault=descriptor,pf,count=1");
    let mut frame = vec![0xFF; 60];
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xB5]);
    let end = Instant::now() + PATIENCE;
    while card.wire().try_receive().is_none() {
        assert!(Instant::now() < end, "no frame leaves any more");
        // Full: the driver waits for room, or for its watchdog.
        if pf.xmit(&frame).is_err() {
            step(&mut pf);
        }
        pf.flush();
    }
    assert_eq!(card.injected(), 1);
}
