//! What the demo prints at its end, and the check of its capture file.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, ensure};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::json;

use super::Demo;
use crate::rig::{CALL_LIMIT, Rig};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}

/// The card's own account of each function, taken while the VFs still exist.
pub(super) fn of_card(rig: &Rig) -> anyhow::Result<Table> {
    let stats = rig
        .card_control()
        .call(&json!({"op": "stats"}), CALL_LIMIT)?;
    let mut rows = table(&[
        "function",
        "tx packets",
        "tx bytes",
        "rx packets",
        "rx bytes",
        "drops",
        "faults",
    ]);
    for function in stats["functions"]
        .as_array()
        .context("no list of functions")?
    {
        let drops = function["drops"]
            .as_object()
            .map(|drops| {
                drops
                    .iter()
                    .filter(|(_, count)| **count != 0)
                    .map(|(reason, count)| format!("{reason} {count}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            })
            .unwrap_or_default();
        let cell = |name: &str| function[name].to_string();
        rows.add_row(vec![
            function["function"].as_str().unwrap_or("?").to_owned(),
            cell("tx_packets"),
            cell("tx_bytes"),
            cell("rx_packets"),
            cell("rx_bytes"),
            drops,
            cell("dma_faults"),
        ]);
    }
    Ok(rows)
}

/// Print the tables and the checks.
pub(super) fn print(
    demo: &Demo,
    card: Option<anyhow::Result<Table>>,
    kept: Option<&Path>,
    seconds: f64,
) -> anyhow::Result<()> {
    if let Some(card) = card {
        println!("{}", card?);
    }
    if !demo.verdicts.is_empty() {
        let mut rows = table(&["vf", "request", "verdict"]);
        for verdict in &demo.verdicts {
            rows.add_row(vec![
                verdict.who,
                verdict.what.as_str(),
                verdict.verdict.as_str(),
            ]);
        }
        println!("{rows}");
    }
    if let Some(fault) = &demo.fault {
        let word = |name: &str| {
            fault[name]
                .as_str()
                .map_or_else(|| fault[name].to_string(), str::to_owned)
        };
        println!(
            "DMA fault: {} {} of {} bytes at {}: {}",
            word("function"),
            word("access"),
            word("len"),
            word("iova"),
            word("cause"),
        );
    }
    let mut rows = table(&["check", "", "figure", "detail"]);
    for check in &demo.report.checks {
        let figure = match (check.figure, &check.unit) {
            (Some(figure), Some(unit)) => format!("{figure:.1} {unit}"),
            _ => String::new(),
        };
        let verdict = if check.pass { "pass" } else { "FAIL" };
        rows.add_row(vec![
            check.name.as_str(),
            verdict,
            figure.as_str(),
            check.detail.as_str(),
        ]);
    }
    println!("{rows}");
    match kept {
        Some(kept) => println!(
            "capture: {} (opens in Wireshark); logs and audit log beside it",
            kept.join("card.pcapng").display()
        ),
        None => println!("capture: read back and removed; --keep keeps it, for Wireshark"),
    }
    println!("{seconds:.1} s");
    Ok(())
}

/// The capture must be a pcapng file with every port and some frames of each.
pub(super) fn capture(demo: &mut Demo) -> anyhow::Result<()> {
    let outcome = || -> anyhow::Result<String> {
        let path = demo.rig.capture();
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let mut reader = PcapNgReader::new(std::io::BufReader::new(file))?;
        let mut ports: Vec<(String, u64)> = Vec::new();
        while let Some(block) = reader.next_block() {
            match block? {
                Block::InterfaceDescription(interface) => {
                    ports.push((format!("{:?}", interface.options), 0));
                }
                Block::EnhancedPacket(packet) => {
                    let port = ports
                        .get_mut(usize::try_from(packet.interface_id)?)
                        .context("a frame of an undescribed interface")?;
                    port.1 += 1;
                }
                _ => {}
            }
        }
        for name in ["pf", "vf0", "vf1", "vf2"] {
            let frames: u64 = ports
                .iter()
                .filter(|(options, _)| options.contains(&format!("\"{name}\"")))
                .map(|(_, frames)| frames)
                .sum();
            ensure!(frames > 0, "no frame of {name} in {ports:?}");
        }
        let frames: u64 = ports.iter().map(|(_, frames)| frames).sum();
        Ok(format!("{frames} frames of {} ports", ports.len()))
    }();
    demo.report.outcome("capture", outcome);
    Ok(())
}
