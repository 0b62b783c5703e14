//! What the fuzz targets share: the parsers, and an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

pub mod parsers;

/// Bytes that a parser may have at once beside what its input declares.
const MOST: usize = 64 << 20;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which counts what it has given out.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `parser` on `bytes`.
///
/// # Panics
/// If it had more memory at once than it may, beside the bytes that it says it was right to take.
pub fn within_memory(parser: fn(&[u8]) -> u64, bytes: &[u8]) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let declared = parser(bytes) as usize;
    let peak = PEAK.load(Ordering::Relaxed) - before;
    assert!(peak <= MOST + declared, "{peak} bytes at once for {} bytes of input that declare {declared}", bytes.len());
}
