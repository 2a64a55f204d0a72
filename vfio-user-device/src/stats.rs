//! The card's counters as JSON.

use igb::FunctionId;
use igb_model::{Fault, PortReport, Ring};
use serde_json::{Map, Value, json};

use crate::card::CardState;
use crate::lock;
use crate::names::function_name;

fn port(name: String, report: &PortReport) -> Map<String, Value> {
    let drops: Map<String, Value> = report
        .drops
        .iter()
        .map(|(reason, frames)| (reason.name().to_owned(), frames.into()))
        .collect();
    let fields = [
        ("function", name.into()),
        ("rx_packets", report.rx_packets.into()),
        ("rx_bytes", report.rx_bytes.into()),
        ("tx_packets", report.tx_packets.into()),
        ("tx_bytes", report.tx_bytes.into()),
        ("drops", drops.into()),
    ];
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

fn fault(fault: &Fault) -> Map<String, Value> {
    let ring = match fault.ring {
        Ring::Rx => "rx",
        Ring::Tx => "tx",
    };
    let fields = [
        ("function", function_name(fault.function).into()),
        ("ring", ring.into()),
        ("queue", fault.queue.into()),
        ("iova", format!("{:#x}", fault.iova).into()),
        ("len", fault.len.into()),
        ("access", if fault.write { "write" } else { "read" }.into()),
        ("cause", fault.cause.name().into()),
    ];
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// Everything that is counted. `functions` has the PF and every VF that exists or has ever moved a
/// frame; `faults` the latest DMA faults, oldest first.
pub(crate) fn collect(card: &CardState) -> Value {
    // Faults first: what they show has been counted already.
    let incidents = lock(&card.incidents);
    let wire = incidents.wire;
    let faults: Vec<Value> = incidents
        .faults()
        .map(|record| {
            let mut entry = fault(&record.fault);
            entry.insert("at".to_owned(), record.at.as_secs_f64().into());
            Value::Object(entry)
        })
        .collect();
    drop(incidents);
    let snapshot = lock(&card.control).snapshot().clone();
    let mut functions = Vec::new();
    for id in FunctionId::all() {
        let report = snapshot.function(id);
        let view = card.view(id);
        let used = report.rx_packets + report.tx_packets + report.drops.total() + report.faults;
        if !view.is_enabled() && used == 0 {
            continue;
        }
        let mut entry = port(function_name(id), report);
        let usage = view.space.usage();
        entry.extend([
            ("enabled".to_owned(), view.is_enabled().into()),
            ("connected".to_owned(), view.is_connected().into()),
            ("dma_faults".to_owned(), report.faults.into()),
            ("resets".to_owned(), report.resets.into()),
            ("dma_windows".to_owned(), usage.windows.into()),
            (
                "interrupts_dropped".to_owned(),
                view.interrupts.dropped().into(),
            ),
        ]);
        functions.push(Value::Object(entry));
    }
    let mut uplink = port("uplink".to_owned(), &snapshot.uplink);
    uplink.insert(
        "lost".to_owned(),
        json!({
            "no-peer": wire.no_peer,
            "full": wire.full,
            "failed": wire.failed,
            "injected": wire.injected,
        }),
    );
    json!({
        "ok": true,
        "seconds": card.elapsed().as_secs_f64(),
        "vfs": snapshot.vfs,
        "link_up": snapshot.link_up,
        "functions": functions,
        "uplink": uplink,
        "faults": faults,
        "injected": card.watch.injector.to_json(),
        "capture_lost": card.capture.as_ref().map_or(0, |capture| capture.lost()),
    })
}
