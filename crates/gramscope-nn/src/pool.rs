//! The threads that operations on the CPU share.

/// Runs `work` on one of the threads that its operations share. From a thread outside, each of a pass's operations would wake one of
/// them and sleep until it wakes it in turn.
pub fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
