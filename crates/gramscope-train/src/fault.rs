//! Points at which tests make the disk fail: every write, flush and rename passes one.

/// Whether the disk does what comes next. Outside tests it is left to say so itself.
#[cfg(not(test))]
pub(crate) fn point() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use testing::{fail_from, point};

#[cfg(test)]
mod testing {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        /// Points that still pass, and what the disk says from then on.
        static UNTIL_FAILURE: Cell<Option<(usize, io::ErrorKind)>> = const { Cell::new(None) };
        static FAILED: Cell<bool> = const { Cell::new(false) };
    }

    pub(crate) fn point() -> io::Result<()> {
        UNTIL_FAILURE.with(|left| match left.get() {
            None => Ok(()),
            Some((0, failure)) => {
                FAILED.set(true);
                Err(failure.into())
            }
            Some((points, failure)) => {
                left.set(Some((points - 1, failure)));
                Ok(())
            }
        })
    }

    /// Calls `action` while every point of this thread fails with `failure` but the first `points`; whether one did.
    pub(crate) fn fail_from<T>(points: usize, failure: io::ErrorKind, action: impl FnOnce() -> T) -> (T, bool) {
        UNTIL_FAILURE.set(Some((points, failure)));
        let result = action();
        UNTIL_FAILURE.set(None);
        (result, FAILED.take())
    }
}
