//! Debian packages for the guest: fetched with what they depend on, each
//! unpacked once into a folder of its own, which nothing changes afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt;
use super::fetch::{FetchArgs, RELEASE, Step, private_apt, remove};
use super::layout::VmDir;

/// Packages of the tools in the guest.
pub(super) const TOOLS: [&str; 4] = ["iproute2", "ethtool", "iperf3", "tcpdump"];

/// Where Debian has its libraries.
pub(super) const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The dynamic loader, by the path that programs name.
pub(super) const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// Something that this machine or this QEMU cannot give: a scenario that ends
/// with it does not apply here.
#[derive(Debug)]
pub struct NotHere(pub String);

impl std::fmt::Display for NotHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotHere {}

/// Unpacked packages, through which files are looked up.
#[derive(Debug, Clone, Default)]
pub(super) struct Packages {
    /// Folders, each the root of one package.
    roots: Vec<PathBuf>,
    /// Folders of the packages that were asked for by name.
    pub(super) named: Vec<PathBuf>,
}

impl Packages {
    /// `names` and what they depend on; fetches what is missing.
    pub(super) fn ensure(dir: &VmDir, names: &[&str], args: &FetchArgs) -> Result<Self> {
        let mut closures: Vec<Option<Vec<String>>> = names
            .iter()
            .map(|name| {
                if args.refresh {
                    None
                } else {
                    recorded(dir, name)
                }
            })
            .collect();
        if closures.iter().any(Option::is_none) {
            let missing = || {
                names
                    .iter()
                    .zip(&closures)
                    .filter(|(_, known)| known.is_none())
            };
            if let Some(reason) = no_apt() {
                let names: Vec<_> = missing().map(|(name, _)| *name).collect();
                bail!(NotHere(format!(
                    "{} for the guest: {reason}",
                    names.join(", ")
                )));
            }
            let _lock = dir.lock("fetch.lock")?;
            let apt = private_apt(dir, args)?;
            for (name, closure) in names.iter().zip(&mut closures) {
                // Somebody else may have fetched it while this call waited.
                let known = if args.refresh {
                    None
                } else {
                    recorded(dir, name)
                };
                *closure = match known {
                    Some(known) => Some(known),
                    None => Some(fetch(dir, &apt, name)?),
                };
            }
        }
        let mut all = BTreeSet::new();
        let mut named = Vec::new();
        for (name, closure) in names.iter().zip(closures) {
            let closure = closure.context("a package was not fetched")?;
            let own = closure.iter().find(|id| is_version_of(id, name));
            let own = own.with_context(|| format!("{name} is not among what it brings"))?;
            named.push(folder(dir, own));
            all.extend(closure);
        }
        let roots = all.iter().map(|id| folder(dir, id)).collect();
        Ok(Self { roots, named })
    }

    /// The file that has `path` in one of the packages, links followed.
    pub(super) fn find(&self, path: &str) -> Option<PathBuf> {
        let mut path = merged(path);
        // More links than this in a row are a loop.
        for _ in 0..8 {
            let found = self
                .roots
                .iter()
                .map(|root| root.join(&path))
                .find(|file| file.symlink_metadata().is_ok_and(|data| !data.is_dir()))?;
            match fs::read_link(&found) {
                Err(_) => return Some(found),
                Ok(target) => path = follow(&path, target.to_str()?),
            }
        }
        None
    }

    /// The library `name`, and its path in the guest.
    pub(super) fn library(&self, name: &str) -> Option<(String, PathBuf)> {
        [LIBRARIES, "usr/lib", "usr/lib64"]
            .iter()
            .find_map(|folder| {
                let path = format!("{folder}/{name}");
                Some((path.clone(), self.find(&path)?))
            })
    }

    /// The program `name`, and its path in the guest.
    pub(super) fn program(&self, name: &str) -> Option<(String, PathBuf)> {
        ["usr/sbin", "usr/bin"].iter().find_map(|folder| {
            let path = format!("{folder}/{name}");
            Some((path.clone(), self.find(&path)?))
        })
    }

    /// A command that runs program `name` here, through its own loader.
    pub(super) fn command(&self, name: &str) -> Result<Command> {
        let (_, program) = self
            .program(name)
            .with_context(|| format!("no package has a program {name}"))?;
        let loader = self.find(LOADER).context("no package has a loader")?;
        let folders: Vec<PathBuf> = self
            .roots
            .iter()
            .map(|root| root.join(LIBRARIES))
            .filter(|folder| folder.is_dir())
            .collect();
        let folders = std::env::join_paths(folders).context("list the library folders")?;
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(folders).arg(program);
        Ok(command)
    }

    /// Names and versions, for telling one set from another.
    pub(super) fn identity(&self) -> String {
        let names = self
            .roots
            .iter()
            .filter_map(|root| root.file_name()?.to_str());
        names.collect::<Vec<_>>().join(" ")
    }
}

/// `path` as a system has it on which /bin, /lib and the like lead into /usr.
pub(super) fn merged(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let top = path.split('/').next().unwrap_or_default();
    match top {
        "bin" | "sbin" | "lib" | "lib64" => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

/// Where the link `path` with that target leads.
fn follow(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return merged(target);
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    merged(&parts.join("/"))
}

/// Why packages cannot be fetched here.
fn no_apt() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("packages are fetched for x86_64 only".into());
    }
    let error = Command::new("apt-get").arg("--version").output().err()?;
    Some(format!(
        "this system has no apt-get to fetch Debian's packages with ({error})"
    ))
}

fn folder(dir: &VmDir, id: &str) -> PathBuf {
    dir.join("packages").join(id)
}

fn list(dir: &VmDir, name: &str) -> PathBuf {
    dir.join("closures").join(format!("{name}.json"))
}

/// What an earlier fetch of `name` brought, if all of it is still there.
fn recorded(dir: &VmDir, name: &str) -> Option<Vec<String>> {
    let bytes = fs::read(list(dir, name)).ok()?;
    let ids: Vec<String> = serde_json::from_slice(&bytes).ok()?;
    ids.iter().all(|id| folder(dir, id).is_dir()).then_some(ids)
}

fn is_version_of(id: &str, name: &str) -> bool {
    id.split_once('_')
        .is_some_and(|(package, _)| package == name)
}

/// A package's folder: its name and version; apt too writes a colon so.
fn identity(name: &str, version: &str) -> String {
    format!("{name}_{}", version.replace(':', "%3a"))
}

/// Fetches `name` and what it depends on.
fn fetch(dir: &VmDir, apt: &apt::Apt, name: &str) -> Result<Vec<String>> {
    let mut wanted = apt.closure(RELEASE, name)?;
    // Nothing is compiled in a guest.
    wanted.retain(|(package, _)| package == name || !package.ends_with("-dev"));
    let missing: Vec<String> = wanted
        .iter()
        .filter(|(name, version)| !folder(dir, &identity(name, version)).is_dir())
        .map(|(name, version)| format!("{name}={version}"))
        .collect();
    if !missing.is_empty() {
        let archives = dir.join("archives").join(name);
        let bar = Step::begin(&format!("{name} and what it needs"));
        let found = apt.download(&missing, &archives, &|percent| bar.at(percent))?;
        bar.end();
        for archive in found {
            place(dir, &archive)?;
        }
        remove(&archives)?;
    }
    let ids: Vec<String> = wanted
        .iter()
        .map(|(name, version)| identity(name, version))
        .collect();
    let path = list(dir, name);
    fs::create_dir_all(dir.join("closures")).context("create the folder of lists")?;
    let fresh = path.with_extension("new");
    let text = serde_json::to_vec_pretty(&ids).context("encode a list of packages")?;
    fs::write(&fresh, text).with_context(|| format!("write {}", fresh.display()))?;
    fs::rename(&fresh, &path).with_context(|| format!("rename {}", fresh.display()))?;
    Ok(ids)
}

/// Unpacks one package, so that its folder is there whole or not at all.
fn place(dir: &VmDir, archive: &Path) -> Result<()> {
    let (name, version) = apt::identity(archive)?;
    let folder = folder(dir, &identity(&name, &version));
    if folder.is_dir() {
        return Ok(());
    }
    let fresh = dir.join("packages").join(format!(".new-{name}"));
    remove(&fresh)?;
    fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
    apt::unpack(archive, &fresh)?;
    fs::rename(&fresh, &folder).with_context(|| format!("rename {}", fresh.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, VmDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path()).unwrap();
        let put = |path: &str| {
            let path = dir.join("packages").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        put("ip_1/usr/bin/ip");
        put("lib_1%3a2/usr/lib/x86_64-linux-gnu/libx.so.1.2");
        let link = dir.join("packages/ip_1/usr/sbin/ip");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink("/bin/ip", link).unwrap();
        let libraries = dir.join("packages/lib_1%3a2").join(LIBRARIES);
        symlink(
            "../x86_64-linux-gnu/libx.so.1.2",
            libraries.join("libx.so.1"),
        )
        .unwrap();
        symlink("loop.so", libraries.join("loop.so")).unwrap();
        fs::create_dir_all(dir.join("closures")).unwrap();
        fs::write(list(&dir, "ip"), r#"["ip_1", "lib_1%3a2"]"#).unwrap();
        (temp, dir)
    }

    #[test]
    fn files_are_found_through_links_and_in_whatever_package_they_lie() {
        let (_temp, dir) = tree();
        let found = Packages::ensure(&dir, &["ip"], &FetchArgs::default()).unwrap();
        assert_eq!(found.named, [dir.join("packages/ip_1")]);
        let (path, file) = found.program("ip").unwrap();
        assert_eq!(path, "usr/sbin/ip");
        assert!(file.ends_with("usr/bin/ip"));
        let (path, file) = found.library("libx.so.1").unwrap();
        assert_eq!(path, format!("{LIBRARIES}/libx.so.1"));
        assert!(file.ends_with("libx.so.1.2"));
        assert_eq!(found.library("loop.so"), None);
        assert_eq!(found.program("nothere"), None);
        assert!(found.command("ip").is_err(), "there is no loader");
    }

    #[test]
    fn a_list_of_packages_holds_only_while_all_of_them_are_there() {
        let (_temp, dir) = tree();
        assert!(recorded(&dir, "ip").is_some());
        assert!(recorded(&dir, "other").is_none());
        fs::remove_dir_all(dir.join("packages/lib_1%3a2")).unwrap();
        assert!(recorded(&dir, "ip").is_none());
    }

    #[test]
    fn a_package_is_not_taken_for_one_whose_name_it_begins() {
        assert!(is_version_of("dpdk_25.11-1", "dpdk"));
        assert!(!is_version_of("dpdk-dev_25.11-1", "dpdk"));
        assert_eq!(identity("libc6", "1:2.41"), "libc6_1%3a2.41");
    }
}
