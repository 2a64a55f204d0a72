//! A register access allocates nothing, on neither side.

mod recorder;

use counting::{Counting, allocations};
use recorder::connect;
use vfio_user::device::region;

#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering};

    static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

    /// The system's allocator, counted.
    pub(crate) struct Counting;

    // SAFETY: every call goes to the system's allocator unchanged.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
            // SAFETY: as the caller promised.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: as the caller promised.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    pub(crate) fn allocations() -> usize {
        ALLOCATIONS.load(Ordering::SeqCst)
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// The only test in this binary: the count is of the whole process.
#[test]
fn register_accesses_do_not_allocate() {
    let (_served, client) = connect();
    let mut word = [0; 4];
    let mut access = || {
        client.region_write(region::BAR0, 0x10, &word).unwrap();
        client.region_post(region::BAR0, 0x14, &word).unwrap();
        client.region_read(region::BAR0, 0x10, &mut word).unwrap();
    };
    // Buffers and the lazy parts of the standard library.
    for _ in 0..100 {
        access();
    }
    // Something else in the process may allocate once; an access that does shows in every round.
    let rounds = [(); 5].map(|()| {
        let before = allocations();
        for _ in 0..1000 {
            access();
        }
        allocations() - before
    });
    assert_eq!(rounds.iter().min(), Some(&0), "{rounds:?}");

    // The count works.
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations() - before, 1);
}
