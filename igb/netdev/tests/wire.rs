//! Two stacks over a wire in memory: pings, a transfer by hash, a ring that is often full, loss.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use igb_driver::DriverError;
use igb_driver::netdev::{Changes, Counters, MacAddress, NetDevice, XmitError};
use igb_netdev::stack::Stack;
use serde_json::Value;

/// Frames one way.
type Lane = Rc<RefCell<VecDeque<Vec<u8>>>>;

struct End {
    mac: MacAddress,
    out: Lane,
    incoming: Lane,
    ring: usize,
    /// Every n-th frame is lost.
    loss: Option<u64>,
    sent: u64,
}

impl NetDevice for End {
    fn mac(&self) -> MacAddress {
        self.mac
    }
    fn mtu(&self) -> u32 {
        1500
    }
    fn set_mtu(&mut self, _: u32) -> Result<(), DriverError> {
        Ok(())
    }
    fn carrier(&self) -> bool {
        true
    }
    fn speed(&self) -> Option<u32> {
        Some(1000)
    }
    fn open(&mut self) -> Result<(), DriverError> {
        Ok(())
    }
    fn stop(&mut self) {}
    fn xmit(&mut self, frame: &[u8]) -> Result<(), XmitError> {
        assert!(frame.len() <= 1514, "a frame of {} bytes", frame.len());
        if self.out.borrow().len() >= self.ring {
            return Err(XmitError::Full);
        }
        self.sent += 1;
        if self
            .loss
            .is_none_or(|every| !self.sent.is_multiple_of(every))
        {
            self.out.borrow_mut().push_back(frame.to_vec());
        }
        Ok(())
    }
    fn flush(&mut self) {}
    fn poll(&mut self, budget: usize, receive: &mut dyn FnMut(&[u8])) -> usize {
        let count = budget.min(self.incoming.borrow().len());
        for _ in 0..count {
            let frame = self.incoming.borrow_mut().pop_front().unwrap();
            // As the card's filters do.
            if frame[0] & 1 != 0 || frame[..6] == self.mac.0 {
                receive(&frame);
            }
        }
        count
    }
    fn set_busy_poll(&mut self, _: bool) {}
    fn service(&mut self) -> Changes {
        Changes::default()
    }
    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
    fn next_timeout(&self) -> Option<Duration> {
        None
    }
    fn gone(&self) -> bool {
        false
    }
    fn stats(&self) -> Counters {
        Counters::new()
    }
}

struct Pair {
    ends: [End; 2],
    stacks: [Stack; 2],
}

fn pair(ring: usize, loss: Option<u64>) -> Pair {
    let (there, back) = (Lane::default(), Lane::default());
    let end = |n: u8, out: &Lane, incoming: &Lane| End {
        mac: MacAddress([2, 0x82, 0x57, 0x60, 0, n]),
        out: out.clone(),
        incoming: incoming.clone(),
        ring,
        loss,
        sent: 0,
    };
    let ends = [end(1, &there, &back), end(2, &back, &there)];
    let stacks =
        ["10.82.0.1/24", "10.82.0.2/24"].map(|text| Stack::new(Some(text.parse().unwrap())));
    Pair { ends, stacks }
}

impl Pair {
    /// Run both ends until the first stack has an answer.
    fn run(&mut self, limit: Duration) -> Result<Value, String> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            for (stack, device) in self.stacks.iter_mut().zip(&mut self.ends) {
                stack.buffers.receive_from(device);
                stack.poll(device);
            }
            if let Some((client, answer)) = self.stacks[0].finished_jobs().pop() {
                assert_eq!(client, 5);
                return answer;
            }
        }
        panic!("no answer within {limit:?}");
    }
}

const PEER: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 2);
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn pings_come_back() {
    let mut pair = pair(64, None);
    pair.stacks[0].start_ping(5, PEER, 3, Duration::from_secs(5));
    let answer = pair.run(LIMIT).unwrap();
    assert_eq!(
        (&answer["sent"], &answer["received"]),
        (&3.into(), &3.into())
    );
    assert_eq!(answer["rtt_us"].as_array().unwrap().len(), 3);
}

#[test]
fn a_ping_to_nobody_ends_with_none_received() {
    // More than the socket holds while it waits for the neighbour.
    for count in [2, 20] {
        let mut pair = pair(64, None);
        let nobody = Ipv4Addr::new(10, 82, 0, 77);
        pair.stacks[0].start_ping(5, nobody, count, Duration::from_millis(20));
        let answer = pair.run(LIMIT).unwrap();
        assert_eq!(
            (&answer["sent"], &answer["received"]),
            (&count.into(), &0.into())
        );
    }
    let mut pair = pair(64, None);
    pair.stacks[0].start_ping(5, Ipv4Addr::UNSPECIFIED, 1, Duration::from_millis(20));
    assert!(pair.run(LIMIT).unwrap_err().contains("0.0.0.0"));
}

#[test]
fn a_transfer_arrives_whole_through_a_ring_that_is_often_full() {
    for ring in [2, 3, 256] {
        let mut pair = pair(ring, None);
        pair.stacks[0].start_send(5, PEER, 3_000_001, 42);
        let answer = pair.run(LIMIT).unwrap();
        assert_eq!(answer["bytes"], 3_000_001);
        assert_eq!(
            answer["sha256_sent"], answer["sha256_peer"],
            "ring of {ring}"
        );
    }
}

#[test]
fn a_transfer_survives_loss() {
    let mut pair = pair(256, Some(53));
    pair.stacks[0].start_send(5, PEER, 200_000, 43);
    let answer = pair.run(LIMIT).unwrap();
    assert_eq!(answer["sha256_sent"], answer["sha256_peer"]);
}

#[test]
fn transfers_follow_one_another_on_the_same_sink() {
    let mut pair = pair(256, None);
    for seed in 0..12 {
        pair.stacks[0].start_send(5, PEER, 10_000, seed);
        let answer = pair.run(LIMIT).unwrap();
        assert_eq!(
            answer["sha256_sent"], answer["sha256_peer"],
            "transfer {seed}"
        );
    }
}

#[test]
fn a_neighbour_that_changes_its_address_is_found_again() {
    let mut pair = pair(64, None);
    for round in 0..3_u8 {
        pair.ends[1].mac.0[4] = round;
        pair.stacks[0].start_ping(5, PEER, 4, Duration::from_secs(2));
        let answer = pair.run(LIMIT).unwrap();
        assert!(
            answer["received"].as_u64() >= Some(3),
            "round {round}: {answer}"
        );
    }
}
