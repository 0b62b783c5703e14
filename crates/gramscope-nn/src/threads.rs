//! The threads that operations on the CPU share.

/// Runs `work` on one of them. What is called from outside wakes one of them for every operation, and sleeps until the operation is done;
/// in here a pass's operations follow each other.
pub fn enter<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
