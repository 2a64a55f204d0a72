//! A sysfs tree for tests, with a kernel that binds drivers and makes VFs.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use super::sysfs::Sysfs;
use super::tree::Tree;

/// What the kernel of the tree is like.
#[derive(Clone)]
pub(super) struct Habits {
    /// What writing `sriov_numvfs` is answered with; `None` is that it is done.
    pub(super) sriov: Option<Errno>,
    /// What writing `driver_override` is answered with.
    pub(super) driver_override: Option<Errno>,
    /// VFs get a driver as they appear.
    pub(super) vfs_driver: Option<&'static str>,
    /// VFs appear at all.
    pub(super) vfs_appear: bool,
    /// A driver that fails on every device.
    pub(super) fails: Option<&'static str>,
    /// Held by who uses the VFs: until it is let go of, who takes them away waits.
    pub(super) user: Option<Arc<Mutex<()>>>,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            sriov: None,
            driver_override: None,
            vfs_driver: Some("vfio-pci"),
            vfs_appear: true,
            fails: None,
            user: None,
        }
    }
}

pub(super) struct MadeUp {
    pub(super) root: tempfile::TempDir,
    tree: Tree,
    habits: Arc<Mutex<Habits>>,
    writes: Arc<Mutex<Vec<(String, String)>>>,
}

fn set_link(link: &Path, target: Option<String>) {
    let _ = fs::remove_file(link);
    if let Some(target) = target {
        symlink(target, link).expect("a link");
    }
}

fn driver_target(driver: &str) -> String {
    format!("../../../../bus/pci/drivers/{driver}")
}

/// The driver that the kernel has for a device: the override's, else the one named in `modalias`,
/// which stands for the table of ids here.
fn probe(root: &Path, address: &str, habits: &Habits) {
    let device = root.join("bus/pci/devices").join(address);
    if device.join("driver").exists() {
        return;
    }
    let text = |name: &str| fs::read_to_string(device.join(name)).unwrap_or_default();
    let wanted = match text("driver_override").trim() {
        "" => text("modalias").trim().to_owned(),
        name => name.to_owned(),
    };
    let known = root.join("bus/pci/drivers").join(&wanted).is_dir() && !wanted.is_empty();
    if known && habits.fails != Some(&wanted) {
        set_link(&device.join("driver"), Some(driver_target(&wanted)));
    }
}

fn make_device(root: &Path, address: &str, driver: Option<&str>, group: Option<u32>) {
    let device = root.join("bus/pci/devices").join(address);
    fs::create_dir_all(&device).expect("a device");
    fs::write(device.join("driver_override"), "(null)\n").expect("an attribute");
    fs::write(device.join("modalias"), "").expect("an attribute");
    if let Some(driver) = driver {
        make_driver(root, driver);
        set_link(&device.join("driver"), Some(driver_target(driver)));
        if driver != "vfio-pci" {
            fs::write(device.join("modalias"), driver).expect("an attribute");
        }
    }
    if let Some(group) = group {
        let target = format!("../../../../kernel/iommu_groups/{group}");
        set_link(&device.join("iommu_group"), Some(target));
        let members = root.join(format!("kernel/iommu_groups/{group}/devices"));
        fs::create_dir_all(&members).expect("a group");
        set_link(
            &members.join(address),
            Some(device.to_str().expect("a path").into()),
        );
    }
}

fn make_driver(root: &Path, driver: &str) {
    let folder = root.join("bus/pci/drivers").join(driver);
    fs::create_dir_all(&folder).expect("a driver");
    for name in ["bind", "unbind"] {
        fs::write(folder.join(name), "").expect("an attribute");
    }
}

fn set_vfs(root: &Path, pf: &str, count: u16, habits: &Habits) -> io::Result<()> {
    if let Some(errno) = habits.sriov {
        return Err(errno.into());
    }
    let device = root.join("bus/pci/devices").join(pf);
    for vf in 0..64 {
        set_link(&device.join(format!("virtfn{vf}")), None);
    }
    if let Some(user) = habits.user.as_ref().filter(|_| count == 0) {
        drop(user.lock().expect("no holder panics"));
    }
    for vf in 0..count {
        if !habits.vfs_appear {
            break;
        }
        let address = format!("0000:01:10.{vf}");
        make_device(root, &address, habits.vfs_driver, Some(100 + u32::from(vf)));
        set_link(
            &device.join(format!("virtfn{vf}")),
            Some(format!("../{address}")),
        );
    }
    Ok(())
}

impl MadeUp {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let habits = Arc::new(Mutex::new(Habits::default()));
        let writes = Arc::new(Mutex::new(Vec::new()));
        fs::create_dir_all(root.path().join("bus/pci/drivers")).expect("a folder");
        fs::write(root.path().join("bus/pci/drivers_probe"), "").expect("an attribute");
        let (known, log) = (habits.clone(), writes.clone());
        let tree = Tree::with_kernel(root.path(), move |root, path, text| {
            let habits = known.lock().expect("no holder panics").clone();
            log.lock()
                .expect("no holder panics")
                .push((path.to_owned(), text.to_owned()));
            let text = text.trim();
            let parts: Vec<&str> = path.split('/').collect();
            match *parts.as_slice() {
                ["bus", "pci", "drivers_probe"] => probe(root, text, &habits),
                ["bus", "pci", "devices", _, "driver_override"] => {
                    if let Some(errno) = habits.driver_override {
                        return Err(errno.into());
                    }
                }
                ["bus", "pci", "devices", address, "driver", "unbind"] => {
                    let device = root.join("bus/pci/devices").join(address);
                    set_link(&device.join("driver"), None);
                }
                ["bus", "pci", "drivers", driver, "bind"] => {
                    let device = root.join("bus/pci/devices").join(text);
                    set_link(&device.join("driver"), Some(driver_target(driver)));
                }
                ["bus", "pci", "devices", pf, "sriov_numvfs"] => {
                    return set_vfs(root, pf, text.parse().expect("a number"), &habits);
                }
                _ => {}
            }
            Ok(())
        });
        Self {
            root,
            tree,
            habits,
            writes,
        }
    }

    pub(super) fn habits(&self, change: impl FnOnce(&mut Habits)) {
        change(&mut self.habits.lock().expect("no holder panics"));
    }

    /// What was written so far: path below the root, and text.
    pub(super) fn writes(&self) -> Vec<(String, String)> {
        self.writes.lock().expect("no holder panics").clone()
    }

    pub(super) fn device(&self, address: &str, driver: Option<&str>, group: Option<u32>) {
        make_device(self.root.path(), address, driver, group);
    }

    pub(super) fn driver(&self, name: &str) {
        make_driver(self.root.path(), name);
    }

    /// A function with VFs.
    pub(super) fn pf(&self, address: &str, driver: &str, total: u16) {
        self.device(address, Some(driver), Some(1));
        self.attribute(address, "sriov_totalvfs", &total.to_string());
        self.attribute(address, "sriov_numvfs", "0\n");
    }

    pub(super) fn attribute(&self, address: &str, name: &str, text: &str) {
        let device = self.root.path().join("bus/pci/devices").join(address);
        fs::write(device.join(name), text).expect("an attribute");
    }

    pub(super) fn tree(&self) -> Tree {
        self.tree.clone()
    }

    pub(super) fn sysfs(&self, address: &str) -> Sysfs {
        Sysfs::on(self.tree(), address.parse().expect("an address"))
    }
}
