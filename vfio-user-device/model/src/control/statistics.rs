//! Statistics registers, from what the data path reports (datasheet 8.18). The counters of the port
//! count what crosses the wire and stick at their top; those of a VF wrap.

use igb::frame::FCS_LENGTH;
use igb::{
    BPRC, BPTC, CBRMPC, FunctionId, GORCH, GORCL, GOTCH, GOTCL, GPRC, GPTC, HGORCH, HGORCL, HGOTCH,
    HGOTCL, HGPTC, MPC, MPRC, MPTC, PRC64, PRC127, PRC255, PRC511, PRC1023, PRC1522, PTC64, PTC127,
    PTC255, PTC511, PTC1023, PTC1522, PVFGORC, PVFGORLBC, PVFGOTC, PVFGOTLBC, PVFGPRC, PVFGPRLBC,
    PVFGPTC, PVFGPTLBC, PVFMPRC, RNBC, ROC, RPTHC, RUC, RegisterId, SDPC, SSVPC, TORH, TORL, TOTH,
    TOTL, TPR, TPT, TSCTC,
};

use super::bank::Bank;
use crate::drops::DropReason;
use crate::events::{Events, Port, PortEvents};

/// The high half of a 64-bit counter, for its low half: reading the high half clears both.
pub(super) fn low_half(high: RegisterId) -> Option<RegisterId> {
    Some(match high {
        RegisterId::GORCH => RegisterId::GORCL,
        RegisterId::GOTCH => RegisterId::GOTCL,
        RegisterId::TORH => RegisterId::TORL,
        RegisterId::TOTH => RegisterId::TOTL,
        RegisterId::HGORCH => RegisterId::HGORCL,
        RegisterId::HGOTCH => RegisterId::HGOTCL,
        _ => return None,
    })
}

/// Whether a register is the low half of a 64-bit counter, which a read of its own leaves alone.
pub(super) fn is_low_half(id: RegisterId) -> bool {
    matches!(
        id,
        RegisterId::GORCL
            | RegisterId::GOTCL
            | RegisterId::TORL
            | RegisterId::TOTL
            | RegisterId::HGORCL
            | RegisterId::HGOTCL
    )
}

/// Whether a register counts for one VF.
pub(super) fn is_vf_counter(id: RegisterId) -> bool {
    matches!(
        id,
        RegisterId::PVFGPRC
            | RegisterId::PVFGPTC
            | RegisterId::PVFGORC
            | RegisterId::PVFGOTC
            | RegisterId::PVFMPRC
            | RegisterId::PVFGPRLBC
            | RegisterId::PVFGPTLBC
            | RegisterId::PVFGORLBC
            | RegisterId::PVFGOTLBC
    )
}

/// Every counter of a VF to 0.
pub(super) fn clear_vf(bank: &mut Bank, vf: u8) {
    for id in RegisterId::ALL
        .iter()
        .copied()
        .filter(|id| is_vf_counter(*id))
    {
        bank.store(id, u32::from(vf), 0);
    }
}

/// Octets as the MAC counts them, with FCS.
fn octets(bytes: u64, packets: u64) -> u64 {
    bytes.saturating_add(packets.saturating_mul(FCS_LENGTH as u64))
}

/// Count what happened; of a VF, only if `current` says that it was not reset since.
pub(super) fn absorb(bank: &mut Bank, events: &Events, current: impl Fn(FunctionId) -> bool) {
    wire(bank, events);
    let mut host = PortEvents::default();
    let (mut no_descriptor, mut spoofed, mut undeliverable, mut too_long) = (0, 0, 0, 0);
    for function in FunctionId::all() {
        let port = events.port(Port::Function(function));
        host.rx_packets += port.rx_packets;
        host.rx_bytes += port.rx_bytes;
        host.tx_packets += port.tx_packets;
        host.tx_bytes += port.tx_bytes;
        let drops = |reason| port.drops.get(reason);
        no_descriptor += drops(DropReason::NoDescriptor) + drops(DropReason::NoDescriptorNoDropEn);
        spoofed += drops(DropReason::SpoofedMac) + drops(DropReason::SpoofedVlan);
        undeliverable += drops(DropReason::NoDestination) + drops(DropReason::SourceOnly);
        too_long += drops(DropReason::TooLong);
        if let Some(vf) = function.vf_index().filter(|_| current(function)) {
            count_vf(bank, u32::from(vf), port);
        }
    }
    bank.count::<RPTHC>(host.rx_packets);
    bank.count_pair::<HGORCL, HGORCH>(octets(host.rx_bytes, host.rx_packets));
    bank.count::<HGPTC>(host.tx_packets);
    bank.count_pair::<HGOTCL, HGOTCH>(octets(host.tx_bytes, host.tx_packets));
    bank.count::<RNBC>(no_descriptor);
    bank.count::<MPC>(no_descriptor);
    bank.count::<SSVPC>(spoofed);
    bank.count::<SDPC>(undeliverable);
    bank.count::<ROC>(too_long);
}

/// Frames that crossed the wire. The wire owns the uplink port, so what it "transmits" the card
/// receives.
fn wire(bank: &mut Bank, events: &Events) {
    let wire = events.port(Port::Uplink);
    let good = &events.wire_good;
    bank.count::<TPR>(wire.tx_packets);
    bank.count_pair::<TORL, TORH>(octets(wire.tx_bytes, wire.tx_packets));
    bank.count::<GPRC>(good.packets);
    bank.count_pair::<GORCL, GORCH>(octets(good.bytes, good.packets));
    bank.count::<MPRC>(good.multicast);
    bank.count::<BPRC>(good.broadcast);
    bank.count::<RUC>(wire.drops.get(DropReason::Runt));
    bank.count::<ROC>(wire.drops.get(DropReason::Oversize));

    bank.count::<TSCTC>(events.segmented);
    // The card has no manageability whose packets it could drop; what Linux reads here it has.
    bank.count::<CBRMPC>(events.segmentation_failed);
    bank.count::<TPT>(wire.rx_packets);
    bank.count::<GPTC>(wire.rx_packets);
    bank.count_pair::<TOTL, TOTH>(octets(wire.rx_bytes, wire.rx_packets));
    bank.count_pair::<GOTCL, GOTCH>(octets(wire.rx_bytes, wire.rx_packets));
    bank.count::<MPTC>(wire.rx_multicast);
    bank.count::<BPTC>(wire.rx_broadcast);

    let [a, b, c, d, e, f] = events.wire_rx_sizes;
    bank.count::<PRC64>(a);
    bank.count::<PRC127>(b);
    bank.count::<PRC255>(c);
    bank.count::<PRC511>(d);
    bank.count::<PRC1023>(e);
    bank.count::<PRC1522>(f);
    let [a, b, c, d, e, f] = events.wire_tx_sizes;
    bank.count::<PTC64>(a);
    bank.count::<PTC127>(b);
    bank.count::<PTC255>(c);
    bank.count::<PTC511>(d);
    bank.count::<PTC1023>(e);
    bank.count::<PTC1522>(f);
}

fn count_vf(bank: &mut Bank, vf: u32, port: &PortEvents) {
    bank.count_wrapping::<PVFGPRC>(vf, port.rx_packets);
    bank.count_wrapping::<PVFGORC>(vf, octets(port.rx_bytes, port.rx_packets));
    bank.count_wrapping::<PVFMPRC>(vf, port.rx_multicast);
    bank.count_wrapping::<PVFGPTC>(vf, port.tx_packets);
    bank.count_wrapping::<PVFGOTC>(vf, octets(port.tx_bytes, port.tx_packets));
    bank.count_wrapping::<PVFGPRLBC>(vf, port.rx_loopback_packets);
    bank.count_wrapping::<PVFGORLBC>(vf, octets(port.rx_loopback_bytes, port.rx_loopback_packets));
    bank.count_wrapping::<PVFGPTLBC>(vf, port.tx_loopback_packets);
    bank.count_wrapping::<PVFGOTLBC>(vf, octets(port.tx_loopback_bytes, port.tx_loopback_packets));
}

/// What a read of a clear-on-read counter returns.
pub(super) fn read_clear(bank: &mut Bank, id: RegisterId, index: u32) -> u32 {
    let value = bank.load(id, index);
    if let Some(low) = low_half(id) {
        bank.store(low, index, 0);
        bank.store(id, index, 0);
    } else if !is_low_half(id) {
        bank.store(id, index, 0);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use igb::Value;

    #[test]
    fn the_high_half_clears_both() {
        let mut bank = Bank::new();
        bank.count_pair::<TORL, TORH>(0x5_0000_0007);
        assert_eq!(read_clear(&mut bank, RegisterId::TORL, 0), 7);
        assert_eq!(read_clear(&mut bank, RegisterId::TORL, 0), 7);
        assert_eq!(read_clear(&mut bank, RegisterId::TORH, 0), 5);
        assert_eq!(bank.get::<TORL>(), Value::from_raw(0));
        bank.count::<GPRC>(3);
        assert_eq!(read_clear(&mut bank, RegisterId::GPRC, 0), 3);
        assert_eq!(read_clear(&mut bank, RegisterId::GPRC, 0), 0);
    }
}
