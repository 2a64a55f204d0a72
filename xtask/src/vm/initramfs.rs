//! The guest's first and only file system, put together of parts.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use guest_agent::{MODPROBE, MODULE_ALIASES, MODULE_DIR, MODULE_LIST};

use super::cpio::Archive;
use super::fetch::FetchArgs;
use super::layout::{Installation, VmDir, workspace};
use super::machine::VmConfig;
use super::packages::merged;
use super::{modules, userland};
use crate::build::target_directory;

/// Names a guest agent that is already built, for where there is no cargo.
pub const AGENT_VARIABLE: &str = "TANDEM_GUEST_AGENT";

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the guest agent as a static program.
pub(super) fn build_agent() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(AGENT_VARIABLE) {
        return Ok(path.into());
    }
    // Beside this checkout's other programs: the folder of VMs may serve
    // several checkouts, and an agent fits the host it was built with.
    let target = target_directory().join("guest-agent");
    build_to("guest-agent", ["--bin", "guest-agent"], true, &target)
}

/// Builds `program` of the package of that name as a static program, which runs
/// in any guest.
pub fn build_static(program: &str) -> Result<PathBuf> {
    let target = target_directory().join("guest-programs");
    build_to(program, ["--bin", program], false, &target)
}

/// The same for an example of a package.
pub fn build_static_example(package: &str, example: &str) -> Result<PathBuf> {
    let target = target_directory().join("guest-programs");
    build_to(package, ["--example", example], false, &target)
}

fn build_to(package: &str, what: [&str; 2], release: bool, target: &Path) -> Result<PathBuf> {
    let [kind, program] = what;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--quiet", "--package", package, kind, program])
        .args(release.then_some("--release"))
        // With a target named, the flags below do not reach build scripts.
        .args(["--target", TARGET, "--target-dir"])
        .arg(target)
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=symbols",
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .with_context(|| format!("run cargo, to build {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} does not build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let profile = if release { "release" } else { "debug" };
    let mut built = target.join(TARGET).join(profile);
    if kind == "--example" {
        built.push("examples");
    }
    Ok(built.join(program))
}

/// Archives that follow each other in one initramfs.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// What differs from VM to VM.
    own: Vec<u8>,
    /// A file with what does not.
    shared: Option<PathBuf>,
}

impl Parts {
    /// Writes the whole as one file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let whole = || -> std::io::Result<()> {
            let mut file = File::create(path)?;
            file.write_all(&self.own)?;
            if let Some(shared) = &self.shared {
                std::io::copy(&mut File::open(shared)?, &mut file)?;
            }
            Ok(())
        };
        whole().with_context(|| format!("write {}", path.display()))
    }
}

/// The agent as /init, the modules of `config` with what they depend on, its
/// files, and the tools and packages that it names.
pub(super) fn build(dir: &VmDir, installation: &Installation, config: &VmConfig) -> Result<Parts> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "tmp", "run", "root", "usr/bin"] {
        archive.folder(folder);
    }
    for folder in ["usr/sbin", "usr/lib", "usr/lib64"] {
        archive.folder(folder);
    }
    archive.link("var/run", "/run");
    archive.link("var/tmp", "/tmp");
    for link in ["bin", "sbin", "lib", "lib64"] {
        archive.link(link, &format!("usr/{link}"));
    }
    // The kernel opens it for /init before anything is mounted.
    archive.device("dev/console", 0o600, (5, 1));
    archive.file("init", 0o755, &read(&build_agent()?)?);
    archive.link(&format!("usr/sbin{MODPROBE}"), "/init");
    let (mut list, mut aliases) = (String::new(), String::new());
    let folder = dir.join(&installation.kernel.modules);
    for module in modules::collect(&folder, &config.modules)?.values() {
        let path = format!("{MODULE_DIR}/{}.{}", module.name, module.extension);
        archive.file(&path, 0o644, &module.content);
        list.push_str(&format!("{}: {}\n", module.name, module.needs.join(" ")));
        for alias in &module.aliases {
            aliases.push_str(&format!("{alias} {}\n", module.name));
        }
    }
    archive.file(MODULE_ALIASES, 0o644, aliases.as_bytes());
    archive.file(MODULE_LIST, 0o644, list.as_bytes());
    for (in_guest, here) in &config.files {
        archive.file(&merged(in_guest), 0o755, &read(here)?);
    }
    let shared = if config.tools || !config.packages.is_empty() {
        let args = FetchArgs::default();
        Some(userland::part(dir, installation, config, &args)?)
    } else {
        None
    };
    Ok(Parts {
        own: archive.finish(),
        shared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_the_shared_one_is_left_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let shared = temp.path().join("shared");
        fs::write(&shared, "second").unwrap();
        let parts = Parts {
            own: b"first ".to_vec(),
            shared: Some(shared.clone()),
        };
        let whole = temp.path().join("initrd");
        parts.write(&whole).unwrap();
        assert_eq!(fs::read(&whole).unwrap(), b"first second");
        assert_eq!(fs::read(&shared).unwrap(), b"second");
    }
}
