//! Where the fetched QEMU and kernel lie, and what is known of them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::fetch::FetchArgs;
use super::packages::{Packages, TOOLS};
use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Names another folder than `target/vm`, so that several checkouts can
/// share one download.
pub const DIR_VARIABLE: &str = "TANDEM_VM_DIR";

/// Bumped when the meaning of the stamp changes; older ones are fetched anew.
const STAMP_VERSION: u32 = 1;

/// The folder that holds everything a VM is made of.
#[derive(Debug, Clone)]
pub struct VmDir(PathBuf);

impl VmDir {
    /// `$TANDEM_VM_DIR`, else `vm` in cargo's target directory.
    pub fn locate() -> Result<Self> {
        let path = match std::env::var_os(DIR_VARIABLE) {
            Some(path) => PathBuf::from(path),
            None => crate::build::target_directory().join("vm"),
        };
        Self::at(&path)
    }

    /// The folder at `path`, which is created.
    pub fn at(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("resolve {}", path.display()))?;
        Ok(Self(path))
    }

    /// A path below the folder; an absolute `path` stays what it is.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// Holds `name` against other processes until the result is dropped.
    pub fn lock(&self, name: &str) -> Result<Flock<File>> {
        let path = self.join(name);
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, _)) => file,
        };
        eprintln!("Waiting for another process that holds {}", path.display());
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("lock {}", path.display()))
    }

    /// What an earlier fetch put here; `None` if nothing (usable) is here.
    pub fn installation(&self) -> Result<Option<Installation>> {
        let path = self.join("stamp.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let Ok(stamp) = serde_json::from_slice::<Stamp>(&bytes) else {
            return Ok(None);
        };
        let usable = stamp.version == STAMP_VERSION
            && self.join(stamp.installation.qemu.source.program()).exists()
            && self.join(&stamp.installation.kernel.image).exists()
            && self.join(&stamp.installation.kernel.modules).exists();
        Ok(usable.then_some(stamp.installation))
    }

    /// Records `installation` for later calls.
    pub(super) fn record(&self, installation: &Installation) -> Result<()> {
        let stamp = Stamp {
            version: STAMP_VERSION,
            installation: installation.clone(),
        };
        let text = serde_json::to_vec_pretty(&stamp).context("encode the stamp")?;
        let (fresh, path) = (self.join("stamp.json.new"), self.join("stamp.json"));
        fs::write(&fresh, text).with_context(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, &path).with_context(|| format!("rename {}", fresh.display()))
    }
}

pub(super) use crate::build::workspace;

#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    version: u32,
    installation: Installation,
}

/// A QEMU and a kernel that are ready for use. Paths are relative to the
/// [`VmDir`] where they lie in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The emulator.
    pub qemu: Qemu,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// A static busybox, for `vm shell`.
    pub busybox: Option<PathBuf>,
    /// Debian packages that were unpacked, in order of their names.
    pub packages: Vec<Package>,
}

impl Installation {
    /// A command that runs program `name` of the guest's tools on this
    /// machine: the one of this system, where there is one.
    pub fn host_tool(&self, dir: &VmDir, name: &str) -> Result<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = std::env::split_paths(&path)
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|folder| folder.join(name))
            .find(|program| program.is_file());
        match own {
            Some(program) => Ok(Command::new(program)),
            None => Packages::ensure(dir, &TOOLS, &FetchArgs::default())?.command(name),
        }
    }
}

/// A package and its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version, epoch included.
    pub version: String,
}

/// A guest kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// The folder `lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// `uname -r`.
    pub release: String,
}

/// An emulator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// Where it comes from.
    pub source: QemuSource,
    /// As `--version` prints it.
    pub version: String,
    /// Whether it can be told to end with the process that started it.
    pub exit_with_parent: bool,
}

/// Where a QEMU comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QemuSource {
    /// A program of this system.
    Installed(PathBuf),
    /// Debian packages unpacked below this folder: run through their own
    /// dynamic loader, so that no library of the host matters.
    Unpacked(PathBuf),
}

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

impl QemuSource {
    fn program(&self) -> PathBuf {
        match self {
            Self::Installed(program) => program.clone(),
            Self::Unpacked(root) => root.join("usr/bin/qemu-system-x86_64"),
        }
    }

    /// A command that runs the emulator, without arguments of its own.
    pub fn command(&self, dir: &VmDir) -> Command {
        let root = match self {
            Self::Installed(program) => return Command::new(dir.join(program)),
            Self::Unpacked(root) => dir.join(root),
        };
        let libraries = root.join(LIBRARIES);
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(&libraries)
            .arg(dir.join(self.program()));
        for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(root.join(firmware));
        }
        command.env("QEMU_MODULE_DIR", libraries.join("qemu"));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(dir: &VmDir) -> Installation {
        for file in [
            "root/usr/bin/qemu-system-x86_64",
            "kernel/vmlinuz",
            "kernel/modules/x",
        ] {
            fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
            fs::write(dir.join(file), "").unwrap();
        }
        Installation {
            qemu: Qemu {
                source: QemuSource::Unpacked("root".into()),
                version: "11.1.3".into(),
                exit_with_parent: true,
            },
            kernel: Kernel {
                image: "kernel/vmlinuz".into(),
                modules: "kernel/modules".into(),
                release: "6.12".into(),
            },
            busybox: None,
            packages: vec![Package {
                name: "a".into(),
                version: "1:2".into(),
            }],
        }
    }

    #[test]
    fn a_recorded_installation_is_found_again_until_a_file_of_it_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path()).unwrap();
        assert_eq!(dir.installation().unwrap(), None);
        let installation = sample(&dir);
        dir.record(&installation).unwrap();
        assert_eq!(dir.installation().unwrap(), Some(installation));
        fs::remove_file(dir.join("kernel/vmlinuz")).unwrap();
        assert_eq!(dir.installation().unwrap(), None);
    }

    #[test]
    fn a_stamp_of_another_version_or_shape_is_not_used() {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path()).unwrap();
        dir.record(&sample(&dir)).unwrap();
        let text = fs::read_to_string(dir.join("stamp.json")).unwrap();
        fs::write(
            dir.join("stamp.json"),
            text.replace("\"version\": 1,", "\"version\": 0,"),
        )
        .unwrap();
        assert_eq!(dir.installation().unwrap(), None);
        fs::write(dir.join("stamp.json"), "{").unwrap();
        assert_eq!(dir.installation().unwrap(), None);
    }

    #[test]
    fn an_unpacked_qemu_runs_through_its_own_loader() {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path()).unwrap();
        let command = QemuSource::Unpacked("root".into()).command(&dir);
        assert!(Path::new(command.get_program()).ends_with("ld-linux-x86-64.so.2"));
        let program = dir.join("root/usr/bin/qemu-system-x86_64");
        assert!(command.get_args().any(|argument| argument == program));
    }
}
