//! A queue pair with its registers, doorbells and interrupt: the data path that PF and VF share.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use igb::queue_page::{DOORBELL_ASLEEP, DOORBELL_WAKE, Page};
use igb::{FunctionKind, RXDCTL, Register, SRRCTL, TXDCTL, Value};
use iommu::container::Container;
use iommu::function::FunctionError;

use crate::interrupt::{Interrupts, QUEUE_VECTOR};
use crate::netdev::{Counters, XmitError};
use crate::offload::{Offloads, Plan, RxChecksum, TxOffload};
use crate::ring::{Full, RxRing, RxStats, Taken, TxRing, TxStats, least_split};
use crate::window::Window;
use crate::{DriverError, Registers};

/// Descriptors that are taken before the card is told that they are free again.
const RX_BATCH: u16 = 16;
/// How long a queue's ENABLE is waited for before the card counts as hung. The datasheet gives it 10
/// ms (4.5.9); an emulated card may have to wait for a processor.
const ENABLE_PATIENCE: Duration = Duration::from_secs(1);

/// How long the card may leave a descriptor that it was given before its queue counts as hung. A rate
/// limit is no hang: a ring's eighth is sent within this at the slowest rate there is.
const TX_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes around the payload of a frame in memory: header and one VLAN tag. The card adds the FCS.
const OVERHEAD: u32 = (igb::frame::HEADER_LENGTH + igb::frame::TAG_LENGTH) as u32;
/// Granularity of the card's receive buffers (SRRCTL.BSIZEPACKET).
const BUFFER_UNIT: usize = 1024;
/// Receive buffers of frames that are not jumbo.
const SMALL_BUFFER: usize = 2048;

/// How a data path is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueOptions {
    /// Descriptors of the receive ring: a power of two, 8 to 4096.
    pub rx_entries: u16,
    /// Descriptors of the transmit ring: a power of two, 8 to 4096.
    pub tx_entries: u16,
    /// Shortest time between two interrupts of the queue, in us.
    pub interval_us: u32,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            rx_entries: 256,
            tx_entries: 256,
            interval_us: 20,
        }
    }
}

/// Longest frame, without FCS, for an MTU.
#[must_use]
pub const fn frame_length(mtu: u32) -> usize {
    (mtu + OVERHEAD) as usize
}

/// Longest frame on the wire for an MTU, as RLPML and VMOLR.RLPML count it: with FCS.
#[must_use]
pub const fn packet_length(mtu: u32) -> u32 {
    mtu + OVERHEAD + igb::frame::FCS_LENGTH as u32
}

/// Why queues that were opened do not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFailure {
    /// The function was reset, and not by its driver.
    Reset,
    /// The card has not sent what it was given.
    TransmitHangs,
}

/// What a data path has done, beyond what its rings count.
#[derive(Debug, Clone, Copy, Default)]
struct PortStats {
    rx: RxStats,
    tx: TxStats,
    polls: u64,
    interrupts: u64,
    doorbells: u64,
    wakes: u64,
    refused: u64,
}

/// The data path of a function: one queue pair, started and stopped.
pub struct Port<W> {
    queue: u32,
    options: QueueOptions,
    rings: Option<Rings>,
    /// The card may sleep: a doorbell in shared memory may have to wake it.
    rx_shared: bool,
    tx_shared: bool,
    busy_poll: bool,
    lost: bool,
    stats: PortStats,
    window: std::marker::PhantomData<W>,
}

struct Rings {
    tx: TxRing,
    rx: RxRing,
    /// Tail as the card knows it.
    tx_tail: u16,
    /// The write-back that the card owed when last looked at, and since when.
    owed: Option<(u64, Instant)>,
    rx_pending: u16,
}

impl<W: Window> Port<W> {
    /// A port on the function's queue pair `queue`, not started.
    #[must_use]
    pub fn new(queue: u32, options: QueueOptions) -> Self {
        Self {
            queue,
            options,
            rings: None,
            rx_shared: false,
            tx_shared: false,
            busy_poll: false,
            lost: false,
            stats: PortStats::default(),
            window: std::marker::PhantomData,
        }
    }

    /// The function's number of the queue pair.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// How it was set up.
    #[must_use]
    pub fn options(&self) -> QueueOptions {
        self.options
    }

    /// Whether the queues run.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rings.is_some()
    }

    /// Starts both queues for frames of an MTU (datasheet 4.5.9, 4.5.10). The caller has routed
    /// their interrupts to [`QUEUE_VECTOR`].
    ///
    /// # Errors
    ///
    /// No memory, the function is gone, or a queue did not start.
    pub fn open(
        &mut self,
        regs: &Registers,
        container: &Arc<Container>,
        interrupts: &mut Interrupts<W>,
        mtu: u32,
    ) -> Result<(), DriverError> {
        if self.is_open() {
            return Ok(());
        }
        let longest = frame_length(mtu);
        let buffer = SMALL_BUFFER.max(longest.next_multiple_of(BUFFER_UNIT));
        let rx = RxRing::new(container, self.options.rx_entries, buffer, longest)?;
        let tx = TxRing::new(container, self.options.tx_entries, longest)?;
        self.rx_shared = regs.is_shared::<W::Rdt>(self.queue);
        self.tx_shared = regs.is_shared::<W::Tdt>(self.queue);
        if self.rx_shared || self.tx_shared {
            let page = Page::Tx.offset(W::KIND);
            if regs.is_shared_at(page + DOORBELL_WAKE) {
                regs.store(page + DOORBELL_WAKE, 1)?;
            }
        }
        // Kept before anything can fail, so that `stop` disables what was enabled.
        let rings = self.rings.insert(Rings {
            tx_tail: tx.tail(),
            owed: None,
            rx_pending: 0,
            tx,
            rx,
        });
        let started = start_rx::<W>(regs, self.queue, &rings.rx)
            .and_then(|()| start_tx::<W>(regs, self.queue, &rings.tx))
            .and_then(|()| {
                if self.busy_poll {
                    return Ok(());
                }
                Ok(interrupts.arm(regs, QUEUE_VECTOR)?)
            });
        if let Err(error) = started {
            self.stop(regs, interrupts);
            return Err(error);
        }
        self.lost = false;
        Ok(())
    }

    /// Stops both queues and gives their memory back. The card no longer touches it: it has
    /// confirmed that, or lost the mapping with the function.
    pub fn stop(&mut self, regs: &Registers, interrupts: &mut Interrupts<W>) {
        let Some(rings) = self.rings.take() else {
            return;
        };
        self.stats.rx = add_rx(self.stats.rx, rings.rx.stats());
        self.stats.tx = add_tx(self.stats.tx, rings.tx.stats());
        let stopped = interrupts
            .mask(regs, QUEUE_VECTOR)
            .map_err(DriverError::from)
            .and_then(|()| stop_queues::<W>(regs, self.queue));
        if let Err(error) = stopped
            && !regs.function().lost()
        {
            log::warn!("queue {} did not stop: {error}", self.queue);
        }
    }

    /// Forgets rings that a reset of the function has stopped.
    pub fn drop_rings(&mut self) {
        if let Some(rings) = self.rings.take() {
            self.stats.rx = add_rx(self.stats.rx, rings.rx.stats());
            self.stats.tx = add_tx(self.stats.tx, rings.tx.stats());
        }
    }

    /// See [`crate::netdev::NetDevice::offloads`].
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        Offloads {
            checksum: true,
            segmentation: least_split(self.options.tx_entries),
        }
    }

    /// See [`crate::netdev::NetDevice::xmit_offloaded`].
    ///
    /// # Errors
    ///
    /// See [`XmitError`].
    pub fn xmit(&mut self, frame: &[u8], offload: TxOffload) -> Result<(), XmitError> {
        let rings = self.rings.as_mut().ok_or(XmitError::Down)?;
        let wanted = offload != TxOffload::NONE;
        let plan = Plan::new(frame, offload);
        let max = match plan {
            Some(Plan { split: Some(_), .. }) => rings.tx.max_split(),
            _ => rings.tx.max_frame(),
        };
        let error = if wanted && plan.is_none() {
            XmitError::Offload
        } else if frame.len() > max {
            XmitError::Long {
                len: frame.len(),
                max,
            }
        } else if frame.len() < igb::frame::HEADER_LENGTH {
            XmitError::Short { len: frame.len() }
        } else if self.lost {
            XmitError::Gone
        } else {
            match rings.tx.push(frame, plan.as_ref()) {
                Ok(()) => return Ok(()),
                Err(Full) => return Err(XmitError::Full),
            }
        };
        self.stats.refused += 1;
        Err(error)
    }

    /// See [`crate::netdev::NetDevice::flush`].
    pub fn flush(&mut self, regs: &Registers) {
        let Some(rings) = self.rings.as_mut() else {
            return;
        };
        let tail = rings.tx.tail();
        if tail == rings.tx_tail {
            return;
        }
        rings.tx_tail = tail;
        self.stats.doorbells += 1;
        let rung = ring_bell::<W, W::Tdt>(regs, self.queue, tail, self.tx_shared);
        self.note(rung);
    }

    /// See [`crate::netdev::NetDevice::poll_verified`].
    pub fn poll(
        &mut self,
        regs: &Registers,
        interrupts: &mut Interrupts<W>,
        budget: usize,
        receive: &mut dyn FnMut(&[u8], RxChecksum),
    ) -> usize {
        self.stats.polls += 1;
        if !self.busy_poll && interrupts.take(QUEUE_VECTOR) {
            self.stats.interrupts += 1;
        }
        if self.rings.is_none() {
            return 0;
        }
        // The vector was taken before the look: what comes after the look fires it again.
        self.receive(regs, budget, receive)
    }

    /// Gives up to `budget` frames to `receive`; `budget` also when there may be more after a bounded
    /// number of descriptors that were no frame.
    fn receive(
        &mut self,
        regs: &Registers,
        budget: usize,
        receive: &mut dyn FnMut(&[u8], RxChecksum),
    ) -> usize {
        let Some(rings) = self.rings.as_mut() else {
            return 0;
        };
        // More parts of frames than a ring holds in one call are made up by the card.
        let mut others = usize::from(rings.rx.entries());
        let mut frames = 0;
        let mut result = Ok(false);
        while frames < budget {
            match rings.rx.take(receive) {
                Taken::Nothing => break,
                Taken::Frame => frames += 1,
                Taken::Other => others -= 1,
            }
            rings.rx_pending += 1;
            if rings.rx_pending == RX_BATCH {
                rings.rx_pending = 0;
                result = ring_bell::<W, W::Rdt>(regs, self.queue, rings.rx.tail(), self.rx_shared);
            }
            if others == 0 {
                frames = budget;
            }
        }
        if rings.rx_pending != 0 && frames < budget {
            rings.rx_pending = 0;
            result = ring_bell::<W, W::Rdt>(regs, self.queue, rings.rx.tail(), self.rx_shared);
        }
        rings.tx.reclaim();
        self.note(result);
        frames
    }

    /// See [`crate::netdev::NetDevice::set_busy_poll`].
    ///
    /// # Errors
    ///
    /// The function is gone.
    pub fn set_busy_poll(
        &mut self,
        regs: &Registers,
        interrupts: &mut Interrupts<W>,
        on: bool,
    ) -> Result<(), FunctionError> {
        self.busy_poll = on;
        if on {
            interrupts.mask(regs, QUEUE_VECTOR)
        } else if self.is_open() {
            interrupts.arm(regs, QUEUE_VECTOR)
        } else {
            Ok(())
        }
    }

    /// Why open queues do not work, if they do not; to be asked now and then. An interrupt that says
    /// so there is none.
    ///
    /// # Errors
    ///
    /// The function is gone.
    pub fn failure(
        &mut self,
        regs: &Registers,
        now: Instant,
    ) -> Result<Option<QueueFailure>, FunctionError> {
        let Some(rings) = self.rings.as_mut() else {
            return Ok(None);
        };
        // A reset clears it (datasheet 4.2.2).
        if !regs.read_at::<W::Rxdctl>(self.queue)?.has(RXDCTL::ENABLE) {
            return Ok(Some(QueueFailure::Reset));
        }
        rings.tx.reclaim();
        rings.owed = rings.tx.owed().map(|number| match rings.owed {
            Some((before, since)) if before == number => (number, since),
            _ => (number, now),
        });
        let stuck = rings
            .owed
            .is_some_and(|(_, since)| now.saturating_duration_since(since) >= TX_PATIENCE);
        Ok(stuck.then_some(QueueFailure::TransmitHangs))
    }

    /// Whether a doorbell found the function gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    fn note(&mut self, rung: Result<bool, FunctionError>) {
        match rung {
            Ok(woken) => self.stats.wakes += u64::from(woken),
            Err(FunctionError::Lost) => self.lost = true,
            Err(error) => log::warn!("a doorbell of queue {} failed: {error}", self.queue),
        }
    }

    /// The counters of the data path.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let PortStats { mut rx, mut tx, .. } = self.stats;
        if let Some(rings) = &self.rings {
            rx = add_rx(rx, rings.rx.stats());
            tx = add_tx(tx, rings.tx.stats());
        }
        let mut counters = Counters::new();
        for (name, value) in [
            ("rx_packets", rx.packets),
            ("tx_packets", tx.packets),
            ("rx_bytes", rx.bytes),
            ("tx_bytes", tx.bytes),
            ("rx_errors", rx.errors),
            ("rx_length_errors", rx.length_errors),
            ("rx_over_errors", rx.over_errors),
            ("rx_short_errors", rx.short_errors),
            ("rx_csum_valid", rx.verified),
            ("tx_csum", tx.checksums),
            ("tx_tso", tx.splits),
            ("tx_ring_full", tx.full),
            ("tx_refused", self.stats.refused),
            ("polls", self.stats.polls),
            ("queue_interrupts", self.stats.interrupts),
            ("tx_doorbells", self.stats.doorbells),
            ("doorbell_wakes", self.stats.wakes),
        ] {
            counters.push(name, value);
        }
        counters
    }
}

fn add_rx(a: RxStats, b: RxStats) -> RxStats {
    RxStats {
        packets: a.packets + b.packets,
        bytes: a.bytes + b.bytes,
        errors: a.errors + b.errors,
        length_errors: a.length_errors + b.length_errors,
        over_errors: a.over_errors + b.over_errors,
        short_errors: a.short_errors + b.short_errors,
        verified: a.verified + b.verified,
    }
}

fn add_tx(a: TxStats, b: TxStats) -> TxStats {
    TxStats {
        packets: a.packets + b.packets,
        bytes: a.bytes + b.bytes,
        full: a.full + b.full,
        checksums: a.checksums + b.checksums,
        splits: a.splits + b.splits,
    }
}

/// Writes a tail, and wakes the card if it sleeps; returns whether it did.
///
/// The card stores ASLEEP before its last look at the tails; here the tail is stored before the look
/// at ASLEEP. With a fence between on both sides, one of the two sees the other.
///
/// The wake carries the tail, so it waits until the card has it: a posted one might arrive after a
/// later tail was stored, and take that back.
fn ring_bell<W: Window, T: Register>(
    regs: &Registers,
    queue: u32,
    tail: u16,
    shared: bool,
) -> Result<bool, FunctionError> {
    let value = Value::<T>::from_raw(tail.into());
    regs.post_at(queue, value)?;
    if !shared {
        return Ok(false);
    }
    fence(Ordering::SeqCst);
    if regs.load(Page::Tx.offset(W::KIND) + DOORBELL_ASLEEP)? == 0 {
        return Ok(false);
    }
    regs.write_trapped(queue, value)?;
    Ok(true)
}

/// Receive queue initialization (datasheet 4.5.9; for a VF 7.8.2.9): base, length, buffers, enable,
/// and the tail last.
fn start_rx<W: Window>(regs: &Registers, queue: u32, ring: &RxRing) -> Result<(), DriverError> {
    let base = ring.base();
    regs.write_trapped::<W::Rxdctl>(queue, Value::from_raw(0))?;
    regs.write_at::<W::Rdbal>(queue, Value::from_raw(base as u32))?;
    regs.write_at::<W::Rdbah>(queue, Value::from_raw((base >> 32) as u32))?;
    regs.write_at::<W::Rdlen>(queue, Value::from_raw(ring.length()))?;
    regs.write_at::<W::Rdh>(queue, Value::from_raw(0))?;
    regs.write_at::<W::Rdt>(queue, Value::from_raw(0))?;
    let srrctl = Value::<W::Srrctl>::from_raw(0)
        .with(
            SRRCTL::BSIZEPACKET,
            (ring.buffer_size() / BUFFER_UNIT) as u32,
        )
        .with(SRRCTL::DESCTYPE, 1)
        .set(SRRCTL::DROP_EN);
    regs.write_at(queue, srrctl)?;
    let enabled = Value::<W::Rxdctl>::from_raw(0)
        .with(RXDCTL::PTHRESH, 8)
        .with(RXDCTL::HTHRESH, 8)
        .with(RXDCTL::WTHRESH, 1)
        .set(RXDCTL::ENABLE);
    regs.write_trapped(queue, enabled)?;
    await_enable("RXDCTL.ENABLE", queue, true, || {
        Ok(regs.read_at::<W::Rxdctl>(queue)?.has(RXDCTL::ENABLE))
    })?;
    Ok(regs.write_trapped::<W::Rdt>(queue, Value::from_raw(ring.tail().into()))?)
}

/// Transmit queue initialization (datasheet 4.5.10).
fn start_tx<W: Window>(regs: &Registers, queue: u32, ring: &TxRing) -> Result<(), DriverError> {
    let base = ring.base();
    regs.write_trapped::<W::Txdctl>(queue, Value::from_raw(0))?;
    regs.write_at::<W::Tdbal>(queue, Value::from_raw(base as u32))?;
    regs.write_at::<W::Tdbah>(queue, Value::from_raw((base >> 32) as u32))?;
    regs.write_at::<W::Tdlen>(queue, Value::from_raw(ring.length()))?;
    regs.write_at::<W::Tdh>(queue, Value::from_raw(0))?;
    regs.write_at::<W::Tdt>(queue, Value::from_raw(0))?;
    let enabled = Value::<W::Txdctl>::from_raw(0)
        .with(TXDCTL::PTHRESH, 8)
        .with(TXDCTL::HTHRESH, 1)
        .with(TXDCTL::WTHRESH, 1)
        .set(TXDCTL::ENABLE);
    regs.write_trapped(queue, enabled)?;
    await_enable("TXDCTL.ENABLE", queue, true, || {
        Ok(regs.read_at::<W::Txdctl>(queue)?.has(TXDCTL::ENABLE))
    })
}

/// Disables both queues; the card has seen it when this returns.
fn stop_queues<W: Window>(regs: &Registers, queue: u32) -> Result<(), DriverError> {
    regs.write_trapped::<W::Txdctl>(queue, Value::from_raw(0))?;
    regs.write_trapped::<W::Rxdctl>(queue, Value::from_raw(0))?;
    await_enable("TXDCTL.ENABLE", queue, false, || {
        Ok(regs.read_at::<W::Txdctl>(queue)?.has(TXDCTL::ENABLE))
    })?;
    await_enable("RXDCTL.ENABLE", queue, false, || {
        Ok(regs.read_at::<W::Rxdctl>(queue)?.has(RXDCTL::ENABLE))
    })
}

/// Reads ENABLE until it is as wanted.
fn await_enable(
    what: &'static str,
    queue: u32,
    wanted: bool,
    read: impl Fn() -> Result<bool, FunctionError>,
) -> Result<(), DriverError> {
    let end = Instant::now() + ENABLE_PATIENCE;
    loop {
        if read()? == wanted {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(DriverError::Queue { what, queue });
        }
        std::thread::yield_now();
    }
}

const _: () = assert!(matches!(
    <crate::window::PfWindow as Window>::KIND,
    FunctionKind::Physical
));
