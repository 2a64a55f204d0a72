//! Checks of the repository itself: the invariants of ARCHITECTURE.md that a reader of the source
//! can verify.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_path_buf()
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md")
}

/// The rows of the table under the heading `heading`, cell by cell, without its two head rows.
fn table_under(heading: &str) -> Vec<Vec<String>> {
    let text = architecture();
    let section = text
        .split(heading)
        .nth(1)
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Every Rust source file of the workspace, relative to its root.
fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry"))
        {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    let mut relative: Vec<_> = found
        .iter()
        .map(|path| {
            path.strip_prefix(root())
                .expect("below the root")
                .to_path_buf()
        })
        .collect();
    relative.sort();
    relative
}

/// The lines of a source file that are code: comments and whole-line docs are left out.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(root().join(path)).expect("a source file");
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or("").to_owned()))
        .collect()
}

#[test]
fn crates_depend_only_along_the_arrows_of_the_architecture() {
    let allowed: BTreeMap<String, String> = table_under("### Crate arrows")
        .into_iter()
        .map(|row| {
            (
                quoted(&row[0]).into_iter().next().expect("a crate"),
                row[1].clone(),
            )
        })
        .collect();
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let members: BTreeSet<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().expect("a name"))
        .collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some(row) = allowed.get(name) else {
            wrong.push(format!("{name} has no row in ARCHITECTURE.md"));
            continue;
        };
        if row == "any" {
            continue;
        }
        let permitted = quoted(row);
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            let inside = members.contains(on) && dependency["path"].is_string();
            if dependency["kind"] != "dev" && inside && !permitted.contains(on) {
                wrong.push(format!("{name} must not depend on {on}"));
            }
        }
    }
    for name in allowed
        .keys()
        .filter(|name| !members.contains(name.as_str()))
    {
        wrong.push(format!("ARCHITECTURE.md names {name}, which is no crate"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_only_where_the_architecture_lists_it() {
    let listed: BTreeSet<String> = table_under("### Where `unsafe` stands")
        .iter()
        .flat_map(|row| quoted(&row[0]))
        .collect();
    let mut found = BTreeSet::new();
    for path in sources() {
        // This file names the word in its own text.
        if path.ends_with("tests/repository.rs") {
            continue;
        }
        for (_, line) in code_lines(&path) {
            let words: Vec<&str> = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .collect();
            if words.contains(&"unsafe") {
                found.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    let unlisted: Vec<_> = found.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&found).collect();
    assert!(
        unlisted.is_empty(),
        "unsafe outside the listed modules: {unlisted:?}"
    );
    assert!(stale.is_empty(), "listed, but without unsafe: {stale:?}");
}

#[test]
fn register_offsets_are_literals_only_in_the_contract() {
    // Offsets that mean something else elsewhere (sizes, small masks, ids) would be found by
    // chance; those of five and more digits, and the distinctive four-digit ones, are registers.
    let offsets: BTreeSet<u32> = igb::register::RegisterId::ALL
        .iter()
        .map(|id| id.info().offset)
        .filter(|offset| *offset >= 0x1500 && offset % 0x400 != 0)
        .collect();
    assert!(offsets.len() > 60, "the register map is there");
    let consumers = [
        "igb/driver",
        "igb/netdev",
        "pf-driver",
        "vf-driver",
        "mediator",
        "vfio-user-device",
    ];
    let mut wrong = Vec::new();
    for path in sources() {
        let text = path.to_string_lossy().into_owned();
        let tested = text.contains("/tests/") || text.ends_with("tests.rs");
        if tested
            || !consumers
                .iter()
                .any(|crate_dir| text.starts_with(crate_dir))
        {
            continue;
        }
        for (number, line) in code_lines(&path) {
            if line.contains("#[cfg(test)]") {
                break;
            }
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                let Some(digits) = word.strip_prefix("0x") else {
                    continue;
                };
                let digits = digits.replace('_', "");
                if u32::from_str_radix(&digits, 16).is_ok_and(|value| offsets.contains(&value)) {
                    wrong.push(format!("{text}:{number}: {word} is a register offset"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_line_of_a_driver_knows_its_backend() {
    const PLACE: &str = "iommu::backend::Place";
    let drivers = ["pf-driver/src", "vf-driver/src", "igb/driver/src"];
    let mut known = Vec::new();
    let mut looked_at = 0;
    for path in sources() {
        if !drivers.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let lines: Vec<_> = code_lines(&path)
            .into_iter()
            .map_while(|(number, line)| (line.trim() != "mod tests {").then_some((number, line)))
            .collect();
        looked_at += lines.len();
        for (number, line) in lines {
            // The programs open what the user named; what that is they do not ask.
            let names = [
                "backend::",
                "vfio_user::",
                "vfio_ioctls",
                "Kernel",
                "InProcess",
            ];
            if names
                .iter()
                .any(|name| line.replace(PLACE, "").contains(name))
            {
                known.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(looked_at > 3000, "{looked_at} lines of drivers");
    assert!(known.is_empty(), "{}", known.join("\n"));
}

#[test]
fn every_library_crate_forbids_or_denies_unsafe() {
    for path in sources().iter().filter(|path| path.ends_with("src/lib.rs")) {
        let text = fs::read_to_string(root().join(path)).expect("a source file");
        let manifest = path
            .parent()
            .and_then(Path::parent)
            .expect("a crate")
            .join("Cargo.toml");
        let manifest = fs::read_to_string(root().join(manifest)).expect("a manifest");
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert!(
            inherits,
            "{} does not inherit the workspace's lints",
            path.display()
        );
        assert!(
            text.starts_with("//!"),
            "{} has no crate documentation",
            path.display()
        );
    }
}
