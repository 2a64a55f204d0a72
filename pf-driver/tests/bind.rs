//! `pf-driver bind` and `unbind` as programs, on a tree that stands for /sys.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

const PF: &str = "0000:01:00.0";

/// A tree with one function, which `driver` has. No kernel is behind it: nothing is bound there.
fn tree(driver: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let device = root.path().join("bus/pci/devices").join(PF);
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("driver_override"), "(null)\n").unwrap();
    symlink(
        format!("../../../../bus/pci/drivers/{driver}"),
        device.join("driver"),
    )
    .unwrap();
    symlink(
        "../../../../kernel/iommu_groups/9",
        device.join("iommu_group"),
    )
    .unwrap();
    root
}

fn pf_driver(root: &Path, command: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pf-driver"))
        .args([command, PF, "--json", "--sysfs"])
        .arg(root)
        .arg("--memory")
        .arg(root.join("memory"))
        .output()
        .unwrap()
}

#[test]
fn a_function_that_is_bound_is_described_in_json() {
    let root = tree("vfio-pci");
    let done = pf_driver(root.path(), "bind");
    assert!(done.status.success());
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(said["device"], format!("vfio:{PF}"));
    assert_eq!(said["node"], "/dev/vfio/9");
    assert_eq!(said["changed"], false);
}

#[test]
fn an_error_names_the_path_and_the_command_that_mends_it() {
    let root = tree("igb");
    let done = pf_driver(root.path(), "bind");
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stdout.is_empty());
    let said = String::from_utf8(done.stderr).unwrap();
    let path = root.path().join("bus/pci/drivers/vfio-pci");
    assert!(said.contains(path.to_str().unwrap()), "{said}");
    assert!(said.contains("as root: modprobe vfio-pci"), "{said}");
    let done = pf_driver(root.path(), "unbind");
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("bound to igb, not to vfio-pci"), "{said}");
}
