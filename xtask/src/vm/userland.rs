//! Tools and packages as a part of an initramfs: programs, the libraries that
//! they need and no others, no documentation. Kept, by what it is made of.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use goblin::elf::Elf;
use guest_agent::BUSYBOX;
use sha2::{Digest as _, Sha256};

use super::cpio::Archive;
use super::fetch::FetchArgs;
use super::layout::{Installation, VmDir};
use super::machine::VmConfig;
use super::packages::{Packages, TOOLS, merged};

/// Changes when the same packages are put together in another way.
const FORMAT: u32 = 2;

/// The programs of [`TOOLS`] that are put into the guest.
const PROGRAMS: [&str; 7] = ["ip", "tc", "bridge", "ss", "ethtool", "iperf3", "tcpdump"];

/// What of a package is not needed to run it.
const LEFT_OUT: [&str; 7] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/bug",
];

/// What programs look up. tcpdump gives its rights up for those of an account
/// of its own, which must be able to write captures.
const ETC: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ntcpdump:x:0:0::/root:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\ntcpdump:x:0:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
];

/// What stands at a path of the guest.
enum Entry {
    File(PathBuf),
    Link(String),
    Text(&'static str),
}

/// Content of the part, by path.
#[derive(Default)]
struct Tree(BTreeMap<String, Entry>);

/// The part with what `config` names, as a file; made if it is not there.
pub(super) fn part(
    dir: &VmDir,
    installation: &Installation,
    config: &VmConfig,
    args: &FetchArgs,
) -> Result<PathBuf> {
    let tools = TOOLS.iter().copied().filter(|_| config.tools);
    let own = config.packages.iter().map(String::as_str);
    let names: Vec<&str> = tools.chain(own).collect();
    let packages = Packages::ensure(dir, &names, args)?;
    let busybox = installation.busybox.as_ref().filter(|_| config.tools);
    let busybox = busybox.map(|path| dir.join(path));
    let mut identity = format!("{FORMAT} {} {names:?} ", packages.identity());
    identity.push_str(&busybox.iter().map(stamp).collect::<Result<String>>()?);
    let digest: String = Sha256::digest(identity.as_bytes())
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = dir.join("initramfs");
    let path = folder.join(format!("{digest}.cpio"));
    if path.exists() {
        return Ok(path);
    }
    let mut tree = Tree::default();
    if config.tools {
        for name in PROGRAMS {
            let found = packages.program(name);
            let (path, file) = found.with_context(|| format!("no package has a {name}"))?;
            tree.0.insert(path, Entry::File(file));
        }
        for (path, text) in ETC {
            tree.0.insert(path.to_owned(), Entry::Text(text));
        }
    }
    let first = packages.named.len() - config.packages.len();
    for root in &packages.named[first..] {
        tree.add_package(root, root)?;
    }
    tree.add_libraries(&packages)?;
    if let Some(busybox) = busybox {
        tree.add_busybox(&busybox)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut fresh = tempfile::NamedTempFile::new_in(&folder).context("make a temporary file")?;
    fresh.write_all(&tree.archive()?).context("write a part")?;
    fresh
        .persist(&path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Length and time of change of a file, which tell one content from another.
fn stamp(path: &PathBuf) -> Result<String> {
    let data = fs::metadata(path).with_context(|| format!("find {}", path.display()))?;
    Ok(format!("{} {:?}", data.len(), data.modified().ok()))
}

impl Tree {
    /// Everything below `folder` of the package at `root`.
    fn add_package(&mut self, root: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry.context("read a package")?.path();
            let inside = path.strip_prefix(root).context("a path left its package")?;
            let name = inside.to_str().context("a path that is not UTF-8")?;
            if LEFT_OUT.contains(&name) {
                continue;
            }
            let kind = path.symlink_metadata().context("look at a file")?;
            if kind.is_dir() {
                self.add_package(root, &path)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).context("read a link")?;
                let target = target.to_str().context("a link that is not UTF-8")?;
                self.0.insert(merged(name), Entry::Link(target.to_owned()));
            } else {
                self.0.insert(merged(name), Entry::File(path));
            }
        }
        Ok(())
    }

    /// The loader and the libraries of every program and library, in turn.
    fn add_libraries(&mut self, packages: &Packages) -> Result<()> {
        let files = self.0.values().filter_map(|entry| match entry {
            Entry::File(file) => Some(file.clone()),
            Entry::Link(_) | Entry::Text(_) => None,
        });
        let mut open: VecDeque<PathBuf> = files.collect();
        // libc loads it by its name when a thread is cancelled, as iperf3 does it; else it aborts.
        if !open.is_empty()
            && let Some((path, library)) = packages.library("libgcc_s.so.1")
        {
            self.0.insert(path, Entry::File(library.clone()));
            open.push_back(library);
        }
        while let Some(file) = open.pop_front() {
            for name in needed(&file)? {
                let found = match name.strip_prefix('/') {
                    Some(path) => Some(merged(path)).zip(packages.find(path)),
                    None => packages.library(&name),
                };
                let (path, library) = found.with_context(|| {
                    format!("{} needs {name}, which no package has", file.display())
                })?;
                if let btree_map::Entry::Vacant(place) = self.0.entry(path) {
                    place.insert(Entry::File(library.clone()));
                    open.push_back(library);
                }
            }
        }
        Ok(())
    }

    /// Busybox and links of its applets where no program has their names.
    fn add_busybox(&mut self, busybox: &Path) -> Result<()> {
        let listed = Command::new(busybox)
            .arg("--list")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {}", busybox.display()))?;
        for applet in String::from_utf8_lossy(&listed.stdout).lines() {
            let paths = ["usr/bin", "usr/sbin"].map(|folder| format!("{folder}/{applet}"));
            if !paths.iter().any(|path| self.0.contains_key(path)) {
                let [path, _] = paths;
                self.0.insert(path, Entry::Link(BUSYBOX.into()));
            }
        }
        let path = BUSYBOX.trim_start_matches('/').to_owned();
        self.0.insert(path, Entry::File(busybox.into()));
        Ok(())
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        for (path, entry) in &self.0 {
            match entry {
                Entry::Link(target) => archive.link(path, target),
                Entry::Text(text) => archive.file(path, 0o644, text.as_bytes()),
                Entry::File(file) => {
                    let read = || format!("read {}", file.display());
                    let mode = fs::metadata(file).with_context(read)?.permissions().mode();
                    let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
                    archive.file(path, mode, &fs::read(file).with_context(read)?);
                }
            }
        }
        Ok(archive.finish())
    }
}

/// The loader and the libraries that a file names; none if it is no program.
fn needed(file: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    let elf = Elf::parse(&bytes).with_context(|| format!("read {}", file.display()))?;
    let names = elf.interpreter.iter().chain(&elf.libraries);
    Ok(names.map(|name| (*name).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_its_loader_and_its_libraries_and_a_script_nothing() {
        let own = needed(&std::env::current_exe().unwrap()).unwrap();
        assert!(own.iter().any(|name| name.contains("ld-linux")), "{own:?}");
        assert!(
            own.iter().any(|name| name.starts_with("libc.so")),
            "{own:?}"
        );
        let temp = tempfile::tempdir().unwrap();
        let script = temp.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(needed(&script).unwrap().is_empty());
        fs::write(&script, "\x7fELF").unwrap();
        assert!(needed(&script).is_err());
    }

    #[test]
    fn a_package_is_taken_without_its_documentation() {
        let temp = tempfile::tempdir().unwrap();
        for path in ["usr/bin/x", "usr/share/doc/x/changelog", "lib/y"] {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut tree = Tree::default();
        tree.add_package(temp.path(), temp.path()).unwrap();
        let paths: Vec<_> = tree.0.keys().collect();
        assert_eq!(paths, ["usr/bin/x", "usr/lib/y"]);
    }
}
