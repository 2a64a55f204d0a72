//! A PF driver of the smallest kind, for the test of a VF driver that has none: it enables the VFs,
//! lets them talk, takes resets of them for granted, and says yes in the mailbox to what needs no
//! policy: an address, multicast, a length. All else it refuses.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use igb::mailbox::{PfReply, VfMessage, WORDS, Words};
use igb::pci::{command, header, msix, offset};
use igb::{
    CTRL, CTRL_EXT, DTXSWC, EIAC, EIMS, GPIE, ICR, IMS, IVAR_MISC, MBVFICR, MBVFIMR, MRQC,
    MacAddress, P2VMAILBOX, RAH, RAL, RCTL, Register, TCTL, VFLRE, VFRE, VFTE, VMBMEM, VMOLR,
    VT_CTL, Value,
};
use iommu::backend::InProcess;
use iommu::function::{Function, FunctionError};
use iommu::interrupt::{EventFd, InterruptError, InterruptSet, Watch};
use vfio_user::device::{irq, region};

/// MRQC's mode for VMDq with one queue per pool (datasheet 8.10.9).
const VMDQ: u32 = 3;
/// The vector of everything that VFs do.
const VECTOR: u32 = 0;

/// Why the VFs could not be enabled.
#[derive(Debug, thiserror::Error)]
pub enum StandingPfError {
    /// The card did not do what it was told.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// No descriptors are left.
    #[error(transparent)]
    Interrupts(#[from] InterruptError),
    /// No thread.
    #[error("cannot start the thread of the PF: {0}")]
    Thread(std::io::Error),
}

/// The address by which VF `n` receives.
pub(super) fn vf_mac(pf: MacAddress, n: u8) -> MacAddress {
    let mut bytes = pf.bytes();
    bytes[5] = bytes[5].wrapping_add(n + 1);
    MacAddress::new(bytes)
}

/// A PF that its thread looks after, until it is dropped.
pub(super) struct StandingPf {
    pub(super) function: Arc<InProcess>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl StandingPf {
    /// Enable `vfs` VFs.
    pub(super) fn start(
        function: Arc<InProcess>,
        vfs: u8,
        mac: MacAddress,
    ) -> Result<Self, StandingPfError> {
        let mut interrupts = InterruptSet::new(1)?;
        let stop = Arc::new(EventFd::new()?);
        let stopped = interrupts.watch(stop.as_fd())?;
        let pf = Pf {
            function: Arc::clone(&function),
            vfs,
            mac,
        };
        pf.set_up(&interrupts)?;
        let thread = thread::Builder::new()
            .name("standing-pf".to_owned())
            .spawn(move || pf.run(&interrupts, stopped))
            .map_err(StandingPfError::Thread)?;
        Ok(Self {
            function,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for StandingPf {
    fn drop(&mut self) {
        self.stop.signal();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Pf {
    function: Arc<InProcess>,
    vfs: u8,
    mac: MacAddress,
}

impl Pf {
    fn read<R: Register>(&self, index: u32) -> Result<Value<R>, FunctionError> {
        let mut data = [0; 4];
        let at = u64::from(R::offset(index));
        self.function.read(region::BAR0, at, &mut data)?;
        Ok(Value::from_raw(u32::from_le_bytes(data)))
    }

    fn write<R: Register>(&self, index: u32, value: Value<R>) -> Result<(), FunctionError> {
        let at = u64::from(R::offset(index));
        let data = value.raw().to_le_bytes();
        self.function.write(region::BAR0, at, &data)
    }

    fn write_config(&self, at: u16, value: u16) -> Result<(), FunctionError> {
        let data = value.to_le_bytes();
        self.function.write(region::CONFIG, at.into(), &data)
    }

    fn set_up(&self, interrupts: &InterruptSet) -> Result<(), FunctionError> {
        self.write_config(header::COMMAND, command::MEMORY | command::BUS_MASTER)?;
        self.function
            .set_eventfds(irq::MSIX, VECTOR, &interrupts.eventfds())?;
        self.write_config(offset::MSIX + msix::CONTROL, msix::ENABLE)?;
        self.function.sriov_configure(self.vfs.into())?;
        self.write(0, Value::<CTRL>::RESET.set(CTRL::SLU))?;
        let gpie = Value::<GPIE>::default()
            .set(GPIE::MULTIPLE_MSIX)
            .set(GPIE::NSICR)
            .set(GPIE::EIAME)
            .set(GPIE::PBA_SUPPORT);
        self.write(0, gpie)?;
        let mrqc = Value::<MRQC>::default().with(MRQC::MULTIPLE_RECEIVE_QUEUES, VMDQ);
        self.write(0, mrqc)?;
        // The PF's own pool is the one after the VFs'.
        let vt_ctl = Value::<VT_CTL>::default()
            .with(VT_CTL::DEF_PL, self.vfs.into())
            .set(VT_CTL::REPL_EN);
        self.write(0, vt_ctl)?;
        let dtxswc = Value::<DTXSWC>::default().set(DTXSWC::LOOPBACK_EN);
        self.write(0, dtxswc)?;
        for n in 0..self.vfs {
            let vmolr = Value::<VMOLR>::RESET.set(VMOLR::BAM).set(VMOLR::AUPE);
            self.write(n.into(), vmolr)?;
            self.filter(n, vf_mac(self.mac, n))?;
        }
        self.admit_all()?;
        self.write(0, Value::<TCTL>::RESET.set(TCTL::EN))?;
        let rctl = Value::<RCTL>::default().set(RCTL::RXEN).set(RCTL::BAM);
        self.write(0, rctl)?;
        let misc = Value::<IVAR_MISC>::default()
            .with(IVAR_MISC::OTHER, VECTOR)
            .set(IVAR_MISC::OTHER_VALID);
        self.write(0, misc)?;
        self.write(0, Value::<EIAC>::from_raw(1 << VECTOR))?;
        self.write(0, Value::<EIMS>::from_raw(1 << VECTOR))?;
        let all = (1 << self.vfs) - 1;
        self.write(0, Value::<MBVFIMR>::default().with(MBVFIMR::VFIM, all))?;
        self.write(0, Value::<IMS>::from_raw(ICR::VMMB.mask()))?;
        // VFs see the end of the PF's reset.
        self.write(0, Value::<CTRL_EXT>::RESET.set(CTRL_EXT::PFRSTD))
    }

    /// VF `n` receives what is for `mac`.
    fn filter(&self, n: u8, mac: MacAddress) -> Result<(), FunctionError> {
        let (low, high) = mac.to_words();
        let entry = u32::from(n) + 1;
        self.write(entry, Value::<RAL>::from_raw(low))?;
        let rah = Value::<RAH>::from_raw(high.into())
            .with(RAH::POOLSEL, 1 << n)
            .set(RAH::AV);
        self.write(entry, rah)
    }

    /// All VFs receive and send; a reset takes that from a VF.
    fn admit_all(&self) -> Result<(), FunctionError> {
        let all = (1_u32 << self.vfs) - 1;
        self.write(0, Value::<VFRE>::from_raw(all))?;
        self.write(0, Value::<VFTE>::from_raw(all))
    }

    fn run(&self, interrupts: &InterruptSet, stopped: Watch) {
        loop {
            match interrupts.wait(None) {
                Ok(ready) if ready.is_readable(stopped) => return,
                Ok(_) => {}
                Err(error) => return log::error!("the PF of the VFs: {error}"),
            }
            // It fails once the PF was taken away.
            if let Err(error) = self.serve() {
                return log::warn!("the PF of the VFs looks after them no more: {error}");
            }
        }
    }

    fn serve(&self) -> Result<(), FunctionError> {
        // ICR clears by this read (GPIE.NSICR): what comes after it interrupts again.
        self.read::<ICR>(0)?;
        let asked = self.read::<MBVFICR>(0)?;
        self.write(0, asked)?;
        let reset = self.read::<VFLRE>(0)?;
        if reset.raw() != 0 {
            self.write(0, reset)?;
            self.admit_all()?;
        }
        for vf in 0..self.vfs {
            if asked.get(MBVFICR::VFREQ) & 1 << vf != 0 {
                self.answer(vf)?;
            }
        }
        Ok(())
    }

    fn answer(&self, vf: u8) -> Result<(), FunctionError> {
        let own = Value::<P2VMAILBOX>::default().set(P2VMAILBOX::PFU);
        self.write(vf.into(), own)?;
        if !self.read::<P2VMAILBOX>(vf.into())?.has(P2VMAILBOX::PFU) {
            log::warn!("vf{vf} holds its mailbox after it has asked; it gets no answer");
            return Ok(());
        }
        let word = |n: usize| u32::from(vf) * WORDS as u32 + n as u32;
        let mut words: Words = [0; WORDS];
        for (n, to) in words.iter_mut().enumerate() {
            *to = self.read::<VMBMEM>(word(n))?.raw();
        }
        self.write(vf.into(), own.set(P2VMAILBOX::ACK))?;
        let reply = self.judge(vf, &words)?;
        for (n, value) in reply.encode().into_iter().enumerate() {
            self.write(word(n), Value::<VMBMEM>::from_raw(value))?;
        }
        let ring = Value::<P2VMAILBOX>::default().set(P2VMAILBOX::STS);
        self.write(vf.into(), ring)
    }

    fn judge(&self, vf: u8, words: &Words) -> Result<PfReply, FunctionError> {
        let (request, cts) = (words[0], true);
        let index = u32::from(vf);
        match VfMessage::parse(words) {
            Ok(VfMessage::Reset) => {
                self.filter(vf, vf_mac(self.mac, vf))?;
                return Ok(PfReply::ResetAck(vf_mac(self.mac, vf)));
            }
            Ok(VfMessage::SetMac(mac)) if mac.is_valid_unicast() => self.filter(vf, mac)?,
            Ok(VfMessage::SetMulticast(_)) => {
                // More than it asked for does no harm here.
                let vmolr = self.read::<VMOLR>(index)?;
                self.write(index, vmolr.set(VMOLR::MPME))?;
            }
            Ok(VfMessage::SetLpe(length)) if length <= VMOLR::RLPML.mask() => {
                let vmolr = self.read::<VMOLR>(index)?.with(VMOLR::RLPML, length);
                self.write(index, vmolr.set(VMOLR::LPE))?;
            }
            _ => return Ok(PfReply::Nack { request, cts }),
        }
        Ok(PfReply::Ack { request, cts })
    }
}
