//! A cable whose other end is held by a test.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use iommu::interrupt::{EventFd, InterruptError};

use crate::lock;
use crate::uplink::{MAX_FRAME, Uplink, UplinkLoss};

/// Frames that may be under way in one direction.
const MOST: usize = 4096;

struct Cable {
    to_card: Mutex<VecDeque<Vec<u8>>>,
    /// Readable while `to_card` is not empty; changed under its lock.
    waiting: EventFd,
    from_card: Mutex<VecDeque<Vec<u8>>>,
    arrived: Condvar,
}

/// The test's end of the cable.
pub struct Wire(Arc<Cable>);

/// The card's end.
pub(super) struct CardEnd(Arc<Cable>);

/// A cable and its two ends.
pub(super) fn cable() -> Result<(Wire, CardEnd), InterruptError> {
    let cable = Arc::new(Cable {
        to_card: Mutex::default(),
        waiting: EventFd::new()?,
        from_card: Mutex::default(),
        arrived: Condvar::new(),
    });
    Ok((Wire(Arc::clone(&cable)), CardEnd(cable)))
}

impl Wire {
    /// Send a frame (without FCS) to the card. `false`: 4096 frames wait there already.
    pub fn send(&self, frame: &[u8]) -> bool {
        let mut frames = lock(&self.0.to_card);
        if frames.len() >= MOST {
            return false;
        }
        frames.push_back(frame.to_vec());
        self.0.waiting.signal();
        true
    }

    /// The next frame that the card has sent, if one comes within `timeout`.
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        let end = Instant::now().checked_add(timeout);
        let mut frames = lock(&self.0.from_card);
        loop {
            if let Some(frame) = frames.pop_front() {
                return Some(frame);
            }
            let left = match end {
                Some(end) => end.checked_duration_since(Instant::now())?,
                None => Duration::MAX,
            };
            frames = self
                .0
                .arrived
                .wait_timeout(frames, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The next frame that the card has sent already.
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        lock(&self.0.from_card).pop_front()
    }
}

impl Uplink for CardEnd {
    fn send(&self, frame: &[u8]) -> Result<(), UplinkLoss> {
        let mut frames = lock(&self.0.from_card);
        if frames.len() >= MOST {
            return Err(UplinkLoss::Full);
        }
        frames.push_back(frame.to_vec());
        self.0.arrived.notify_all();
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut frames = lock(&self.0.to_card);
        loop {
            let next = frames.pop_front();
            if frames.is_empty() {
                self.0.waiting.take();
            }
            let frame = next?;
            let len = frame.len();
            if len > 0 && len <= MAX_FRAME && len <= buffer.len() {
                buffer[..len].copy_from_slice(&frame);
                return Some(len);
            }
        }
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.waiting.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cross_in_order_and_a_full_cable_says_so() {
        let (wire, card) = cable().expect("a cable");
        let mut buffer = vec![0; MAX_FRAME];
        assert_eq!(card.receive(&mut buffer), None);
        for n in 0..MOST {
            assert!(wire.send(&[n as u8; 60]));
        }
        assert!(!wire.send(&[0; 60]));
        assert_eq!((card.receive(&mut buffer), buffer[0]), (Some(60), 0));
        assert_eq!((card.receive(&mut buffer), buffer[0]), (Some(60), 1));
        assert_eq!(wire.try_receive(), None);
        assert_eq!(wire.receive(Duration::from_millis(1)), None);
        card.send(&[7; 99]).expect("room");
        assert_eq!(wire.receive(Duration::MAX), Some(vec![7; 99]));
        (0..MOST).for_each(|_| card.send(&[1]).expect("room"));
        assert_eq!(card.send(&[1]), Err(UplinkLoss::Full));
    }
}
