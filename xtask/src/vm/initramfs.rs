//! The guest's first and only file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use guest_agent::{BUSYBOX, MODULE_DIR, MODULE_LIST};

use super::cpio::Archive;
use super::layout::{Installation, VmDir, workspace};
use super::modules;

/// Names a guest agent that is already built, for where there is no cargo.
pub const AGENT_VARIABLE: &str = "TANDEM_GUEST_AGENT";

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the guest agent as a static program.
pub(super) fn build_agent(dir: &VmDir) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(AGENT_VARIABLE) {
        return Ok(path.into());
    }
    let target = dir.join("agent");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "guest-agent",
            "--bin",
        ])
        // With a target named, the flags below do not reach build scripts.
        .args(["guest-agent", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=symbols",
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .context("run cargo, to build the guest agent")?;
    if !output.status.success() {
        bail!(
            "the guest agent does not build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(target.join(TARGET).join("release/guest-agent"))
}

/// The archive: the agent as /init, `modules` with what they depend on, and
/// busybox if asked for.
pub(super) fn build(
    dir: &VmDir,
    installation: &Installation,
    modules: &[String],
    busybox: bool,
) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut archive = Archive::new();
    for folder in ["/bin", "/dev", "/proc", "/sys", "/tmp", MODULE_DIR] {
        archive.folder(folder);
    }
    // The kernel opens it for /init before anything is mounted.
    archive.device("/dev/console", 0o600, (5, 1));
    archive.file("/init", 0o755, &read(&build_agent(dir)?)?);
    if busybox {
        let path = installation.busybox.as_ref().context(
            "no busybox was fetched, and the shell is made of it: run `cargo xtask vm fetch` \
             without --kernel",
        )?;
        archive.file(BUSYBOX, 0o755, &read(&dir.join(path))?);
    }
    let mut list = String::new();
    for module in modules::collect(&dir.join(&installation.kernel.modules), modules)?.values() {
        let path = format!("{MODULE_DIR}/{}.{}", module.name, module.extension);
        archive.file(&path, 0o644, &module.content);
        list.push_str(&format!("{}: {}\n", module.name, module.needs.join(" ")));
    }
    archive.file(MODULE_LIST, 0o644, list.as_bytes());
    Ok(archive.finish())
}
