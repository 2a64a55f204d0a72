//! A function whose I/O MMU translates some addresses only, as the kernel tells of a real one.

use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use iommu::container::{Container, ContainerError, ContainerOptions};
use iommu::function::{DmaAccess, Function, FunctionError, Interposer};

use crate::device::Connection;

/// Another function, of which only `ranges` can be mapped.
struct Narrow {
    inner: Arc<dyn Function>,
    ranges: Vec<RangeInclusive<u64>>,
}

impl Interposer for Narrow {
    fn inner(&self) -> &dyn Function {
        &*self.inner
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.ranges.clone()
    }

    fn dma_map(
        &self,
        iova: u64,
        size: u64,
        access: DmaAccess,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), FunctionError> {
        let inside = |range: &RangeInclusive<u64>| {
            range.contains(&iova) && range.contains(&(iova + (size - 1)))
        };
        assert!(self.ranges.iter().any(inside), "{iova:#x} is out of reach");
        self.inner.dma_map(iova, size, access, file)
    }
}

#[test]
fn addresses_are_given_out_where_every_function_reaches() {
    let (wide, narrow) = (Connection::in_process(), Connection::in_process());
    let container = Container::new(ContainerOptions::default());
    container.attach(wide.function().clone()).expect("attach");
    let early = container.alloc(0x1000).expect("alloc").share();
    let early = early.expect("share");
    let ranges = vec![0..=0x1F_FFFF, 0x40_0000..=0x40_2FFF, 0x80_0000..=0xFF_FFFF];
    let limited = |ranges: &[RangeInclusive<u64>]| -> Arc<dyn Function> {
        Arc::new(Narrow {
            inner: narrow.function().clone(),
            ranges: ranges.to_vec(),
        })
    };
    // What is there already lies below all but the first.
    match container.attach(limited(&ranges[1..])) {
        Err(ContainerError::OutOfReach { iova, .. }) => assert_eq!(iova, early.iova()),
        other => panic!("{other:?}"),
    }
    assert_eq!(narrow.device.space.usage().windows, 0);
    container.attach(limited(&ranges)).expect("attach");
    let shared: Vec<_> = [0xF_0000, 0x1_0000, 0x2000, 0x2000]
        .into_iter()
        .map(|size| {
            container
                .alloc(size)
                .expect("alloc")
                .share()
                .expect("share")
        })
        .collect();
    let inside = |iova| ranges.iter().any(|range| range.contains(&iova));
    assert!(shared.iter().all(|buffer| inside(buffer.iova())));
    assert!(shared.iter().any(|buffer| buffer.iova() >= 0x80_0000));
    assert_eq!(narrow.device.space.usage().windows, 5);
    let error = container.alloc(0x80_0000).expect("alloc").share().err();
    assert!(matches!(error, Some(ContainerError::Iova(_))), "{error:?}");
}
