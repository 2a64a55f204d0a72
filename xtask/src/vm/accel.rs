//! Which way of running the guest's code works on this machine.

use std::fs::{self, OpenOptions};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::layout::{Installation, VmDir};
use super::machine::{Vm, VmConfig};

/// A KVM that works boots in two seconds; on some hosts nested KVM exists
/// and never gets a stock kernel to its init.
const PROBE_BOUND: Duration = Duration::from_secs(30);

/// How the guest's code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// Translated by QEMU.
    Tcg,
}

impl Accel {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The answer of an earlier probe, and for what it holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    host: String,
    qemu: String,
    kernel: String,
    accel: Accel,
    /// Why it is not KVM.
    #[serde(default)]
    reason: Option<String>,
}

/// Says once why VMs are slow.
fn tell(reason: &str) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| eprintln!("VMs run on TCG: {reason}"));
}

/// KVM if it really boots the kernel, else TCG. The first call finds out;
/// later ones use its answer, for as long as host, QEMU and kernel are the
/// same.
pub fn best(dir: &VmDir, installation: &Installation) -> Result<Accel> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        tell(&format!("/dev/kvm: {error}"));
        return Ok(Accel::Tcg);
    }
    let _lock = dir.lock("accel.lock")?;
    let path = dir.join("accel.json");
    let mut verdict = Verdict {
        host: fs::read_to_string("/proc/version").context("read /proc/version")?,
        qemu: installation.qemu.version.clone(),
        kernel: installation.kernel.release.clone(),
        accel: Accel::Kvm,
        reason: None,
    };
    let known = fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(known) = known.filter(|known: &Verdict| {
        (&known.host, &known.qemu, &known.kernel) == (&verdict.host, &verdict.qemu, &verdict.kernel)
    }) {
        if known.accel == Accel::Tcg {
            let reason = known.reason.as_deref().unwrap_or("it did not say why");
            tell(&format!("KVM did not boot the kernel before: {reason}"));
        }
        return Ok(known.accel);
    }
    eprintln!("Finding out whether KVM boots the guest's kernel, at most {PROBE_BOUND:?}");
    let config = VmConfig {
        accel: Some(Accel::Kvm),
        boot_timeout: PROBE_BOUND,
        modules: Vec::new(),
        ..VmConfig::new("kvm-probe")
    };
    match Vm::start(dir, installation, &config).and_then(Vm::shutdown) {
        Ok(()) => {}
        Err(error) => {
            let reason = error.root_cause().to_string();
            tell(&format!("KVM does not boot the kernel: {reason}"));
            verdict.accel = Accel::Tcg;
            verdict.reason = Some(reason);
        }
    }
    let text = serde_json::to_vec_pretty(&verdict).context("encode the verdict")?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(verdict.accel)
}
