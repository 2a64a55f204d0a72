//! Somebody's own driver against the card, to be copied: a PF driver of one queue pair that polls,
//! and its tests. What it needs in Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! igb = "0.1"              # names of registers, descriptors; or your own
//! iommu = "0.1"            # trait Function: a device on kernel VFIO, behind a socket, in process
//! vfio-user = "0.1"
//! [dev-dependencies]
//! vfio-user-device = "0.1" # the card
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use igb::descriptor::{RxRead, RxWriteBack, SIZE, TxCommand, TxData, TxWriteBack, to_bytes};
use igb::pci::{command, header};
use igb::{
    CTRL, FunctionId, MacAddress, RAH, RAL, RCTL, RDBAH, RDBAL, RDLEN, RDT, RXDCTL, Register,
    SRRCTL, TCTL, TDBAH, TDBAL, TDLEN, TDT, TXDCTL, Value,
};
use iommu::function::{Function, FunctionError};
use iommu::memory::SharedMemory;
use vfio_user::device::{DmaAccess, region};

// ---- The driver -------------------------------------------------------------------------------

/// Descriptors of each ring, and bytes of each buffer.
const RING: u32 = 64;
const BUFFER: usize = 2048;
/// Where everything lies in the driver's memory, and where the device finds that.
const TX_RING: usize = 0;
const RX_RING: usize = 0x1000;
const TX_BUFFERS: usize = 0x2000;
const RX_BUFFERS: usize = TX_BUFFERS + RING as usize * BUFFER;
const MEMORY: usize = RX_BUFFERS + RING as usize * BUFFER;
const IOVA: u64 = 0x10_0000;
/// How long the device may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum DriverError {
    #[error(transparent)]
    Device(#[from] FunctionError),
    #[error("the device hangs: {0}")]
    Hung(&'static str),
}

struct Driver {
    device: Arc<dyn Function>,
    memory: SharedMemory,
    mac: MacAddress,
    tx: u32,
    rx: u32,
}

impl Driver {
    fn read<R: Register>(&self, index: u32) -> Result<Value<R>, DriverError> {
        let mut data = [0; 4];
        self.device
            .read(region::BAR0, R::offset(index).into(), &mut data)?;
        Ok(Value::from_raw(u32::from_le_bytes(data)))
    }

    fn write<R: Register>(&self, index: u32, value: Value<R>) -> Result<(), DriverError> {
        let data = value.raw().to_le_bytes();
        Ok(self
            .device
            .write(region::BAR0, R::offset(index).into(), &data)?)
    }

    /// Reset the device, learn its address, and start a queue pair.
    fn probe(device: Arc<dyn Function>) -> Result<Self, DriverError> {
        let on = command::MEMORY | command::BUS_MASTER;
        device.write(region::CONFIG, header::COMMAND.into(), &on.to_le_bytes())?;
        let memory = SharedMemory::create_sealed("driver", MEMORY).expect("memory");
        let access = DmaAccess::READ | DmaAccess::WRITE;
        device.dma_map(IOVA, MEMORY as u64, access, Some((memory.fd(), 0)))?;
        let mut driver = Self {
            device,
            memory,
            mac: MacAddress::ZERO,
            tx: 0,
            rx: 0,
        };
        driver.write(0, Value::<CTRL>::RESET.set(CTRL::RST))?;
        driver.until("reset", |driver| {
            Ok(!driver.read::<CTRL>(0)?.has(CTRL::RST))
        })?;
        driver.write(0, Value::<CTRL>::RESET.set(CTRL::SLU))?;
        let high = driver.read::<RAH>(0)?.get(RAH::RAH) as u16;
        driver.mac = MacAddress::from_words(driver.read::<RAL>(0)?.raw(), high);

        for n in 0..RING {
            driver.give(n);
        }
        let ring = IOVA + RX_RING as u64;
        driver.write(0, Value::<RDBAL>::from_raw(ring as u32))?;
        driver.write(0, Value::<RDBAH>::from_raw((ring >> 32) as u32))?;
        driver.write(0, Value::<RDLEN>::from_raw(RING * SIZE as u32))?;
        let srrctl = Value::<SRRCTL>::default()
            .with(SRRCTL::BSIZEPACKET, 2)
            .with(SRRCTL::DESCTYPE, 1);
        driver.write(0, srrctl)?;
        driver.write(0, Value::<RXDCTL>::RESET.set(RXDCTL::ENABLE))?;
        driver.until("receive queue", |driver| {
            Ok(driver.read::<RXDCTL>(0)?.has(RXDCTL::ENABLE))
        })?;
        driver.write(0, Value::<RDT>::from_raw(RING - 1))?;
        driver.write(0, Value::<RCTL>::default().set(RCTL::RXEN).set(RCTL::BAM))?;

        let ring = IOVA + TX_RING as u64;
        driver.write(0, Value::<TDBAL>::from_raw(ring as u32))?;
        driver.write(0, Value::<TDBAH>::from_raw((ring >> 32) as u32))?;
        driver.write(0, Value::<TDLEN>::from_raw(RING * SIZE as u32))?;
        driver.write(0, Value::<TCTL>::RESET.set(TCTL::EN))?;
        driver.write(0, Value::<TXDCTL>::RESET.set(TXDCTL::ENABLE))?;
        driver.until("transmit queue", |driver| {
            Ok(driver.read::<TXDCTL>(0)?.has(TXDCTL::ENABLE))
        })?;
        Ok(driver)
    }

    fn until(
        &self,
        what: &'static str,
        mut done: impl FnMut(&Self) -> Result<bool, DriverError>,
    ) -> Result<(), DriverError> {
        let end = Instant::now() + PATIENCE;
        while !done(self)? {
            if Instant::now() > end {
                return Err(DriverError::Hung(what));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Give receive buffer `n` to the device.
    fn give(&self, n: u32) {
        let buffer = IOVA + (RX_BUFFERS + n as usize * BUFFER) as u64;
        let raw = to_bytes(RxRead::new(buffer, 0).raw());
        self.memory.write(RX_RING + n as usize * SIZE, &raw);
    }

    fn descriptor(&self, at: usize) -> [u64; 2] {
        // The word with the status first: the device writes it last.
        let high = self.memory.load_u64(at + 8, Ordering::Acquire);
        [self.memory.load_u64(at, Ordering::Relaxed), high]
    }

    /// Send a frame, and wait until the device has taken it.
    fn send(&mut self, frame: &[u8]) -> Result<(), DriverError> {
        let n = (self.tx % RING) as usize;
        let (slot, buffer) = (TX_RING + n * SIZE, TX_BUFFERS + n * BUFFER);
        self.memory.write(buffer, frame);
        let command = TxCommand::DEXT | TxCommand::EOP | TxCommand::IFCS | TxCommand::RS;
        let data = TxData::new(IOVA + buffer as u64, frame.len() as u16, command)
            .with_payload_length(frame.len() as u32);
        self.memory.write(slot, &to_bytes(data.raw()));
        self.tx += 1;
        self.write(0, Value::<TDT>::from_raw(self.tx % RING))?;
        self.until("send", |driver| {
            Ok(TxWriteBack::from_raw(driver.descriptor(slot)).is_done())
        })
    }

    /// Wait for a frame.
    fn receive(&mut self) -> Result<Vec<u8>, DriverError> {
        let n = self.rx % RING;
        let slot = RX_RING + n as usize * SIZE;
        let done = |driver: &Self| RxWriteBack::from_raw(driver.descriptor(slot));
        self.until("receive", |driver| Ok(done(driver).is_done()))?;
        let mut frame = vec![0; done(self).length().into()];
        self.memory
            .read(RX_BUFFERS + n as usize * BUFFER, &mut frame);
        self.give(n);
        self.rx += 1;
        self.write(0, Value::<RDT>::from_raw(n))?;
        Ok(frame)
    }
}

// ---- Its tests --------------------------------------------------------------------------------

use vfio_user_device::InProcessCard;
use vfio_user_device::trace::What;

fn frame(to: MacAddress, from: MacAddress) -> Vec<u8> {
    let mut frame = [to.bytes(), from.bytes()].concat();
    frame.extend([0x88, 0xB5]);
    frame.extend((0..86).map(|n| n as u8));
    frame
}

fn peer() -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, 0xAA])
}

#[test]
fn it_probes_sends_and_receives() {
    let card = InProcessCard::builder().build().expect("a card");
    let mut driver = Driver::probe(card.pf()).expect("a driver");
    assert_eq!(driver.mac, card.mac());

    let request = frame(peer(), driver.mac);
    driver.send(&request).expect("sent");
    assert_eq!(card.wire().receive(PATIENCE), Some(request));

    let answer = frame(driver.mac, peer());
    assert!(card.wire().send(&answer));
    assert_eq!(driver.receive().expect("received"), answer);
}

#[test]
fn it_resets_the_device_before_it_touches_a_queue() {
    let card = InProcessCard::builder().build().expect("a card");
    Driver::probe(card.pf()).expect("a driver");
    let trace = card.trace();
    let first = |text: &str| {
        trace
            .iter()
            .position(|entry| entry.to_string().contains(text))
    };
    let reset = first("pf   W bar0   CTRL 0x04");
    assert!(
        reset.is_some() && reset < first("W bar0   RDBAL[0]"),
        "{trace:#?}"
    );
    // Nothing was written that is no register.
    for entry in &trace {
        if let What::Access(access) = &entry.what {
            assert!(!access.place.to_string().starts_with("0x0") || access.region != "bar0");
        }
    }
}

#[test]
fn it_says_so_when_the_device_cannot_read_its_memory() {
    let rule = "dma-fault=read,pf,count=1".parse().expect("a rule");
    let card = InProcessCard::builder()
        .inject(rule)
        .build()
        .expect("a card");
    let mut driver = Driver::probe(card.pf()).expect("a driver");
    let sent = frame(peer(), driver.mac);
    assert!(matches!(driver.send(&sent), Err(DriverError::Hung("send"))));
    assert_eq!(card.injected(), 1);
    assert_eq!(card.stats().function(FunctionId::PF).faults, 1);
}

#[test]
fn a_frame_that_is_not_for_it_is_dropped_for_a_reason_that_has_a_name() {
    let card = InProcessCard::builder().build().expect("a card");
    let mut driver = Driver::probe(card.pf()).expect("a driver");
    card.wire().send(&frame(peer(), peer()));
    card.wire().send(&frame(driver.mac, peer()));
    // Frames arrive in order: the first has been judged when the second is there.
    driver.receive().expect("received");
    let stats = card.stats();
    let drops: Vec<_> = stats
        .uplink
        .drops
        .iter()
        .map(|(reason, n)| (reason.name(), n))
        .collect();
    assert_eq!(drops, [("filter-mac", 1)]);
}
