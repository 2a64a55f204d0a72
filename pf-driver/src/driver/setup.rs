//! The registers of the whole card: its reset, its NVM, its port, and what its second vector tells of.

use igb::frame::MacAddress;
use igb::{
    CTRL, DTXCTL, EECD, EERD, GPIE, ICR, IMC, IMS, MBVFIMR, MDIC, MRQC, RCTL, RLPML, STATUS, TCTL,
    Value, nvm, phy,
};
use igb_driver::Registers;
use igb_driver::queue::packet_length;

use crate::error::PfError;
use crate::policy::MAX_MTU;

/// How often a register is read before the card counts as hung; each read of hardware takes about a
/// microsecond.
const POLLS: u32 = 100_000;

/// Reads until `done`, for a bounded time.
fn await_card(what: &'static str, done: impl Fn() -> Result<bool, PfError>) -> Result<(), PfError> {
    for _ in 0..POLLS {
        if done()? {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(PfError::Timeout { what })
}

/// Software reset (datasheet 4.2.1.6.1, 4.5.3): interrupts masked, DMA ended, CTRL.RST, and the NVM
/// read again by the card.
pub(super) fn reset(regs: &Registers) -> Result<(), PfError> {
    mask_interrupts(regs)?;
    regs.update::<CTRL>(0, |ctrl| ctrl.set(CTRL::GIO_MASTER_DISABLE))?;
    await_card("CTRL.GIO_MASTER_DISABLE", || {
        Ok(!regs.read::<STATUS>()?.has(STATUS::GIO_MASTER_EN))
    })?;
    regs.update::<CTRL>(0, |ctrl| ctrl.set(CTRL::RST))?;
    await_card("CTRL.RST", || Ok(!regs.read::<CTRL>()?.has(CTRL::RST)))?;
    // One that never says it has read its NVM can be driven all the same: what is needed of the NVM is
    // read word by word, and its checksum tells.
    match await_card("EECD.AUTO_RD", || {
        Ok(regs.read::<EECD>()?.has(EECD::AUTO_RD))
    }) {
        Ok(()) | Err(PfError::Timeout { .. }) => {}
        Err(error) => return Err(error),
    }
    regs.update::<CTRL>(0, |ctrl| ctrl.clear(CTRL::GIO_MASTER_DISABLE))?;
    mask_interrupts(regs)
}

fn mask_interrupts(regs: &Registers) -> Result<(), PfError> {
    regs.write(Value::<IMC>::from_raw(u32::MAX))?;
    regs.write(Value::<igb::EIMC>::from_raw(u32::MAX).clear(igb::EIMC::OTHER))?;
    regs.read::<ICR>()?;
    Ok(())
}

/// The address in the NVM, which must sum up (datasheet 4.4.1 EERD, 6.2).
pub(super) fn read_mac(regs: &Registers) -> Result<MacAddress, PfError> {
    let mut words = [0_u16; nvm::CHECKED_WORDS];
    for (address, word) in (0..).zip(&mut words) {
        let start = Value::<EERD>::from_raw(0)
            .with(EERD::ADDR, address)
            .set(EERD::START);
        regs.write(start)?;
        await_card("EERD.DONE", || Ok(regs.read::<EERD>()?.has(EERD::DONE)))?;
        *word = regs.read::<EERD>()?.get(EERD::DATA) as u16;
    }
    let found = words
        .iter()
        .fold(0_u16, |sum, word| sum.wrapping_add(*word));
    if found != nvm::CHECKSUM {
        return Err(PfError::NvmChecksum { found });
    }
    let mut bytes = [0; 6];
    for (pair, word) in bytes.chunks_exact_mut(2).zip(&words[nvm::MAC_ADDRESS..]) {
        pair.copy_from_slice(&word.to_le_bytes());
    }
    let mac = MacAddress(bytes);
    if !mac.is_valid_unicast() {
        return Err(PfError::NvmMac(mac));
    }
    Ok(mac)
}

/// The port: VMDq by address and VLAN (datasheet 7.10.3.2), long packets, receive and transmit on
/// (4.5.9, 4.5.10), link up (4.5.7).
pub(super) fn init_port(regs: &Registers) -> Result<(), PfError> {
    /// MRQC: pools by filters, one queue each.
    const VMDQ: u32 = 3;
    regs.write(Value::<MRQC>::from_raw(0).with(MRQC::MULTIPLE_RECEIVE_QUEUES, VMDQ))?;
    // The pools have limits of their own; this one is for the port.
    regs.write(Value::<RLPML>::from_raw(0).with(RLPML::RLPML, packet_length(MAX_MTU)))?;
    let rctl = Value::<RCTL>::from_raw(0)
        .set(RCTL::RXEN)
        .set(RCTL::LPE)
        .set(RCTL::MPE)
        .set(RCTL::BAM)
        .set(RCTL::VFE)
        .set(RCTL::SECRC)
        .with(RCTL::MO, crate::MULTICAST_OFFSET);
    regs.write(rctl)?;
    regs.update::<TCTL>(0, |tctl| tctl.set(TCTL::EN).set(TCTL::PSP).set(TCTL::RTLC))?;
    // Frames dropped as spoofed are worth an interrupt, that WVBR be read.
    regs.update::<DTXCTL>(0, |dtxctl| dtxctl.set(DTXCTL::SPOOF_INT))?;
    regs.update::<CTRL>(0, |ctrl| ctrl.set(CTRL::SLU).clear(CTRL::LRST))?;
    if !regs.read::<STATUS>()?.has(STATUS::LU) {
        negotiate(regs)?;
    }
    Ok(())
}

/// One access to a register of the internal PHY (datasheet 8.2.4 MDIC); `None` if the PHY does not
/// answer.
fn mdic(regs: &Registers, register: u8, op: u32, data: u16) -> Result<Option<u16>, PfError> {
    let request = Value::<MDIC>::from_raw(0)
        .with(MDIC::DATA, data.into())
        .with(MDIC::REGADD, register.into())
        .with(MDIC::PHYADD, phy::ADDRESS)
        .with(MDIC::OP, op);
    regs.write(request)?;
    await_card("MDIC.READY", || Ok(regs.read::<MDIC>()?.has(MDIC::READY)))?;
    let answer = regs.read::<MDIC>()?;
    Ok((!answer.has(MDIC::ERROR)).then(|| answer.get(MDIC::DATA) as u16))
}

/// Has the PHY look for its partner (datasheet 3.5.7): one that lost its power may have been left
/// without.
fn negotiate(regs: &Registers) -> Result<(), PfError> {
    use phy::control::{AUTONEG_ENABLE, ISOLATE, LOOPBACK, POWER_DOWN, RESTART_AUTONEG};
    let Some(now) = mdic(regs, phy::PCTRL, phy::OP_READ, 0)? else {
        log::warn!("the PHY does not answer: the link is left as it is");
        return Ok(());
    };
    let wanted = now & !(POWER_DOWN | ISOLATE | LOOPBACK) | AUTONEG_ENABLE | RESTART_AUTONEG;
    mdic(regs, phy::PCTRL, phy::OP_WRITE, wanted).map(drop)
}

/// MSI-X with several vectors (datasheet 7.3.2.11, 8.8.8), and the causes of the second one.
pub(super) fn init_interrupts(regs: &Registers) -> Result<(), PfError> {
    let gpie = Value::<GPIE>::from_raw(0)
        .set(GPIE::NSICR)
        .set(GPIE::MULTIPLE_MSIX)
        .set(GPIE::EIAME)
        .set(GPIE::PBA_SUPPORT);
    regs.write(gpie)?;
    let vfs = Value::<MBVFIMR>::from_raw(0).with(MBVFIMR::VFIM, u32::MAX);
    regs.write(vfs)?;
    // What an earlier driver left unread would keep the same cause from firing again.
    regs.read::<ICR>()?;
    let causes = Value::<IMS>::from_raw(0)
        .set(IMS::LSC)
        .set(IMS::VMMB)
        .set(IMS::DOUTSYNC);
    Ok(regs.write(causes)?)
}
