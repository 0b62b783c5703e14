//! Contexts: each device has one, its primary one, which is there for as long as somebody retains it, and which is the current one of
//! the threads that have made it so, each for itself.
//!
//! A kernel that fails breaks the context for good. As kernels run some time after they are launched, it is the next call that says
//! so, and every one after it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::machine::machine;
use crate::status::{
    Answer, CONTEXT_IS_DESTROYED, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, NOT_INITIALIZED,
};
use crate::stream;
use crate::table::Table;

/// A context's handle.
pub(crate) type Context = usize;

/// What is known of a context.
#[derive(Default)]
struct State {
    /// What a failed kernel has left.
    broken: Option<c_int>,
}

/// A device's context, and how often it has been retained.
struct Primary {
    context: Context,
    retained: usize,
}

static STARTED: AtomicBool = AtomicBool::new(false);
static CONTEXTS: Table<State> = Table::new();
static PRIMARIES: Mutex<BTreeMap<c_int, Primary>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// This thread's context, 0 where it has none.
    static CURRENT: Cell<Context> = const { Cell::new(0) };
}

fn primaries() -> MutexGuard<'static, BTreeMap<c_int, Primary>> {
    PRIMARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the driver.
pub(crate) fn start(flags: u32) -> Answer {
    match (flags, machine().devices) {
        (0, 0) => Err(NO_DEVICE),
        (0, _) => {
            STARTED.store(true, Ordering::Relaxed);
            Ok(())
        }
        _ => Err(INVALID_VALUE),
    }
}

/// The driver has been started.
pub(crate) fn started() -> Answer {
    if STARTED.load(Ordering::Relaxed) { Ok(()) } else { Err(NOT_INITIALIZED) }
}

/// There is such a device.
pub(crate) fn device(number: c_int) -> Answer {
    started()?;
    if (0..machine().devices).contains(&number) { Ok(()) } else { Err(INVALID_DEVICE) }
}

/// The context of a device, from now on retained once more.
pub(crate) fn retain(number: c_int) -> Answer<Context> {
    device(number)?;
    let mut primaries = primaries();
    let new = || Primary { context: CONTEXTS.add(State::default()), retained: 0 };
    let primary = primaries.entry(number).or_insert_with(new);
    primary.retained += 1;
    Ok(primary.context)
}

/// Retained once less; the last time the context goes, with all that belongs to it, once its streams have done what they were told.
pub(crate) fn release(number: c_int) -> Answer {
    device(number)?;
    let mut primaries = primaries();
    let primary = primaries.get_mut(&number).ok_or(INVALID_CONTEXT)?;
    primary.retained -= 1;
    if primary.retained == 0 {
        let context = primary.context;
        primaries.remove(&number);
        drop(primaries);
        stream::synchronise_all(context);
        CONTEXTS.remove(context)?;
    }
    Ok(())
}

/// Makes a context, or none (0), this thread's.
pub(crate) fn set_current(context: Context) -> Answer {
    started()?;
    if context != 0 {
        CONTEXTS.with(context, |_| ()).map_err(|_| INVALID_CONTEXT)?;
    }
    CURRENT.set(context);
    Ok(())
}

/// This thread's context, which need not be there any longer; 0 where it has none.
pub(crate) fn current() -> Answer<Context> {
    started()?;
    Ok(CURRENT.get())
}

/// This thread's context, where it can be used.
pub(crate) fn here() -> Answer<Context> {
    match current()? {
        0 => Err(INVALID_CONTEXT),
        context => usable(context).map(|()| context),
    }
}

/// A context is there, and no kernel has failed in it.
pub(crate) fn usable(context: Context) -> Answer {
    started()?;
    CONTEXTS.with(context, |state| state.broken).map_err(|_| CONTEXT_IS_DESTROYED)?.map_or(Ok(()), Err)
}

/// From now on whatever is done in a context fails with `status`, unless it does already.
pub(crate) fn break_with(context: Context, status: c_int) {
    // A context that is gone has nothing left to break.
    let _ = CONTEXTS.with(context, |state| *state.broken.get_or_insert(status));
}
