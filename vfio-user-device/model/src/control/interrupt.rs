//! Interrupt causes, masks, throttling and messages (datasheet 7.3).
//!
//! The 25 causes of EICR belong to the functions: VF n has bits 22 - 3n to 24 - 3n while it is
//! enabled, the PF those of its ten vectors that no VF has. A message goes out on the rising edge of
//! cause and mask, or when EITR's interval since the last one has passed.

use igb::function::{CAUSE_COUNT, FUNCTION_COUNT, PF_VECTORS, vf_eicr_mask, vf_eitr, vf_of_cause};
use igb::{EICR, EITR, FunctionId, GPIE, IAM, ICR, IVAR, IVAR_MISC, VTIVAR, VTIVAR_MISC, Value};

use super::bank::Bank;
use crate::events::Ring;
use crate::host::{ControlHost, Signal};

/// Which kind of interrupt the PF's configuration space selects where GPIE asks for a single one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum SingleMode {
    /// INTx, unless Command disables it.
    #[default]
    Intx,
    /// MSI.
    Msi,
    /// MSI-X vector 0.
    Msix,
    /// Nothing can be signalled.
    Off,
}

/// State of all interrupts of the card.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Interrupts {
    now: u64,
    /// VFs that own causes.
    vfs: u8,
    single: SingleMode,
    eicr: u32,
    eims: u32,
    eiac: u32,
    eiam: u32,
    icr: u32,
    ims: u32,
    /// Causes that were both set and unmasked when last looked at.
    asserted: u32,
    /// Of them, those whose message waits for EITR.
    deferred: u32,
    /// ICR causes that were set and unmasked when last looked at (single-interrupt modes).
    line: u32,
    line_deferred: bool,
    intx: bool,
    /// Earliest time of the next message of each cause.
    next_allowed: [u64; CAUSE_COUNT as usize],
    /// PBA bits of each function.
    pending: [u32; FUNCTION_COUNT],
}

const ALL_CAUSES: u32 = (1 << CAUSE_COUNT) - 1;
const MICROSECOND: u64 = 1_000;

impl Interrupts {
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            vfs: 0,
            single: SingleMode::default(),
            eicr: 0,
            eims: 0,
            eiac: 0,
            eiam: 0,
            icr: 0,
            ims: 0,
            asserted: 0,
            deferred: 0,
            line: 0,
            line_deferred: false,
            intx: false,
            next_allowed: [0; CAUSE_COUNT as usize],
            pending: [0; FUNCTION_COUNT],
        }
    }

    /// The causes that belong to a function now.
    pub(crate) fn causes_of(&self, function: FunctionId) -> u32 {
        match function.vf_index() {
            Some(vf) if vf < self.vfs => vf_eicr_mask(vf),
            Some(_) => 0,
            None => (0..self.vfs).fold(ALL_CAUSES, |causes, vf| causes & !vf_eicr_mask(vf)),
        }
    }

    /// The function and its vector behind a cause.
    fn owner(&self, cause: u32) -> Option<(FunctionId, u16)> {
        match vf_of_cause(cause) {
            Some((vf, vector)) if vf < self.vfs => Some((FunctionId::vf(vf), vector as u16)),
            _ if cause < PF_VECTORS => Some((FunctionId::PF, cause as u16)),
            _ => None,
        }
    }

    /// Causes change hands: `vfs` VFs are enabled now. State of causes that VFs had or get is lost.
    pub(crate) fn set_vfs(&mut self, vfs: u8) {
        let affected = (0..self.vfs.max(vfs)).fold(0, |bits, vf| bits | vf_eicr_mask(vf));
        self.forget(affected);
        self.vfs = vfs;
    }

    fn forget(&mut self, causes: u32) {
        self.eicr &= !causes;
        self.eims &= !causes;
        self.eiac &= !causes;
        self.eiam &= !causes;
        self.asserted &= !causes;
        self.deferred &= !causes;
        for cause in bits(causes) {
            self.next_allowed[cause as usize] = 0;
        }
    }

    /// Reset a function's interrupts; its EITR, IVAR and the like are the caller's.
    pub(crate) fn reset(&mut self, function: FunctionId, host: &mut dyn ControlHost) {
        self.forget(self.causes_of(function));
        self.pending[function.slot()] = 0;
        if !function.is_vf() {
            self.icr = 0;
            self.ims = 0;
            self.line = 0;
            self.line_deferred = false;
            self.lower_intx(host);
        }
    }

    /// The PF's configuration space selects another kind of single interrupt.
    pub(crate) fn set_single_mode(&mut self, mode: SingleMode, host: &mut dyn ControlHost) {
        if self.single != mode {
            self.lower_intx(host);
            self.single = mode;
            if mode == SingleMode::Intx && self.line != 0 {
                self.signal_line(host);
            }
        }
    }

    fn lower_intx(&mut self, host: &mut dyn ControlHost) {
        if std::mem::take(&mut self.intx) {
            host.interrupt(FunctionId::PF, Signal::Intx { asserted: false });
        }
    }

    pub(crate) fn intx_asserted(&self, function: FunctionId) -> bool {
        self.intx && !function.is_vf()
    }

    /// Status.Interrupt: a function that would assert INTx says so even where Command disables the
    /// line, by which drivers that share it know their own (PCI 3.0, 6.2.3).
    pub(crate) fn intx_status(&self, function: FunctionId) -> bool {
        !function.is_vf()
            && self.line != 0
            && !self.line_deferred
            && matches!(self.single, SingleMode::Intx | SingleMode::Off)
    }

    pub(crate) fn pending(&self, function: FunctionId) -> u32 {
        self.pending[function.slot()]
    }

    pub(crate) fn clear_pending(&mut self, function: FunctionId, vectors: u32) {
        self.pending[function.slot()] &= !vectors;
    }

    pub(crate) fn retry_pending(&mut self, function: FunctionId, host: &mut dyn ControlHost) {
        for vector in bits(self.pending[function.slot()]) {
            if host.interrupt(function, Signal::Msix(vector as u16)) {
                self.pending[function.slot()] &= !(1 << vector);
            }
        }
    }

    pub(crate) fn signal_late(
        &mut self,
        function: FunctionId,
        signal: Signal,
        host: &mut dyn ControlHost,
    ) {
        if let Signal::Intx { .. } = signal
            && !self.intx
        {
            return;
        }
        let taken = host.interrupt(function, signal);
        if let Signal::Msix(vector) = signal
            && !taken
        {
            self.pending[function.slot()] |= 1 << vector;
        }
    }

    // Time.

    pub(crate) fn advance(&mut self, now: u64, bank: &Bank, host: &mut dyn ControlHost) {
        self.now = self.now.max(now);
        for cause in bits(self.deferred) {
            if self.next_allowed[cause as usize] <= self.now {
                self.fire(cause, bank, host);
            }
        }
        if self.line_deferred && self.next_allowed[0] <= self.now {
            self.line_deferred = false;
            if self.line != 0 {
                self.signal_line(host);
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let line = self.line_deferred.then_some(self.next_allowed[0]);
        bits(self.deferred)
            .map(|cause| self.next_allowed[cause as usize])
            .chain(line)
            .min()
    }

    /// EITR of a cause was written: a shorter interval counts at once.
    pub(crate) fn throttle_changed(&mut self, cause: u32, bank: &Bank, host: &mut dyn ControlHost) {
        if let Some(next) = self.next_allowed.get_mut(cause as usize) {
            *next = (*next).min(self.now.saturating_add(interval(bank, cause)));
        }
        self.advance(self.now, bank, host);
    }

    // Causes.

    /// Causes of EICR occur.
    pub(crate) fn raise(&mut self, causes: u32, bank: &Bank, host: &mut dyn ControlHost) {
        self.eicr |= causes & ALL_CAUSES;
        self.evaluate(bank, host);
    }

    /// A queue of `function` has something for it. `queue` is the card's number.
    pub(crate) fn raise_queue(
        &mut self,
        function: FunctionId,
        ring: Ring,
        queue: u32,
        bank: &Bank,
        host: &mut dyn ControlHost,
    ) {
        let high = queue >= igb::function::POOL_COUNT;
        let Some(vf) = function.vf_index() else {
            if !multiple(bank) {
                let cause = if ring == Ring::Rx {
                    ICR::RXDW
                } else {
                    ICR::TXDW
                };
                return self.raise_other(cause.mask(), bank, host);
            }
            let ivar = bank.get_at::<IVAR>(queue % igb::function::POOL_COUNT);
            let (vector, valid) = match (ring, high) {
                (Ring::Rx, false) => (IVAR::RXQ_LOW, IVAR::RXQ_LOW_VALID),
                (Ring::Tx, false) => (IVAR::TXQ_LOW, IVAR::TXQ_LOW_VALID),
                (Ring::Rx, true) => (IVAR::RXQ_HIGH, IVAR::RXQ_HIGH_VALID),
                (Ring::Tx, true) => (IVAR::TXQ_HIGH, IVAR::TXQ_HIGH_VALID),
            };
            if ivar.has(valid) {
                let causes = 1 << ivar.get(vector) & self.causes_of(function);
                self.raise(causes, bank, host);
            }
            return;
        };
        let ivar = bank.get_at::<VTIVAR>(u32::from(vf));
        let (vector, valid) = match (ring, high) {
            (Ring::Rx, false) => (VTIVAR::RXQ0, VTIVAR::RXQ0_VALID),
            (Ring::Tx, false) => (VTIVAR::TXQ0, VTIVAR::TXQ0_VALID),
            (Ring::Rx, true) => (VTIVAR::RXQ1, VTIVAR::RXQ1_VALID),
            (Ring::Tx, true) => (VTIVAR::TXQ1, VTIVAR::TXQ1_VALID),
        };
        if ivar.has(valid) {
            self.raise_vf(vf, ivar.get(vector), bank, host);
        }
    }

    /// The PF did something to a VF's mailbox.
    pub(crate) fn raise_mailbox(&mut self, vf: u8, bank: &Bank, host: &mut dyn ControlHost) {
        let ivar = bank.get_at::<VTIVAR_MISC>(u32::from(vf));
        if ivar.has(VTIVAR_MISC::MAILBOX_VALID) {
            self.raise_vf(vf, ivar.get(VTIVAR_MISC::MAILBOX), bank, host);
        }
    }

    fn raise_vf(&mut self, vf: u8, vector: u32, bank: &Bank, host: &mut dyn ControlHost) {
        // The two bits of the field can name a fourth vector, which a VF does not have.
        if vf < self.vfs && vector < igb::function::VF_VECTORS {
            self.raise(1 << vf_eitr(vf, vector), bank, host);
        }
    }

    /// Causes of ICR occur.
    pub(crate) fn raise_other(&mut self, causes: u32, bank: &Bank, host: &mut dyn ControlHost) {
        self.icr |= causes & !ICR::INTA.mask();
        if multiple(bank) {
            // Every event counts, not only the first since ICR was read: a driver that handles
            // a cause by its own register (MBVFICR) need not read ICR.
            if causes & self.ims != 0 {
                self.raise_misc(bank, host);
            }
        } else {
            self.evaluate_line(bank, host);
        }
    }

    fn raise_misc(&mut self, bank: &Bank, host: &mut dyn ControlHost) {
        let ivar = bank.get::<IVAR_MISC>();
        if ivar.has(IVAR_MISC::OTHER_VALID) {
            let causes = 1 << ivar.get(IVAR_MISC::OTHER) & self.causes_of(FunctionId::PF);
            self.raise(causes, bank, host);
        }
    }

    fn evaluate(&mut self, bank: &Bank, host: &mut dyn ControlHost) {
        let now_asserted = self.eicr & self.eims & ALL_CAUSES;
        let rising = now_asserted & !self.asserted;
        self.asserted = now_asserted;
        self.deferred &= now_asserted;
        for cause in bits(rising) {
            if self.next_allowed[cause as usize] <= self.now {
                self.fire(cause, bank, host);
            } else {
                self.deferred |= 1 << cause;
            }
        }
    }

    fn fire(&mut self, cause: u32, bank: &Bank, host: &mut dyn ControlHost) {
        let bit = 1 << cause;
        self.deferred &= !bit;
        let Some((function, vector)) = self.owner(cause) else {
            return;
        };
        if function == FunctionId::PF && !multiple(bank) {
            return;
        }
        self.throttle(cause, bank);
        if self.eiac & bit != 0 {
            self.eicr &= !bit;
        }
        if bank.get::<GPIE>().has(GPIE::EIAME) && self.eiam & bit != 0 {
            self.eims &= !bit;
        }
        self.asserted &= self.eicr & self.eims;
        if !host.interrupt(function, Signal::Msix(vector)) {
            self.pending[function.slot()] |= 1 << vector;
        }
    }

    fn throttle(&mut self, cause: u32, bank: &Bank) {
        self.next_allowed[cause as usize] = match interval(bank, cause) {
            0 => 0,
            interval => self.now.saturating_add(interval),
        };
    }

    /// GPIE or what the line depends on has changed.
    pub(crate) fn evaluate_line(&mut self, bank: &Bank, host: &mut dyn ControlHost) {
        if multiple(bank) {
            self.line = 0;
            self.line_deferred = false;
            return self.lower_intx(host);
        }
        let line = self.icr & self.ims & !ICR::INTA.mask();
        let rising = line & !self.line;
        self.line = line;
        if line == 0 {
            self.line_deferred = false;
            self.lower_intx(host);
        } else if rising != 0 {
            if self.next_allowed[0] <= self.now {
                self.throttle(0, bank);
                self.signal_line(host);
            } else {
                self.line_deferred = true;
            }
        }
    }

    fn signal_line(&mut self, host: &mut dyn ControlHost) {
        match self.single {
            SingleMode::Intx => {
                if !self.intx {
                    self.intx = true;
                    host.interrupt(FunctionId::PF, Signal::Intx { asserted: true });
                }
            }
            SingleMode::Msi => {
                host.interrupt(FunctionId::PF, Signal::Msi);
            }
            SingleMode::Msix => {
                if !host.interrupt(FunctionId::PF, Signal::Msix(0)) {
                    self.pending[FunctionId::PF.slot()] |= 1;
                }
            }
            SingleMode::Off => {}
        }
    }

    // Registers.

    /// EICR as `function` reads it; the read clears it.
    pub(crate) fn read_eicr(&mut self, function: FunctionId, bank: &Bank) -> u32 {
        let mine = self.causes_of(function);
        let mut value = self.eicr & mine;
        self.eicr &= !mine;
        if function == FunctionId::PF && !multiple(bank) && self.line != 0 {
            value |= EICR::OTHER.mask();
        }
        self.settle();
        value
    }

    pub(crate) fn eicr(&self, function: FunctionId) -> u32 {
        self.eicr & self.causes_of(function)
    }

    pub(crate) fn clear_eicr(&mut self, function: FunctionId, causes: u32) {
        self.eicr &= !(causes & self.causes_of(function));
        self.settle();
    }

    /// Causes or masks have only gone away.
    fn settle(&mut self) {
        self.asserted &= self.eicr & self.eims;
        self.deferred &= self.asserted;
    }

    /// EICS.
    pub(crate) fn set_eicr(
        &mut self,
        function: FunctionId,
        causes: u32,
        bank: &Bank,
        host: &mut dyn ControlHost,
    ) {
        let causes = causes & self.causes_of(function);
        self.raise(causes, bank, host);
    }

    pub(crate) fn eims(&self, function: FunctionId) -> u32 {
        self.eims & self.causes_of(function)
    }

    pub(crate) fn set_eims(
        &mut self,
        function: FunctionId,
        causes: u32,
        bank: &Bank,
        host: &mut dyn ControlHost,
    ) {
        self.eims |= causes & self.causes_of(function);
        self.evaluate(bank, host);
    }

    pub(crate) fn clear_eims(&mut self, function: FunctionId, causes: u32) {
        self.eims &= !(causes & self.causes_of(function));
        self.settle();
    }

    pub(crate) fn eiac(&self, function: FunctionId) -> u32 {
        self.eiac & self.causes_of(function)
    }

    pub(crate) fn write_eiac(&mut self, function: FunctionId, causes: u32) {
        let mine = self.causes_of(function);
        self.eiac = self.eiac & !mine | causes & mine;
    }

    pub(crate) fn eiam(&self, function: FunctionId) -> u32 {
        self.eiam & self.causes_of(function)
    }

    pub(crate) fn write_eiam(&mut self, function: FunctionId, causes: u32) {
        let mine = self.causes_of(function);
        self.eiam = self.eiam & !mine | causes & mine;
    }

    /// ICR: a read clears it if GPIE.NSICR, if an interrupt is asserted, or if nothing is unmasked
    /// (datasheet 8.8.6).
    pub(crate) fn read_icr(&mut self, bank: &Bank, host: &mut dyn ControlHost) -> u32 {
        let mut value = self.icr;
        if self.icr & self.ims != 0 {
            value |= ICR::INTA.mask();
        }
        let asserted = value & ICR::INTA.mask() != 0;
        if bank.get::<GPIE>().has(GPIE::NSICR) || asserted || self.ims == 0 {
            self.icr = 0;
        }
        self.acknowledge(asserted, bank, host);
        value
    }

    /// ICR without the effects of a read.
    pub(crate) fn icr(&self) -> u32 {
        self.icr
    }

    pub(crate) fn clear_icr(&mut self, causes: u32, bank: &Bank, host: &mut dyn ControlHost) {
        let asserted = self.icr & self.ims != 0;
        self.icr &= !causes;
        self.acknowledge(asserted, bank, host);
    }

    /// Software has looked at an interrupt: what IAM names is masked (8.8.10).
    fn acknowledge(&mut self, asserted: bool, bank: &Bank, host: &mut dyn ControlHost) {
        if asserted {
            self.ims &= !bank.get::<IAM>().raw();
        }
        self.evaluate_line(bank, host);
    }

    pub(crate) fn ims(&self) -> u32 {
        self.ims
    }

    pub(crate) fn set_ims(&mut self, causes: u32, bank: &Bank, host: &mut dyn ControlHost) {
        let new = causes & !self.ims;
        self.ims |= causes & !ICR::INTA.mask();
        if !multiple(bank) {
            self.evaluate_line(bank, host);
        } else if self.icr & new & self.ims != 0 {
            self.raise_misc(bank, host);
        }
    }

    pub(crate) fn clear_ims(&mut self, causes: u32, bank: &Bank, host: &mut dyn ControlHost) {
        self.ims &= !causes;
        self.evaluate_line(bank, host);
    }

    /// The bits of one function's interrupt state, for a digest.
    pub(crate) fn state_of(&self, function: FunctionId) -> [u32; 7] {
        let mine = self.causes_of(function);
        [
            self.eicr & mine,
            self.eims & mine,
            self.eiac & mine,
            self.eiam & mine,
            self.asserted & mine,
            self.deferred & mine,
            self.pending[function.slot()],
        ]
    }
}

/// Several MSI-X vectors of the PF are in use (GPIE.Multiple_MSIX).
fn multiple(bank: &Bank) -> bool {
    bank.get::<GPIE>().has(GPIE::MULTIPLE_MSIX)
}

fn interval(bank: &Bank, cause: u32) -> u64 {
    u64::from(bank.get_at::<EITR>(cause).get(EITR::INTERVAL)) * MICROSECOND
}

/// The numbers of the bits that are set, lowest first.
fn bits(mut word: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

/// Reset the registers behind a VF's vectors.
pub(crate) fn reset_vf_vectors(vf: u8, bank: &mut Bank) {
    for vector in 0..igb::function::VF_VECTORS {
        bank.set_at::<EITR>(vf_eitr(vf, vector), Value::RESET);
    }
    bank.set_at::<VTIVAR>(u32::from(vf), Value::RESET);
    bank.set_at::<VTIVAR_MISC>(u32::from(vf), Value::RESET);
}
