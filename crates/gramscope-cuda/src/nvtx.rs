//! Named ranges for profilers (NVTX 3): what a timeline of Nsight Systems shows above the kernels that were launched meanwhile.

use std::ffi::{CString, c_char};
use std::marker::PhantomData;

unsafe extern "C" {
    fn gramscope_nvtx_push(name: *const c_char);
    fn gramscope_nvtx_pop();
}

/// A range of the thread's time, until it is dropped. Ranges of a thread lie one in the other.
#[derive(Debug)]
#[must_use = "a range ends when it is dropped"]
pub struct Range {
    /// It has to end on the thread that it began on.
    here: PhantomData<*const ()>,
}

/// Begins a range called `name`.
pub fn range(name: &str) -> Range {
    // A name of the user's may hold anything; a profiler's ends at the first zero.
    let name = CString::new(name.replace('\0', " ")).unwrap_or_default();
    // SAFETY: `name` ends with a zero and is there until the call returns, by when NVTX or the tool behind it has copied it.
    unsafe { gramscope_nvtx_push(name.as_ptr()) };
    Range { here: PhantomData }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: takes nothing; the range that it ends was begun on this thread, and those inside are over.
        unsafe { gramscope_nvtx_pop() };
    }
}
