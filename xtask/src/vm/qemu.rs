//! Finding out what a QEMU can do.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use super::layout::{Qemu, QemuSource, VmDir};

/// First version with vfio-user-pci in working order.
const OLDEST: (u32, u32, u32) = (10, 1, 1);

/// Asks the emulator for its version and devices; fails if it is too old or
/// lacks vfio-user-pci.
pub(super) fn examine(dir: &VmDir, source: QemuSource) -> Result<Qemu> {
    let ask = |arguments: &[&str]| -> Result<String> {
        let mut command = source.command(dir);
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{program} {}: {}: {}",
                arguments.join(" "),
                output.status,
                stderr.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let text = ask(&["--version"])?;
    let version = parse_version(&text).with_context(|| format!("no version in {text:?}"))?;
    ensure!(
        version >= OLDEST,
        "QEMU {version:?} is older than {OLDEST:?}"
    );
    let help = ask(&["-device", "vfio-user-pci,help"])?;
    ensure!(
        help.contains("socket="),
        "this QEMU was built without vfio-user-pci"
    );
    let exit_with_parent = ask(&["-help"])?.contains("exit-with-parent");
    let (major, minor, patch) = version;
    Ok(Qemu {
        source,
        version: format!("{major}.{minor}.{patch}"),
        exit_with_parent,
    })
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let word = text.split_once("version ")?.1.split_whitespace().next()?;
    let mut parts = word.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// The QEMU of this system, if it will do; otherwise why not.
pub(super) fn installed(dir: &VmDir) -> Result<Qemu> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program: PathBuf = std::env::split_paths(&path)
        .map(|folder| folder.join("qemu-system-x86_64"))
        .find(|program| program.is_file())
        .context("qemu-system-x86_64 is not installed")?;
    named(dir, &program)
}

/// The QEMU at `program`.
pub(super) fn named(dir: &VmDir, program: &Path) -> Result<Qemu> {
    let program = program
        .canonicalize()
        .with_context(|| format!("find {}", program.display()))?;
    examine(dir, QemuSource::Installed(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let text = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright";
        assert_eq!(parse_version(text), Some((11, 1, 3)));
        assert!(parse_version("QEMU emulator version 7.2.22").unwrap() < OLDEST);
        assert!(parse_version("QEMU emulator version 10.10.0").unwrap() > OLDEST);
        assert_eq!(parse_version("QEMU emulator version ?"), None);
    }

    #[test]
    fn a_program_that_is_no_qemu_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path()).unwrap();
        assert!(named(&dir, Path::new("/bin/true")).is_err());
        assert!(named(&dir, Path::new("/no/such/program")).is_err());
    }
}
