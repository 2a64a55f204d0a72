//! Why the kernel gives no window, and what gets one.

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::function::FunctionError;

/// What is known when the kernel refuses a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// Bytes of the window.
    pub(super) size: u64,
    /// Windows there are.
    pub(super) windows: usize,
    /// Bytes in them.
    pub(super) mapped: u64,
    /// Windows that the kernel still gives, if it tells.
    pub(super) available: Option<u32>,
    /// Bytes that this process may lock.
    pub(super) lockable: u64,
}

/// The soft limit on locked memory.
pub(super) fn lockable() -> u64 {
    getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |limits| limits.0)
}

/// What the refusal of a window means, and what mends it. `EOVERFLOW` stands for a process that has no
/// room for another mapping of its own.
pub(super) fn refusal(errno: Errno, situation: Situation) -> FunctionError {
    let operation = "DMA_MAP";
    let mend = match errno {
        Errno::ENOMEM => memlock(situation),
        Errno::ENOSPC => entries(situation),
        Errno::EOVERFLOW => format!(
            "the {} bytes are mapped for a moment while the window is opened, and this process has \
             no room for that; as root, if it has too many mappings: sysctl vm.max_map_count=NUMBER; \
             if it has too little address space: ulimit -v unlimited",
            situation.size
        ),
        errno => return FunctionError::Refused { operation, errno },
    };
    FunctionError::Limit {
        operation,
        errno,
        mend,
    }
}

/// Locked memory ran out.
fn memlock(situation: Situation) -> String {
    let Situation {
        size,
        mapped,
        lockable,
        ..
    } = situation;
    if lockable == RLIM_INFINITY {
        return format!("the system has no {size} bytes of memory to lock");
    }
    let needed = mapped.saturating_add(size);
    let pid = std::process::id();
    format!(
        "memory of a device is locked, and this process may lock {lockable} bytes \
         (RLIMIT_MEMLOCK); {needed} are needed, of which it has {mapped}. Start it with a higher \
         limit (ulimit -l unlimited; LimitMEMLOCK=infinity of a service), or as root: \
         prlimit --pid {pid} --memlock=unlimited"
    )
}

/// Entries of the container ran out.
fn entries(situation: Situation) -> String {
    let Situation {
        windows, available, ..
    } = situation;
    let left = match available {
        Some(left) => format!("the kernel says that {left} more fit in"),
        None => "the kernel gives it no more".to_owned(),
    };
    format!(
        "the container has {windows} windows, and {left} (65535 in all unless configured); what is \
         mapped stays usable. Map fewer and larger buffers, or as root, before the function is \
         opened: echo NUMBER > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITUATION: Situation = Situation {
        size: 4096,
        windows: 65_535,
        mapped: 8 << 20,
        available: Some(0),
        lockable: 8 << 20,
    };

    #[test]
    fn a_limit_on_locked_memory_is_named_with_what_is_needed_and_what_raises_it() {
        let text = refusal(Errno::ENOMEM, SITUATION).to_string();
        for part in [
            "may lock 8388608 bytes",
            "8392704 are needed",
            "ulimit -l unlimited",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let pid = format!("prlimit --pid {} ", std::process::id());
        assert!(text.contains(&pid), "{text}");
        let boundless = Situation {
            lockable: RLIM_INFINITY,
            ..SITUATION
        };
        let text = refusal(Errno::ENOMEM, boundless).to_string();
        assert!(!text.contains("limit"), "{text}");
    }

    #[test]
    fn the_limit_on_windows_is_named_with_what_the_kernel_has_left() {
        let text = refusal(Errno::ENOSPC, SITUATION).to_string();
        for part in [
            "65535 windows",
            "0 more fit in",
            "stays usable",
            "vfio_iommu_type1/parameters/dma_entry_limit",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let silent = Situation {
            available: None,
            ..SITUATION
        };
        let text = refusal(Errno::ENOSPC, silent).to_string();
        assert!(text.contains("gives it no more"), "{text}");
    }

    #[test]
    fn a_process_without_room_for_a_mapping_is_told() {
        let text = refusal(Errno::EOVERFLOW, SITUATION).to_string();
        for part in ["4096 bytes", "sysctl vm.max_map_count=NUMBER", "ulimit -v"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn any_other_refusal_is_passed_on() {
        assert!(matches!(
            refusal(Errno::EEXIST, SITUATION),
            FunctionError::Refused {
                errno: Errno::EEXIST,
                ..
            }
        ));
    }
}
