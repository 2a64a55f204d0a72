//! What the card counts for each VF. Its counters are 32 bits and wrap.

use igb::{PVFGORC, PVFGOTC, PVFGPRC, PVFGPTC, PVFMPRC, Register, WVBR};
use igb_driver::Registers;
use iommu::function::FunctionError;
use mediator_protocol::block::Stats;

use crate::vport::MAX_VFS;

#[derive(Debug, Clone, Copy, Default)]
struct Wrapping {
    last: u32,
    total: u64,
}

impl Wrapping {
    fn update(&mut self, now: u32) {
        self.total += u64::from(now.wrapping_sub(self.last));
        self.last = now;
    }

    fn read<R: Register>(&mut self, regs: &Registers, vf: u8) -> Result<(), FunctionError> {
        self.update(regs.read_at::<R>(vf.into())?.raw());
        Ok(())
    }

    /// As [`Self::read`], but a counter that went back has begun anew, and has not wrapped.
    fn rebase<R: Register>(&mut self, regs: &Registers, vf: u8) -> Result<(), FunctionError> {
        let now = regs.read_at::<R>(vf.into())?.raw();
        if now < self.last {
            self.last = 0;
        }
        self.update(now);
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    rx_packets: Wrapping,
    rx_bytes: Wrapping,
    rx_multicast: Wrapping,
    tx_packets: Wrapping,
    tx_bytes: Wrapping,
    spoofed: u64,
}

/// Counts of every VF.
#[derive(Debug, Default)]
pub(crate) struct VfCounters {
    vfs: [Counts; MAX_VFS as usize],
}

impl VfCounters {
    /// Takes what the card has counted since the last call.
    pub(crate) fn update(&mut self, regs: &Registers, vf: u8) -> Result<(), FunctionError> {
        let Some(counts) = self.vfs.get_mut(usize::from(vf)) else {
            return Ok(());
        };
        counts.rx_packets.read::<PVFGPRC>(regs, vf)?;
        counts.rx_bytes.read::<PVFGORC>(regs, vf)?;
        counts.rx_multicast.read::<PVFMPRC>(regs, vf)?;
        counts.tx_packets.read::<PVFGPTC>(regs, vf)?;
        counts.tx_bytes.read::<PVFGOTC>(regs, vf)
    }

    /// Goes on from what the card's counters say now, whatever they said before: a reset of the VF
    /// may have set them to 0.
    pub(crate) fn rebase(&mut self, regs: &Registers, vf: u8) -> Result<(), FunctionError> {
        let Some(counts) = self.vfs.get_mut(usize::from(vf)) else {
            return Ok(());
        };
        counts.rx_packets.rebase::<PVFGPRC>(regs, vf)?;
        counts.rx_bytes.rebase::<PVFGORC>(regs, vf)?;
        counts.rx_multicast.rebase::<PVFMPRC>(regs, vf)?;
        counts.tx_packets.rebase::<PVFGPTC>(regs, vf)?;
        counts.tx_bytes.rebase::<PVFGOTC>(regs, vf)
    }

    /// Begins at 0 for a VF that is new, whatever an earlier one of its number has left behind.
    pub(crate) fn begin(&mut self, regs: &Registers, vf: u8) -> Result<(), FunctionError> {
        self.update(regs, vf)?;
        if let Some(counts) = self.vfs.get_mut(usize::from(vf)) {
            for counter in [
                &mut counts.rx_packets,
                &mut counts.rx_bytes,
                &mut counts.rx_multicast,
                &mut counts.tx_packets,
                &mut counts.tx_bytes,
            ] {
                counter.total = 0;
            }
            counts.spoofed = 0;
        }
        Ok(())
    }

    /// Reads whose frames were dropped as spoofed since the last call (WVBR: one bit per queue,
    /// however many frames).
    pub(crate) fn note_spoofed(&mut self, regs: &Registers) -> Result<(), FunctionError> {
        let queues = regs.read::<WVBR>()?.get(WVBR::QUEUES);
        for (vf, counts) in (0..).zip(&mut self.vfs) {
            let own = (0..igb::function::VF_QUEUES)
                .any(|queue| queues & 1 << igb::function::vf_queue(vf, queue) != 0);
            if own {
                counts.spoofed += 1;
                log::warn!("VF {vf} sends frames with an address or VLAN not its own");
            }
        }
        Ok(())
    }

    /// What was counted for a VF.
    pub(crate) fn of(&self, vf: u8) -> Stats {
        let counts = self.vfs.get(usize::from(vf)).copied().unwrap_or_default();
        Stats {
            rx_packets: counts.rx_packets.total,
            rx_bytes: counts.rx_bytes.total,
            rx_multicast: counts.rx_multicast.total,
            rx_dropped: 0,
            tx_packets: counts.tx_packets.total,
            tx_bytes: counts.tx_bytes.total,
            tx_dropped: 0,
            tx_spoofed: counts.spoofed,
        }
    }
}
