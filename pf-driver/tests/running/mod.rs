//! A PF driver in a thread of its own, as its program runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use igb_driver::netdev::NetDevice;
use iommu::interrupt::InterruptSet;
use pf_driver::PfDriver;

/// Nothing here takes this long, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a device has something to do, and lets it.
pub(crate) fn step(device: &mut dyn NetDevice, wait: Duration) {
    let mut set = InterruptSet::new(0).unwrap();
    for fd in device.event_fds() {
        set.watch(fd).unwrap();
    }
    let wait = device.next_timeout().map_or(wait, |own| own.min(wait));
    set.wait(Some(wait)).unwrap();
    device.service();
}

type Job = Box<dyn FnOnce(&mut PfDriver) + Send>;

/// A PF driver in its loop, as its program has it.
pub(crate) struct Running {
    jobs: Sender<Job>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<PfDriver>>,
}

impl Running {
    pub(crate) fn start(mut driver: PfDriver) -> Self {
        let (jobs, todo): (_, Receiver<Job>) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Acquire) {
                step(&mut driver, Duration::from_millis(5));
                todo.try_iter().for_each(|job| job(&mut driver));
            }
            driver
        });
        Self {
            jobs,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut PfDriver) -> T + Send + 'static,
    ) -> T {
        let (done, answer) = channel();
        let job: Job = Box::new(move |driver| done.send(job(driver)).unwrap());
        self.jobs.send(job).unwrap();
        answer.recv_timeout(PATIENCE).expect("the PF's loop runs")
    }

    pub(crate) fn finish(mut self) -> PfDriver {
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap()
    }
}
