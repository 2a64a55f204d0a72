//! Registers that a stock driver touches and our card does not know.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use igb::absent::READ_ANYHOW;

/// How many accesses of BAR0 function `who` made in a trace of the card. An error names those that
/// have an offset where others have a register's name, but for those that are read anyhow, which
/// docs/differences-from-qemu-igb.md tells with their reasons.
pub(super) fn known_registers(trace: &str, who: &str) -> Result<String> {
    let mut accesses = 0;
    let mut unknown: BTreeMap<String, u32> = BTreeMap::new();
    for line in trace.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, function, way @ ("R" | "W"), "bar0", place, ..] = words[..] else {
            continue;
        };
        if function != who {
            continue;
        }
        accesses += 1;
        if let Some(offset) = place.strip_prefix("0x")
            && !(way == "R" && is_read_anyhow(offset))
        {
            *unknown.entry(format!("{way} {place}")).or_default() += 1;
        }
    }
    ensure!(accesses > 0, "{who} touched nothing");
    ensure!(unknown.is_empty(), "unknown, and how often: {unknown:?}");
    Ok(format!("{accesses} accesses"))
}

fn is_read_anyhow(offset: &str) -> bool {
    u32::from_str_radix(offset, 16)
        .is_ok_and(|offset| READ_ANYHOW.iter().any(|known| known.contains(&offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_without_a_name_are_named() {
        let trace = "0.4 pf   W bar0   CTRL 0x0410020d {FD}\n\
                     0.5 pf   R bar0   0x05b5c 0x00000000\n\
                     0.6 pf   R bar0   0x05b5c 0x00000000 x17 to 0.7\n\
                     0.8 vf0  R bar0   0x05b60 0x00000000\n\
                     0.9 pf   # reset done\n\
                     1.0 pf   W config 0x004/2 COMMAND 0x0004\n";
        let error = known_registers(trace, "pf").unwrap_err().to_string();
        assert!(error.contains("\"R 0x05b5c\": 2"), "{error}");
        assert!(known_registers("", "pf").is_err());
        let known = "0.4 pf   W bar0   CTRL 0x0410020d {FD}
";
        assert_eq!(known_registers(known, "pf").unwrap(), "1 accesses");
    }

    #[test]
    fn what_is_read_anyhow_is_told_and_may_not_be_written() {
        let line = |way: &str| format!("0.4 pf   {way} bar0   0x01008 0x00000000\n");
        assert!(known_registers(&line("R"), "pf").is_ok());
        assert!(known_registers(&line("W"), "pf").is_err());
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../vfio-user-device/docs/differences-from-qemu-igb.md"
        );
        let document = std::fs::read_to_string(path).unwrap();
        for offset in READ_ANYHOW
            .iter()
            .flat_map(|known| [known.start(), known.end()])
        {
            assert!(document.contains(&format!("{offset:#07x}")), "{offset:#x}");
        }
    }
}
