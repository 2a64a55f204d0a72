//! Ranges, permissions, the MSI window, quotas.

use nix::errno::Errno;
use vfio_user::device::DmaAccess;

use super::*;
use crate::address_space::{CopyFault, Usage, copy};

#[test]
fn an_access_may_cross_windows_that_adjoin_but_not_a_gap() {
    let (one, two) = (sealed(0x2000), sealed(0x1000));
    let space = space();
    space
        .map(over(&one, 0x1_0000, 0x1000, 0x1000))
        .expect("map");
    space.map(over(&two, 0x1_1000, 0x1000, 0)).expect("map");
    space.map(over(&one, 0x1_3000, 0x1000, 0)).expect("map");

    space
        .write(0x1_0FFC, b"crossing")
        .expect("adjoining windows");
    let mut halves = [0; 8];
    one.read(0x1FFC, &mut halves[..4]);
    two.read(0, &mut halves[4..]);
    assert_eq!(&halves, b"crossing");
    let mut back = [0; 8];
    space.read(0x1_0FFC, &mut back).expect("adjoining windows");
    assert_eq!(&back, b"crossing");

    assert_eq!(cause(&space, 0x1_1FFF, 1), None);
    assert_eq!(cause(&space, 0x1_1FFF, 2), Some(FaultCause::Edge));
    assert_eq!(cause(&space, 0x1_1FFF, 0x2000), Some(FaultCause::Edge));
    assert_eq!(cause(&space, 0x1_2FFF, 2), Some(FaultCause::NoWindow));
    assert_eq!(cause(&space, 0xFFFF, 2), Some(FaultCause::NoWindow));
    // Nothing moves of an access that faults.
    two.zero();
    space
        .write(0x1_1FFF, &[0xAA; 2])
        .expect_err("over the edge");
    assert_eq!(two.load_u16(0xFFE, std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn a_copy_crosses_windows_on_both_sides() {
    let (from, to) = (sealed(0x1_0000), sealed(0x1_0000));
    let (source, target) = (space(), space());
    // The same bytes, cut into windows of different sizes.
    for at in (0..0x1_0000).step_by(0x1000) {
        source
            .map(over(&from, 0x10_0000 + at, 0x1000, at))
            .expect("map");
    }
    for at in (0..0x1_0000).step_by(0x800) {
        target
            .map(over(&to, 0x20_0000 + at, 0x800, at))
            .expect("map");
    }
    let pattern: Vec<u8> = (0..0x1_0000_u32).map(|n| (n * 7 + n / 251) as u8).collect();
    from.write(0, &pattern);
    let (from_guard, to_guard) = (source.enter(), target.enter());
    copy(&from_guard, 0x10_0123, &to_guard, 0x20_0456, 0xF000).expect("copy");
    let mut copied = vec![0; 0xF000];
    to.read(0x456, &mut copied);
    assert_eq!(copied, pattern[0x123..0xF123]);
    // Within one space, through one guard.
    copy(&to_guard, 0x20_0456, &to_guard, 0x20_0000, 0x400).expect("copy");
    to.read(0, &mut copied[..0x400]);
    assert_eq!(copied[..0x400], pattern[0x123..0x523]);

    let fault = copy(&from_guard, 0x11_0000, &to_guard, 0x20_0000, 1).expect_err("no source");
    assert!(matches!(fault, CopyFault::Source(f) if f.cause == FaultCause::NoWindow));
    let fault = copy(&from_guard, 0x10_0000, &to_guard, 0x20_FFFF, 2).expect_err("no target");
    assert!(matches!(fault, CopyFault::Destination(f) if f.cause == FaultCause::Edge));
    assert_eq!(source.faults(FaultCause::NoWindow), 1);
    assert_eq!(target.faults(FaultCause::Edge), 1);
}

#[test]
fn addresses_do_not_wrap_around() {
    let memory = sealed(0x2000);
    let space = space();
    // The last window there can be ends at the top.
    space
        .map(over(&memory, 0xFFFF_FFFF_FFFF_F000, 0x1000, 0))
        .expect("top of the space");
    space
        .map(over(&memory, 0, 0x1000, 0x1000))
        .expect("bottom of the space");
    assert_eq!(cause(&space, 0xFFFF_FFFF_FFFF_FFFF, 1), None);
    assert_eq!(
        cause(&space, 0xFFFF_FFFF_FFFF_FFFF, 2),
        Some(FaultCause::Edge)
    );
    assert_eq!(cause(&space, 0xFFFF_FFFF_FFFF_F000, 0x1000), None);
    assert_eq!(
        cause(&space, 0xFFFF_FFFF_FFFF_F000, 0x1001),
        Some(FaultCause::Edge)
    );
    for size in [0x1001, u64::MAX] {
        let refused = space.map(window(0xFFFF_FFFF_FFFF_F000, size, RW, None));
        assert_eq!(refused, Err(Errno::EINVAL));
    }
    assert_eq!(space.map(window(0x5000, 0, RW, None)), Err(Errno::EINVAL));
    assert_eq!(space.unmap(0x5000, 0), Err(Errno::EINVAL));
    assert_eq!(space.unmap(0x5000, u64::MAX), Err(Errno::EINVAL), "wraps");
    space.unmap(0xFFFF_FFFF_FFFF_F000, 0x1000).expect("unmap");
}

#[test]
fn nothing_is_mapped_at_the_msi_window_and_no_access_goes_there() {
    let memory = sealed(0x2000);
    let space = space();
    for (iova, size) in [
        (0xFEE0_0000, 0x1000),
        (0xFEEF_F000, 0x1000),
        (0xFEDF_F000, 0x1001),
        (0xFEEF_FFFF, 1),
        (0, 1 << 40),
    ] {
        assert_eq!(
            space.map(window(iova, size, RW, None)),
            Err(Errno::EINVAL),
            "{iova:#x}"
        );
    }
    space
        .map(over(&memory, 0xFEDF_F000, 0x1000, 0))
        .expect("right below");
    space
        .map(over(&memory, 0xFEF0_0000, 0x1000, 0))
        .expect("right above");
    assert_eq!(cause(&space, 0xFEE0_0000, 4), Some(FaultCause::Msi));
    assert_eq!(cause(&space, 0xFEEF_FFFC, 4), Some(FaultCause::Msi));
    assert_eq!(cause(&space, 0xFEDF_FFFE, 4), Some(FaultCause::Msi));
    assert_eq!(cause(&space, 0xFEEF_FFFE, 4), Some(FaultCause::Msi));
    assert_eq!(cause(&space, 0xFEDF_FFFC, 4), None);
    assert_eq!(cause(&space, 0xFEF0_0000, 4), None);
    assert_eq!(space.faults(FaultCause::Msi), 8);
}

#[test]
fn windows_permit_what_they_say() {
    let memory = sealed(0x3000);
    let space = space();
    let file = || Some((duplicate(&memory), 0));
    space
        .map(window(0x1000, 0x1000, DmaAccess::READ, file()))
        .expect("map");
    space
        .map(window(0x2000, 0x1000, DmaAccess::WRITE, file()))
        .expect("map");
    assert_eq!(
        space.map(window(0x9000, 0x1000, DmaAccess::empty(), file())),
        Err(Errno::EINVAL)
    );

    space.read(0x1000, &mut [0; 4]).expect("readable");
    space.write(0x2000, &[0; 4]).expect("writable");
    let causes = [
        space.write(0x1000, &[0; 4]).expect_err("read-only").cause,
        space
            .store_u64_release(0x1000, 0)
            .expect_err("read-only")
            .cause,
        space
            .read(0x2000, &mut [0; 4])
            .expect_err("write-only")
            .cause,
        space
            .read(0x1FFE, &mut [0; 4])
            .expect_err("half of it")
            .cause,
        space.write(0x1FFE, &[0; 4]).expect_err("half of it").cause,
    ];
    assert_eq!(causes, [FaultCause::Permission; 5]);
    // The same file in two modes is two mappings.
    assert_eq!(
        space.usage(),
        Usage {
            windows: 2,
            files: 2,
            bytes: 0x6000
        }
    );
}

#[test]
fn without_bus_mastering_every_access_faults() {
    let memory = sealed(0x1000);
    let space = AddressSpace::new(REQUESTER, Quota::default());
    space.map(over(&memory, 0x1000, 0x1000, 0)).expect("map");
    assert_eq!(cause(&space, 0x1000, 4), Some(FaultCause::BusMasterOff));
    let fault = space.store_u64_release(0x1000, 1).expect_err("off");
    assert_eq!(fault.cause, FaultCause::BusMasterOff);
    space.set_bus_master(true);
    assert_eq!(cause(&space, 0x1000, 4), None);
    space.set_bus_master(false);
    assert_eq!(cause(&space, 0x1000, 4), Some(FaultCause::BusMasterOff));
    assert_eq!(space.faults(FaultCause::BusMasterOff), 5);
    assert_eq!(cause(&space, 0x1000, 0), None);
}

#[test]
fn a_range_closes_every_window_inside_it_and_none_beside() {
    let memory = sealed(0x8000);
    let space = space();
    for page in [1, 2, 3, 6, 7] {
        let iova = page * 0x1000;
        let file = (page != 3).then(|| (duplicate(&memory), iova));
        space.map(window(iova, 0x1000, RW, file)).expect("map");
    }
    assert_eq!(space.unmap(0x1800, 0x8000), Err(Errno::EINVAL), "cuts one");
    assert_eq!(space.usage().windows, 5, "nothing is closed by half");
    // Files and messages alike.
    space.unmap(0x2000, 0x5000).expect("three of them");
    assert_eq!(space.usage().windows, 2);
    for gone in [0x2000, 0x3000, 0x6000] {
        assert_eq!(cause(&space, gone, 1), Some(FaultCause::NoWindow));
    }
    assert_eq!(cause(&space, 0x1000, 1), None);
    space.unmap(0, 1 << 48).expect("the rest");
    assert_eq!(space.usage(), Usage::default());
    space.unmap(0, 1 << 48).expect("none is left");
}

#[test]
fn windows_of_a_guest_with_an_iommu_cost_no_mapping_each() {
    // As a guest's kernel gives them: pages, from the top down, all in one memory.
    let memory = sealed(0x10_0000);
    let most = 1 << 14;
    let space = space_with(Quota {
        windows: most as usize,
        ..Quota::default()
    });
    for n in 0..most {
        let iova = 0xFEE0_0000 - (n + 1) * 0x1000;
        let offset = n % 0x100 * 0x1000;
        space.map(over(&memory, iova, 0x1000, offset)).expect("map");
    }
    let used = Usage {
        windows: most as usize,
        files: 1,
        bytes: 0x10_0000,
    };
    assert_eq!(space.usage(), used);
    assert_eq!(
        space.map(over(&memory, 0x1000, 0x1000, 0)),
        Err(Errno::ENOSPC)
    );
    assert_eq!(cause(&space, 0xFEDF_F000, 0x1000), None);
    space.unmap(0, 1 << 39).expect("all at once");
    assert_eq!(space.usage(), Usage::default());
}

#[test]
fn windows_do_not_overlap_and_go_as_they_came() {
    let memory = sealed(0x4000);
    let space = space();
    space.map(over(&memory, 0x4000, 0x2000, 0)).expect("map");
    for (iova, size) in [
        (0x4000, 0x2000),
        (0x3000, 0x1001),
        (0x5FFF, 1),
        (0x4800, 0x100),
        (0x3000, 0x4000),
    ] {
        let refused = space.map(over(&memory, iova, size, 0));
        assert_eq!(refused, Err(Errno::EEXIST), "{iova:#x}");
    }
    for (iova, size) in [
        (0x4000, 0x1000),
        (0x5000, 0x1000),
        (0x4800, 0x100),
        (0x3000, 0x1001),
        (0x5FFF, 0x1000),
    ] {
        assert_eq!(space.unmap(iova, size), Err(Errno::EINVAL), "{iova:#x}");
    }
    for (iova, size) in [(0x3000, 0x1000), (0x6000, 0x1000), (0, 0x4000)] {
        assert_eq!(space.unmap(iova, size), Ok(()), "{iova:#x}");
        assert_eq!(space.usage().windows, 1, "one that only adjoins stays");
    }
    space.unmap(0x4000, 0x2000).expect("exactly");
    assert_eq!(cause(&space, 0x4000, 1), Some(FaultCause::NoWindow));
    assert_eq!(space.usage(), Usage::default());
}

#[test]
fn a_client_takes_no_more_than_its_quota() {
    let space = space_with(Quota {
        windows: 3,
        files: 2,
        bytes: 0x3000,
    });
    let (one, two, three, large) = (
        sealed(0x1000),
        sealed(0x1000),
        sealed(0x1000),
        sealed(0x3000),
    );
    space.map(over(&one, 0x1000, 0x1000, 0)).expect("first");
    assert_eq!(
        space.map(over(&large, 0x2000, 0x1000, 0)),
        Err(Errno::ENOSPC),
        "bytes"
    );
    space
        .map(over(&two, 0x2000, 0x800, 0))
        .expect("second file");
    assert_eq!(
        space.map(over(&three, 0x3000, 0x1000, 0)),
        Err(Errno::ENOSPC),
        "files"
    );
    space
        .map(over(&two, 0x2800, 0x800, 0x800))
        .expect("third window");
    assert_eq!(
        space.map(window(0x9000, 0x1000, RW, None)),
        Err(Errno::ENOSPC),
        "windows"
    );
    assert_eq!(
        space.usage(),
        Usage {
            windows: 3,
            files: 2,
            bytes: 0x2000
        }
    );

    // What is given back can be had again.
    space.unmap(0x2800, 0x800).expect("unmap");
    assert_eq!(
        space.map(over(&three, 0x3000, 0x1000, 0)),
        Err(Errno::ENOSPC),
        "still in use"
    );
    space.unmap(0x2000, 0x800).expect("unmap");
    space
        .map(over(&three, 0x3000, 0x1000, 0))
        .expect("a file again");
    space.unmap_all();
    space
        .map(over(&large, 0x2000, 0x1000, 0))
        .expect("all bytes again");
    // One client's use is not another's.
    let other = space_with(Quota {
        windows: 1,
        files: 1,
        bytes: 0x3000,
    });
    other
        .map(over(&large, 0x2000, 0x1000, 0))
        .expect("own quota");
}
