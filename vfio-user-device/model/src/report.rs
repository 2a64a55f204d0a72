//! What the card has done, for reports.

use igb::FunctionId;
use igb::function::FUNCTION_COUNT;

use crate::drops::DropCounters;
use crate::events::{Events, Fault, Halt, Port, PortEvents};

/// What crossed a port since the card was made. Resets do not clear it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortReport {
    /// Frames to the port's owner.
    pub rx_packets: u64,
    /// Their bytes, without FCS.
    pub rx_bytes: u64,
    /// Frames from the port's owner.
    pub tx_packets: u64,
    /// Their bytes, without FCS.
    pub tx_bytes: u64,
    /// Frames dropped, by reason.
    pub drops: DropCounters,
    /// DMA faults.
    pub faults: u64,
    /// The latest fault.
    pub last_fault: Option<Fault>,
    /// Rings halted.
    pub halts: u64,
    /// The latest ring that was halted.
    pub last_halt: Option<Halt>,
    /// Resets of the function.
    pub resets: u64,
}

/// The state of the card for a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub(crate) functions: [PortReport; FUNCTION_COUNT],
    /// The wire.
    pub uplink: PortReport,
    /// VFs enabled now.
    pub vfs: u8,
    /// The link is up.
    pub link_up: bool,
}

impl Snapshot {
    /// A function's port.
    #[must_use]
    pub fn function(&self, function: FunctionId) -> &PortReport {
        &self.functions[function.slot()]
    }

    pub(crate) fn function_mut(&mut self, function: FunctionId) -> &mut PortReport {
        &mut self.functions[function.slot()]
    }

    pub(crate) fn absorb(&mut self, events: &Events) {
        for function in FunctionId::all() {
            self.functions[function.slot()].absorb(events.port(Port::Function(function)));
        }
        self.uplink.absorb(events.port(Port::Uplink));
        for fault in events.faults() {
            self.functions[fault.function.slot()].last_fault = Some(*fault);
        }
        for halt in events.halts() {
            self.functions[halt.function.slot()].last_halt = Some(*halt);
        }
    }
}

impl PortReport {
    fn absorb(&mut self, events: &PortEvents) {
        self.rx_packets = self.rx_packets.wrapping_add(events.rx_packets);
        self.rx_bytes = self.rx_bytes.wrapping_add(events.rx_bytes);
        self.tx_packets = self.tx_packets.wrapping_add(events.tx_packets);
        self.tx_bytes = self.tx_bytes.wrapping_add(events.tx_bytes);
        self.drops.merge(&events.drops);
        self.faults = self.faults.wrapping_add(events.faults);
        self.halts = self.halts.wrapping_add(events.halts);
    }
}
