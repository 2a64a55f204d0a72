//! A PF driver on a thread of its own, as in its program: VFs wait for its answers.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use igb_driver::netdev::NetDevice;
use iommu::interrupt::EventFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use pf_driver::{PfDriver, PfError};

use crate::rig::PATIENCE;

type Job = Box<dyn FnOnce(&mut PfDriver) + Send>;

enum Order {
    Do(Job),
    Remove,
    /// Dropped without a word, as when its process is killed.
    Crash,
}

struct Shared {
    wake: EventFd,
    /// Signalled when frames came and when an order was carried out.
    news: EventFd,
    received: Mutex<VecDeque<Vec<u8>>>,
}

/// A PF driver that runs.
pub struct PfThread {
    orders: Sender<Order>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl PfThread {
    /// Start the driver that `probe` makes.
    ///
    /// # Errors
    ///
    /// What `probe` says.
    ///
    /// # Panics
    ///
    /// Without threads and eventfds, or if `probe` does not return.
    pub fn start(
        probe: impl FnOnce() -> Result<PfDriver, PfError> + Send + 'static,
    ) -> Result<Self, PfError> {
        let shared = Arc::new(Shared {
            wake: EventFd::new().expect("an eventfd"),
            news: EventFd::new().expect("an eventfd"),
            received: Mutex::default(),
        });
        let (orders, inbox) = channel();
        let (probed, outcome) = sync_channel(1);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("pf-driver".into())
            .spawn(move || match probe() {
                Ok(driver) => {
                    let _ = probed.send(Ok(()));
                    drive(driver, &inbox, &of_thread);
                }
                Err(error) => drop(probed.send(Err(error))),
            })
            .expect("a thread");
        outcome
            .recv_timeout(PATIENCE)
            .expect("probing the PF does not end")?;
        Ok(Self {
            orders,
            shared,
            thread: Some(thread),
        })
    }

    /// Have the driver do something, and wait for what comes of it.
    ///
    /// # Panics
    ///
    /// If the driver does not answer, or has panicked.
    pub fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut PfDriver) -> R + Send + 'static,
    ) -> R {
        let (done, outcome) = sync_channel(1);
        self.begin(move |pf| drop(done.send(job(pf))));
        outcome
            .recv_timeout(PATIENCE)
            .expect("the PF driver does not answer")
    }

    /// Have the driver do something, without waiting.
    pub fn begin(&self, job: impl FnOnce(&mut PfDriver) + Send + 'static) {
        // A driver that is no more shows in the answer that does not come.
        let _ = self.orders.send(Order::Do(Box::new(job)));
        self.shared.wake.signal();
    }

    /// Frames that the PF has received since the last call.
    #[must_use]
    pub fn take_received(&self) -> VecDeque<Vec<u8>> {
        self.shared.news.take();
        std::mem::take(
            &mut *self
                .shared
                .received
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Readable when there is something new.
    #[must_use]
    pub fn news(&self) -> &EventFd {
        &self.shared.news
    }

    /// `PfDriver::remove`.
    pub fn remove(mut self) {
        self.end(Order::Remove);
    }

    /// The driver goes without a word.
    pub fn crash(mut self) {
        self.end(Order::Crash);
    }

    fn end(&mut self, order: Order) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let _ = self.orders.send(order);
        self.shared.wake.signal();
        if thread.join().is_err() && !std::thread::panicking() {
            panic!("the PF driver panicked");
        }
    }
}

impl Drop for PfThread {
    fn drop(&mut self) {
        self.end(Order::Remove);
    }
}

fn drive(mut driver: PfDriver, inbox: &Receiver<Order>, shared: &Shared) {
    loop {
        while let Ok(order) = inbox.try_recv() {
            match order {
                Order::Do(job) => {
                    job(&mut driver);
                    shared.news.signal();
                }
                Order::Remove => return driver.remove(),
                Order::Crash => return,
            }
        }
        driver.service();
        loop {
            let mut frames = Vec::new();
            let count = driver.poll(64, &mut |frame| frames.push(frame.to_vec()));
            if !frames.is_empty() {
                shared
                    .received
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(frames);
                shared.news.signal();
            }
            if count < 64 {
                break;
            }
        }
        let timeout = driver.next_timeout().unwrap_or(Duration::MAX);
        let mut fds: Vec<PollFd<'_>> = driver
            .event_fds()
            .into_iter()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        fds.push(PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN));
        let _ = poll(
            &mut fds,
            PollTimeout::try_from(timeout).unwrap_or(PollTimeout::NONE),
        );
        drop(fds);
        shared.wake.take();
    }
}
