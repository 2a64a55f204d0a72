//! What a driver expects of an 82576 and a card does not do: found by asking the card, before anything
//! is built on it.

use igb::{EECD, EIAM, RTTBCNRM, Value};
use igb_driver::Registers;
use igb_driver::interrupt::SELF_MASKING;
use iommu::function::FunctionError;
use serde::Serialize;

/// An emulation that is known by what it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Emulation {
    /// QEMU's own `igb` device.
    #[serde(rename = "QEMU igb")]
    QemuIgb,
}

impl Emulation {
    /// What it is known to lack and cannot be asked for: the registers take what is written, and
    /// nothing follows. Only what matters to this driver and its VFs.
    fn silent_gaps(self) -> &'static [&'static str] {
        match self {
            Self::QemuIgb => &[
                SPOOF_CHECK,
                "promiscuous VFs (VMOLR.ROPE, VMOLR.MPME)",
                "drop of frames for a pool that does not keep up (QDE)",
                "exclusion of the sender's own pool (a VF may receive its own broadcasts)",
                "interrupts for a VF's second queue",
                "detection of malicious drivers (MDD, LVMMC)",
                "legacy descriptors",
            ],
        }
    }
}

const SPOOF_CHECK: &str = "spoof check (DTXSWC, WVBR)";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gaps {
    /// What is missing, each as it follows "this card has no".
    pub missing: Vec<String>,
    /// Whose work the card is, if its answers tell.
    pub emulation: Option<Emulation>,
    /// VFs can be kept to a rate.
    pub rate_limits: bool,
    /// Frames of VFs with a source not their own are dropped.
    pub spoof_check: bool,
}

impl Gaps {
    /// Asks the card. Its interrupts must be set up; nothing changes that a running VF could notice.
    ///
    /// # Errors
    ///
    /// The card is gone, or did not answer.
    pub fn find(regs: &Registers) -> Result<Self, FunctionError> {
        let mut missing = Vec::new();
        let mut note = |there: bool, what: &str| {
            if !there {
                missing.push(what.to_owned());
            }
            there
        };
        note(
            regs.read::<EECD>()?.has(EECD::AUTO_RD),
            "sign that its NVM was read after a reset (EECD.AUTO_RD)",
        );
        // The same value as any limit goes with, so no limit changes.
        let memory =
            Value::<RTTBCNRM>::from_raw(0).with(RTTBCNRM::MMW_SIZE, crate::image::MMW_SIZE);
        regs.write(memory)?;
        let rate_limits = note(
            regs.read::<RTTBCNRM>()? == memory,
            "rate limits (RTTDQSEL, RTTBCNRC)",
        );
        let own_masks = note(
            regs.read::<EIAM>()?.get(EIAM::VECTORS) == SELF_MASKING,
            "vectors that mask themselves as they are told (EIAM)",
        );
        // Hardware has all of these; whoever lacks two of them is the one emulation known to.
        let emulation = (!rate_limits && !own_masks).then_some(Emulation::QemuIgb);
        let silent = emulation.map_or(&[][..], Emulation::silent_gaps);
        missing.extend(silent.iter().map(|&gap| gap.to_owned()));
        Ok(Self {
            spoof_check: !silent.contains(&SPOOF_CHECK),
            missing,
            emulation,
            rate_limits,
        })
    }
}
