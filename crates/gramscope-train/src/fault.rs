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
        static UNTIL_FAILURE: Cell<Option<usize>> = const { Cell::new(None) };
        static FAILED: Cell<bool> = const { Cell::new(false) };
    }

    pub(crate) fn point() -> io::Result<()> {
        UNTIL_FAILURE.with(|left| match left.get() {
            None => Ok(()),
            Some(0) => {
                FAILED.set(true);
                Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the made-up device"))
            }
            Some(points) => {
                left.set(Some(points - 1));
                Ok(())
            }
        })
    }

    /// Calls `action` while every point of this thread fails but the first `points`; whether one did.
    pub(crate) fn fail_from<T>(points: usize, action: impl FnOnce() -> T) -> (T, bool) {
        UNTIL_FAILURE.set(Some(points));
        let result = action();
        UNTIL_FAILURE.set(None);
        (result, FAILED.take())
    }
}
