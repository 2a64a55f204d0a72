//! VFs of a PF on vfio-pci: the kernel owns the capability, and makes devices of the VFs.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::bind;
use super::changes::Changes;
use super::sysfs::Sysfs;
use crate::function::FunctionError;

const ENABLING: &str = "enabling VFs";
const DISABLING: &str = "disabling VFs";

/// How long is waited for the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until it has done what it was told. It takes a VF only from who lets go of it.
    pub(super) done: Duration,
    /// Until all VFs are there.
    pub(super) there: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            done: Duration::from_secs(20),
            there: Duration::from_secs(5),
        }
    }
}

fn limit(operation: &'static str, errno: Errno, mend: String) -> FunctionError {
    FunctionError::Limit {
        operation,
        errno,
        mend,
    }
}

/// Have `num_vfs` VFs, each on vfio-pci, or none.
pub(super) fn configure(pf: &Sysfs, num_vfs: u16, patience: Patience) -> Result<(), FunctionError> {
    // Now: while the kernel waits for who uses a VF, the links to all of them are gone.
    let groups = groups(pf);
    let (done, outcome) = mpsc::sync_channel(1);
    let ours = pf.clone();
    // A thread of its own: the kernel makes whoever writes wait until the last VF is let go of, and
    // that may be never.
    let worker = thread::Builder::new().name("sriov".into()).spawn(move || {
        let outcome = set(&ours, num_vfs, patience);
        // Nobody listens any more if it took too long.
        let _ = done.send(outcome);
    });
    worker.map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw);
        FunctionError::Refused {
            operation: ENABLING,
            errno,
        }
    })?;
    match outcome.recv_timeout(patience.done + patience.there) {
        Ok(outcome) => outcome,
        Err(_) => Err(held(&groups)),
    }
}

/// The files by which VFs that are there are used.
fn groups(pf: &Sysfs) -> Vec<String> {
    (0..)
        .map_while(|number| pf.vf(number))
        .filter_map(|vf| vf.iommu_group())
        .map(|group| format!("/dev/vfio/{group}"))
        .collect()
}

/// Somebody does not let go of a VF.
fn held(groups: &[String]) -> FunctionError {
    let mend = format!(
        "a process keeps a VF although the kernel wants it back; `fuser {}` names it, and the kernel \
         goes on when it has ended",
        groups.join(" ")
    );
    limit(DISABLING, Errno::EBUSY, mend)
}

fn number(pf: &Sysfs, name: &str) -> Result<u16, FunctionError> {
    let text = pf.read(name).map_err(|_| FunctionError::NoSriov)?;
    text.parse().map_err(|_| FunctionError::NoSriov)
}

fn set(pf: &Sysfs, num_vfs: u16, patience: Patience) -> Result<(), FunctionError> {
    let total = number(pf, "sriov_totalvfs")?;
    if num_vfs > total {
        let wanted = num_vfs;
        return Err(FunctionError::TooManyVfs { wanted, total });
    }
    let enabled = number(pf, "sriov_numvfs")?;
    if enabled != 0 && num_vfs != 0 && enabled != num_vfs {
        return Err(FunctionError::VfsEnabled { enabled });
    }
    let changes = Changes::listen();
    if enabled != num_vfs {
        pf.write("sriov_numvfs", &num_vfs.to_string())
            .map_err(|error| refused(pf, num_vfs, &error))?;
    }
    if num_vfs == 0 {
        return Ok(());
    }
    let there = || (0..num_vfs).all(|vf| pf.vf(vf).is_some());
    if !changes.until(patience.there, there) {
        log::error!("{num_vfs} VFs are enabled and did not all appear on the bus");
        return Err(FunctionError::VfsNotEnabled { wanted: num_vfs });
    }
    for number in 0..num_vfs {
        let Some(vf) = pf.vf(number) else { continue };
        // The kernel does it by itself unless sriov_drivers_autoprobe is off.
        if !vf.is_on_vfio() {
            bind::take(&vf).map_err(|error| limit(ENABLING, Errno::ENODEV, error.to_string()))?;
        }
        match vf.iommu_group() {
            Some(group) => log::info!(
                "VF {number} is vfio:{} in IOMMU group {group}, for who may open /dev/vfio/{group}",
                vf.address
            ),
            None => log::warn!("VF {number} ({}) is in no IOMMU group", vf.address),
        }
    }
    Ok(())
}

/// Why the kernel did not do it, and what mends that.
fn refused(pf: &Sysfs, num_vfs: u16, error: &io::Error) -> FunctionError {
    let operation = if num_vfs == 0 { DISABLING } else { ENABLING };
    let path = pf.path("sriov_numvfs");
    let path = path.display();
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let mend = match errno {
        Errno::ENOENT => "vfio-pci enables no VFs; as root: \
             echo Y > /sys/module/vfio_pci/parameters/enable_sriov"
            .into(),
        Errno::EACCES | Errno::EPERM => {
            let user = nix::unistd::Uid::effective();
            format!("only root may write {path}; as root: chown {user} {path}")
        }
        Errno::EROFS => format!("{path} is read-only; as root: mount -o remount,rw /sys"),
        Errno::ENOMEM => {
            "the bridge above the PF has no room for the VFs' registers or bus numbers; \
             boot the kernel with pci=realloc,assign-busses"
                .into()
        }
        Errno::ENODEV => return FunctionError::Lost,
        errno => return FunctionError::Refused { operation, errno },
    };
    limit(operation, errno, mend)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::made_up::MadeUp;
    use super::*;

    const PF: &str = "0000:01:00.0";
    const SOON: Patience = Patience {
        done: Duration::from_secs(10),
        there: Duration::from_millis(30),
    };

    fn made() -> MadeUp {
        let made = MadeUp::new();
        made.pf(PF, "vfio-pci", 7);
        made
    }

    #[test]
    fn vfs_appear_on_vfio_pci_and_go() {
        let made = made();
        let pf = made.sysfs(PF);
        configure(&pf, 3, SOON).expect("enabled");
        assert!((0..3).all(|vf| pf.vf(vf).is_some_and(|vf| vf.is_on_vfio())));
        // As many as there are: nothing is written.
        let before = made.writes().len();
        configure(&pf, 3, SOON).expect("they are there");
        assert_eq!(made.writes().len(), before);
        assert!(matches!(
            configure(&pf, 2, SOON),
            Err(FunctionError::VfsEnabled { enabled: 3 })
        ));
        configure(&pf, 0, SOON).expect("disabled");
        assert!(pf.vf(0).is_none());
        assert!(matches!(
            configure(&pf, 8, SOON),
            Err(FunctionError::TooManyVfs {
                wanted: 8,
                total: 7
            })
        ));
    }

    #[test]
    fn a_vf_that_appears_with_another_driver_or_none_is_bound() {
        for driver in [None, Some("igbvf")] {
            let made = made();
            made.habits(|habits| habits.vfs_driver = driver);
            let pf = made.sysfs(PF);
            configure(&pf, 2, SOON).expect("enabled");
            assert!((0..2).all(|vf| pf.vf(vf).is_some_and(|vf| vf.is_on_vfio())));
        }
    }

    #[test]
    fn vfs_that_do_not_appear_are_not_waited_for_without_end() {
        let made = made();
        made.habits(|habits| habits.vfs_appear = false);
        assert!(matches!(
            configure(&made.sysfs(PF), 2, SOON),
            Err(FunctionError::VfsNotEnabled { wanted: 2 })
        ));
    }

    #[test]
    fn each_refusal_of_the_kernel_comes_with_what_mends_it() {
        let made = made();
        let pf = made.sysfs(PF);
        for (errno, mend) in [
            (
                Errno::ENOENT,
                "echo Y > /sys/module/vfio_pci/parameters/enable_sriov",
            ),
            (Errno::EACCES, "as root: chown"),
            (Errno::EROFS, "mount -o remount,rw /sys"),
            (Errno::ENOMEM, "pci=realloc"),
            (Errno::EBUSY, "enabling VFs refused: EBUSY"),
        ] {
            made.habits(|habits| habits.sriov = Some(errno));
            made.attribute(PF, "sriov_numvfs", "0");
            let text = configure(&pf, 1, SOON).expect_err("refused").to_string();
            assert!(text.contains(mend), "{text}");
        }
        made.habits(|habits| habits.sriov = Some(Errno::ENODEV));
        made.attribute(PF, "sriov_numvfs", "0");
        assert!(matches!(configure(&pf, 1, SOON), Err(FunctionError::Lost)));
        made.device("0000:02:00.0", Some("vfio-pci"), Some(2));
        assert!(matches!(
            configure(&made.sysfs("0000:02:00.0"), 1, SOON),
            Err(FunctionError::NoSriov)
        ));
    }

    #[test]
    fn who_keeps_a_vf_is_said_how_to_find() {
        let made = made();
        let pf = made.sysfs(PF);
        configure(&pf, 2, SOON).expect("enabled");
        let user = Arc::new(Mutex::new(()));
        let using = user.lock().expect("nobody else has it");
        made.habits(|habits| habits.user = Some(user.clone()));
        let short = Patience {
            done: Duration::from_millis(50),
            there: Duration::ZERO,
        };
        let refused = configure(&pf, 0, short).expect_err("somebody uses them");
        drop(using);
        let text = refused.to_string();
        assert!(text.contains("fuser /dev/vfio/100 /dev/vfio/101"), "{text}");
    }
}
