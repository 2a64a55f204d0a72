//! The guest's kernel: modules, files, log, devices.

use anyhow::{Context as _, Result};
use guest_agent::protocol::{Bytes, MAX_FILE, Op, PciFunction};

use super::Agent;

impl Agent {
    /// Loads a module and what it depends on; returns what was loaded now.
    pub fn load_module(&self, name: &str, params: &str) -> Result<Vec<String>> {
        self.quick(Op::LoadModule {
            name: name.into(),
            params: params.into(),
        })
    }

    /// Unloads a module.
    pub fn unload_module(&self, name: &str) -> Result<()> {
        self.quick(Op::UnloadModule { name: name.into() })
    }

    /// Reads a file of the guest.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let bytes: Bytes = self.quick(Op::ReadFile { path: path.into() })?;
        Ok(bytes.0)
    }

    /// Reads a file of the guest as text.
    pub fn read_text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read_file(path)?).into_owned())
    }

    /// Writes a file of the guest, sysfs included; `mode` is that of a file
    /// that is new.
    pub fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut pieces = content.chunks(MAX_FILE);
        let first = pieces.next().unwrap_or_default();
        for (at, piece) in std::iter::once(first).chain(pieces).enumerate() {
            let () = self.quick(Op::WriteFile {
                path: path.into(),
                content: Bytes(piece.to_vec()),
                mode,
                append: at > 0,
            })?;
        }
        Ok(())
    }

    /// Busy time of the guest's CPUs since it started, in milliseconds.
    pub(in crate::vm) fn cpu_ms(&self) -> Result<u64> {
        busy_ms(&self.read_text("/proc/stat")?).context("read the guest's /proc/stat")
    }

    /// The guest's kernel log.
    pub fn kmsg(&self) -> Result<String> {
        self.quick(Op::Kmsg)
    }

    /// The guest's PCI functions.
    pub fn pci(&self) -> Result<Vec<PciFunction>> {
        self.quick(Op::Pci)
    }
}

/// user, nice, system, irq, softirq and steal of the first line of /proc/stat,
/// which counts in hundredths of a second.
fn busy_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.split_whitespace();
    let ticks: Vec<u64> = (fields.next()? == "cpu")
        .then(|| fields.map_while(|field| field.parse().ok()).collect())?;
    let busy = [0, 1, 2, 5, 6, 7].map(|at| ticks.get(at).copied().unwrap_or(0));
    (ticks.len() >= 7).then(|| busy.iter().sum::<u64>() * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_and_waiting() {
        let stat = "cpu  10 1 5 9999 777 2 3 4 50 60\ncpu0 1 1\n";
        assert_eq!(busy_ms(stat), Some(250));
        assert_eq!(busy_ms("intr 5"), None);
        assert_eq!(busy_ms("cpu 1 2"), None);
    }
}
