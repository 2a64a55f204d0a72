//! The folder of one VM's logs, kept when the VM does not end well.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::layout::VmDir;

/// How much of a log an error quotes, in lines.
const QUOTED_LINES: usize = 15;

/// What the guest wrote to its console.
const SERIAL: &str = "serial.log";
/// What QEMU complained of.
const QEMU: &str = "qemu.log";

/// The files of one VM.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) keep: bool,
}

impl Folder {
    pub(super) fn new(dir: &VmDir, name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir
            .join("log")
            .join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, keep: true })
    }

    pub(super) fn serial(&self) -> PathBuf {
        self.path.join(SERIAL)
    }

    pub(super) fn stderr(&self) -> PathBuf {
        self.path.join(QEMU)
    }

    /// The kernel has its copy; a log folder should hold logs.
    pub(super) fn forget_initrd(&mut self) {
        // Left behind it is only in the way.
        let _ = fs::remove_file(self.path.join("initrd"));
    }

    /// Last lines of both logs.
    pub(super) fn evidence(&self, name: &str) -> String {
        format!("{name} failed; {}", evidence(&self.path))
    }
}

/// Last lines of the logs in `folder`.
pub(super) fn evidence(folder: &Path) -> String {
    let mut text = format!("logs are in {}", folder.display());
    for file in [QEMU, SERIAL] {
        let content = fs::read(folder.join(file)).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = content.lines().collect();
        let last = &lines[lines.len().saturating_sub(QUOTED_LINES)..];
        if !last.is_empty() {
            text.push_str(&format!("\n--- {file}\n{}", last.join("\n")));
        }
    }
    text
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.forget_initrd();
        if !self.keep {
            // Left behind it is only in the way.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_a_failure_stay_and_are_quoted() {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path()).unwrap();
        let folder = Folder::new(&dir, "x").unwrap();
        let lines: String = (0..40).map(|line| format!("line {line}\n")).collect();
        fs::write(folder.serial(), lines).unwrap();
        let evidence = folder.evidence("x");
        assert!(evidence.contains("line 39") && !evidence.contains("line 3\n"));
        let path = folder.path.clone();
        drop(folder);
        assert!(path.exists());
        let mut folder = Folder::new(&dir, "y").unwrap();
        folder.keep = false;
        let path = folder.path.clone();
        drop(folder);
        assert!(!path.exists());
    }
}
