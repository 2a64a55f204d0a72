//! Giving a function to vfio-pci, and giving it back to whom it was taken from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::address::PciAddress;
use super::changes::Changes;
use super::error::{Holdout, KernelError};
use super::sysfs::Sysfs;
use super::tree::Tree;

/// The driver that hands functions to processes.
const VFIO_PCI: &str = "vfio-pci";
const PROBE: &str = "bus/pci/drivers_probe";
/// How long a driver may take to accept a function.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a function was not bound, or not given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The function is not there, or nothing translates its DMA.
    #[error(transparent)]
    Function(#[from] KernelError),
    /// The kernel has no vfio-pci.
    #[error("{path} is not there: the kernel has no vfio-pci; as root: modprobe vfio-pci", path = .0.display())]
    NoDriver(PathBuf),
    /// An attribute could not be written.
    #[error("{path} cannot be written ({source}); {mend}", path = .path.display())]
    Write {
        /// The attribute.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
        /// What to do.
        mend: String,
    },
    /// The kernel did what it was told, and the function has not the driver it should have.
    #[error(
        "{address} is bound to {}, not to {wanted}; `dmesg | tail` says why {wanted} did not take it",
        .driver.as_deref().unwrap_or("no driver")
    )]
    NotTaken {
        /// The function.
        address: PciAddress,
        /// The driver it should have.
        wanted: String,
        /// The driver it has.
        driver: Option<String>,
    },
    /// The function is not on vfio-pci, so there is nothing to undo.
    #[error(
        "{address} is bound to {}, not to vfio-pci: there is nothing to undo",
        .driver.as_deref().unwrap_or("no driver")
    )]
    NotBound {
        /// The function.
        address: PciAddress,
        /// The driver it has.
        driver: Option<String>,
    },
    /// Its VFs would go with it.
    #[error("{address} has {vfs} VFs, which would go with its driver; as root: echo 0 > {path}", path = .path.display())]
    HasVfs {
        /// The function.
        address: PciAddress,
        /// How many VFs are enabled.
        vfs: u16,
        /// Where their number is set.
        path: PathBuf,
    },
    /// What was before could not be kept.
    #[error("{path} cannot keep which driver {address} had ({source}); run this as root, or name another folder with --memory", path = .path.display())]
    Memory {
        /// The function.
        address: PciAddress,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A function that is on vfio-pci.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The function.
    pub address: PciAddress,
    /// The driver that had it, and will have it again.
    pub former: Option<String>,
    /// Its IOMMU group.
    pub group: u32,
    /// Those who keep the group from being opened.
    pub others: Vec<Holdout>,
    /// It was bound now, not before.
    pub changed: bool,
}

impl Bound {
    /// The file by which a process opens the group.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        PathBuf::from(format!("/dev/vfio/{}", self.group))
    }
}

/// A function that was given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbound {
    /// The function.
    pub address: PciAddress,
    /// The driver that has it now.
    pub driver: Option<String>,
}

/// What a function had before it was bound.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Former {
    driver: Option<String>,
    driver_override: Option<String>,
}

impl Former {
    fn text(&self) -> String {
        let word = |value: &Option<String>| value.clone().unwrap_or_default();
        format!(
            "driver {}\noverride {}\n",
            word(&self.driver),
            word(&self.driver_override)
        )
    }

    fn parse(text: &str) -> Self {
        let word = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let value = line.trim();
            // It becomes part of a path.
            let plain = !value.is_empty() && !value.contains('/') && !value.starts_with('.');
            plain.then(|| value.to_owned())
        };
        Self {
            driver: word("driver "),
            driver_override: word("override "),
        }
    }
}

/// Binds functions below one sysfs root, and remembers what they had in one folder.
#[derive(Debug, Clone)]
pub struct Binder {
    tree: Tree,
    memory: PathBuf,
}

impl Binder {
    /// Where what functions had before is kept until the next boot, which forgets bindings too.
    pub const MEMORY: &str = "/run/tandem/bound";

    /// For the sysfs at `root`, which is `/sys` but in tests.
    #[must_use]
    pub fn below(root: &Path, memory: &Path) -> Self {
        Self {
            tree: Tree::below(root),
            memory: memory.to_owned(),
        }
    }

    fn file(&self, address: PciAddress) -> PathBuf {
        self.memory.join(address.to_string())
    }

    /// Give a function to vfio-pci, and remember which driver it had. On failure it has that again.
    ///
    /// # Errors
    /// One for each thing that can be missing, with the command that mends it.
    pub fn bind(&self, address: PciAddress) -> Result<Bound, BindError> {
        let function = Sysfs::on(self.tree.clone(), address);
        if !function.is_there() {
            return Err(KernelError::NoDevice(address).into());
        }
        let group = function.iommu_group();
        let group = group.ok_or(KernelError::NoIommu(address))?;
        let changed = !function.is_on_vfio();
        let file = self.file(address);
        if changed {
            let driver = format!("bus/pci/drivers/{VFIO_PCI}");
            if !self.tree.exists(&driver) {
                return Err(BindError::NoDriver(self.tree.path(&driver)));
            }
            let former = former(&function);
            fs::create_dir_all(&self.memory)
                .and_then(|()| fs::write(&file, former.text()))
                .map_err(|source| BindError::Memory {
                    address,
                    path: file.clone(),
                    source,
                })?;
            if let Err(error) = take(&function) {
                if let Err(undo) = give(&function, &former) {
                    log::warn!("{undo}");
                }
                let _ = fs::remove_file(&file);
                return Err(error);
            }
        }
        let known = fs::read_to_string(&file).map(|text| Former::parse(&text));
        Ok(Bound {
            address,
            former: known.unwrap_or_default().driver,
            group,
            others: function.others(group),
            changed,
        })
    }

    /// Take a function from vfio-pci and give it to the driver it had.
    ///
    /// # Errors
    /// It is not on vfio-pci, has VFs, or its driver does not take it.
    pub fn unbind(&self, address: PciAddress) -> Result<Unbound, BindError> {
        let function = Sysfs::on(self.tree.clone(), address);
        if !function.is_there() {
            return Err(KernelError::NoDevice(address).into());
        }
        let file = self.file(address);
        if !function.is_on_vfio() {
            let _ = fs::remove_file(&file);
            let driver = function.driver();
            return Err(BindError::NotBound { address, driver });
        }
        let vfs = function.read("sriov_numvfs").ok();
        if let Some(vfs) = vfs.and_then(|text| text.parse().ok()).filter(|&n| n != 0) {
            return Err(BindError::HasVfs {
                address,
                vfs,
                path: function.path("sriov_numvfs"),
            });
        }
        match fs::read_to_string(&file) {
            Ok(text) => give(&function, &Former::parse(&text))?,
            // Bound by other means: the kernel finds the driver.
            Err(_) => give_to_anyone(&function)?,
        }
        let _ = fs::remove_file(&file);
        let driver = function.driver();
        Ok(Unbound { address, driver })
    }
}

fn former(function: &Sysfs) -> Former {
    let driver_override = function.read("driver_override").ok();
    Former {
        driver: function.driver(),
        driver_override: driver_override.filter(|name| !name.is_empty() && name != "(null)"),
    }
}

fn mend(source: &io::Error, path: &Path) -> String {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) => "run this as root".into(),
        Some(Errno::EROFS) => {
            "sysfs is mounted read-only; as root: mount -o remount,rw /sys".into()
        }
        Some(Errno::EBUSY) => "somebody uses the function; end that first".into(),
        Some(Errno::ENOENT) => format!("is {} part of this kernel?", path.display()),
        _ => "`dmesg | tail` says more".into(),
    }
}

fn written(result: io::Result<()>, path: PathBuf) -> Result<(), BindError> {
    result.map_err(|source| BindError::Write {
        mend: mend(&source, &path),
        path,
        source,
    })
}

fn set(function: &Sysfs, name: &str, text: &str) -> Result<(), BindError> {
    written(function.write(name, text), function.path(name))
}

/// Ends what a driver has with the function. That waits for who has it open.
fn release(function: &Sysfs) -> Result<(), BindError> {
    match function.driver() {
        Some(_) => set(function, "driver/unbind", &function.address.to_string()),
        None => Ok(()),
    }
}

fn offer(function: &Sysfs, attribute: &str) -> Result<(), BindError> {
    let text = function.address.to_string();
    let tree = &function.tree;
    written(tree.write(attribute, &text), tree.path(attribute))
}

/// Let vfio-pci have a function.
pub(super) fn take(function: &Sysfs) -> Result<(), BindError> {
    take_within(function, PATIENCE)
}

fn take_within(function: &Sysfs, patience: Duration) -> Result<(), BindError> {
    let changes = Changes::listen();
    set(function, "driver_override", VFIO_PCI)?;
    release(function)?;
    offer(function, PROBE)?;
    if changes.until(patience, || function.driver().is_some()) && function.is_on_vfio() {
        return Ok(());
    }
    Err(BindError::NotTaken {
        address: function.address,
        wanted: VFIO_PCI.into(),
        driver: function.driver(),
    })
}

/// Let the driver have a function that had it before.
fn give(function: &Sysfs, former: &Former) -> Result<(), BindError> {
    let name = former.driver_override.as_deref().unwrap_or("\n");
    set(function, "driver_override", name)?;
    if function.driver() != former.driver {
        release(function)?;
    }
    let Some(wanted) = &former.driver else {
        return Ok(());
    };
    if function.driver().is_none() {
        offer(function, PROBE)?;
    }
    if function.driver().as_ref() != Some(wanted) {
        // One that takes functions by name only.
        release(function)?;
        offer(function, &format!("bus/pci/drivers/{wanted}/bind"))?;
    }
    let driver = function.driver();
    if driver.as_ref() == Some(wanted) {
        return Ok(());
    }
    Err(BindError::NotTaken {
        address: function.address,
        wanted: wanted.clone(),
        driver,
    })
}

fn give_to_anyone(function: &Sysfs) -> Result<(), BindError> {
    set(function, "driver_override", "\n")?;
    release(function)?;
    offer(function, PROBE)
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    const PF: &str = "0000:01:00.0";

    fn address() -> PciAddress {
        PF.parse().expect("an address")
    }

    fn binder(made: &MadeUp) -> Binder {
        Binder {
            tree: made.tree(),
            memory: made.root.path().join("memory"),
        }
    }

    fn driver_override(made: &MadeUp) -> String {
        made.sysfs(PF).read("driver_override").expect("attribute")
    }

    #[test]
    fn a_function_goes_to_vfio_pci_and_back() {
        let made = MadeUp::new();
        made.device(PF, Some("igb"), Some(7));
        made.device("0000:01:00.1", Some("snd"), Some(7));
        made.driver("vfio-pci");
        let binder = binder(&made);
        let bound = binder.bind(address()).expect("bound");
        assert_eq!(bound.former.as_deref(), Some("igb"));
        assert!(bound.changed && bound.group == 7);
        assert_eq!(bound.node(), Path::new("/dev/vfio/7"));
        assert_eq!(bound.others.len(), 1, "who keeps the group is told");
        assert_eq!(made.sysfs(PF).driver().as_deref(), Some("vfio-pci"));
        // A second time changes nothing, and forgets nothing.
        let again = binder.bind(address()).expect("bound");
        assert!(!again.changed);
        assert_eq!(again.former.as_deref(), Some("igb"));

        let unbound = binder.unbind(address()).expect("given back");
        assert_eq!(unbound.driver.as_deref(), Some("igb"));
        assert_eq!(driver_override(&made), "");
        let error = binder.unbind(address()).expect_err("nothing to undo");
        assert!(error.to_string().contains("bound to igb"), "{error}");
    }

    #[test]
    fn what_had_no_driver_has_none_again_and_an_override_comes_back() {
        let made = MadeUp::new();
        made.device(PF, None, Some(7));
        made.driver("vfio-pci");
        made.driver("igb");
        // The kernel knows a driver for it, and somebody wanted none.
        made.attribute(PF, "modalias", "igb");
        made.attribute(PF, "driver_override", "none-at-all\n");
        let binder = binder(&made);
        assert_eq!(binder.bind(address()).expect("bound").former, None);
        assert_eq!(binder.unbind(address()).expect("given back").driver, None);
        assert_eq!(driver_override(&made), "none-at-all");
    }

    #[test]
    fn what_was_bound_by_hand_goes_to_the_driver_that_the_kernel_knows() {
        let made = MadeUp::new();
        made.device(PF, Some("vfio-pci"), Some(7));
        made.driver("igb");
        made.attribute(PF, "modalias", "igb");
        let unbound = binder(&made).unbind(address()).expect("given back");
        assert_eq!(unbound.driver.as_deref(), Some("igb"));
    }

    #[test]
    fn a_driver_that_takes_functions_by_name_gets_its_own_back() {
        let made = MadeUp::new();
        made.device(PF, Some("pci-stub"), Some(7));
        made.driver("vfio-pci");
        made.attribute(PF, "modalias", "");
        let binder = binder(&made);
        binder.bind(address()).expect("bound");
        let unbound = binder.unbind(address()).expect("given back");
        assert_eq!(unbound.driver.as_deref(), Some("pci-stub"));
    }

    #[test]
    fn what_is_missing_is_named_before_anything_is_changed() {
        let made = MadeUp::new();
        made.device(PF, Some("igb"), Some(7));
        made.device("0000:01:00.1", Some("igb"), None);
        let binder = binder(&made);
        let error = |address: &str| {
            let outcome = binder.bind(address.parse().expect("an address"));
            outcome.expect_err("nothing is bound").to_string()
        };
        let text = error(PF);
        assert!(text.contains("modprobe vfio-pci"), "{text}");
        assert!(text.contains("bus/pci/drivers/vfio-pci"), "{text}");
        made.driver("vfio-pci");
        let text = error("0000:01:00.1");
        assert!(text.contains("intel_iommu=on"), "{text}");
        let text = error("0000:02:00.0");
        assert!(text.contains("lspci -D"), "{text}");
        assert!(made.writes().is_empty());
        assert_eq!(made.sysfs(PF).driver().as_deref(), Some("igb"));
    }

    #[test]
    fn without_permission_the_path_and_what_mends_it_are_told() {
        let made = MadeUp::new();
        made.device(PF, Some("igb"), Some(7));
        made.driver("vfio-pci");
        made.habits(|habits| habits.driver_override = Some(Errno::EACCES));
        let error = binder(&made).bind(address()).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("0000:01:00.0/driver_override"), "{text}");
        assert!(text.contains("run this as root"), "{text}");
        assert_eq!(made.sysfs(PF).driver().as_deref(), Some("igb"));
    }

    #[test]
    fn a_function_that_vfio_pci_does_not_take_has_its_driver_again() {
        let made = MadeUp::new();
        made.device(PF, Some("igb"), Some(7));
        made.driver("vfio-pci");
        made.habits(|habits| habits.fails = Some("vfio-pci"));
        let function = made.sysfs(PF);
        let error = take_within(&function, Duration::from_millis(20)).expect_err("not taken");
        let text = error.to_string();
        assert!(
            text.contains("no driver") && text.contains("dmesg"),
            "{text}"
        );
        let former = Former {
            driver: Some("igb".into()),
            driver_override: None,
        };
        give(&function, &former).expect("given back");
        assert_eq!(function.driver().as_deref(), Some("igb"));
    }

    #[test]
    fn a_pf_with_vfs_is_not_taken_from_its_driver() {
        let made = MadeUp::new();
        made.pf(PF, "vfio-pci", 7);
        made.attribute(PF, "sriov_numvfs", "2\n");
        let text = binder(&made)
            .unbind(address())
            .expect_err("refused")
            .to_string();
        assert!(text.contains("has 2 VFs"), "{text}");
        assert!(
            text.contains("echo 0 > ") && text.contains("0000:01:00.0/sriov_numvfs"),
            "{text}"
        );
    }

    #[test]
    fn a_memory_that_was_tampered_with_names_no_path() {
        let former = Former {
            driver: Some("igb".into()),
            driver_override: None,
        };
        assert_eq!(Former::parse(&former.text()), former);
        assert_eq!(
            Former::parse("driver ../../x\noverride .\n"),
            Former::default()
        );
        assert_eq!(Former::parse(""), Former::default());
    }
}
