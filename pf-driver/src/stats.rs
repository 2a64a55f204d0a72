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
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    known: bool,
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
        let before = *counts;
        counts.rx_packets.read::<PVFGPRC>(regs, vf)?;
        counts.rx_bytes.read::<PVFGORC>(regs, vf)?;
        counts.rx_multicast.read::<PVFMPRC>(regs, vf)?;
        counts.tx_packets.read::<PVFGPTC>(regs, vf)?;
        counts.tx_bytes.read::<PVFGOTC>(regs, vf)?;
        if !before.known {
            // What a VF of an earlier time left in the registers is not this one's.
            let base = *counts;
            *counts = Counts {
                known: true,
                ..before
            };
            counts.rx_packets.last = base.rx_packets.last;
            counts.rx_bytes.last = base.rx_bytes.last;
            counts.rx_multicast.last = base.rx_multicast.last;
            counts.tx_packets.last = base.tx_packets.last;
            counts.tx_bytes.last = base.tx_bytes.last;
        }
        Ok(())
    }

    /// Forgets a VF, whose number another tenant gets.
    pub(crate) fn forget(&mut self, vf: u8) {
        if let Some(counts) = self.vfs.get_mut(usize::from(vf)) {
            *counts = Counts::default();
        }
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
