//! A card that answers as QEMU's igb does: the gaps are told, and what needs them is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use igb::{EECD, EIAM, FunctionId, MDIC, RTTBCNRM, Register, STATUS, Value, phy};
use igb_driver::netdev::NetDevice;
use iommu::backend::InProcess;
use iommu::function::{Function, FunctionError, Interposer, WriteKind, region};
use pf_driver::gaps::Emulation;
use pf_driver::{PfDriver, PfError, PfOptions};
use vfio_user_device::{Card, CardOptions};

/// EIAM reads as its complement, RTTBCNRM as 0, EECD.AUTO_RD never comes, there is no link until the PHY
/// is told to negotiate, and what owns the SR-IOV capability takes no writes to it.
struct Qemu {
    card: InProcess,
    negotiated: AtomicBool,
}

/// Where extended capabilities begin.
const EXTENDED: u64 = 0x100;

const AUTO_RD: u32 = EECD::AUTO_RD.mask();

impl Interposer for Qemu {
    fn inner(&self) -> &dyn Function {
        &self.card
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        self.card.read(region, offset, data)?;
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else {
            return Ok(());
        };
        let value = u32::from_le_bytes(*word);
        let answer = match u32::try_from(offset) {
            _ if region != region::BAR0 => value,
            Ok(EIAM::OFFSET) => !value,
            Ok(RTTBCNRM::OFFSET) => 0,
            Ok(EECD::OFFSET) => value & !AUTO_RD,
            Ok(STATUS::OFFSET) if !self.negotiated.load(Ordering::Relaxed) => {
                value & !STATUS::LU.mask()
            }
            _ => value,
        };
        *word = answer.to_le_bytes();
        Ok(())
    }

    fn write(
        &self,
        kind: WriteKind,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FunctionError> {
        if region == region::CONFIG && offset >= EXTENDED {
            return Ok(());
        }
        if let (region::BAR0, Ok(bytes)) = (region, data.try_into())
            && offset == u64::from(MDIC::OFFSET)
        {
            let request = Value::<MDIC>::from_raw(u32::from_le_bytes(bytes));
            let restart = request.get(MDIC::OP) == phy::OP_WRITE
                && request.get(MDIC::REGADD) == u32::from(phy::PCTRL)
                && request.get(MDIC::DATA) & u32::from(phy::control::RESTART_AUTONEG) != 0;
            self.negotiated.fetch_or(restart, Ordering::Relaxed);
        }
        kind.pass(&self.card, region, offset, data)
    }
}

#[test]
fn gaps_are_reported_and_what_needs_them_is_refused() {
    let card = Card::new(CardOptions::default()).unwrap();
    let function = Arc::new(Qemu {
        card: InProcess::new(card.function(FunctionId::PF)).unwrap(),
        negotiated: AtomicBool::new(false),
    });
    let mut driver = PfDriver::probe(function, PfOptions::default()).unwrap();
    let capabilities = driver.capabilities();
    assert_eq!(capabilities.emulation, Some(Emulation::QemuIgb));
    for gap in ["AUTO_RD", "rate limits", "EIAM", "spoof check", "QDE"] {
        let told = capabilities.missing.iter().any(|what| what.contains(gap));
        assert!(told, "{gap}: {:?}", capabilities.missing);
    }
    assert!(capabilities.vf_operations.contains(&"mac"));
    assert!(!capabilities.vf_operations.contains(&"rate"));
    assert!(!capabilities.vf_operations.contains(&"spoofchk"));
    let bars: Vec<_> = capabilities.vf_bars.iter().map(|bar| bar.size).collect();
    assert_eq!(bars, [0x4000, 0x4000], "though they could not be sized");

    assert!(driver.carrier(), "the PHY was told to negotiate");
    driver.sriov_configure(1).unwrap();
    assert!(matches!(
        driver.set_vf_rate(0, 100),
        Err(PfError::CardLacks("rate limits"))
    ));
    driver.set_vf_rate(0, 0).unwrap();
    assert!(matches!(
        driver.set_vf_spoofchk(0, true),
        Err(PfError::CardLacks("spoof check"))
    ));
    driver.set_vf_spoofchk(0, false).unwrap();
    assert!(matches!(
        driver.set_vf_rate(7, 100),
        Err(PfError::NoSuchVf(7))
    ));
    driver.remove();
}
