//! The VF driver and hardware that goes wrong: whatever is injected, frames flow again within a
//! bounded time, and the other VF notices nothing.

use std::time::{Duration, Instant};

use igb::FunctionId;
use igb_driver::netdev::{MacAddress, NetDevice, XmitError};
use iommu::interrupt::InterruptSet;
use vf_driver::{ChannelKind, VfDriver, VfOptions};
use vfio_user_device::{InProcessCard, MailboxMode};

/// Nothing here takes this long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn card() -> InProcessCard {
    InProcessCard::builder()
        .vfs(2)
        .mailbox(MailboxMode::Open)
        .build()
        .expect("a card")
}

fn probe(card: &InProcessCard, n: u8) -> Result<VfDriver, vf_driver::VfError> {
    let options = VfOptions {
        channel: ChannelKind::Mailbox,
        ..VfOptions::default()
    };
    VfDriver::probe(card.vf(n), &options)
}

fn open(card: &InProcessCard, n: u8) -> VfDriver {
    let mut driver = probe(card, n).expect("a VF");
    driver.open().expect("open");
    assert_eq!(driver.mac(), card.vf_mac(n));
    driver
}

fn frame(to: MacAddress, from: MacAddress, number: u32) -> Vec<u8> {
    let mut frame = [to.bytes(), from.bytes()].concat();
    frame.extend([0x88, 0xB5]);
    frame.extend(number.to_be_bytes());
    frame.resize(80, 0);
    frame
}

/// Wait as a driver's loop does, at most `limit`: only for what the driver itself waits for.
fn wait(devices: &mut [&mut VfDriver], limit: Duration) {
    let mut set = InterruptSet::new(0).expect("a set");
    let mut left = limit;
    for device in devices.iter() {
        for fd in device.event_fds() {
            set.watch(fd).expect("room");
        }
        left = device.next_timeout().map_or(left, |own| own.min(left));
    }
    set.wait(Some(left)).expect("a wait");
    for device in devices {
        device.service();
    }
}

fn numbers(device: &mut VfDriver) -> Vec<u32> {
    let mut numbers = Vec::new();
    device.poll(256, &mut |frame| {
        if frame[12..14] == [0x88, 0xB5] {
            let number = frame[14..18].try_into().expect("four bytes");
            numbers.push(u32::from_be_bytes(number));
        }
    });
    numbers
}

fn send(from: &mut VfDriver, to: MacAddress, number: u32) -> bool {
    let sent = match from.xmit(&frame(to, from.mac(), number)) {
        Ok(()) => true,
        Err(XmitError::Full | XmitError::Down) => false,
        Err(error) => panic!("{error}"),
    };
    from.flush();
    sent
}

/// Send one frame after the other until one arrives that was sent after this began; how many it
/// took, and how long. A frame is sent anew only when nothing has come for a while.
fn until_one_arrives(a: &mut VfDriver, b: &mut VfDriver, first: u32) -> (u32, Duration) {
    let began = Instant::now();
    let mut number = first;
    loop {
        assert!(began.elapsed() < PATIENCE, "no frame arrives any more");
        let to = b.mac();
        send(a, to, number);
        let resend = Instant::now() + Duration::from_millis(600);
        while Instant::now() < resend {
            if numbers(b).iter().any(|seen| *seen >= first) {
                return (number - first + 1, began.elapsed());
            }
            let left = resend.saturating_duration_since(Instant::now());
            wait(&mut [a, b], left);
        }
        number += 1;
    }
}

fn inject(card: &InProcessCard, rule: &str) {
    card.inject(rule.parse().expect(rule)).expect("room");
}

#[test]
fn a_frame_whose_interrupt_is_lost_is_found() {
    let card = card();
    let (mut a, mut b) = (open(&card, 0), open(&card, 1));
    until_one_arrives(&mut a, &mut b, 0);
    inject(&card, "interrupt-lost,vf1,vector=0,count=1");
    let to = b.mac();
    assert!(send(&mut a, to, 100));
    // Whoever polls before the card would interrupt finds the frame without an interrupt: the
    // receiver waits for its own events and time alone, and looks once one was lost.
    let end = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while seen.is_empty() {
        assert!(Instant::now() < end, "the frame is not found");
        wait(&mut [&mut b], Duration::from_secs(1));
        if card.injected() == 1 {
            seen = numbers(&mut b);
        }
    }
    assert_eq!(seen, [100]);
    until_one_arrives(&mut a, &mut b, 200);
}

#[test]
fn interrupts_and_write_backs_that_come_late_lose_nothing() {
    for rule in [
        "interrupt-late=20ms,probability=0.3",
        "writeback-late=20ms,probability=0.3",
        "interrupt-lost,probability=0.3",
    ] {
        let card = card();
        let (mut a, mut b) = (open(&card, 0), open(&card, 1));
        until_one_arrives(&mut a, &mut b, 0);
        inject(&card, rule);
        let mut seen = Vec::new();
        for number in 1000..1100 {
            let to = b.mac();
            while !send(&mut a, to, number) {
                wait(&mut [&mut a, &mut b], PATIENCE);
            }
            seen.extend(numbers(&mut b));
        }
        let end = Instant::now() + PATIENCE;
        while seen.len() < 100 {
            assert!(Instant::now() < end, "{rule}: {seen:?}");
            wait(&mut [&mut a, &mut b], Duration::from_secs(1));
            seen.extend(numbers(&mut b).into_iter().filter(|n| *n >= 1000));
        }
        seen.retain(|number| *number >= 1000);
        assert_eq!(seen, (1000..1100).collect::<Vec<_>>(), "{rule}");
        assert!(card.injected() > 0, "{rule}");
    }
}

#[test]
fn a_reset_from_outside_is_noticed_and_mended() {
    let card = card();
    let (mut a, mut b) = (open(&card, 0), open(&card, 1));
    until_one_arrives(&mut a, &mut b, 0);
    inject(&card, "flr,vf1,after=1ms");
    let end = Instant::now() + PATIENCE;
    while b.resets() == 0 {
        assert!(Instant::now() < end, "the reset is not noticed");
        wait(&mut [&mut a, &mut b], Duration::from_secs(1));
    }
    until_one_arrives(&mut a, &mut b, 100);
    assert_eq!(a.resets(), 0, "nobody else was");
}

#[test]
fn a_transmit_queue_that_a_dma_fault_has_halted_is_mended() {
    let card = card();
    let (mut a, mut b) = (open(&card, 0), open(&card, 1));
    until_one_arrives(&mut a, &mut b, 0);
    inject(&card, "dma-fault=descriptor,vf0,count=1");
    // The hang shows once the ring is full of what the card does not send.
    let end = Instant::now() + PATIENCE;
    let mut number = 100;
    while a.resets() == 0 {
        assert!(Instant::now() < end, "the hang is not noticed");
        let to = b.mac();
        if send(&mut a, to, number) {
            number += 1;
        } else {
            wait(&mut [&mut a, &mut b], Duration::from_secs(1));
        }
    }
    assert!(card.stats().function(FunctionId::vf(0)).faults >= 1);
    until_one_arrives(&mut a, &mut b, 100_000);
    assert_eq!(b.resets(), 0, "nobody else was");
}

#[test]
fn a_mailbox_that_is_stuck_for_a_while_delays_the_probe_and_for_good_ends_it() {
    let card = card();
    inject(&card, "mailbox-stuck,vf0,count=3");
    open(&card, 0);
    inject(&card, "mailbox-stuck,vf1");
    let began = Instant::now();
    assert!(probe(&card, 1).is_err());
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn every_register_access_of_a_probe_can_be_the_one_before_which_a_reset_comes() {
    // Whatever the reset meets, the driver ends within its time: with a VF that works, or an error.
    let try_at = |after: u32| {
        let card = card();
        inject(&card, &format!("flr,vf0,after={after}"));
        let mut other = open(&card, 1);
        let Ok(mut driver) = probe(&card, 0) else {
            return;
        };
        if driver.open().is_ok() {
            until_one_arrives(&mut driver, &mut other, 0);
        }
    };
    // Side by side: what takes long is the patience of the driver.
    std::thread::scope(|scope| {
        for after in (0..60).step_by(5) {
            scope.spawn(move || try_at(after));
        }
    });
}
