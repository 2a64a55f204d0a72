//! The VF's side of the hardware's mailbox against a PF that is not ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use igb::frame::MacAddress;
use igb::mailbox::{NACK, PfReply};
use igb::{CTRL_EXT, FunctionId, P2VMAILBOX, Register, V2PMAILBOX, VMBMEM, vf};
use iommu::backend::InProcess;
use iommu::function::{Function, FunctionError, Interposer, WriteKind, region};
use vf_driver::{ChannelKind, VfDriver, VfOptions};
use vfio_user_device::{Card, CardOptions, MailboxMode};

const MAC: MacAddress = MacAddress([0x02, 0x82, 0x57, 0x60, 0, 7]);
/// How often the VF looks after its request until the answer is there.
const LOOKS: u32 = 6;

/// A PF that says something unasked just before the VF takes hold of the mailbox, lets go of the mailbox
/// between reading a request and answering it, and takes its time for that.
struct Talkative {
    vf: InProcess,
    pf: InProcess,
    /// Looks of the VF since its request; 0 before that.
    looks: AtomicU32,
}

impl Talkative {
    fn write_pf(&self, register: u32, word: u32) {
        let word = word.to_le_bytes();
        self.pf.write(region::BAR0, register.into(), &word).unwrap();
    }

    fn say(&self, words: &[u32]) {
        let mailbox = P2VMAILBOX::offset(0);
        self.write_pf(mailbox, P2VMAILBOX::PFU.mask());
        for (n, word) in (0..).zip(words) {
            self.write_pf(VMBMEM::offset(n), *word);
        }
        self.write_pf(mailbox, P2VMAILBOX::STS.mask());
    }
}

impl Interposer for Talkative {
    fn inner(&self) -> &dyn Function {
        &self.vf
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        if (region, offset) == (region::BAR0, vf::V2PMAILBOX::offset(0).into())
            && self.looks.load(Ordering::Relaxed) != 0
            && self.looks.fetch_add(1, Ordering::Relaxed) == LOOKS
        {
            self.say(&PfReply::ResetAck(MAC).encode());
        }
        self.vf.read(region, offset, data)
    }

    fn write(
        &self,
        kind: WriteKind,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FunctionError> {
        let mailbox = (region, offset) == (region::BAR0, vf::V2PMAILBOX::offset(0).into());
        let begins = mailbox && self.looks.load(Ordering::Relaxed) == 0;
        if begins && data == V2PMAILBOX::VFU.mask().to_le_bytes() {
            self.say(&[NACK]);
        }
        kind.pass(&self.vf, region, offset, data)?;
        if begins && data == V2PMAILBOX::REQ.mask().to_le_bytes() {
            let mailbox = P2VMAILBOX::offset(0);
            self.write_pf(mailbox, P2VMAILBOX::PFU.mask());
            self.write_pf(mailbox, P2VMAILBOX::ACK.mask());
            self.looks.store(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn what_the_pf_said_before_a_request_is_not_its_answer() {
    let card = Card::new(CardOptions {
        mailbox: MailboxMode::Open,
        ..CardOptions::default()
    })
    .unwrap();
    let function = |id| InProcess::new(card.function(id)).unwrap();
    let pf = function(FunctionId::PF);
    igb_driver::config::enable(&pf).unwrap();
    pf.sriov_configure(1).unwrap();
    let talkative = Talkative {
        vf: function(FunctionId::vf(0)),
        pf,
        looks: AtomicU32::new(0),
    };
    talkative.write_pf(CTRL_EXT::OFFSET, CTRL_EXT::PFRSTD.mask());
    let options = VfOptions {
        channel: ChannelKind::Mailbox,
        ..VfOptions::default()
    };
    let driver = VfDriver::probe(Arc::new(talkative), &options).unwrap();
    assert_eq!(driver.mac(), MAC);
}
