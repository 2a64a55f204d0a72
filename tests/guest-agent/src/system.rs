//! Files, the kernel log and PCI functions.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use guest_agent::protocol::{MAX_FILE, MAX_OUTPUT, PciFunction};
use nix::errno::Errno;
use nix::fcntl::OFlag;

pub(crate) fn read_file(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("open {path}"))?;
    file.take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {path}"))?;
    ensure!(
        bytes.len() <= MAX_FILE,
        "{path} has more than {MAX_FILE} bytes"
    );
    Ok(bytes)
}

/// A file's text without the white space around it.
pub(crate) fn read_text(path: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_file(path)?).trim().to_owned())
}

/// `mode` is that of a file that is new.
pub(crate) fn write_file(path: &str, content: &[u8], mode: u32, append: bool) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(!append)
        .append(append)
        .mode(mode)
        .open(path)
        .with_context(|| format!("open {path}"))?;
    // sysfs takes a value in one write.
    file.write_all(content)
        .with_context(|| format!("write {path}"))
}

/// The kernel log: one line per message, without the header of /dev/kmsg.
pub(crate) fn kmsg() -> Result<String> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")
        .context("open /dev/kmsg")?;
    let mut out = String::new();
    // One record a read; records are at most 8 KiB in this interface.
    let mut record = vec![0u8; 16 << 10];
    while out.len() < MAX_OUTPUT {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(count) => out.push_str(&record_line(&String::from_utf8_lossy(&record[..count]))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // The record was overwritten meanwhile; the next read goes on.
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
            Err(error) => return Err(error).context("read /dev/kmsg"),
        }
    }
    Ok(out)
}

/// `priority,sequence,microseconds,...;text` as `[seconds] text`.
fn record_line(record: &str) -> String {
    let (header, text) = record.split_once(';').unwrap_or(("", record));
    let text = text.lines().next().unwrap_or_default();
    let micros: u64 = header
        .split(',')
        .nth(2)
        .and_then(|t| t.parse().ok())
        .unwrap_or(0);
    format!(
        "[{:5}.{:06}] {text}\n",
        micros / 1_000_000,
        micros % 1_000_000
    )
}

/// PCI functions, by address.
pub(crate) fn pci() -> Result<Vec<PciFunction>> {
    let mut functions: Vec<PciFunction> = fs::read_dir("/sys/bus/pci/devices")
        .context("read /sys/bus/pci/devices")?
        .filter_map(|entry| pci_function(&entry.ok()?.path()))
        .collect();
    functions.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(functions)
}

fn pci_function(dir: &Path) -> Option<PciFunction> {
    let number = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let driver = fs::canonicalize(dir.join("driver")).ok();
    Some(PciFunction {
        address: dir.file_name()?.to_str()?.to_owned(),
        vendor: number("vendor")?.try_into().ok()?,
        device: number("device")?.try_into().ok()?,
        class: number("class")?,
        revision: number("revision")?.try_into().ok()?,
        driver: driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_anew_or_longer_and_read_back() {
        let folder = std::env::temp_dir().join(format!("guest-agent-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("file").display().to_string();
        write_file(&path, b"longer than", 0o600, false).unwrap();
        write_file(&path, &[0, 255], 0o600, false).unwrap();
        write_file(&path, b"x", 0o600, true).unwrap();
        let read = read_file(&path);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read.unwrap(), [0, 255, b'x']);
        assert!(read_file("/dev/zero").is_err());
    }

    #[test]
    fn kernel_records_become_lines() {
        let line = record_line("6,339,5140900,-;igbvf: probe\n SUBSYSTEM=pci\n");
        assert_eq!(line, "[    5.140900] igbvf: probe\n");
    }
}
