//! A card, a PF driver and a guest for the mediator's tests: all of them fakes in this process.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use igb::pci::{capability, express, header, id};
use igb::{PVTCTRL, Register, STATUS, V2PMAILBOX, vf};
use iommu::backend::InProcess;
use iommu::function::{Function, FunctionError};
use iommu::interrupt::EventFd;
use mediator::nic::Nic;
use mediator::{Mediator, MediatorOptions};
use mediator_protocol::*;
use nix::errno::Errno;
use vfio_user::client::{DmaHandler, DmaReply};
use vfio_user::device::{Device, DmaAccess, Irq, IrqFlags, Region, region};

/// How long anything may take before a test fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What the card saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Connect,
    Disconnect,
    Reset,
    Write {
        region: u32,
        offset: u64,
        data: Vec<u8>,
    },
    Post {
        region: u32,
        offset: u64,
        data: Vec<u8>,
    },
    Map {
        iova: u64,
        size: u64,
        file: bool,
    },
    Unmap {
        iova: u64,
    },
    Eventfds {
        index: u32,
        start: u32,
        count: usize,
    },
}

impl Seen {
    /// A posted register write.
    pub(crate) fn post(offset: u32, value: u32) -> Self {
        Self::Post {
            region: region::BAR0,
            offset: offset.into(),
            data: value.to_le_bytes().into(),
        }
    }
}

const EXPRESS_AT: u16 = 0xA0;

/// One VF of a fake card: registers that remember what is written, and a log.
pub(crate) struct FakeVf {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    present: bool,
    connection: Option<Arc<EventFd>>,
    handler: Option<Arc<dyn DmaHandler>>,
    registers: HashMap<u64, u32>,
    config: Vec<u8>,
    log: Vec<Seen>,
    reset_fails: bool,
    /// Resets wait while this is set.
    reset_held: bool,
}

impl FakeVf {
    fn new() -> Self {
        let mut config = vec![0; 4096];
        config[usize::from(header::CAPABILITIES)] = EXPRESS_AT as u8;
        config[usize::from(EXPRESS_AT + capability::ID)] = id::EXPRESS;
        let state = State {
            config,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, seen: Seen) {
        self.lock().log.push(seen);
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, mut until: impl FnMut(&mut State) -> bool) {
        let state = self.lock();
        let (_guard, waited) = self
            .changed
            .wait_timeout_while(state, SOON, |state| !until(state))
            .unwrap();
        assert!(!waited.timed_out(), "the card never saw {what}");
    }

    /// Wait until the card has seen `seen` `count` times.
    pub(crate) fn wait_seen(&self, seen: &Seen, count: usize) {
        self.wait(&format!("{seen:x?} x {count}"), |state| {
            state.log.iter().filter(|s| *s == seen).count() >= count
        });
    }

    pub(crate) fn log(&self) -> Vec<Seen> {
        self.lock().log.clone()
    }

    pub(crate) fn count(&self, seen: &Seen) -> usize {
        self.log().iter().filter(|s| *s == seen).count()
    }

    pub(crate) fn set_register(&self, offset: u32, value: u32) {
        self.lock().registers.insert(offset.into(), value);
    }

    pub(crate) fn fail_resets(&self) {
        self.lock().reset_fails = true;
    }

    pub(crate) fn hold_resets(&self, hold: bool) {
        self.lock().reset_held = hold;
        self.changed.notify_all();
    }

    /// Surprise removal.
    pub(crate) fn unplug(&self) {
        let mut state = self.lock();
        state.present = false;
        if let Some(lost) = state.connection.take() {
            lost.signal();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The card reads guest memory that it has no file for.
    pub(crate) fn dma_read(
        &self,
        iova: u64,
        len: usize,
    ) -> std::sync::mpsc::Receiver<Result<Vec<u8>, Errno>> {
        let handler = self.lock().handler.clone().expect("a DMA handler");
        let (answer, answers) = std::sync::mpsc::channel();
        let reply = DmaReply::local(Some(len), move |result| {
            let _ = answer.send(result.map(<[u8]>::to_vec));
        });
        handler.dma_read(iova, len, reply);
        answers
    }

    fn reset(&self) -> Result<(), FunctionError> {
        let state = self.lock();
        let (mut state, waited) = self
            .changed
            .wait_timeout_while(state, SOON, |state| state.reset_held)
            .unwrap();
        assert!(!waited.timed_out(), "a held reset was never let go");
        if state.reset_fails {
            return Err(FunctionError::TimedOut { operation: "reset" });
        }
        state.registers.clear();
        state.log.push(Seen::Reset);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}

/// A fake card with some VFs. VFs appear when [`FakeCard::plug`] says so.
pub(crate) struct FakeCard {
    vfs: Vec<Arc<FakeVf>>,
}

impl FakeCard {
    pub(crate) fn new(vfs: usize) -> Arc<Self> {
        let card = Self {
            vfs: (0..vfs).map(|_| Arc::new(FakeVf::new())).collect(),
        };
        Arc::new(card)
    }

    pub(crate) fn vf(&self, vf: u16) -> &Arc<FakeVf> {
        &self.vfs[usize::from(vf)]
    }

    pub(crate) fn plug(&self, vf: u16) {
        self.vf(vf).lock().present = true;
    }
}

impl Nic for FakeCard {
    fn connect(
        &self,
        vf: u16,
    ) -> Result<Arc<dyn Function>, Box<dyn std::error::Error + Send + Sync>> {
        let vf = Arc::clone(self.vfs.get(usize::from(vf)).ok_or("no such VF")?);
        let mut state = vf.lock();
        if !state.present {
            return Err("not plugged".into());
        }
        if state.connection.is_some() {
            return Err("one connection at a time".into());
        }
        let lost = Arc::new(EventFd::new()?);
        state.connection = Some(Arc::clone(&lost));
        state.log.push(Seen::Connect);
        drop(state);
        vf.changed.notify_all();
        Ok(Arc::new(FakeFunction {
            vf,
            lost,
            gone: AtomicBool::new(false),
        }))
    }
}

struct FakeFunction {
    vf: Arc<FakeVf>,
    lost: Arc<EventFd>,
    gone: AtomicBool,
}

impl Drop for FakeFunction {
    fn drop(&mut self) {
        let mut state = self.vf.lock();
        state.connection = None;
        state.handler = None;
        state.log.push(Seen::Disconnect);
        drop(state);
        self.vf.changed.notify_all();
    }
}

impl FakeFunction {
    fn alive(&self) -> Result<(), FunctionError> {
        if self.lost() {
            Err(FunctionError::Lost)
        } else {
            Ok(())
        }
    }

    fn store(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.alive()?;
        let is = |register: u32| region == region::BAR0 && offset & !3 == u64::from(register);
        let flr = region == region::CONFIG
            && offset == u64::from(EXPRESS_AT + express::DEVICE_CONTROL)
            && data.get(1).is_some_and(|byte| byte & 0x80 != 0);
        if flr
            || (is(vf::VTCTRL::OFFSET)
                && data.len() == 4
                && data[3] & (PVTCTRL::RST.mask() >> 24) as u8 != 0)
        {
            return self.vf.reset();
        }
        let mut state = self.vf.lock();
        if region == region::CONFIG {
            state.config[offset as usize..][..data.len()].copy_from_slice(data);
        } else if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            state.registers.insert(offset, u32::from_le_bytes(bytes));
        }
        Ok(())
    }
}

impl Function for FakeFunction {
    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        self.alive()?;
        Ok(match index {
            region::BAR0 => Region::trapped(0x4000),
            3 => Region::trapped(0x4000),
            region::CONFIG => Region::trapped(4096),
            _ => Region::absent(),
        })
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        self.alive()?;
        let mut state = self.vf.lock();
        if region == region::CONFIG {
            data.copy_from_slice(&state.config[offset as usize..][..data.len()]);
            return Ok(());
        }
        for (n, byte) in data.iter_mut().enumerate() {
            let at = offset + n as u64;
            let value = state.registers.get(&(at & !3)).copied().unwrap_or(0);
            *byte = value.to_le_bytes()[(at & 3) as usize];
        }
        // Reading V2PMAILBOX clears RSTD, as in hardware.
        let v2p = u64::from(vf::V2PMAILBOX::OFFSET);
        if (offset..offset + data.len() as u64).contains(&v2p)
            && let Some(value) = state.registers.get_mut(&v2p)
        {
            *value &= !V2PMAILBOX::RSTD.mask();
        }
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.vf.see(Seen::Write {
            region,
            offset,
            data: data.into(),
        });
        self.store(region, offset, data)
    }

    fn post(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.vf.see(Seen::Post {
            region,
            offset,
            data: data.into(),
        });
        self.store(region, offset, data)
    }

    fn irq(&self, index: u32) -> Result<Irq, FunctionError> {
        let count = if index == vfio_user::device::irq::MSIX {
            3
        } else {
            0
        };
        Ok(Irq {
            flags: IrqFlags::EVENTFD,
            count,
        })
    }

    fn set_eventfds(
        &self,
        index: u32,
        start: u32,
        fds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), FunctionError> {
        self.vf.see(Seen::Eventfds {
            index,
            start,
            count: fds.iter().flatten().count(),
        });
        Ok(())
    }

    fn disable_irqs(&self, _: u32) -> Result<(), FunctionError> {
        Ok(())
    }
    fn trigger_irqs(&self, _: u32, _: u32, _: &[bool]) -> Result<(), FunctionError> {
        Ok(())
    }
    fn mask_irqs(&self, _: u32, _: u32, _: &[bool]) -> Result<(), FunctionError> {
        Ok(())
    }
    fn unmask_irqs(&self, _: u32, _: u32, _: &[bool]) -> Result<(), FunctionError> {
        Ok(())
    }
    fn set_unmask_eventfd(
        &self,
        _: u32,
        _: u32,
        _: Option<BorrowedFd<'_>>,
    ) -> Result<(), FunctionError> {
        Ok(())
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        _: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        self.alive()?;
        self.vf.see(Seen::Map {
            iova,
            size,
            file: file.is_some(),
        });
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, _: u64) -> Result<(), FunctionError> {
        self.vf.see(Seen::Unmap { iova });
        Ok(())
    }

    fn dma_unmap_all(&self) -> Result<(), FunctionError> {
        Ok(())
    }

    fn set_dma_handler(&self, handler: Arc<dyn DmaHandler>) {
        self.vf.lock().handler = Some(handler);
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.alive()?;
        self.vf.reset()
    }

    fn lost(&self) -> bool {
        let now = self
            .vf
            .lock()
            .connection
            .as_ref()
            .is_none_or(|c| !Arc::ptr_eq(c, &self.lost));
        if now {
            self.gone.store(true, Ordering::SeqCst);
        }
        self.gone.load(Ordering::SeqCst)
    }

    fn lost_event(&self) -> BorrowedFd<'_> {
        self.lost.as_fd()
    }
}

/// A PF driver by hand.
pub(crate) struct FakePf {
    stream: UnixStream,
    decoder: Decoder,
}

impl FakePf {
    /// Take a connection without a word.
    pub(crate) fn silent(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self {
            stream,
            decoder: Decoder::new(),
        }
    }

    /// Connect and be welcomed.
    pub(crate) fn connect(mediator: &Mediator) -> Self {
        let mut pf = Self::silent(mediator.connect_pf().unwrap());
        pf.hello(Token::ABSENT);
        assert_eq!(
            pf.receive(),
            Some(ToPf::Welcome {
                version: VERSION,
                features: PfFeatures::all()
            })
        );
        pf
    }

    pub(crate) fn hello(&mut self, token: Token) {
        self.send(FromPf::Hello {
            version: VERSION,
            features: PfFeatures::all(),
            token,
        });
    }

    pub(crate) fn send(&mut self, message: FromPf) {
        self.send_bytes(&message.to_bytes());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        // A mediator that has had enough may have closed.
        let _ = self.stream.write_all(bytes);
    }

    /// The next message, or `None` at the end of the connection.
    pub(crate) fn receive(&mut self) -> Option<ToPf> {
        loop {
            if let Some(message) = self
                .decoder
                .next_frame()
                .expect("the mediator sends valid frames")
            {
                return Some(message);
            }
            let mut bytes = [0; 512];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                // A child of another test has ended.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("nothing from the mediator: {error}"),
            }
        }
    }

    /// The next request; other messages are skipped.
    pub(crate) fn request(&mut self) -> Request {
        loop {
            if let ToPf::Request(request) = self.receive().expect("the connection lives") {
                return request;
            }
        }
    }

    /// Skip until a message fits.
    pub(crate) fn until(&mut self, fits: impl Fn(&ToPf) -> bool) -> ToPf {
        loop {
            let message = self.receive().expect("the connection lives");
            if fits(&message) {
                return message;
            }
        }
    }

    /// Until the mediator has taken in everything that was sent before; what it says is skipped.
    pub(crate) fn settle(&mut self) {
        self.send(FromPf::Revoke { vf: 63 });
        self.until(|message| matches!(message, ToPf::Rejected { vf: 63, .. }));
    }

    pub(crate) fn offer(&mut self, vf: u16) {
        self.send(FromPf::Offer {
            vf,
            serial: 0x1000 + u64::from(vf),
            link_up: true,
            mac: None,
        });
    }

    pub(crate) fn answer(&mut self, request: &Request, status: Status, body: ReplyBody) {
        self.send(FromPf::Reply(Reply::to(request, status, body)));
    }
}

/// A guest on a VF, in process.
pub(crate) struct Guest {
    pub(crate) function: Arc<InProcess>,
}

impl Guest {
    pub(crate) fn attach(mediator: &Mediator, vf: u16) -> Self {
        let device = mediator
            .wait_for_device(vf, SOON)
            .expect("the VF is on the bus");
        Self::on(device)
    }

    pub(crate) fn on(device: Arc<dyn Device>) -> Self {
        Self {
            function: Arc::new(InProcess::new(device).unwrap()),
        }
    }

    pub(crate) fn read(&self, offset: u32) -> u32 {
        self.read_region(region::BAR0, offset.into())
    }

    pub(crate) fn write(&self, offset: u32, value: u32) {
        self.function
            .write(region::BAR0, offset.into(), &value.to_le_bytes())
            .unwrap();
    }

    pub(crate) fn read_region(&self, region: u32, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.function.read(region, offset, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn bar(&self, register: bar::Register) -> u32 {
        self.read_region(bar::INDEX, register.offset())
    }

    pub(crate) fn set_bar(&self, register: bar::Register, value: u32) {
        self.function
            .write(bar::INDEX, register.offset(), &value.to_le_bytes())
            .unwrap();
    }

    pub(crate) fn ask_block(&self, command: bar::Command, block: u32, length: u32) {
        self.set_bar(bar::Register::BlockId, block);
        self.set_bar(bar::Register::Length, length);
        self.set_bar(bar::Register::Command, command as u32);
    }

    pub(crate) fn block_status(&self) -> bar::StatusRegister {
        bar::StatusRegister(self.bar(bar::Register::Status))
    }

    /// Point the mailbox interrupt at a vector, as igbvf does; 0x80 is the valid bit.
    pub(crate) fn route_mailbox_vector(&self, vector: u32) {
        let entry = igb::interrupt::Entry::of_other(igb::FunctionKind::Virtual);
        self.write(vf::VTIVAR_MISC::OFFSET, entry.with_vector(0, Some(vector)));
    }

    pub(crate) fn v2p(&self) -> u32 {
        self.read(vf::V2PMAILBOX::OFFSET)
    }

    /// igbvf's e1000_write_mbx_vf, in its order: lock, words, REQ; then PFACK.
    pub(crate) fn write_mailbox(&self, words: &[u32]) {
        self.write(vf::V2PMAILBOX::OFFSET, V2PMAILBOX::VFU.mask());
        assert_ne!(self.v2p() & V2PMAILBOX::VFU.mask(), 0, "VFU must read back");
        for (n, word) in (0..).zip(words) {
            self.write(vf::VMBMEM::offset(n), *word);
        }
        self.write(vf::V2PMAILBOX::OFFSET, V2PMAILBOX::REQ.mask());
        assert_ne!(
            self.v2p() & V2PMAILBOX::PFACK.mask(),
            0,
            "acknowledged at once"
        );
    }

    /// igbvf's e1000_read_mbx_vf: PFSTS must be set; lock, words, ACK.
    pub(crate) fn read_mailbox(&self, count: u32) -> Vec<u32> {
        assert_ne!(
            self.v2p() & V2PMAILBOX::PFSTS.mask(),
            0,
            "an answer must be there"
        );
        self.write(vf::V2PMAILBOX::OFFSET, V2PMAILBOX::VFU.mask());
        let words = (0..count)
            .map(|n| self.read(vf::VMBMEM::offset(n)))
            .collect();
        self.write(vf::V2PMAILBOX::OFFSET, V2PMAILBOX::ACK.mask());
        words
    }

    pub(crate) fn link_up(&self) -> bool {
        self.read(vf::VTSTATUS::OFFSET) & STATUS::LU.mask() != 0
    }
}

/// The write to EICS that announces something to a VF whose mailbox vector is `vector`.
pub(crate) fn eics(vector: u32) -> Seen {
    Seen::post(vf::VTEICS::OFFSET, igb::PVTEICS::VECTORS.put(1 << vector))
}

/// A mediator in process on a card with `vfs` VFs, all of them plugged.
pub(crate) fn mediator(
    vfs: u16,
    change: impl FnOnce(&mut MediatorOptions),
) -> (Mediator, Arc<FakeCard>) {
    let card = FakeCard::new(vfs.into());
    (0..vfs).for_each(|vf| card.plug(vf));
    let mut options = MediatorOptions::new(Arc::clone(&card) as Arc<dyn Nic>);
    change(&mut options);
    (Mediator::start(options).unwrap(), card)
}
