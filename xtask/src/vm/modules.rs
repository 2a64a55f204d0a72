//! Kernel modules of the guest: finding them with what they depend on.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lzma_rust2::XzReader;

/// Largest module taken, in bytes.
const MAX_MODULE: u64 = 64 << 20;

/// A module ready for the initramfs.
pub(super) struct Module {
    /// Name as the kernel spells it.
    pub(super) name: String,
    /// What follows the name: `ko`, or `ko.zst` and the like where the
    /// kernel is left to decompress it.
    pub(super) extension: String,
    pub(super) content: Vec<u8>,
    pub(super) needs: Vec<String>,
    /// Names without wildcards by which the kernel asks for it.
    pub(super) aliases: Vec<String>,
}

/// `wanted` and what they depend on, by name. Modules built into the kernel
/// are left out.
pub(super) fn collect(dir: &Path, wanted: &[String]) -> Result<BTreeMap<String, Module>> {
    let mut files = HashMap::new();
    index(&dir.join("kernel"), &mut files)?;
    let listed = listed_dependencies(&dir.join("modules.dep"))?;
    let builtin = fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<String> = builtin
        .lines()
        .filter_map(|line| split_name(Path::new(line)))
        .map(|n| n.0)
        .collect();
    let mut found = BTreeMap::new();
    let mut open: Vec<String> = wanted.iter().map(|name| canonical(name)).collect();
    while let Some(name) = open.pop() {
        if found.contains_key(&name) || builtin.contains(&name) {
            continue;
        }
        let Some((path, extension)) = files.get(&name) else {
            bail!("{} holds no module {name}", dir.display());
        };
        let module = read(&name, path, extension, listed.get(&name))
            .with_context(|| format!("read module {}", path.display()))?;
        open.extend(module.needs.iter().cloned());
        found.insert(name, module);
    }
    // What is built in has no file to load.
    for module in found.values_mut() {
        module.needs.retain(|need| !builtin.contains(need));
    }
    Ok(found)
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// `igb.ko.xz` as `igb` and `ko.xz`.
fn split_name(path: &Path) -> Option<(String, String)> {
    let (name, extension) = path.file_name()?.to_str()?.split_once('.')?;
    let known = extension == "ko" || extension.starts_with("ko.");
    known.then(|| (canonical(name), extension.to_owned()))
}

fn index(dir: &Path, files: &mut HashMap<String, (PathBuf, String)>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            index(&path, files)?;
        } else if let Some((name, extension)) = split_name(&path) {
            files.insert(name, (path, extension));
        }
    }
    Ok(())
}

/// `modules.dep`, which depmod writes on an installed system and which a
/// package that was only unpacked lacks.
fn listed_dependencies(path: &Path) -> Result<HashMap<String, Vec<String>>> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let name = |word: &str| split_name(Path::new(word)).map(|split| split.0);
    Ok(text
        .lines()
        .filter_map(|line| {
            let (module, needs) = line.split_once(':')?;
            Some((
                name(module)?,
                needs.split_whitespace().filter_map(name).collect(),
            ))
        })
        .collect())
}

fn read(name: &str, path: &Path, extension: &str, listed: Option<&Vec<String>>) -> Result<Module> {
    let file = fs::File::open(path).context("open")?;
    let mut content = Vec::new();
    let (mut reader, extension): (Box<dyn Read>, &str) = match extension {
        "ko.xz" => (Box::new(XzReader::new(file, true)), "ko"),
        other => (Box::new(file), other),
    };
    reader
        .by_ref()
        .take(MAX_MODULE + 1)
        .read_to_end(&mut content)
        .context("decompress")?;
    ensure!(
        content.len() as u64 <= MAX_MODULE,
        "larger than {MAX_MODULE} bytes"
    );
    let needs = match listed {
        Some(needs) => needs.clone(),
        None if extension == "ko" => dependencies(&content).context("no module in ELF format")?,
        None => bail!(
            "its dependencies are known only to modules.dep, which is missing: run depmod for \
             this module folder"
        ),
    };
    let aliases = entries(&content, "alias")
        .unwrap_or_default()
        .into_iter()
        .filter(|alias| !alias.contains(['*', '?', '[', ' ']))
        .collect();
    Ok(Module {
        aliases,
        name: name.to_owned(),
        extension: extension.to_owned(),
        content,
        needs,
    })
}

/// The `depends=` entry of an ELF64 module's `.modinfo` section.
fn dependencies(elf: &[u8]) -> Option<Vec<String>> {
    let entry = entries(elf, "depends")?.into_iter().next()?;
    let names = entry.split(',').filter(|name| !name.is_empty());
    Some(names.map(canonical).collect())
}

/// All values of `key` in an ELF64 module's `.modinfo` section.
fn entries(elf: &[u8], key: &str) -> Option<Vec<String>> {
    let modinfo = section(elf, b".modinfo")?;
    let start = format!("{key}=");
    let values = modinfo
        .split(|&byte| byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix(&start));
    Some(values.map(str::to_owned).collect())
}

/// Content of the section named `wanted` of a little-endian ELF64 file.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
        let mut wide = [0u8; 8];
        wide[..N].copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
        usize::try_from(u64::from_le_bytes(wide)).ok()
    }
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    // e_shoff, e_shentsize, e_shnum, e_shstrndx of the ELF64 header.
    let (table, size) = (number::<8>(elf, 0x28)?, number::<2>(elf, 0x3a)?);
    let (count, names) = (number::<2>(elf, 0x3c)?, number::<2>(elf, 0x3e)?);
    let header = |at: usize| elf.get(table.checked_add(at.checked_mul(size)?)?..);
    // sh_offset and sh_size of a section header.
    let content = |header: &[u8]| {
        let (start, length) = (number::<8>(header, 0x18)?, number::<8>(header, 0x20)?);
        elf.get(start..start.checked_add(length)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|at| {
        let header = header(at)?;
        let name = names.get(number::<4>(header, 0)?..)?;
        let matches = name.strip_prefix(wanted)?.first() == Some(&0);
        matches.then(|| content(header)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF64 file of a name table and a `.modinfo`.
    fn elf(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0";
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_at = file.len();
        file.extend_from_slice(names);
        let modinfo_at = file.len();
        file.extend_from_slice(modinfo);
        let table = file.len();
        for (name, at, length) in [(0, names_at, names.len()), (1, modinfo_at, modinfo.len())] {
            let mut header = [0u8; 64];
            header[0..4].copy_from_slice(&(name as u32).to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&2u16.to_le_bytes());
        file
    }

    fn tree(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn dependencies_are_read_out_of_the_module() {
        let file = elf(b"license=GPL\0depends=i2c-algo-bit,dca\0name=igb\0");
        assert_eq!(dependencies(&file).unwrap(), ["i2c_algo_bit", "dca"]);
        assert!(dependencies(&elf(b"depends=\0")).unwrap().is_empty());
        let file = elf(b"alias=rtnl-link-vlan\0depends=\0alias=pci:v*\0");
        assert_eq!(
            entries(&file, "alias").unwrap(),
            ["rtnl-link-vlan", "pci:v*"]
        );
    }

    #[test]
    fn a_truncated_or_altered_module_never_panics() {
        let file = elf(b"depends=dca\0");
        for length in 0..file.len() {
            dependencies(&file[..length]);
        }
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] = 0xff;
            dependencies(&altered);
        }
    }

    #[test]
    fn a_module_brings_what_it_needs_but_not_what_is_built_in() {
        let dir = tree(&[
            ("kernel/net/igb.ko", elf(b"depends=i2c-algo-bit,ptp\0")),
            ("kernel/i2c/i2c-algo-bit.ko", elf(b"depends=\0")),
            ("kernel/net/other.ko", elf(b"depends=\0")),
            ("modules.builtin", b"kernel/ptp/ptp.ko\n".to_vec()),
        ]);
        let found = collect(dir.path(), &["igb".into()]).unwrap();
        let names: Vec<_> = found.keys().collect();
        assert_eq!(names, ["i2c_algo_bit", "igb"]);
        assert_eq!(found["igb"].needs, ["i2c_algo_bit"]);
        let error = collect(dir.path(), &["nothere".into()]).err().unwrap();
        assert!(error.to_string().contains("nothere"));
    }

    #[test]
    fn modules_the_kernel_decompresses_need_modules_dep() {
        let files = [
            ("kernel/a.ko.zst", vec![1, 2, 3]),
            ("kernel/b.ko", elf(b"depends=\0")),
        ];
        let dir = tree(&files);
        assert!(collect(dir.path(), &["a".into()]).is_err());
        fs::write(
            dir.path().join("modules.dep"),
            "kernel/a.ko.zst: kernel/b.ko\n",
        )
        .unwrap();
        let found = collect(dir.path(), &["a".into()]).unwrap();
        assert_eq!(found["a"].extension, "ko.zst");
        assert_eq!(found["a"].needs, ["b"]);
        assert!(found.contains_key("b"));
    }
}
