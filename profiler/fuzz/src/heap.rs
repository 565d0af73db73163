//! An allocator that ends the program when it holds too much. A limit on resident memory does not see what is reserved and
//! not touched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::abort;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most bytes that may be held at a time: decoding what one sample refers to needs a few times the largest thing that it
/// copies, 16 MiB.
const LIMIT: usize = 128 << 20;

struct Bounded;

static HELD: AtomicUsize = AtomicUsize::new(0);

impl Bounded {
    fn take(size: usize) {
        if HELD.fetch_add(size, Ordering::Relaxed).saturating_add(size) > LIMIT {
            // Nothing here may allocate; libFuzzer prints where it came from.
            abort();
        }
    }
}

// SAFETY: all is done by the system's allocator; what is added only counts.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::take(size);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;
