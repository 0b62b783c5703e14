//! What there is of a kind, by handle. A handle is never given out twice, to whatever kind: one that is used after its end, or for
//! something else, is known for wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::status::{Answer, INVALID_HANDLE};

/// The first handle: streams have names of the driver's below it.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

/// Things by their handles.
pub(crate) struct Table<T>(Mutex<BTreeMap<usize, T>>);

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<usize, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle of one more.
    pub(crate) fn add(&self, thing: T) -> usize {
        let handle = NEXT.fetch_add(1, Ordering::Relaxed);
        self.entries().insert(handle, thing);
        handle
    }

    /// Does `work` with the one of this handle.
    pub(crate) fn with<R>(&self, handle: usize, work: impl FnOnce(&mut T) -> R) -> Answer<R> {
        self.entries().get_mut(&handle).map(work).ok_or(INVALID_HANDLE)
    }

    /// Forgets the one of this handle.
    pub(crate) fn remove(&self, handle: usize) -> Answer<T> {
        self.entries().remove(&handle).ok_or(INVALID_HANDLE)
    }

    /// The handle of one that is as it is asked for.
    pub(crate) fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<usize> {
        self.entries().iter().find(|(_, thing)| is_it(thing)).map(|(handle, _)| *handle)
    }

    /// Does `work` with each.
    pub(crate) fn for_each(&self, work: impl FnMut(&mut T)) {
        self.entries().values_mut().for_each(work);
    }
}
