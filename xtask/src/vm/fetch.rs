//! Bringing a stock QEMU and a stock kernel here, without root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::apt::{self, Apt, Repository, Sources};
use super::layout::{Installation, Kernel, Package, Qemu, QemuSource, VmDir};
use super::qemu;

/// Debian's release with the kernel, and the suite with the QEMU.
pub(super) const RELEASE: &str = "trixie";
const BACKPORTS: &str = "trixie-backports";
const QEMU_PACKAGE: &str = "qemu-system-x86";
const KERNEL_PACKAGE: &str = "linux-image-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";
const KEYRING_PACKAGE: &str = "debian-archive-keyring";

/// What to fetch, and what to use instead.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FetchArgs {
    /// Use this QEMU (10.1.1 or later, with vfio-user-pci).
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// Use this kernel image; needs --modules.
    #[arg(long, value_name = "PATH", requires = "modules")]
    pub kernel: Option<PathBuf>,
    /// The module folder of --kernel (lib/modules/RELEASE).
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub modules: Option<PathBuf>,
    /// Address of a Debian mirror, instead of the one this system's apt uses.
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// Keyring that verifies the mirror, instead of this system's.
    #[arg(long, value_name = "FILE")]
    pub keyring: Option<PathBuf>,
    /// Fetch the newest versions, whatever is already here.
    #[arg(long)]
    pub refresh: bool,
}

impl FetchArgs {
    /// Whether the call names what to use, so that what is there may differ.
    fn names_anything(&self) -> bool {
        self.refresh || self.qemu.is_some() || self.kernel.is_some()
    }
}

/// Returns what is there, and fetches it first if need be.
pub fn ensure_fetched(dir: &VmDir, args: &FetchArgs) -> Result<Installation> {
    if !args.names_anything()
        && let Some(installation) = dir.installation()?
    {
        return Ok(installation);
    }
    let _lock = dir.lock("fetch.lock")?;
    // Somebody else may have fetched while this call waited.
    if !args.names_anything()
        && let Some(installation) = dir.installation()?
    {
        return Ok(installation);
    }
    let installation = fetch(dir, args)?;
    dir.record(&installation)?;
    // A broken download must survive for the next try, a finished one need
    // not; the lists are of use for the guest's packages.
    for leftover in ["apt/cache", "apt-host", "archives"] {
        remove(&dir.join(leftover))?;
    }
    Ok(installation)
}

fn fetch(dir: &VmDir, args: &FetchArgs) -> Result<Installation> {
    let own_qemu = match &args.qemu {
        Some(program) => Some(qemu::named(dir, program)?),
        None => match qemu::installed(dir) {
            Ok(qemu) => Some(qemu),
            Err(reason) => {
                eprintln!("QEMU of this system is not used: {reason:#}");
                None
            }
        },
    };
    let own_kernel = match (&args.kernel, &args.modules) {
        (Some(image), Some(modules)) => Some(named_kernel(image, modules)?),
        _ => None,
    };
    if let (Some(qemu), Some(kernel)) = (&own_qemu, &own_kernel) {
        let (qemu, kernel) = (qemu.clone(), kernel.clone());
        return Ok(Installation {
            qemu,
            kernel,
            busybox: None,
            packages: Vec::new(),
        });
    }
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "QEMU and kernel are fetched for x86_64 only: name your own with --qemu, --kernel and \
         --modules"
    );
    let mut packages = Vec::new();
    let apt = private_apt(dir, args)?;
    let (kernel, busybox) = match own_kernel {
        Some(kernel) => (kernel, None),
        None => {
            let (kernel, busybox) = fetch_kernel(dir, &apt, &mut packages)?;
            (kernel, Some(busybox))
        }
    };
    let qemu = match own_qemu {
        Some(qemu) => qemu,
        None => fetch_qemu(dir, &apt, &mut packages)?,
    };
    packages.sort();
    Ok(Installation {
        qemu,
        kernel,
        busybox,
        packages,
    })
}

fn named_kernel(image: &Path, modules: &Path) -> Result<Kernel> {
    let find = |path: &Path| {
        path.canonicalize()
            .with_context(|| format!("find {}", path.display()))
    };
    let (image, modules) = (find(image)?, find(modules)?);
    let release = modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    ensure!(
        modules.join("kernel").is_dir(),
        "{} holds no kernel/",
        modules.display()
    );
    Ok(Kernel {
        image,
        modules,
        release,
    })
}

/// An apt with up-to-date lists of both suites, and verified signatures.
pub(super) fn private_apt(dir: &VmDir, args: &FetchArgs) -> Result<Apt> {
    let mirror = match &args.mirror {
        Some(mirror) => mirror.clone(),
        None => find_mirror(dir)?,
    };
    let suites = &[RELEASE, BACKPORTS];
    let try_with = |keyring: &Path| -> Result<Apt> {
        let sources = Sources {
            mirror: &mirror,
            suites,
            keyring,
        };
        let apt = Apt::new(&dir.join("apt"), Some(&sources))?;
        let bar = Step::begin("package lists");
        apt.update(&|percent| bar.at(percent))?;
        bar.end();
        Ok(apt)
    };
    if let Some(keyring) = &args.keyring {
        let keyring = keyring
            .canonicalize()
            .with_context(|| format!("find {}", keyring.display()));
        return try_with(&keyring?);
    }
    let first = match host_keyring() {
        Some(keyring) => try_with(&keyring),
        None => Err(anyhow::anyhow!(
            "this system has no keyring of Debian's archive"
        )),
    };
    first.or_else(|reason| {
        // An older system's keyring may lack the keys of a later release; its
        // updates bring them, verified by the keys it has.
        eprintln!("Fetching a newer {KEYRING_PACKAGE}: {reason:#}");
        let keyring = fetch_keyring(dir).with_context(|| format!("after: {reason:#}"))?;
        try_with(&keyring)
    })
}

/// The address from which this system's apt takes Debian's packages.
fn find_mirror(dir: &VmDir) -> Result<String> {
    let pick = |repositories: Vec<Repository>| {
        repositories
            .into_iter()
            .find(Repository::is_debian)
            .map(|found| found.address)
    };
    if let Some(address) = pick(apt::host_repositories()?) {
        return Ok(address);
    }
    // Without lists apt cannot tell whose a repository is. A foreign source
    // that fails is no matter here.
    let apt = Apt::new(&dir.join("apt-host"), None)?;
    let bar = Step::begin("package lists of this system");
    let updated = apt.update(&|percent| bar.at(percent));
    bar.end();
    match (pick(apt.repositories()?), updated) {
        (Some(address), _) => Ok(address),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => bail!(
            "none of this system's package sources is Debian's archive: name a mirror of it with \
             --mirror URL"
        ),
    }
}

fn host_keyring() -> Option<PathBuf> {
    let folder = Path::new("/usr/share/keyrings");
    let names = ["debian-archive-keyring.pgp", "debian-archive-keyring.gpg"];
    names
        .map(|name| folder.join(name))
        .into_iter()
        .find(|path| path.exists())
}

/// The newest keyring this system's own, verified sources have.
fn fetch_keyring(dir: &VmDir) -> Result<PathBuf> {
    let apt = Apt::new(&dir.join("apt-host"), None)?;
    let bar = Step::begin("keyring");
    // A foreign source that fails is no matter if Debian's came.
    let updated = apt.update(&|percent| bar.at(percent));
    let into = dir.join("archives/keyring");
    let found = apt.download(&[KEYRING_PACKAGE.into()], &into, &|percent| bar.at(percent));
    bar.end();
    let found = match (found, updated) {
        (Ok(found), _) => found,
        (Err(error), Ok(())) => return Err(error),
        (Err(error), Err(update)) => return Err(error.context(format!("{update:#}"))),
    };
    let root = dir.join("keyring");
    remove(&root)?;
    unpack_all(&found, &root)?;
    let folder = root.join("usr/share/keyrings");
    let names = ["debian-archive-keyring.pgp", "debian-archive-keyring.gpg"];
    names
        .map(|name| folder.join(name))
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("{KEYRING_PACKAGE} holds no keyring"))
}

fn fetch_kernel(dir: &VmDir, apt: &Apt, packages: &mut Vec<Package>) -> Result<(Kernel, PathBuf)> {
    // The meta package depends on the image of the newest version.
    let depends = apt.field(RELEASE, KERNEL_PACKAGE, "Depends")?;
    let image = depends
        .split([',', ' '])
        .find(|word| word.starts_with("linux-image-"))
        .with_context(|| format!("{KERNEL_PACKAGE} depends on no kernel: {depends:?}"))?;
    let release = image.trim_start_matches("linux-image-").to_owned();
    let bar = Step::begin(&format!("kernel {release}"));
    let wanted = [image.to_owned(), format!("{BUSYBOX_PACKAGE}/{RELEASE}")];
    let archives = dir.join("archives/kernel");
    let found = apt.download(&wanted, &archives, &|percent| bar.at(percent))?;
    bar.end();
    record(&found, packages)?;
    let root = dir.join("kernel");
    replace(&found, &root)?;
    let relative = Path::new("kernel");
    let kernel = Kernel {
        image: relative.join(format!("boot/vmlinuz-{release}")),
        modules: relative.join(format!("usr/lib/modules/{release}")),
        release,
    };
    for path in [&kernel.image, &kernel.modules] {
        ensure!(
            dir.join(path).exists(),
            "{image} holds no {}",
            path.display()
        );
    }
    Ok((kernel, relative.join("usr/bin/busybox")))
}

fn fetch_qemu(dir: &VmDir, apt: &Apt, packages: &mut Vec<Package>) -> Result<Qemu> {
    let bar = Step::begin("QEMU");
    let found = apt.download_closure(BACKPORTS, &[QEMU_PACKAGE], &|percent| bar.at(percent))?;
    bar.end();
    record(&found, packages)?;
    replace(&found, &dir.join("root"))?;
    qemu::examine(dir, QemuSource::Unpacked("root".into()))
}

fn record(archives: &[PathBuf], packages: &mut Vec<Package>) -> Result<()> {
    for archive in archives {
        let (name, version) = apt::identity(archive)?;
        packages.push(Package { name, version });
    }
    Ok(())
}

/// Puts the content of `archives` in the place of `root`, so that `root` is
/// never half unpacked.
fn replace(archives: &[PathBuf], root: &Path) -> Result<()> {
    let fresh = root.with_extension("new");
    remove(&fresh)?;
    unpack_all(archives, &fresh)?;
    remove(root)?;
    fs::rename(&fresh, root).with_context(|| format!("rename {}", fresh.display()))
}

fn unpack_all(archives: &[PathBuf], root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
    let bar = Step::begin(&format!("unpacking {} packages", archives.len()));
    for (at, archive) in archives.iter().enumerate() {
        apt::unpack(archive, root)?;
        bar.at((at + 1) as f64 * 100.0 / archives.len() as f64);
    }
    bar.end();
    Ok(())
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// One step of a fetch, as a bar on a terminal and as a line in a log.
pub(super) struct Step(ProgressBar);

impl Step {
    pub(super) fn begin(what: &str) -> Self {
        let bar = ProgressBar::new(100);
        if let Ok(style) = ProgressStyle::with_template("{msg:40!} {wide_bar} {percent:>3}%") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        if bar.is_hidden() {
            eprintln!("{what}");
        }
        Self(bar)
    }

    pub(super) fn at(&self, percent: f64) {
        self.0.set_position(percent.clamp(0.0, 100.0) as u64);
    }

    pub(super) fn end(&self) {
        self.0.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_of_ones_own_needs_a_module_folder() {
        let temp = tempfile::tempdir().unwrap();
        let image = temp.path().join("vmlinuz");
        fs::write(&image, "").unwrap();
        let modules = temp.path().join("6.12.0-test");
        fs::create_dir_all(&modules).unwrap();
        assert!(named_kernel(&image, &modules).is_err());
        fs::create_dir_all(modules.join("kernel")).unwrap();
        assert_eq!(
            named_kernel(&image, &modules).unwrap().release,
            "6.12.0-test"
        );
        assert!(named_kernel(&temp.path().join("gone"), &modules).is_err());
    }

    #[test]
    fn what_is_recorded_is_returned_without_fetching() {
        let temp = tempfile::tempdir().unwrap();
        let dir = VmDir::at(temp.path()).unwrap();
        let program = temp.path().join("qemu");
        fs::write(&program, "").unwrap();
        let installation = Installation {
            qemu: Qemu {
                source: QemuSource::Installed(program.clone()),
                version: "11.1.3".into(),
                exit_with_parent: false,
            },
            kernel: Kernel {
                image: program.clone(),
                modules: temp.path().into(),
                release: "6.12".into(),
            },
            busybox: None,
            packages: Vec::new(),
        };
        dir.record(&installation).unwrap();
        // A mirror that does not exist would fail, were it asked.
        let args = FetchArgs {
            mirror: Some("http://[::1]:1/none".into()),
            ..FetchArgs::default()
        };
        assert_eq!(ensure_fetched(&dir, &args).unwrap(), installation);
    }
}
