//! Windows that are closed while somebody uses them, and clients that do not answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use vfio_user::device::DmaClient;

use super::*;
use crate::address_space::copy;

#[test]
fn no_write_lands_after_unmap_has_returned() {
    let (memory, other) = (sealed(0x1000), sealed(0x1000));
    let space = space();
    space.map(over(&other, 0x9000, 0x1000, 0)).expect("map");
    let stop = AtomicBool::new(false);
    let bursts = [AtomicU64::new(0), AtomicU64::new(0)];
    thread::scope(|scope| {
        for count in &bursts {
            let (space, stop) = (&space, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let guard = space.enter();
                    for _ in 0..16 {
                        // Either it is there or it is not; both are fine.
                        let _ = guard.write(0x1000, &[0xAA; 64]);
                        let _ = copy(&guard, 0x1000, &guard, 0x1800, 64);
                        guard.write(0x9000, &[1]).expect("this one stays");
                    }
                    drop(guard);
                    count.fetch_add(1, Ordering::Release);
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        for _ in 0..25 {
            space.map(over(&memory, 0x1000, 0x1000, 0)).expect("map");
            wait_for_bursts(&bursts);
            space.unmap(0x1000, 0x1000).expect("unmap");
            memory.zero();
            wait_for_bursts(&bursts);
            let mut bytes = [0xFF; 0x1000];
            memory.read(0, &mut bytes);
            assert!(
                bytes.iter().all(|&byte| byte == 0),
                "a write landed after unmap"
            );
        }
    });
}

/// Ends the workers also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Until every thread has done at least one burst from beginning to end.
fn wait_for_bursts(bursts: &[AtomicU64]) {
    for count in bursts {
        let seen = count.load(Ordering::Acquire);
        while count.load(Ordering::Acquire) < seen + 2 {
            thread::yield_now();
        }
    }
}

#[test]
fn no_write_lands_after_bus_mastering_was_turned_off() {
    let memory = sealed(0x1000);
    let space = space();
    space.map(over(&memory, 0x1000, 0x1000, 0)).expect("map");
    let stop = AtomicBool::new(false);
    let bursts = [AtomicU64::new(0)];
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let guard = space.enter();
                let _ = guard.write(0x1000, &[0xAA; 0x1000]);
                drop(guard);
                bursts[0].fetch_add(1, Ordering::Release);
            }
        });
        let _stop = StopOnDrop(&stop);
        for _ in 0..25 {
            space.set_bus_master(true);
            wait_for_bursts(&bursts);
            space.set_bus_master(false);
            memory.zero();
            wait_for_bursts(&bursts);
            assert_eq!(memory.load_u64(0xFF8, Ordering::Relaxed), 0);
        }
    });
}

/// Memory behind messages, from address 0, that can be made to leave them unanswered.
struct Client {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    memory: Vec<u8>,
    /// What becomes of messages.
    answer: Answer,
    /// Messages that wait: their address, and whether they were cancelled.
    waiting: Vec<(u64, bool)>,
    messages: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Done,
    Never,
    Fails(Errno),
}

impl Client {
    fn new() -> Arc<Self> {
        let state = State {
            memory: vec![0; 0x10000],
            answer: Answer::Done,
            waiting: Vec::new(),
            messages: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    fn answer(&self, answer: Answer) {
        self.state.lock().unwrap().answer = answer;
    }

    fn messages(&self) -> usize {
        self.state.lock().unwrap().messages
    }

    fn wait_until_asked(&self) {
        let state = self.state.lock().unwrap();
        drop(
            self.changed
                .wait_while(state, |state| state.waiting.is_empty())
                .unwrap(),
        );
    }

    fn message(&self, iova: u64, act: impl FnOnce(&mut [u8])) -> Result<(), Errno> {
        let mut state = self.state.lock().unwrap();
        state.messages += 1;
        match state.answer {
            Answer::Done => {
                act(&mut state.memory[iova as usize..]);
                Ok(())
            }
            Answer::Fails(errno) => Err(errno),
            Answer::Never => {
                state.waiting.push((iova, false));
                self.changed.notify_all();
                let cancelled =
                    |state: &mut State| state.waiting.iter().any(|&(at, gone)| at == iova && gone);
                // A bound, so that a test of which this is the failure ends.
                let limit = Duration::from_secs(30);
                let waited = self
                    .changed
                    .wait_timeout_while(state, limit, |state| !cancelled(state));
                let (mut state, limit) = waited.unwrap();
                state.waiting.retain(|&(at, _)| at != iova);
                Err(if limit.timed_out() {
                    Errno::EIO
                } else {
                    Errno::ECANCELED
                })
            }
        }
    }
}

impl DmaClient for Client {
    fn dma_read(&self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.message(iova, |memory| data.copy_from_slice(&memory[..data.len()]))
    }

    fn dma_write(&self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        self.message(iova, |memory| memory[..data.len()].copy_from_slice(data))
    }

    fn cancel(&self, iova: u64, size: u64) {
        let mut state = self.state.lock().unwrap();
        for (at, cancelled) in &mut state.waiting {
            *cancelled |= (iova..=iova.saturating_add(size - 1)).contains(at);
        }
        self.changed.notify_all();
    }
}

fn messaged() -> (AddressSpace, Arc<Client>, SharedMemory) {
    let (space, client, memory) = (space(), Client::new(), sealed(0x1000));
    space.connect(client.clone());
    space
        .map(window(0x1000, 0x1000, RW, None))
        .expect("without a file");
    space
        .map(over(&memory, 0x2000, 0x1000, 0))
        .expect("with a file");
    space
        .map(window(0x3000, 0x1000, RW, None))
        .expect("without a file");
    (space, client, memory)
}

#[test]
fn windows_without_a_file_are_reached_by_message() {
    let (space, client, memory) = messaged();
    let guard = space.enter();
    assert!(guard.is_direct(0x2000, 0x1000));
    assert!(!guard.is_direct(0x1FFF, 2) && !guard.is_direct(0x3000, 1));
    // Through a message, the mapped window and a message again.
    let pattern: Vec<u8> = (0..0x1400_u32).map(|n| (n * 13 + n / 256) as u8).collect();
    guard.write(0x1E00, &pattern).expect("write");
    let mut back = vec![0; pattern.len()];
    guard.read(0x1E00, &mut back).expect("read");
    assert_eq!(back, pattern);
    let mut middle = vec![0; 0x1000];
    memory.read(0, &mut middle);
    assert_eq!(middle, pattern[0x200..0x1200]);
    assert_eq!(client.messages(), 4);
    guard.store_u64_release(0x3000, 7).expect("store");

    // Copies to and from it.
    copy(&guard, 0x1E00, &guard, 0x3800, 0x300).expect("copy");
    guard.read(0x3800, &mut back[..0x300]).expect("read");
    assert_eq!(back[..0x300], pattern[..0x300]);

    client.answer(Answer::Fails(Errno::EFAULT));
    assert_eq!(
        guard.read(0x1000, &mut [0; 4]).expect_err("refused").cause,
        FaultCause::Io
    );
    drop(guard);
    space.disconnect();
    space.map(window(0x1000, 0x1000, RW, None)).expect("map");
    assert_eq!(cause(&space, 0x1000, 4), Some(FaultCause::Cancelled));
}

/// Run `act`, which must not wait for a message of the client's.
fn ends(client: &Client, act: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        scope.spawn(move || {
            act();
            let _ = done.send(());
        });
        if is_done.recv_timeout(Duration::from_secs(20)).is_err() {
            client.cancel(0, u64::MAX);
            panic!("it waits for a message that is never answered, or has panicked");
        }
    });
}

/// Run `act` while a message to window 0x1000 goes unanswered, and say how the message ended.
fn while_unanswered(
    space: &AddressSpace,
    client: &Client,
    act: impl FnOnce() + Send,
) -> FaultCause {
    client.answer(Answer::Never);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let guard = space.enter();
            // The guard is good for more after the access that was cancelled.
            let cause = guard
                .read(0x1000, &mut [0; 8])
                .expect_err("cancelled")
                .cause;
            let _ = guard.read(0x2000, &mut [0; 8]);
            cause
        });
        client.wait_until_asked();
        ends(client, act);
        worker.join().expect("worker")
    })
}

#[test]
fn closing_a_window_cancels_its_messages() {
    let (space, client, _memory) = messaged();
    let cause = while_unanswered(&space, &client, || {
        space.unmap(0x1000, 0x1000).expect("unmap");
    });
    assert_eq!(cause, FaultCause::Cancelled);
    let (space, client, _memory) = messaged();
    assert_eq!(
        while_unanswered(&space, &client, || space.unmap_all()),
        FaultCause::Cancelled
    );
    let (space, client, _memory) = messaged();
    assert_eq!(
        while_unanswered(&space, &client, || space.disconnect()),
        FaultCause::Cancelled
    );
    let (space, client, _memory) = messaged();
    let cause = while_unanswered(&space, &client, || space.set_bus_master(false));
    assert_eq!(cause, FaultCause::Cancelled);
}

#[test]
fn closing_another_window_does_not_wait_for_a_message() {
    // The client waits for the answer to its unmap, and answers no message meanwhile.
    let (space, client, _memory) = messaged();
    let cause = while_unanswered(&space, &client, || {
        space.unmap(0x2000, 0x1000).expect("mapped one");
        space.unmap(0x3000, 0x1000).expect("one without a file");
        client.cancel(0x1000, 0x1000);
    });
    assert_eq!(cause, FaultCause::Cancelled);
}

#[test]
fn a_copy_that_waits_holds_up_neither_client() {
    let (from, client, _memory) = messaged();
    let (to, _other, target) = messaged();
    client.answer(Answer::Never);
    let started = Barrier::new(2);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let (from, to) = (from.enter(), to.enter());
            started.wait();
            copy(&from, 0x1000, &to, 0x2000, 64).expect_err("cancelled")
        });
        started.wait();
        client.wait_until_asked();
        ends(&client, || {
            to.unmap(0x2000, 0x1000)
                .expect("the receiver's client goes on");
            from.unmap(0x2000, 0x1000)
                .expect("the sender's client goes on");
            from.unmap(0x1000, 0x1000)
                .expect("and this cancels the message");
        });
        assert_eq!(
            worker.join().expect("worker").fault().cause,
            FaultCause::Cancelled
        );
    });
    assert_eq!(target.load_u64(0, Ordering::Relaxed), 0);
}

#[test]
fn a_window_that_went_during_a_copy_is_not_written() {
    let (from, client, _memory) = messaged();
    let (to, _other, target) = messaged();
    client.answer(Answer::Never);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let (from, to) = (from.enter(), to.enter());
            // Sender: first by message. It is cancelled, so the receiver's part is never reached.
            let first = copy(&from, 0x1000, &to, 0x2000, 64).expect_err("cancelled");
            let second = copy(&from, 0x2000, &to, 0x2000, 64).expect_err("window has gone");
            (first.fault().cause, second.fault().cause)
        });
        client.wait_until_asked();
        ends(&client, || to.unmap(0x2000, 0x1000).expect("unmap"));
        client.cancel(0, u64::MAX);
        let causes = worker.join().expect("worker");
        assert_eq!(causes, (FaultCause::Cancelled, FaultCause::NoWindow));
    });
    assert_eq!(target.load_u64(0, Ordering::Relaxed), 0);
}

#[test]
fn a_silent_client_is_not_asked_again_at_once() {
    let (space, client, _memory) = messaged();
    client.answer(Answer::Fails(Errno::ETIMEDOUT));
    assert_eq!(
        space.read(0x1000, &mut [0; 4]).expect_err("silent").cause,
        FaultCause::Io
    );
    assert_eq!(client.messages(), 1);
    client.answer(Answer::Done);
    for _ in 0..100 {
        assert_eq!(cause(&space, 0x1000, 4), Some(FaultCause::Io));
        assert_eq!(cause(&space, 0x2000, 4), None);
    }
    assert_eq!(client.messages(), 1);
    // A new connection starts afresh.
    space.connect(client.clone());
    assert_eq!(cause(&space, 0x1000, 4), None);
}
