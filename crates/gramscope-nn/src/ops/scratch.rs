//! A thread's buffers, kept from one operation to the next: allocators that give memory back to the system have it
//! zeroed page by page when it is asked for again.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

thread_local! {
    static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that goes back to the thread it is dropped on. It must be dropped on the thread that made it, or that
/// thread would make a new one each time.
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    /// `length` zeros.
    pub(super) fn zeros(length: usize) -> Self {
        let mut values = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        values.clear();
        // No more than is counted before anything is computed.
        values.reserve_exact(length);
        values.resize(length, 0.0);
        Self(values)
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // While a thread ends its spare buffers are already gone; then this one goes too.
        let _ = SPARE.try_with(|spare| spare.borrow_mut().push(std::mem::take(&mut self.0)));
    }
}
