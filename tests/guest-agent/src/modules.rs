//! Loading and unloading kernel modules out of the initramfs.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use guest_agent::{MODULE_ALIASES, MODULE_DIR, MODULE_LIST};
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

/// `MODULE_INIT_COMPRESSED_FILE`, which nix does not name.
const COMPRESSED_FILE: u32 = 4;

/// Names of all modules at hand, dependencies included.
pub(crate) fn names() -> Result<Vec<String>> {
    Ok(list()?.into_iter().map(|(name, _)| name).collect())
}

fn list() -> Result<Vec<(String, Vec<String>)>> {
    let text = fs::read_to_string(MODULE_LIST).with_context(|| format!("read {MODULE_LIST}"))?;
    Ok(parse_list(&text))
}

fn parse_list(text: &str) -> Vec<(String, Vec<String>)> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, needs)| {
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (name.to_owned(), needs)
        })
        .collect()
}

/// Modules to load for `wanted`, each after what it depends on.
fn order(list: &[(String, Vec<String>)], wanted: &str) -> Result<Vec<String>> {
    fn visit(
        list: &[(String, Vec<String>)],
        name: &str,
        seen: &mut HashSet<String>,
        out: &mut Vec<String>,
    ) -> Result<()> {
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some((_, needs)) = list.iter().find(|(listed, _)| listed == name) else {
            bail!("the initramfs holds no module {name}");
        };
        for need in needs {
            visit(list, need, seen, out)?;
        }
        out.push(name.to_owned());
        Ok(())
    }
    let mut out = Vec::new();
    visit(list, wanted, &mut HashSet::new(), &mut out)?;
    Ok(out)
}

/// The kernel's spelling of a module name.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Loads `name` and what it depends on; returns what was not loaded before.
pub(crate) fn load(name: &str, params: &str) -> Result<Vec<String>> {
    let wanted = canonical(name);
    let mut loaded = Vec::new();
    for module in order(&list()?, &wanted)? {
        let params = if module == wanted { params } else { "" };
        if load_one(&module, params)? {
            loaded.push(module);
        }
    }
    Ok(loaded)
}

/// The module that goes by another name.
fn aliased(name: &str) -> Option<String> {
    let text = fs::read_to_string(MODULE_ALIASES).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .find(|(alias, _)| *alias == name)
        .map(|(_, module)| module.to_owned())
}

/// `modprobe [-r] [-q] [--] NAME [PARAMETER...]`, with what it says and its
/// exit code.
pub(crate) fn modprobe(words: &[String]) -> ExitCode {
    let (options, words): (Vec<&String>, Vec<&String>) =
        words.iter().partition(|word| word.starts_with('-'));
    let Some((name, params)) = words.split_first() else {
        eprintln!("modprobe [-r] NAME [PARAMETER...]");
        return ExitCode::from(2);
    };
    let params: Vec<&str> = params.iter().map(|word| word.as_str()).collect();
    let done = if options.iter().any(|option| *option == "-r") {
        unload(name)
    } else {
        let name = aliased(name).unwrap_or_else(|| (*name).clone());
        load(&name, &params.join(" ")).map(drop)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !options.iter().any(|option| *option == "-q") {
                eprintln!("modprobe: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn load_one(name: &str, params: &str) -> Result<bool> {
    let path = file(name)?;
    let compressed = path.extension().is_none_or(|extension| extension != "ko");
    let flags = if compressed {
        ModuleInitFlags::from_bits_retain(COMPRESSED_FILE)
    } else {
        ModuleInitFlags::empty()
    };
    let open = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let params = CString::new(params).context("module parameters hold a NUL")?;
    match finit_module(&open, &params, flags) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno).with_context(|| format!("load module {name}")),
    }
}

/// The module's file: `name.ko`, or compressed as `name.ko.xz` and the like.
fn file(name: &str) -> Result<PathBuf> {
    for suffix in ["ko", "ko.xz", "ko.zst", "ko.gz"] {
        let path = Path::new(MODULE_DIR).join(format!("{name}.{suffix}"));
        if path.exists() {
            return Ok(path);
        }
    }
    bail!("{MODULE_DIR} holds no file of module {name}")
}

/// Unloads `name`, without waiting for its users.
pub(crate) fn unload(name: &str) -> Result<()> {
    let name = CString::new(canonical(name)).context("module name holds a NUL")?;
    delete_module(&name, DeleteModuleFlags::O_NONBLOCK).context("unload the module")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "dca:\ni2c_algo_bit:\nigb: i2c_algo_bit dca\na: b\nb: a\nc: gone\n";

    #[test]
    fn dependencies_come_first() {
        let list = parse_list(LIST);
        assert_eq!(order(&list, "igb").unwrap(), ["i2c_algo_bit", "dca", "igb"]);
        assert_eq!(order(&list, "dca").unwrap(), ["dca"]);
    }

    #[test]
    fn missing_modules_are_named_and_cycles_end() {
        let list = parse_list(LIST);
        assert!(order(&list, "c").unwrap_err().to_string().contains("gone"));
        assert_eq!(order(&list, "a").unwrap(), ["b", "a"]);
    }
}
